"""Kills before and after every change of a folder, full disks, no network: a command ends as undisturbed.

Commands run in children that are forked from this process, which has everything imported.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import optuna  # noqa: F401  imported before forks
import pandas as pd
import pytest
from safetensors.numpy import load_file

from icobench import cli
from icobench.runs import comparison, pieces, reconstruct, search, sweep, watch  # noqa: F401  imported before forks
from icobench.sets import generation

CHANGES = ("replace", "rename", "mkdir", "unlink", "rmdir")
"""Functions of ``os`` that change a folder; pathlib and shutil call these."""


SAID = [""]
"""What the last command wrote to its terminal."""


def call(folder: Path, line: str, before: Callable[[], object] = lambda: None) -> int:
    """Exit code of a command in a child process, minus the signal that ended it; what it says is kept."""
    return ended(begun(folder, line, before))


def begun(folder: Path, line: str, before: Callable[[], object] = lambda: None) -> tuple[int, int]:
    """A command in a child process: its number, and the pipe of what it says."""
    sys.stdout.flush()
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder)
            os.close(source)
            os.dup2(target, 1)
            os.dup2(target, 2)
            sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
            os.environ["ICOBENCH_COMPILE"] = "1"
            sys.argv = ["icobench", *shlex.split(line)]
            before()
            cli.main()
        except SystemExit as stop:
            sys.stderr.flush()
            os._exit(stop.code if isinstance(stop.code, int) else 0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(70)
        os._exit(0)
    os.close(target)
    return child, source


def ended(command: tuple[int, int]) -> int:
    """Wait for a command; its exit code."""
    child, source = command
    with os.fdopen(source, "rb") as stream:
        SAID[0] = stream.read().decode(errors="replace")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def is_refused() -> bool:
    """Whether the last command said why it ends, in one line."""
    return (
        "Traceback" not in SAID[0] and len([x for x in SAID[0].splitlines() if x.startswith("error: ")]) == 1
    )


def counting(until: int | None) -> Callable[[], None]:
    """Kill the process at the change with this number: even ones before it is made, odd ones after.

    Without a number, write how many there are to the file ``changes``.
    """

    def install() -> None:
        done = [0]

        def wrapped(function: Callable) -> Callable:
            def changed(*given, **more):
                if until is not None and done[0] == until:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = function(*given, **more)
                done[0] += 1
                if until is not None and done[0] == until:
                    os.kill(os.getpid(), signal.SIGKILL)
                done[0] += 1
                if until is None:
                    fd = os.open("../changes", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                    os.write(fd, str(done[0]).encode())
                    os.close(fd)
                return result

            return changed

        for name in CHANGES:
            setattr(os, name, wrapped(getattr(os, name)))

    return install


TIMES = ("seconds", "core_seconds", "training_seconds")


def table(path: Path) -> pd.DataFrame:
    read = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    return read.drop(columns=[name for name in read if any(word in name for word in TIMES)])


def arrays(path: Path) -> dict:
    with h5py.File(path) as stream:
        return {name: stream[name][()].tobytes() for name in generation_paths()}


def generation_paths() -> tuple[str, ...]:
    from icobench.sets.pattern_file import PATHS

    return PATHS


def tuned(folder: Path) -> list:
    """What a search of two trials found. Their numbers depend on which of them had to be repeated."""
    rows = json.loads((folder / "run" / "summary.json").read_text())["named"]
    return sorted((row["named"], row["objectives"]) for row in rows)


def watched(path: Path) -> dict:
    """The rows of a watched source without its times, each frame once."""
    rows = table(path).drop(columns=["arrived", "latency_s"])
    assert not rows.duplicated(["source", "train", "index"]).any()
    return rows.to_dict("list")


COMMANDS = {
    "generate": ("generate out.h5 --images 140 --seed 3", lambda folder: arrays(folder / "out.h5")),
    "compare": (
        "compare --images 2 --methods network --test-sets counting,clean --run run --workers 1",
        lambda folder: table(folder / "run" / "results.parquet").to_dict("list"),
    ),
    "sweep": (
        "sweep --axis starts --points 1,2 --images 2 --seeds 1 --iterations 3 --run run --workers 1",
        lambda folder: table(folder / "run" / "sweep.csv").to_dict("list"),
    ),
    "train": (
        "train --preset smoke --steps 2 --run run --device cpu",
        lambda folder: {k: v.tobytes() for k, v in load_file(folder / "run" / "network.safetensors").items()},
    ),
    "reconstruct": (
        f"reconstruct {Path(__file__).parent / 'data' / 'pymsft_patterns.cxi'} --method network",
        lambda folder: table(folder / "result.csv").to_dict("list"),
    ),
    "watch": (
        f"watch {Path(__file__).parent / 'data' / 'pymsft_patterns.cxi'} --method network --idle 0.5",
        lambda folder: watched(folder / "live.parquet"),
    ),
    "tune": ("tune simplex --trials 2 --images 2 --budget 20 --run run --workers 1", tuned),
}  # fmt: skip
"""A command, and what its results are."""


def drill(tmp_path: Path, name: str, every: int) -> int:
    """Kill a command at every n-th point, then run it again: the results are those of an undisturbed run."""
    line, results = COMMANDS[name]
    whole = tmp_path / "whole"
    whole.mkdir()
    assert call(whole, line, counting(None)) == 0, SAID[0]
    expected, points = results(whole), int((tmp_path / "changes").read_text())
    killed = 0
    for point in range(0, points, every):
        folder = tmp_path / f"killed-{point}"
        folder.mkdir()
        code = call(folder, line, counting(point))
        assert code in (-signal.SIGKILL, 0), (point, SAID[0])
        killed += code != 0
        assert call(folder, line) == 0, (point, SAID[0])
        assert str(results(folder)) == str(expected), point
        left = [path for path in folder.rglob("*.tmp") if ".parts" not in str(path)]
        assert len(left) <= 2, left
    print(f"{name}: killed at {killed} of {points} points")
    return killed


@pytest.mark.parametrize(("name", "every"), [("generate", 9), ("reconstruct", 3)])
def test_a_killed_command_ends_as_undisturbed(tmp_path, name, every):
    assert drill(tmp_path, name, every) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_kills_at_every_change_of_a_folder(tmp_path, name):
    assert drill(tmp_path, name, 1) > 3


def limited(size: int) -> Callable[[], None]:
    """No file may become larger, as on a disk that is full."""

    def install() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return install


ROOM = (4, 16, 64, 256, 1024, 4096, 1 << 16)
"""Kilobytes on a small disk."""

LONG = pytest.mark.slow
SIZES = [
    pytest.param(
        name, size, marks=() if size == 300 and name in ("generate", "train", "reconstruct") else LONG
    )
    for name in COMMANDS
    for size in (0, 300, 4000, 60_000)
]


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_a_full_disk_is_one_line_and_leaves_no_half_result(tmp_path, monkeypatch, name, size):
    """Then there is room again, and the same command ends as undisturbed."""
    line, results = COMMANDS[name]
    folder = tmp_path / "full"
    folder.mkdir()
    monkeypatch.setenv("ICOBENCH_CACHE", str(tmp_path))
    if call(folder, line, limited(size)) != 0:  # else what it writes is smaller
        assert_nothing_half(folder)
        assert call(folder, line) == 0, SAID[0]
    results(folder)


def assert_nothing_half(folder: Path) -> None:
    assert is_refused(), SAID[0]
    assert not (folder / "out.h5").exists()
    assert not (folder / "result.csv").exists()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "generate" else LONG) for name in COMMANDS]
)
def test_a_disk_that_is_full_and_then_larger(tmp_path, name):
    """A file system of its own: more and more room, until the command ends as undisturbed."""
    line, results = COMMANDS[name]
    disk, whole = tmp_path / "disk", tmp_path / "whole"
    disk.mkdir()
    whole.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        full = 0
        for size in ROOM:
            subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)
            if call(disk, line) == 0:
                break
            assert_nothing_half(disk)
            full += 1
        assert 0 < full < len(ROOM), SAID[0]
        assert call(whole, line) == 0, SAID[0]
        assert str(results(disk)) == str(results(whole))
        print(f"{name}: full {full} times")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_nothing_asks_the_network(tmp_path, monkeypatch):
    """No command opens a connection: sockets are refused."""

    def offline() -> None:
        def refused(*given, **more):
            raise AssertionError("a connection was opened")

        socket.socket.connect = refused  # type: ignore[method-assign]
        socket.create_connection = refused
        socket.getaddrinfo = refused

    for name in ("generate", "reconstruct", "compare"):
        folder = tmp_path / name
        folder.mkdir()
        assert call(folder, COMMANDS[name][0], offline) == 0, SAID[0]
    assert generation.BLOCK == 128
