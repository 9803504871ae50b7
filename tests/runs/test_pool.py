"""Worker processes: what ends them and what does not, and where they work."""

import os
import signal
import sys
import time
from concurrent.futures import CancelledError

import pytest
import torch

from icobench.errors import WorkerDiedError
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
    with WorkerPool(2, CPU) as pool:
        jobs = [(number,) for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)]
        processes = {pid for _, pid in pool.run(signalled, jobs)}
    assert len(processes) <= 2  # none died and was replaced
    for pid in processes:  # ended with the pool all the same
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_pool_that_breaks_ends_its_deaf_workers():
    with WorkerPool(2, CPU) as pool, pytest.raises(Exception, match="Odd"):
        list(pool.run(unread, [()]))


def fatal(path: str, rank: int, device: str) -> int:
    """A job that kills its worker the first time."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return os.getpid()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_costs_its_own_job_alone(tmp_path):
    with WorkerPool(2, CPU) as pool:
        jobs = [(str(tmp_path / str(number)),) for number in range(2)]
        answers = dict(pool.run(fatal, jobs))
    assert set(answers) == set(jobs)
    assert all(answers.values())


def process(number: int, rank: int, device: str) -> tuple[int, int]:
    time.sleep(0.05)
    return rank, os.getpid()


def test_this_process_works_beside_the_others():
    """Each job is done once; the first ones by the others, the last ones here, by one thread."""
    threads = []

    def here(number, rank, device):
        threads.append(torch.get_num_threads())
        while pool.slots[0].pid is None:  # else all might be done before the other begins
            time.sleep(0.01)
        return process(number, rank, device)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with WorkerPool(1, CPU) as pool:
        done = [(job, *answer) for job, answer in pool.run(process, [(k,) for k in range(20)], here=here)]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert sorted(job for job, _, _ in done) == [(k,) for k in range(20)]
    assert {rank: pid == os.getpid() for _, rank, pid in done} == {0: False, 1: True}
    assert set(threads) == {1}
    theirs, ours = ([job for job, rank, _ in done if rank == number] for number in (0, 1))
    assert max(theirs) < min(ours)


def test_no_worker_begins_in_a_pool_that_ends():
    """A thread that looked just before would leave a process behind."""
    pool = WorkerPool(2, CPU)
    with pool:
        pass
    with pytest.raises(CancelledError):
        pool.slots[0].call(where, (1,))
    assert pool.slots[0].process is None


def test_workers_take_the_gpus_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with WorkerPool(3, torch.device("cuda")) as pool:
        assert [slot.device for slot in pool.slots] == ["cuda:0", "cuda:1", "cuda:0"]
        # Each job is told its worker's; nothing here touches a GPU.
        found = {answer for _, answer in pool.run(where, [(number,) for number in range(6)])}
    assert found <= {(0, "cuda:0"), (1, "cuda:1"), (2, "cuda:0")}
    with WorkerPool(2, CPU) as pool:
        assert [slot.device for slot in pool.slots] == ["cpu", "cpu"]


def test_a_file_of_the_current_folder_is_no_module_of_the_workers(tmp_path, monkeypatch):
    (tmp_path / "signal.py").write_text("raise SystemExit('not this one')\n")
    monkeypatch.chdir(tmp_path)
    with WorkerPool(2, torch.device("cpu")) as pool:
        assert sorted(result for _, result in pool.run(square, [(2,), (3,)])) == [4, 9]


def square(number: int, rank: int, device: str) -> int:
    return number**2


def die(number: int, rank: int, device: str) -> None:
    print("out of ink", file=sys.stderr, flush=True)
    os._exit(3)


def abort(number: int, rank: int, device: str) -> None:
    os.abort()


@pytest.mark.parametrize(("function", "words"), [(die, "out of ink"), (abort, "Fatal Python error: Aborted")])
def test_a_death_is_reported_with_its_last_words(function, words):
    with WorkerPool(2, torch.device("cpu")) as pool, pytest.raises(WorkerDiedError, match=words):
        list(pool.run(function, [(1,), (2,)]))
