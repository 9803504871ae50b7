"""How a detector's signal grows with the photons: a power law that saturates, as of a microchannel plate.

A pixel that n photons reach reads v = n^gamma / (1 + n^gamma / s), with the exponent gamma and the ceiling s,
which no signal exceeds. It is monotone, so that readings are brought back to photons before anything else is
done with them. A logarithmic image of d decades is the same law with another exponent: read as one of six,
its intensities are those to the power of 6 / d.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from icobench.errors import InputError

__all__ = ["Response"]

HIGHEST = 0.98
"""Share of the ceiling above which a reading tells nothing of the photons."""


@dataclass(frozen=True)
class Response:
    """A detector's response.

    Attributes:
        gamma: exponent, 1 for a linear detector.
        saturation: ceiling s in units of the reading, infinite for none.

    Example:
        >>> response = Response(0.7, 200.0)
        >>> np.allclose(response.photons(response.readings(np.array([0.0, 3.0, 500.0]))), [0, 3, 500])
        True
    """

    gamma: float = 1.0
    saturation: float = math.inf

    def __post_init__(self) -> None:
        if not 0.1 <= self.gamma <= 3:
            raise InputError(f"gamma must lie in 0.1 to 3, got {self.gamma:g}")
        if not self.saturation > 0:
            raise InputError(f"the soft saturation must be positive, got {self.saturation:g}")

    @classmethod
    def of(cls, gamma: float | None, saturation: float | None) -> "Response | None":
        """The response with these values; None for a linear detector."""
        if gamma is None and saturation is None:
            return None
        return cls(1.0 if gamma is None else gamma, math.inf if saturation is None else saturation)

    def readings(self, photons: Any) -> Any:
        """What pixels read that so many photons reach; arrays or tensors, elementwise."""
        power = photons**self.gamma
        return power / (1 + power / self.saturation)

    def photons(self, readings: np.ndarray) -> np.ndarray:
        """The inverse; readings near the ceiling are bounded, negative ones mirrored."""
        size = np.minimum(np.abs(readings), HIGHEST * self.saturation)
        return np.sign(readings) * (size / (1 - size / self.saturation)) ** (1 / self.gamma)
