"""When the edge sum is compiled, and that a broken tool chain does not stop the work."""

import pytest
import torch

from icobench.geometry.orientation import random_orientations
from icobench.simulator import compiled
from icobench.simulator.simulator import Simulator

CPU = torch.device("cpu")


@pytest.fixture
def fresh(monkeypatch):
    """Counters as in a new process; torch.compile replaced by a counting stand-in."""
    calls = []

    def stand_in(function, **options):
        calls.append(function)
        return lambda *arguments: function(*arguments)

    monkeypatch.setattr(compiled._State, "requested", 0)
    monkeypatch.setattr(compiled._State, "kernel", None)
    monkeypatch.setattr(compiled._State, "failed", False)
    monkeypatch.setattr(torch, "compile", stand_in)
    monkeypatch.setenv("CXX", "c++")
    return calls


def test_never(fresh, monkeypatch):
    monkeypatch.setenv("ICOBENCH_COMPILE", "0")
    assert compiled.edge_sum_kernel(CPU, torch.float32, 10**6) is None
    assert not fresh


def test_at_once(fresh, monkeypatch):
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")
    kernel = compiled.edge_sum_kernel(CPU, torch.float32, 1)
    assert kernel is not None
    assert compiled.edge_sum_kernel(CPU, torch.float32, 1) is kernel
    assert len(fresh) == 1
    assert compiled.edge_sum_kernel(CPU, torch.float64, 1) is None  # float64 is for checks only


def test_only_after_enough_images(fresh, monkeypatch):
    monkeypatch.delenv("ICOBENCH_COMPILE")
    assert compiled.edge_sum_kernel(CPU, torch.float32, compiled.WORTH_COMPILING - 1) is None
    assert compiled.edge_sum_kernel(CPU, torch.float32, 1) is not None


def test_no_compiler(fresh, monkeypatch):
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")
    monkeypatch.delenv("CXX")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert compiled.edge_sum_kernel(CPU, torch.float32, 10**6) is None


@pytest.mark.parametrize("late", [False, True], ids=["refused", "fails when first run"])
def test_failure_falls_back_to_eager(fresh, monkeypatch, caplog, late):
    def broken(*arguments, **options):
        raise RuntimeError("no tool chain\nsecond line")

    monkeypatch.setenv("ICOBENCH_COMPILE", "1")
    monkeypatch.setattr(torch, "compile", lambda function, **options: broken if late else broken())
    assert compiled.edge_sum_kernel(CPU, torch.float32, 1) is None
    assert "uncompiled" in caplog.text
    assert "second line" not in caplog.text


def test_kernel_path_gives_the_same_field(fresh, monkeypatch, simulator, generator):
    """The batch of one that is doubled, and larger pieces."""
    radius, quaternion = torch.tensor([40.0, 41.0, 70.0]), random_orientations(3, generator)
    eager = simulator.field(radius, quaternion)
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")
    through_kernel = Simulator(simulator.experiment).field(radius, quaternion)
    assert len(fresh) == 1
    torch.testing.assert_close(through_kernel, eager, rtol=1e-4, atol=float(eager.abs().max()) * 1e-6)
