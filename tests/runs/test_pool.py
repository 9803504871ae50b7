"""Worker processes: what ends them and what does not, and where they work."""

import os
import signal
from concurrent.futures import CancelledError
from contextlib import contextmanager

import pytest
import torch

from icobench.runs.pool import WorkerPool

CPU = torch.device("cpu")


def signalled(number: int, rank: int, device: str) -> int:
    """A job that its own process is sent a signal in."""
    os.kill(os.getpid(), number)
    return os.getpid()


def unread(rank: int, device: str) -> None:
    class Odd(Exception):  # noqa: N818
        """Cannot be sent to another process."""

    raise Odd


def where(number: int, rank: int, device: str) -> tuple[int, str]:
    return rank, device


def test_signals_to_all_processes_of_a_step_end_no_worker():
    died = []
    with WorkerPool(2, CPU, died.append) as pool:
        jobs = [(number,) for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)]
        processes = {pid for _, pid in pool.run(signalled, jobs)}
    assert not died
    for pid in processes:  # ended with the pool all the same
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_pool_that_breaks_ends_its_deaf_workers():
    with WorkerPool(2, CPU) as pool, pytest.raises(Exception, match="Odd"):
        list(pool.run(unread, [()]))


def test_no_worker_begins_in_a_pool_that_ends():
    """A thread that had looked just before would leave one behind, at work on what was given up."""
    pool = WorkerPool(2, CPU)
    with pool:
        pass
    with pytest.raises(CancelledError):
        pool.slots[0].call(where, (1,))
    assert pool.slots[0].process is None


def test_a_pool_does_its_work_again_after_it_was_done():
    with WorkerPool(2, CPU) as pool:
        for _ in range(2):
            assert len(list(pool.run(where, [(1,), (2,)]))) == 2


def test_workers_are_ended_while_nobody_has_a_lock():
    held = []

    @contextmanager
    def quiet():
        held.append([slot.process is not None for slot in pool.slots])
        yield

    with WorkerPool(2, CPU, quiet=quiet) as pool:
        list(pool.run(where, [(number,) for number in range(4)]))
    assert len(held) == 1
    assert any(held[0])


def test_workers_take_the_gpus_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with WorkerPool(3, torch.device("cuda")) as pool:
        assert [slot.device for slot in pool.slots] == ["cuda:0", "cuda:1", "cuda:0"]
        # Each job is told its worker's; nothing here touches a GPU.
        found = {answer for _, answer in pool.run(where, [(number,) for number in range(6)])}
    assert found <= {(0, "cuda:0"), (1, "cuda:1"), (2, "cuda:0")}
    with WorkerPool(2, CPU) as pool:
        assert [slot.device for slot in pool.slots] == ["cpu", "cpu"]
