"""Command lines at random: exit code 0 or 2, one line of error, nothing written outside the folder."""

import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import typer

from icobench import cli
from icobench.runs import comparison, reconstruct, search, sweep  # noqa: F401  imported before forks
from icobench.runs import watch as watching  # noqa: F401

SECONDS, GROWTH = 10, 2 << 30
"""Of wall clock, and bytes of memory, for one line."""

TINY = {
    "compare": "--images 1 --methods network --test-sets clean --run run --workers 1",
    "reconstruct": "a.npy --method network",
    "watch": "folder --method network --idle 0.1",
    "replay": "a.npy --idle 0.1",
    "simulate": "out.h5 --radius 40 --pixels 32",
    "generate": "out.h5 --images 1",
    "merge": "out.h5 a.npy",
    "train": "--preset smoke --steps 1 --run run",
    "evaluate": "--images 2 --sets clean",
    "sweep": "--axis starts --points 1 --images 1 --seeds 1 --iterations 2 --run run --workers 1",
    "tune simplex": "--trials 1 --images 2 --budget 10 --run run --workers 1",
    "tune network": "--preset smoke --trials 1 --images 2 --steps 9 --run run --workers 1",
    "report": "folder",
    "classify": "a.npy",
    "status": "folder",
    "show": "a.npy --out page.html",
}
"""Little work for each command; a random option comes after it, and counts."""

HOSTILE = [
    "0", "-1", "nan", "inf", "1e400", "1e300", "1e23", str(10**30), "", "x" * 300, "..", "/", "/proc/x",
    "pipe", "folder", "binary", "\u00e9\u4e2d\U0001f600", "1,2", "[1]", "a\nb", "--", "none.toml",
]  # fmt: skip
COSTLY = {"workers", "benchmark", "executor", "storage", "images", "trials", "seeds", "steps", "budget"}
"""Options for which a plausible value is the one that is given already."""


def options() -> dict[str, list]:
    """The options of every command, from the tree that typer makes; without two that would wait or look."""
    found: dict[str, list] = {}

    def visit(command, name: str) -> None:
        for key, child in getattr(command, "commands", {}).items():
            visit(child, f"{name} {key}".strip())
        if not hasattr(command, "commands"):
            found[name] = [
                option
                for option in command.params
                if option.opts[0].startswith("--") and option.name not in ("help", "idle", "opened")
            ]

    visit(typer.main.get_command(cli.app), "")
    assert set(found) == set(TINY)
    return found


def lines(count: int, seed: int) -> list[list[str]]:
    """So many command lines, every command as often as the others."""
    rng, known, made = random.Random(seed), options(), []
    for turn in range(count):
        name = list(TINY)[turn % len(TINY)]
        words = [*name.split(), *TINY[name].split()]
        for option in (
            rng.sample(known[name], min(len(known[name]), rng.choice([1, 1, 2, 3]))) if known[name] else ()
        ):
            words.append(rng.choice(option.opts))
            if not getattr(option, "is_flag", False):
                plausible = rng.random() < 0.2 and option.name not in COSTLY and option.default is not None
                number = isinstance(option.default, int | float) and rng.random() < 0.8
                words.append(
                    str(option.default) if plausible else rng.choice(HOSTILE[: 8 if number else None])
                )
        if rng.random() < 0.2 or not known[name]:  # a hostile file or folder
            words[len(name.split())] = rng.choice(HOSTILE)
        made.append(words)
    return made


def prepare(folder: Path) -> set[str]:
    folder.mkdir()
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "binary").write_bytes(bytes(range(256)) * 4)
    np.save(folder / "a.npy", np.random.default_rng(0).poisson(3.0, (1, 128, 128)))
    return {path.name for path in folder.iterdir()}


def watch(folder: Path) -> None:
    """Say on standard error what is opened for writing outside of the folder."""

    def hook(event: str, given: tuple) -> None:
        if event == "open" and isinstance(given[0], str | bytes) and isinstance(given[2], int):
            path = os.path.abspath(os.fsdecode(given[0]))
            harmless = path.startswith((str(folder.parent), "/dev/", "/proc/")) or not given[2] & 3
            if not harmless:
                os.write(2, f"OUTSIDE {path}\n".encode())

    sys.addaudithook(hook)


def outcome(folder: Path, words: list[str]) -> tuple[int | None, str]:
    """Exit code, or None if the line was still at work at the end of its time, and what it said."""
    sys.stdout.flush()
    said = folder.with_suffix(".said")
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            os.chdir(folder)
            target = os.open(said, os.O_WRONLY | os.O_CREAT)
            os.dup2(target, 1)
            os.dup2(target, 2)
            sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
            held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + GROWTH, held + GROWTH))
            os.environ["ICOBENCH_CACHE"] = os.environ["MPLCONFIGDIR"] = str(folder.parent)
            tempfile.tempdir = str(folder.parent)
            watch(folder)
            sys.argv = ["icobench", *words]
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    end, code, pid = time.monotonic() + SECONDS, None, 0
    while pid == 0 and time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.005)
    if pid:
        code = os.waitstatus_to_exitcode(status)
    else:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return code, said.read_text(errors="replace")


def fault(folder: Path, before: set[str], code: int | None, said: str, silence: bool) -> str:
    """What is wrong with an end, empty if nothing is; ``silence`` where a line at work may be silent."""
    if "Traceback" in said or "OUTSIDE" in said:
        return "a traceback, or a file outside"
    if code is None:
        return "" if silence or "%" in said or "ten seconds" in said else "silent for long"
    if code not in (0, 2):
        return f"exit code {code}"
    if code == 2:
        usage = "Usage: " in said  # typer's own
        if sum(line.startswith("error: ") for line in said.splitlines()) != (not usage):
            return "not one line of error"
        left = {path.name for path in folder.iterdir()} - before
        if left & {"out.h5", "result.csv"} or any(name.endswith(".tmp") for name in left):
            return f"left {left}"
    return ""


def check(tmp_path: Path, made: list[list[str]], silence: bool) -> None:
    ends: Counter = Counter()
    faults = []
    for place, words in enumerate(made):
        folder = tmp_path / f"{place}"
        before = prepare(folder)
        code, said = outcome(folder, words)
        ends["at work" if code is None else code] += 1
        if wrong := fault(folder, before, code, said, silence):
            faults.append(f"{wrong}: {words}: {said[-300:]!r}")
    print(f"{len(made)} lines: {dict(ends)}, {len(faults)} faults")
    assert not faults, "\n".join(faults)


def test_lines_at_random(tmp_path):
    check(tmp_path, lines(24, 0), silence=True)  # machines under load are slow


@pytest.mark.slow
def test_hundreds_of_lines_at_random(tmp_path):
    check(tmp_path, lines(600, 1), silence=False)
