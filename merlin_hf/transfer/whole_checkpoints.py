"""Checkpoints that are there whole or not at all, wherever the process is killed, and that only their own run goes on from."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints
from transformers.utils import logging

from ..trainer_base import TrainerBase
from .manifest import MANIFEST_NAME, WEIGHTS, Parts, damage, lacking, read_manifest, sync, write_manifest
from .output_dir import RunLock, RunRefusedError, check_output_dir, remove_stale_staging, staging_name
from .run_record import describe_run, differences, read_record
from .weights import NotFiniteError, not_finite


logger = logging.get_logger(__name__)

DISCARDED_PREFIX = "_deleting-"
STATE_NAME = "trainer_state.json"
TRANSFER_STATE_NAME = "transfer_state.safetensors"
JIT_SENTINEL = "checkpoint-is-incomplete.txt"


class WholeCheckpointsMixin(TrainerBase):
    """
    For a [`~transformers.Trainer`]: a folder `checkpoint-*` appears, and goes, in one rename, with all that belongs to it.

    Trainer writes a checkpoint file by file into its final folder and deletes old ones file by file, so that a process
    that is killed leaves a folder behind that `get_last_checkpoint` takes and that lacks the optimizer, or more. Here the
    files are written to a folder of this process (`_saving-HOST-PID/`) in the same output folder. When all ranks are done,
    a manifest of them is added, all of it is brought to the disk, and the folder is renamed.

    Attributes:
        is_finished (`bool`): whether the last `train` found its checkpoint at the last step, and trained no further.
    """

    is_finished = False
    _lock: RunLock | None = None
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
            RunRefusedError: a `ValueError`: `resume_from_checkpoint` names an incomplete checkpoint or that of another run, or there
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
            output = super().train(resume_from_checkpoint, trial, *args, **kwargs)
            self.check_finite()
            return output

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
            RunRefusedError: it is another run's; the message names `output_dir` and all that differs.
        """

        def find() -> str | None:
            output_dir = self.args.output_dir
            checkpoint = last_whole_checkpoint(output_dir, self._needed_parts())
            if checkpoint is None:
                return None
            found = self._differences(checkpoint)
            if found:
                raise RunRefusedError(
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
                raise RunRefusedError(
                    f"No valid checkpoint found in output directory ({self.args.output_dir}), which `resume_from_checkpoint=True` asks for."
                )
        else:
            checkpoint = str(given)
            check_whole(checkpoint, self._needed_parts())
        found = self._differences(checkpoint)
        if found.essential:
            raise RunRefusedError(
                f"The checkpoint {checkpoint!r} (`resume_from_checkpoint`) is of another run. What differs: {found}. Resume with what it was "
                "trained with, or load its weights with `from_pretrained` and start a new run."
            )
        if found:
            logger.warning(f"Going on from {checkpoint} with changes, so the result is of neither run: {found}.")
        return checkpoint

    def _differences(self, checkpoint: str):
        try:
            saved = read_record(checkpoint)
        except ValueError as error:
            raise RunRefusedError(f"{checkpoint!r} cannot be resumed from: {error}.") from error
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
        lock = RunLock(self.args.output_dir)

        def begin() -> None:
            check_output_dir(self.args.output_dir)
            lock.acquire()
            remove_leftovers(self.args.output_dir)

        try:
            self._on_main_process(begin)
            yield
        finally:
            lock.release()

    def _on_main_process(self, function: Callable[[], Any]) -> Any:
        """Return what a function returns on the main process, or raise what it refuses, on all processes of the run."""
        outcome: list[Any] = [None, None]
        if self.args.process_index == 0:
            try:
                outcome[0] = function()
            except RunRefusedError as error:
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

    def check_finite(self) -> None:
        """
        Check that all weights are finite, on all processes.

        Raises:
            NotFiniteError: one is NaN or infinite; the message names it and what to change.
        """
        transfer_model = getattr(self, "transfer_model", None)
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        name = not_finite(self.model if transfer_model is None or self.is_fsdp_enabled else transfer_model)
        if is_sharded and self.args.world_size > 1:
            found = torch.tensor(name is not None, dtype=torch.float32, device=self.args.device)
            torch.distributed.all_reduce(found)
            name = name or ("a weight of another process" if found.item() else None)
        if name is not None:
            raise NotFiniteError(diverged(name, self.state.global_step, self.args))


def diverged(name: str, step: int, args: Any) -> str:
    """Return the message for weights that are not finite."""
    precision = " Train with `bf16` or in float32 instead of `fp16`." if getattr(args, "fp16", False) else ""
    return (
        f"Training has diverged: at step {step} `{name}` is not finite. No checkpoint was written over an earlier one. Lower `learning_rate` "
        f"(got {args.learning_rate}), raise `warmup_steps`, or set `max_grad_norm` (got {args.max_grad_norm}); look for NaN and "
        f"infinity in the data.{precision}"
    )


def publish(staged: str, final: str) -> None:
    """
    Give a checkpoint its final name, and have that on the disk; on file systems that rename no folders, copy it there with its manifest
    and `trainer_state.json` last.
    """
    discard(final)
    try:
        os.rename(staged, final)
    except OSError:
        last = (STATE_NAME, MANIFEST_NAME)
        shutil.copytree(staged, final, ignore=shutil.ignore_patterns(*last), dirs_exist_ok=True)
        for name in last:
            if os.path.exists(os.path.join(staged, name)):
                shutil.copy(os.path.join(staged, name), final)
    sync(os.path.dirname(final))
    shutil.rmtree(os.path.dirname(staged), ignore_errors=True)


def discard(checkpoint: str) -> None:
    """Delete a folder, if it is there, under another name, so that no part of it is ever taken for a checkpoint."""
    if not os.path.isdir(checkpoint):
        return
    path = Path(checkpoint)
    doomed = path.with_name(f"{DISCARDED_PREFIX}{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    try:
        os.rename(path, doomed)
    except OSError:  # a file system that renames no folders
        (path / STATE_NAME).unlink(missing_ok=True)
        doomed = path
    shutil.rmtree(doomed, ignore_errors=True)


def discard_all(output_dir: str) -> None:
    """Delete all checkpoints in a folder."""
    checkpoints = sort_checkpoints(output_dir)
    if checkpoints:
        names = ", ".join(os.path.basename(checkpoint) for checkpoint in checkpoints)
        logger.warning(f"`overwrite_output_dir`: deleting {names} in {output_dir}.")
    for checkpoint in checkpoints:
        discard(checkpoint)


def discard_old_checkpoints(run_dir: str, save_total_limit: int | None, best_model_checkpoint: str | None) -> None:
    """What [`~transformers.trainer_utils.rotate_checkpoints`] deletes: the oldest beyond the limit, but never the best."""
    if save_total_limit is None or save_total_limit <= 0:
        return
    checkpoints = sort_checkpoints(run_dir, use_mtime=True)
    kept = {checkpoints[-1]}
    if best_model_checkpoint is not None:
        kept.add(str(Path(best_model_checkpoint)))
    surplus = len(checkpoints) - max(save_total_limit, len(kept))
    for checkpoint in [checkpoint for checkpoint in checkpoints if checkpoint not in kept][: max(surplus, 0)]:
        discard(checkpoint)


def remove_leftovers(run_dir: str) -> None:
    """Delete what a killed process had begun to write or to delete."""
    remove_stale_staging(run_dir)
    for leftover in Path(run_dir).glob(f"{DISCARDED_PREFIX}{PREFIX_CHECKPOINT_DIR}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def missing_part(checkpoint: str, parts: Parts = ()) -> str | None:
    """
    Return what shows that a checkpoint is incomplete, `None` for a whole one.

    Args:
        checkpoint (`str`): its folder. With a manifest, all files that it lists must be as they were written.
        parts (`Sequence[tuple[str, ...]]`, *optional*): the files that the run needs, each by the names that it may have.
    """
    if os.path.exists(os.path.join(checkpoint, JIT_SENTINEL)):
        return f"it has a {JIT_SENTINEL}"
    try:
        manifest = read_manifest(checkpoint)
        problem = None if manifest is None else damage(checkpoint, manifest["files"])
        if problem is not None:
            return problem
        # Checksums and sizes say more than the look of the files does.
        problem = lacking(checkpoint, parts)
        if problem is not None:
            is_written_so = manifest is not None and problem.startswith("it has no ")
            return f"{problem} (written with `save_only_model=True`, or in another way)" if is_written_so else problem
        TrainerState.load_from_json(os.path.join(checkpoint, STATE_NAME))
    except FileNotFoundError:
        return f"it has no {STATE_NAME}"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except (ValueError, TypeError) as error:
        return str(error) if MANIFEST_NAME in str(error) else f"its {STATE_NAME} ends early"
    return None


def last_whole_checkpoint(output_dir: str, parts: Parts = ()) -> str | None:
    """Return the whole checkpoint of the highest step in `output_dir`; incomplete ones are skipped with a warning."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for checkpoint in reversed(sort_checkpoints(output_dir)):
            problem = missing_part(checkpoint, parts)
            if problem is None:
                return checkpoint
            logger.warning(f"Not resuming from {checkpoint}: {problem}, so it is not whole.")
    return None


def check_whole(checkpoint: str, parts: Parts = ()) -> None:
    """
    Check that a checkpoint can be resumed from.

    Raises:
        RunRefusedError: it is not there or incomplete; the message names the newest whole one beside it.
    """
    problem = missing_part(checkpoint, parts) if os.path.isdir(checkpoint) else "there is no such folder"
    if problem is not None:
        whole = last_whole_checkpoint(os.path.dirname(os.path.abspath(checkpoint)), parts)
        raise RunRefusedError(
            f"Can't find a valid checkpoint at {checkpoint} (`resume_from_checkpoint`): {problem}. "
            + (f"The newest whole checkpoint beside it is {whole!r}." if whole else "There is no whole one beside it.")
        )
