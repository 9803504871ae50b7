"""The Cramer-Rao bound, and error bars from it."""

from dataclasses import replace

import torch
from torch import Tensor

from icobench.answer import Answer
from icobench.fitting.levenberg_marquardt import normal_equations
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import Objective

__all__ = ["cramer_rao", "with_error_bars"]


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
    image = torch.arange(len(radius_nm)) if image is None else image
    matrix, _, squares = normal_equations(objective, image, radius_nm, quaternion, nuisance)
    # Scaled to unit diagonal first: radians, nanometres and a logarithm differ by orders.
    size = matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-300).sqrt()
    scaled = matrix / (size[:, :, None] * size[:, None, :])
    covariance = torch.linalg.pinv(scaled, hermitian=True) / (size[:, :, None] * size[:, None, :])
    if not objective.noise_known:
        freedom = (objective.usable[image] - matrix.shape[1]).clamp_min(1)
        covariance = covariance * (squares / freedom)[:, None, None]
    variance = covariance.diagonal(dim1=1, dim2=2).clamp_min(0)
    angle = torch.rad2deg(variance[:, :3].sum(1).sqrt())
    return variance[:, 3].sqrt().cpu(), angle.cpu()


def with_error_bars(objective: Objective, answer: Answer) -> Answer:
    """The answer of a fit to all images of an objective with error bars: one Jacobian per image, counted."""
    radius_std, orientation_std = cramer_rao(
        objective, answer.radius_nm, answer.quaternion, Nuisance.from_answer(answer)
    )
    return replace(
        answer, radius_std_nm=radius_std, orientation_std_deg=orientation_std,
        evaluations=objective.simulator.evaluations.clone(),
    )  # fmt: skip
