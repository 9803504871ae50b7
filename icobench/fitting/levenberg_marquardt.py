"""Levenberg-Marquardt on radius and orientation, many fits at once.

The parameters are a rotation vector (lab axes) applied to the present orientation, and the radius;
the intensity scale is a fifth, linear one that the objective profiles out, so it only enters the
normal matrix. For photon counts the residuals are Pearson's, which makes this Fisher scoring of the
Poisson likelihood; a step is accepted by the objective itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

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
        radius_range_nm: bounds of the radius.
    """

    iterations: int = 16
    damping: float = 1e-2
    largest_turn_deg: float = 5.0
    largest_radius_nm: float = 4.0
    angle_tolerance_deg: float = 1e-3
    radius_tolerance_nm: float = 1e-3
    radius_range_nm: tuple[float, float] = (20.0, 170.0)


def normal_equations(
    objective: Objective, image: Tensor, radius: Tensor, quaternion: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Normal matrix (B, 5, 5), gradient (B, 5) and sum of squared residuals (B,).

    Columns: rotation about x, y, z in radians, radius in nm, logarithm of the scale.
    """
    matrices, gradients, squares = [], [], []
    for piece in torch.arange(len(image), device=image.device).split(CHUNK):
        intensity, slopes = objective.simulator.intensity_jacobian(
            image[piece], radius[piece], quaternion[piece]
        )
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
) -> FitResult:
    """Refine one start per image.

    Args:
        objective: images, masks and counting simulator.
        radius_nm: (N,) starts.
        quaternion: (N, 4) starts.
        options: settings.
        image: (N,) indices of the objective's images, all by default.
        progress: called with the finished share.
    """
    options = options or LevenbergMarquardtOptions()
    device = objective.simulator.device
    chosen = torch.arange(len(radius_nm)) if image is None else image.cpu()
    image = chosen.to(device)
    low, high = options.radius_range_nm
    radius = radius_nm.to(device, torch.float64).clamp(low, high)
    quaternion = quaternion_normalize(quaternion.to(device, torch.float64))
    count = len(radius)
    value = objective.value(image, radius, quaternion).double()
    damping = torch.full((count,), options.damping, dtype=torch.float64, device=device)
    growth = torch.full_like(damping, 2.0)
    matrix = torch.zeros(count, 5, 5, dtype=torch.float64, device=device)
    gradient = torch.zeros(count, 5, dtype=torch.float64, device=device)
    stale = torch.ones(count, dtype=torch.bool, device=device)
    active = torch.ones_like(stale)
    trace = Trace()

    def record() -> None:
        trace.add(objective.simulator.evaluations[chosen], radius, quaternion, value)

    record()
    turn_limit = torch.deg2rad(torch.tensor(options.largest_turn_deg, dtype=torch.float64))
    for iteration in range(options.iterations):
        fresh = (active & stale).nonzero()[:, 0]
        if len(fresh):
            matrix[fresh], gradient[fresh], _ = normal_equations(
                objective, image[fresh], radius[fresh], quaternion[fresh]
            )
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
        step = step * shrink[:, None]
        trial_quaternion = quaternion_normalize(
            quaternion_multiply(rotation_vector_to_quaternion(step[:, :3]), quaternion[rows])
        )
        trial_radius = (radius[rows] + step[:, 3]).clamp(low, high)
        trial = objective.value(image[rows], trial_radius, trial_quaternion).double()
        better = trial < value[rows]
        small = (step[:, :3].norm(dim=1) < torch.deg2rad(step.new_tensor(options.angle_tolerance_deg))) & (
            step[:, 3].abs() < options.radius_tolerance_nm
        )
        won = rows[better]
        radius[won], quaternion[won] = trial_radius[better], trial_quaternion[better]
        value[won] = trial[better]
        stale[won] = True
        damping[won] = (damping[won] / 5).clamp_min(1e-9)
        growth[won] = 2.0
        lost = rows[~better]
        damping[lost] *= growth[lost]
        growth[lost] *= 2
        active[rows[small]] = False
        record()
        progress((iteration + 1) / options.iterations)
        if not bool(active.any()):
            break
    return FitResult(
        radius.cpu(),
        to_fundamental_domain(quaternion).cpu(),
        value.cpu(),
        objective.simulator.evaluations[chosen].clone(),
        (~active).cpu(),
        trace,
    )
