"""The Cramer-Rao bound, and error bars from it."""

import torch
from torch import Tensor

from icobench.fitting.levenberg_marquardt import normal_equations
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import Objective, PoissonDeviance

__all__ = ["cramer_rao"]


def cramer_rao(
    objective: Objective,
    radius_nm: Tensor,
    quaternion: Tensor,
    nuisance: Nuisance | None = None,
    image: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Standard deviations of radius (nm) and orientation (degrees), each (N,).

    From the Fisher information J^T diag(1 / mu) J, the intensity scale and whatever else is fitted being
    nuisance parameters. The orientation's is the root of the trace of its 3 x 3 covariance: the root mean
    square angle. For other objectives than the Poisson deviance the residuals' own variance stands for
    the unknown noise.

    Args:
        objective: images, masks and counting simulator; one Jacobian is charged.
        radius_nm, quaternion: (N,) and (N, 4), where to take the bound: at the truth, or at a solution for
            its error bars.
        nuisance: (N, P) further parameters that are not known.
        image: (N,) indices of the objective's images, all by default.
    """
    device = objective.simulator.device
    image = torch.arange(len(radius_nm)) if image is None else image
    image = image.to(device)
    if nuisance is not None:
        nuisance = Nuisance(nuisance.names, nuisance.values.to(device))
    matrix, _, squares = normal_equations(
        objective, image, radius_nm.to(device), quaternion.to(device), nuisance
    )
    # Scaled to unit diagonal first: radians, nanometres and a logarithm differ by orders.
    size = matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-300).sqrt()
    scaled = matrix / (size[:, :, None] * size[:, None, :])
    covariance = torch.linalg.pinv(scaled, hermitian=True) / (size[:, :, None] * size[:, None, :])
    if not isinstance(objective, PoissonDeviance):
        freedom = (objective.usable[image] - matrix.shape[1]).clamp_min(1)
        covariance = covariance * (squares / freedom)[:, None, None]
    variance = covariance.diagonal(dim1=1, dim2=2).clamp_min(0)
    turn = torch.rad2deg(variance[:, :3].sum(1).sqrt())
    return variance[:, 3].sqrt().cpu(), turn.cpu()
