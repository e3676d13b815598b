r"""
Train a text classifier on a small target task with the help of a large source task.

    accelerate launch examples/run_glue.py --model_name_or_path google-bert/bert-base-uncased --method merlin \
        --task_name rte --source_task_name mnli --max_steps 2000 --do_train --do_eval --output_dir rte-merlin

The program is `merlin_hf/scripts/text_classification.py`, which `merlin-hf train` runs too. Several processes without
a GPU: `accelerate launch --multi_gpu --num_processes 2 examples/run_glue.py --use_cpu ...` (with `--cpu`, accelerate
starts one).
"""

from merlin_hf.scripts.text_classification import main


if __name__ == "__main__":
    main()
