"""The comparison of two commits by asv, in our environment for it: a drill on a small project."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = {
    "version": 1, "project": "toy", "repo": ".", "branches": ["main"], "environment_type": "virtualenv",
    "plugins": [".benchmarks.plugins.checkout"], "benchmark_dir": "suite", "results_dir": ".asv/results",
    "env_dir": ".asv/env", "html_dir": ".asv/html",
}  # fmt: skip
SUITE = """
import toy

class Work:
    repeat, number, warmup_time = 4, 1, 0

    def time_work(self):
        toy.work()

    def time_rest(self):
        toy.rest()

def track_error():
    return toy.ERROR
"""
TOY = "import time\nERROR = {error}\ndef work():\n    time.sleep({work})\ndef rest():\n    {rest}\n"


@pytest.fixture
def project(tmp_path):
    """Folder of a package with two functions; its commits are tagged base, worse and broken."""
    pytest.importorskip("asv", reason="asv is not installed (pip install .[test])")

    def git(*words):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@y", *words], cwd=tmp_path, check=True)

    git("init", "--quiet", "--initial-branch=main")
    for name in ("toy", "suite"):
        (tmp_path / name).mkdir()
    (tmp_path / "suite" / "__init__.py").write_text("")
    (tmp_path / "suite" / "bench.py").write_text(SUITE)
    (tmp_path / "asv.conf.json").write_text(json.dumps(CONFIG))
    for name, work, rest, error in (
        ("base", 0.01, "time.sleep(0.01)", 1.0),
        ("worse", 0.02, "time.sleep(0.01)", 2.0),
        ("broken", 0.02, "raise RuntimeError('gone')", 2.0),
    ):
        (tmp_path / "toy" / "__init__.py").write_text(TOY.format(work=work, rest=rest, error=error))
        git("add", ".")
        git("commit", "--quiet", "--message", name)
        git("tag", name)
    return tmp_path


def asv(folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    command = [sys.executable, "-m", "asv", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_drill_names_what_got_worse(project):
    assert asv(project, "machine", "--yes").returncode == 0
    # As `make bench-compare` does.
    (line,) = (line for line in (ROOT / "Makefile").read_text().splitlines() if "asv continuous" in line)
    compare = [word for word in line.split()[1:] if "$" not in word and word != "HEAD"]

    done = asv(project, *compare, "base", "worse")
    assert done.returncode == 1, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("| +")]
    assert sorted(row[-2] for row in rows) == ["bench.Work.time_work", "bench.track_error"]

    done = asv(project, *compare, "--bench", "rest", "worse", "broken")
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(r"bench\.Work\.time_rest +failed", done.stdout)
