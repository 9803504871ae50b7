"""Least squares on radius and orientation, many fits at once: Levenberg-Marquardt, and error bars.

The parameters are a rotation vector (lab axes) applied to the present orientation, the radius, the nuisance
parameters if there are any, and last the intensity scale. The scale is linear and the objective profiles it
out, so it only enters the normal matrix. With the Poisson deviance the residuals are Pearson's, which makes
this Fisher scoring of the likelihood. A step is accepted where it lowers the objective.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from icobench.answer import OUTSIDE, POOR, RADII_NM, Answer, Progress, Trace
from icobench.devices import joined
from icobench.fitting.counter import CountingSimulator
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objective import held_at_once, pieces
from icobench.fitting.objectives import Objective
from icobench.geometry.orientation import to_fundamental_domain
from icobench.geometry.rotations import quaternion_normalize, turned

__all__ = [
    "LevenbergMarquardtOptions", "LikelihoodOptions", "centre_steps", "cramer_rao", "levenberg_marquardt",
    "maximum_likelihood", "normal_equations", "with_error_bars",
]  # fmt: skip

CHUNK, GPU_CHUNK = 32, 512
"""Images whose derivatives are held at once, on a CPU and, of 128 x 128 pixels, on a GPU: there these have
134 MB, and 400 MB in float64."""

WHOLE_SHIFT = 2.6
"""How far propagated waves shift a fit, over the first step towards them; cautious for radii. With it 87 % of
radii and 82 % of orientations of silver lie within the error bars of straight rays (`reports/silver`)."""


@dataclass(frozen=True)
class LevenbergMarquardtOptions:
    """Settings.

    Attributes:
        iterations: most trial steps per image.
        damping: initial damping, relative to the diagonal of the normal matrix.
        largest_turn_deg, largest_radius_nm: longest step per iteration.
        angle_tolerance_deg, radius_tolerance_nm: converged when a step is shorter than both.
        value_tolerance: or when it promises a smaller relative decrease of the sum of squares: a tenth of the
            bound for 12,000 pixels of photon noise.
        radius_range_nm: bounds of the radius.
    """

    iterations: int = 16
    damping: float = 1e-2
    largest_turn_deg: float = 5.0
    largest_radius_nm: float = 4.0
    angle_tolerance_deg: float = 1e-3
    radius_tolerance_nm: float = 1e-3
    value_tolerance: float = 1e-6
    radius_range_nm: tuple[float, float] = RADII_NM


def _products(objective: Objective, image: Tensor, intensity: Tensor, slopes: Tensor) -> Tensor:
    """Products (B, T + 2, T + 2) float64 of what the residuals' normal equations are made of: their
    derivatives by the parameters of T slopes (B, T, H, W) and by the logarithm of the scale, and last the
    residuals themselves."""
    residuals, weight = objective.residuals(image, intensity)
    number = slopes.shape[1]
    rows = slopes.new_empty(len(slopes), number + 2, *slopes.shape[2:], dtype=torch.float64)
    torch.mul(slopes, weight.unsqueeze(1), out=rows[:, :number])
    torch.mul(intensity, weight, out=rows[:, number])
    rows[:, number + 1] = residuals
    rows = rows.flatten(2)
    return rows @ rows.mT


def normal_equations(
    objective: Objective, image: Tensor, radius: Tensor, quaternion: Tensor, nuisance: Nuisance | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Normal matrix (B, T, T), gradient (B, T) and sum of squared residuals (B,).

    T = 5 columns: rotation about x, y, z in radians, radius in nm, logarithm of the scale; those of the
    nuisance parameters stand before the last.
    """
    products = _normal_products(objective, image, radius, quaternion, nuisance or Nuisance.none(len(image)))
    return products[:, :-1, :-1], products[:, :-1, -1], products[:, -1, -1]


def _normal_products(
    objective: Objective, image: Tensor, radius: Tensor, quaternion: Tensor, nuisance: Nuisance
) -> Tensor:
    """The same in one matrix (B, T + 1, T + 1), the gradient and the sum last."""
    device = objective.simulator.device
    nuisance = nuisance.to(device)
    image, radius, quaternion = (part.to(device, non_blocking=True) for part in (image, radius, quaternion))
    products = []
    for rows in pieces(len(image), held_at_once(objective.simulator, CHUNK, GPU_CHUNK)):
        intensity, slopes = objective.model_jacobian(
            image[rows], radius[rows], quaternion[rows], nuisance.take(rows)
        )
        products.append(_products(objective, image[rows], intensity, slopes))
    return joined(products)


def _damped_step(
    matrix: Tensor, gradient: Tensor, damping: Tensor, longest: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps (B, T) of the damped normal equations, for damping (B, 1), their sizes (B, T - 2), and which are
    finite (B, 1); others are 0.

    The sizes are those of the turn and of the other parameters but the scale. Steps longer than ``longest``
    (T - 2,) are shortened.
    """
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    floor = diagonal.amax(1, keepdim=True) * 1e-12 + 1e-30
    damped = matrix.clone()
    damped.diagonal(dim1=1, dim2=2).add_(damping * diagonal + floor)
    # The checks of torch.linalg.solve would make the processor wait for a GPU.
    back = torch.linalg.solve_ex(damped, gradient)[0]
    finite = (0 * back == 0).all(1, keepdim=True)
    back = back.masked_fill(~finite, 0.0)
    sizes = torch.cat((back[:, :3].norm(dim=1, keepdim=True), back[:, 3:-1].abs()), 1)
    share = (longest / sizes).amin(1, keepdim=True).clamp_max(1)
    return -share * back, sizes * share, finite


def levenberg_marquardt(
    objective: Objective,
    radius_nm: Tensor,
    quaternion: Tensor,
    options: LevenbergMarquardtOptions | None = None,
    image: Tensor | None = None,
    progress: Progress = lambda share: None,
    nuisance: Nuisance | None = None,
) -> Answer:
    """Refine one start per image.

    A start whose objective or derivatives are not finite stays where it is and has not converged; a trial
    whose objective is not finite is rejected.

    The processor waits for a GPU once an iteration, for what was accepted and what goes on.

    Args:
        objective: images, masks and counting simulator.
        radius_nm: (N,) starts.
        quaternion: (N, 4) starts.
        options: settings.
        image: (N,) indices of the objective's images, all by default.
        progress: called with the finished share.
        nuisance: starts (N, P) of further parameters to fit.
    """
    options = options or LevenbergMarquardtOptions()
    device, count = objective.simulator.device, len(radius_nm)
    image = torch.arange(count) if image is None else image
    image = image.to(device, non_blocking=True)
    low, high = options.radius_range_nm
    nuisance = (nuisance or Nuisance.none(count)).to(device)
    extra = nuisance.values.shape[1]
    size = 5 + extra
    starts = (
        radius_nm.to(device, torch.float64, non_blocking=True).clamp(low, high)[:, None],
        quaternion_normalize(quaternion.to(device, torch.float64, non_blocking=True)), nuisance.values,
    )  # fmt: skip
    value = objective.value(image, starts[0][:, 0], starts[1], nuisance).double()
    # A row for every fit: where it is, its value, damping, the damping's growth, and the normal equations.
    widths = (1, 4, extra, 1, 1, 1, (size + 1) ** 2)
    fits = value.new_zeros(count, sum(widths))
    place, equations = fits[:, : 8 + extra], fits[:, 8 + extra :]
    place[:, : 6 + extra] = torch.cat((*starts, value[:, None]), 1)
    place[:, 6 + extra], place[:, 7 + extra] = options.damping, 2.0
    # Rows of a turn and of a radius: the longest step, and one that has converged.
    steps = torch.tensor(
        [
            [math.radians(options.largest_turn_deg), options.largest_radius_nm],
            [math.radians(options.angle_tolerance_deg), options.radius_tolerance_nm],
        ],
        dtype=torch.float64,
    ).to(device, non_blocking=True)
    longest, smallest = torch.cat((steps[0], nuisance.limits[2])), steps[1]
    # These are on the CPU.
    active = value.isfinite().cpu()
    stale, converged = torch.ones_like(active), torch.zeros_like(active)
    course, spent = [place[:, : 6 + extra].clone()], [objective.simulator.counts[image]]
    for iteration in range(options.iterations):
        chosen, outdated = active.nonzero()[:, 0], (active & stale).nonzero()[:, 0]
        both = torch.cat((chosen, outdated)).to(device, non_blocking=True)
        rows, fresh = both[: len(chosen)], both[len(chosen) :]
        if len(fresh):
            radius, quaternion, values, _ = fits[fresh].split((1, 4, extra, sum(widths[3:])), 1)
            products = _normal_products(
                objective, image[fresh], radius[:, 0], quaternion, replace(nuisance, values=values)
            )
            equations.index_copy_(0, fresh, products.flatten(1))
        present, here = image[rows], fits[rows]
        radius, quaternion, values, value, damping, growth, products = here.split(widths, 1)
        products = products.unflatten(1, (size + 1, size + 1))
        gradient = products[:, :-1, -1]
        step, sizes, finite = _damped_step(products[:, :-1, :-1], gradient, damping, longest)
        moved = replace(nuisance, values=values).moved(step[:, 4:-1])
        trial = (
            (radius + step[:, 3:4]).clamp(low, high), turned(quaternion, step[:, :3]), moved.values
        )  # fmt: skip
        lower = objective.value(present, trial[0][:, 0], trial[1], moved).double()[:, None]
        better = lower < value
        # Once only noise is left no step is better, however long it is within the error bars.
        promised = -(step * gradient).sum(1, keepdim=True)
        small = (sizes[:, :2] < smallest).all(1, keepdim=True)
        small = small | (promised < options.value_tolerance * value * objective.usable[present][:, None])
        kept = torch.where(better, torch.cat((*trial, lower), 1), here[:, : 6 + extra])
        damping = torch.where(better, (damping / 5).clamp_min(1e-9), damping * growth)
        growth = (growth * 2).masked_fill(better, 2.0)
        place.index_copy_(0, rows, torch.cat((kept, damping, growth), 1))
        course.append(place[:, : 6 + extra].clone())
        spent.append(objective.simulator.counts[image])
        better, small, finite = torch.cat((better, small, finite), 1).cpu().unbind(1)
        stale[chosen] = better
        active[chosen] = finite & ~small
        converged[chosen] = finite & small
        progress((iteration + 1) / options.iterations)
        if not bool(active.any()):
            break
    radius, quaternion, values, value = torch.stack(course).split((1, 4, extra, 1), 2)
    trace = Trace.of(spent, radius[..., 0], quaternion, value[..., 0])
    return Answer(
        trace.radius_nm[-1].clone(), to_fundamental_domain(trace.quaternion[-1], objective.simulator.body),
        trace.objective[-1].clone(), trace.evaluations[-1].clone(), converged,
        nuisance=replace(nuisance, values=values[-1]).to_columns(), trace=trace,
    )  # fmt: skip


COARSE = LevenbergMarquardtOptions(iterations=12, angle_tolerance_deg=0.05, radius_tolerance_nm=0.02)
"""To well within the bound at 1e5 photons, where the second stage takes over."""


@dataclass(frozen=True)
class LikelihoodOptions(LevenbergMarquardtOptions):
    """Settings of the only stage, or of the second one, whose initial damping is ``near_damping``."""

    near_damping: float = 1e-4


def maximum_likelihood(
    objective: Objective,
    radius_nm: Tensor,
    quaternion: Tensor,
    options: LikelihoodOptions | None = None,
    image: Tensor | None = None,
    progress: Progress = lambda share: None,
    nuisance: Nuisance | None = None,
) -> Answer:
    """Most likely parameters, from a start within some degrees and nanometres.

    Fits of :meth:`~icobench.fitting.objectives.Objective.coarse` (for photon counts least squares of square
    roots) converge from farther away, but are biased, so they only provide the start of the second stage. For
    objectives without it this is :func:`levenberg_marquardt` itself. Arguments and answer are those of that.
    """
    options, coarse = options or LikelihoodOptions(), objective.coarse()
    if coarse is None:
        return levenberg_marquardt(objective, radius_nm, quaternion, options, image, progress, nuisance)
    first = levenberg_marquardt(
        coarse, radius_nm, quaternion, replace(COARSE, radius_range_nm=options.radius_range_nm), image,
        lambda share: progress(0.7 * share), nuisance,
    )  # fmt: skip
    second = levenberg_marquardt(
        objective, first.radius_nm, first.quaternion, replace(options, damping=options.near_damping), image,
        lambda share: progress(0.7 + 0.3 * share), Nuisance.from_answer(first),
    )  # fmt: skip
    # The two stages minimise different things: only the second one's values are the objective's.
    first.trace.objective = [torch.full_like(value, torch.nan) for value in first.trace.objective]
    for name in ("evaluations", "radius_nm", "quaternion", "objective"):
        setattr(second.trace, name, getattr(first.trace, name) + getattr(second.trace, name))
    return second


def centre_steps(objective: Objective, radius_nm: Tensor, quaternion: Tensor) -> tuple[Tensor, Tensor]:
    """How far the beam is from where the experiment has it, image by image.

    All images of a run share the beam's position. At the fitted radii (N,) and orientations (N, 4) a
    Gauss-Newton step of each image, in rotation, radius, scale and position at once, says how far the assumed
    position is off.

    Returns:
        steps (N, 2) in pixels, x and y, and their standard deviations (N, 2) for Pearson residuals.
    """
    device = objective.simulator.device
    radius_nm, quaternion = (part.to(device, non_blocking=True) for part in (radius_nm, quaternion))
    every = torch.arange(len(radius_nm), device=device)
    steps, spreads = [], []
    for rows in pieces(len(every), held_at_once(objective.simulator, CHUNK, GPU_CHUNK)):
        image = every[rows]
        intensity, slopes = objective.simulator.intensity_jacobian(
            image, radius_nm[rows], quaternion[rows], also=("centre",)
        )
        products = _products(objective, image, intensity, slopes)
        # Parameters of very different sizes: unit columns.
        size = products[:, :-1, :-1].diagonal(dim1=1, dim2=2).sqrt().clamp_min(1e-300)
        gradient = products[:, :-1, -1:] / size.unsqueeze(2)
        scaled = products[:, :-1, :-1] / (size.unsqueeze(2) * size.unsqueeze(1))
        inverse = torch.linalg.pinv(scaled, rtol=1e-10, hermitian=True)
        step = -(inverse @ gradient).squeeze(-1) / size
        spread = inverse.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt() / size
        # The columns of rotation and radius come first, that of the scale last.
        steps.append(step[:, 4:6].cpu())
        spreads.append(spread[:, 4:6].cpu())
    return torch.cat(steps), torch.cat(spreads)


def cramer_rao(
    objective: Objective,
    radius_nm: Tensor,
    quaternion: Tensor,
    nuisance: Nuisance | None = None,
    image: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Standard deviations of radius (nm) and orientation (degrees), each (N,).

    From the Fisher information J^T diag(1 / mu) J of all fitted parameters, the intensity scale included. The
    orientation's is the root of the trace of its 3 x 3 covariance: the root mean square angle. Where the
    objective does not know the noise (``noise_known``), the residuals' own variance is taken for it.

    Args:
        objective: images, masks and counting simulator; one Jacobian per image is counted.
        radius_nm, quaternion, nuisance: (N,), (N, 4) and (N, P), where to take the bound: at the truth, or at
            a solution for its error bars. Nuisance parameters count as unknown.
        image: (N,) indices of the objective's images, all by default.
    """
    variance = _variances(objective, radius_nm, quaternion, nuisance, image)
    return variance[:, 3].sqrt(), torch.rad2deg(variance[:, :3].sum(1).sqrt())


def _variances(
    objective: Objective, radius_nm: Tensor, quaternion: Tensor, nuisance: Nuisance | None = None,
    image: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Variances (N, T) of all fitted parameters, in the order of :func:`normal_equations`; on the CPU."""
    image = torch.arange(len(radius_nm)) if image is None else image
    image = image.to(objective.simulator.device, non_blocking=True)
    matrix, _, squares = normal_equations(objective, image, radius_nm, quaternion, nuisance)
    # Scaled to unit diagonal first: radians, nanometres and a logarithm differ by orders.
    size = matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-300).sqrt()
    scaled = matrix / (size[:, :, None] * size[:, None, :])
    covariance = torch.linalg.pinv(scaled, hermitian=True) / (size[:, :, None] * size[:, None, :])
    if not objective.noise_known:
        freedom = (objective.usable[image] - matrix.shape[1]).clamp_min(1)
        covariance = covariance * (squares / freedom)[:, None, None]
    return covariance.diagonal(dim1=1, dim2=2).clamp_min(0).cpu()


def shift_by_waves(
    objective: Objective, radius_nm: Tensor, quaternion: Tensor, image: Tensor
) -> tuple[Tensor, Tensor]:
    """How far straight rays would be off on propagated images of the fitted bodies: (M,) nm, (M,) degrees.

    One Gauss-Newton step of the straight-ray fit to the propagated image that belongs to each solution, times
    :data:`WHOLE_SHIFT`: the derivatives of straight rays show a part of the way. The
    arguments are those of :func:`cramer_rao`; a propagated image and a Jacobian are counted for each.
    """
    device, counter = objective.simulator.device, objective.simulator
    waves = CountingSimulator(counter.simulator.with_physics("propagated"), counter.images)
    waves.counts = counter.counts
    place, radius_nm, quaternion = image.to(device), radius_nm.to(device), quaternion.to(device)
    propagated = objective.pretend(place, waves.intensity(place, radius_nm, quaternion))
    matrix, gradient, _ = normal_equations(propagated, place, radius_nm, quaternion)
    floor = matrix.diagonal(dim1=1, dim2=2).amax(1, keepdim=True) * 1e-12
    step = torch.linalg.solve(matrix + torch.diag_embed(floor.expand(-1, matrix.shape[1])), gradient)
    step = WHOLE_SHIFT * step.cpu()
    return step[:, 3].abs(), torch.rad2deg(step[:, :3].norm(dim=1))


def with_error_bars(objective: Objective, answer: Answer) -> Answer:
    """The answer of a fit to all images of an objective with error bars: one Jacobian per image, counted.

    Nuisance parameters have theirs in columns of their names with ``_std``.

    Where straight rays explain an image poorly, what they leave out may have shifted the fit by far more than
    the noise. By how much is estimated (:func:`shift_by_waves`) and added in quadrature.
    """
    nuisance = Nuisance.from_answer(answer)
    variance = _variances(objective, answer.radius_nm, answer.quaternion, nuisance)
    radius_std, orientation_std = variance[:, 3].sqrt(), torch.rad2deg(variance[:, :3].sum(1).sqrt())
    spreads = zip(nuisance.columns, variance[:, 4:-1].sqrt().unbind(1), strict=True)
    poor = torch.tensor([word == POOR for word in answer.status]).nonzero()[:, 0]
    if len(poor) and objective.simulator.simulator.method == "exact":
        shifts = shift_by_waves(objective, answer.radius_nm[poor], answer.quaternion[poor], poor)
        for spread, shift in zip((radius_std, orientation_std), shifts, strict=True):
            spread[poor] = torch.hypot(spread[poor], shift)
    outside = torch.tensor([word == OUTSIDE for word in answer.status], dtype=torch.bool)
    radius_std[outside] = orientation_std[outside] = torch.nan
    return replace(
        answer, radius_std_nm=radius_std, orientation_std_deg=orientation_std,
        nuisance=answer.nuisance | {f"{column}_std": spread for column, spread in spreads},
        evaluations=objective.simulator.evaluations,
    )  # fmt: skip
