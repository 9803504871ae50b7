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

__all__ = [
    "RADIUS_UNIT_NM",
    "SimplexFits",
    "SimplexOptions",
    "monte_carlo_simplex",
    "random_starts",
    "refine_simplex",
]

Progress = Callable[[float], None]

RADIUS_UNIT_NM = 10.0
"""Radii are counted in this unit, so that one tolerance serves radians and radii."""


@dataclass(frozen=True)
class SimplexOptions:
    """Settings of a simplex fit.

    Attributes:
        starts: random starts per image (Monte Carlo only).
        iterations: Nelder-Mead iterations per start.
        rotation_deg, radius_nm: edges of the initial simplex.
        radius_range_nm: range of random starts; fits may leave it by ``margin_nm``.
        margin_nm: see above.
        angle_tolerance_deg: a simplex stops once it is smaller than this, and in the radius than the same
            fraction of :data:`RADIUS_UNIT_NM` to a radian, and flat to 1e-6; 0 never stops.
        speculative: evaluate all candidates of a step at once, for a device that is not full.
    """

    starts: int = 50
    iterations: int = 50
    rotation_deg: float = 12.0
    radius_nm: float = 8.0
    radius_range_nm: tuple[float, float] = (30.0, 160.0)
    margin_nm: float = 10.0
    angle_tolerance_deg: float = 0.0
    speculative: bool = False


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


class SimplexFits:
    """Simplices in rotation vector (about each one's start) and radius, several for every image.

    Args:
        objective: images, masks and counting simulator.
        image: (N,) indices of the objective's images.
        radius_nm: (N, S) starts.
        quaternion: (N, S, 4) starts.
        options: simplex size, bounds, tolerance.

    Attributes:
        starts: S, simplices of every image; fewer after :meth:`keep`.
    """

    def __init__(
        self,
        objective: Objective,
        image: Tensor,
        radius_nm: Tensor,
        quaternion: Tensor,
        options: SimplexOptions,
    ) -> None:
        self.objective = objective
        device = objective.simulator.device
        self.images, self.starts = radius_nm.shape
        self.owner = image.to(device).repeat_interleave(self.starts)
        self.anchor = quaternion.to(device, torch.float64).flatten(0, 1)
        low, high = options.radius_range_nm
        bound = torch.tensor([torch.pi] * 3 + [0.0], dtype=torch.float64, device=device)
        lower, upper = -bound, bound.clone()
        lower[3], upper[3] = (
            max(1.0, low - options.margin_nm) / RADIUS_UNIT_NM,
            (high + options.margin_nm) / RADIUS_UNIT_NM,
        )
        tolerance = np.radians(options.angle_tolerance_deg)
        self.solver = NelderMead(
            self._value, lower, upper, tolerance, 1e-6 if tolerance else 0.0, speculative=options.speculative
        )
        origin = torch.zeros(len(self.anchor), 4, dtype=torch.float64, device=device)
        origin[:, 3] = radius_nm.to(device, torch.float64).flatten() / RADIUS_UNIT_NM
        edges = torch.diag(
            torch.tensor(
                [np.radians(options.rotation_deg)] * 3 + [options.radius_nm / RADIUS_UNIT_NM],
                dtype=torch.float64,
                device=device,
            )
        )
        self.state = self.solver.start(torch.cat((origin.unsqueeze(1), origin.unsqueeze(1) + edges), 1))

    def _orientation(self, rows: Tensor, points: Tensor) -> Tensor:
        turn = rotation_vector_to_quaternion(points[:, :3])
        return quaternion_normalize(quaternion_multiply(turn, self.anchor[rows]))

    def _value(self, rows: Tensor, points: Tensor) -> Tensor:
        radius = RADIUS_UNIT_NM * points[:, 3]
        return self.objective.value(self.owner[rows], radius, self._orientation(rows, points)).double()

    def step(self) -> bool:
        """One iteration of all; False once every simplex has met its tolerance."""
        self.solver.step(self.state)
        return bool(self.state.active.any())

    def keep(self, count: int) -> None:
        """Go on with the best ``count`` simplices of every image."""
        values = self.state.values[:, 0].unflatten(0, (self.images, self.starts))
        first = torch.arange(self.images, device=values.device) * self.starts
        rows = (values.argsort(dim=1, stable=True)[:, :count] + first[:, None]).flatten()
        self.state = self.state.take(rows)
        self.owner, self.anchor = self.owner[rows], self.anchor[rows]
        self.starts = min(count, self.starts)

    def best(self) -> tuple[Tensor, Tensor, Tensor]:
        """Radius (N,), orientation (N, 4) and value (N,) of every image's best point."""
        values = self.state.values[:, 0].unflatten(0, (self.images, self.starts))
        winner = values.argmin(1) + torch.arange(self.images, device=values.device) * self.starts
        points = self.state.points[winner, 0]
        radius = RADIUS_UNIT_NM * points[:, 3]
        return radius, self._orientation(winner, points), self.state.values[winner, 0]

    @property
    def stopped(self) -> Tensor:
        """(N,) True where no simplex is left that moves."""
        return ~self.state.active.unflatten(0, (self.images, self.starts)).any(1)

    def result(self, image: Tensor, trace: Trace, converged: Tensor) -> FitResult:
        """The best points as a result."""
        radius, quaternion, value = self.best()
        return FitResult(
            radius.cpu(),
            to_fundamental_domain(quaternion).cpu(),
            value.cpu(),
            self.objective.simulator.evaluations[image].clone(),
            converged.cpu(),
            trace,
        )


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

    A fit whose best value is not finite has not converged.
    """
    chosen = torch.arange(len(radius_nm)) if image is None else image.cpu()
    fits = SimplexFits(objective, chosen, radius_nm, quaternion, options)
    trace = Trace()
    trace.add(objective.simulator.evaluations[chosen], *fits.best())
    for iteration in range(options.iterations):
        moving = fits.step()
        trace.add(objective.simulator.evaluations[chosen], *fits.best())
        progress((iteration + 1) / options.iterations)
        if not moving:
            break
    stopped = fits.stopped if options.angle_tolerance_deg else torch.ones_like(fits.stopped)
    return fits.result(chosen, trace, stopped & fits.best()[2].isfinite())


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
