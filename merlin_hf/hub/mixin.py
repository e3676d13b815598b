"""A Trainer that writes its own card and keeps its token to itself."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from ..utils.files import write_text
from ..utils.secret import keep_token_secret
from .card import write_card
from .content import content_of
from .errors import PublishError, explained
from .folder import CARD, only_model_files


if TYPE_CHECKING:
    from transformers import Trainer as TrainerBase
else:
    TrainerBase = object  # Trainer itself is the last base of the class that takes this one

logger = logging.get_logger(__name__)


class ModelCardMixin(TrainerBase):
    """
    For a [`~transformers.Trainer`] with a method of its own (`is_active`): a card that says what that method did.

    The card is written where Trainer writes its own, and before each push during training. Without a source everything
    is as in Trainer.

    Attributes:
        model_card_arguments (`dict[str, Any]`): arguments of [`ModelCardMixin.create_model_card`] for the cards that
            Trainer writes by itself, such as `{"license": "apache-2.0", "source_dataset_tags": "nyu-mll/glue"}`.
    """

    model_card_arguments: ClassVar[dict[str, Any]] = {}
    _evaluated_dataset: Any = None
    _has_waiting_checkpoint: bool = False

    @property
    def holds_pushes(self) -> bool:
        """Whether a checkpoint that is to be pushed has to wait for `push_waiting_checkpoint`."""
        return False

    @property
    def _writes_own_card(self) -> bool:
        return bool(getattr(self, "is_active", getattr(self, "source_dataset", None) is not None))

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | Sequence[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | Sequence[str] | None = None,
        dataset_tags: str | Sequence[str] | None = None,
        dataset: str | Sequence[str] | None = None,
        dataset_args: str | Sequence[str] | None = None,
        *,
        source_dataset_tags: str | Sequence[str] | None = None,
        source_dataset: str | Sequence[str] | None = None,
        source_dataset_args: str | Sequence[str] | None = None,
        examples_per_label: int | None = None,
    ) -> None:
        """
        Write `README.md` to `args.output_dir`.

        Args:
            language, license, tags, model_name, finetuned_from, tasks: as in
                [`~transformers.Trainer.create_model_card`], but a license is stated only where it is given: the base
                model's may not be that of the result.
            dataset_tags, dataset, dataset_args (`str` or `Sequence[str]`, *optional*): the target's names on the Hub,
                how to call them, and configurations; found in `train_dataset` where it comes from the Hub.
            source_dataset_tags, source_dataset, source_dataset_args: the same for the source; of several sources in
                their order, `None` for what is not to be said.
            examples_per_label (`int`, *optional*): texts of the target to show for each label, none if not given, as
                they become public with the model.

        Raises:
            PublishError: the file cannot be written.
        """
        given: dict[str, Any] = {
            "language": language, "license": license, "tags": tags, "model_name": model_name,
            "finetuned_from": finetuned_from, "tasks": tasks, "dataset_tags": dataset_tags, "dataset": dataset,
            "dataset_args": dataset_args,
        }  # fmt: skip
        if not self._writes_own_card:
            return super().create_model_card(**given)
        if not self.is_world_process_zero():
            return
        given.update(
            source_dataset_tags=source_dataset_tags,
            source_dataset=source_dataset,
            source_dataset_args=source_dataset_args,
            examples_per_label=examples_per_label,
        )
        given = {name: value for name, value in given.items() if value is not None}
        card = write_card(content_of(self, **{**self.model_card_arguments, **given}))
        path = Path(self.args.output_dir) / CARD
        try:
            write_text(path, str(card))  # at once: an upload in the background may be reading it
        except OSError as error:
            raise PublishError(
                f"The card cannot be written to {path}: {error}. Make room for it, or save and publish from a folder "
                "that can be written to, with `trainer.save_model(folder)` and `merlin-hf publish`."
            ) from error

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """[`~transformers.Trainer.evaluate`]; the card will say which data set the metrics are from."""
        if metric_key_prefix == "eval" and not isinstance(eval_dataset, str):
            self._evaluated_dataset = eval_dataset
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def _push_from_checkpoint(self, checkpoint_folder):
        # The card must be there before the upload begins, and no callback is called at that moment in all releases.
        if self.holds_pushes:
            self._has_waiting_checkpoint = True
            return None
        if self._writes_own_card and self._will_push():
            try:
                self.create_model_card()
            except Exception as error:  # a card is not worth a training run
                logger.warning(f"Pushing without a new card, which could not be written: {error!r}")
        with only_model_files() if self._writes_own_card else nullcontext():
            return super()._push_from_checkpoint(checkpoint_folder)

    def push_waiting_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint that had to wait, if there is one, from the folder that it is in now."""
        if self._has_waiting_checkpoint:
            self._has_waiting_checkpoint = False
            self._push_from_checkpoint(checkpoint_folder)

    def _will_push(self) -> bool:
        """Return whether Trainer pushes; where it does not, an upload may be reading the card that is there."""
        if not self.is_world_process_zero():
            return False
        is_uploading = self.push_in_progress is not None and not self.push_in_progress.is_done()
        return self.args.hub_strategy != HubStrategy.END and (self.args.hub_always_push or not is_uploading)

    def train(self, *args, **kwargs):
        """[`~transformers.Trainer.train`]; a token that was set since `__init__` stays out of its files too."""
        keep_token_secret(self.args)
        return super().train(*args, **kwargs)

    def save_model(self, output_dir=None, _internal_call=False):
        """[`~transformers.Trainer.save_model`], without the token in `training_args.bin`."""
        keep_token_secret(self.args)
        super().save_model(output_dir, _internal_call)

    def init_hf_repo(self, *args, **kwargs):
        """[`~transformers.Trainer.init_hf_repo`], with errors that say what would work."""
        with self._explained(*args[:1], kwargs.get("token")):
            return super().init_hf_repo(*args, **kwargs)

    def push_to_hub(self, *args, **kwargs):
        """
        Push as [`~transformers.Trainer.push_to_hub`].

        Further arguments are those of [`ModelCardMixin.create_model_card`]. Where the method is active, the files are
        those of [`~merlin_hf.hub.folder.model_files`].

        Raises:
            PublishError: it did not get there; the message says what would work. The model is in `args.output_dir`.
        """
        with self._explained(*args[2:3], kwargs.get("token")):
            with only_model_files() if self._writes_own_card else nullcontext():
                return super().push_to_hub(*args, **kwargs)

    def _explained(self, *tokens: str | None) -> AbstractContextManager:
        if not self._writes_own_card:
            return nullcontext()
        return explained(self.args.output_dir, self.args.hub_model_id, *tokens, self.args.hub_token)
