"""Every benchmark is found and runs once; what asv installs is what constraints.txt says."""

import itertools
import json
import math
import re
import tomllib
from pathlib import Path

import pytest

from icobench.cache import cache_folder

ROOT = Path(__file__).parents[1]
WORDS = re.compile(r"^\s*def ((?:time|timeraw|track|peakmem)_\w+)", re.MULTILINE)
ELSEWHERE = {"bench_ratios.PyMSFT.track_exact_over_pymsft"}
"""Needs a program that few have."""
UNUSED = {"cma", "joblib", "matplotlib", "optuna", "pillow", "seaborn"}
"""Requirements of the package that no benchmark imports."""


def config():
    """asv's own reading of asv.conf.json, with comments and all."""
    pytest.importorskip("asv", reason="asv is not installed (pip install .[test])")
    from asv.config import Config

    return Config.load(str(ROOT / "asv.conf.json"))


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def run_once(monkeypatch, smallest):
    """Results of one iteration of everything, through asv's runner, after what ``asv check`` does."""
    conf = config()
    from asv import environment, runner
    from asv.benchmarks import Benchmarks
    from asv.repo import get_repo

    if smallest:
        monkeypatch.setenv("ICOBENCH_BENCHMARKS", "smallest")
    else:
        monkeypatch.delenv("ICOBENCH_BENCHMARKS", raising=False)
    monkeypatch.delenv("ICOBENCH_COMPILE", raising=False)
    monkeypatch.setenv("ICOBENCH_CACHE", str(cache_folder().parent))
    monkeypatch.chdir(ROOT)
    conf.dvcs = "none"
    for name in ("ASV_PYTHONPATH", "PYTHONPATH"):
        conf.matrix["env_nobuild"][name] = [str(ROOT)]
    (present,) = environment.get_environments(conf, [":same"])
    benchmarks = Benchmarks.discover(conf, get_repo(conf), [present], [None], check=True)
    results = runner.run_benchmarks(
        benchmarks, present, quick=True, show_stderr=True, launch_method="forkserver"
    )
    return benchmarks, results


def assert_all_ran(benchmarks, results):
    import torch

    written = [
        name for file in (ROOT / "benchmarks").glob("bench_*.py") for name in WORDS.findall(file.read_text())
    ]
    assert len(written) > 35
    assert sorted(name.rpartition(".")[2] for name in benchmarks) == sorted(written)
    for name, benchmark in benchmarks.items():
        values = results.get_result_value(name, benchmark["params"])
        cases = list(itertools.product(*benchmark["params"]))
        assert len(values) == len(cases)
        for case, value in zip(cases, values, strict=True):
            said = f"{name}{case}: {results.stderr.get(name, '')}"
            assert value is not None, said
            absent = name in ELSEWHERE or ("'cuda'" in case and not torch.cuda.is_available())
            assert absent or math.isfinite(value), said


def test_every_benchmark_runs_with_its_first_parameters(monkeypatch):
    assert_all_ran(*run_once(monkeypatch, smallest=True))


@pytest.mark.slow
def test_every_benchmark_runs_with_all_parameters(monkeypatch):
    assert_all_ran(*run_once(monkeypatch, smallest=False))


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
