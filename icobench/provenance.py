"""Where a result comes from: written beside every result."""

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["provenance", "short_commit", "versions", "without_passwords"]


def without_passwords(text: str) -> str:
    """A text with ``***`` for the passwords of the URLs in it."""
    text = re.sub(r"(://[^\s:/@]*):\S+@", r"\1:***@", text)
    return re.sub(r"([?&](?:password|passwd|pwd)=)[^&\s]+", r"\1***", text)


def versions() -> dict[str, str]:
    """Of Python, this package and those that results depend on."""
    names = ("icobench", "torch", "numpy", "scipy", "pandas")
    installed = {}
    for name in names:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return {"python": platform.python_version(), **installed}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _git(source: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=source, capture_output=True, text=True, check=True)
    return done.stdout.strip()


CODE = ("icobench", "*.py", "*.toml", "constraints.txt")
"""Paths of all that decides a result, as git matches them."""


def _commit() -> str | None:
    """The commit of the source tree, None outside of one; "+" marks uncommitted changes of the code.

    Results and pages do not count: making one must not mark the next.
    """
    source = Path(__file__).resolve().parents[1]
    if not (source / ".git").exists():
        return None
    try:
        commit = _git(source, "rev-parse", "HEAD")
        dirty = _git(source, "status", "--porcelain", "-uno", "--", *CODE)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if dirty else "")


def short_commit(commit: str | None) -> str:
    """The first seven digits of a commit, and its "+" where there were uncommitted changes; "?" for None."""
    return commit[:7] + "+" * commit.endswith("+") if commit else "?"


def provenance(seed: int, device: torch.device, experiment: Any) -> dict[str, Any]:
    """Where a result comes from: command, date, versions, machine, device, seed, commit, experiment."""
    machine = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return {
        "command": without_passwords(" ".join(["icobench", *sys.argv[1:]])),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine,
        "device": str(device),
        "seed": seed,
        "commit": _commit(),
        "experiment": experiment.to_dict(),
    }
