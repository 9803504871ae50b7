"""From planned segments to the terms of the edge sum, and how these change with the body."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icobench.geometry.rotations import quaternion_to_matrix, rotation_vector_to_quaternion
from icobench.simulator.overlay import BodyTensors, Plan, segments

__all__ = [
    "DIFFERENTIATED", "NUMBERS", "PARAMETERS", "SLOPES_FLOOR", "SMALLEST_HALF_DAMPING", "Terms",
    "empty_terms", "segment_terms", "term_slopes",
]  # fmt: skip

SMALLEST_HALF_DAMPING = {torch.float32: 1e-7, torch.float64: 1e-13}
"""Lower bound on |Im z|: keeps sin(z) / z regular at z = 0 and causes an error of the same size."""

NUMBERS, DIFFERENTIATED = 13, 6
"""Columns of ``Terms.numbers``, and how many leading ones have derivatives by the geometry."""

PARAMETERS = 5
"""Turn about x, y, z (radians); radius (nm); real part of k (n - 1) (1/nm)."""

SLOPES_FLOOR = torch.float64
"""Derivatives use the bound on the damping of this type, since those of small bodies nearly cancel."""


class Terms(NamedTuple):
    """Segments, ready for the sum over wave vectors.

    Attributes:
        forms: (B, S, 4, 4) float64; rows Re phase / 2 pi, Re t, Re v_1, Re v_2; columns the
            coefficients of (k_x, k_y, q_z, 1).
        numbers: (B, S, 13); |e| / 2, Im z, (Im t)^2, Im v_1, Im v_2 and the logarithm of |e| |G| with its
            amplitude, which have derivatives; cosh and sinh of Im z times |e| G with sign and
            amplitude; the weight conj(d)/d as a multiple of conj(w)/w and a complex constant;
            whether the segment counts in the first and in the second sum.
        live: (B,) number of segments before the padding.
    """

    forms: Tensor
    numbers: Tensor
    live: Tensor


def empty_terms(live: Tensor, segments: int, radius: Tensor, parameters: int) -> tuple[Any, ...]:
    """What :func:`term_slopes` returns, not filled yet, for so many parameters; terms alone for none."""
    batch = len(radius)
    forms, numbers = radius.new_empty(batch, segments, 4, 4), radius.new_empty(batch, segments, NUMBERS)
    terms = Terms(forms, numbers, live)
    if not parameters:
        return (terms,)
    form_slopes = radius.new_empty(batch, parameters, segments, 4, 4)
    return terms, form_slopes, radius.new_empty(batch, parameters, segments, DIFFERENTIATED)


def segment_terms(
    body: BodyTensors,
    rotation: Tensor,
    where: Plan,
    radius: Tensor,
    kappa: Tensor,
    dtype: torch.dtype,
    floor: torch.dtype | None = None,
) -> Terms:
    """Linear forms and constants of the planned segments, float64.

    Args:
        body, rotation, where, dtype: as for :func:`~icobench.simulator.overlay.segments`.
        radius: (B,) in nm, float64.
        kappa: (2,) real and imaginary part of k (n - 1) in 1/nm, float64.
        floor: type whose :data:`SMALLEST_HALF_DAMPING` is used; ``dtype`` by default.
    """
    unit = segments(body, rotation, where, dtype)
    real, imag = kappa
    scale = radius[:, None, None]
    start, stop = (unit.points * scale.unsqueeze(-1)).unbind(2)
    leave = unit.exit * scale
    depth = leave - unit.entrance * scale
    edge = stop - start
    length = edge.norm(dim=-1)
    # A segment that shrinks to a point needs some direction, although it contributes nothing.
    point = length < 1e-30
    length = torch.where(point, 1e-30, length)
    along = torch.where(point.unsqueeze(-1), 0.5**0.5, edge / length.unsqueeze(-1))
    normal = torch.stack((along[..., 1], -along[..., 0]), -1)

    climb = (leave[..., 1] - leave[..., 0]) / length
    thicken = (depth[..., 1] - depth[..., 0]) / length
    thickness = 0.5 * (depth[..., 0] + depth[..., 1])
    slopes = (unit.slopes * normal.unsqueeze(-2)).sum(-1)
    growth = slopes[..., 2:] - slopes[..., :2]  # of the thickness, on the left and right
    middle = 0.5 * (start + stop) / (2 * math.pi)
    height = 0.5 * (leave[..., 0] + leave[..., 1]) / (2 * math.pi)
    rows = (
        (middle[..., 0], middle[..., 1], height, -real / (2 * math.pi) * thickness),
        (along[..., 0], along[..., 1], climb, -real * thicken),
        (normal[..., 0], normal[..., 1], slopes[..., 2], -real * growth[..., 0]),
        (normal[..., 0], normal[..., 1], slopes[..., 3], -real * growth[..., 1]),
    )
    forms = torch.stack([column for row in rows for column in row], -1).unflatten(-1, (4, 4))

    # The jump of K across the segment is the jump of either slope, of both (equal) in the front sum.
    jumps = slopes[..., 0::2] - slopes[..., 1::2]
    front = where.weight.sum(-1) > 1
    jump = torch.where(front, jumps[..., 0], jumps[..., 0] + jumps[..., 1])
    gain = where.sign * length * jump

    half = 0.5 * length
    decline = -imag * thicken
    smallest = SMALLEST_HALF_DAMPING[floor or dtype]
    rate = half * decline
    rate = rate + torch.where(rate.abs() < smallest, 2 * smallest, 0.0)
    # Amplitude at the thinner end times (1 +- exp(-2 |rate|)) / 2: cosh and sinh that cannot overflow.
    thinner = torch.minimum(depth[..., 0], depth[..., 1]).clamp_min(0)
    strength = 0.5 * gain * torch.exp(-imag * thinner)
    faded = torch.expm1(-2 * rate.abs())

    # conj(d) / d: conj(w) / w for exit and silhouette, conj(kappa) / kappa for inner, 1 for front segments.
    first, second = where.weight.unbind(-1)
    inner = second * (1 - first)
    size = real.square() + imag.square()
    turned_real = torch.where(size == 0, 1.0, (real.square() - imag.square()) / size)
    turned_imag = torch.where(size == 0, 0.0, -2 * real * imag / size)
    differentiated = (
        half, rate, decline.square(), -imag * growth[..., 0], -imag * growth[..., 1],
        torch.where(gain == 0, 1.0, gain.abs()).log() - imag * thickness,
    )  # fmt: skip
    hyperbolic = strength * (2 + faded), -strength * faded * rate.sign()
    weight = 1 - second, first * second + inner * turned_real, inner * turned_imag
    numbers = torch.stack((*differentiated, *hyperbolic, *weight, first, second), -1)
    return Terms(forms, numbers, where.live)


def term_slopes(
    body: BodyTensors, rotation: Tensor, where: Plan, radius: Tensor, kappa: Tensor, dtype: torch.dtype
) -> tuple[Terms, Tensor, Tensor]:
    """Terms with derivatives by the five :data:`PARAMETERS`, in forward mode, float64.

    The derivatives are those of the forms (B, 5, S, 4, 4) and of the first six numbers (B, 5, S, 6).
    """

    def at(step: Tensor) -> tuple[Tensor, Tensor]:
        turned = quaternion_to_matrix(rotation_vector_to_quaternion(step[:, :3])) @ rotation
        index = kappa + torch.stack((step[0, 4], torch.zeros_like(step[0, 4])))
        terms = segment_terms(body, turned, where, radius + step[:, 3], index, dtype, SLOPES_FLOOR)
        return terms.forms, terms.numbers

    def along(direction: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        both = torch.func.jvp(at, (radius.new_zeros(len(radius), PARAMETERS),), (direction,))
        return both[0], both[1]

    directions = torch.eye(PARAMETERS, dtype=radius.dtype, device=radius.device)
    directions = directions.unsqueeze(1).expand(-1, len(radius), -1)
    (forms, numbers), (form_slopes, number_slopes) = torch.func.vmap(along)(directions)
    number_slopes = number_slopes.transpose(0, 1)[..., :DIFFERENTIATED]
    return Terms(forms[0], numbers[0], where.live), form_slopes.transpose(0, 1), number_slopes
