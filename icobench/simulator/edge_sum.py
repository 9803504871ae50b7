"""The closed-form field as a sum over segments.

For the polygon transform with a complex wave vector K the divergence theorem with the field
i conj(K) / |K|^2 gives a sum over edges,

    integral exp(-i K.r) = i sum |e|^2 conj(u) / (|D|^2 + |u|^2) exp(-i K.m) sin(D/2) / (D/2),

with e the edge vector, m its midpoint, D = K.e, u = |e| K.n and n the outward normal. On a segment
between two polygons phase and D agree, so both sides are collected: with d = u_1 - u_2,

    conj(u_1)/A_1 - conj(u_2)/A_2 = [conj(d) |D|^2 - conj(u_1 u_2) d] / (A_1 A_2),  A = |D|^2 + |u|^2.

The wave vector is K = k_perp + kappa grad z_in + w grad z_out with w = q_z - kappa. Across an
exit edge or the silhouette d = w G, across an entrance edge kappa G (or q_z G in the front
sum), G real. The factor 1 / w in front of the field then cancels and nothing is singular, also
for kappa = 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from icobench.simulator.overlay import Segments

__all__ = ["Terms", "edge_sum", "terms"]

SMALLEST_HALF_DAMPING = {torch.float32: 1e-7, torch.float64: 1e-13}
"""Lower bound on |Im D/2|: keeps sin(D/2)/(D/2) regular at D = 0, errs by as much."""


class Terms(NamedTuple):
    """One kind of segment, ready for the sum over wave vectors.

    Attributes:
        forms: (B, S, 4, 4); rows Re phase, Re D/2, Re u_1, Re u_2; columns the
            coefficients of (k_x, k_y, q_z, 1).
        damping: (B, S, 6); |e|^2 G with sign and amplitude, Im D/2, its cosh and sinh, Im u_1, Im u_2.
    """

    forms: Tensor
    damping: Tensor

    def take(self, index: Tensor) -> "Terms":
        """The terms of the batch items with the given indices."""
        return Terms(self.forms[index], self.damping[index])


def terms(segments: Segments, radius: Tensor, kappa: complex, dtype: torch.dtype) -> Terms:
    """Linear forms and damping constants of segments of unit circumradius scaled to ``radius``."""
    scale = radius[:, None]
    start, stop = segments.start * scale[..., None], segments.stop * scale[..., None]
    entrance, leave = segments.entrance * scale[..., None], segments.exit * scale[..., None]
    edge = stop - start
    normal = torch.stack((edge[..., 1], -edge[..., 0]), -1)
    depth = leave - entrance

    middle = 0.5 * (start + stop)
    phase = torch.cat((middle, leave.mean(-1, True), -kappa.real * depth.mean(-1, True)), -1)
    half = 0.5 * torch.cat(
        (edge, leave[..., 1:] - leave[..., :1], -kappa.real * (depth[..., 1:] - depth[..., :1])), -1
    )
    across_in = (segments.slope_in * normal.unsqueeze(-2)).sum(-1)
    across_out = (segments.slope_out * normal.unsqueeze(-2)).sum(-1)
    sides = torch.cat(
        (
            normal.unsqueeze(-2).expand_as(segments.slope_in),
            across_out.unsqueeze(-1),
            -kappa.real * (across_out - across_in).unsqueeze(-1),
        ),
        -1,
    )
    forms = torch.cat((phase.unsqueeze(-2), half.unsqueeze(-2), sides), -2)

    jump = (across_in + across_out)[..., 0] - (across_in + across_out)[..., 1]
    shared = segments.slope_in is segments.slope_out
    gain = segments.sign * (edge * edge).sum(-1) * (0.5 * jump if shared else jump)
    amplitude = torch.exp(-kappa.imag * depth.mean(-1).clamp_min(0))
    rate = -0.5 * kappa.imag * (depth[..., 1] - depth[..., 0])
    smallest = SMALLEST_HALF_DAMPING[dtype]
    rate = torch.where(rate.abs() < smallest, torch.full_like(rate, smallest), rate)
    imaginary = -kappa.imag * (across_out - across_in)
    damping = torch.stack(
        (
            gain * amplitude,
            rate,
            torch.cosh(rate),
            torch.sinh(rate),
            imaginary[..., 0],
            imaginary[..., 1],
        ),
        -1,
    )
    return Terms(forms.to(dtype), damping.to(dtype))


def _linear(forms: Tensor, waves: Tensor) -> list[Tensor]:
    """The four linear forms at all wave vectors, each (B, S, P)."""
    rows = forms.unsqueeze(-1)
    return [
        rows[:, :, i, 0] * waves[0] + rows[:, :, i, 1] * waves[1] + rows[:, :, i, 2] * waves[2]
        + rows[:, :, i, 3]
        for i in range(4)
    ]  # fmt: skip


def _complex_sum(part: Terms, waves: Tensor, weight: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Sum of G [weight |D|^2 - conj(u_1 u_2)] / (A_1 A_2) exp(-i phase) sinc(D/2) over segments."""
    phase, x, u1, u2 = _linear(part.forms, waves)
    gain, y, cosh, sinh, v1, v2 = part.damping.unsqueeze(-1).unbind(2)
    half = x * x + y * y
    square = 4 * half
    # Two divisions: the product of all three would leave float32's range on very short segments.
    scale = gain / ((square + u1 * u1 + v1 * v1) * (square + u2 * u2 + v2 * v2)) / half
    real = weight[0] * square - (u1 * u2 - v1 * v2)
    imag = weight[1] * square + (u1 * v2 + v1 * u2)
    sine, cosine = torch.sin(x) * cosh, torch.cos(x) * sinh
    sinc_real = (sine * x + cosine * y) * scale
    sinc_imag = (cosine * x - sine * y) * scale
    out_real = real * sinc_real - imag * sinc_imag
    out_imag = real * sinc_imag + imag * sinc_real
    c, s = torch.cos(phase), torch.sin(phase)
    return (out_real * c + out_imag * s).sum(1), (out_imag * c - out_real * s).sum(1)


def _real_sum(part: Terms, waves: Tensor) -> tuple[Tensor, Tensor]:
    """The same sum where nothing is damped and the weight is 1 (the front sum)."""
    phase, x, u1, u2 = _linear(part.forms, waves)
    gain, y = part.damping.unsqueeze(-1).unbind(2)[:2]
    half = x * x + y * y
    square = 4 * half
    scale = gain / ((square + u1 * u1) * (square + u2 * u2)) / half
    value = (square - u1 * u2) * (torch.sin(x) * x + y * y) * scale
    return (value * torch.cos(phase)).sum(1), -(value * torch.sin(phase)).sum(1)


def edge_sum(
    parts: tuple[Terms, Terms, Terms], waves: Tensor, kappa_real: float, kappa_imag: float
) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the field F at P wave vectors, each (B, P), in nm^3.

    Args:
        parts: terms of the outer, inner and front segments.
        waves: (4, P) rows k_x, k_y, q_z and ones, in 1/nm.
        kappa_real, kappa_imag: k (n - 1) in 1/nm.
    """
    outer, inner, front = parts
    depth = waves[2]
    w_real, w_imag = depth - kappa_real, -kappa_imag
    norm = w_real * w_real + w_imag * w_imag
    # conj(w) / w and conj(kappa) / kappa are the weights; 1 / w = conj(w) / |w|^2.
    weight = ((w_real * w_real - w_imag * w_imag) / norm, -2 * w_real * w_imag / norm)
    total_real, total_imag = _complex_sum(outer, waves, weight)

    size = kappa_real * kappa_real + kappa_imag * kappa_imag
    if size > 0:
        own = (
            torch.full_like(depth, (kappa_real * kappa_real - kappa_imag * kappa_imag) / size),
            torch.full_like(depth, -2 * kappa_real * kappa_imag / size),
        )
        real, imag = _complex_sum(inner, waves, own)
        factor_real = (kappa_real * w_real + kappa_imag * w_imag) / norm
        factor_imag = (kappa_imag * w_real - kappa_real * w_imag) / norm
        total_real = total_real + factor_real * real - factor_imag * imag
        total_imag = total_imag + factor_real * imag + factor_imag * real

    real, imag = _real_sum(front, waves)
    factor_real, factor_imag = depth * w_real / norm, -depth * w_imag / norm
    return (
        total_real + factor_real * real - factor_imag * imag,
        total_imag + factor_real * imag + factor_imag * real,
    )
