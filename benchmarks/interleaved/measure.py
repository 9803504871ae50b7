"""One side of a comparison: a commit's tree, and asv's own runner for what is measured there.

asv is imported inside functions: its environments for single commits do not have it, but see this package.
"""

import itertools
import json
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.interleaved.verdict import Case

if TYPE_CHECKING:
    from asv.benchmarks import Benchmarks

__all__ = ["MeasuringError", "Side", "labels"]


class MeasuringError(RuntimeError):
    """The comparison cannot be carried out."""


class Side:
    """Measures benchmarks on the code in a tree, a process for each, forked from one that has imported it.

    Args:
        tree: a checkout; its package is what is imported, whatever is installed.
        suite: a checkout whose benchmarks and asv.conf.json are used.

    Attributes:
        output: what the last failing benchmark wrote.
    """

    def __init__(self, tree: Path, suite: Path) -> None:
        from asv import environment
        from asv.config import Config

        self.conf = Config.load(str(suite / "asv.conf.json"))
        self.conf.benchmark_dir = str(suite / self.conf.benchmark_dir)
        self.conf.dvcs = "none"
        fixed = self.conf.matrix.setdefault("env_nobuild", {})
        # The first is asv's own, for the benchmarks; the second for what they start.
        fixed["ASV_PYTHONPATH"] = fixed["PYTHONPATH"] = [str(tree)]
        (self.environment,) = environment.get_environments(self.conf, [":same"])
        self._spawner: Any = None
        self._caches: dict[str, str | None] = {}
        self.output = ""
        self._check(tree)

    def _check(self, tree: Path) -> None:
        """See that the tree's package is what benchmarks will import."""
        from asv.runner import BENCHMARK_RUN_SCRIPT
        from asv.util import ProcessError

        where = str(tree.resolve() / self.conf.project)
        code = f"import {self.conf.project} as own; assert own.__file__.startswith({where!r}), own.__file__"
        command = [BENCHMARK_RUN_SCRIPT, "timing", "--number", "1", "--repeat", "1", code]
        variables = os.environ | self.environment.env_vars
        try:
            self.environment.run(command, env=variables, cwd=str(tree.parent), display_error=False)
        except ProcessError as error:
            said = (error.stderr or str(error)).strip().splitlines()[-1]
            raise MeasuringError(f"{self.conf.project} is not what {tree} holds: {said}") from error

    def discover(self, regex: list[str]) -> "Benchmarks":
        """The suite's benchmarks that match.

        Raises:
            MeasuringError: the suite cannot be imported.
        """
        from asv.benchmarks import Benchmarks
        from asv.repo import get_repo
        from asv.util import UserError

        try:
            return Benchmarks.discover(self.conf, get_repo(self.conf), [self.environment], [None], regex)
        except UserError as error:
            raise MeasuringError(str(error)) from error

    def _start(self) -> Any:
        from asv import runner

        if self._spawner is None:
            self._spawner = runner.get_spawner(self.environment, self.conf.benchmark_dir, "forkserver")
            self._spawner.preimport()
        return self._spawner

    def measure(self, benchmark: dict[str, Any], index: int) -> float | None:
        """The best of one process; NaN where it is left out, None where it fails (see :attr:`output`)."""
        from asv import runner

        spawner = self._start()
        if benchmark.get("timeout") is None:
            benchmark["timeout"] = self.conf.default_benchmark_timeout
        folder = self._cache(benchmark)
        if folder is None and benchmark.get("setup_cache_key") is not None:
            return None
        done = runner.run_benchmark(benchmark, spawner, False, {index}, {}, folder)
        samples, value = done.samples[index], done.result[index]
        if samples:
            return float(min(samples))
        if value is None or isinstance(value, bool):
            self.output = done.stderr
            return None
        return float(value)

    def _cache(self, benchmark: dict[str, Any]) -> str | None:
        """Folder of the benchmark's ``setup_cache``, which is run once for a side."""
        key = benchmark.get("setup_cache_key")
        if key is None:
            return None
        if key not in self._caches:
            timeout = benchmark.get("setup_cache_timeout") or benchmark["timeout"]
            folder, said = self._start().create_setup_cache(benchmark["name"], timeout, json.dumps({}))
            self._caches[key] = folder
            if folder is None:
                self.output = said
        return self._caches[key]

    def close(self) -> None:
        """End the processes and remove their folders."""
        if self._spawner is not None:
            self._spawner.close()
        for folder in filter(None, self._caches.values()):
            shutil.rmtree(folder, ignore_errors=True)


def labels(benchmarks: "Benchmarks") -> dict[Case, str]:
    """The chosen cases, with their parameters in words."""
    found = {}
    for name, benchmark in sorted(benchmarks.items()):
        chosen = benchmarks.benchmark_selection.get(name)
        for index, values in enumerate(itertools.product(*benchmark["params"])):
            if chosen is None or index in chosen:
                words = ", ".join(values)
                found[name, index] = f"{name}({words})" if words else name
    return found


def git(*words: str, cwd: Path | None = None) -> str:
    """What git answers.

    Raises:
        MeasuringError: what it complains of.
    """
    done = subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise MeasuringError((done.stderr.strip() or f"git {words[0]} failed").splitlines()[-1])
    return done.stdout.strip()


def left_out(value: float | None) -> bool:
    """Whether a benchmark said that it is not for this machine."""
    return value is not None and math.isnan(value)
