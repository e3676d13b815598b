"""Show the progress of a comparison: bars in a terminal, lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import datasets
import transformers
from transformers import TrainerCallback

from ..utils.markdown import visible
from .store import Run


SECONDS_BETWEEN_LINES = 60


class Progress:
    """A line for each run, and one a minute in between; nothing without a stream, as on other processes."""

    def __init__(self, stream: Any = None):
        self.stream = stream
        self.runs = self.done = 0
        self.spoke = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def say(self, text: str) -> None:
        """Say one line."""
        if self.stream is not None:
            self.stream.write(visible(text, keep_lines=True) + "\n")  # at once, as workers speak at the same time
            self.stream.flush()
            self.spoke = time.monotonic()

    def pass_on(self, text: str) -> None:
        """Say a line that a worker has written to its stderr, also where nothing else is said."""
        if self.stream is None:
            sys.stderr.write(text + "\n")
        else:
            self.say(text)

    def expect(self, runs: int, finished: int) -> None:
        """Take how many runs there are, and how many of them are finished already."""
        self.runs, self.done = runs, finished
        self.say(f"{runs} runs" + (f", {finished} of them finished before" if finished else ""))

    def start(self, run: Run) -> None:
        """Say that a run starts."""

    def step(self, run: Run, step: int, steps: int) -> None:
        """Say that a run has made so many of so many steps."""
        if time.monotonic() - self.spoke > SECONDS_BETWEEN_LINES:
            self.say(f"      {run}: step {step} of {steps}")

    def stop(self, run: Run) -> None:
        """Take a run that has ended in an error out of the display."""

    def finish(self, run: Run, text: str) -> None:
        """Say that a run is finished, with `text` as its result."""
        self.done += 1
        self.say(f"[{self.done}/{self.runs}] {run}: {text}")


class Bars(Progress):
    """A bar for all runs and one for the steps of each that goes on, below the lines of those that are finished."""

    def __init__(self, stream: Any):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

        super().__init__(stream)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self.bars = Progress(*columns, console=Console(file=stream))
        self.of_runs = self.bars.add_task("runs", total=None)
        self.of_steps: dict[str, TaskID] = {}  # by the key of the run

    def __enter__(self) -> "Bars":
        self.bars.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        """Say one line."""
        self.bars.console.print(visible(text, keep_lines=True), markup=False, highlight=False, soft_wrap=True)

    def expect(self, runs: int, finished: int) -> None:
        """Take how many runs there are, and how many of them are finished already."""
        super().expect(runs, finished)
        self.bars.update(self.of_runs, total=runs, completed=finished)

    def start(self, run: Run) -> None:
        """Say that a run starts."""
        self.stop(run)
        self.of_steps[run.key] = self.bars.add_task(visible(run), total=run.steps or None)

    def step(self, run: Run, step: int, steps: int) -> None:
        """Say that a run has made so many of so many steps."""
        self.bars.update(self.of_steps[run.key], completed=step, total=steps)

    def stop(self, run: Run) -> None:
        """Take the bar of a run away."""
        if run.key in self.of_steps:
            self.bars.remove_task(self.of_steps.pop(run.key))

    def finish(self, run: Run, text: str) -> None:
        """Say that a run is finished, with `text` as its result."""
        self.stop(run)
        super().finish(run, text)
        self.bars.update(self.of_runs, completed=self.done)


class StepCallback(TrainerCallback):
    """Tells a [`Progress`] of the steps of a run's trainer."""

    def __init__(self, progress: Progress, run: Run):
        self.progress, self.run = progress, run

    def on_step_end(self, args, state, control, **kwargs):
        """Tell of each update."""
        self.progress.step(self.run, state.global_step, state.max_steps)


def make_progress(is_main: bool, stream: Any = None) -> Progress:
    """Return bars where `stream` (stderr if not given) is a terminal and rich is installed, else lines."""
    stream = stream or sys.stderr
    if is_main and stream.isatty():
        with contextlib.suppress(ImportError):
            return Bars(stream)
    return Progress(stream if is_main else None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the messages and bars of transformers and datasets, which repeat with every run, within a block."""
    transformers_level, datasets_level = transformers.logging.get_verbosity(), datasets.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled(), not datasets.utils.are_progress_bars_disabled()
    transformers.logging.set_verbosity_error()
    datasets.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(transformers_level)
        datasets.logging.set_verbosity(datasets_level)
        if bars[0]:
            transformers.logging.enable_progress_bar()
        if bars[1]:
            datasets.enable_progress_bars()
