"""Derivatives of the edge sum with respect to a few parameters, in forward mode.

A term of the sum is T = g N Q / (A_1 A_2 |z|^2) exp(-i phase) with z = D/2 = x + i y,
Q = sin(z) conj(z) and N = weight |D|^2 - conj(u_1 u_2). Its partial derivatives by phase, x, u_1, u_2 (real
parts, which are linear forms of the wave vector) and by g, y, v_1, v_2 (numbers per segment) are computed
once; the chain rule to any number of parameters is then a matrix product over the segments.
"""

import torch
from torch import Tensor

from icobench.simulator.edge_sum import Terms

__all__ = ["edge_sum_jacobian"]


def _partials(part: Terms, waves: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Partial derivatives by the forms and by the numbers: complex (B, 4 S, P) each."""
    phase, x, u1, u2 = torch.matmul(part.forms.transpose(1, 2), waves).unbind(1)
    gain, y, cosh, sinh, v1, v2 = part.damping.unsqueeze(-1).unbind(2)
    half = x * x + y * y
    square = 4 * half
    first, second = square + u1 * u1 + v1 * v1, square + u2 * u2 + v2 * v2
    # Complex sines and exponentials are slow in torch; real ones are not.
    sine_x, cosine_x = torch.sin(x), torch.cos(x)
    sine = torch.complex(sine_x * cosh, cosine_x * sinh)
    cosine = torch.complex(cosine_x * cosh, -sine_x * sinh)
    mirror = torch.complex(x, (-y).expand_as(x))
    scale = 1 / (first * second) / half
    wave = torch.complex(scale * torch.cos(phase), -scale * torch.sin(phase))
    mirror1 = torch.complex(u1, (-v1).expand_as(u1))
    mirror2 = torch.complex(u2, (-v2).expand_as(u2))
    numerator = weight * square - mirror1 * mirror2

    shape = sine * mirror * wave  # everything but g and N
    by_gain = numerator * shape
    term = gain * by_gain
    scaled = gain * shape
    slope = gain * (numerator * wave)
    decline = -(8 / first + 8 / second + 2 / half)
    by_x = 8 * x * weight * scaled + slope * (cosine * mirror + sine) + (x * decline) * term
    by_y = 8 * y * weight * scaled + 1j * slope * (cosine * mirror - sine) + (y * decline) * term
    by_u1 = -mirror2 * scaled - (2 * u1 / first) * term
    by_u2 = -mirror1 * scaled - (2 * u2 / second) * term
    by_v1 = 1j * mirror2 * scaled - (2 * v1 / first) * term
    by_v2 = 1j * mirror1 * scaled - (2 * v2 / second) * term
    return (
        torch.cat((-1j * term, by_x, by_u1, by_u2), 1),
        torch.cat((by_gain, by_y, by_v1, by_v2), 1),
    )


def _contract(part: Terms, tangents: Terms, waves: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Value (B, P) and derivatives (B, T, P) of one kind's sum, complex."""
    by_forms, by_numbers = _partials(part, waves, weight)
    size = part.forms.shape[1]
    value = 1j * by_forms[:, :size].sum(1)
    # (T, B, S, 4 rows, 4 columns) -> (B, T * columns, rows * S)
    forms = tangents.forms.permute(1, 0, 4, 3, 2).flatten(1, 2).flatten(2)
    numbers = tangents.damping[..., (0, 1, 4, 5)].permute(1, 0, 3, 2).flatten(2)
    linear = torch.matmul(forms.to(by_forms.dtype), by_forms).unflatten(1, (-1, 4))
    derivative = (linear * waves).sum(2) + torch.matmul(numbers.to(by_numbers.dtype), by_numbers)
    return value, derivative


def edge_sum_jacobian(
    parts: tuple[Terms, Terms, Terms],
    tangents: tuple[Terms, Terms, Terms],
    waves: Tensor,
    kappa: complex,
) -> tuple[Tensor, Tensor]:
    """Field and its derivatives at P wave vectors.

    Args:
        parts: terms of the outer, inner and front segments, batch B.
        tangents: their derivatives by T parameters; the same with a leading dimension T.
        waves: (4, P) rows k_x, k_y, q_z, 1.
        kappa: k (n - 1) in 1/nm.

    Returns:
        field (B, P) and derivatives (B, T, P), complex.
    """
    depth = waves[2]
    w = depth - kappa
    value, derivative = _contract(parts[0], tangents[0], waves, w.conj() / w)
    if abs(kappa) > 0:
        ratio = torch.full_like(w, kappa.conjugate() / kappa)
        inner, inner_derivative = _contract(parts[1], tangents[1], waves, ratio)
        factor = kappa / w
        value, derivative = value + factor * inner, derivative + factor * inner_derivative
    front, front_derivative = _contract(parts[2], tangents[2], waves, torch.ones_like(w))
    factor = depth / w
    return value + factor * front, derivative + factor * front_derivative
