r"""
Train an image classifier on a small target task with the help of a large source task.

    accelerate launch examples/run_image_classification.py --model_name_or_path google/vit-base-patch16-224-in21k \
        --dataset_name flwrlabs/usps --max_train_samples 200 --source_dataset_name ylecun/mnist --max_steps 300 \
        --per_device_train_batch_size 32 --do_train --do_predict --output_dir usps-merlin

    python examples/run_image_classification.py examples/configs/usps_from_mnist.yaml    # the same from a file

Folders with a folder of images for each class: `--train_dir`, `--validation_dir`, `--test_dir` and
`--source_train_dir`. The program is `merlin_hf/scripts/image_classification.py`, which `merlin-hf train` runs too;
`image_classification/` beside this file has a short one to copy from.
"""

from merlin_hf.scripts.image_classification import main


if __name__ == "__main__":
    main()
