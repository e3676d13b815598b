"""The methods by name: ways to use a source task, and to do without."""

from ..trainer import MerlinTrainer
from ..transfer.trainer import TransferTrainer
from ..utils.validation import ConfigError, did_you_mean, shown
from .bi_tuning import BiTuningTrainer
from .bss import BSSTrainer
from .co_tuning import CoTuningTrainer
from .delta import DeltaTrainer
from .embeddings import EmbeddingsTrainer
from .finetune import FinetuneTrainer
from .joint import JointTrainer
from .l2_sp import L2SPTrainer
from .linear_probe import LinearProbeTrainer
from .lp_ft import LinearProbeThenFinetuneTrainer
from .lwf import LWFTrainer
from .merlin_ft import MerlinFinetuneTrainer
from .pooled import PooledTrainer
from .r3f import R3FTrainer
from .sequential import SequentialTrainer
from .source_probe import SourceProbeTrainer
from .stochnorm import StochNormTrainer
from .wise_ft import WiseFTTrainer
from .zero_shot import ZeroShotTrainer


METHODS: dict[str, type[TransferTrainer]] = {
    # the target alone
    "finetune": FinetuneTrainer,
    "embeddings": EmbeddingsTrainer,
    "linear_probe": LinearProbeTrainer,
    "lp_ft": LinearProbeThenFinetuneTrainer,
    # the source alone
    "zero_shot": ZeroShotTrainer,
    "source_probe": SourceProbeTrainer,
    # the source, then the target
    "sequential": SequentialTrainer,
    "l2_sp": L2SPTrainer,
    "delta": DeltaTrainer,
    "bss": BSSTrainer,
    "stochnorm": StochNormTrainer,
    "lwf": LWFTrainer,
    "co_tuning": CoTuningTrainer,
    "bi_tuning": BiTuningTrainer,
    "r3f": R3FTrainer,
    "wise_ft": WiseFTTrainer,
    # both at once
    "pooled": PooledTrainer,
    "joint": JointTrainer,
    "merlin": MerlinTrainer,
    "merlin_ft": MerlinFinetuneTrainer,
}


def get_method(name: str) -> type[TransferTrainer]:
    """
    Return the trainer class of a method.

    Raises:
        ValueError: there is no method of that name; the message lists those there are.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise ConfigError(
            f"`method={shown(name)}` is unknown.{did_you_mean(name, METHODS)} Methods: {', '.join(METHODS)}."
        )
    return METHODS[name]


__all__ = [
    "METHODS",
    "BSSTrainer",
    "BiTuningTrainer",
    "CoTuningTrainer",
    "DeltaTrainer",
    "EmbeddingsTrainer",
    "FinetuneTrainer",
    "JointTrainer",
    "L2SPTrainer",
    "LWFTrainer",
    "LinearProbeThenFinetuneTrainer",
    "LinearProbeTrainer",
    "MerlinFinetuneTrainer",
    "PooledTrainer",
    "R3FTrainer",
    "SequentialTrainer",
    "SourceProbeTrainer",
    "StochNormTrainer",
    "WiseFTTrainer",
    "ZeroShotTrainer",
    "get_method",
]
