"""Worker processes on one machine: one thread each, one GPU each, and a death costs one job.

A pool of joblib or concurrent.futures breaks as a whole when one of its processes is killed. Here every
worker is a pool of its own, looked after by one of joblib's threads, which starts it again.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from queue import SimpleQueue
from typing import Any

import torch

from icobench.errors import InputError

__all__ = ["WorkerDiedError", "WorkerPool", "default_workers", "in_process", "one_thread"]

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Read by libraries when they are loaded: SVDs in processes that share cores take ten times as long."""

RETRIES = 2
"""How often a job is tried again whose worker died."""

OURS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Signals that reach every process of a terminal or of a SLURM step, and that only the parent answers:
Ctrl-C, and what SLURM sends at a time limit. Workers are ended by SIGKILL."""

Function = Callable[..., Any]


class WorkerDiedError(RuntimeError):
    """A job's worker died as often as it was tried."""


def default_workers(device: torch.device) -> int:
    """One for each GPU, or for each core this process may use or was given by SLURM."""
    if device.type == "cuda":
        return torch.cuda.device_count()
    if (given := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        return max(1, int(given))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch in this process, as in a worker, so that results do not depend on who computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_process(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """For work that this process may do itself or leave to workers: on a CPU, with their one thread.

    Sums of several threads differ in their last bits, and a training makes another network of that.
    """
    return one_thread() if device.type == "cpu" else contextlib.nullcontext()


def _begin(parent: int) -> None:
    """In a fresh worker: one thread, signals are the parent's business, and no life after the parent's."""
    for one in OURS:
        signal.signal(one, signal.SIG_IGN)
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Block those signals in this thread: a process that it starts is born with them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OURS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_ENVIRONMENT = threading.Lock()


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """That of processes that are to have one thread."""
    with _ENVIRONMENT:
        before = {name: os.environ.get(name) for name in THREADS}
        os.environ.update(dict.fromkeys(THREADS, "1"))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


class _Slot:
    """One worker process, replaced when it dies.

    Attributes:
        rank: number among the pool's.
        device: where it works.
    """

    def __init__(self, rank: int, device: str) -> None:
        self.rank, self.device = rank, device
        self.process: ProcessPoolExecutor | None = None
        self.pid: int | None = None
        self.closed = False
        self.lock = threading.Lock()
        """Held while a process is begun, or given up: one that is begun meanwhile would outlive the pool."""

    def call(self, function: Function, job: tuple) -> Any:
        with self.lock:
            if self.closed:
                raise CancelledError
            if self.process is None:
                self._begin()
            assert self.process is not None
            answer = self.process.submit(function, *job, self.rank, self.device)
        return answer.result()

    def _begin(self) -> None:
        with _environment():
            with _deaf():  # for multiprocessing's own process, which it starts first and which unblocks
                self.process = ProcessPoolExecutor(
                    1, multiprocessing.get_context("spawn"), _begin, (os.getpid(),)
                )
            with _deaf():
                pid = self.process.submit(os.getpid)
            self.pid = pid.result()

    def end(self, close: bool = False) -> None:
        """End the process; if ``close``, none is begun again."""
        with self.lock:
            process, pid = self.process, self.pid
            self.process = self.pid = None
            self.closed = self.closed or close
        if process is None:
            return
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.shutdown(wait=True, cancel_futures=True)


class WorkerPool:
    """Several workers, or this process itself if one is enough.

    Args:
        workers: how many.
        device: where; several workers on CUDA take the GPUs in turn.
        died: called in a thread with the process number of a worker that died.
        quiet: held while workers are ended, so that none of them has a lock that others would wait for.

    Raises:
        InputError: not a positive number.
    """

    def __init__(
        self,
        workers: int,
        device: torch.device,
        died: Callable[[int], None] = lambda pid: None,
        quiet: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        if workers < 1:
            raise InputError(f"the number of workers must be positive, got {workers}")
        self.workers, self.device, self.died, self.quiet = workers, device, died, quiet
        self.closing = self.left = False
        gpus = torch.cuda.device_count() if device.type == "cuda" else 0
        names = [f"cuda:{rank % gpus}" if gpus > 1 else str(device) for rank in range(workers)]
        self.slots = [_Slot(rank, name) for rank, name in enumerate(names)]
        self.free: SimpleQueue[_Slot] = SimpleQueue()
        for slot in self.slots:
            self.free.put(slot)

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.left = True
        self._end()

    def _end(self) -> None:
        """End all workers, and let none begin."""
        self.closing = True
        with contextlib.ExitStack() as held:
            try:
                if any(slot.process for slot in self.slots):
                    with contextlib.suppress(OSError):  # a folder that is gone has no locks
                        held.enter_context(self.quiet())
            finally:
                for slot in self.slots:
                    slot.end(close=True)

    def run(self, function: Function, jobs: Sequence[tuple]) -> Iterator[tuple[tuple, Any]]:
        """Jobs with their results, as they are finished.

        Args:
            function: of a module; called with a job's values, the worker's rank and its device.
            jobs: tuples of arguments.

        Raises:
            WorkerDiedError: a job's worker died three times.
            Exception: what a job raised.
        """
        if self.workers == 1:
            for job in jobs:
                yield job, function(*job, 0, self.slots[0].device)
            return
        from joblib import Parallel, delayed

        supervise = delayed(self._supervised)
        parallel = Parallel(self.workers, backend="threading", return_as="generator_unordered", batch_size=1)
        finished = parallel(supervise(function, job) for job in jobs)
        try:
            for job, result, error in finished:
                if error is not None:
                    raise error
                yield job, result
        finally:
            # Threads that wait for a worker would otherwise be waited for.
            self._end()
            finished.close()
            self.closing = self.left
            for slot in self.slots:
                slot.closed = self.left

    def _supervised(self, function: Function, job: tuple) -> tuple[tuple, Any, BaseException | None]:
        slot = self.free.get()
        try:
            for _ in range(1 + RETRIES):
                if self.closing:
                    return job, None, CancelledError()
                try:
                    return job, slot.call(function, job), None
                except BrokenProcessPool:
                    pid = slot.pid
                    slot.end()
                    if pid is not None and not self.closing:
                        self.died(pid)
            return job, None, WorkerDiedError(f"a worker died {1 + RETRIES} times at the same piece of work")
        except BaseException as error:  # handed to the thread that waits for the results
            return job, None, error
        finally:
            self.free.put(slot)
