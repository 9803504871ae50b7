"""A sphere in closed form up to one integral: what no number of facets would reach.

Rays at the distance rho from the axis cross 2 s of a sphere of radius R, with ``rho^2 + s^2 = R^2``, so that

    ``F(q) = 4 pi integral from 0 to R of J_0(q_perp rho) exp(i kappa s) sinc((q_z - kappa) s) s^2 ds``,

kappa = k (n - 1). The field depends on the scattering angle alone and is band-limited in it: Gauss-Legendre
quadrature at Chebyshev nodes of the angle, interpolated to the pixels.
"""

import math

import numpy as np
import torch
from torch import Tensor

from icobench.geometry.convex import ConvexBody
from icobench.simulator.experiment import Experiment
from icobench.simulator.propagated import PropagatedField
from icobench.simulator.skeleton import KnownRadii, SkeletonField

__all__ = ["RoundPropagatedField", "SphereField"]

ANGLES, RAYS = 40, 30
"""Nodes of the angle and of the quadrature beyond k R times half the range of angles, and beyond k R."""

STEP_NM, STEP_INDEX = 1e-3, 1e-5
"""Steps of the differences that are the derivatives by radius and refractive index, in float64."""


class SphereField(SkeletonField):
    """Field of spheres by straight rays; the tables depend on the grid alone."""

    def __init__(self, experiment: Experiment, body: ConvexBody, dtype: torch.dtype) -> None:
        super().__init__(experiment, dtype)
        sine = torch.where(experiment.valid(), experiment.sin_theta(), 0.0)
        angle, place = torch.unique(torch.asin(sine.clamp(max=1)).round(decimals=13), return_inverse=True)
        self.register_buffer("angle", angle, persistent=False)
        self.register_buffer("place", place, persistent=False)

    angle: Tensor
    place: Tensor

    def forward(self, radius_nm: Tensor, quaternion: Tensor, radii: KnownRadii = None) -> Tensor:
        """Complex field in nm^3: radius (B,) -> (B, pixels, pixels); orientations do not matter."""
        return self._field(radius_nm, self.experiment.kappa, radii).to(self.dtype.to_complex())

    def jacobian(
        self, radius_nm: Tensor, quaternion: Tensor, also: tuple[str, ...] = (), radii: KnownRadii = None
    ) -> tuple[Tensor, Tensor]:
        """As of an :class:`~icobench.simulator.exact.ExactField`; no turn changes anything.

        Raises:
            ValueError: a derivative by the centre is wanted.
        """
        if "centre" in also:
            raise ValueError("a sphere has no derivative by the centre here")
        kappa, k = self.experiment.kappa, self.experiment.wave_number
        field = self._field(radius_nm, kappa, radii)
        wider, narrower = (self._field(radius_nm + step, kappa) for step in (STEP_NM, -STEP_NM))
        slopes = [*[torch.zeros_like(field)] * 3, (wider - narrower) / (2 * STEP_NM)]
        if "refractive_index" in also:
            high, low = (self._field(radius_nm, kappa + step * k) for step in (STEP_INDEX, -STEP_INDEX))
            slopes.append((high - low) / (2 * STEP_INDEX))
        parts = [torch.view_as_real(values).movedim(-1, 0) for values in (field, torch.stack(slopes, 1))]
        return parts[0].to(self.dtype), parts[1].to(self.dtype)

    def _field(self, radius_nm: Tensor, kappa: complex, radii: KnownRadii = None) -> Tensor:
        """The same in double precision, for some k (n - 1)."""
        fields = radius_nm.new_zeros(len(radius_nm), *self.place.shape, dtype=torch.complex128)
        for bucket, rows in self._buckets(radius_nm, radii):
            nodes, carry = self._nodes(bucket)
            at_nodes = self._at_angles(radius_nm[rows].double(), nodes, kappa, bucket)
            values = torch.complex(at_nodes.real @ carry.T, at_nodes.imag @ carry.T)
            fields[rows] = values[:, self.place]
        return fields * self._valid

    @property
    def _valid(self) -> Tensor:
        return self.experiment.valid().to(self.angle.device)

    def _nodes(self, bucket: int) -> tuple[Tensor, Tensor]:
        """Nodes (M,) of the angle from 0 to its largest, and the matrix (A, M) to the pixels' angles."""
        name = f"carry_{bucket}"
        widest = float(self.angle.max())
        count = 2 * math.ceil(
            (self._bucket_radius_nm(bucket) * self.experiment.wave_number * widest + ANGLES) / 2
        )
        turn = (2 * np.arange(count) + 1) * np.pi / (2 * count)
        if not hasattr(self, name):
            # Barycentric interpolation (Berrut and Trefethen, SIAM Rev. 46, 501, 2004) of an even function.
            nodes = widest * np.cos(turn)
            gap = self.angle.cpu().numpy()[:, None] - nodes
            met = np.abs(gap) < 1e-14
            share = (-1.0) ** np.arange(count) * np.sin(turn) / np.where(met, 1.0, gap)
            matrix = np.where(met.any(1, keepdims=True), met, share / share.sum(1, keepdims=True))
            even = matrix[:, : count // 2] + matrix[:, : count // 2 - 1 : -1]
            self.register_buffer(name, torch.as_tensor(even).to(self.angle.device), persistent=False)
        return torch.as_tensor(widest * np.cos(turn[: count // 2])).to(self.angle.device), getattr(self, name)

    def _at_angles(self, radius: Tensor, angle: Tensor, kappa: complex, bucket: int) -> Tensor:
        """Fields (B, M) at scattering angles (M,)."""
        k = self.experiment.wave_number
        points, weights = np.polynomial.legendre.leggauss(
            math.ceil(self._bucket_radius_nm(bucket) * k) + RAYS
        )
        t = torch.as_tensor((points + 1) / 2).to(radius)
        weight = torch.as_tensor(weights / 2).to(radius) * t.square()
        across, depth = k * angle.sin(), -2 * k * (angle / 2).sin().square()
        size = radius[:, None, None]
        bessel = torch.special.bessel_j0(size * across[:, None] * (1 - t.square()).sqrt())
        phase = size * (depth[:, None] - kappa) * t
        sinc = torch.where(phase.abs() < 1e-8, 1.0, phase.sin() / torch.where(phase.abs() < 1e-8, 1.0, phase))
        return (
            4
            * math.pi
            * radius[:, None] ** 3
            * (bessel * sinc * torch.exp(1j * kappa * size * t) @ weight.to(sinc))
        )


class RoundPropagatedField(PropagatedField):
    """Waves through a sphere: rays that end on it."""

    def ray_ends(self, radius: Tensor, rotation: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        half = (radius[:, None].square() - offsets[:2].square().sum(0)).clamp_min(0).sqrt()
        return -half, half
