"""Levenberg-Marquardt on radius and orientation, many fits at once.

The parameters are a rotation vector (lab axes) applied to the present orientation, the radius, the nuisance
parameters if there are any, and last the intensity scale. The scale is linear and the objective profiles it
out, so it only enters the normal matrix. With the Poisson deviance the residuals are Pearson's, which makes
this Fisher scoring of the likelihood. A step is accepted where it lowers the objective.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from icobench.answer import Answer, Progress, Trace
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import Objective, turned
from icobench.geometry.orientation import to_fundamental_domain
from icobench.geometry.rotations import quaternion_normalize

__all__ = ["LevenbergMarquardtOptions", "levenberg_marquardt", "normal_equations"]

CHUNK = 32


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
    radius_range_nm: tuple[float, float] = (20.0, 170.0)


def weighted(objective: Objective, image: Tensor, intensity: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
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
        columns, residuals = weighted(objective, image[rows], intensity, slopes)
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
        radius.cpu(), to_fundamental_domain(quaternion).cpu(), value.cpu(),
        objective.simulator.evaluations[chosen].clone(), converged.cpu(), nuisance=nuisance.to_columns(),
        trace=trace,
    )  # fmt: skip
