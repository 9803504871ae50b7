"""The closed-form simulator: edge sum on a skeleton of Ewald-sphere nodes, batched."""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from icobench.geometry.convex import ConvexBody
from icobench.geometry.rotations import quaternion_to_matrix
from icobench.simulator.compiled import EAGER, Kernels, kernels
from icobench.simulator.experiment import Experiment
from icobench.simulator.facet_slopes import facet_slopes
from icobench.simulator.overlay import BodyTensors, body_tensors
from icobench.simulator.skeleton import BUCKET_BAND, BySize, KnownRadii, Skeleton, SkeletonField
from icobench.simulator.terms import Terms

__all__ = ["ExactField"]

CACHED_ELEMENTS, GPU_ELEMENTS = 1 << 17, 1 << 25
"""Segments times nodes per piece in eager torch: a few arrays that fit the caches of a CPU; on a GPU."""

SMALL_BAND, SMALL_CONTRAST = 15.0, 0.02
"""Below this k R (32 nm) or |n - 1| the terms of a rotation's derivative nearly cancel: it needs float64."""


@lru_cache
@torch.inference_mode(False)
def _pair(value: complex, device: torch.device) -> Tensor:
    """Real and imaginary part, (2,) float64; kept, because every copy to a GPU waits for it."""
    return torch.tensor((value.real, value.imag), dtype=torch.float64, device=device)


@lru_cache
@torch.inference_mode(False)
def _changes(also: tuple[str, ...], device: torch.device) -> Tensor:
    """How kappa and, by k_x and k_y, q_z change with the parameters of the Jacobian: (T, 3) float64."""
    rows = [(0.0, 0.0, 0.0)] * 4
    if "refractive_index" in also:
        rows.append((1.0, 0.0, 0.0))
    if "centre" in also:
        # At fixed length of the wave vector a step in k_x changes k_z by -k_x / k_z.
        rows += [(0.0, -1.0, 0.0), (0.0, 0.0, -1.0)]
    return torch.tensor(rows, dtype=torch.float64, device=device)


def _differentiated(tensor: Tensor) -> bool:
    """Whether torch differentiates, in reverse or in forward mode; the compiled kernel cannot."""
    reverse = torch.is_grad_enabled() and tensor.requires_grad
    return reverse or forward_ad.unpack_dual(tensor).tangent is not None


class ExactField(SkeletonField):
    """Field of a convex body in closed form, without voxels or a ray grid.

    ``F(q) = integral exp(-i q.r) exp(i kappa (z - z_in(x, y))) d^3r`` as a sum over the segments of the
    projected body (:mod:`~icobench.simulator.edge_sum`), evaluated at the nodes of a
    :mod:`~icobench.simulator.skeleton`.
    """

    body_normals: Tensor

    def __init__(self, experiment: Experiment, body: ConvexBody, dtype: torch.dtype) -> None:
        super().__init__(experiment, dtype)
        for name, value in body_tensors(body)._asdict().items():
            self.register_buffer(f"body_{name}", value, persistent=False)

    @property
    def _body(self) -> BodyTensors:
        return BodyTensors(*(self._table(f"body_{name}") for name in BodyTensors._fields))

    def _at_nodes(self, program: Kernels, terms: Terms, skeleton: Skeleton, *slopes: Tensor) -> Tensor:
        """The edge sum or, given slopes, its Jacobian at all nodes: (N, B, P), re and im in turn.

        Eager torch works in pieces that fit into memory; on a CPU it takes one item at a time: the caches
        hold no more, and no sum depends on another item's number of segments.
        """
        function = program.edge_sum_jacobian if slopes else program.edge_sum
        waves, kappa = skeleton.waves, self._kappa(terms.forms.device)
        if program.fused:
            return function(*terms, skeleton if program.padded else waves, kappa, *slopes)
        (items, longest), nodes = terms.numbers.shape[:2], waves.shape[1]
        on_cpu = waves.device.type == "cpu"
        limit = CACHED_ELEMENTS if on_cpu else GPU_ELEMENTS // (1 + 4 * len(slopes))
        together = 1 if on_cpu else max(1, limit // (longest * nodes))
        rows = []
        for start in range(0, items, together):
            piece = slice(start, start + together)
            size = int(terms.live[piece].max()) if on_cpu else longest
            forms, numbers, live = terms.forms[piece, :size], terms.numbers[piece, :size], terms.live[piece]
            some = [slope[piece, :, :size] for slope in slopes[:2]]
            at_once = math.ceil(nodes / math.ceil(len(live) * size * nodes / limit))
            parts = waves.split(at_once, 1)
            rows.append(
                torch.cat(
                    [function(forms, numbers, live, part, kappa, *some, *slopes[2:]) for part in parts], -1
                )
            )
        return torch.cat(rows, 1)

    def _planned(
        self, program: Kernels, radius_nm: Tensor, quaternion: Tensor, radii: KnownRadii
    ) -> tuple[tuple[Any, ...], BySize]:
        """Arguments of the kernels' ``terms`` (body, rotation, plan, radius, kappa, type), by size."""
        by_size, body = self._by_size(radius_nm, radii), self._body
        rotation = program.rotation(by_size.sorted(quaternion.double()))
        where, radius = program.plan(body, rotation), by_size.sorted(radius_nm.double())
        return (body, rotation, where, radius, self._kappa(rotation.device), self.dtype), by_size

    def _kappa(self, device: torch.device) -> Tensor:
        return _pair(self.experiment.kappa, device)

    def _cancels(self, bucket: int) -> bool:
        small = bucket * BUCKET_BAND <= SMALL_BAND
        return small or abs(self.experiment.kappa) < SMALL_CONTRAST * self.experiment.wave_number

    def _on_detector(self, program: Kernels, terms: Terms, by_size: BySize, *slopes: Tensor) -> Tensor:
        """The field and, given slopes, its derivatives at the pixels: (2, B, 1 + T, pixels, pixels).

        Real and imaginary parts lie apart: products of strided parts of complex numbers take several times as
        long. The terms are those of bodies in the order of ``by_size``; the result is in the callers' order.
        """
        pixels, rows = self.experiment.pixels, 1 + sum(slope.shape[1] for slope in slopes[:1])
        device = terms.forms.device
        fields = torch.empty(2, len(terms.live), rows, pixels, pixels, dtype=self.dtype, device=device)
        converted: dict[torch.dtype, tuple[Terms, tuple[Tensor, ...]]] = {}
        for bucket, start, stop in by_size.buckets:
            skeleton = self._skeleton(bucket, device)
            dtype = torch.float64 if slopes and self._cancels(bucket) else self.dtype
            if dtype not in converted:
                in_dtype = Terms(terms.forms, terms.numbers.to(dtype), terms.live)
                converted[dtype] = in_dtype, tuple(slope.to(dtype) for slope in slopes[:2])
            all_terms, all_slopes = converted[dtype]
            if stop - start < len(terms.live):
                all_terms = Terms(*(table[start:stop] for table in all_terms))
                all_slopes = tuple(slope[start:stop] for slope in all_slopes)
            nodes = self._at_nodes(program, all_terms, skeleton, *all_slopes, *slopes[2:])
            program.fill_pixels(skeleton, nodes.to(self.dtype), fields, by_size.rows(start, stop))
        return fields

    def forward(self, radius_nm: Tensor, quaternion: Tensor, radii: KnownRadii = None) -> Tensor:
        """Complex field in nm^3: radius (B,), quaternion (B, 4) -> (B, pixels, pixels)."""
        return torch.complex(*self.parts(radius_nm, quaternion, radii))

    def parts(self, radius_nm: Tensor, quaternion: Tensor, radii: KnownRadii = None) -> Tensor:
        """Real and imaginary part of the field in nm^3: (2, B, pixels, pixels)."""
        differentiated = _differentiated(radius_nm) or _differentiated(quaternion)
        program = EAGER if differentiated else kernels(radius_nm.device, len(radius_nm))
        geometry, by_size = self._planned(program, radius_nm, quaternion, radii)
        return self._on_detector(program, program.terms(*geometry), by_size)[:, :, 0]

    @torch.no_grad()
    def jacobian(
        self, radius_nm: Tensor, quaternion: Tensor, also: tuple[str, ...] = (), radii: KnownRadii = None
    ) -> tuple[Tensor, Tensor]:
        """Field and derivatives for :meth:`~icobench.simulator.simulator.Simulator.intensity_jacobian`.

        The field is smooth but where a facet stands edge-on: there it is continuous, but with absorption its
        derivative by the turn that takes the facet across differs on the two sides (rays along the facet then
        cross it at their start instead of their end). The result is that of one side; within 1e-9 rad of
        edge-on it is good to some 1e-3 (0.1 without contrast).

        Returns:
            real and imaginary part of the field (2, B, pixels, pixels) in nm^3 and of its derivatives
            (2, B, T, pixels, pixels): nm^3 per radian and per nm; with "refractive_index" one more, by n,
            which is complex: the field is analytic in n; with "centre" two more, by k_x and k_y (nm^4), which
            grow without bound towards the horizon.
        """
        program = kernels(radius_nm.device, len(radius_nm))
        geometry, by_size = self._planned(program, radius_nm, quaternion, radii)
        terms, form_slopes, number_slopes = program.term_slopes(*geometry)
        if "refractive_index" not in also:
            form_slopes, number_slopes = form_slopes[:, :4], number_slopes[:, :4]
        if "centre" in also:
            moved = _moved_forms(terms.forms, self.experiment.wave_number)
            form_slopes = torch.cat((form_slopes, moved), 1)
            still = number_slopes.new_zeros(len(radius_nm), 2, *number_slopes.shape[2:])
            number_slopes = torch.cat((number_slopes, still), 1)
        changes = _changes(also, radius_nm.device)
        fields = self._on_detector(program, terms, by_size, form_slopes, number_slopes, changes)
        if "refractive_index" in also:
            fields[:, :, 5] *= self.experiment.wave_number
        if "centre" in also:
            height = (self.experiment.wave_number * self.experiment.cos_theta()).clamp_min(1e-9)
            fields[:, :, -2:] /= height.to(radius_nm.device, self.dtype)
        return fields[:, :, 0], fields[:, :, 1:]

    def facet_slopes(self, radius_nm: Tensor, quaternion: Tensor) -> Tensor:
        """Derivatives of the field by the distances of the body's facets, nm^2: (2, B, F, pixels, pixels)."""
        pixels, facets = self.experiment.pixels, len(self.body_normals)
        shape = 2, len(radius_nm), facets, pixels, pixels
        fields = torch.empty(shape, dtype=self.dtype, device=radius_nm.device)
        rotation, program = quaternion_to_matrix(quaternion.double()), kernels(radius_nm.device, 1)
        for bucket, rows in self._buckets(radius_nm):
            skeleton = self._skeleton(bucket, radius_nm.device)
            slopes = facet_slopes(
                self._body, rotation[rows], radius_nm[rows].double(), skeleton.waves, self.experiment.kappa,
                self.dtype,
            )  # fmt: skip
            nodes = torch.view_as_real(slopes).permute(1, 3, 0, 2).flatten(0, 1).to(self.dtype)
            program.fill_pixels(skeleton, nodes, fields, rows)
        return fields


def _moved_forms(forms: Tensor, wave_number: float) -> Tensor:
    """k_z times the derivative of linear forms (B, S, 4, 4) by k_x and k_y, forms again: (B, 2, S, 4, 4).

    ``k_z d/dk_x (f_x k_x + f_y k_y + f_z q_z) = f_x (k + q_z) - f_z k_x``.
    """
    x, y, z, _ = forms.unbind(-1)
    none = torch.zeros_like(x)
    by_x = torch.stack((-z, none, x, wave_number * x), -1)
    by_y = torch.stack((none, -z, y, wave_number * y), -1)
    return torch.stack((by_x, by_y), 1)
