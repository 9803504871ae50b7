"""Least squares on radius and orientation, many fits at once: Levenberg-Marquardt, and error bars.

The parameters are a rotation vector (lab axes) applied to the present orientation, the radius, the nuisance
parameters if there are any, and last the intensity scale. The scale is linear and the objective profiles it
out, so it only enters the normal matrix. With the Poisson deviance the residuals are Pearson's, which makes
this Fisher scoring of the likelihood. A step is accepted where it lowers the objective.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from icobench.answer import OUTSIDE, POOR, RADII_NM, Answer, Progress, Trace
from icobench.fitting.counter import CountingSimulator
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import Objective
from icobench.geometry.orientation import to_fundamental_domain
from icobench.geometry.rotations import quaternion_normalize, turned

__all__ = [
    "LevenbergMarquardtOptions", "LikelihoodOptions", "centre_steps", "cramer_rao", "levenberg_marquardt",
    "maximum_likelihood", "normal_equations", "with_error_bars",
]  # fmt: skip

CHUNK = 32

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


def _weighted(
    objective: Objective, image: Tensor, intensity: Tensor, slopes: Tensor
) -> tuple[Tensor, Tensor]:
    """Derivatives of the residuals (B, T + 1, H W) by the parameters of T slopes (B, T, H, W) and by the
    logarithm of the scale; residuals (B, H W); float64."""
    residuals, weight = objective.residuals(image, intensity)
    columns = torch.cat((slopes, intensity.unsqueeze(1)), 1) * weight.unsqueeze(1)
    return columns.flatten(2).double(), residuals.flatten(1).double()


def normal_equations(
    objective: Objective, image: Tensor, radius: Tensor, quaternion: Tensor, nuisance: Nuisance | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Normal matrix (B, T, T), gradient (B, T) and sum of squared residuals (B,).

    T = 5 columns: rotation about x, y, z in radians, radius in nm, logarithm of the scale; those of the
    nuisance parameters stand before the last.
    """
    nuisance = nuisance or Nuisance.none(len(image))
    matrices, gradients, squares = [], [], []
    for rows in torch.arange(len(image), device=image.device).split(CHUNK):
        intensity, slopes = objective.model_jacobian(
            image[rows], radius[rows], quaternion[rows], nuisance.take(rows)
        )
        columns, residuals = _weighted(objective, image[rows], intensity, slopes)
        matrices.append(columns @ columns.mT)
        gradients.append((columns @ residuals.unsqueeze(-1)).squeeze(-1))
        squares.append(residuals.square().sum(1))
    return torch.cat(matrices), torch.cat(gradients), torch.cat(squares)


def _damped_step(
    matrix: Tensor, gradient: Tensor, damping: Tensor, options: LevenbergMarquardtOptions, nuisance: Nuisance
) -> Tensor:
    """Steps (B, T) of the damped normal equations, shortened to the longest that the options allow."""
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    floor = diagonal.amax(1, keepdim=True) * 1e-12 + 1e-30
    step = -torch.linalg.solve(matrix + torch.diag_embed(damping[:, None] * diagonal + floor), gradient)
    sizes = torch.cat((step[:, :3].norm(dim=1, keepdim=True), step[:, 3:-1].abs()), 1)
    turn_limit = torch.deg2rad(step.new_tensor([options.largest_turn_deg]))
    limits = torch.cat((turn_limit, step.new_tensor([options.largest_radius_nm]), nuisance.limits[2]))
    return step * (limits / sizes.clamp_min(1e-12)).amin(1, keepdim=True).clamp_max(1)


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
    device = objective.simulator.device
    chosen = torch.arange(len(radius_nm)) if image is None else image.cpu()
    image = chosen.to(device)
    low, high = options.radius_range_nm
    radius = radius_nm.to(device, torch.float64).clamp(low, high)
    quaternion = quaternion_normalize(quaternion.to(device, torch.float64))
    count = len(radius)
    nuisance = nuisance or Nuisance.none(count)
    # A copy: better values are written into it.
    nuisance = Nuisance(nuisance.names, nuisance.values.to(device, torch.float64, copy=True))
    value = objective.value(image, radius, quaternion, nuisance).double()
    damping = torch.full((count,), options.damping, dtype=torch.float64, device=device)
    growth = torch.full_like(damping, 2.0)
    size = 5 + nuisance.values.shape[1]
    matrix = torch.zeros(count, size, size, dtype=torch.float64, device=device)
    gradient = torch.zeros(count, size, dtype=torch.float64, device=device)
    stale = torch.ones(count, dtype=torch.bool, device=device)
    active = value.isfinite()
    converged = torch.zeros_like(active)
    trace = Trace()
    trace.add(objective.simulator.evaluations[chosen], radius, quaternion, value)
    smallest_turn = torch.deg2rad(value.new_tensor(options.angle_tolerance_deg))
    for iteration in range(options.iterations):
        fresh = (active & stale).nonzero()[:, 0]
        if len(fresh):
            matrix[fresh], gradient[fresh], _ = normal_equations(
                objective, image[fresh], radius[fresh], quaternion[fresh], nuisance.take(fresh)
            )
            stale[fresh] = False
            active &= gradient.isfinite().all(1)
        rows = active.nonzero()[:, 0]
        present = nuisance.take(rows)
        step = _damped_step(matrix[rows], gradient[rows], damping[rows], options, present)
        trial_quaternion = turned(quaternion[rows], step[:, :3])
        trial_radius = (radius[rows] + step[:, 3]).clamp(low, high)
        trial_nuisance = present.moved(step[:, 4:-1])
        trial = objective.value(image[rows], trial_radius, trial_quaternion, trial_nuisance).double()
        better = trial < value[rows]
        small = (step[:, :3].norm(dim=1) < smallest_turn) & (step[:, 3].abs() < options.radius_tolerance_nm)
        # Once only noise is left no step is better, however long it is within the error bars.
        promised = -(step * gradient[rows]).sum(1)
        small |= promised < options.value_tolerance * value[rows] * objective.usable[image[rows]]
        accepted, rejected = rows[better], rows[~better]
        radius[accepted], quaternion[accepted] = trial_radius[better], trial_quaternion[better]
        nuisance.values[accepted] = trial_nuisance.values[better]
        value[accepted] = trial[better]
        stale[accepted] = True
        damping[accepted] = (damping[accepted] / 5).clamp_min(1e-9)
        growth[accepted] = 2.0
        damping[rejected] *= growth[rejected]
        growth[rejected] *= 2
        active[rows[small]] = False
        converged[rows[small]] = True
        trace.add(objective.simulator.evaluations[chosen], radius, quaternion, value)
        progress((iteration + 1) / options.iterations)
        if not bool(active.any()):
            break
    return Answer(
        radius.cpu(), to_fundamental_domain(quaternion, objective.simulator.body).cpu(), value.cpu(),
        objective.simulator.evaluations[chosen].clone(), converged.cpu(), nuisance=nuisance.to_columns(),
        trace=trace,
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
    steps, spreads = [], []
    for image in torch.arange(len(radius_nm), device=device).split(CHUNK):
        intensity, slopes = objective.simulator.intensity_jacobian(
            image, radius_nm.to(device)[image], quaternion.to(device)[image], also=("centre",)
        )
        columns, residuals = _weighted(objective, image, intensity, slopes)
        # Parameters of very different sizes: unit columns.
        size = columns.norm(dim=2).clamp_min(1e-300)
        columns = columns / size.unsqueeze(2)
        gradient = columns @ residuals.unsqueeze(-1)
        inverse = torch.linalg.pinv(columns @ columns.mT, rtol=1e-10, hermitian=True)
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
    waves.evaluations = counter.evaluations
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
        evaluations=objective.simulator.evaluations.clone(),
    )  # fmt: skip
