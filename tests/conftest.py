"""Shared by all tests: one thread, nothing compiled, seeded generators, simulators made once."""

import os
import shlex
import sys

os.environ.setdefault("ICOBENCH_COMPILE", "0")
# As for torch below; NumPy reads it when it is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

# Small batches gain nothing from threads, and lose a hundredfold where others use the same cores.
torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture(scope="session")
def simulator() -> Simulator:
    """Exact method, float32, on every second pixel of the default detector."""
    return Simulator(Experiment(pixels=64))


@pytest.fixture(scope="session")
def precise() -> Simulator:
    """The same in float64."""
    return Simulator(Experiment(pixels=64), dtype=torch.float64)


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run ``icobench ...`` in an empty folder: exit code, standard output, standard error."""
    from icobench import cli

    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["icobench", *shlex.split(line)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
