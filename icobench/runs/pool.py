"""Worker processes on one machine: one thread each, one GPU each; a worker that dies costs one job.

A pool of ``concurrent.futures`` breaks as a whole when one of its processes is killed. Here every worker is a
pool of its own, and a thread looks after it and starts it again.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch

from icobench.devices import one_thread
from icobench.errors import InputError, WorkerDiedError

__all__ = ["Running", "WorkerPool", "automatic_workers", "chosen_device", "default_workers", "tell_share"]

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Read by libraries when they are loaded: SVDs in processes that share cores take ten times as long."""

SAFE_PATH = "PYTHONSAFEPATH"
"""Set for children: a file such as signal.py in the current folder is no module of theirs."""

LOOK_SECONDS = 0.5
"""How often a pool looks how far its workers are."""

RETRIES = 2
"""How often a job is tried again whose worker died."""

MOST_WORKERS = 8
"""Workers at most unless more are asked for: each has its own copy of everything in memory."""

OURS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Signals of Ctrl-C and of a SLURM time limit, which reach every process of a terminal or a job step. Only
the parent answers them; it ends its workers by SIGKILL."""

Function = Callable[..., Any]


def chosen_device(name: str) -> torch.device:
    """The device called auto, cpu or cuda.

    Raises:
        InputError: unknown, or not on this machine.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is available")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def default_workers(device: torch.device) -> int:
    """One for each GPU, or for each core this process may use or was given by SLURM."""
    if device.type == "cuda":
        return torch.cuda.device_count()
    if (given := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        return max(1, int(given))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def automatic_workers(device: torch.device) -> int:
    """One for each core or GPU, at most :data:`MOST_WORKERS`."""
    return max(1, min(default_workers(device), MOST_WORKERS))


_share_file: int | None = None
"""In a worker: where it says how far it is with its job."""


def _share_path(messages: Path | str) -> Path:
    return Path(messages).with_name("share")


def tell_share(share: float) -> None:
    """In a worker: say which share of the job is finished, for :attr:`Running.share`."""
    if _share_file is not None:
        with contextlib.suppress(OSError):  # a full disk
            os.pwrite(_share_file, struct.pack("d", share), 0)


class Running(NamedTuple):
    """A job under way.

    Attributes:
        job: its values.
        begun: when, by ``time.monotonic``.
        share: which share is finished, 0 where the job does not say.
    """

    job: tuple
    begun: float
    share: float


def _begin(parent: int, messages: str) -> None:
    """In a fresh worker: one thread, no signals that are meant for the parent, no life after the parent's.

    What it writes to standard error goes to the file ``messages``, so that its last words are known.
    """
    global _share_file
    target = os.open(messages, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 2)
    os.close(target)
    _share_file = os.open(_share_path(messages), os.O_WRONLY | os.O_CREAT)
    faulthandler.enable()
    for number in OURS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Block those signals in this thread, and with it in every process that it starts meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OURS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_ENVIRONMENT = threading.Lock()


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Set the environment of processes that are to have one thread, and no modules of the current folder."""
    with _ENVIRONMENT:
        before = {name: os.environ.get(name) for name in (*THREADS, SAFE_PATH)}
        os.environ.update(dict.fromkeys(before, "1"))
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
        job: what it is at, and since when; None while it waits.
    """

    def __init__(self, rank: int, device: str) -> None:
        self.rank, self.device = rank, device
        self.process: ProcessPoolExecutor | None = None
        self.pid: int | None = None
        self.closed = False
        self.job: tuple[tuple, float] | None = None
        self.folder: tempfile.TemporaryDirectory | None = None
        self.lock = threading.Lock()
        """Held while a process is started or ended: one that starts while the pool ends would outlive it."""

    def call(self, function: Function, job: tuple) -> Any:
        with self.lock:
            if self.closed:
                raise CancelledError
            if self.process is None:
                self._start()
            assert self.process is not None
            with contextlib.suppress(OSError):
                _share_path(self.messages).write_bytes(struct.pack("d", 0.0))
            self.job = job, time.monotonic()
            answer = self.process.submit(function, *job, self.rank, self.device)
        try:
            return answer.result()
        finally:
            self.job = None

    def running(self) -> Running | None:
        """What it is at."""
        if (job := self.job) is None:
            return None
        try:
            share = struct.unpack("d", _share_path(self.messages).read_bytes())[0]
        except (OSError, struct.error):
            share = 0.0
        return Running(*job, share)

    @property
    def messages(self) -> Path:
        """Where the worker's standard error goes; the folder is made when it is first asked for."""
        if self.folder is None:
            self.folder = tempfile.TemporaryDirectory(prefix="icobench-")
        return Path(self.folder.name) / "messages"

    def _start(self) -> None:
        with _environment():
            with _deaf():  # for multiprocessing's own process, which it starts first and which unblocks
                self.process = ProcessPoolExecutor(
                    1, multiprocessing.get_context("spawn"), _begin, (os.getpid(), str(self.messages))
                )
            with _deaf():
                pid = self.process.submit(os.getpid)
            self.pid = pid.result()

    def last_words(self) -> str:
        """What the worker wrote last to standard error: a line, empty if there is none."""
        try:
            lines = self.messages.read_text(errors="replace").split("\n")
        except OSError:
            return ""
        said = [line.strip() for line in lines if line.strip()]
        # A fatal signal is named before the threads' positions.
        fatal = [line for line in said if line.startswith("Fatal Python error")]
        return (fatal or said or [""])[-1]

    def end(self, close: bool = False) -> None:
        """End the process; if ``close``, none is started again."""
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
        if close and self.folder is not None:
            self.folder.cleanup()


class WorkerPool:
    """Several worker processes, or this process itself if one is enough; a context manager.

    Args:
        workers: how many.
        device: where; several workers on CUDA take the GPUs in turn.

    Raises:
        InputError: not a positive number.
    """

    def __init__(self, workers: int, device: torch.device) -> None:
        if workers < 1:
            raise InputError(f"the number of workers must be positive, got {workers}")
        self.workers, self.device = workers, device
        gpus = torch.cuda.device_count() if device.type == "cuda" else 0
        names = [f"cuda:{rank % gpus}" if gpus > 1 else str(device) for rank in range(workers)]
        self.slots = [_Slot(rank, name) for rank, name in enumerate(names)]
        self.free: SimpleQueue[_Slot] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None
        for slot in self.slots:
            self.free.put(slot)

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *exception: object) -> None:
        for slot in self.slots:
            slot.end(close=True)
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)

    def submit(self, function: Function, job: tuple) -> Future:
        """One job for a worker process, as in :meth:`run`; also the only worker is a process here."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.workers)
        return self._threads.submit(self._supervised, function, job)

    def running(self) -> list[Running]:
        """What the worker processes are at."""
        return [job for slot in self.slots if (job := slot.running()) is not None]

    def run(
        self,
        function: Function,
        jobs: Sequence[tuple],
        look: Callable[[], None] = lambda: None,
        here: Function | None = None,
    ) -> Iterator[tuple[tuple, Any]]:
        """Jobs with their results, as they are finished.

        This process itself works with one thread on a CPU, as the workers do: sums that are divided among
        several threads differ in their last bits, and a training turns that into another network.

        Args:
            function: of a module; called with a job's values, the worker's rank and its device.
            jobs: tuples of arguments.
            look: called every half second while worker processes are at work.
            here: the same for this process, which then works beside the others: it takes the last jobs first.

        Raises:
            WorkerDiedError: a job's worker died three times.
            Exception: what a job raised.
        """
        quiet = one_thread if self.device.type == "cpu" else contextlib.nullcontext
        if self.workers == 1 and here is None:
            with quiet():
                for job in jobs:
                    yield job, function(*job, 0, self.slots[0].device)
            return
        threads = ThreadPoolExecutor(self.workers)
        try:
            futures = {threads.submit(self._supervised, function, job): job for job in jobs}
            waiting = dict.fromkeys(futures)
            while waiting:
                taken = here and next((future for future in reversed(waiting) if future.cancel()), None)
                if here and taken:
                    del waiting[taken]
                    with quiet():
                        result = here(*futures[taken], self.workers, str(self.device))
                    yield futures[taken], result
                done, _ = wait(waiting, 0 if taken else LOOK_SECONDS, FIRST_COMPLETED)
                for future in done:
                    del waiting[future]
                    yield futures[future], future.result()
                if waiting:
                    look()
        finally:
            # The workers end first: a thread that waits for one would otherwise be waited for.
            if any(not future.done() for future in futures):
                self.__exit__()
            threads.shutdown(wait=True, cancel_futures=True)

    def _supervised(self, function: Function, job: tuple) -> Any:
        slot = self.free.get()
        try:
            for _ in range(1 + RETRIES):
                try:
                    return slot.call(function, job)
                except BrokenProcessPool:
                    slot.end()
            words = slot.last_words()
            raise WorkerDiedError(
                f"a worker died {1 + RETRIES} times at the same piece of work"
                + (f"; it last said: {words}" if words else ", perhaps of too little memory")
                + "; the same command goes on"
            )
        finally:
            self.free.put(slot)
