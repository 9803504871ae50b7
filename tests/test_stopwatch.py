"""Core-seconds are the processor's for work on a CPU, and the wall's for work on a GPU."""

from types import SimpleNamespace

import pytest
import torch

from icobench import stopwatch


@pytest.mark.parametrize(("device", "core_seconds"), [("cpu", 5.0), ("cuda", 3.0)])
def test_whose_time_counts(monkeypatch, device, core_seconds):
    now = {"wall": 10.0, "cores": 4.0}
    clocks = SimpleNamespace(perf_counter=lambda: now["wall"], process_time=lambda: now["cores"])
    monkeypatch.setattr(stopwatch, "time", clocks)
    watch = stopwatch.Stopwatch(torch.device(device))
    now.update(wall=13.0, cores=9.0)
    assert watch.read() == (3.0, core_seconds)
