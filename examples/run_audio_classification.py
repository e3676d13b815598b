r"""
Train an audio classifier on a small target task with the help of a large source task:

    accelerate launch examples/run_audio_classification.py --model_name_or_path facebook/wav2vec2-base \
        --dataset_name PolyAI/minds14 --dataset_config_name fr-FR --label_column_name intent_class \
        --source_dataset_name PolyAI/minds14 --source_dataset_config_name en-US --source_label_column_name intent_class \
        --max_steps 500 --per_device_train_batch_size 32 --do_train --do_eval --output_dir french-intents-merlin

    python examples/run_audio_classification.py --model_name_or_path FOLDER --train_dir FOLDER \
        --source_train_dir FOLDER --max_steps 100 --do_train --do_eval --output_dir runs/audio

Rows are a column of `datasets.Audio`, of raw arrays (lists of numbers at `--array_sampling_rate`), or `.wav` files in a folder
for each class. WAV is read by SciPy, so that neither torchcodec nor FFmpeg is needed; other formats need soundfile.
"""

from dataclasses import dataclass, field

from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, DataCollatorWithPadding, set_seed

from merlin_hf.data.audio import AUDIO, EncodeAudio
from merlin_hf.scripts.arguments import parse_args
from merlin_hf.scripts.audio_tasks import DataTrainingArguments
from merlin_hf.scripts.image_classification import load_data, make_program, publish
from merlin_hf.scripts.image_tasks import load_task
from merlin_hf.scripts.model_arguments import BaseModelArguments
from merlin_hf.scripts.text_classification import (
    KINDS,
    Program,
    choose_method,
    load_config,
    load_model,
    run,
    setup_logging,
)
from merlin_hf.utils.loading import load_processor


@dataclass
class ModelArguments(BaseModelArguments):
    """[`BaseModelArguments`] for audio."""

    feature_extractor_name: str | None = field(
        default=None, metadata={"help": "Feature extractor, if not the model's."}
    )
    freeze_feature_encoder: bool = field(
        default=True, metadata={"help": "Leave the convolutions at the bottom of a Wav2Vec2 as they are."}
    )


def build(model_args: ModelArguments, data_args: DataTrainingArguments, args) -> Program:
    """Load what the arguments name, and make the trainer; nothing is trained."""
    args.remove_unused_columns = False  # rows are encoded when read, from columns that the model does not take
    trainer_class = choose_method(model_args, data_args, args.do_train)
    with args.main_process_first(desc="loading data"):
        hub = {"cache_dir": model_args.cache_dir, "token": model_args.token}
        kinds = [kind for kind, asked in KINDS.items() if getattr(args, asked)]
        target = load_task(data_args, kind=AUDIO, kinds=kinds, **hub)
        wants_source = args.do_train and data_args.has_source and trainer_class.takes_source
        source = load_task(data_args, "source_", AUDIO, kinds=["train"], **hub) if wants_source else None
        config = load_config(model_args, target.labels, args.do_train, data_args.labels_by_number)
        path = model_args.feature_extractor_name or model_args.model_name_or_path
        extractor = load_processor(AutoFeatureExtractor, path, **model_args.hub_options)
        options = (extractor, data_args.max_length_seconds, data_args.array_sampling_rate)
        encode, encode_train = EncodeAudio(*options), EncodeAudio(*options, at_random=True)
        data = load_data(target, source, data_args, args, encode, encode_train)
    model = load_model(model_args, config, AutoModelForAudioClassification)
    if model_args.freeze_feature_encoder and hasattr(model, "freeze_feature_encoder"):
        model.freeze_feature_encoder()
    return make_program(
        trainer_class,
        model,
        extractor,
        DataCollatorWithPadding(extractor),
        args,
        data,
        target,
        source,
        publish=lambda trainer: publish(trainer, model_args, data_args, task="audio-classification"),
    )


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate and predict as the arguments say."""
    model_args, data_args, args = parse_args(argv, ModelArguments, DataTrainingArguments)
    setup_logging(args)
    set_seed(args.seed)
    run(build(model_args, data_args, args))


if __name__ == "__main__":
    main()
