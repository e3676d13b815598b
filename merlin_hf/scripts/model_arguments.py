"""Which model is trained, and how: the arguments that all programs take."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from ..methods import METHODS
from ..utils.validation import Text, check_options


class TaskArguments(Protocol):
    """Arguments that name a target and a source, whatever their rows are."""

    @staticmethod
    def origins(prefix: str) -> tuple[str, ...]:
        """Return the arguments that say where a task comes from."""
        raise NotImplementedError

    @property
    def has_source(self) -> bool:
        """Return whether a source is named."""
        raise NotImplementedError


@dataclass
class BaseModelArguments:
    """Arguments of the model and the method that all programs share."""

    model_name_or_path: Text = field(metadata={"help": "Path of a pretrained model, or its name on the Hub."})
    method: str | None = field(
        default=None,
        metadata={"help": f"{', '.join(METHODS)}. Default: merlin with a source, else finetune."},
    )
    config_name: str | None = field(default=None, metadata={"help": "Configuration, if not the model's."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where to keep what is downloaded from the Hub."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model."})
    token: str | None = field(default=None, metadata={"help": "Token for files of the Hub that are not public."})
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run code from the model's repository. Only for those whose code you have read."},
    )
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Accept a pretrained model whose last layer has another number of labels."}
    )

    def __post_init__(self):
        check_options(self)

    @property
    def hub_options(self) -> dict[str, Any]:
        """Return the options that every `from_pretrained` takes."""
        return {
            "cache_dir": self.cache_dir,
            "revision": self.model_revision,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }
