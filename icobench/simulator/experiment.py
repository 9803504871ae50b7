"""The physics of one experiment and its detector grid."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["PHYSICS", "Experiment", "FlatDetector"]

PHYSICS = ("straight", "propagated")
"""How waves cross the body: along straight rays (the paper), or with refraction and multiple scattering."""


@dataclass(frozen=True)
class FlatDetector:
    """A flat detector that stands across the beam, without tilt.

    The centre of the pixel in row i and column j is at ``x = (j - centre_x) pixel_mm`` and
    ``y = (i - centre_y) pixel_mm``.

    Attributes:
        distance_mm: from the body to the detector along the beam.
        pixel_mm: edge of the square pixels.
        centre: (x, y) where the beam would hit, in pixels; None for the grid's middle, pixels / 2.

    Example:
        >>> icobench.Experiment(detector=icobench.FlatDetector(distance_mm=50, pixel_mm=0.5)).orthographic
        False
    """

    distance_mm: float
    pixel_mm: float
    centre: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("distance_mm", "pixel_mm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive, got {value}")
        if self.centre is not None:
            object.__setattr__(self, "centre", tuple(map(float, self.centre)))
            if not all(map(math.isfinite, self.centre)):
                raise ValueError(f"centre must be finite, got {self.centre}")


@dataclass(frozen=True)
class Experiment:
    """Wavelength, material and detector of a diffraction experiment.

    The beam runs along +z; arrays are [..., y, x]. By default the grid is orthographic: pixel i of a row or
    column has transverse wave number ``k_x = (i - pixels / 2) k sin_theta_max / (pixels / 2)``, and pixels
    with ``k_x^2 + k_y^2 >= k^2`` lie outside the forward half space and hold 0. With a
    :class:`FlatDetector` the pixels are those of that detector, and all of them are valid.

    Attributes:
        wavelength_nm: vacuum wavelength.
        refractive_index: complex index n of the body. The default is
            ``1 + 1j wavelength / (4 pi 12.5 nm)``: absorption of the intensity
            by 1/e over 12.5 nm and no refraction (Stielow et al. 2020).
        sin_theta_max: sine of the scattering angle at the middle of the orthographic grid's edge; without
            meaning for a flat detector.
        pixels: detector pixels per side, even.
        solid_angle_factor: multiply the intensity by the solid angle seen by a pixel, relative to one on the
            beam: ``k / k_z`` on the orthographic Ewald-sphere grid, ``(k_z / k)^3`` on a flat detector. By
            default on a flat detector, whose pixels count what they see, and not on the grid.
        detector: a flat detector in place of the orthographic grid.
        pixel_average: average the intensity over the area of an orthographic pixel, as a detector that
            counts on the whole pixel does, instead of taking it at the centre.
        centre_offset: (x, y) of the beam from pixel (pixels / 2, pixels / 2) of the orthographic grid, in
            pixels; the pattern moves with the beam.
        physics: of :data:`PHYSICS`: "straight" rays, the paper's model, or "propagated" waves.
        polarization: direction of the beam's linear polarisation in degrees from x towards y, or "circular";
            None for a scalar wave, as in the paper.
        efficiency: share of the photons that the detector sees, by scattering angle: pairs (degrees, share),
            linear in between and constant beyond; 1 everywhere if empty. A soft edge of the beam's hole is
            a part of it.

    Example:
        >>> silver = icobench.Experiment(refractive_index=0.89 + 0.0859j)
        >>> round(silver.wave_number, 4)
        0.4654
    """

    wavelength_nm: float = 13.5
    refractive_index: complex = 1 + 13.5j / (4 * math.pi * 12.5)
    sin_theta_max: float = 1.0
    pixels: int = 128
    solid_angle_factor: bool = None  # type: ignore[assignment]
    detector: FlatDetector | None = None
    centre_offset: tuple[float, float] = (0.0, 0.0)
    pixel_average: bool = False
    physics: str = "straight"
    polarization: float | str | None = None
    efficiency: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if self.solid_angle_factor is None:
            object.__setattr__(self, "solid_angle_factor", self.detector is not None)
        table = tuple((float(angle), float(share)) for angle, share in self.efficiency)
        angles = [angle for angle, _ in table]
        if not all(0 <= angle <= 90 and 0 <= share <= 1 for angle, share in table) or angles != sorted(
            angles
        ):
            raise ValueError("efficiency must be pairs of rising angles, 0 to 90 degrees, and shares, 0 to 1")
        if table and not any(share for _, share in table):
            raise ValueError("an efficiency of 0 everywhere sees nothing")
        object.__setattr__(self, "efficiency", table)
        if self.physics not in PHYSICS:
            raise ValueError(f"physics must be one of {', '.join(PHYSICS)}, got {self.physics!r}")
        if self.polarization is not None and self.polarization != "circular":
            if isinstance(self.polarization, str) or not math.isfinite(self.polarization):
                raise ValueError(
                    f"polarization must be an angle in degrees, 'circular' or None, got {self.polarization!r}"
                )
            object.__setattr__(self, "polarization", float(self.polarization))
        object.__setattr__(self, "refractive_index", complex(self.refractive_index))
        object.__setattr__(self, "centre_offset", tuple(map(float, self.centre_offset)))
        if len(self.centre_offset) != 2:
            raise ValueError(f"centre_offset must be two numbers, got {self.centre_offset}")
        if not all(abs(offset) <= self.pixels / 4 for offset in self.centre_offset):
            raise ValueError(f"centre_offset must be within a quarter of the grid, got {self.centre_offset}")
        if self.detector is not None and self.centre_offset != (0.0, 0.0):
            raise ValueError("a flat detector has its own centre; leave centre_offset at 0")
        if self.detector is not None and self.pixel_average:
            raise ValueError("pixel_average is for the orthographic grid")
        if not (math.isfinite(self.wavelength_nm) and self.wavelength_nm > 0):
            raise ValueError(f"wavelength_nm must be positive, got {self.wavelength_nm}")
        if not 0 < self.sin_theta_max <= 1:
            raise ValueError(f"sin_theta_max must lie in (0, 1], got {self.sin_theta_max}")
        if self.pixels < 2 or self.pixels % 2:
            raise ValueError(f"pixels must be even and positive, got {self.pixels}")
        n = self.refractive_index
        if not (math.isfinite(n.real) and math.isfinite(n.imag)) or not (
            0 < n.real <= 10 and 0 <= n.imag <= 10
        ):
            raise ValueError(f"refractive_index must have re > 0 and im >= 0, both at most 10, got {n}")

    @property
    def wave_number(self) -> float:
        """k = 2 pi / wavelength, in 1/nm."""
        return 2 * math.pi / self.wavelength_nm

    @property
    def kappa(self) -> complex:
        """k (n - 1), in 1/nm: phase and damping gathered per nm of material."""
        return self.wave_number * (self.refractive_index - 1)

    @property
    def orthographic(self) -> bool:
        """Whether the pixels lie on the orthographic grid."""
        return self.detector is None

    def sines(self, axis: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """k_x / k of the columns (axis 0) or k_y / k of the rows (1) of the orthographic grid, (pixels,)."""
        if self.detector is not None:
            raise ValueError("a flat detector's pixels have no common k_x; see transverse()")
        half = self.pixels // 2
        steps = torch.arange(self.pixels, dtype=dtype) - half - self.centre_offset[axis]
        return steps * (self.sin_theta_max / half)

    def slopes(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """k_x / k_z of the columns and k_y / k_z of the rows of a flat detector, (pixels,) each."""
        if self.detector is None:
            raise ValueError("only a flat detector has slopes")
        x, y = self.detector.centre or (self.pixels / 2, self.pixels / 2)
        steps = torch.arange(self.pixels, dtype=dtype)
        scale = self.detector.pixel_mm / self.detector.distance_mm
        return (steps - x) * scale, (steps - y) * scale

    def transverse(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """k_x / k and k_y / k of all pixels, (pixels, pixels) each."""
        if self.detector is None:
            x, y = self.sines(0, dtype), self.sines(1, dtype)
            return x.expand(self.pixels, -1), y[:, None].expand(-1, self.pixels)
        x, y = self.slopes(dtype)
        cosine = (1 + x.square() + y[:, None].square()).rsqrt()
        return x * cosine, y[:, None] * cosine

    def sin_theta(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Sine of the scattering angle of all pixels, (pixels, pixels); above 1 where invalid."""
        x, y = self.transverse(dtype)
        return (x.square() + y.square()).sqrt()

    def cos_theta(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """k_z / k of the pixels, (pixels, pixels); 0 where the pixel is invalid."""
        x, y = self.transverse(dtype)
        return (1 - x.square() - y.square()).clamp_min(0).sqrt()

    def valid(self) -> Tensor:
        """True where a pixel lies on the forward half space, (pixels, pixels)."""
        if self.detector is not None:
            return torch.ones(self.pixels, self.pixels, dtype=torch.bool)
        half = self.pixels // 2
        # In units of the pitch: integers for a beam on a pixel, so that the comparison at the rim is exact.
        steps = torch.arange(self.pixels, dtype=torch.float64) - half
        x, y = (steps - offset for offset in self.centre_offset)
        square = y[:, None] ** 2 + x**2
        return square * self.sin_theta_max**2 < half**2

    def inner(self, reach: int) -> Tensor:
        """True where all pixels up to ``reach`` to either side are there and valid, (pixels, pixels)."""
        missing = torch.nn.functional.pad((~self.valid()).float(), (reach,) * 4, value=1.0)
        return torch.nn.functional.max_pool2d(missing[None], 2 * reach + 1, stride=1)[0] == 0

    def solid_angle(self) -> Tensor:
        """Solid angle of the pixels relative to one on the beam, (pixels, pixels) float64."""
        if self.detector is not None:
            return self.cos_theta() ** 3
        return 1 / self.cos_theta().clamp_min(1e-9)

    def polarization_factor(self) -> Tensor:
        """Share of the scalar intensity that the polarised wave has, (pixels, pixels) float64.

        ``1 - (e . k_out / k)^2`` of a beam polarised along the unit vector e, as of a dipole (Bohren and
        Huffman 1983, section 5.2); its mean over all e for circular polarisation; 1 for a scalar wave.
        """
        x, y = self.transverse()
        if self.polarization is None:
            return torch.ones_like(x)
        if isinstance(self.polarization, str):
            return 1 - (x.square() + y.square()) / 2
        angle = math.radians(self.polarization)
        return 1 - (x * math.cos(angle) + y * math.sin(angle)).square()

    def seen_share(self, sine: Tensor) -> Tensor:
        """The ``efficiency`` at sines of the scattering angle, same shape."""
        if not self.efficiency:
            return torch.ones_like(sine)
        degrees = torch.rad2deg(torch.asin(sine.clamp(0, 1)))
        angles, shares = zip(*self.efficiency, strict=True)
        return torch.as_tensor(np.interp(degrees.cpu().numpy(), angles, shares)).to(sine)

    def correction(self) -> Tensor:
        """Polarisation factor times efficiency, (pixels, pixels) float64."""
        return self.polarization_factor() * self.seen_share(self.sin_theta())

    def gain(self) -> Tensor:
        """What the pixels measure over the scalar intensity, (pixels, pixels) float64; 0 where invalid.

        The product of :meth:`correction` and, with ``solid_angle_factor``, :meth:`solid_angle`.
        """
        gain = self.correction() * self.valid()
        return gain * self.solid_angle() if self.solid_angle_factor else gain

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings for JSON; the index as [re, im]."""
        index = self.refractive_index
        values = asdict(self) | {"refractive_index": [index.real, index.imag]}
        if not self.efficiency:  # files and runs of earlier versions do not have the entry
            del values["efficiency"]
        return values

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Experiment":
        """Inverse of :meth:`to_dict`."""
        data = data | {"refractive_index": complex(*data["refractive_index"])}
        if data.get("detector") is not None:
            data["detector"] = FlatDetector(**data["detector"])
        return cls(**data)
