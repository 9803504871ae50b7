"""Shared by all tests: two threads at most, nothing compiled, seeded generators, simulators made once."""

import os

os.environ.setdefault("ICOBENCH_COMPILE", "0")

import numpy as np
import pytest
import torch

from icobench.simulator.simulator import Simulator

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture(scope="session")
def simulator() -> Simulator:
    """Exact method, default experiment, float32."""
    return Simulator()


@pytest.fixture(scope="session")
def precise() -> Simulator:
    """Exact method, default experiment, float64."""
    return Simulator(dtype=torch.float64)
