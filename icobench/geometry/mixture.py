"""Mixtures of distributions of a body's radius and orientation.

A component is a normal or a Student t distribution of four numbers: the rotation vector about the lab axes
(rad) from the component's orientation, and the radius (nm). Orientations that a body's rotations make
equivalent are one: the density at an orientation is the sum over its equivalents, of which those nearest to
the component count. Densities are per nm and per the measure of rotations (Haar's) that is the volume of
rotation vectors near the identity; of SO(3) it is 8 pi^2, of the orientations of a body with G rotations
8 pi^2 / G.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from icobench.geometry.convex import ConvexBody
from icobench.geometry.orientation import equivalents
from icobench.geometry.rotations import (
    quaternion_conjugate,
    quaternion_multiply,
    quaternion_to_rotation_vector,
    random_quaternions,
    turned,
)

__all__ = ["PoseMixture"]

EQUIVALENTS = 6
"""Nearest equivalents of an orientation that count: components of up to 20 degrees reach no others."""

VOLUME = 8 * math.pi**2
"""Of SO(3)."""

CHUNK = 512
"""Poses at a time."""


@dataclass
class PoseMixture:
    """Mixtures of K components for N images, and of a uniform distribution.

    Attributes:
        radius: (N, K) nm.
        quaternion: (N, K, 4).
        factor: (N, K, 4, 4) lower triangular, positive on the diagonal: factors of the covariances or, of
            Student t distributions, scale matrices.
        share: (N, K); 0 for a component that is left out.
        uniform: (N,) share of the uniform distribution; the rest of 1.
        body: whose rotations make orientations equivalent.
        range_nm: of the uniform distribution's radii.
        freedom: degrees of freedom of Student t distributions, a whole number; infinite for normal ones.
    """

    radius: Tensor
    quaternion: Tensor
    factor: Tensor
    share: Tensor
    uniform: Tensor
    body: ConvexBody
    range_nm: tuple[float, float]
    freedom: float = math.inf

    def draw(self, count: int, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Radii (N, count) and orientations (N, count, 4); each image draws from its own generator."""
        low, high = self.range_nm
        radius, quaternion = [], []
        for row, generator in enumerate(generators):
            step = torch.randn(count, 4, generator=generator, dtype=torch.float64)
            if math.isfinite(self.freedom):
                normal = torch.randn(count, int(self.freedom), generator=generator, dtype=torch.float64)
                step = step * (self.freedom / normal.square().sum(1, keepdim=True)).sqrt()
            anywhere = low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)
            turn = random_quaternions(count, generator)
            place = torch.rand(count, generator=generator, dtype=torch.float64)
            edges = self.share[row].cumsum(0)
            component = torch.searchsorted(edges, place, right=True)
            uniform = component >= len(edges)
            component = component.clamp_max(len(edges) - 1)
            step = (self.factor[row, component] @ step.unsqueeze(-1)).squeeze(-1)
            radius.append(torch.where(uniform, anywhere, self.radius[row, component] + step[:, 3]))
            near = turned(self.quaternion[row, component], step[:, :3])
            quaternion.append(torch.where(uniform[:, None], turn, near))
        return torch.stack(radius), torch.stack(quaternion)

    def offsets(self, radius: Tensor, quaternion: Tensor) -> tuple[Tensor, Tensor]:
        """From every component to poses (N, S): steps (N, K, S, E, 4) for the E nearest equivalents, nearest
        first, and the logarithm of the measure of rotations per volume of rotation vectors there,
        (N, K, S, E)."""
        alike = equivalents(quaternion, self.body)  # (N, S, G, 4)
        cosine = torch.einsum("nsgi,nki->nksg", alike, self.quaternion).abs()
        nearest = cosine.topk(min(EQUIVALENTS, cosine.shape[-1])).indices.unsqueeze(-1)
        alike = torch.take_along_dim(alike.unsqueeze(1), nearest, 3)
        relative = quaternion_multiply(alike, quaternion_conjugate(self.quaternion)[:, :, None, None])
        vector = quaternion_to_rotation_vector(relative)
        away = (radius.unsqueeze(1) - self.radius.unsqueeze(-1))[..., None, None]
        steps = torch.cat((vector, away.expand(*vector.shape[:-1], 1)), -1)
        half = (vector.norm(dim=-1) / 2).clamp_min(1e-12)
        return steps, 2 * (half.sin() / half).log()

    def log_components(self, steps: Tensor, measure: Tensor) -> Tensor:
        """Logarithms of share times density (N, K, S) at the :meth:`offsets` of some poses."""
        flat = steps.flatten(2, 3).mT
        square = torch.linalg.solve_triangular(self.factor, flat, upper=False).square().sum(2)
        square = square.unflatten(2, steps.shape[2:4])
        freedom = self.freedom
        if math.isfinite(freedom):
            norm = math.lgamma((freedom + 4) / 2) - math.lgamma(freedom / 2) - 2 * math.log(math.pi * freedom)
            log = norm - (freedom + 4) / 2 * torch.log1p(square / freedom)
        else:
            log = -0.5 * square - 2 * math.log(2 * math.pi)
        scale = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (log - scale[..., None, None] - measure).logsumexp(-1) + self.share.log()[..., None]

    @property
    def log_uniform(self) -> Tensor:
        """Logarithm of share times density (N,) of the uniform distribution, at radii in its range."""
        low, high = self.range_nm
        return (self.uniform * len(self.body.group) / VOLUME / (high - low)).log()

    def log_densities(self, radius: Tensor, quaternion: Tensor) -> Tensor:
        """Logarithms of share times density (N, K + 1, S) at poses (N, S); the last is the uniform one's."""
        parts = [
            self.log_components(*self.offsets(radius[:, piece], quaternion[:, piece]))
            for piece in torch.arange(radius.shape[1]).split(CHUNK)
        ]
        low, high = self.range_nm
        rest = torch.where((radius >= low) & (radius <= high), self.log_uniform.unsqueeze(1), -torch.inf)
        return torch.cat((torch.cat(parts, 2), rest.unsqueeze(1)), 1)

    def log_density(self, radius: Tensor, quaternion: Tensor) -> Tensor:
        """Logarithm of the density (N, S) at radii (N, S) in nm and orientations (N, S, 4)."""
        return self.log_densities(radius, quaternion).logsumexp(1)
