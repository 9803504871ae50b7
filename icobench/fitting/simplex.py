"""Simplex fits of radius and orientation: from given starts, or the paper's Monte Carlo of random starts.

A fit may be a race: many short runs, of which the best few go on (Jamieson and Talwalkar, AISTATS 2016).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icobench.answer import UNTRAINED, Answer, Progress, Trace
from icobench.fitting.nelder_mead import NelderMead
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import Objective
from icobench.geometry.orientation import random_orientations, to_fundamental_domain
from icobench.geometry.rotations import turned
from icobench.seeds import Purpose, torch_generator

__all__ = [
    "RADIUS_UNIT_NM", "SimplexFits", "SimplexOptions", "monte_carlo_simplex", "predicted_edges",
    "random_starts", "refine_simplex",
]  # fmt: skip

RADIUS_UNIT_NM = 10.0
"""Radii are counted in this unit, so that one tolerance serves radians and radii."""

SPREADS = 2.0
"""Edges of a simplex that starts from a prediction, in predicted standard deviations."""

LEAST_EDGES = (0.05, 0.01)
"""Its least edges in degrees and nm, above the tolerance at which a simplex stops."""

FLATNESS = 3e-6
"""Spread of values at which a small simplex stops. A deviance in float32 is not smooth to 1e-6."""


@dataclass(frozen=True)
class SimplexOptions:
    """Settings of a simplex fit.

    Attributes:
        starts: random starts per image (Monte Carlo only).
        iterations: most Nelder-Mead iterations of the simplices that are left after the rounds.
        rotation_deg, radius_nm: edges of the initial simplex; the largest ones where a prediction's spread
            gives the edges.
        radius_range_nm, margin_nm: range of random starts, and by how much fits may leave it.
        angle_tolerance_deg: a simplex stops once it is smaller than this, and in the radius than the same
            fraction of :data:`RADIUS_UNIT_NM` to a radian, and flat to :data:`FLATNESS`; 0 never stops.
        rounds: of a race: iterations of a round, and how many simplices of every image go on after it.
    """

    starts: int = 50
    iterations: int = 50
    rotation_deg: float = 12.0
    radius_nm: float = 8.0
    radius_range_nm: tuple[float, float] = (30.0, 160.0)
    margin_nm: float = 10.0
    angle_tolerance_deg: float = 0.0
    rounds: tuple[tuple[int, int], ...] = ()


def random_starts(
    images: int, options: SimplexOptions, seed: int, numbers: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Radii (N, starts) and orientations (N, starts, 4), drawn for each of N images by its number.

    The ``numbers`` (N,) of the images within their set are 0..N-1 by default.
    """
    numbers = torch.arange(images) if numbers is None else numbers
    low, high = options.radius_range_nm
    radii, orientations = [], []
    for number in numbers.tolist():
        generator = torch_generator(seed, Purpose.STARTS, number)
        uniform = torch.rand(options.starts, generator=generator, dtype=torch.float64)
        radii.append(low + (high - low) * uniform)
        orientations.append(random_orientations(options.starts, generator))
    return torch.stack(radii), torch.stack(orientations)


def predicted_edges(guess: Answer, options: SimplexOptions) -> Tensor:
    """Edges (N, 2) in degrees and nm of simplices that start from a guess with error bars.

    They are :data:`SPREADS` times the predicted standard deviations of one component of the rotation and of
    the radius, between :data:`LEAST_EDGES` and the edges of the options. Where the error bars are missing or
    do not hold, they are the edges of the options.
    """
    # The root mean square angle is that of three components.
    spread = torch.stack((guess.orientation_std_deg / math.sqrt(3), guess.radius_std_nm), 1)
    largest = spread.new_tensor((options.rotation_deg, options.radius_nm))
    edges = (SPREADS * spread).maximum(spread.new_tensor(LEAST_EDGES)).minimum(largest)
    known = torch.tensor([status != UNTRAINED for status in guess.status]) & spread.isfinite().all(1)
    return torch.where(known[:, None], edges, largest)


def _parameters(points: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    """Radii (...) and orientations (..., 4) at points (..., 4) of simplices with these anchors."""
    return RADIUS_UNIT_NM * points[..., 3], turned(anchor, points[..., :3])


class SimplexFits:
    """Simplices in radius and in the rotation vector from their start, several for every image.

    Arguments as for :func:`refine_simplex`, but ``edges`` (N, 2) are those of the N images that are fitted.
    Of the S starts of an image, fewer are left after :meth:`keep`.
    """

    def __init__(
        self,
        objective: Objective,
        image: Tensor,
        radius_nm: Tensor,
        quaternion: Tensor,
        options: SimplexOptions,
        edges: Tensor | None = None,
    ) -> None:
        self.objective = objective
        device = objective.simulator.device
        self.images, self.starts = radius_nm.shape
        # The image and the orientation at the start of every simplex, (N S,) and (N S, 4).
        self.image = image.to(device).repeat_interleave(self.starts)
        self.anchor = quaternion.to(device, torch.float64).flatten(0, 1)
        low, high = options.radius_range_nm
        smallest, largest = max(1.0, low - options.margin_nm), high + options.margin_nm
        lower = self.anchor.new_tensor([-torch.pi] * 3 + [smallest / RADIUS_UNIT_NM])
        upper = self.anchor.new_tensor([torch.pi] * 3 + [largest / RADIUS_UNIT_NM])
        tolerance = np.radians(options.angle_tolerance_deg)
        self.solver = NelderMead(self._value, lower, upper, tolerance, FLATNESS if tolerance else 0.0)
        origin = torch.zeros(len(self.anchor), 1, 4, dtype=torch.float64, device=device)
        origin[:, 0, 3] = radius_nm.to(device, torch.float64).flatten() / RADIUS_UNIT_NM
        if edges is None:
            edges = self.anchor.new_tensor([[options.rotation_deg, options.radius_nm]])
            edges = edges.expand(self.images, 2)
        edges = edges.to(device, torch.float64).repeat_interleave(self.starts, 0)
        steps = torch.cat((torch.deg2rad(edges[:, :1]).expand(-1, 3), edges[:, 1:] / RADIUS_UNIT_NM), 1)
        corners = origin + torch.diag_embed(steps)
        self.state = self.solver.start(torch.cat((origin, corners), 1))

    def _value(self, rows: Tensor, points: Tensor) -> Tensor:
        return self.objective.value(self.image[rows], *_parameters(points, self.anchor[rows])).double()

    def step(self) -> bool:
        """One iteration of all; False once every simplex has met its tolerance."""
        return self.solver.step(self.state)

    def _best_rows(self, count: int) -> Tensor:
        """Rows of the best ``count`` simplices of every image, image by image."""
        values = self.state.values[:, 0].unflatten(0, (self.images, self.starts))
        best = values.argsort(dim=1, stable=True)[:, :count] if count > 1 else values.argmin(1, keepdim=True)
        return (best + torch.arange(0, values.numel(), self.starts, device=best.device)[:, None]).flatten()

    def keep(self, count: int) -> None:
        """Go on with the best ``count`` simplices of every image."""
        rows = self._best_rows(count)
        self.state = self.state.take(rows)
        self.image, self.anchor = self.image[rows], self.anchor[rows]
        self.starts = min(count, self.starts)

    def best(self) -> tuple[Tensor, Tensor, Tensor]:
        """Point (N, 4), orientation at the start of its simplex (N, 4) and value (N,) of every image's best
        corner."""
        rows = self._best_rows(1)
        return self.state.points[rows, 0], self.anchor[rows], self.state.values[rows, 0]


def refine_simplex(
    objective: Objective,
    radius_nm: Tensor,
    quaternion: Tensor,
    options: SimplexOptions,
    image: Tensor | None = None,
    progress: Progress = lambda share: None,
    nuisance: Nuisance | None = None,
    edges: Tensor | None = None,
) -> Answer:
    """Nelder-Mead from one or more starts per image; the best end is the answer.

    A fit has converged if its best value is finite and its simplex has met the tolerance, if there is one.

    Args:
        objective: images, masks and counting simulator.
        radius_nm, quaternion: (N,) and (N, 4) starts, or (N, S) and (N, S, 4).
        options: settings.
        image: (N,) indices of the objective's images, all by default.
        progress: called with the finished share.
        nuisance: ignored, here for the signature of other solvers; only the scale is fitted too.
        edges: (M, 2) of the initial simplices in degrees and nm, for all M images of the objective; those of
            the options by default.
    """
    chosen = torch.arange(len(radius_nm)) if image is None else image.cpu()
    starts = radius_nm.reshape(len(chosen), -1), quaternion.reshape(len(chosen), -1, 4)
    fits = SimplexFits(objective, chosen, *starts, options, None if edges is None else edges[chosen])
    place = chosen.to(objective.simulator.device, non_blocking=True)
    course, spent = [fits.best()], [objective.simulator.counts[place]]
    rounds = [*options.rounds, (options.iterations, 1)]
    total, done = sum(iterations for iterations, _ in rounds), 0
    for iterations, survivors in rounds:
        for _ in range(iterations):
            moving = fits.step()
            course.append(fits.best())
            spent.append(objective.simulator.counts[place])
            done += 1
            progress(done / total)
            if not moving:
                break
        fits.keep(survivors)
    points, anchors, values = (torch.stack(parts) for parts in zip(*course, strict=True))
    trace = Trace.of(spent, *_parameters(points, anchors), values)
    converged = trace.objective[-1].isfinite()
    if options.angle_tolerance_deg:
        converged &= ~fits.state.active.cpu()  # one simplex is left for every image
    return Answer(
        trace.radius_nm[-1].clone(), to_fundamental_domain(trace.quaternion[-1], objective.simulator.body),
        trace.objective[-1].clone(), trace.evaluations[-1].clone(), converged, trace=trace,
    )  # fmt: skip


def monte_carlo_simplex(
    objective: Objective,
    options: SimplexOptions,
    seed: int,
    numbers: Tensor | None = None,
    progress: Progress = lambda share: None,
) -> Answer:
    """The paper's forward fit, or a race: :func:`refine_simplex` of all images from random starts.

    The starts depend on the seed and on the ``numbers`` (N,) of the images within their set.
    """
    radius, quaternion = random_starts(len(objective.images), options, seed, numbers)
    return refine_simplex(objective, radius, quaternion, options, progress=progress)
