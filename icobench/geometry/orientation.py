"""Orientations of a symmetric body: equivalents, fundamental domain, disorientation."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from icobench.geometry.convex import ConvexBody, icosahedron
from icobench.geometry.rotations import (
    quaternion_angle,
    quaternion_conjugate,
    quaternion_multiply,
    quaternion_normalize,
    random_quaternions,
)

__all__ = [
    "RADIUS_SPAN_NM", "appendix_c_errors", "boundary_distance", "component_spans", "disorientation",
    "equivalents", "nearest_equivalent", "random_orientations", "to_fundamental_domain",
]  # fmt: skip

RADIUS_SPAN_NM = 130.0
"""Allowed range of the radius in the paper's error measure (30 to 160 nm)."""


@lru_cache(maxsize=64)
def _group_products(body: ConvexBody, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Products of 1, i, j, k with the elements of the group, (G, 4, 4), and their scalar parts, (4, G)."""
    group = torch.as_tensor(body.group)
    products = quaternion_multiply(torch.eye(4, dtype=group.dtype), group.unsqueeze(1)).to(device, dtype)
    return products, products[..., 0].T.contiguous()


def equivalents(quaternion: Tensor, body: ConvexBody | None = None) -> Tensor:
    """All orientations q g that look the same: (..., 4) -> (..., G, 4), sign ``w >= 0``."""
    group = torch.as_tensor((body or icosahedron()).group).to(quaternion)
    return quaternion_normalize(quaternion_multiply(quaternion.unsqueeze(-2), group))


def to_fundamental_domain(quaternion: Tensor, body: ConvexBody | None = None) -> Tensor:
    """The equivalent q g with the largest w: (..., 4) -> (..., 4).

    For the icosahedron the domain is a dodecahedron whose corners lie 44.48 degrees
    from the identity. All orientations of a sphere are the identity.

    Example:
        >>> half_turn = torch.tensor([0.0, 1.0, 0.0, 0.0])  # about a two-fold axis
        >>> icobench.to_fundamental_domain(half_turn).abs()
        tensor([1., 0., 0., 0.])
    """
    if body is not None and body.round:
        return torch.zeros_like(quaternion).index_fill(-1, torch.tensor(0, device=quaternion.device), 1.0)
    products, scalars = _group_products(body or icosahedron(), quaternion.dtype, quaternion.device)
    # The scalar parts of all products q g, without the products.
    best = products[(quaternion.unsqueeze(-1) * scalars).sum(-2).abs().argmax(-1)]
    return quaternion_normalize((quaternion.unsqueeze(-1) * best).sum(-2))


def nearest_equivalent(quaternion: Tensor, reference: Tensor, body: ConvexBody | None = None) -> Tensor:
    """The equivalent of ``quaternion`` nearest to ``reference``: (..., 4).

    Returned with the sign that has a positive dot product with ``reference``, so the
    two can be compared component by component.
    """
    candidates = equivalents(quaternion, body)
    dots = (candidates * reference.unsqueeze(-2)).sum(-1, keepdim=True)
    candidates = candidates * torch.where(dots < 0, -1, 1)
    best = dots.abs().argmax(-2, keepdim=True)
    return torch.take_along_dim(candidates, best, dim=-2).squeeze(-2)


def disorientation(first: Tensor, second: Tensor, body: ConvexBody | None = None) -> Tensor:
    """Smallest rotation angle between two orientations over all equivalents.

    Args:
        first, second: (..., 4) unit quaternions, scalar first; broadcast.

    Returns:
        (...) angle in degrees.

    Example:
        >>> turned = torch.tensor([0.8660254, 0.5, 0.0, 0.0], dtype=torch.float64)  # 60 degrees about x
        >>> upright = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
        >>> round(float(icobench.disorientation(turned, upright)), 2)
        36.16
    """
    relative = quaternion_multiply(quaternion_conjugate(second), first)
    return torch.rad2deg(quaternion_angle(to_fundamental_domain(relative, body)))


def boundary_distance(quaternion: Tensor, body: ConvexBody | None = None) -> Tensor:
    """Smallest rotation to the fundamental domain's boundary, where equivalents tie: (..., 4) -> (...).

    In degrees, at most 36 for the icosahedron. The boundary consists of pieces of hyperplanes through the
    origin of quaternion space, half way between the identity and another element of the group; the rotation
    angle is twice the arc to the nearest one.
    """
    domain = to_fundamental_domain(quaternion, body)
    group = quaternion_conjugate(torch.as_tensor((body or icosahedron()).group).to(quaternion))
    group = group[group[:, 0].abs() < 1 - 1e-6]
    dots = domain @ group.mT
    apart = (2 - 2 * torch.sign(dots) * group[:, 0]).sqrt()
    sine = (domain[..., :1] - dots.abs()) / apart
    return torch.rad2deg(2 * torch.asin(sine.clamp(0, 1))).amin(-1)


def random_orientations(
    count: int, generator: torch.Generator | None = None, body: ConvexBody | None = None
) -> Tensor:
    """Orientations uniform (Haar) in the fundamental domain: (count, 4) float64."""
    return to_fundamental_domain(random_quaternions(count, generator), body)


@lru_cache(maxsize=1)
def component_spans() -> tuple[float, float, float, float]:
    """Allowed range of (w, x, y, z) in the icosahedral fundamental domain.

    The domain is the dodecahedron of vectors tan(angle / 2) * axis whose twelve faces lie at
    tan(pi / 10) along the five-fold axes. The coordinate axes are two-fold axes and pierce the
    middles of its edges, where a component is largest; its corners, where w is smallest,
    lie on the three-fold axes.
    """
    body = icosahedron()
    face = math.tan(math.pi / 10)
    edges = face / np.abs(body.vertices).max(0)
    corner = face / body.inradius
    x, y, z = 2 * edges / np.sqrt(1 + edges**2)
    return float(1 - 1 / math.sqrt(1 + corner**2)), float(x), float(y), float(z)


def appendix_c_errors(
    radius_nm: Tensor, quaternion: Tensor, true_radius_nm: Tensor, true_quaternion: Tensor
) -> tuple[Tensor, Tensor]:
    """The paper's relative error (appendix C): mean and maximum over five components.

    Each component's absolute error is divided by its allowed range: for w, x, y, z the span of the
    fundamental domain, for the radius 130 nm. The equivalent of the prediction
    nearest to the truth is compared, with the truth in the fundamental domain.

    Args:
        radius_nm, true_radius_nm: (...) in nm.
        quaternion, true_quaternion: (..., 4), scalar first.

    Returns:
        mean and maximum, each (...), as fractions (not per cent).
    """
    truth = to_fundamental_domain(true_quaternion)
    nearest = nearest_equivalent(quaternion, truth)
    spans = torch.as_tensor(component_spans(), dtype=truth.dtype, device=truth.device)
    components = (nearest - truth).abs() / spans
    radius = (radius_nm - true_radius_nm).abs().unsqueeze(-1) / RADIUS_SPAN_NM
    errors = torch.cat((components, radius), dim=-1)
    return errors.mean(-1), errors.amax(-1)
