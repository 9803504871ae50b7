"""The closed-form field as a sum over segments.

For the polygon transform with a complex wave vector K the divergence theorem with the field
i conj(K) / |K|^2 gives a sum over edges,

    integral exp(-i K.r) = i sum |e| conj(v) / (|t|^2 + |v|^2) exp(-i K.m) sin(z) / z,

with e the edge vector, m its midpoint, t and v the components of K along the edge and along its outward
normal, and z = |e| t / 2. On a segment between two polygons t and the phase agree, so both
sides are collected: with d = v_1 - v_2 and A = |t|^2 + |v|^2,

    conj(v_1) / A_1 - conj(v_2) / A_2 = [conj(d) |t|^2 - conj(v_1 v_2) d] / (A_1 A_2).

The wave vector is K = k_perp + kappa grad z_in + w grad z_out with w = q_z - kappa. Across an
exit edge or the silhouette d = w G, across an entrance edge kappa G (in the front sum q_z G), with G the jump
of the slope, real. The factor 1 / w in front of the field then cancels and nothing is singular, also for
kappa = 0:

    F = sum over exit, silhouette and front segments + kappa / w times sum over inner and front segments

of terms |e| G [conj(d)/d |t|^2 - conj(v_1 v_2)] / (A_1 A_2) exp(-i K.m) sin(z) / z.

Where a facet reflects specularly K vanishes and the terms of its edges, large, cancel. So t, v_1 and v_2 are
formed in float64 (three products each) and rounded: relative to K they are then equally precise for all
edges, and the rest can be float32.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from icobench.simulator.overlay import Plan, Segments

__all__ = [
    "NUMBERS",
    "SMALLEST_HALF_DAMPING",
    "Terms",
    "edge_sum",
    "linear_forms",
    "sine_cosine",
    "terms",
    "wave_weights",
]

SMALLEST_HALF_DAMPING = {torch.float32: 1e-7, torch.float64: 1e-13}
"""Lower bound on |Im z|: keeps sin(z) / z regular at z = 0, errs by as much."""


NUMBERS = 13
"""Columns of ``Terms.numbers``."""


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

    def take(self, index: Tensor, longest: int) -> "Terms":
        """The terms of the batch items with the given indices, padded no further than needed."""
        return Terms(self.forms[index, :longest], self.numbers[index, :longest], self.live[index])


def terms(where: Plan, found: Segments, radius: Tensor, kappa: Tensor, dtype: torch.dtype) -> Terms:
    """Linear forms and constants of segments of unit circumradius scaled to ``radius``.

    Args:
        where, found: the segments.
        radius: (B,) in nm, float64.
        kappa: (2,) real and imaginary part of k (n - 1) in 1/nm, float64.
        dtype: in which the sum will be done; the results here are float64.
    """
    real, imag = kappa
    scale = radius[:, None, None]
    start, stop = (found.points * scale.unsqueeze(-1)).unbind(2)
    leave = found.exit * scale
    depth = leave - found.entrance * scale
    edge = stop - start
    length = edge.norm(dim=-1)
    # A segment that shrinks to a point needs some direction; it counts for nothing.
    point = length < 1e-30
    length = torch.where(point, 1e-30, length)
    along = torch.where(point.unsqueeze(-1), 0.5**0.5, edge / length.unsqueeze(-1))
    normal = torch.stack((along[..., 1], -along[..., 0]), -1)

    climb = (leave[..., 1] - leave[..., 0]) / length
    thicken = (depth[..., 1] - depth[..., 0]) / length
    thickness = 0.5 * (depth[..., 0] + depth[..., 1])
    slopes = (found.slopes * normal.unsqueeze(-2)).sum(-1)
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
    smallest = SMALLEST_HALF_DAMPING[dtype]
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
    numbers = torch.stack(
        (
            half,
            rate,
            decline.square(),
            -imag * growth[..., 0],
            -imag * growth[..., 1],
            torch.where(gain == 0, 1.0, gain.abs()).log() - imag * thickness,
            strength * (2 + faded),
            -strength * faded * rate.sign(),
            1 - second,
            first * second + inner * turned_real,
            inner * turned_imag,
            first,
            second,
        ),
        -1,
    )
    return Terms(forms, numbers, where.live)


def wave_weights(waves: Tensor, kappa: Tensor, dtype: torch.dtype) -> Tensor:
    """conj(w) / w and kappa / w as rows re, im, re, im: (4, P).

    Args:
        waves: (4, P) float64.
        kappa: (2,) float64, real and imaginary part of k (n - 1) in 1/nm.
        dtype: of the result.
    """
    real, imag = kappa
    w_real, w_imag = waves[2] - real, -imag
    norm = w_real.square() + w_imag.square()
    return torch.stack(
        (
            (w_real.square() - w_imag.square()) / norm,
            -2 * w_real * w_imag / norm,
            (real * w_real + imag * w_imag) / norm,
            (imag * w_real - real * w_imag) / norm,
        )
    ).to(dtype)


def linear_forms(forms: Tensor, waves: Tensor) -> tuple[Tensor, ...]:
    """The linear forms (B, S, F, 4) at all wave vectors (4, P): F tensors (B, S, P), float64."""
    if torch.compiler.is_compiling():  # A matrix product would not be fused with what follows.
        own = forms.unsqueeze(-1)
        x, y, z = (own[:, :, :, i] * waves[i] for i in range(3))
        return (x + y + z + own[:, :, :, 3]).unbind(2)
    return torch.matmul(forms.transpose(1, 2), waves).unbind(1)


def sine_cosine(turns: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """sin(2 pi p) and cos(2 pi p) in ``dtype`` for float64 p.

    Compiled in float32 sin(pi r) and cos(pi r), |r| <= 1/2, are polynomials (least squares at Chebyshev
    points, errors 1.3e-8 and 4.7e-8): the general functions would reduce their argument once more.
    """
    r = (turns - turns.round()).to(dtype)
    if torch.compiler.is_compiling() and dtype == torch.float32:
        u = r * r
        sine = r * ((((0.07765766 * u - 0.59829129) * u + 2.55007752) * u - 5.16771008) * u + 3.14159264)
        cosine = (((0.21968961 * u - 1.33187657) * u + 4.05841135) * u - 4.93479283) * u + 0.99999995
        return 2 * sine * cosine, 1 - 2 * sine * sine
    angle = r * (2 * math.pi)
    return torch.sin(angle), torch.cos(angle)


def edge_sum(forms: Tensor, numbers: Tensor, live: Tensor, waves: Tensor, weights: Tensor) -> Tensor:
    """The field F at P wave vectors, [re, im], in nm^3: (2, B, P).

    Written to be compiled into one loop without intermediate arrays; runs as it is, too.

    Args:
        forms, numbers, live: of :class:`Terms`.
        waves: (4, P) float64 rows k_x, k_y, q_z and ones, in 1/nm.
        weights: (4, P) from :func:`wave_weights`.
    """
    dtype = numbers.dtype
    phase, along, v1, v2 = linear_forms(forms, waves)
    columns = numbers.unsqueeze(-1).unbind(2)
    half, y, decay, w1, w2, _, cosh, sinh, outer, own_real, own_imag, first, second = columns
    weight_real, weight_imag, factor_real, factor_imag = weights.unbind(0)

    sine_phase, cosine_phase = sine_cosine(phase, dtype)
    sine, cosine = sine_cosine(along * (half.double() * 0.15915494309189535), dtype)
    t, v1, v2 = along.to(dtype), v1.to(dtype), v2.to(dtype)
    x = t * half
    square = torch.addcmul(decay, t, t)
    size1 = torch.addcmul(torch.addcmul(square, w1, w1), v1, v1)
    size2 = torch.addcmul(torch.addcmul(square, w2, w2), v2, v2)
    scale = 1 / (size1 * size2 * torch.addcmul(y * y, x, x))

    # N = weight |t|^2 - conj(v_1 v_2), times sin(z) conj(z).
    real = torch.addcmul(own_real, outer, weight_real) * square - v1 * v2 + w1 * w2
    imag = torch.addcmul(own_imag, outer, weight_imag) * square + v1 * w2 + w1 * v2
    sine, cosine = sine * cosh, cosine * sinh
    sinc_real = torch.addcmul(sine * x, cosine, y) * scale
    sinc_imag = torch.addcmul(cosine * x, sine, y, value=-1) * scale
    out_real = torch.addcmul(real * sinc_real, imag, sinc_imag, value=-1)
    out_imag = torch.addcmul(real * sinc_imag, imag, sinc_real)

    # exp(-i phase) times the factor of the sum or sums that the segment counts in.
    factor_real = torch.addcmul(first, second, factor_real)
    factor_imag = second * factor_imag
    wave_real = torch.addcmul(factor_real * cosine_phase, factor_imag, sine_phase)
    wave_imag = torch.addcmul(factor_imag * cosine_phase, factor_real, sine_phase, value=-1)
    return torch.stack(
        (
            torch.addcmul(out_real * wave_real, out_imag, wave_imag, value=-1).sum(1),
            torch.addcmul(out_real * wave_imag, out_imag, wave_real).sum(1),
        )
    )
