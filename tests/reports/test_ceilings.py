"""Measured ceilings are plausible, and the counted work agrees with what the program does."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.simulator.speed import bodies

REPORTS = str(Path(__file__).parents[2] / "reports")


@pytest.fixture(scope="module")
def ceilings():
    sys.path.insert(0, REPORTS)
    try:
        from paper_scale import ceilings

        yield ceilings
    finally:
        sys.path.remove(REPORTS)


def test_fraction_is_of_the_nearer_ceiling(ceilings):
    device = ceilings.Ceilings(bytes_per_second=100.0, operations_per_second=1000.0)
    assert device.fraction(ceilings.Work(operations=1000, bytes=10), 2.0) == pytest.approx(0.5)
    assert device.fraction(ceilings.Work(operations=10, bytes=100), 4.0) == pytest.approx(0.25)


def test_measured_ceilings(ceilings, monkeypatch):
    monkeypatch.setitem(ceilings.SIZES, "cpu", (1 << 18, 128))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        found = ceilings.measured_ceilings("cpu", seconds=0.01)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert 1e7 < found.bytes_per_second < 1e13
    assert 1e7 < found.operations_per_second < 1e14


def test_matrix_products_are_those_that_torch_counts(ceilings, monkeypatch):
    """Uncompiled, the edge sum's linear forms are matrix products, 2 x 4 x 4 a segment and node; its other
    work is elementwise and not counted by torch."""
    monkeypatch.setattr(ceilings, "EDGE_OPERATIONS", 32)
    monkeypatch.setattr("icobench.simulator.skeleton.WHOLE_ROWS", 2)
    simulator = Simulator(Experiment(pixels=64))
    radius, quaternion = torch.tensor([40.0]), bodies(1)[1]
    work = ceilings.least_work(simulator, radius, quaternion)
    with FlopCounterMode(display=False) as counter:
        simulator.field(radius, quaternion)
    # Some small products more, for the geometry of the segments.
    assert work.operations <= counter.get_total_flops() <= 1.05 * work.operations
    assert work.bytes == 8 * 64**2


def test_larger_bodies_and_slices_take_more(ceilings):
    simulator = Simulator(Experiment(pixels=64))
    quaternion = bodies(1)[1]
    small, large = (ceilings.least_work(simulator, torch.tensor([r]), quaternion) for r in (30.0, 90.0))
    assert 3 < large.operations / small.operations < 20
    sliced = ceilings.least_work(Simulator(Experiment(), "sliced"), torch.tensor([60.0]), quaternion)
    assert sliced.operations == pytest.approx(192 * 5 * 512**2 * 18)
    # A window of 2 (R + 60 nm), R being that of the bucket, and 2 R of slices; four of both a wavelength.
    waves = ceilings.least_work(Simulator(Experiment(), "propagated"), torch.tensor([60.0]), quaternion)
    pixels, slices = 2 * (64.5 + 60) / (13.5 / 4), 2 * 64.5 / (13.5 / 4)
    assert waves.bytes == pytest.approx(2 * slices * 4 * 8 * pixels**2, rel=0.3)
