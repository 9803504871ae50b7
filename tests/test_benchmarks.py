"""Every benchmark is found and runs once; what asv installs is what constraints.txt says."""

import itertools
import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from icobench.cache import cache_folder

ROOT = Path(__file__).parents[1]
WORDS = re.compile(r"^\s*def ((?:time|timeraw|track|peakmem)_\w+)", re.MULTILINE)
ELSEWHERE = {"bench_ratios.PyMSFT.track_exact_over_pymsft"}
"""Needs a program that few have."""
UNUSED = {"cma", "jinja2", "matplotlib", "optuna", "pillow", "seaborn", "periodictable"}
"""Requirements of the package that no benchmark imports."""


def config():
    """asv's own reading of asv.conf.json, with comments and all."""
    pytest.importorskip("asv", reason="asv is not installed (pip install .[test])")
    from asv.config import Config

    return Config.load(str(ROOT / "asv.conf.json"))


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def written() -> list[str]:
    """Names of the functions of all benchmarks, in order."""
    files = (ROOT / "benchmarks").glob("bench_*.py")
    return sorted(name for file in files for name in WORDS.findall(file.read_text()))


@pytest.fixture
def environment(monkeypatch):
    """What benchmarks set for their own process ends with the test."""
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")
    monkeypatch.setenv("ICOBENCH_CACHE", str(cache_folder().parent))
    monkeypatch.delenv("ICOBENCH_BENCHMARKS", raising=False)
    return monkeypatch


def test_every_benchmark_runs_with_its_first_parameters(environment, tmp_path):
    """Once each, in this process, by asv's own runner of single benchmarks."""
    pytest.importorskip("asv_runner", reason="asv is not installed (pip install .[test])")
    from asv_runner.discovery import disc_benchmarks, get_benchmark_from_name

    environment.setenv("ICOBENCH_BENCHMARKS", "smallest")
    environment.chdir(tmp_path)
    suite, once = str(ROOT / "benchmarks"), {"number": 1, "repeat": 1, "warmup_time": 0}
    benchmarks = list(disc_benchmarks(suite))
    assert len(benchmarks) > 35
    assert sorted(benchmark.name.rpartition(".")[2] for benchmark in benchmarks) == written()
    caches: dict[str | None, Any] = {None: None}
    for discovered in benchmarks:
        assert discovered.check(suite), discovered.name
        benchmark = get_benchmark_from_name(suite, f"{discovered.name}-0", once)
        key = benchmark.setup_cache_key
        if key not in caches:
            caches[key] = benchmark.do_setup_cache()
        benchmark.set_cache(caches[key])
        skipped = benchmark.do_setup()
        assert not skipped or benchmark.name in ELSEWHERE
        if skipped:
            continue
        value = benchmark.do_run()
        benchmark.do_teardown()
        assert np.isfinite(value["samples"] if isinstance(value, dict) else value).all(), benchmark.name


def test_the_area_under_a_curve(environment):
    """A power law's mean on logarithmic axes is its value in the middle; a constant's is the constant."""
    environment.setenv("ICOBENCH_BENCHMARKS", "smallest")  # the module stays, for the test above
    from benchmarks.bench_accuracy import mean_on_the_way

    simulations = np.geomspace(200, 5000, 40)
    falling, level = (
        pd.DataFrame({"image": image, "evaluations": simulations, "appendix_c_mean": errors})
        for image, errors in enumerate((2 * simulations**-1.5, np.full(40, 0.01)))
    )
    middle = 2 * (300 * 4000) ** -0.75
    assert mean_on_the_way(falling) == pytest.approx(middle)
    assert mean_on_the_way(level) == pytest.approx(0.01)
    assert mean_on_the_way(pd.concat([falling, level])) == pytest.approx((0.01 * middle) ** 0.5)


@pytest.mark.slow
def test_every_benchmark_runs_with_all_parameters(environment):
    """One sample each, as ``asv run --quick`` takes it: every benchmark in a process of its own."""
    conf = config()
    from asv import environment as environments
    from asv import runner
    from asv.benchmarks import Benchmarks
    from asv.repo import get_repo

    environment.chdir(ROOT)
    conf.dvcs = "none"
    for name in ("ASV_PYTHONPATH", "PYTHONPATH"):
        conf.matrix["env_nobuild"][name] = [str(ROOT)]
    (present,) = environments.get_environments(conf, [":same"])
    benchmarks = Benchmarks.discover(conf, get_repo(conf), [present], [None], check=True)
    assert sorted(name.rpartition(".")[2] for name in benchmarks) == written()
    results = runner.run_benchmarks(
        benchmarks, present, quick=True, show_stderr=True, launch_method="forkserver"
    )
    for name, benchmark in benchmarks.items():
        values = results.get_result_value(name, benchmark["params"])
        cases = list(itertools.product(*benchmark["params"]))
        for case, value in zip(cases, values, strict=True):
            message = f"{name}{case}: {results.stderr.get(name, '')}"
            assert value is not None, message
            absent = name in ELSEWHERE or ("'cuda'" in case and not torch.cuda.is_available())
            assert absent or math.isfinite(value), message


def test_requirements_are_those_of_the_constraints():
    required = {name.removeprefix("pip+"): versions for name, versions in config().matrix["req"].items()}
    known = pinned()
    assert required == {name: [known[name]] for name in required}
    assert next(iter(required)) == "torch"  # pip installs them one by one, and others ask for any torch
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = {re.split(r"[<>=~]", line)[0] for line in project["dependencies"]}
    assert own - UNUSED <= set(required)
    (asv,) = (line for line in project["optional-dependencies"]["test"] if line.startswith("asv"))
    assert asv == f"asv=={known['asv']}"


def test_one_thread_and_results_outside_the_branch():
    conf = config()
    assert conf.matrix["env_nobuild"]["OMP_NUM_THREADS"] == ["1"]
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for folder in (conf.env_dir, conf.results_dir, conf.html_dir):
        assert f"{folder.split('/')[0]}/" in ignored
    assert json.dumps(conf.build_command).count("--no-deps") == 1
