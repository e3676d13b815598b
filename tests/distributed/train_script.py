"""Trains a tiny model in float64 and saves its weights: `python train_script.py METHOD BATCH_SIZE OUTPUT_DIR`."""

import sys

import torch

from merlin_hf import MerlinTrainingArguments, get_method
from tests.tiny import tiny_bert, tiny_dataset


def main(method: str, batch_size: int, output_dir: str) -> None:
    torch.use_deterministic_algorithms(True)
    options = MerlinTrainingArguments(
        output_dir,
        max_steps=4,
        per_device_train_batch_size=batch_size,
        per_device_source_batch_size=batch_size // 2,
        learning_rate=1e-3,
        optim="sgd",
        max_grad_norm=0.0,
        num_splits=2,
        learn_head_l2=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        refit_l2="meta",
    )
    trainer = get_method(method)(
        model=tiny_bert(dropout=0.0).double(),
        args=options,
        train_dataset=tiny_dataset(rows=16),
        eval_dataset=tiny_dataset(rows=16, seed=2),
        source_dataset=tiny_dataset(rows=40, num_labels=4, seed=1),
    )
    trainer.transfer_model.double()
    trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model()
    if trainer.is_world_process_zero():
        parts = {k: v.detach().contiguous() for k, v in trainer.transfer_model.state_dict().items()}
        history = [{k: v for k, v in e.items() if isinstance(v, float)} for e in trainer.state.log_history[:4]]
        result = {"weights": parts, "history": history, "eval_loss": metrics["eval_loss"]}
        torch.save({**result, "world_size": options.world_size}, f"{output_dir}/result.pt")
    trainer.accelerator.wait_for_everyone()  # or gloo may hang or abort at the interpreter's exit
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
