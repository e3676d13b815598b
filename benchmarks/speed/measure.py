"""Time and memory of things that take turns, each in a process of its own or all in one."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch


MEBIBYTE = 2**20


def clock(device: str) -> float:
    """Seconds, once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class PeakMemory:
    """
    Context manager that finds the peak of a block over what was held before it, in `mebibytes`.

    On a CPU every allocation of a tensor is counted, by the events of torch's profiler: the same number in every run,
    whatever the system's allocator keeps for itself. On a GPU it is `torch.cuda.max_memory_allocated`.
    """

    def __init__(self, device: str):
        self.device = device
        self.mebibytes = 0.0

    def __enter__(self) -> PeakMemory:
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            os.environ.setdefault("KINETO_LOG_LEVEL", "5")
            self.profiler = torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
            )
            self.profiler.__enter__()
        return self

    def __exit__(self, *error) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
            self.mebibytes = (torch.cuda.max_memory_allocated() - self.before) / MEBIBYTE
            return
        self.profiler.__exit__(*error)
        events = [e for e in self.profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        self.mebibytes = peak / MEBIBYTE


def quartiles(values: list[float]) -> dict[str, float]:
    """Median with the lower and the upper quartile."""
    if len(values) < 2:
        return {"median": values[0], "lower": values[0], "upper": values[0]}
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "lower": lower, "upper": upper}


def ratios(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """
    Return quartiles of the ratio of neighbouring turns, and `fastest`, the ratio of the fastest times.

    What slows both of two neighbours down drops out of their ratio; a disturbance of some turns does not touch the
    fastest.
    """
    found = quartiles([a / b for a, b in zip(numerator, denominator, strict=True)])
    return {**found, "fastest": min(numerator) / min(denominator)}


class Stopwatch:
    """Seconds since it was made, by the clock and of the processor's work for this process, on all threads."""

    def __init__(self, device: str):
        self.device = device
        self.start, self.worked = clock(device), time.process_time()

    def read(self) -> tuple[float, float]:
        return clock(self.device) - self.start, time.process_time() - self.worked


def libc() -> ctypes.CDLL | None:
    """glibc, or nothing where there is another one."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def keep_freed_memory() -> None:
    """
    Have the allocator keep what is freed.

    By its defaults it hands large blocks back to the system in one process and keeps them in another, by what happens
    to lie behind them, and that was measured to make equal loops differ by a tenth.
    """
    if libc() is not None:
        trim_threshold, mmap_max = -1, -4
        libc().mallopt(trim_threshold, 2**31 - 1)
        libc().mallopt(mmap_max, 0)


def release_freed_memory(above: int = 2**31) -> None:
    """Hand freed memory back all the same where it is much: other processes need it when it is their turn."""
    if libc() is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        if pages * os.sysconf("SC_PAGE_SIZE") > above:
            libc().malloc_trim(0)


def take_turns(functions: dict[str, Callable[[], object]], device: str, repeats: int, warmup: int = 2) -> dict:
    """
    Time functions in this process, A B C A B C ..., and then the peak memory of each.

    Returns:
        `dict`: by name, `times` and `work` (see [`Stopwatch`]) without the warm-up, and `mebibytes`.
    """
    results = {name: {"times": [], "work": []} for name in functions}
    for turn in range(warmup + repeats):
        for name, function in functions.items():
            watch = Stopwatch(device)
            function()
            seconds, work = watch.read()
            if turn >= warmup:
                results[name]["times"].append(seconds)
                results[name]["work"].append(work)
    for name, function in functions.items():
        with PeakMemory(device) as memory:
            function()
        results[name]["mebibytes"] = memory.mebibytes
    return results


# Processes


class Failed(Exception):
    """Something went wrong in another process; the message is its traceback."""


def _context(device: str):
    # A forked process has transformers imported already, but cannot use a GPU, nor is forking safe outside Linux.
    fork = device == "cpu" and sys.platform == "linux"
    return multiprocessing.get_context("fork" if fork else "spawn")


def _serve(connection, function: Callable, threads: int, args: tuple) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    try:
        function(*args, connection)
    except BaseException:
        connection.send(Failed(traceback.format_exc()))
    connection.close()
    os._exit(0)


def _receive(connection) -> object:
    try:
        message = connection.recv()
    except EOFError:
        raise Failed("A process ended without an answer, perhaps for want of memory.") from None
    if isinstance(message, Failed):
        raise message
    return message


@contextlib.contextmanager
def started(jobs: Iterable[tuple[Callable, tuple]], device: str, threads: int) -> Iterator[list]:
    """The connections to processes that each run a function `(*args, connection)`; they end with the block."""
    context = _context(device)
    processes, connections = [], []
    try:
        for function, args in jobs:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, function, threads, args), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            connections.append(ours)
        yield connections
    finally:
        for process in processes:
            process.kill()
            process.join()


def _call(function: Callable, args: tuple, connection) -> None:
    connection.send(function(*args))


def in_process(function: Callable, *args, device: str, threads: int) -> object:
    """What a function returns, run in a process of its own."""
    with started([(_call, (function, args))], device, threads) as (connection,):
        return _receive(connection)


class Turns:
    """
    The side of a process that does one step whenever it is told to.

    Call `wait`, then for each step `begin` and `end`; `end` reports, and waits for the next turn.
    """

    def __init__(self, device: str, connection):
        self.device = device
        self.connection = connection

    def wait(self) -> None:
        self.wants_memory = self.connection.recv() == "memory"
        self.woken = Stopwatch(self.device)

    def begin(self) -> None:
        if self.wants_memory:
            self.memory = PeakMemory(self.device).__enter__()
        self.between, _ = self.woken.read()
        self.started = Stopwatch(self.device)

    def end(self, optimizer: torch.optim.Optimizer) -> None:
        seconds, work = self.started.read()
        if self.wants_memory:
            self.memory.__exit__(None, None, None)
            answer = {"mebibytes": self.memory.mebibytes, "held_mebibytes": held(optimizer) / MEBIBYTE}
        else:
            answer = {"times": seconds, "work": work, "between": self.between}
        release_freed_memory()
        self.connection.send(answer)
        self.wait()


def held(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the weights that are trained and of the optimizer's state, which stay from one step to the next."""
    tensors = [p for group in optimizer.param_groups for p in group["params"]]
    tensors += [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)


def take_turns_in_processes(
    jobs: dict[str, tuple[Callable, tuple]], device: str, threads: int, repeats: int, warmup: int
) -> dict:
    """
    As `take_turns`, with functions `(*args, connection)` that drive a [`Turns`], each in a process of its own.

    Returns:
        `dict`: by name, `times`, `work` and `between` (the time before each step: data loading and the like), in
        seconds; `mebibytes`, the peak of a step, over `held_mebibytes`.
    """
    results = {name: {"times": [], "work": [], "between": []} for name in jobs}
    with started(jobs.values(), device, threads) as connections:
        for turn in range(warmup + repeats):
            for name, connection in zip(jobs, connections, strict=True):
                connection.send("step")
                answer = _receive(connection)
                if turn >= warmup:
                    for key, value in answer.items():
                        results[name][key].append(value)
        for name, connection in zip(jobs, connections, strict=True):
            connection.send("memory")
            results[name].update(_receive(connection))
    return results
