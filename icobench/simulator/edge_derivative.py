"""Derivatives of the edge sum with respect to a few parameters, in forward mode.

A term of the sum is T = N sinc E with sinc = g sin(z) / z, z = x + i y, N = weight |t|^2 - conj(v_1 v_2)
and E = factor exp(-i phase) / (A_1 A_2). Its partial derivatives by the linear forms (phase, t, v_1, v_2:
real parts, which depend on the wave vector) and by the numbers (|e| / 2, y, (Im t)^2, Im v_1, Im v_2, log g:
one per segment) are computed once; the chain rule to any number of parameters is then a sum over segments.

A complex number is written as a pair of real tensors: torch's complex products and sines are slow.
"""

import math

import torch
from torch import Tensor

from icobench.simulator.edge_sum import linear_forms, sine_cosine

__all__ = ["SHARED_SUMS", "edge_sum_jacobian"]

SHARED_SUMS = 3
"""Derivatives by what all segments share: conj(w) / w, conj(kappa) / kappa, kappa / w (as if independent)."""

Pair = tuple[Tensor, Tensor]


def _times(a: Pair, b: Pair) -> Pair:
    return (
        torch.addcmul(a[0] * b[0], a[1], b[1], value=-1),
        torch.addcmul(a[0] * b[1], a[1], b[0]),
    )


def _scaled(a: Pair, real: Tensor | float) -> Pair:
    return a[0] * real, a[1] * real


def _plus_real(a: Pair, real: float) -> Pair:
    return a[0] + real, a[1]


def _plus(a: Pair, b: Pair, real: Tensor) -> Pair:
    """a + real b."""
    return torch.addcmul(a[0], b[0], real), torch.addcmul(a[1], b[1], real)


def _sinc_slope(x: Tensor, y: Tensor, sinc: Pair, slope: Pair) -> Pair:
    """Derivative of g sin(z) / z by z, given its value and ``slope`` = g cos(z).

    (slope - sinc) / z cancels where z is small; there -slope (tan z - z) / z^2 is summed as a power series.
    """
    square = torch.addcmul(x * x, y, y, value=-1), 2 * x * y
    series = _plus_real(_scaled(square, 1382 / 155925), 62 / 2835)
    for coefficient in (17 / 315, 2 / 15, 1 / 3):
        series = _plus_real(_times(series, square), coefficient)
    near = _times(_times(series, (-x, -y)), slope)
    norm = torch.addcmul(x * x, y, y)
    far = _scaled(_times((slope[0] - sinc[0], slope[1] - sinc[1]), (x, -y)), 1 / norm)
    small = norm < 0.06
    return torch.where(small, near[0], far[0]), torch.where(small, near[1], far[1])


def _partials(
    forms: Tensor, numbers: Tensor, waves: Tensor, weights: Tensor
) -> tuple[Pair, list[Pair], list[Pair], list[Pair]]:
    """Terms, their partial derivatives by forms, by numbers and by what is shared: (B, S, P) pairs."""
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
    scale = 1 / (size1 * size2)
    sinc = _times((sine * cosh, cosine * sinh), _scaled((x, -y), 1 / torch.addcmul(y * y, x, x)))
    sinc_slope = _sinc_slope(x, y, sinc, (cosine * cosh, -sine * sinh))

    plain = cosine_phase * scale, -sine_phase * scale
    wave = _times((torch.addcmul(first, second, factor_real), second * factor_imag), plain)
    weight = torch.addcmul(const_real, outer, weight_real), torch.addcmul(const_imag, outer, weight_imag)
    mirror1, mirror2 = (v1, -w1), (v2, -w2)
    product = _times(mirror1, mirror2)
    numerator = weight[0] * square - product[0], weight[1] * square - product[1]
    bare = _times(sinc, wave)
    term = _times(numerator, bare)

    by_x = _times(_times(numerator, wave), sinc_slope)
    by_size1, by_size2 = -2 * size2 * scale, -2 * size1 * scale
    by_square = _plus(_times(weight, bare), term, 0.5 * (by_size1 + by_size2))
    by_t = _plus(_scaled(by_x, half), by_square, 2 * t)
    pull1, pull2 = _times(mirror2, bare), _times(mirror1, bare)
    by_v1 = _plus((-pull1[0], -pull1[1]), term, by_size1 * v1)
    by_v2 = _plus((-pull2[0], -pull2[1]), term, by_size2 * v2)
    by_w1 = _plus((-pull1[1], pull1[0]), term, by_size1 * w1)
    by_w2 = _plus((-pull2[1], pull2[0]), term, by_size2 * w2)
    weighed = _scaled(bare, square)
    turn = 2 * math.pi
    by_phase = turn * term[1], -turn * term[0]
    return (
        term,
        [by_phase, by_t, by_v1, by_v2],
        [_scaled(by_x, t), (-by_x[1], by_x[0]), by_square, by_w1, by_w2, term],
        [
            _scaled(weighed, outer),
            _scaled(weighed, second * (1 - first)),
            _scaled(_times(_times(numerator, sinc), plain), second),
        ],
    )


def edge_sum_jacobian(
    forms: Tensor,
    numbers: Tensor,
    live: Tensor,
    waves: Tensor,
    weights: Tensor,
    form_slopes: Tensor,
    number_slopes: Tensor,
) -> Tensor:
    """The field, its derivatives by T parameters of the geometry and the shared sums: (2 (1 + T + 3), B, P).

    Real and imaginary parts alternate. The derivatives leave out that the weights and kappa may change; with
    :data:`SHARED_SUMS` that can be added.

    The chain rule is a matrix product.

    Args:
        forms, numbers, live, waves, weights: as for ``edge_sum``.
        form_slopes: (B, T, S, 4, 4) derivatives of ``forms`` by the parameters, in the type of ``numbers``.
        number_slopes: (B, T, S, 6) derivatives of the first columns of ``numbers``.
    """
    term, by_forms, by_numbers, by_shared = _partials(forms, numbers, waves, weights)
    value = [side.sum(1) for side in term]
    shared = [side.sum(1) for pair in by_shared for side in pair]
    slopes = _chain(by_forms, by_numbers, waves.to(numbers.dtype), form_slopes, number_slopes)
    return torch.stack([*value, *slopes, *shared])


def _chain(
    by_forms: list[Pair], by_numbers: list[Pair], waves: Tensor, form_slopes: Tensor, number_slopes: Tensor
) -> list[Tensor]:
    """Derivatives by the parameters, [re, im] each: 2 T tensors (B, P)."""
    # (B, rows, S, 2 P) against (B, T, columns, rows, S)
    batch, parameters, segments = form_slopes.shape[:3]
    partials = torch.stack([torch.cat(pair, -1) for pair in by_forms], 1).flatten(1, 2)
    coefficients = form_slopes.permute(0, 1, 4, 3, 2).reshape(batch, parameters * 4, 4 * segments)
    linear = torch.matmul(coefficients, partials).view(batch, parameters, 4, 2, -1)
    change = (linear * waves.unsqueeze(1)).sum(2)
    partials = torch.stack([torch.cat(pair, -1) for pair in by_numbers], 1).flatten(1, 2)
    coefficients = number_slopes.permute(0, 1, 3, 2).reshape(batch, parameters, -1)
    change = change + torch.matmul(coefficients, partials).view(batch, parameters, 2, -1)
    return list(change.permute(1, 2, 0, 3).flatten(0, 1))
