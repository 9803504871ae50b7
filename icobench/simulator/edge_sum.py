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

Derivatives are taken in forward mode. A term is T = N sinc E with sinc = g sin(z) / z, z = x + i y,
N = weight |t|^2 - conj(v_1 v_2) and E = factor exp(-i phase) / (A_1 A_2). Its partial derivatives by the
linear forms (phase, t, v_1, v_2: real parts, which depend on the wave vector) and by the numbers (|e| / 2, y,
(Im t)^2, Im v_1, Im v_2, log g: one per segment) are computed once; the chain rule to any number of
parameters is then a sum over segments.
"""

import math

import torch
from torch import Tensor

__all__ = ["edge_sum", "edge_sum_jacobian"]

Pair = tuple[Tensor, Tensor]
"""A complex number: torch's complex products and sines are slow."""


def _wave_weights(waves: Tensor, kappa: Tensor, dtype: torch.dtype) -> tuple[Pair, Pair, Pair]:
    """conj(w) / w, kappa / w and 1 / w^2 at the wave vectors (4, P): pairs (P,) in ``dtype``."""
    real, imag = kappa
    w_real, w_imag = waves[2] - real, -imag
    norm = w_real.square() + w_imag.square()
    turn = w_real.square() - w_imag.square(), -2 * w_real * w_imag
    share = real * w_real + imag * w_imag, imag * w_real - real * w_imag

    def over_norm(pair: Pair) -> Pair:
        return (pair[0] / norm).to(dtype), (pair[1] / norm).to(dtype)

    return over_norm(turn), over_norm(share), over_norm((turn[0] / norm, turn[1] / norm))


def _linear_forms(forms: Tensor, waves: Tensor) -> tuple[Tensor, ...]:
    """The linear forms (B, S, F, 4) at all wave vectors (4, P): F tensors (B, S, P), float64."""
    return torch.matmul(forms.transpose(1, 2), waves).unbind(1)


def _sine_cosine(turns: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """sin(2 pi p) and cos(2 pi p) in ``dtype`` for float64 p."""
    angle = (turns - turns.round()).to(dtype) * (2 * math.pi)
    return torch.sin(angle), torch.cos(angle)


def edge_sum(forms: Tensor, numbers: Tensor, live: Tensor, waves: Tensor, kappa: Tensor) -> Tensor:
    """The field F at P wave vectors, [re, im], in nm^3: (2, B, P).

    Args:
        forms, numbers, live: of :class:`~icobench.simulator.terms.Terms`.
        waves: (4, P) float64 rows k_x, k_y, q_z and ones, in 1/nm.
        kappa: (2,) float64, real and imaginary part of k (n - 1) in 1/nm.
    """
    dtype = numbers.dtype
    phase, along, v1, v2 = _linear_forms(forms, waves)
    columns = numbers.unsqueeze(-1).unbind(2)
    half, y, decay, w1, w2, _, cosh, sinh, outer, const_real, const_imag, first, second = columns
    (weight_real, weight_imag), (factor_real, factor_imag), _ = _wave_weights(waves, kappa, dtype)

    sine_phase, cosine_phase = _sine_cosine(phase, dtype)
    sine, cosine = _sine_cosine(along * (half.double() * 0.15915494309189535), dtype)
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
    field_real = torch.addcmul(out_real * wave_real, out_imag, wave_imag, value=-1)
    field_imag = torch.addcmul(out_real * wave_imag, out_imag, wave_real)
    return torch.stack((field_real.sum(1), field_imag.sum(1)))


def _times(a: Pair, b: Pair) -> Pair:
    return torch.addcmul(a[0] * b[0], a[1], b[1], value=-1), torch.addcmul(a[0] * b[1], a[1], b[0])


def _scaled(a: Pair, real: Tensor | float) -> Pair:
    return a[0] * real, a[1] * real


def _plus(a: Pair, b: Pair, real: Tensor) -> Pair:
    """a + real b."""
    return torch.addcmul(a[0], b[0], real), torch.addcmul(a[1], b[1], real)


def _sinc_slope(x: Tensor, y: Tensor, sinc: Pair, slope: Pair) -> Pair:
    """Derivative of g sin(z) / z by z, given its value and ``slope`` = g cos(z).

    (slope - sinc) / z cancels where z is small; there -slope (tan z - z) / z^2 is summed as a power series.
    """
    square = torch.addcmul(x * x, y, y, value=-1), 2 * x * y
    series = square[0] * (1382 / 155925) + 62 / 2835, square[1] * (1382 / 155925)
    for coefficient in (17 / 315, 2 / 15, 1 / 3):
        real, imag = _times(series, square)
        series = real + coefficient, imag
    near = _times(_times(series, (-x, -y)), slope)
    norm = torch.addcmul(x * x, y, y)
    far = _scaled(_times((slope[0] - sinc[0], slope[1] - sinc[1]), (x, -y)), 1 / norm)
    small = norm < 0.06
    return torch.where(small, near[0], far[0]), torch.where(small, near[1], far[1])


def _partials(
    forms: Tensor, numbers: Tensor, waves: Tensor, weight: Pair, factor: Pair
) -> tuple[Pair, list[Pair], list[Pair], list[Pair]]:
    """Terms, their partial derivatives by forms, by numbers and by what is shared: (B, S, P) pairs."""
    dtype = numbers.dtype
    phase, along, v1, v2 = _linear_forms(forms, waves)
    columns = numbers.unsqueeze(-1).unbind(2)
    half, y, decay, w1, w2, _, cosh, sinh, outer, const_real, const_imag, first, second = columns
    (weight_real, weight_imag), (factor_real, factor_imag) = weight, factor

    sine_phase, cosine_phase = _sine_cosine(phase, dtype)
    sine, cosine = _sine_cosine(along * (half.double() * 0.15915494309189535), dtype)
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
    by_phase = 2 * math.pi * term[1], -2 * math.pi * term[0]
    by_forms = [by_phase, by_t, by_v1, by_v2]
    by_numbers = [_scaled(by_x, t), (-by_x[1], by_x[0]), by_square, by_w1, by_w2, term]
    weighed, by_factor = _scaled(bare, square), _times(_times(numerator, sinc), plain)
    by_shared = [_scaled(weighed, outer), _scaled(weighed, second * (1 - first)), _scaled(by_factor, second)]
    return term, by_forms, by_numbers, by_shared


def edge_sum_jacobian(
    forms: Tensor, numbers: Tensor, live: Tensor, waves: Tensor, kappa: Tensor,
    form_slopes: Tensor, number_slopes: Tensor, changes: Tensor,
) -> Tensor:  # fmt: skip
    """The field and its derivatives by T parameters, real and imaginary parts in turn: (2 (1 + T), B, P).

    Args:
        forms, numbers, live, waves, kappa: as for ``edge_sum``.
        form_slopes: (B, T, S, 4, 4) derivatives of ``forms`` by the parameters, in the type of ``numbers``.
        number_slopes: (B, T, S, 6) derivatives of the first columns of ``numbers``.
        changes: (T, 3) float64, how the real part of kappa changes and, as multiples of k_x and k_y, how q_z
            does (apart from the forms).
    """
    dtype = numbers.dtype
    weight, factor, inverse = _wave_weights(waves, kappa, dtype)
    term, by_forms, by_numbers, by_shared = _partials(forms, numbers, waves, weight, factor)
    value = [side.sum(1) for side in term]
    slopes = _chain(by_forms, by_numbers, waves.to(dtype), form_slopes, number_slopes)
    by_turn, by_material, by_factor = ((pair[0].sum(1), pair[1].sum(1)) for pair in by_shared)
    # d (conj(w) / w) = 2 i Im w / w^2 (d q_z - d kappa), d (kappa / w) = (q_z d kappa - kappa d q_z) / w^2,
    # and of conj(kappa) / kappa as of the first.
    real, imag = kappa.to(dtype)
    spread, passed = _times(_times(inverse, (0 * imag, -2 * imag)), by_turn), _times(inverse, by_factor)
    carried = _times(passed, (real, imag))
    size = kappa.square().sum()
    turned = torch.where(size == 0, 0.0, 2 * kappa[1] / size**2).to(dtype)
    material = _times((turned * 2 * real * imag, turned * (real**2 - imag**2)), by_material)
    by_kappa, by_qz = (
        changes[:, 0].to(dtype)[:, None, None],
        (changes[:, 1:] @ waves[:2]).to(dtype).unsqueeze(1),
    )
    for side in (0, 1):
        index = passed[side] * waves[2].to(dtype) - spread[side] + material[side]
        change = (spread[side] - carried[side]) * by_qz + index * by_kappa
        slopes[side::2] = [slope + more for slope, more in zip(slopes[side::2], change, strict=True)]
    return torch.stack([*value, *slopes])


def _chain(
    by_forms: list[Pair], by_numbers: list[Pair], waves: Tensor, form_slopes: Tensor, number_slopes: Tensor
) -> list[Tensor]:
    """Derivatives by the parameters (a matrix product is the chain rule): 2 T tensors (B, P), [re, im]."""
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
