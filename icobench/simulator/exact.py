"""The closed-form simulator: edge sum on a skeleton of Ewald-sphere nodes, batched."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from icobench.geometry.convex import ConvexBody
from icobench.geometry.rotations import (
    quaternion_multiply,
    quaternion_to_matrix,
    rotation_vector_to_quaternion,
)
from icobench.simulator.compiled import edge_sum_kernel
from icobench.simulator.edge_derivative import edge_sum_jacobian
from icobench.simulator.edge_sum import Terms, edge_sum, terms
from icobench.simulator.experiment import Experiment
from icobench.simulator.overlay import BodyTensors, body_tensors, plan, segments
from icobench.simulator.skeleton import Skeleton, build_skeleton, to_pixels

__all__ = ["ExactField"]

BUCKET_BAND = 5.0
"""Width of a radius bucket in units of k R; bodies of one bucket share a skeleton."""

STEEPEST = {torch.float32: 1e5, torch.float64: 1e9}
"""Bound on the slopes of nearly vertical facets: products of their squares stay in range."""

CACHED_ELEMENTS = 1 << 17
"""Segments times nodes per piece in eager torch on a CPU: a few arrays that fit the caches."""

FUSED_ELEMENTS = 1 << 26
"""The same for the compiled kernel, which keeps no intermediate arrays."""

GPU_ELEMENTS = 1 << 25

SEGMENTS = 96
"""Typical number of segments of a body, used to size the pieces."""


def _differentiated(tensor: Tensor) -> bool:
    """Whether derivatives flow through, in reverse or in forward mode; the compiled kernel has none."""
    reverse = torch.is_grad_enabled() and tensor.requires_grad
    return reverse or forward_ad.unpack_dual(tensor).tangent is not None


class ExactField(nn.Module):
    """Field of a convex body in closed form, without voxels or a ray grid.

    ``F(q) = integral exp(-i q.r) exp(i kappa (z - z_in(x, y))) d^3r`` as a sum over the segments of the
    projected body (:mod:`~icobench.simulator.edge_sum`), evaluated at the nodes of a
    :mod:`~icobench.simulator.skeleton`. Skeletons are built when a radius first needs one
    and kept as non-persistent buffers.
    """

    body_normals: Tensor

    def __init__(self, experiment: Experiment, body: ConvexBody, dtype: torch.dtype) -> None:
        super().__init__()
        self.experiment = experiment
        self.dtype = dtype
        for name, value in body_tensors(body)._asdict().items():
            self.register_buffer(f"body_{name}", value, persistent=False)

    @property
    def _body(self) -> BodyTensors:
        return BodyTensors(*(getattr(self, f"body_{name}") for name in BodyTensors._fields))

    def _skeleton(self, bucket: int) -> Skeleton:
        if not hasattr(self, f"skeleton_{bucket}_waves"):
            radius = bucket * BUCKET_BAND / self.experiment.wave_number
            built = build_skeleton(self.experiment, radius, self.dtype, self.body_normals.device)
            for name, value in built._asdict().items():
                self.register_buffer(f"skeleton_{bucket}_{name}", value, persistent=False)
        return Skeleton(*(getattr(self, f"skeleton_{bucket}_{name}") for name in Skeleton._fields))

    def _buckets(self, radius: Tensor, limit: int) -> Iterator[tuple[Skeleton, Tensor, int]]:
        """Items that share a skeleton, in pieces that fit into memory: skeleton, index, nodes at once."""
        band = radius.detach() * (self.experiment.wave_number / BUCKET_BAND)
        buckets = band.ceil().clamp_min(1).long().cpu()
        for bucket in buckets.unique().tolist():
            skeleton = self._skeleton(bucket)
            index = (buckets == bucket).nonzero()[:, 0].to(radius.device)
            nodes = skeleton.waves.shape[1]
            items = max(1, limit // (SEGMENTS * nodes))
            at_once = nodes if items > 1 else max(256, limit // SEGMENTS)
            for piece in index.split(items):
                yield skeleton, piece, at_once

    def forward(self, radius_nm: Tensor, quaternion: Tensor) -> Tensor:
        """Complex field in nm^3: radius (B,), quaternion (B, 4) -> (B, pixels, pixels)."""
        kernel = None
        if not (_differentiated(radius_nm) or _differentiated(quaternion)):
            kernel = edge_sum_kernel(radius_nm.device, self.dtype, len(radius_nm))
        kappa = self.experiment.kappa
        radius = radius_nm.double()
        rotation = quaternion_to_matrix(quaternion.double())
        found = segments(self._body, rotation, plan(self._body, rotation), STEEPEST[self.dtype])
        outer, inner, front = (terms(part, radius, kappa, self.dtype) for part in found)

        limit = GPU_ELEMENTS
        if radius.device.type == "cpu":
            limit = FUSED_ELEMENTS if kernel else CACHED_ELEMENTS
        fields, order = [], []
        for skeleton, index, at_once in self._buckets(radius, limit):
            # The compiled kernel treats a batch of 1 as another program; two copies avoid it.
            twice = kernel is not None and len(index) == 1
            picked = index.expand(2) if twice else index
            own = (outer.take(picked), inner.take(picked), front.take(picked))
            pieces = [
                (kernel or edge_sum)(own, waves, kappa.real, kappa.imag)
                for waves in skeleton.waves.split(at_once, dim=1)
            ]
            real, imag = (torch.cat(side, 1)[: len(index)] for side in zip(*pieces, strict=True))
            fields.append(torch.complex(*to_pixels(skeleton, real, imag)))
            order.append(index)
        return torch.cat(fields)[torch.cat(order).argsort()]

    @torch.no_grad()
    def jacobian(self, radius_nm: Tensor, quaternion: Tensor) -> tuple[Tensor, Tensor]:
        """Field and its derivatives by rotation and radius.

        The rotation parameters are the rotation vector (radians, lab axes) of a small turn
        applied after ``quaternion``. The sum over segments is done in float64: where a facet reflects
        specularly, single terms of a derivative are large and cancel.

        Args:
            radius_nm: (B,).
            quaternion: (B, 4).

        Returns:
            field (B, pixels, pixels) in nm^3 and derivatives (B, 4, pixels, pixels), in the
            order rotation about x, y, z (nm^3 per radian), radius (nm^3 per nm).
        """
        kappa = self.experiment.kappa
        body = self._body
        radius, start = radius_nm.double(), quaternion.double()
        where = plan(body, quaternion_to_matrix(start))

        def geometry(step: Tensor) -> tuple[Tensor, ...]:
            turned = quaternion_multiply(rotation_vector_to_quaternion(step[:, :3]), start)
            found = segments(body, quaternion_to_matrix(turned), where, STEEPEST[torch.float64])
            parts = [terms(part, radius + step[:, 3], kappa, torch.float64) for part in found]
            return tuple(table for part in parts for table in part)

        origin = radius.new_zeros(len(radius), 4)
        directions = torch.eye(4, dtype=radius.dtype, device=radius.device)
        directions = directions.unsqueeze(1).expand(4, len(radius), 4)

        def derivative(direction: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            both = torch.func.jvp(geometry, (origin,), (direction,))
            return both[0], both[1]

        tables, slopes = torch.func.vmap(derivative)(directions)

        limit = CACHED_ELEMENTS if radius.device.type == "cpu" else GPU_ELEMENTS // 4
        fields, derivatives, order = [], [], []
        for skeleton, index, at_once in self._buckets(radius, limit):
            own = [table[0, index] for table in tables]
            own_slopes = [slope[:, index] for slope in slopes]
            parts = Terms(*own[:2]), Terms(*own[2:4]), Terms(*own[4:])
            tangents = Terms(*own_slopes[:2]), Terms(*own_slopes[2:4]), Terms(*own_slopes[4:])
            pieces = [
                edge_sum_jacobian(parts, tangents, waves, kappa)
                for waves in skeleton.waves.double().split(at_once, dim=1)
            ]
            value, slope = (torch.cat(side, -1) for side in zip(*pieces, strict=True))
            both = torch.cat((value.unsqueeze(1), slope), 1).flatten(0, 1)
            both = both.to(torch.complex64 if self.dtype == torch.float32 else torch.complex128)
            image = torch.complex(*to_pixels(skeleton, both.real, both.imag)).unflatten(0, (-1, 5))
            fields.append(image[:, 0])
            derivatives.append(image[:, 1:])
            order.append(index)
        back = torch.cat(order).argsort()
        return torch.cat(fields)[back], torch.cat(derivatives)[back]
