"""Two processes at once, clocks that go back, power cuts, folders that cannot be written, dead workers.

The commands and their results are those of the drills, in children of this process.
"""

import ctypes
import os
import signal
import tempfile
import time

import pandas as pd
import pytest

from icobench.runs import pool
from tests.test_drills import COMMANDS, SAID, TIMES, begun, call, ended, is_refused

LONG = pytest.mark.slow


def some(*short: str) -> list:
    """All commands; those that are not named take long."""
    return [pytest.param(name, marks=() if name in short else LONG) for name in COMMANDS]


@pytest.fixture
def folder(tmp_path):
    """An empty folder for a command."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The results of a command, computed once."""
    known: dict[str, str] = {}

    def results(name: str) -> str:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            assert call(folder, COMMANDS[name][0]) == 0, SAID[0]
            known[name] = str(COMMANDS[name][1](folder))
        return known[name]

    return results


@pytest.mark.parametrize("name", some("generate", "reconstruct"))
@pytest.mark.parametrize("delay", [0, pytest.param(0.3, marks=LONG), pytest.param(1, marks=LONG)])
def test_two_processes_at_once_end_as_one(folder, undisturbed, name, delay):
    line, results = COMMANDS[name]
    first = begun(folder, line)
    time.sleep(delay)
    second = begun(folder, line)
    codes = []
    for command in (first, second):
        codes.append(ended(command))
        assert codes[-1] == 0 or (codes[-1] == 2 and is_refused()), SAID[0]
    assert 0 in codes
    assert str(results(folder)) == undisturbed(name)
    assert not [path for path in folder.rglob("*") if path.name.endswith((".tmp", ".parts"))]
    print(f"{name}, {delay} s apart: exit codes {codes}")


def backwards() -> None:
    """Every look at the clock finds it an hour earlier."""
    now = [time.time()]

    def earlier() -> float:
        now[0] -= 3600
        return now[0]

    time.time = earlier


@pytest.mark.parametrize("name", some("reconstruct"))
def test_a_clock_that_goes_back_changes_nothing(folder, undisturbed, name):
    line, results = COMMANDS[name]
    assert call(folder, line, backwards) == 0, SAID[0]
    assert str(results(folder)) == undisturbed(name)
    for path in folder.rglob("*"):
        if path.suffix in (".csv", ".parquet"):
            table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
            times = [column for column in table if any(word in column for word in TIMES)]
            assert (table[times] >= 0).all(None), path


def noting() -> None:
    """Write every fsync and rename to the file ``order``, with the number of the file."""
    sync, replace = os.fsync, os.replace
    order = open("../order", "w", buffering=1)  # noqa: SIM115  for the child's life

    def noted_sync(descriptor: int) -> None:
        sync(descriptor)
        print("sync", os.fstat(descriptor).st_ino, file=order)

    def noted_replace(source, target) -> None:
        replace(source, target)
        target = os.path.abspath(target)
        print("rename", os.stat(target).st_ino, os.stat(os.path.dirname(target)).st_ino, target, file=order)

    os.fsync, os.replace = noted_sync, noted_replace


@pytest.mark.parametrize("name", some("generate", "reconstruct"))
def test_a_name_is_given_to_what_is_on_the_disk(folder, name):
    """A file is on the disk before it gets its name, and so is its name when the next thing is done."""
    assert call(folder, COMMANDS[name][0], noting) == 0, SAID[0]
    done = [line.split(maxsplit=3) for line in (folder.parent / "order").read_text().splitlines()]
    renames = [number for number, (what, *_) in enumerate(done) if what == "rename"]
    for number in renames:
        _, file, place, target = done[number]
        assert ["sync", file] in done[:number], target
        assert done[number + 1] == ["sync", place], target
    print(f"{name}: {len(renames)} renames")
    assert renames


def powerless() -> None:
    """Root is bound by permissions, as everyone is."""
    if os.geteuid() == 0:
        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset(header, none) == 0


def homeless() -> None:
    """Neither a home folder nor an entry in the list of users."""
    for name in ("HOME", "XDG_CACHE_HOME", "ICOBENCH_CACHE", "MPLCONFIGDIR"):
        os.environ.pop(name, None)
    os.path.expanduser = lambda path: path


def no_home() -> None:
    for name in ("XDG_CACHE_HOME", "ICOBENCH_CACHE", "MPLCONFIGDIR"):
        os.environ.pop(name, None)
    os.environ["HOME"] = os.devnull


def no_cache() -> None:
    os.mkdir("../cache", 0o555)
    os.environ["ICOBENCH_CACHE"] = os.path.abspath("../cache")
    powerless()


def no_tmpdir() -> None:
    os.environ["TMPDIR"] = "/does/not/exist"
    tempfile.tempdir = None


def nothing_temporary() -> None:
    tempfile.tempdir, tempfile._candidate_tempdir_list = None, lambda: ["/does/not/exist"]


def read_only() -> None:
    os.chmod(".", 0o555)
    powerless()


@pytest.mark.parametrize("name", some("reconstruct"))
@pytest.mark.parametrize("lack", [homeless, no_home, no_cache, no_tmpdir, nothing_temporary, read_only])
def test_folders_that_cannot_be_written(folder, undisturbed, name, lack):
    """The command works, or says in a line why not."""
    code = call(folder, COMMANDS[name][0], lack)
    folder.chmod(0o755)
    print(f"{name}, {lack.__name__}: exit code {code}")
    if code or lack is read_only:
        assert code == 2, SAID[0]
        assert is_refused(), SAID[0]
        assert list(folder.rglob("*.*")) == []
    else:
        assert str(COMMANDS[name][1](folder)) == undisturbed(name)


@LONG
@pytest.mark.parametrize(("deaths", "retries"), [(9, 0), (1, 2), (9, 2)])
def test_workers_that_are_killed(folder, undisturbed, deaths, retries):
    """A job is tried several times; then the command ends, and the next one completes the run."""
    line, results = COMMANDS["compare"][0].replace("--workers 1", "--workers 2"), COMMANDS["compare"][1]

    def deadly() -> None:
        start, left = pool._Slot._start, [deaths]

        def start_and_kill(slot) -> None:
            start(slot)
            if left[0]:
                left[0] -= 1
                os.kill(slot.pid, signal.SIGKILL)

        pool._Slot._start, pool.RETRIES = start_and_kill, retries

    code = call(folder, line, deadly)
    if deaths <= retries:
        assert code == 0, SAID[0]
    else:
        assert code == 2, SAID[0]
        assert is_refused(), SAID[0]
        assert f"a worker died {1 + retries} times" in SAID[0]
        assert call(folder, COMMANDS["compare"][0]) == 0, SAID[0]
    assert str(results(folder)) == undisturbed("compare")
