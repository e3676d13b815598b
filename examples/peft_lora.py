"""
Train MeRLin with an adapter of PEFT: LoRA in the backbone and a head in closed form, 0.3 % of the weights.

    python examples/peft_lora.py                # MiniLM, film reviews -> editorials, a few minutes on a CPU
    python examples/peft_lora.py --model google-bert/bert-base-uncased --max_steps 500    # or another model of the Hub

`peft_config=` is all that differs from a run on all weights. What is saved is the adapter with its head: PEFT loads it
without merlin_hf, and merges it into a plain model.
"""

from editorials_task import load_task, parse_args, training_arguments
from peft import AutoPeftModelForSequenceClassification, LoraConfig, TaskType
from transformers import pipeline

from merlin_hf import MerlinTrainer, MerlinTrainingArguments


def main(argv: list[str] | None = None) -> float:
    """Train, merge, and return the accuracy on the test rows."""
    args = parse_args(__doc__, "runs/peft-lora", argv)
    args.learning_rate *= 10  # adapters start at zero, and take larger steps than pretrained weights
    task = load_task(args)

    trainer = MerlinTrainer(
        args=training_arguments(MerlinTrainingArguments, args),
        peft_config=LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=["query", "value"]),
        **task.for_trainer,
    )
    trainer.model.print_trainable_parameters()
    trainer.train()
    accuracy = trainer.evaluate()["eval_accuracy"]
    print(f"Accuracy on {len(task.test)} rows: {accuracy:.3f}")
    trainer.save_model()  # adapter_model.safetensors, adapter_config.json and the tokenizer

    # PEFT saves no names of labels; it reads them where the base model comes from, or takes them here.
    names = {name: getattr(task.model.config, name) for name in ("id2label", "label2id")}
    merged = AutoPeftModelForSequenceClassification.from_pretrained(
        args.output_dir, trust_remote_code=False, **names
    ).merge_and_unload()
    merged.save_pretrained(f"{args.output_dir}/merged")
    task.tokenizer.save_pretrained(f"{args.output_dir}/merged")
    classify = pipeline("text-classification", model=f"{args.output_dir}/merged", device="cpu")
    print(classify("The senate did what nobody thought it could, and the country is better for it."))
    return accuracy


if __name__ == "__main__":
    main()
