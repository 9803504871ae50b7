"""Levenberg-Marquardt on radius and orientation, many fits at once.

The parameters are a rotation vector (lab axes) applied to the present orientation, and the radius; nuisance
parameters if asked for; the intensity scale is the last, a linear one that the objective profiles out, so it
only enters the normal matrix. With the Poisson deviance the residuals are Pearson's, which makes this Fisher
scoring of the likelihood; a step is accepted by the objective itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import Objective
from icobench.fitting.result import FitResult, Trace
from icobench.geometry.orientation import to_fundamental_domain
from icobench.geometry.rotations import (
    quaternion_multiply,
    quaternion_normalize,
    rotation_vector_to_quaternion,
)

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


def normal_equations(
    objective: Objective,
    image: Tensor,
    radius: Tensor,
    quaternion: Tensor,
    nuisance: Nuisance | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normal matrix (B, T, T), gradient (B, T) and sum of squared residuals (B,).

    T = 5 columns: rotation about x, y, z in radians, radius in nm, logarithm of the scale; those of the
    nuisance parameters stand before the last.
    """
    matrices, gradients, squares = [], [], []
    for piece in torch.arange(len(image), device=image.device).split(CHUNK):
        own = None if nuisance is None else nuisance.take(piece)
        intensity, slopes = objective.model_jacobian(image[piece], radius[piece], quaternion[piece], own)
        residual, weight = objective.residuals(image[piece], intensity)
        columns = torch.cat((slopes, intensity.unsqueeze(1)), 1) * weight.unsqueeze(1)
        columns = columns.flatten(2).double()
        flat = residual.flatten(1).double()
        matrices.append(columns @ columns.mT)
        gradients.append((columns @ flat.unsqueeze(-1)).squeeze(-1))
        squares.append(flat.square().sum(1))
    return torch.cat(matrices), torch.cat(gradients), torch.cat(squares)


def levenberg_marquardt(
    objective: Objective,
    radius_nm: Tensor,
    quaternion: Tensor,
    options: LevenbergMarquardtOptions | None = None,
    image: Tensor | None = None,
    progress: Callable[[float], None] = lambda share: None,
    nuisance: Nuisance | None = None,
) -> FitResult:
    """Refine one start per image.

    Args:
        objective: images, masks and counting simulator.
        radius_nm: (N,) starts.
        quaternion: (N, 4) starts.
        options: settings.
        image: (N,) indices of the objective's images, all by default.
        progress: called with the finished share.
        nuisance: starts (N, P) of further parameters to fit.

    A start whose objective is not finite stays where it is and has not converged; a trial that is not finite
    is a step not taken.
    """
    options = options or LevenbergMarquardtOptions()
    device = objective.simulator.device
    chosen = torch.arange(len(radius_nm)) if image is None else image.cpu()
    image = chosen.to(device)
    low, high = options.radius_range_nm
    radius = radius_nm.to(device, torch.float64).clamp(low, high)
    quaternion = quaternion_normalize(quaternion.to(device, torch.float64))
    count = len(radius)
    extra = (
        None
        if nuisance is None
        else Nuisance(nuisance.names, nuisance.values.to(device, torch.float64, copy=True))
    )
    value = objective.value(image, radius, quaternion, extra).double()
    damping = torch.full((count,), options.damping, dtype=torch.float64, device=device)
    growth = torch.full_like(damping, 2.0)
    size = 5 + (0 if extra is None else extra.values.shape[1])
    matrix = torch.zeros(count, size, size, dtype=torch.float64, device=device)
    gradient = torch.zeros(count, size, dtype=torch.float64, device=device)
    stale = torch.ones(count, dtype=torch.bool, device=device)
    active = value.isfinite()
    converged = torch.zeros_like(active)
    trace = Trace()

    def record() -> None:
        trace.add(objective.simulator.evaluations[chosen], radius, quaternion, value)

    record()
    turn_limit = torch.deg2rad(torch.tensor(options.largest_turn_deg, dtype=torch.float64))
    for iteration in range(options.iterations):
        fresh = (active & stale).nonzero()[:, 0]
        if len(fresh):
            matrix[fresh], gradient[fresh], _ = normal_equations(
                objective, image[fresh], radius[fresh], quaternion[fresh],
                None if extra is None else extra.take(fresh),
            )  # fmt: skip
            stale[fresh] = False
        rows = active.nonzero()[:, 0]
        diagonal = matrix[rows].diagonal(dim1=1, dim2=2)
        floor = diagonal.amax(1, keepdim=True) * 1e-12 + 1e-30
        damped = matrix[rows] + torch.diag_embed(damping[rows, None] * diagonal + floor)
        step = -torch.linalg.solve(damped, gradient[rows])
        turn = step[:, :3].norm(dim=1)
        shrink = torch.minimum(
            (turn_limit / turn.clamp_min(1e-12)).clamp_max(1),
            (options.largest_radius_nm / step[:, 3].abs().clamp_min(1e-12)).clamp_max(1),
        )
        if extra is not None:
            share = extra.longest_step / step[:, 4:-1].abs().clamp_min(1e-12)
            shrink = torch.minimum(shrink, share.amin(1).clamp_max(1))
        step = step * shrink[:, None]
        trial_quaternion = quaternion_normalize(
            quaternion_multiply(rotation_vector_to_quaternion(step[:, :3]), quaternion[rows])
        )
        trial_radius = (radius[rows] + step[:, 3]).clamp(low, high)
        trial_extra = None if extra is None else extra.take(rows).moved(step[:, 4:-1])
        trial = objective.value(image[rows], trial_radius, trial_quaternion, trial_extra).double()
        better = trial < value[rows]
        small = (step[:, :3].norm(dim=1) < torch.deg2rad(step.new_tensor(options.angle_tolerance_deg))) & (
            step[:, 3].abs() < options.radius_tolerance_nm
        )
        # At the noise's floor no step is better any more, however far it leads within the error bars.
        promised = -(step * gradient[rows]).sum(1)
        small |= promised < options.value_tolerance * value[rows] * objective.usable[image[rows]]
        won = rows[better]
        radius[won], quaternion[won] = trial_radius[better], trial_quaternion[better]
        value[won] = trial[better]
        if extra is not None and trial_extra is not None:
            extra.values[won] = trial_extra.values[better]
        stale[won] = True
        damping[won] = (damping[won] / 5).clamp_min(1e-9)
        growth[won] = 2.0
        lost = rows[~better]
        damping[lost] *= growth[lost]
        growth[lost] *= 2
        active[rows[small]] = False
        converged[rows[small]] = True
        record()
        progress((iteration + 1) / options.iterations)
        if not bool(active.any()):
            break
    return FitResult(
        radius.cpu(),
        to_fundamental_domain(quaternion).cpu(),
        value.cpu(),
        objective.simulator.evaluations[chosen].clone(),
        converged.cpu(),
        trace,
        None if extra is None else Nuisance(extra.names, extra.values.cpu()),
    )
