"""The checkpoints of a run: what they contain, how they are written, and which run may resume from them."""

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
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy
from transformers.utils import logging

from ..heads.base import NotFiniteFeaturesError
from ..utils.files import FileError, check_output_dir
from ..utils.lock import locked
from ..utils.manifest import WEIGHTS, Parts, lacking, write_manifest
from .distributed import gather_parameter
from .model import TransferModel
from .run_record import Differences, describe_run, differences, read_record
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
# Prefixes of names in a TransferModel's state and in that file:
PREFIX = "model."  # tensors of the classifier
KEPT = "kept."  # a regularizer's state beside its parameters
RUN = "run."  # state that must be the same in a run that resumes


class NotFiniteError(FloatingPointError):
    """Training has diverged: weights are NaN or infinite. Nothing was saved over an earlier checkpoint."""


def transfer_state(transfer_model: TransferModel) -> dict[str, Tensor]:
    """Return all tensors that are not the classifier's, whole and on the CPU; a collective where it is sharded."""
    own = {name: p for name, p in transfer_model.named_parameters() if not name.startswith(PREFIX)}
    state = {name: gather_parameter(parameter).cpu().contiguous() for name, parameter in own.items()}
    if transfer_model.regularizer is not None:
        kept = transfer_model.regularizer.extra_state()
        state.update({f"{KEPT}{name}": tensor.detach().cpu().contiguous() for name, tensor in kept.items()})
    return state


def plain_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the classifier's part of a [`TransferModel`]'s `state_dict`, under the classifier's own names."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}


def load_transfer_state(transfer_model: TransferModel, folder: str) -> None:
    """
    Load the tensors of [`transfer_state`] from a checkpoint; raise a `FileError` if they do not fit this run.

    It was written by plain Trainer or without a source data set, or its source head or its scalars are others.
    """
    path = os.path.join(folder, TRANSFER_STATE_NAME)
    if not os.path.isfile(path):
        raise FileError(
            f"{folder} has no {TRANSFER_STATE_NAME}: it was not written by a run with a `source_dataset` or by this "
            "method, or with `save_only_model=True`. Load its weights with `from_pretrained` and start a new run, "
            "with `overwrite_output_dir` or another `output_dir`."
        )
    saved = {name: tensor for name, tensor in load_file(path).items() if not name.startswith(RUN)}
    kept = {name.removeprefix(KEPT): saved.pop(name) for name in list(saved) if name.startswith(KEPT)}
    wanted = {n: t for n, t in transfer_model.state_dict().items() if not n.startswith(PREFIX)}
    if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in wanted.items()}:
        raise FileError(
            f"{path} holds { {n: tuple(t.shape) for n, t in sorted(saved.items())} }, but this run has "
            f"{ {n: tuple(t.shape) for n, t in sorted(wanted.items())} }. Resume with the same `source_dataset` "
            "labels, the same learned scalars and the same options of the method."
        )
    transfer_model.load_state_dict(saved, strict=False)
    if kept and transfer_model.regularizer is not None:
        transfer_model.regularizer.load_extra_state(transfer_model, kept)


def read_run_state(folder: str) -> dict[str, Tensor]:
    """Return the `TransferTrainer.run_state` in a checkpoint; empty where there is none."""
    path = os.path.join(folder, TRANSFER_STATE_NAME)
    if not os.path.isfile(path):
        return {}
    with safe_open(path, framework="pt") as file:
        return {name.removeprefix(RUN): file.get_tensor(name) for name in file.keys() if name.startswith(RUN)}


class Checkpoints:
    """
    The checkpoints of one trainer: each folder `checkpoint-*` appears and disappears whole, in one rename.

    Trainer writes and deletes checkpoints file by file in their final folders. A process that is killed then leaves a
    folder that `get_last_checkpoint` takes, although it lacks the optimizer, or more. Here the files are written to
    `_saving-HOST-PID/` in the same output folder. When all ranks are done, a manifest is added, all is written to the
    disk, and the folder is renamed.

    Attributes:
        is_finished (`bool`): whether the last `train` resumed from a checkpoint of the last step, and trained no step.
        resumed_step (`int`, *optional*): the step of the checkpoint that the run resumed from.
        is_staging (`bool`): whether a checkpoint is being written.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.is_finished = False
        self.resumed_step: int | None = None
        self.is_staging = False
        self._staging_name: str | None = None
        self._record: dict[str, Any] | None = None

    # Resuming

    @contextmanager
    def of_training(self, resume_from_checkpoint: Any, trial: Any) -> Iterator[Any]:
        """
        Yield the checkpoint to resume from, if any, in a block in which this run alone writes to its folder.

        Raises what [`TransferTrainer.train`] does.
        """
        self.is_finished, self.resumed_step, self._record = False, None, None
        with self._own_output_dir(trial):
            if resume_from_checkpoint:
                resume_from_checkpoint = self._on_main_process(lambda: self._chosen(resume_from_checkpoint))
                state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, STATE_NAME))
                self.resumed_step = state.global_step
            elif getattr(self.trainer.args, "overwrite_output_dir", False) and trial is None:
                self._on_main_process(lambda: discard_all(self.trainer.args.output_dir))
            try:
                yield resume_from_checkpoint
            except (ValueError, RuntimeError) as error:
                # A head that is fit to NaN says so, but not why. Other processes may be elsewhere, so no collective.
                name = None if isinstance(error, FileError) else not_finite(self._trained_model)
                if name is None and isinstance(
                    error, NotFiniteFeaturesError
                ):  # which may overflow before a weight does
                    name = "features"
                if name is not None:
                    state, args = self.trainer.state, self.trainer.args
                    raise NotFiniteError(diverged(name, state.global_step, args)) from error
                raise
            self.check_finite()

    def load(self, checkpoint: str) -> None:
        """Load what a checkpoint has beside Trainer's files, once the model is there that is trained."""
        self.trainer.check_run_state(read_run_state(checkpoint))
        # Sharded it is part of the model that Trainer loads; finished no step is trained from it.
        if not (self.trainer.is_sharded or self.is_finished):
            load_transfer_state(self.trainer.transfer_model, checkpoint)

    def epochs_left(self, epochs: int, max_steps: int) -> int:
        """
        Return the number of epochs, or 0 where the checkpoint is of the last step.

        Trainer would train another step where no epoch ends there (transformers 5.10 to 5.24).
        """
        self.is_finished = self.resumed_step is not None and self.resumed_step >= max_steps
        if self.is_finished:
            epochs = 0
            logger.warning(
                f"The checkpoint is of step {self.resumed_step}, and the run has {max_steps}: it is finished, and no "
                "further step is trained. To train on, raise `max_steps` or `num_train_epochs`; to train again, set "
                "`overwrite_output_dir` or give another `output_dir`."
            )
        return epochs

    def to_continue(self) -> str | None:
        """
        Return the newest whole checkpoint in `output_dir`, if any, after a check that this run wrote it.

        Raises:
            FileError: it is another run's; the message names `output_dir` and all that differs.
        """

        def find() -> str | None:
            output_dir = self.trainer.args.output_dir
            checkpoint = last_whole_checkpoint(output_dir, self._needed_parts())
            if checkpoint is None:
                return None
            found = self._differences(checkpoint)
            if found:
                raise FileError(
                    f"`output_dir={output_dir!r}` has a checkpoint of another run, {os.path.basename(checkpoint)!r}. "
                    f"What differs: {found}. Give this run another `output_dir`, or set `overwrite_output_dir` to "
                    "delete the checkpoints there and start again"
                    + ("." if found.essential else ", or `resume_from_checkpoint` to go on from one anyway.")
                )
            return checkpoint

        return self._on_main_process(find)

    def _chosen(self, given: str | bool) -> str:
        if given is True:
            checkpoint = last_whole_checkpoint(self.trainer.args.output_dir, self._needed_parts())
            if checkpoint is None:
                raise FileError(
                    f"No valid checkpoint found in output directory ({self.trainer.args.output_dir}), which "
                    "`resume_from_checkpoint=True` asks for."
                )
        else:
            checkpoint = str(given)
            check_whole(checkpoint, self._needed_parts())
        found = self._differences(checkpoint)
        if found.essential:
            raise FileError(
                f"The checkpoint {checkpoint!r} (`resume_from_checkpoint`) is of another run. What differs: {found}. "
                "Resume with what it was trained with, or load its weights with `from_pretrained` and start a new "
                "run."
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
                f"{checkpoint} does not say which run wrote it (plain Trainer, or an older release), so its arguments "
                "and its data cannot be compared with those of this run."
            )
        return differences(saved or {}, self._run_record())

    def _run_record(self) -> dict[str, Any]:
        """Return the description of this run, made once per training."""
        if self._record is None:
            trainer = self.trainer
            model = trainer.model if trainer.transfer_model is None else trainer.transfer_model.model
            data = {"train_dataset": trainer.train_dataset, "source_dataset": None}
            data.update({source.argument: source.dataset for source in trainer.sources})
            # The columns that the model sees: others, such as texts that were tokenized, come and go with what else is
            # asked for.
            seen = {
                name: None if rows is None else trainer._with_collator(rows, None, "training")[0]
                for name, rows in data.items()
            }
            self._record = describe_run(
                type(trainer), trainer.args, model, seen, has_all_weights=not trainer.is_sharded
            )
        return self._record

    def _needed_parts(self) -> Parts:
        """Return the files that a checkpoint of this run must have, each by the names that it may have."""
        trainer = self.trainer
        state: list[tuple[str, ...]] = [(STATE_NAME,)]
        if trainer.is_deepspeed_enabled:
            return state if trainer.args.save_only_model else [*state, ("global_step*",)]
        if trainer.args.save_only_model:
            return [WEIGHTS, *state]
        rest = [("scheduler.pt",), ("rng_state*.pth",), *state]
        if trainer.is_fsdp_enabled:
            return [("pytorch_model_fsdp*",), ("optimizer*",), *rest]
        return [WEIGHTS, ("optimizer.pt", "optimizer.bin"), *rest]

    # One run in a folder

    @contextmanager
    def _own_output_dir(self, trial: Any) -> Iterator[None]:
        """Check that checkpoints can be written, and lock the folder; trials of a search have their own folders."""
        self._staging_name = self._on_main_process(staging_name)
        if self.trainer.args.save_strategy == SaveStrategy.NO or trial is not None:
            yield
            return
        output_dir = self.trainer.args.output_dir
        with ExitStack() as stack:

            def begin() -> None:
                longest = f"{self._staging_dir}/{PREFIX_CHECKPOINT_DIR}-1000000000/{LONGEST_FILE}"
                check_output_dir(output_dir, [longest])
                stack.enter_context(locked(Path(output_dir, LOCK_NAME), output_dir, "training"))
                remove_leftovers(output_dir)

            self._on_main_process(begin)
            yield

    def _on_main_process(self, function: Callable[[], Any]) -> Any:
        """Call a function on the main process; return its result, or raise its `FileError`, on all processes."""
        outcome: list[Any] = [None, None]
        if self.trainer.args.process_index == 0:
            try:
                outcome[0] = function()
            except FileError as error:
                outcome[1] = error
        if self.trainer.args.world_size > 1:
            broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    # Writing

    def staged(self, run_dir: str) -> str:
        """Return the folder in which a run's checkpoints are now: while one is written, that of this process."""
        return os.path.join(run_dir, self._staging_dir) if self.is_staging else run_dir

    @property
    def _staging_dir(self) -> str:
        return self._staging_name or staging_name()

    def save(self, write: Callable[[], None], run_dir: str) -> str:
        """
        Write a checkpoint, rename its folder once it is whole, and return its final name; a collective.

        `write` writes all of Trainer's files to where [`Checkpoints.staged`] says; the folder will be in `run_dir`.
        """
        trainer = self.trainer
        folder = f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
        staged, final = os.path.join(run_dir, self._staging_dir, folder), os.path.join(run_dir, folder)
        self.check_finite()
        if trainer.args.local_process_index == 0:
            shutil.rmtree(os.path.dirname(staged), ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        self.is_staging = True
        try:
            write()
        finally:
            self.is_staging = False
        if trainer.transfer_model is not None and not trainer.args.save_only_model:
            state = transfer_state(trainer.transfer_model)  # a collective
            state.update({f"{RUN}{name}": tensor for name, tensor in trainer.run_state().items()})
            if trainer.args.should_save:
                save_file(state, os.path.join(staged, TRANSFER_STATE_NAME))
        self.check_finite()  # now with a head that was fit for this
        self._point_at_best(run_dir, staged)
        record = self._on_main_process(self._run_record)
        trainer.accelerator.wait_for_everyone()
        if trainer.args.process_index == 0:
            self._publish(staged, final, record)
        trainer.accelerator.wait_for_everyone()
        # Also on every other node without a shared file system; with one it is done already.
        if trainer.args.local_process_index == 0 and os.path.isdir(staged):
            self._publish(staged, final, record)
        trainer.accelerator.wait_for_everyone()
        return final

    def discard_old(self, run_dir: str) -> None:
        """Delete the checkpoints beyond `save_total_limit`."""
        if self.trainer.args.should_save:
            best = self.trainer.state.best_model_checkpoint
            discard_old_checkpoints(run_dir, self.trainer.args.save_total_limit, best)

    def _publish(self, staged: str, final: str, record: dict[str, Any]) -> None:
        """Add the manifest of a checkpoint, and rename its folder; a `RuntimeError` if files are gone."""
        parts = list(self._needed_parts())
        if self.trainer.transfer_model is not None and not self.trainer.args.save_only_model:
            parts.append((TRANSFER_STATE_NAME,))
        # A node that shares no files has only what its own processes wrote.
        problem = lacking(staged, parts if self.trainer.args.process_index == 0 else [])
        if problem is not None:
            raise RuntimeError(
                f"{staged} is not published as a checkpoint: {problem}. Something else than this run deletes or "
                f"writes files in `output_dir={self.trainer.args.output_dir!r}`, or the disk loses them. Earlier "
                "checkpoints there are as they were."
            )
        write_manifest(staged, record)
        publish(staged, final)

    def _point_at_best(self, run_dir: str, staged: str) -> None:
        """Correct `best_model_checkpoint`: Trainer looked for it beside the folder in which it writes."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.trainer.state.best_global_step}"
        if not self.trainer.state.best_global_step or not any(
            map(os.path.exists, (f"{run_dir}/{name}", f"{staged}/../{name}"))
        ):
            return
        self.trainer.state.best_model_checkpoint = os.path.join(run_dir, name)
        if self.trainer.args.should_save:
            self.trainer.state.save_to_json(os.path.join(staged, STATE_NAME))

    @property
    def _trained_model(self) -> torch.nn.Module:
        trainer = self.trainer
        return trainer.model if trainer.transfer_model is None or trainer.is_fsdp_enabled else trainer.transfer_model

    def check_finite(self) -> None:
        """Raise a [`NotFiniteError`] on all processes if a weight is NaN or infinite."""
        trainer = self.trainer
        name = not_finite(self._trained_model)
        if trainer.is_sharded and trainer.args.world_size > 1:
            found = torch.tensor(name is not None, dtype=torch.float32, device=trainer.args.device)
            torch.distributed.all_reduce(found)
            name = name or ("a weight of another process" if found.item() else None)
        if name is not None:
            raise NotFiniteError(diverged(name, trainer.state.global_step, trainer.args))


def diverged(name: str, step: int, args: Any) -> str:
    """Return the message for a weight `name` that is not finite."""
    precision = " Train with `bf16` or in float32 instead of `fp16`." if getattr(args, "fp16", False) else ""
    return (
        f"Training has diverged: at step {step} `{name}` is not finite. No checkpoint was written over an earlier "
        f"one. Lower `learning_rate` (got {args.learning_rate}), raise `warmup_steps`, or set `max_grad_norm` (got "
        f"{args.max_grad_norm}); look for NaN and infinity in the data.{precision}"
    )


def not_finite(model: nn.Module) -> str | None:
    """
    Return the name of the first parameter or buffer that is not finite, `None` where all are.

    Of a sharded model, this process's part is checked. Buffers may be infinite (masks), but not NaN. The device is
    waited for once.
    """

    def has_values(tensor: Tensor) -> bool:
        return tensor.is_floating_point() and tensor.numel() > 0 and not tensor.is_meta

    checks: dict[str, Tensor] = {}
    for name, tensor in model.named_parameters():
        if has_values(part := _local_part(tensor)):
            checks[name] = part.isfinite().all()
    for name, buffer in model.named_buffers():
        if has_values(part := _local_part(buffer)):
            checks[name] = part.isnan().any().logical_not()
    device = next(iter(checks.values())).device if checks else None
    if not checks or torch.stack([check.to(device) for check in checks.values()]).all():
        return None
    return next(name for name, check in checks.items() if not check)


def _local_part(tensor: Tensor) -> Tensor:
    part = getattr(tensor, "ds_tensor", tensor).detach()  # ZeRO-3
    return part.to_local() if hasattr(part, "to_local") else part  # FSDP2
