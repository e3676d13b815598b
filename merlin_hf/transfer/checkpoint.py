"""The checkpoints of a run: what is in them, who may write them, and which run goes on from them."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..heads.base import NotFiniteFeaturesError
from ..trainer_base import TrainerBase
from ..utils.files import FileError, check_output_dir
from ..utils.lock import locked
from .distributed import whole
from .manifest import WEIGHTS, Parts, lacking, write_manifest
from .model import TransferModel
from .run_record import Differences, describe_run, differences, read_record
from .weights import NotFiniteError, not_finite
from .whole_checkpoints import (
    LOCK_NAME,
    LONGEST_FILE,
    STATE_NAME,
    check_whole,
    discard_all,
    discard_old_checkpoints,
    last_whole_checkpoint,
    publish,
    remove_leftovers,
    staging_name,
)


logger = logging.get_logger(__name__)

TRANSFER_STATE_NAME = "transfer_state.safetensors"
PREFIX = "model."  # of the classifier's tensors in a TransferModel
KEPT = "kept."  # of what a regularizer keeps beside its parameters
RUN = "run."  # of what a resumed run must agree with


def transfer_state(transfer_model: TransferModel) -> dict[str, Tensor]:
    """All but the classifier, whole and on the CPU; a collective where the model is sharded."""
    own = {name: p for name, p in transfer_model.named_parameters() if not name.startswith(PREFIX)}
    state = {name: whole(parameter).cpu().contiguous() for name, parameter in own.items()}
    if transfer_model.regularizer is not None:
        kept = transfer_model.regularizer.tensors()
        state.update({f"{KEPT}{name}": tensor.detach().cpu().contiguous() for name, tensor in kept.items()})
    return state


def plain_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a `state_dict` of a [`TransferModel`] has of the classifier, under the classifier's own names."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}


def save_transfer_state(state: dict[str, Tensor], folder: str) -> None:
    """
    Write what [`transfer_state`] returned to `folder/transfer_state.safetensors`, whole or not at all.

    The classifier itself is saved by `save_pretrained` next to it and knows nothing of this file.
    """
    path = os.path.join(folder, TRANSFER_STATE_NAME)
    save_file(state, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)


def load_transfer_state(transfer_model: TransferModel, folder: str) -> None:
    """
    Read back what [`save_transfer_state`] wrote.

    Raises:
        FileError: the checkpoint was written by plain Trainer, or without a source data set, or its source head or its scalars are not those of
            this run.
    """
    path = os.path.join(folder, TRANSFER_STATE_NAME)
    if not os.path.isfile(path):
        raise FileError(
            f"{folder} has no {TRANSFER_STATE_NAME}: it was not written by a run with a `source_dataset` or by this method, or with "
            "`save_only_model=True`. Load its weights with `from_pretrained` and start a new run, with `overwrite_output_dir` or another `output_dir`."
        )
    saved = {name: tensor for name, tensor in load_file(path).items() if not name.startswith(RUN)}
    kept = {name.removeprefix(KEPT): saved.pop(name) for name in list(saved) if name.startswith(KEPT)}
    wanted = {n: t for n, t in transfer_model.state_dict().items() if not n.startswith(PREFIX)}
    if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in wanted.items()}:
        raise FileError(
            f"{path} holds { {n: tuple(t.shape) for n, t in sorted(saved.items())} }, but this run has "
            f"{ {n: tuple(t.shape) for n, t in sorted(wanted.items())} }. Resume with the same `source_dataset` labels, "
            "the same learned scalars and the same options of the method."
        )
    transfer_model.load_state_dict(saved, strict=False)
    if kept and transfer_model.regularizer is not None:
        transfer_model.regularizer.load_tensors(transfer_model, kept)


def read_run_state(folder: str) -> dict[str, Tensor]:
    """What [`TransferCheckpointsMixin.run_state`] gave when a checkpoint was written; nothing where there is no such file."""
    path = os.path.join(folder, TRANSFER_STATE_NAME)
    if not os.path.isfile(path):
        return {}
    with safe_open(path, framework="pt") as file:
        return {name.removeprefix(RUN): file.get_tensor(name) for name in file.keys() if name.startswith(RUN)}


class TransferCheckpointsMixin(TrainerBase):
    """
    For a [`~transformers.Trainer`]: a folder `checkpoint-*` appears, and goes, in one rename, with all that belongs to it.

    Trainer writes a checkpoint file by file into its final folder and deletes old ones file by file, so that a process
    that is killed leaves a folder behind that `get_last_checkpoint` takes and that lacks the optimizer, or more. Here the
    files are written to a folder of this process (`_saving-HOST-PID/`) in the same output folder. When all ranks are done,
    a manifest of them is added, all of it is brought to the disk, and the folder is renamed.

    Attributes:
        is_finished (`bool`): whether the last `train` found its checkpoint at the last step, and trained no further.
    """

    model: Any
    is_finished = False
    _stages_checkpoint = False
    _staging_name: str | None = None
    _staged_push: str | None = None
    _resumed_step: int | None = None
    _record: dict[str, Any] | None = None

    def train(self, resume_from_checkpoint=None, trial=None, *args, **kwargs):
        """
        [`~transformers.Trainer.train`]; `resume_from_checkpoint=True` is the newest whole checkpoint.

        A checkpoint of another run (method, classes, model, with or without a source) is refused, and what else differs is said
        in a warning. From a checkpoint of the last step nothing is trained. With `overwrite_output_dir` and no
        `resume_from_checkpoint`, checkpoints of earlier runs are deleted first.

        Raises:
            FileError: a `ValueError`; `resume_from_checkpoint` names an incomplete checkpoint or that of another run, or there
                is none; or `output_dir` cannot be written to, or is in use by another run.
            NotFiniteError: training has diverged.
        """
        self.is_finished, self._resumed_step, self._record = False, None, None
        with self._own_output_dir(trial):
            if resume_from_checkpoint:
                resume_from_checkpoint = self._on_main_process(lambda: self._chosen_checkpoint(resume_from_checkpoint))
                state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, STATE_NAME))
                self._resumed_step = state.global_step
            elif getattr(self.args, "overwrite_output_dir", False) and trial is None:
                self._on_main_process(lambda: discard_all(self.args.output_dir))
            try:
                output = super().train(resume_from_checkpoint, trial, *args, **kwargs)
            except (ValueError, RuntimeError) as error:
                # A head that is fit to NaN says so, but not why. Nothing is asked of other processes, which may be elsewhere.
                self._check_own_weights(error)
                raise
            self.check_finite()
            return output

    def _check_own_weights(self, error: Exception) -> None:
        name = None if isinstance(error, FileError) else not_finite(self._trained_model)
        if name is None and isinstance(error, NotFiniteFeaturesError):  # which may overflow before a weight does
            name = "features"
        if name is not None:
            raise NotFiniteError(diverged(name, self.state.global_step, self.args)) from error

    def set_initial_training_values(self, args, dataloader):
        """
        [`~transformers.Trainer.set_initial_training_values`], with no epochs where the checkpoint is of the last step: Trainer
        would train one more where an epoch does not end there (transformers 5.10 to 5.24).
        """
        epochs, *values, max_steps = super().set_initial_training_values(args, dataloader)
        self.is_finished = self._resumed_step is not None and self._resumed_step >= max_steps
        if self.is_finished:
            epochs = 0
            logger.warning(
                f"The checkpoint is of step {self._resumed_step}, and the run has {max_steps}: it is finished, and no further step is "
                "trained. To train on, raise `max_steps` or `num_train_epochs`; to train anew, set `overwrite_output_dir` or give "
                "another `output_dir`."
            )
        return (epochs, *values, max_steps)

    # Going on from a checkpoint

    def checkpoint_to_continue(self) -> str | None:
        """
        Return the newest whole checkpoint in `output_dir`, checked to be one of this very run; `None` where there is none.

        Raises:
            FileError: it is another run's; the message names `output_dir` and all that differs.
        """

        def find() -> str | None:
            output_dir = self.args.output_dir
            checkpoint = last_whole_checkpoint(output_dir, self._needed_parts())
            if checkpoint is None:
                return None
            found = self._differences(checkpoint)
            if found:
                raise FileError(
                    f"`output_dir={output_dir!r}` has a checkpoint of another run, {os.path.basename(checkpoint)!r}. What differs: {found}. "
                    "Give this run another `output_dir`, or set `overwrite_output_dir` to delete the checkpoints there and start anew"
                    + ("." if found.essential else ", or `resume_from_checkpoint` to go on from one all the same.")
                )
            return checkpoint

        return self._on_main_process(find)

    def _chosen_checkpoint(self, given: str | bool) -> str:
        if given is True:
            checkpoint = last_whole_checkpoint(self.args.output_dir, self._needed_parts())
            if checkpoint is None:
                raise FileError(
                    f"No valid checkpoint found in output directory ({self.args.output_dir}), which `resume_from_checkpoint=True` asks for."
                )
        else:
            checkpoint = str(given)
            check_whole(checkpoint, self._needed_parts())
        found = self._differences(checkpoint)
        if found.essential:
            raise FileError(
                f"The checkpoint {checkpoint!r} (`resume_from_checkpoint`) is of another run. What differs: {found}. Resume with what it was "
                "trained with, or load its weights with `from_pretrained` and start a new run."
            )
        if found:
            logger.warning(f"Going on from {checkpoint} with changes, so the result is of neither run: {found}.")
        return checkpoint

    def _differences(self, checkpoint: str) -> Differences:
        try:
            saved = read_record(checkpoint)
        except ValueError as error:
            raise FileError(f"{checkpoint!r} cannot be resumed from: {error}.") from error
        if saved is None or "method" not in saved:
            logger.warning(
                f"{checkpoint} does not say which run wrote it (plain Trainer, or an older release), so its arguments and its data cannot be "
                "compared with those of this run."
            )
        return differences(saved or {}, self._run_record())

    def _run_record(self) -> dict[str, Any]:
        """Return the description of this run, which is made once per training."""
        if self._record is None:
            transfer_model = getattr(self, "transfer_model", None)
            model = self.model if transfer_model is None else transfer_model.model
            data = {"train_dataset": self.train_dataset, "source_dataset": getattr(self, "source_dataset", None)}
            # The columns that the model sees: others, such as texts that were tokenized, come and go with what else is asked for.
            seen = {
                name: None if rows is None else self._with_collator(rows, None, "training")[0]
                for name, rows in data.items()
            }
            is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
            self._record = describe_run(type(self), self.args, model, seen, has_all_weights=not is_sharded)
        return self._record

    def _needed_parts(self) -> Parts:
        """Return the files that a checkpoint of this run must have, each by the names that it may have."""
        state: list[tuple[str, ...]] = [(STATE_NAME,)]
        if self.is_deepspeed_enabled:
            return state if self.args.save_only_model else [*state, ("global_step*",)]
        weights, optimizer = WEIGHTS, ("optimizer.pt", "optimizer.bin")
        if self.is_fsdp_enabled:
            weights, optimizer = ("pytorch_model_fsdp*",), ("optimizer*",)
        if self.args.save_only_model:
            return [WEIGHTS, *state]
        return [weights, optimizer, ("scheduler.pt",), ("rng_state*.pth",), *state]

    # One run in a folder

    @contextmanager
    def _own_output_dir(self, trial: Any) -> Iterator[None]:
        """Check that checkpoints can be written, and keep other runs out until the end; the trials of a search have folders of their own."""
        names = [staging_name()]
        if self.args.world_size > 1:
            broadcast_object_list(names)
        self._staging_name = names[0]
        if str(getattr(self.args.save_strategy, "value", self.args.save_strategy)) == "no" or trial is not None:
            yield
            return
        output_dir = self.args.output_dir
        with ExitStack() as stack:

            def begin() -> None:
                check_output_dir(
                    output_dir, [f"{self._staging_dir}/{PREFIX_CHECKPOINT_DIR}-1000000000/{LONGEST_FILE}"]
                )
                stack.enter_context(locked(Path(output_dir, LOCK_NAME), output_dir, "training"))
                remove_leftovers(output_dir)

            self._on_main_process(begin)
            yield

    def _on_main_process(self, function: Callable[[], Any]) -> Any:
        """Return what a function returns on the main process, or raise what it refuses, on all processes of the run."""
        outcome: list[Any] = [None, None]
        if self.args.process_index == 0:
            try:
                outcome[0] = function()
            except FileError as error:
                outcome[1] = error
        if self.args.world_size > 1:
            broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    # Writing

    def _get_output_dir(self, trial):
        # Trainer asks for the folder of a checkpoint here alone, and has no argument for it.
        run_dir = super()._get_output_dir(trial)
        return os.path.join(run_dir, self._staging_dir) if self._stages_checkpoint else run_dir

    @property
    def _staging_dir(self) -> str:
        return self._staging_name or staging_name()

    def _save_checkpoint(self, model, trial):
        # The one place that knows when all files of a checkpoint are written, and before older ones are deleted.
        run_dir = self._get_output_dir(trial)
        folder = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staged, final = os.path.join(run_dir, self._staging_dir, folder), os.path.join(run_dir, folder)
        self.check_finite()
        if self.args.local_process_index == 0:
            shutil.rmtree(os.path.dirname(staged), ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with self._staging():
            super()._save_checkpoint(model, trial)
        self.check_finite()  # now with a head that was fit for this
        self._point_at_best(run_dir, staged)
        record = self._on_main_process(self._run_record)
        self.accelerator.wait_for_everyone()
        if self.args.process_index == 0:
            self._publish(staged, final, record)
        self.accelerator.wait_for_everyone()
        # Also on every other node without a shared file system; with one it is done already.
        if self.args.local_process_index == 0 and os.path.isdir(staged):
            self._publish(staged, final, record)
        self.accelerator.wait_for_everyone()
        if self._staged_push is not None:
            super()._push_from_checkpoint(final)
            self._staged_push = None
        if self.args.should_save:
            discard_old_checkpoints(run_dir, self.args.save_total_limit, self.state.best_model_checkpoint)

    @contextmanager
    def _staging(self) -> Iterator[None]:
        self._stages_checkpoint = True
        try:
            yield
        finally:
            self._stages_checkpoint = False

    def _publish(self, staged: str, final: str, record: dict[str, Any]) -> None:
        """
        Give a checkpoint its manifest and its name.

        Raises:
            RuntimeError: some of its files are not there any more.
        """
        parts = list(self._needed_parts())
        if getattr(self, "transfer_model", None) is not None and not self.args.save_only_model:
            parts.append((TRANSFER_STATE_NAME,))
        # A node that shares no files has only what its own processes wrote.
        problem = lacking(staged, parts if self.args.process_index == 0 else [])
        if problem is not None:
            raise RuntimeError(
                f"{staged} is not published as a checkpoint: {problem}. Something else than this run deletes or writes files in "
                f"`output_dir={self.args.output_dir!r}`, or the disk loses them. Earlier checkpoints there are as they were."
            )
        write_manifest(staged, record)
        publish(staged, final)

    def _point_at_best(self, run_dir: str, staged: str) -> None:
        """Trainer looked for the best checkpoint beside the one it wrote: correct what it noted."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        if not self.state.best_global_step or not any(
            map(os.path.exists, (f"{run_dir}/{name}", f"{staged}/../{name}"))
        ):
            return
        self.state.best_model_checkpoint = os.path.join(run_dir, name)
        if self.args.should_save:
            self.state.save_to_json(os.path.join(staged, STATE_NAME))

    def _push_from_checkpoint(self, checkpoint_folder):
        # An upload reads the folder in the background, so it has to wait for the final name.
        if self._stages_checkpoint:
            self._staged_push = checkpoint_folder
        else:
            super()._push_from_checkpoint(checkpoint_folder)

    @property
    def _trained_model(self) -> torch.nn.Module:
        transfer_model = getattr(self, "transfer_model", None)
        return self.model if transfer_model is None or self.is_fsdp_enabled else transfer_model

    def check_finite(self) -> None:
        """
        Check that all weights are finite, on all processes.

        Raises:
            NotFiniteError: one is NaN or infinite; the message names it and what to change.
        """
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        name = not_finite(self._trained_model)
        if is_sharded and self.args.world_size > 1:
            found = torch.tensor(name is not None, dtype=torch.float32, device=self.args.device)
            torch.distributed.all_reduce(found)
            name = name or ("a weight of another process" if found.item() else None)
        if name is not None:
            raise NotFiniteError(diverged(name, self.state.global_step, self.args))

    # What is in a checkpoint

    def run_state(self) -> dict[str, Tensor]:
        """What a run that resumes from a checkpoint must agree with."""
        return {}

    def check_run_state(self, saved: dict[str, Tensor]) -> None:
        """Check what [`TransferCheckpointsMixin.run_state`] gave when the checkpoint was written."""

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.transfer_model is not None:
            state = transfer_state(self.transfer_model)
            state.update({f"{RUN}{name}": tensor for name, tensor in self.run_state().items()})
            if self.args.should_save:
                save_transfer_state(state, output_dir)

    def save_model(self, output_dir=None, _internal_call=False):
        """Trainer's `save_model`, with a head that belongs to the current backbone, and whole where the model is sharded."""
        self.settle_head()
        if self.is_fsdp_enabled and "FULL_STATE_DICT" not in str(self.accelerator.state.fsdp_plugin.state_dict_type):
            # Trainer leaves the model out here.
            state_dict = self.accelerator.get_state_dict(self.model)  # a collective
            if self.args.should_save:
                self._save(output_dir, state_dict=state_dict)
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir=None, state_dict=None):
        if state_dict is None or self.transfer_model is None:
            return super()._save(output_dir, state_dict)
        model, self.model = self.model, self.transfer_model.model
        try:
            # Evaluated but never trained, DeepSpeed wraps the classifier itself.
            is_transfer = isinstance(self.accelerator.unwrap_model(self.model_wrapped), TransferModel)
            super()._save(output_dir, plain_state(state_dict) if is_transfer else state_dict)
        finally:
            self.model = model

    def _load_optimizer_and_scheduler(self, checkpoint):
        # Sharded, they are part of the model that has been loaded already.
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.is_active and checkpoint is not None and not self.is_finished:  # else no step is trained from it
            self.check_run_state(read_run_state(checkpoint))
            if not is_sharded:
                load_transfer_state(self.transfer_model, checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)


def diverged(name: str, step: int, args: Any) -> str:
    """Return the message for weights that are not finite."""
    precision = " Train with `bf16` or in float32 instead of `fp16`." if getattr(args, "fp16", False) else ""
    return (
        f"Training has diverged: at step {step} `{name}` is not finite. No checkpoint was written over an earlier one. Lower `learning_rate` "
        f"(got {args.learning_rate}), raise `warmup_steps`, or set `max_grad_norm` (got {args.max_grad_norm}); look for NaN and "
        f"infinity in the data.{precision}"
    )
