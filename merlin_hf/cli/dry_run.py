"""Say what `merlin-hf train` would do, without training anything."""

import math
import tempfile
from typing import Any

from ..comparison.dry_run import counted_classes
from ..comparison.progress import quiet
from ..data.labels import Labels
from ..scripts.program import Program
from .arguments import Request


def plan_training(request: Request) -> dict[str, Any] | None:
    """Do what training does before its first step; return what would run, `None` on other processes."""
    with quiet(), tempfile.TemporaryDirectory(prefix="merlin_hf-") as folder:
        model_args, data_args, args = request.arguments()
        output_dir, push = args.output_dir, args.push_to_hub
        args.output_dir, args.push_to_hub, args.report_to = folder, False, []
        program = request.build(model_args, data_args, args)
        plan: dict[str, Any] = {
            "method": request.method,
            "task": request.task,
            "model": model_args.model_name_or_path,
            "model_class": type(program.trainer.model).__name__,
            "target": _described(program.labels, program.trainer.train_dataset),
            "source": None,
            "sources": None,
            "shared_labels": program.shared_labels_line,
            "evaluation_rows": sum(len(rows) for rows in program.validation.values()) or None,
            "prediction_rows": sum(len(rows) for rows in program.test.values()) or None,
            "output_dir": output_dir,
            "resumes_from": resumes_from(program.trainer, output_dir) if args.do_train else None,
            "push_to_hub": push,
        }
        rows: Any = getattr(program.trainer, "source_dataset", None)
        if len(program.source_labels) > 1:
            plan["sources"] = {name: _described(labels, rows[name]) for name, labels in program.source_labels.items()}
        elif program.source_labels:
            plan["source"] = _described(program.source_labels[None], rows)
        if args.do_train:
            plan["training"] = _training(program)
    return plan if program.trainer.is_world_process_zero() else None


def resumes_from(trainer: Any, output_dir: str) -> str | None:
    """Return the checkpoint that training would go on from; a FileError says that it is of another run."""
    args, folder = trainer.args, trainer.args.output_dir
    if args.resume_from_checkpoint is not None or args.overwrite_output_dir:
        return args.resume_from_checkpoint
    args.output_dir = output_dir
    try:
        return trainer.checkpoints.to_continue()
    finally:
        args.output_dir = folder


def _described(labels: Labels, dataset: Any) -> dict[str, Any]:
    return {"rows": None if dataset is None else len(dataset), "classes": labels.names or None}


def _training(program: Program) -> dict[str, Any]:
    trainer, args = program.trainer, program.trainer.args
    accumulation = args.gradient_accumulation_steps
    batches = len(trainer.get_train_dataloader())
    steps_per_epoch = max(math.ceil(batches / accumulation), 1)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_per_epoch)
    takes_steps = bool(trainer.phases)  # a head that is fit in closed form takes none
    source_batch = None
    if getattr(trainer, "source_dataset", None) is not None:
        source_batch = args.per_device_source_batch_size or args.train_batch_size
    return {
        "steps": steps if takes_steps else 0,
        "trained_parameters": trainer.get_num_trainable_parameters() if takes_steps else 0,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "epochs": steps / steps_per_epoch if takes_steps else None,
        "target_batch": args.train_batch_size,
        "source_batch": source_batch,
        "source_mix": args.source_mix if len(program.source_labels) > 1 else None,
        "accumulation": accumulation,
        "processes": args.world_size,
        "device": str(args.device),
        "learning_rate": args.learning_rate,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else str(trainer.model.dtype).removeprefix("torch."),
    }


# For people


def text_of(plan: dict[str, Any]) -> str:
    """Return the plan in lines."""
    lines = [
        f"method   {plan['method']}, with {plan['model']} ({plan['model_class']})",
        f"target   {_counted(plan['target'])}",
    ]
    if plan["source"] is not None:
        lines.append(f"source   {_counted(plan['source'])}")
    lines += [f"source   {name}: {_counted(described)}" for name, described in (plan["sources"] or {}).items()]
    if plan["shared_labels"] is not None:
        lines.append(f"labels   {plan['shared_labels']}")
    for name, title in (("evaluation_rows", "evaluate"), ("prediction_rows", "predict ")):
        if plan[name] is not None:
            lines.append(f"{title} {plan[name]} rows")
    if "training" in plan:
        lines += _training_lines(plan["training"])
    lines.append(f"output   {plan['output_dir']}" + (", pushed to the Hub" if plan["push_to_hub"] else ""))
    if plan["resumes_from"]:
        lines.append(f"resumes  from {plan['resumes_from']}; to train from scratch, give another `output_dir`")
    return "\n".join([*lines, "", "Nothing was trained or written."]) + "\n"


def _counted(described: dict[str, Any]) -> str:
    rows = "" if described["rows"] is None else f"{described['rows']} rows, "
    return rows + counted_classes(described["classes"])


def _training_lines(training: dict[str, Any]) -> list[str]:
    batch = f"{training['target_batch']} target rows"
    if training["source_batch"] is not None:
        batch += f" and {training['source_batch']} source rows"
        batch += f" (source_mix {training['source_mix']})" if training["source_mix"] is not None else ""
    if training["accumulation"] > 1:
        batch += f", {training['accumulation']} times a step"
    if not training["steps"]:
        steps = "none by gradient: the head is fit in closed form"
    else:
        steps = f"{training['steps']} ({training['epochs']:.1f} epochs of the target)"
    return [
        f"steps    {steps}",
        f"batch    {batch}, on each of {training['processes']} process{'es' if training['processes'] > 1 else ''}",
        f"rate     {training['learning_rate']:g}, {training['precision']} on {training['device']}",
        f"trained  {training['trained_parameters']:,} of {training['parameters']:,} parameters of the model",
    ]
