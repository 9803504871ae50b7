"""Images per second and error of a simulator on the machine at hand."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from icobench.geometry.orientation import random_orientations
from icobench.simulator import closed_form
from icobench.simulator.compiled import kernels
from icobench.simulator.simulator import Simulator

__all__ = ["ROUNDS", "Speed", "bodies", "field_error", "measure_speed", "timed_rounds"]

ROUNDS = 5
"""Repetitions of everything that is timed, at least."""


def timed_rounds(
    function: Callable[[], Any],
    device: torch.device,
    rounds: int = ROUNDS,
    calls: int = 1,
    seconds: float = 0.0,
) -> np.ndarray:
    """Seconds of a call in each round of so many calls: (N,).

    There are at least ``rounds``, and as many as fill the ``seconds``, after a first call that makes tables.
    """
    function()
    times: list[float] = []
    while sum(times) < seconds or len(times) < rounds:
        start = time.perf_counter()
        for _ in range(calls):
            function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return np.array(times) / calls


@dataclass(frozen=True)
class Speed:
    """Time per image of a call with a batch of bodies, the median of several rounds.

    ``field_range`` is that of the fastest and the slowest round. ``jacobian_seconds`` is NaN where the method
    has no derivatives; ``compiled`` is of the kernel.
    """

    batch: int
    field_seconds: float
    field_range: tuple[float, float]
    jacobian_seconds: float
    compiled: bool


def bodies(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Radii uniform in 30 to 160 nm, orientations uniform."""
    generator = torch.Generator().manual_seed(seed)
    radius = 30 + 130 * torch.rand(count, generator=generator, dtype=torch.float64)
    return radius, random_orientations(count, generator)


def measure_speed(simulator: Simulator, batch: int, seconds: float = 2.0, seed: int = 0) -> Speed:
    """Time the intensity and its Jacobian for one size of batch on the simulator's device.

    So many ``seconds`` are spent on rounds of each, of which there are at least five.
    """
    radius, quaternion = (table.to(simulator.device) for table in bodies(batch, seed))

    def rounds(function: Callable[..., Any]) -> np.ndarray:
        """Seconds per image."""
        return timed_rounds(lambda: function(radius, quaternion), simulator.device, seconds=seconds) / batch

    times = rounds(simulator.intensity)
    field = float(np.median(times)), (float(times.min()), float(times.max()))
    if simulator.method != "exact":
        return Speed(batch, *field, math.nan, False)
    compiled = kernels(simulator.device, 0).fused
    return Speed(batch, *field, float(np.median(rounds(simulator.intensity_jacobian))), compiled)


def field_error(simulator: Simulator, count: int = 6, seed: int = 0) -> list[float]:
    """Relative L2 errors of the field against the oracle, on every eighth pixel of ``count`` bodies."""
    experiment, body = simulator.experiment, simulator.body
    chosen = torch.zeros_like(simulator.valid, device="cpu")
    chosen[::8, ::8] = True
    chosen &= simulator.valid.cpu()
    kx, ky = (side[chosen].numpy() * experiment.wave_number for side in experiment.transverse())
    radius, quaternion = bodies(count, seed)
    fields = simulator.field(radius.to(simulator.device), quaternion.to(simulator.device)).cpu()
    errors = []
    for item in range(count):
        expected = closed_form.field(
            body.normals, body.offsets, float(radius[item]), quaternion[item].numpy(),
            experiment.refractive_index, kx, ky, experiment.wavelength_nm,
        )  # fmt: skip
        difference = fields[item][chosen].numpy() - expected
        errors.append(float(np.linalg.norm(difference) / np.linalg.norm(expected)))
    return errors
