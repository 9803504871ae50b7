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

__all__ = ["Speed", "bodies", "field_error", "measure_speed"]


@dataclass(frozen=True)
class Speed:
    """Time per image of one call with a batch of bodies, the best of several.

    ``jacobian_seconds`` is NaN where the method has no derivatives; ``compiled`` is of the kernel.
    """

    batch: int
    field_seconds: float
    jacobian_seconds: float
    compiled: bool


def bodies(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Radii uniform in 30 to 160 nm, orientations uniform."""
    generator = torch.Generator().manual_seed(seed)
    radius = 30 + 130 * torch.rand(count, generator=generator, dtype=torch.float64)
    return radius, random_orientations(count, generator)


def measure_speed(simulator: Simulator, batch: int, seconds: float = 2.0, seed: int = 0) -> Speed:
    """Time the intensity and its Jacobian for one size of batch on the simulator's device.

    So many ``seconds`` are spent on repetitions of each, of which there are at least three.
    """
    radius, quaternion = (table.to(simulator.device) for table in bodies(batch, seed))

    def best(function: Callable[..., Any]) -> float:
        """Least seconds per image."""
        function(radius, quaternion)  # tables and kernels are made at the first call
        times: list[float] = []
        while sum(times) < seconds or len(times) < 3:
            start = time.perf_counter()
            function(radius, quaternion)
            if simulator.device.type == "cuda":
                torch.cuda.synchronize(simulator.device)
            times.append(time.perf_counter() - start)
        return min(times) / batch

    field_seconds = best(simulator.intensity)
    if simulator.method != "exact":
        return Speed(batch, field_seconds, math.nan, False)
    compiled = kernels(simulator.device, simulator.dtype, 0).fused
    return Speed(batch, field_seconds, best(simulator.intensity_jacobian), compiled)


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
