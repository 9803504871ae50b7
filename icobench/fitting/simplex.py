"""Simplex fits of radius and orientation: from a given start, or the paper's Monte Carlo of random starts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icobench.fitting.nelder_mead import NelderMead
from icobench.fitting.objectives import Objective
from icobench.fitting.result import FitResult, Trace
from icobench.geometry.orientation import random_orientations, to_fundamental_domain
from icobench.geometry.rotations import (
    quaternion_multiply,
    quaternion_normalize,
    rotation_vector_to_quaternion,
)

__all__ = ["SimplexOptions", "monte_carlo_simplex", "random_starts", "refine_simplex"]

Progress = Callable[[float], None]


@dataclass(frozen=True)
class SimplexOptions:
    """Settings of a simplex fit.

    Attributes:
        starts: random starts per image (Monte Carlo only).
        iterations: Nelder-Mead iterations per start.
        rotation_deg, radius_nm: edges of the initial simplex.
        radius_range_nm: range of random starts; fits may leave it by ``margin_nm``.
        margin_nm: see above.
        angle_tolerance_deg: a simplex stops once it is smaller than this (and the same
            fraction of a nanometre) and flat to 1e-6; 0 never stops.
    """

    starts: int = 50
    iterations: int = 50
    rotation_deg: float = 12.0
    radius_nm: float = 8.0
    radius_range_nm: tuple[float, float] = (30.0, 160.0)
    margin_nm: float = 10.0
    angle_tolerance_deg: float = 0.0


def random_starts(
    images: int, options: SimplexOptions, seed: int, block: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Radii (N, starts) and orientations (N, starts, 4), each image's own by its number.

    Args:
        images: N.
        options: number of starts and range of radii.
        seed: of the run.
        block: (N,) numbers of the images within the whole set, 0..N-1 by default.
    """
    numbers = torch.arange(images) if block is None else block
    radii, orientations = [], []
    for number in numbers.tolist():
        sequence = np.random.SeedSequence(seed, spawn_key=(2, number))
        state = sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)
        generator = torch.Generator().manual_seed(int(state))
        low, high = options.radius_range_nm
        uniform = torch.rand(options.starts, generator=generator, dtype=torch.float64)
        radii.append(low + (high - low) * uniform)
        orientations.append(random_orientations(options.starts, generator))
    return torch.stack(radii), torch.stack(orientations)


def refine_simplex(
    objective: Objective,
    radius_nm: Tensor,
    quaternion: Tensor,
    options: SimplexOptions,
    image: Tensor | None = None,
    progress: Progress = lambda share: None,
) -> FitResult:
    """Nelder-Mead from one or more starts per image; the best end is returned.

    Args:
        objective: images, masks and counting simulator.
        radius_nm: (N, S) starts.
        quaternion: (N, S, 4) starts.
        options: iterations, simplex size, bounds.
        image: (N,) indices of the objective's images, all by default.
        progress: called with the finished share.
    """
    device = objective.simulator.device
    count, starts = radius_nm.shape
    chosen = torch.arange(count) if image is None else image
    owner = chosen.to(device).repeat_interleave(starts)
    radius = radius_nm.to(device, torch.float64).flatten()
    anchor = quaternion.to(device, torch.float64).flatten(0, 1)

    def orientation(rows: Tensor, points: Tensor) -> Tensor:
        turn = rotation_vector_to_quaternion(points[:, :3])
        return quaternion_normalize(quaternion_multiply(turn, anchor[rows]))

    def function(rows: Tensor, points: Tensor) -> Tensor:
        return objective.value(owner[rows], points[:, 3], orientation(rows, points)).double()

    low, high = options.radius_range_nm
    bound = torch.tensor([torch.pi] * 3 + [0.0], dtype=torch.float64, device=device)
    lower, upper = -bound, bound.clone()
    lower[3], upper[3] = max(1.0, low - options.margin_nm), high + options.margin_nm
    tolerance = np.radians(options.angle_tolerance_deg)
    solver = NelderMead(function, lower, upper, xatol=tolerance, fatol=1e-6 if tolerance else 0.0)

    origin = torch.zeros(len(radius), 4, dtype=torch.float64, device=device)
    origin[:, 3] = radius
    edges = torch.diag(
        torch.tensor(
            [np.radians(options.rotation_deg)] * 3 + [options.radius_nm],
            dtype=torch.float64,
            device=device,
        )
    )
    corners = torch.cat((origin.unsqueeze(1), origin.unsqueeze(1) + edges), 1)
    trace = Trace()
    state = solver.start(corners)

    def best() -> tuple[Tensor, Tensor, Tensor]:
        values = state.values[:, 0].unflatten(0, (count, starts))
        winner = values.argmin(1) + torch.arange(count, device=device) * starts
        points = state.points[winner, 0]
        return points[:, 3], orientation(winner, points), state.values[winner, 0]

    def record() -> None:
        trace.add(objective.simulator.evaluations[chosen], *best())

    record()
    for iteration in range(options.iterations):
        solver.step(state)
        record()
        progress((iteration + 1) / options.iterations)
        if not bool(state.active.any()):
            break
    radius, quaternion, value = best()
    stopped = ~state.active.unflatten(0, (count, starts)).any(1)
    return FitResult(
        radius.cpu(),
        to_fundamental_domain(quaternion).cpu(),
        value.cpu(),
        objective.simulator.evaluations[chosen].clone(),
        (stopped if tolerance else torch.ones_like(stopped)).cpu(),
        trace,
    )


def monte_carlo_simplex(
    objective: Objective,
    options: SimplexOptions,
    seed: int,
    numbers: Tensor | None = None,
    progress: Progress = lambda share: None,
) -> FitResult:
    """The paper's forward fit: random starts, a fixed number of iterations each, the best end taken.

    Args:
        objective: images, masks and counting simulator.
        options: 50 starts x 50 iterations by default.
        seed: of the random starts.
        numbers: (N,) numbers of the images within their set, so that blocks draw the same starts.
        progress: called with the finished share.
    """
    radius, quaternion = random_starts(len(objective.images), options, seed, numbers)
    return refine_simplex(objective, radius, quaternion, options, progress=progress)
