"""Several runs of a comparison at a time: the parent hands runs out, workers do them, the parent keeps the results."""

import contextlib
import functools
import importlib.util
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import cloudpickle
import torch

from ..heads import HEADS
from ..methods import METHODS
from ..utils.lock import host_name
from ..utils.validation import ConfigError, first_sentence
from .experiment import Experiment
from .identity import is_own, own_classes
from .progress import Progress, quiet
from .store import Run


ATTEMPTS = 3  # of a run whose worker dies, and of starting a worker
SECONDS_BETWEEN_STEPS = 0.5  # between two messages about the steps of a run
SECONDS_TO_END = 5  # for the threads that read from a worker that was killed
KEPT_LINES = 5  # of the last lines of a worker that died, for the message
# `accelerate launch` and torchrun tell a process by these that it is one of several. A worker is a process of its own.
OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class ComparisonError(RuntimeError):
    """No method, or no worker, could be run."""


class WorkerLost(RuntimeError):
    """A worker ended before it answered."""


@dataclass(frozen=True)
class Failure:
    """An error of a run, or of the start of a worker: its first sentence, and the whole traceback."""

    reason: str
    text: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Return an error in a form that another process can read."""
        return cls(first_sentence(error), "".join(traceback.format_exception(error)))


Answer = dict[str, Any] | Failure
DoRuns = Callable[[Callable[[], Run | None]], Generator[tuple[Run, Answer], None, None]]


# In a worker


class RunExecutor:
    """Does the runs that it is given, in a worker; data and model of the comparison, by [`pack`], are loaded once."""

    def __init__(self, setup: bytes):
        folder, config, methods, heads = cloudpickle.loads(setup)
        if os.path.isdir(folder):  # on another machine there may be none, and relative paths then lead nowhere
            os.chdir(folder)
        METHODS.update(methods)
        HEADS.update(heads)
        self.experiment = Experiment(config)

    def do(self, run: Run, progress: Progress) -> Answer:
        """Do a run; return its result, or the error that ended it."""
        try:
            self._check_same(run)
            return self.experiment.train_and_score(self.experiment.method_of(run), run, progress)
        except Exception as error:
            failure = Failure.of(error)
        self.experiment.clean_up()
        return failure

    def _check_same(self, run: Run) -> None:
        """Raise a RuntimeError if data, model or versions here are not those that the run was planned with."""
        mine = self.experiment.make_run(self.experiment.method_of(run), run.kind, run.seed, run.setting).fingerprint
        # The code of a class that was sent has no file here.
        differing = [name for name in run.fingerprint if name != "code" and run.fingerprint[name] != mine.get(name)]
        if differing:
            raise RuntimeError(
                f"The worker on {host_name()} has another {' and '.join(map(repr, differing))} than the "
                "process that planned the run. All machines need the same files and versions."
            )


class StepsTo(Progress):
    """Tells a function of the steps of a run, not more often than every [`SECONDS_BETWEEN_STEPS`]."""

    def __init__(self, tell: Callable[[int, int], None]):
        super().__init__()
        self.tell, self.told = tell, 0.0

    def step(self, run: Run, step: int, steps: int) -> None:
        """Tell that the run has made `step` of `steps` steps."""
        if time.monotonic() - self.told > SECONDS_BETWEEN_STEPS:
            self.told = time.monotonic()
            self.tell(step, steps)


READY, STEP, ANSWER = "ready", "step", "answer"


def serve(inbox: BinaryIO, outbox: BinaryIO) -> None:
    """Do the runs that come from the parent, until that ends: the program of a local worker."""
    jobs: queue.SimpleQueue = queue.SimpleQueue()

    def read() -> None:
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                jobs.put(pickle.load(inbox))
        os._exit(1)  # also in the middle of a run: nobody waits for it

    def tell(kind: str, value: Any = None) -> None:
        outbox.write(pickle.dumps((kind, value)))
        outbox.flush()

    threading.Thread(target=read, daemon=True).start()
    with quiet():
        try:
            executor = RunExecutor(jobs.get())
        except Exception as error:
            tell(READY, Failure.of(error))
            return
        tell(READY)
        while True:
            tell(ANSWER, executor.do(jobs.get(), StepsTo(lambda *steps: tell(STEP, steps))))


# In the parent


@dataclass(frozen=True)
class Place:
    """
    A place for a worker: the threads that it may use, and the GPU that it sees, as in `CUDA_VISIBLE_DEVICES`.

    `node` is the machine, as Ray names it; this one if not given.
    """

    threads: int
    gpu: str | None = None
    node: str | None = None


class Worker(ABC, threading.Thread):
    """
    A worker, as the parent sees it: a thread that waits for what the worker answers.

    It puts `(worker, run, answer)` into `events`. Run and answer are `None` when the worker is ready; the answer is a
    [`WorkerLost`] or, without a run, a [`Failure`] where it has ended.
    """

    def __init__(self, place: Place, events: queue.SimpleQueue, progress: Progress):
        super().__init__(daemon=True)
        self.place, self.events, self.progress = place, events, progress
        self.jobs: queue.SimpleQueue[Run | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Start the worker, then hand it runs and wait for its answers, until it is lost."""
        job = None
        try:
            failure = self.open()
            self.events.put((self, None, failure))
            while (job := self.jobs.get()) is not None:
                self.events.put((self, job, self.do(job)))
        except WorkerLost as error:
            self.events.put((self, job, error))
        except Exception as error:
            self.events.put((self, job, WorkerLost(f"{type(error).__name__}: {first_sentence(error)}")))

    @abstractmethod
    def open(self) -> Failure | None:
        """Wait until it has loaded data and model; raise [`WorkerLost`] if it ended."""

    @abstractmethod
    def do(self, run: Run) -> Answer:
        """Have a run done; return its result or its error. Raise [`WorkerLost`] if the worker ended."""

    @abstractmethod
    def stop(self) -> None:
        """End it, whatever it does."""


# Unlike `multiprocessing`, this does not run the script again that the parent is. What libraries print goes to stderr.
PROGRAM = """
import os, sys
sys.path[:] = {path!r}
pipes = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)
from merlin_hf.comparison.workers import serve
serve(*pipes)
"""


class LocalWorker(Worker):
    """A process of this machine, with `folder` for temporary files. It ends with the parent, however that ends."""

    def __init__(self, place: Place, events: queue.SimpleQueue, progress: Progress, setup: bytes, folder: str):
        super().__init__(place, events, progress)
        self.setup = setup
        environment = {name: value for name, value in os.environ.items() if name not in OF_A_LAUNCHER}
        environment.update(OMP_NUM_THREADS=str(place.threads), TMPDIR=folder)
        if place.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = place.gpu
        program = PROGRAM.format(path=[path or os.getcwd() for path in sys.path])
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is the parent's
        )
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.reader = threading.Thread(target=self._read_lines, daemon=True)
        self.reader.start()

    def open(self) -> Failure | None:
        """Wait until it has loaded data and model."""
        self._send(self.setup)
        return self._receive()[1]

    def do(self, run: Run) -> Answer:
        """Have a run done; return its result or its error."""
        self._send(run)
        while True:
            kind, value = self._receive()
            if kind == ANSWER:
                return value
            self.progress.step(run, *value)

    def stop(self) -> None:
        """End it, whatever it does."""
        self._kill()
        self.jobs.put(None)
        for thread, pipes in (
            (self, (self.process.stdin, self.process.stdout)),
            (self.reader, (self.process.stderr,)),
        ):
            thread.join(SECONDS_TO_END)
            for pipe in pipes:
                if pipe is None or thread.is_alive():
                    continue
                with contextlib.suppress(OSError):
                    pipe.close()

    def _kill(self) -> int:
        """End the process and those that it has started; return its exit status."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        return self.process.wait()

    def _send(self, value: Any) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(pickle.dumps(value))
            self.process.stdin.flush()
        except OSError:
            raise self._lost() from None

    def _receive(self) -> Any:
        assert self.process.stdout is not None
        try:
            return pickle.load(self.process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise self._lost() from None

    def _lost(self) -> WorkerLost:
        with contextlib.suppress(subprocess.TimeoutExpired):  # it has closed its stdout, and may be about to end
            self.process.wait(SECONDS_TO_END)
        status = self._kill()
        self.reader.join(SECONDS_TO_END)
        how = f"it ended with exit status {status}"
        if status < 0:
            with contextlib.suppress(ValueError):
                how = f"it was ended by {signal.Signals(-status).name}"
        said = f"; it said: {' / '.join(self.last_lines)}" if self.last_lines else ""
        return WorkerLost(f"{how}{said}")

    def _read_lines(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            text = line.decode(errors="replace").rstrip()
            if text:
                self.last_lines.append(text)
                self.progress.pass_on(text)


def one_by_one(
    experiment: Experiment, progress: Progress, next_run: Callable[[], Run | None]
) -> Generator[tuple[Run, Answer], None, None]:
    """Do the runs that `next_run` gives in this process, and yield each with its result or its error."""
    while (run := next_run()) is not None:
        progress.start(run)
        try:
            answer: Answer = experiment.train_and_score(experiment.method_of(run), run, progress)
        except Exception as error:
            if experiment.processes.num_processes > 1:
                raise  # the other processes may not have met it, and would wait for this one
            answer = Failure.of(error)
        if isinstance(answer, Failure):
            experiment.clean_up()
        yield run, answer


class SideBySide:
    """
    Does runs at the same time, each in a worker.

    The parent alone knows what is to be done and what is finished, so that no run is done twice. A run whose worker
    dies is done again, up to [`ATTEMPTS`] times, and `make_worker(place, events, progress)` replaces the worker.
    """

    def __init__(
        self,
        places: list[Place],
        make_worker: Callable[[Place, queue.SimpleQueue, Progress], Worker],
        progress: Progress,
    ):
        self.places, self.make_worker, self.progress = places, make_worker, progress
        self.events: queue.SimpleQueue[tuple[Worker, Run | None, Any]] = queue.SimpleQueue()
        self.workers: list[Worker] = []
        self.losses: Counter = Counter()  # of runs, and of places without a run

    def do(self, next_run: Callable[[], Run | None]) -> Generator[tuple[Run, Answer], None, None]:
        """
        Yield each run with its result or its error, as it ends; end all workers at last, also when interrupted.

        `next_run` gives a run to do; `None` where there is none, or none until another has ended.
        """
        idle: deque[Worker] = deque()
        again: deque[Run] = deque()
        busy = 0
        try:
            for place in self.places:
                self._start(place)
            while True:
                while idle and (run := again.popleft() if again else next_run()) is not None:
                    self.progress.start(run)
                    idle.popleft().jobs.put(run)
                    busy += 1
                if idle and not busy:
                    return
                worker, run, answer = self.events.get()
                if run is None:
                    if answer is None:
                        idle.append(worker)
                    else:
                        self._start_again(worker, answer)
                    continue
                busy -= 1
                if isinstance(answer, WorkerLost):
                    self._end(worker)
                    self._start(worker.place)
                    self.losses[run.key] += 1
                    message = f"The worker of {run} was lost: {answer}."
                    if self.losses[run.key] < ATTEMPTS:
                        self.progress.say(f"Warning: {message} The run is done again.")
                        again.append(run)
                        continue
                    answer = Failure(f"{message[:-1]}, {ATTEMPTS} times in a row.", message)
                else:
                    idle.append(worker)
                yield run, answer
        finally:
            for worker in list(self.workers):
                self._end(worker)

    def _start(self, place: Place) -> None:
        worker = self.make_worker(place, self.events, self.progress)
        self.workers.append(worker)
        worker.start()

    def _end(self, worker: Worker) -> None:
        worker.stop()
        self.workers.remove(worker)

    def _start_again(self, worker: Worker, why: WorkerLost | Failure) -> None:
        """Replace a worker that died before it was ready, which may be an accident; an error would come again."""
        self._end(worker)
        self.losses[worker.place] += 1
        if isinstance(why, WorkerLost) and self.losses[worker.place] < ATTEMPTS:
            self._start(worker.place)
            return
        reason = why.reason if isinstance(why, Failure) else str(why)
        self.progress.say(f"Warning: A worker could not start: {reason}")
        if not self.workers:
            raise ComparisonError(f"No worker could start: {reason}")


def pack(experiment: Experiment) -> bytes:
    """
    Return what a worker needs: the configuration, and the methods and heads that are the user's.

    Classes of a script or a notebook are sent as they are, others by the name of their module.
    """
    config = experiment.config
    methods = {one.method: one.trainer_class for one in config.methods if own_classes(one.trainer_class)}
    heads = {name: head for name, head in HEADS.items() if is_own(head)}
    try:
        return cloudpickle.dumps((os.getcwd(), config, methods, heads))
    except Exception as error:  # classes raise anything here
        names = ", ".join([*methods, *heads]) or "the configuration"
        raise ConfigError(
            f"`workers={config.workers!r}` cannot send {names} to other processes: {type(error).__name__}: "
            f"{first_sentence(error)}. Put the class into a module that can be imported, or give `workers: 1`."
        ) from error


def check_can_work(experiment: Experiment) -> None:
    """Raise a ConfigError unless the workers that the configuration asks for can be had."""
    workers, processes = experiment.config.workers, experiment.processes.num_processes
    if workers == 1:
        return
    if processes > 1:
        raise ConfigError(
            f"`workers={workers!r}` cannot be had by {processes} processes. Start `merlin-hf compare` without "
            "`accelerate launch`, so that each worker trains on one device, or give `workers: 1`."
        )
    if isinstance(workers, str) and importlib.util.find_spec("ray") is None:
        raise ConfigError(f'`workers={workers!r}` needs Ray: pip install "merlin-hf[ray]".')
    pack(experiment)


@contextlib.contextmanager
def start_workers(experiment: Experiment, progress: Progress, runs: int) -> Iterator[DoRuns]:
    """
    Make the workers that the configuration asks for, not more than `runs`, and leave nothing of them behind.

    Yields what does runs, as [`one_by_one`] and [`SideBySide.do`] do. Close its generator, whatever happens.
    """
    workers = experiment.config.workers
    if workers == 1 or runs < 1:
        yield functools.partial(one_by_one, experiment, progress)
    elif isinstance(workers, str):
        from .ray_workers import ray_workers

        with_gpus = not experiment.config.training.get("use_cpu", False)
        with ray_workers(workers, pack(experiment), with_gpus) as (places, make_worker):
            places = places[:runs]
            progress.say(f"{len(places)} workers on Ray")
            yield SideBySide(places, make_worker, progress).do
    else:
        places = local_places(min(workers, runs), experiment.device.type, progress)
        with tempfile.TemporaryDirectory(prefix="merlin_hf-", ignore_cleanup_errors=True) as folder:
            make_worker = functools.partial(LocalWorker, setup=pack(experiment), folder=folder)
            yield SideBySide(places, make_worker, progress).do


def local_places(workers: int, device: str, progress: Progress) -> list[Place]:
    """Divide the GPUs and the threads of this machine among workers, and say where they get in each other's way."""
    gpus = visible_gpus() if device == "cuda" else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if gpus and workers > len(gpus):
        progress.say(f"Warning: {workers} workers share {len(gpus)} GPUs and their memory.")
    elif device == "cpu" and workers > cores:
        progress.say(f"Warning: {workers} workers share {cores} CPUs, and slow each other down.")
    threads = max(1, torch.get_num_threads() // workers)
    progress.say(f"{workers} workers, {threads} thread{'s' if threads > 1 else ''} each")
    return [Place(threads, gpus[number % len(gpus)] if gpus else None) for number in range(workers)]


def visible_gpus() -> list[str]:
    """Return the GPUs that this process sees, as `CUDA_VISIBLE_DEVICES` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else map(str, range(torch.cuda.device_count()))
    return [name.strip() for name in names][: torch.cuda.device_count()]
