"""Operations on folders of checkpoints: write and delete them in one rename, and check that they are whole."""

import contextlib
import os
import re
import shutil
from pathlib import Path

from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints
from transformers.utils import logging

from ..utils.files import FileError
from ..utils.lock import host_name, is_running
from ..utils.manifest import MANIFEST_NAME, Parts, damage, lacking, read_manifest, sync
from ..utils.markdown import visible


logger = logging.get_logger(__name__)

# Names that begin with an underscore are not uploaded to the Hub, and do not match `checkpoint-*`.
LOCK_NAME = "_run.lock"
STAGING_PREFIX = "_saving"
DISCARDED_PREFIX = "_deleting-"
STATE_NAME = "trainer_state.json"
JIT_SENTINEL = "checkpoint-is-incomplete.txt"
LONGEST_FILE = "model-00000-of-00000.safetensors.index.json"


# Writing


def make_output_dir(output_dir: str | os.PathLike) -> None:
    """Make the folder of a run; a `FileError` if that cannot be."""
    try:
        os.makedirs(output_dir, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = visible(getattr(error, "strerror", None) or error)
        shown = visible(output_dir)
        shown = shown if len(shown) <= 200 else f"{shown[:197]}..."
        raise FileError(f"`output_dir={shown!r}` cannot be made: {reason}. Give a folder that can.") from error


def staging_name() -> str:
    """Return the name of the folder in which only this process writes, for checkpoints that are not finished."""
    return f"{STAGING_PREFIX}-{_host()}-{os.getpid()}"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", host_name())[:60]


def remove_leftovers(run_dir: str) -> None:
    """Delete unfinished folders of processes that have ended; the caller holds the lock of `run_dir`."""
    for folder in Path(run_dir).glob(f"{STAGING_PREFIX}*"):
        parts = folder.name.rsplit("-", 2)
        is_local = len(parts) == 3 and parts[1] == _host() and parts[2].isdigit()
        if not is_local or int(parts[2]) == os.getpid() or not is_running(int(parts[2])):
            shutil.rmtree(folder, ignore_errors=True)
    for leftover in Path(run_dir).glob(f"{DISCARDED_PREFIX}{PREFIX_CHECKPOINT_DIR}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def publish(staged: str, final: str) -> None:
    """
    Rename the folder of a checkpoint to its final name, and write that to the disk.

    On file systems that cannot rename folders it is copied, its manifest and `trainer_state.json` last.
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
    """Rename a folder, if there is one, then delete it, so that no part of it is taken for a checkpoint."""
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
    """Delete the oldest checkpoints beyond the limit, except the best, as transformers' `rotate_checkpoints` does."""
    if save_total_limit is None or save_total_limit <= 0:
        return
    checkpoints = sort_checkpoints(run_dir, use_mtime=True)
    kept = {checkpoints[-1]}
    if best_model_checkpoint is not None:
        kept.add(str(Path(best_model_checkpoint)))
    surplus = len(checkpoints) - max(save_total_limit, len(kept))
    for checkpoint in [checkpoint for checkpoint in checkpoints if checkpoint not in kept][: max(surplus, 0)]:
        discard(checkpoint)


# Reading


def missing_part(checkpoint: str, parts: Parts = ()) -> str | None:
    """
    Return what shows that a checkpoint is incomplete, `None` for a whole one.

    All files that a manifest in it lists must be as they were written, and it has `parts`, the files that the run
    needs, each by the names that it may have.
    """
    if os.path.exists(os.path.join(checkpoint, JIT_SENTINEL)):
        return f"it has a {JIT_SENTINEL}"
    if not os.path.isfile(os.path.join(checkpoint, STATE_NAME)):
        return f"it has no {STATE_NAME}"
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
    """Raise a `FileError`, which names the newest whole one beside it, if a checkpoint cannot be resumed from."""
    problem = missing_part(checkpoint, parts) if os.path.isdir(checkpoint) else "there is no such folder"
    if problem is not None:
        whole = last_whole_checkpoint(os.path.dirname(os.path.abspath(checkpoint)), parts)
        raise FileError(
            f"Can't find a valid checkpoint at {checkpoint} (`resume_from_checkpoint`): {problem}. "
            + (f"The newest whole checkpoint beside it is {whole!r}." if whole else "There is no whole one beside it.")
        )
