"""One interface to the three ways of simulating a diffraction image."""

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from icobench.geometry.convex import ConvexBody, icosahedron
from icobench.geometry.rotations import turned
from icobench.simulator.exact import ExactField
from icobench.simulator.experiment import Experiment
from icobench.simulator.propagated import PropagatedField
from icobench.simulator.skeleton import SkeletonField
from icobench.simulator.sphere import RoundPropagatedField, SphereField
from icobench.simulator.voxels import SlicedField

__all__ = ["FURTHER_PARAMETERS", "METHODS", "SIMULATORS", "Simulator"]

FURTHER_PARAMETERS = ("refractive_index", "centre")
"""Parameters of :meth:`Simulator.intensity_jacobian` beyond rotation and radius."""

SIMULATORS = {"exact": ExactField, "sliced": SlicedField, "propagated": PropagatedField}

OF_SPHERES = SIMULATORS | {"exact": SphereField, "propagated": RoundPropagatedField}
"""A sphere is no polyhedron; on voxels it is one of many facets."""

METHODS = {"straight": "exact", "propagated": "propagated"}
"""The method for each physics of an experiment."""

REACH = 3
"""Pixels to either side that the average over a pixel is taken from."""

DIFFERENCE_PHASE, DIFFERENCE_NM, DIFFERENCE_INDEX = 0.02, 0.02, 2e-4
"""Steps of the differences that are the propagated method's derivatives: turns by this over k R, radii and
refractive indices. Fringes move by 0.02 rad, far more than rounding. The derivatives are good to some per
cent (``tests/simulator/test_propagated.py``)."""

BAND = 2.4
"""Radians per pixel of the finest fringes. The intensity of a body of radius R has 2 k R times the pitch,
2.33 for 160 nm on the default grid."""


def _kernel() -> np.ndarray:
    """Symmetric weights (2 REACH + 1,) that multiply cos(w x) by sin(w / 2) / (w / 2), for w up to BAND."""
    frequency = np.linspace(0, BAND, 400)
    columns = np.cos(np.outer(frequency, np.arange(REACH + 1))) * ([1] + [2] * REACH)
    # The mean of a constant is kept: the first row counts as much as all others.
    columns[0] *= 1e3
    wanted = np.sinc(frequency / (2 * np.pi))
    wanted[0] *= 1e3
    half = np.linalg.lstsq(columns, wanted, rcond=None)[0]
    return np.concatenate((half[:0:-1], half))


class _PixelAverage(nn.Module):
    """Averages (..., H, H) over the pixels' areas from values at their centres.

    Pixels that lack a valid neighbour keep their values.
    """

    matrix: Tensor
    inner: Tensor

    def __init__(self, experiment: Experiment, dtype: torch.dtype) -> None:
        super().__init__()
        matrix, kernel = np.eye(experiment.pixels), _kernel()
        for row in range(REACH, experiment.pixels - REACH):
            matrix[row, row - REACH : row + REACH + 1] = kernel
        self.register_buffer("matrix", torch.as_tensor(matrix, dtype=dtype), persistent=False)
        self.register_buffer("inner", experiment.inner(REACH), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        return torch.where(self.inner, self.matrix @ values @ self.matrix.T, values)


class Simulator(nn.Module):
    """Wide-angle diffraction of a convex body, batched.

    The field is ``F(q) = integral over the body of exp(-i q.r) exp(i k (n - 1)(z - z_in(x, y))) d^3r`` in
    nm^3, with z_in where the ray through (x, y) enters; the method "propagated" adds refraction and multiple
    scattering. The intensity is |F|^2 times :meth:`Experiment.gain`. All constants are buffers.

    Args:
        experiment: wavelength, material, detector grid.
        method: "exact" (closed form, differentiable), "sliced" (the paper's multi-slice Fourier
            transform on voxels) or "propagated" (split-step, with refraction); that for the experiment's
            ``physics`` by default.
        device, dtype: where and how to compute; dtype float32 or float64.
        body: the convex body; the icosahedron by default.

    Raises:
        ValueError: unknown method or dtype, or a grid that the method does not support.

    Example:
        >>> simulator = icobench.Simulator(icobench.Experiment())
        >>> upright = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
        >>> simulator.field(torch.tensor([60.0]), upright).shape
        torch.Size([1, 128, 128])
    """

    factor: Tensor
    valid: Tensor

    def __init__(
        self,
        experiment: Experiment | None = None,
        method: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        body: ConvexBody | None = None,
    ) -> None:
        super().__init__()
        experiment = experiment or Experiment()
        method = method or METHODS[experiment.physics]
        if method not in SIMULATORS:
            raise ValueError(f"unknown method {method!r}, choose from {', '.join(SIMULATORS)}")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be float32 or float64, got {dtype}")
        self.experiment, self.body = experiment, body or icosahedron()
        self.method, self.dtype = method, dtype
        self._relatives: dict[tuple[Experiment, str], Simulator] = {}
        fields = OF_SPHERES if self.body.round else SIMULATORS
        self._field = fields[method](self.experiment, self.body, dtype)
        self.register_buffer("factor", self.experiment.gain().to(dtype), persistent=False)
        self.register_buffer("valid", self.experiment.valid(), persistent=False)
        averages = self.experiment.pixel_average
        self._average = _PixelAverage(self.experiment, dtype) if averages else nn.Identity()
        self.to(device)

    @property
    def device(self) -> torch.device:
        """Where the constants are, and the fields will be."""
        return self.factor.device

    @property
    def largest_radius_nm(self) -> float:
        """Radius of the largest body that the grid can hold; infinite where a method has its own limit."""
        return self._field.largest_radius_nm if isinstance(self._field, SkeletonField) else math.inf

    def with_refractive_index(self, refractive_index: complex) -> "Simulator":
        """The same simulator for another material; tables are shared where the method allows it."""
        experiment = replace(self.experiment, refractive_index=refractive_index)
        if not isinstance(self._field, SkeletonField):
            return Simulator(experiment, self.method, self.device, self.dtype, self.body)
        other = copy(self)
        other.experiment = experiment
        # All tables depend on the grid alone: both fields keep them in one dictionary of buffers.
        field = copy(self._field)
        field.experiment = experiment
        other._modules = {**self._modules, "_field": field}
        return other

    def with_physics(self, physics: str) -> "Simulator":
        """The same simulator for an experiment of that physics; made once, for its tables."""
        return self._relative(replace(self.experiment, physics=physics), METHODS[physics])

    def with_method(self, method: str) -> "Simulator":
        """The same simulator by another method; made once, for its tables."""
        return self._relative(self.experiment, method)

    def with_body(self, body: ConvexBody) -> "Simulator":
        """The same simulator of another body."""
        return Simulator(self.experiment, self.method, self.device, self.dtype, body)

    def intensity_of(self, bodies: Sequence[ConvexBody], radius_nm: Tensor, quaternion: Tensor) -> Tensor:
        """Intensities (B, pixels, pixels) of B bodies of several kinds; those of one are simulated together.

        Args:
            bodies: one for each image.
            radius_nm, quaternion: (B,) and (B, 4).
        """
        images = torch.zeros_like(self._empty(len(bodies)).real)
        for body in dict.fromkeys(bodies):
            rows = torch.tensor([other is body for other in bodies], device=self.device).nonzero()[:, 0]
            images[rows] = self.with_body(body).intensity(radius_nm[rows], quaternion[rows])
        return images

    def _relative(self, experiment: Experiment, method: str) -> "Simulator":
        if (experiment, method) == (self.experiment, self.method):
            return self
        kept = self._relatives.get((experiment, method))
        if kept is None or kept.device != self.device:
            kept = Simulator(experiment, method, self.device, self.dtype, self.body)
            self._relatives[experiment, method] = kept
        return kept

    def _inputs(self, radius_nm: Tensor, quaternion: Tensor) -> tuple[Tensor, Tensor, np.ndarray]:
        """Radii and unit quaternions on the device, checked, and the radii on the host."""
        device = self.device
        radius_nm = torch.as_tensor(radius_nm, device=device).double()
        quaternion = torch.as_tensor(quaternion, device=device).double()
        if radius_nm.ndim != 1 or quaternion.shape != (len(radius_nm), 4):
            raise ValueError(
                "expected radius_nm of shape (B,) and quaternion of shape (B, 4), got "
                f"{tuple(radius_nm.shape)} and {tuple(quaternion.shape)}"
            )
        norm = torch.linalg.vector_norm(quaternion, dim=-1)
        # Waits for a GPU, once. Tensors inside torch.func's transforms have lists, but no arrays.
        on_host = np.array(torch.stack((radius_nm, norm)).tolist())
        if not len(radius_nm):
            return radius_nm, quaternion, on_host[0]
        (smallest, shortest), (largest, longest) = on_host.min(1).tolist(), on_host.max(1).tolist()
        if not 0 < smallest <= largest < math.inf:
            raise ValueError("radius_nm must be positive and finite")
        if largest > self.largest_radius_nm:
            limit = self.largest_radius_nm
            raise ValueError(f"radius_nm {largest:g} is larger than the grid can hold, {limit:g}")
        if not 0 < shortest <= longest < math.inf:
            raise ValueError("quaternion must be finite and non-zero")
        return radius_nm, quaternion / norm.unsqueeze(-1), on_host[0]

    def _empty(self, *shape: int) -> Tensor:
        pixels = self.experiment.pixels
        return torch.zeros(*shape, pixels, pixels, dtype=self.dtype.to_complex(), device=self.device)

    def field(self, radius_nm: Tensor, quaternion: Tensor) -> Tensor:
        """Complex field in nm^3: (B, pixels, pixels), [y, x]; 0 at invalid pixels.

        Args:
            radius_nm: (B,) circumradius in nm.
            quaternion: (B, 4) orientation (w, x, y, z), ``r_lab = M(q) r_body``; normalised here.

        Raises:
            ValueError: wrong shapes, a radius that is not positive, a zero quaternion.
        """
        radius_nm, quaternion, radii = self._inputs(radius_nm, quaternion)
        if not len(radii):
            return self._empty(0)
        return self._field(radius_nm, quaternion, radii)

    def _read(self, intensity: Tensor) -> Tensor:
        """What the pixels measure, linear in the intensity (..., pixels, pixels)."""
        return self._average(intensity * self.factor)

    def intensity(self, radius_nm: Tensor, quaternion: Tensor) -> Tensor:
        """|F|^2 in nm^6 times the experiment's gain: (B, pixels, pixels)."""
        if not isinstance(self._field, ExactField):
            return self.read(self.field(radius_nm, quaternion))
        radius_nm, quaternion, radii = self._inputs(radius_nm, quaternion)
        if not len(radii):
            return self._empty(0).real
        return self._read(_product(field := self._field.parts(radius_nm, quaternion, radii), field))

    def read(self, field: Tensor) -> Tensor:
        """What the pixels measure of complex fields (B, pixels, pixels): their intensity."""
        return self._read(_product(parts := (field.real, field.imag), parts))

    def intensity_jacobian(
        self, radius_nm: Tensor, quaternion: Tensor, also: tuple[str, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """Intensity and its derivatives by rotation, radius and, if wanted, the experiment's parameters.

        Args:
            radius_nm, quaternion: as for :meth:`field`.
            also: further parameters, of :data:`FURTHER_PARAMETERS`: "refractive_index" and "centre".

        Returns:
            intensity (B, pixels, pixels) and derivatives (B, T, pixels, pixels): by the rotation vector (lab
            axes, radians) of a turn applied after ``quaternion``, by the radius (nm); then, if wanted, by the
            real and the imaginary part of n; then by the position (x, y) of the beam on the detector, per
            pixel (the pattern moves with the beam).

        Raises:
            ValueError: bad inputs as in :meth:`field`, an unknown parameter, or a method without derivatives:
                "sliced" has none, and "propagated", whose derivatives are differences, and spheres have none
                by the centre.
        """
        propagated = isinstance(self._field, PropagatedField)
        if not isinstance(self._field, SkeletonField) or (propagated and "centre" in also):
            raise ValueError(f"the {self.method} method has no such derivatives; use 'exact'")
        if unknown := set(also) - set(FURTHER_PARAMETERS):
            raise ValueError(f"no derivative by {unknown.pop()!r}, only by {', '.join(FURTHER_PARAMETERS)}")
        radius_nm, quaternion, radii = self._inputs(radius_nm, quaternion)
        if not len(radii):
            return self._empty(0).real, self._empty(0, 4 + 2 * len(set(also))).real
        if isinstance(self._field, PropagatedField):
            return self._differences(self._field, radius_nm, quaternion, also, radii)
        assert isinstance(self._field, ExactField | SphereField)
        field, slopes = self._field.jacobian(radius_nm, quaternion, also, radii)
        intensity, (real, imag) = _product(field, field), field.unsqueeze(2)
        change = 2 * _product((real, imag), slopes)
        rows = [change[:, :4]]
        if "refractive_index" in also:
            # Analytic in n: the derivative by its imaginary part is i times that by its real part.
            turned = 2 * _product((imag, -real), slopes[:, :, 4:5])
            rows += [change[:, 4:5], turned]
        if "centre" in also:
            rows.append(self._per_pixel(intensity, change[:, -2:]))
        return self._read(intensity), self._read(torch.cat(rows, 1) if len(rows) > 1 else rows[0])

    def facet_slopes(self, radius_nm: Tensor, quaternion: Tensor) -> Tensor:
        """Derivatives of the intensity by the distances of the body's facets, in nm: (B, F, pixels, pixels).

        Args:
            radius_nm, quaternion: as for :meth:`field`.

        Raises:
            ValueError: bad inputs as in :meth:`field`, or another method than "exact" or a sphere.
        """
        if not isinstance(self._field, ExactField):
            raise ValueError("only polyhedra and the exact method have derivatives by facets; use 'exact'")
        radius_nm, quaternion, _ = self._inputs(radius_nm, quaternion)
        field, slopes = (
            function(radius_nm, quaternion) for function in (self._field.parts, self._field.facet_slopes)
        )
        return self._read(2 * _product(field.unsqueeze(2), slopes))

    def _differences(
        self, method: PropagatedField, radius: Tensor, quaternion: Tensor, also: tuple[str, ...],
        on_host: np.ndarray,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Intensity and derivatives as of :meth:`intensity_jacobian`, by differences."""

        def intensity(radii: Tensor, turn: Tensor | None = None, field: PropagatedField = method) -> Tensor:
            return self.read(field(radii, quaternion if turn is None else turned(quaternion, turn), on_host))

        here, slopes = intensity(radius), []
        for axis in range(3):
            angle = DIFFERENCE_PHASE / (self.experiment.wave_number * radius)
            turn = torch.nn.functional.one_hot(torch.tensor(axis, device=radius.device), 3) * angle[:, None]
            slopes.append((intensity(radius, turn) - here) / angle[:, None, None].to(here))
        slopes.append((intensity(radius + DIFFERENCE_NM) - here) / DIFFERENCE_NM)
        for step in (1, 1j) if "refractive_index" in also else ():
            index = self.experiment.refractive_index + step * DIFFERENCE_INDEX
            other = self.with_refractive_index(index)._field
            assert isinstance(other, PropagatedField)
            slopes.append((intensity(radius, field=other) - here) / DIFFERENCE_INDEX)
        return here, torch.stack(slopes, 1)

    def _per_pixel(self, intensity: Tensor, by_wave: Tensor) -> Tensor:
        """Derivatives by the beam's position in pixels from those by k_x and k_y, solid angle included."""
        experiment = self.experiment
        x, y = experiment.transverse()
        z = experiment.cos_theta().clamp_min(1e-9)
        if experiment.detector is None:
            # A pixel further along x: k_x more by the pitch, k_y the same; the factor k / k_z grows.
            pitch = experiment.sin_theta_max / (experiment.pixels // 2)
            steps = torch.full_like(x, pitch), torch.zeros_like(x), torch.full_like(x, pitch)
            slope = torch.stack((x, y)) * pitch / z**2
        else:
            # sin and cos along the ray to (x, y) / distance; the factor is cos^3.
            closer = experiment.detector.pixel_mm / experiment.detector.distance_mm * z
            steps = closer * (1 - x * x), -closer * x * y, closer * (1 - y * y)
            slope = -3 * closer * torch.stack((x, y))
        along_x, mixed, along_y = (experiment.wave_number * step.to(by_wave) for step in steps)
        by_x, by_y = by_wave.unbind(1)
        moved = torch.stack((by_x * along_x + by_y * mixed, by_x * mixed + by_y * along_y), 1)
        # The gain moves with the beam, too: by the slope of its logarithm.
        if experiment.solid_angle_factor:
            moved = moved + intensity.unsqueeze(1) * slope.to(by_wave)
        if experiment.polarization is not None:
            moved = moved + intensity.unsqueeze(1) * _polarization_slope(experiment, steps).to(by_wave)
        if experiment.efficiency:
            moved = moved + intensity.unsqueeze(1) * _efficiency_slope(experiment, steps).to(by_wave)
        return -moved

    def forward(self, radius_nm: Tensor, quaternion: Tensor) -> Tensor:
        """The same as :meth:`intensity`."""
        return self.intensity(radius_nm, quaternion)


def _product(first: Tensor | Sequence[Tensor], second: Tensor | Sequence[Tensor]) -> Tensor:
    """Real part of conj(a) b for real and imaginary parts of a and b."""
    return torch.addcmul(first[0] * second[0], first[1], second[1])


def _polarization_slope(experiment: Experiment, steps: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Derivatives (2, pixels, pixels) of the polarisation factor's logarithm by a pixel along x and y.

    ``steps`` are the derivatives dx/dj, dx/di = dy/dj and dy/di of (k_x, k_y) / k by column j and row i.
    """
    x, y = experiment.transverse()
    along_x, mixed, along_y = steps
    by_x, by_y = torch.stack((along_x, mixed)), torch.stack((mixed, along_y))
    if isinstance(experiment.polarization, str):
        change = -(x * by_x + y * by_y)
    else:
        angle = math.radians(experiment.polarization or 0.0)
        cosine, sine = math.cos(angle), math.sin(angle)
        change = -2 * (cosine * x + sine * y) * (cosine * by_x + sine * by_y)
    return change / experiment.polarization_factor().clamp_min(1e-9)


def _efficiency_slope(experiment: Experiment, steps: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The same of the efficiency's logarithm; across a tenth of a pixel, as the table has corners."""
    x, y = experiment.transverse()
    along_x, mixed, along_y = (step / 20 for step in steps)
    slopes = []
    for by_x, by_y in ((along_x, mixed), (mixed, along_y)):
        low, high = (
            experiment.seen_share(torch.hypot(x + sign * by_x, y + sign * by_y)).clamp_min(1e-9).log()
            for sign in (-1, 1)
        )
        slopes.append((high - low) * 10)
    return torch.stack(slopes)
