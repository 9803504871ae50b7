"""From planned segments to the terms of the edge sum, and how these change with the body."""

import torch
from torch import Tensor

from icobench.geometry.rotations import quaternion_to_matrix, rotation_vector_to_quaternion
from icobench.simulator.edge_sum import Terms, terms
from icobench.simulator.overlay import BodyTensors, Plan, segments

__all__ = ["DIFFERENTIATED", "PARAMETERS", "SLOPES_FLOOR", "segment_terms", "term_slopes"]

PARAMETERS = 5
"""Turn about x, y, z (radians); radius (nm); real part of k (n - 1) (1/nm)."""

DIFFERENTIATED = 6
"""The first so many columns of ``Terms.numbers`` have derivatives by the geometry."""

SLOPES_FLOOR = torch.float64
"""Damping is kept from zero as for this type: the derivatives of small bodies nearly cancel."""


def segment_terms(
    body: BodyTensors, rotation: Tensor, where: Plan, radius: Tensor, kappa: Tensor, dtype: torch.dtype
) -> Terms:
    """Terms of the planned segments, float64.

    Args:
        body: constants.
        rotation: (B, 3, 3) float64.
        where: from ``plan`` at the same rotation.
        radius: (B,) in nm, float64.
        kappa: (2,) real and imaginary part of k (n - 1) in 1/nm, float64.
        dtype: in which the sum will be done.
    """
    return terms(where, segments(body, rotation, where, dtype), radius, kappa, dtype)


def term_slopes(
    body: BodyTensors, rotation: Tensor, where: Plan, radius: Tensor, kappa: Tensor, dtype: torch.dtype
) -> tuple[Terms, Tensor, Tensor]:
    """The same with derivatives by the five :data:`PARAMETERS`, in forward mode.

    Returns:
        terms, derivatives of their forms (B, 5, S, 4, 4) and of the first six numbers (B, 5, S, 6), float64.
    """

    def at(step: Tensor) -> tuple[Tensor, Tensor]:
        turned = quaternion_to_matrix(rotation_vector_to_quaternion(step[:, :3])) @ rotation
        index = kappa + torch.stack((step[0, 4], torch.zeros_like(step[0, 4])))
        found = segments(body, turned, where, dtype)
        made = terms(where, found, radius + step[:, 3], index, SLOPES_FLOOR)
        return made.forms, made.numbers

    def along(direction: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        both = torch.func.jvp(at, (radius.new_zeros(len(radius), PARAMETERS),), (direction,))
        return both[0], both[1]

    directions = torch.eye(PARAMETERS, dtype=radius.dtype, device=radius.device)
    directions = directions.unsqueeze(1).expand(-1, len(radius), -1)
    (forms, numbers), (form_slopes, number_slopes) = torch.func.vmap(along)(directions)
    return (
        Terms(forms[0], numbers[0], where.live),
        form_slopes.transpose(0, 1),
        number_slopes.transpose(0, 1)[..., :DIFFERENTIATED],
    )
