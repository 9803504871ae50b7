"""The physics of one experiment and its detector grid."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Experiment"]


@dataclass(frozen=True)
class Experiment:
    """Wavelength, material and detector of a diffraction experiment.

    The beam runs along +z. Pixel i of a row or column has transverse wave number
    ``k_x = (i - pixels / 2) k sin_theta_max / (pixels / 2)``; arrays are [..., y, x].
    Pixels with ``k_x^2 + k_y^2 >= k^2`` lie outside the forward half space and hold 0.

    Attributes:
        wavelength_nm: vacuum wavelength.
        refractive_index: complex index n of the body. The default is
            ``1 + 1j wavelength / (4 pi 12.5 nm)``: absorption of the intensity
            by 1/e over 12.5 nm and no refraction (Stielow et al. 2020).
        sin_theta_max: sine of the scattering angle at the middle of the detector's edge.
        pixels: detector pixels per side, even.
        solid_angle_factor: multiply the intensity by ``k / k_z``, the solid angle
            seen by a pixel of an orthographic Ewald-sphere detector.
    """

    wavelength_nm: float = 13.5
    refractive_index: complex = 1 + 13.5j / (4 * math.pi * 12.5)
    sin_theta_max: float = 1.0
    pixels: int = 128
    solid_angle_factor: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "refractive_index", complex(self.refractive_index))
        if not (math.isfinite(self.wavelength_nm) and self.wavelength_nm > 0):
            raise ValueError(f"wavelength_nm must be positive, got {self.wavelength_nm}")
        if not 0 < self.sin_theta_max <= 1:
            raise ValueError(f"sin_theta_max must lie in (0, 1], got {self.sin_theta_max}")
        if self.pixels < 2 or self.pixels % 2:
            raise ValueError(f"pixels must be even and positive, got {self.pixels}")
        n = self.refractive_index
        if not (math.isfinite(n.real) and math.isfinite(n.imag)) or n.real <= 0 or n.imag < 0:
            raise ValueError(f"refractive_index must have re > 0 and im >= 0, got {n}")

    @property
    def wave_number(self) -> float:
        """k = 2 pi / wavelength, in 1/nm."""
        return 2 * math.pi / self.wavelength_nm

    @property
    def kappa(self) -> complex:
        """k (n - 1), in 1/nm: phase and damping gathered per nm of material."""
        return self.wave_number * (self.refractive_index - 1)

    def sines(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """k_x / k of the pixels along one axis, (pixels,)."""
        half = self.pixels // 2
        return (torch.arange(self.pixels, dtype=dtype) - half) * (self.sin_theta_max / half)

    def cos_theta(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """k_z / k of the pixels, (pixels, pixels); 0 where the pixel is invalid."""
        sines = self.sines(dtype)
        square = 1 - sines[:, None] ** 2 - sines[None, :] ** 2
        return square.clamp_min(0).sqrt()

    def valid(self) -> Tensor:
        """True where a pixel lies on the forward half space, (pixels, pixels)."""
        half = self.pixels // 2
        steps = torch.arange(self.pixels) - half
        square = steps[:, None] ** 2 + steps[None, :] ** 2
        return square * self.sin_theta_max**2 < half**2

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings for JSON; the index as [re, im]."""
        out = asdict(self)
        out["refractive_index"] = [self.refractive_index.real, self.refractive_index.imag]
        return out

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Experiment":
        """Inverse of :meth:`to_dict`."""
        data = dict(data)
        data["refractive_index"] = complex(*data["refractive_index"])
        return cls(**data)
