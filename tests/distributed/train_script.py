"""
Train a tiny model in float64 and save what came out.

    python train_script.py '{"method": "merlin", "output_dir": ...}'

The keys are the arguments of `train`; with `runs`, a list of such, there are several runs in the same processes.
`launch.py` starts it.
"""

import dataclasses
import json
import os
import sys

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import default_data_collator

from merlin_hf import get_method
from merlin_hf.transfer.distributed import end_training, gather_parameter
from tests.methods.support import SAME_LABELS, digits, source_rows, source_rows_of_same_labels, tiny_resnet
from tests.support import EVERY_STEP
from tests.tiny import (
    NUM_LABELS,
    pad_tagged,
    tagged_dataset,
    tiny_bert,
    tiny_dataset,
    tiny_sentence_encoder,
    tiny_texts,
    tiny_token_bert,
    tokenized,
)


class FailingCollator:
    """Collates until the process of this rank has made so many batches."""

    def __init__(self, rank, batches):
        self.rank = rank
        self.batches = batches

    def __call__(self, rows):
        self.batches -= int(os.environ.get("RANK", 0)) == self.rank
        if self.batches < 0:
            raise RuntimeError(f"the collator of rank {self.rank} fails")
        return default_data_collator(rows)


def disagreement(trainer):
    """
    How far parameters, and what is kept beside them, are from those of the first process, at most.

    But for the statistics of BatchNorm in Bi-Tuning's copy, which is in training mode and does not use them.
    """
    model = trainer.model if trainer.transfer_model is None else trainer.transfer_model
    tensors = dict(model.named_parameters())
    if getattr(model, "regularizer", None) is not None:
        kept = model.regularizer.extra_state()
        unused = "running_" if isinstance(trainer, get_method("bi_tuning")) else None
        tensors.update({f"kept.{n}": tensor for n, tensor in kept.items() if unused is None or unused not in n})
    worst = torch.zeros((), dtype=torch.float64)
    for _, tensor in sorted(tensors.items()):
        first = tensor.detach().clone()
        torch.distributed.broadcast(first, 0)
        worst = torch.maximum(worst, (first - tensor.detach()).abs().max().double())
    torch.distributed.all_reduce(worst, torch.distributed.ReduceOp.MAX)
    return worst.item()


def train(
    method="merlin",
    output_dir=None,
    rows=16,
    labels=None,
    sharded=None,
    dtype="float64",
    resume=None,
    dropout=0.0,
    fail=None,
    evaluate=True,
    images=False,
    source=True,
    several=False,
    sentences=None,
    tokens=False,
    **options,
):
    torch.use_deterministic_algorithms(True)
    dtype = getattr(torch, dtype)
    defaults = {
        "max_steps": 4, "learning_rate": 1e-3, "optim": "sgd", "max_grad_norm": 0.0, "num_splits": 2,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "use_cpu": True, "refit_l2": "meta", "per_device_eval_batch_size": 4, **EVERY_STEP,
    }  # fmt: skip
    if sharded == "deepspeed":
        defaults.update(
            use_cpu=False, ddp_backend="gloo"
        )  # accelerate takes `use_cpu` for a wish to have no DeepSpeed
    trainer_class = get_method(method)
    known = {option.name for option in dataclasses.fields(trainer_class.training_args_class)}
    defaults = {name: value for name, value in defaults.items() if name in known}
    args = trainer_class.training_args_class(output_dir, **{**defaults, **options})
    if sharded == "fsdp2" and args.world_size >= 1:
        # `accelerate` shards on accelerators only; told that these are some, it shards over gloo all the same.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    if images:
        model = tiny_resnet()
        target, held_out = digits([0, 1, 2], rows, dtype), digits([0, 1, 2], 13, dtype)
        source_dataset = digits([3, 4, 5, 6], 40, dtype)
        args.num_source_labels = 4
    elif sentences is not None:  # whether the target has pairs of texts; the source has the other kind
        model = tiny_sentence_encoder(dropout=dropout)
        target, held_out = (tokenized(model, tiny_texts(n, seed=n, pairs=sentences)) for n in (rows, 13))
        source_dataset = tokenized(model, tiny_texts(40, num_labels=4, seed=1, pairs=not sentences))
    else:
        model, target, held_out = tiny_bert(dropout=dropout), tiny_dataset(rows=rows), tiny_dataset(rows=13, seed=2)
        source_dataset = source_rows_of_same_labels() if method in SAME_LABELS else source_rows()
    if tokens:  # each rank has another number of them
        model, target, held_out = tiny_token_bert(dropout=dropout), tagged_dataset(rows), tagged_dataset(13, seed=2)
        source_dataset = tagged_dataset(rows=40, num_labels=5, seed=1, longest=14)
    if several:
        source_dataset = {"first": source_dataset, "second": tiny_dataset(rows=24, num_labels=2, seed=5)}
    if labels is not None:
        target = target.remove_columns("label").add_column("label", labels)
    collator = default_data_collator if fail is None else FailingCollator(**fail)
    if tokens:
        collator = pad_tagged
    if sentences is not None:
        collator = None  # the trainer's own
    trainer = trainer_class(
        model=model.to(dtype),
        args=args,
        train_dataset=target,
        eval_dataset=held_out,
        data_collator=collator,
        **({"source_dataset": source_dataset} if source and trainer_class.takes_source else {}),
    )
    assert (trainer.is_fsdp_enabled, trainer.is_deepspeed_enabled) == (sharded == "fsdp2", sharded == "deepspeed")
    if trainer.transfer_model is not None:
        trainer.transfer_model.to(dtype)
    trainer.train(resume_from_checkpoint=resume)
    metrics, predictions = {}, None
    if evaluate:
        metrics = trainer.evaluate()
        predictions = torch.tensor(trainer.predict(trainer.eval_dataset).predictions)
        assert (*predictions.shape[:1], *predictions.shape[-1:]) == (13, NUM_LABELS), predictions.shape
    trainer.save_model()
    if sharded == "deepspeed":
        trainer.deepspeed.empty_partition_cache()
    if trainer.transfer_model is None:
        parameters = trainer.model.named_parameters(prefix="model")
    else:
        parameters = trainer.transfer_model.named_parameters()
    weights = {name: gather_parameter(parameter).contiguous() for name, parameter in parameters}
    differ = disagreement(trainer) if args.world_size > 1 and sharded is None else 0.0
    if trainer.is_world_process_zero():
        history = [{k: v for k, v in e.items() if isinstance(v, float | int)} for e in trainer.state.log_history]
        result = {"weights": weights, "history": [e for e in history if "loss" in e], "metrics": metrics}
        mix = next(((e["mix_source"], e["mix_target"]) for e in history if "mix_loss" in e), None)
        result.update(predictions=predictions, disagreement=differ, mix=mix)
        torch.save({**result, "world_size": args.world_size}, f"{output_dir}/result.pt")
    return trainer


def main(runs=None, output_dir=None, **options):
    """Train once, or as often as `runs` has options, each with a `name` for its folder in `output_dir`."""
    for run in [{}] if runs is None else runs:
        folder = os.path.join(output_dir, run.pop("name")) if "name" in run else output_dir
        trainer = train(output_dir=folder, **{**options, **run})
    end_training(trainer.accelerator)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
