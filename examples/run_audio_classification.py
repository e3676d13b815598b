r"""
Train an audio classifier on a small target task with the help of a large source task.

    accelerate launch examples/run_audio_classification.py --model_name_or_path facebook/wav2vec2-base \
        --dataset_name PolyAI/minds14 --dataset_config_name fr-FR --label_column_name intent_class \
        --source_dataset_name PolyAI/minds14 --source_dataset_config_name en-US \
        --source_label_column_name intent_class --max_steps 500 --per_device_train_batch_size 32 \
        --do_train --do_eval --output_dir french-intents-merlin

    python examples/run_audio_classification.py --model_name_or_path FOLDER --train_dir FOLDER \
        --source_train_dir FOLDER --max_steps 100 --do_train --do_eval --output_dir runs/audio

Rows are a column of `datasets.Audio`, of raw arrays (lists of numbers at `--array_sampling_rate`), or `.wav` files in
a folder for each class. WAV is read by SciPy, so that neither torchcodec nor FFmpeg is needed; other formats need
soundfile.
"""

from dataclasses import dataclass, field

from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, DataCollatorWithPadding

from merlin_hf.data.audio import EncodeAudio
from merlin_hf.data.encoding import encode_media
from merlin_hf.scripts.arguments import BaseModelArguments
from merlin_hf.scripts.data_arguments import AudioDataArguments
from merlin_hf.scripts.program import Program, build_program, run_as_main
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


def build(model_args: ModelArguments, data_args: AudioDataArguments, args) -> Program:
    """Load what the arguments name, and make the trainer; nothing is trained."""
    args.remove_unused_columns = False  # rows are encoded when read, from columns that the model does not take

    def prepare(config, target, sources):
        path = model_args.feature_extractor_name or model_args.model_name_or_path
        extractor = load_processor(AutoFeatureExtractor, path, **model_args.hub_options)
        options = (extractor, data_args.max_length_seconds, data_args.array_sampling_rate)

        def encode(task, split, limit):
            return encode_media(task, split, EncodeAudio(*options, at_random=split == "train"), limit, args.seed)

        return extractor, encode, DataCollatorWithPadding(extractor)

    def adapt(model):
        if model_args.freeze_feature_encoder and hasattr(model, "freeze_feature_encoder"):
            model.freeze_feature_encoder()

    tag, auto_class = "audio-classification", AutoModelForAudioClassification
    return build_program(model_args, data_args, args, tag, auto_class, prepare, adapt)


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate and predict as the arguments say."""
    run_as_main(argv, ModelArguments, AudioDataArguments, build)


if __name__ == "__main__":
    main()
