"""Checkpoints that are there whole or not at all, wherever the process is killed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints
from transformers.utils import logging

from ..trainer_base import TrainerBase


logger = logging.get_logger(__name__)

# Names with an underscore in front are left out of uploads to the Hub, and are no `checkpoint-*`.
STAGING_DIR = "_saving"
DISCARDED_PREFIX = "_deleting-"
STATE_NAME = "trainer_state.json"
JIT_SENTINEL = "checkpoint-is-incomplete.txt"


class WholeCheckpointsMixin(TrainerBase):
    """
    For a [`~transformers.Trainer`]: a folder `checkpoint-*` appears, and goes, in one rename.

    Trainer writes a checkpoint file by file into its final folder and deletes old ones file by file, so that a process
    that is killed leaves a folder behind that `get_last_checkpoint` takes and that lacks the optimizer, or more. Here the
    files are written to `_saving/` in the same output folder, which is renamed when all ranks are done.
    """

    _stages_checkpoint = False
    _staged_push: str | None = None

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        """
        [`~transformers.Trainer.train`]; `resume_from_checkpoint=True` is the newest whole checkpoint.

        Raises:
            ValueError: `resume_from_checkpoint` names an incomplete checkpoint, or there is none.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"No valid checkpoint found in output directory ({self.args.output_dir}).")
        elif resume_from_checkpoint:
            check_whole(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _get_output_dir(self, trial):
        run_dir = super()._get_output_dir(trial)
        return os.path.join(run_dir, STAGING_DIR) if self._stages_checkpoint else run_dir

    def _save_checkpoint(self, model, trial):
        run_dir = self._get_output_dir(trial)
        folder = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staged, final = os.path.join(run_dir, STAGING_DIR, folder), os.path.join(run_dir, folder)
        if self.args.local_process_index == 0:
            remove_leftovers(run_dir)
        self.accelerator.wait_for_everyone()
        with self._staging():
            super()._save_checkpoint(model, trial)
        self._point_at_best(run_dir, staged)
        self.accelerator.wait_for_everyone()
        # On every node without a shared file system; the others find it done.
        for turn in (self.args.process_index == 0, self.args.local_process_index == 0):
            if turn and os.path.isdir(staged):
                publish(staged, final)
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
        if self._stages_checkpoint:
            # An upload reads the folder in the background, so it has to wait for the final name.
            self._staged_push = checkpoint_folder
        else:
            super()._push_from_checkpoint(checkpoint_folder)

    def _finalize_training(self, trial, *args, **kwargs):
        # With `save_total_limit=1` Trainer deletes all but the best here, the newest included.
        best = self.state.best_model_checkpoint
        if self.args.should_save and best is not None and self.args.save_total_limit == 1:
            for checkpoint in sort_checkpoints(self._get_output_dir(trial)):
                if not os.path.samefile(checkpoint, best):
                    discard(checkpoint)
        return super()._finalize_training(trial, *args, **kwargs)


def publish(staged: str, final: str) -> None:
    """Give a checkpoint its final name; on file systems that rename no folders, copy it there with `trainer_state.json` last."""
    discard(final)
    try:
        os.rename(staged, final)
    except OSError:
        shutil.copytree(staged, final, ignore=shutil.ignore_patterns(STATE_NAME), dirs_exist_ok=True)
        if os.path.exists(os.path.join(staged, STATE_NAME)):
            shutil.copy(os.path.join(staged, STATE_NAME), final)
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
    shutil.rmtree(os.path.join(run_dir, STAGING_DIR), ignore_errors=True)
    for leftover in Path(run_dir).glob(f"{DISCARDED_PREFIX}{PREFIX_CHECKPOINT_DIR}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def missing_part(checkpoint: str) -> str | None:
    """
    What shows that a checkpoint is incomplete, `None` for a whole one.

    Trainer writes `trainer_state.json` last; the checkpoints of its `enable_jit_checkpoint` carry a mark until they are done.
    """
    if os.path.exists(os.path.join(checkpoint, JIT_SENTINEL)):
        return f"it has a {JIT_SENTINEL}"
    try:
        TrainerState.load_from_json(os.path.join(checkpoint, STATE_NAME))
    except FileNotFoundError:
        return f"it has no {STATE_NAME}"
    except (ValueError, TypeError):
        return f"its {STATE_NAME} ends early"
    return None


def last_whole_checkpoint(output_dir: str) -> str | None:
    """The whole checkpoint of the highest step in `output_dir`; incomplete ones, of other tools, are skipped with a warning."""
    for checkpoint in reversed(sort_checkpoints(output_dir)):
        problem = missing_part(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning(f"Not resuming from {checkpoint}: {problem}, so it was not written to its end.")
    return None


def check_whole(checkpoint: str) -> None:
    """
    Check that a checkpoint can be resumed from.

    Raises:
        ValueError: it is not there or incomplete; the message names the newest whole one beside it.
    """
    problem = missing_part(checkpoint) if os.path.isdir(checkpoint) else "there is no such folder"
    if problem is not None:
        whole = last_whole_checkpoint(os.path.dirname(os.path.abspath(checkpoint)))
        raise ValueError(
            f"Can't find a valid checkpoint at {checkpoint} (`resume_from_checkpoint`): {problem}. "
            + (f"The newest whole checkpoint beside it is {whole!r}." if whole else "There is no whole one beside it.")
        )
