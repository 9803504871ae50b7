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

import torch
from torch import Tensor

__all__ = ["edge_sum", "linear_forms", "sine_cosine", "wave_weights"]


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
        columns = forms.unsqueeze(-1)
        x, y, z = (columns[:, :, :, i] * waves[i] for i in range(3))
        return (x + y + z + columns[:, :, :, 3]).unbind(2)
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

    Written so that ``torch.compile`` makes one loop of it, without intermediate arrays; runs uncompiled, too.

    Args:
        forms, numbers, live: of :class:`~icobench.simulator.terms.Terms`.
        waves: (4, P) float64 rows k_x, k_y, q_z and ones, in 1/nm.
        weights: (4, P) from :func:`wave_weights`.
    """
    dtype = numbers.dtype
    phase, along, v1, v2 = linear_forms(forms, waves)
    columns = numbers.unsqueeze(-1).unbind(2)
    half, y, decay, w1, w2, _, cosh, sinh, outer, const_real, const_imag, first, second = columns
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
    real = torch.addcmul(const_real, outer, weight_real) * square - v1 * v2 + w1 * w2
    imag = torch.addcmul(const_imag, outer, weight_imag) * square + v1 * w2 + w1 * v2
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
