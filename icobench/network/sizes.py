"""How a network expresses a radius: as the number itself, or as a point on a curve that winds with it.

A regression leaves about the same error in each of its outputs. Scaled to [0, 1] over 130 nm, an error of
1e-3 is 0.13 nm. On a circle of circumference 16 nm, of the length used here, it is 0.013 nm, and fringes show
the place of a radius on that circle: at the scattering vector q their phase grows by about 2 q for each nm of
the radius. Wider circles tell the number of turns.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["RADIUS_SPAN_NM", "Circles", "Line", "Size"]

RADIUS_LOW_NM, RADIUS_SPAN_NM = 30.0, 130.0
"""Of the paper's radii."""

LEAST_NM, MOST_NM = 16.0, 180.0
"""Range in which circles are searched for a radius: beyond all training."""

LENGTH = 0.2
"""Radius of the circles in the space of the outputs, where the orbit vector of the orientation has the length
1. Longer vectors would improve the radius at the cost of the orientation; with this length neither of the two
dominates the sum of squares."""

POINTS = 32
"""Of the search on each turn of the smallest circle."""

NEWTON_STEPS = 2


class Size:
    """How radii become numbers that a network regresses, and back.

    Attributes:
        dimension: S, how many numbers.
        range_nm: radii that the numbers can express.
    """

    dimension: int
    range_nm: tuple[float, float] = (0.0, math.inf)

    def encode(self, radius_nm: Tensor) -> Tensor:
        """(B,) -> (B, S), float32."""
        raise NotImplementedError

    def decode(self, output: Tensor) -> Tensor:
        """(B, S) -> radii (B,) in nm, float32."""
        raise NotImplementedError

    def squared_error(self, output: Tensor, radius_nm: Tensor) -> Tensor:
        """Outputs (B, S) and true radii (B,) -> (B,)."""
        return (output - self.encode(radius_nm)).square().sum(1)


class Line(Size):
    """The radius scaled to [0, 1] over 30 to 160 nm, as in the paper."""

    dimension = 1

    def encode(self, radius_nm: Tensor) -> Tensor:
        return ((radius_nm - RADIUS_LOW_NM) / RADIUS_SPAN_NM).float().unsqueeze(1)

    def decode(self, output: Tensor) -> Tensor:
        return RADIUS_LOW_NM + RADIUS_SPAN_NM * output[:, 0]


class Circles(Size):
    """Cosine and sine of the radius on circles of different circumferences.

    The decoded radius is the one whose point on the curve is nearest. With squared errors a network gives the
    mean of all points that it holds possible: on a circle on which the place is uncertain, the mean is a
    short vector, which hardly affects the decoded radius.

    Radii are expressed from 16 to 180 nm; numbers that are not finite give NaN.

    Args:
        periods_nm: circumferences, from wide to narrow; the first at least 164 nm.

    Raises:
        ValueError: not falling, not positive, not finite, or the first too small.
    """

    range_nm = (LEAST_NM, MOST_NM)

    def __init__(self, periods_nm: Sequence[float]) -> None:
        periods = [float(period) for period in periods_nm]
        falling = all(a > b > 0 for a, b in pairwise([math.inf, *periods]))
        if not periods or not falling or periods[0] < MOST_NM - LEAST_NM:
            raise ValueError(
                f"circles for radii must fall from {MOST_NM - LEAST_NM:g} nm or more, got {periods}"
            )
        self.dimension = 2 * len(periods)
        self.rates = torch.tensor([2 * math.pi / period for period in periods], dtype=torch.float64)
        count = math.ceil(POINTS * (MOST_NM - LEAST_NM) / periods[-1])
        self.radii = torch.linspace(LEAST_NM, MOST_NM, count, dtype=torch.float64)
        self.points = self._curve(self.radii)

    def encode(self, radius_nm: Tensor) -> Tensor:
        return self._curve(radius_nm.double()).float()

    def _curve(self, radius_nm: Tensor) -> Tensor:
        """Radii (N,) -> (N, S), float64: all cosines, then all sines."""
        phase = radius_nm.unsqueeze(-1) * self.rates.to(radius_nm.device)
        return LENGTH * torch.cat((phase.cos(), phase.sin()), -1)

    def decode(self, output: Tensor) -> Tensor:
        output = output.double()
        rates = self.rates.to(output.device)
        squares = rates * rates
        radius = self.radii.to(output.device)[(output @ self.points.to(output.device).T).argmax(1)]
        cosine, sine = output.chunk(2, 1)
        half_spacing = math.pi / (POINTS * float(self.rates[-1]))
        for _ in range(NEWTON_STEPS):
            phase = radius.unsqueeze(1) * rates
            cosines, sines = phase.cos(), phase.sin()
            slope = ((sine * cosines - cosine * sines) * rates).sum(1)
            curvature = ((cosine * cosines + sine * sines) * squares).sum(1)
            step = torch.where(curvature > 0, slope / curvature.clamp_min(1e-12), torch.zeros_like(slope))
            radius = radius + step.clamp(-half_spacing, half_spacing)
        return torch.where(output.isfinite().all(1), radius, torch.nan).float()
