"""
Trains a tiny model in float64 and saves what came out: `python train_script.py '{"method": "merlin", "output_dir": ...}'`.

The keys are the arguments of `train`; `launch.py` starts it.
"""

import json
import os
import sys

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import default_data_collator

from merlin_hf import MerlinTrainingArguments, get_method
from merlin_hf.transfer.distributed import end_training, whole
from tests.tiny import NUM_LABELS, tiny_bert, tiny_dataset


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
    **options,
):
    torch.use_deterministic_algorithms(True)
    dtype = getattr(torch, dtype)
    defaults = {
        "max_steps": 4, "learning_rate": 1e-3, "optim": "sgd", "max_grad_norm": 0.0, "num_splits": 2, "learn_head_l2": True,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True,
        "refit_l2": "meta", "per_device_eval_batch_size": 4,
    }  # fmt: skip
    if sharded == "deepspeed":
        defaults.update(
            use_cpu=False, ddp_backend="gloo"
        )  # accelerate takes `use_cpu` for a wish to have no DeepSpeed
    args = MerlinTrainingArguments(output_dir, **{**defaults, **options})
    if sharded == "fsdp2" and args.world_size >= 1:
        # `accelerate` shards on accelerators only; told that these are some, it shards over gloo all the same.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    target = tiny_dataset(rows=rows)
    if labels is not None:
        target = target.remove_columns("label").add_column("label", labels)
    trainer = get_method(method)(
        model=tiny_bert(dropout=dropout).to(dtype),
        args=args,
        train_dataset=target,
        eval_dataset=tiny_dataset(rows=13, seed=2),
        source_dataset=tiny_dataset(rows=40, num_labels=4, seed=1),
        data_collator=default_data_collator if fail is None else FailingCollator(**fail),
    )
    assert (trainer.is_fsdp_enabled, trainer.is_deepspeed_enabled) == (sharded == "fsdp2", sharded == "deepspeed")
    trainer.transfer_model.to(dtype)
    trainer.train(resume_from_checkpoint=resume)
    metrics, predictions = {}, None
    if evaluate:
        metrics = trainer.evaluate()
        predictions = torch.tensor(trainer.predict(trainer.eval_dataset).predictions)
        assert predictions.shape == (13, NUM_LABELS), predictions.shape
    trainer.save_model()
    if sharded == "deepspeed":
        trainer.deepspeed.empty_partition_cache()
    weights = {name: whole(parameter).contiguous() for name, parameter in trainer.transfer_model.named_parameters()}
    if trainer.is_world_process_zero():
        history = [{k: v for k, v in e.items() if isinstance(v, float | int)} for e in trainer.state.log_history]
        result = {"weights": weights, "history": [e for e in history if "loss" in e], "metrics": metrics}
        result["predictions"] = predictions
        torch.save({**result, "world_size": args.world_size}, f"{output_dir}/result.pt")
    end_training(trainer.accelerator)


if __name__ == "__main__":
    train(**json.loads(sys.argv[1]))
