"""Workers on the machines of a Ray cluster."""

import contextlib
import functools
import queue
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..utils.validation import ConfigError, first_sentence
from .progress import Progress, quiet
from .store import Run
from .workers import Answer, Failure, Place, RunExecutor, StepsTo, Worker, WorkerLost


SECONDS_BETWEEN_LOOKS = 1.0  # at how far a run is


class RunActor:
    """Does runs on a machine of the cluster; the state of a Ray actor."""

    def __init__(self) -> None:
        self.steps: tuple[int, int] | None = None

    def open(self, setup: bytes) -> Failure | None:
        """Load data and model; return the error where that fails."""
        try:
            with quiet():
                self.executor = RunExecutor(setup)
        except Exception as error:
            return Failure.of(error)
        return None

    def do(self, run: Run) -> Answer:
        """Do a run; return its result or its error."""
        self.steps = None
        with quiet():
            return self.executor.do(run, StepsTo(self._keep))

    def _keep(self, *steps: int) -> None:
        self.steps = (steps[0], steps[1])

    @ray.method(concurrency_group="progress")
    def step(self) -> tuple[int, int] | None:
        """Return how many steps of how many the run has made; from another thread than [`RunActor.do`]'s."""
        return self.steps


class RayWorker(Worker):
    """An actor of a Ray cluster, which gets the comparison as `setup`, by [`~merlin_hf.comparison.workers.pack`]."""

    def __init__(self, place: Place, events: queue.SimpleQueue, progress: Progress, setup: bytes):
        super().__init__(place, events, progress)
        self.setup = setup
        actor: Any = ray.remote(concurrency_groups={"progress": 1})(RunActor)
        self.actor = actor.options(
            num_cpus=1,
            num_gpus=0 if place.gpu is None else 1,
            max_restarts=0,  # a lost one is replaced as on one machine
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(place.threads)}},
        ).remote()

    def open(self) -> Failure | None:
        """Wait until it has loaded data and model."""
        return self._result(self.actor.open.remote(self.setup))

    def do(self, run: Run) -> Answer:
        """Have a run done; return its result or its error."""
        answer = self.actor.do.remote(run)
        while not ray.wait([answer], timeout=SECONDS_BETWEEN_LOOKS)[0]:
            steps = self._result(self.actor.step.remote())
            if steps is not None:
                self.progress.step(run, *steps)
        return self._result(answer)

    def stop(self) -> None:
        """End it, whatever it does."""
        self.jobs.put(None)
        ray.kill(self.actor)

    def _result(self, promised: Any) -> Any:
        try:
            return ray.get(promised)
        except RayError as error:
            raise WorkerLost(f"{type(error).__name__}: {first_sentence(error)}") from None


@contextlib.contextmanager
def ray_workers(
    address: str, setup: bytes, with_gpus: bool
) -> Iterator[tuple[list[Place], Callable[[Place, queue.SimpleQueue, Progress], Worker]]]:
    """
    Connect to a cluster, `"ray"` or `"ray://host:port"`; yield a place for each worker, and how to start one.

    There is one for each GPU of the cluster or, where it has none, one for each machine, with all its threads.

    Raises:
        ConfigError: there is no such cluster, or nothing in it to train on.
    """
    is_mine = not ray.is_initialized()
    if is_mine:
        try:
            ray.init(address="auto" if address == "ray" else address, logging_level="WARNING")
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ConfigError(
                f"`workers={address!r}` finds no Ray cluster: {first_sentence(error)}. `ray start --head` starts one, "
                "`ray://host:port` leads to another. On one machine, `workers: 2` needs none."
            ) from error
    try:
        places = cluster_places(ray.nodes(), with_gpus)
        if not places:
            raise ConfigError(f"`workers={address!r}`: no machine of the Ray cluster has a CPU for a worker.")
        yield places, functools.partial(RayWorker, setup=setup)
    finally:
        if is_mine:
            ray.shutdown()


def cluster_places(nodes: list[dict[str, Any]], with_gpus: bool) -> list[Place]:
    """Return a place for each GPU of `ray.nodes()`, or where there is none, or none is wanted, for each machine."""
    found = []
    for node in nodes:
        cpus, gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
        if node["Alive"] and cpus:
            found.append((node["NodeID"], cpus, gpus))
    places = [
        Place(cpus // used, str(number), node)
        for node, cpus, gpus in (found if with_gpus else ())
        for used in [min(cpus, gpus)]  # an actor needs a CPU too
        for number in range(used)
    ]
    return places or [Place(cpus, None, node) for node, cpus, _ in found]
