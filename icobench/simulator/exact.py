"""The closed-form simulator: edge sum on a skeleton of Ewald-sphere nodes, batched."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from icobench.geometry.convex import ConvexBody
from icobench.geometry.rotations import quaternion_to_matrix
from icobench.simulator.compiled import EAGER, Kernels, kernels
from icobench.simulator.edge_sum import SHARED_SUMS, wave_weights
from icobench.simulator.experiment import Experiment
from icobench.simulator.overlay import BodyTensors, body_tensors, plan
from icobench.simulator.skeleton import Skeleton, SkeletonField, to_pixels
from icobench.simulator.terms import Terms

__all__ = ["ExactField"]

CACHED_ELEMENTS, FUSED_ELEMENTS, GPU_ELEMENTS = 1 << 17, 1 << 26, 1 << 25
"""Segments times nodes per piece: a few arrays that fit the caches in eager torch on a CPU; for the compiled
kernel, which keeps no intermediate arrays; on a GPU."""

SMALL_BAND, SMALL_CONTRAST = 15.0, 0.02
"""Below this k R (32 nm) or |n - 1| the terms of a rotation's derivative nearly cancel: it needs float64."""


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
        return BodyTensors(*(getattr(self, f"body_{name}") for name in BodyTensors._fields))

    def _at_nodes(
        self,
        program: Kernels,
        terms: Terms,
        skeleton: Skeleton,
        items: list[int],
        longest: list[int],
        *slopes: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        """The items' edge sum or, given slopes, its Jacobian at all nodes: (N, items, P), re and im in turn.

        Done in pieces that fit into memory. The linear forms stay in float64; all other tables are converted
        to ``dtype``. Eager torch on a CPU takes one item at a time: the caches hold no more, and no sum
        depends on another item's number of segments.
        """
        device = terms.forms.device
        on_cpu = device.type == "cpu"
        function = program.edge_sum_jacobian if slopes else program.edge_sum
        on_cpu_limit = FUSED_ELEMENTS if program.fused else CACHED_ELEMENTS
        limit = on_cpu_limit if on_cpu else GPU_ELEMENTS // (1 + 4 * len(slopes))
        nodes = skeleton.waves.shape[1]
        most = max(longest[item] for item in items)
        together = 1 if on_cpu and not program.fused else max(1, limit // (most * nodes))
        weights = wave_weights(skeleton.waves, self._kappa(device), dtype)
        rows = []
        for start in range(0, len(items), together):
            piece = items[start : start + together]
            size = max(longest[item] for item in piece)
            index = torch.tensor(piece, device=device)
            some = Terms(terms.forms[index, :size], terms.numbers[index, :size].to(dtype), terms.live[index])
            some_slopes = [slope[index, :, :size].to(dtype) for slope in slopes]
            at_once = math.ceil(nodes / math.ceil(len(piece) * size * nodes / limit))
            parts = zip(skeleton.waves.split(at_once, 1), weights.split(at_once, 1), strict=True)
            rows.append(torch.cat([function(*some, *part, *some_slopes) for part in parts], -1))
        return torch.cat(rows, 1)

    def _geometry(self, radius_nm: Tensor, quaternion: Tensor) -> tuple[Any, ...]:
        """Arguments of the kernels' ``terms``: body, rotation, plan, radius, kappa and type."""
        rotation = quaternion_to_matrix(quaternion.double())
        where, kappa = plan(self._body, rotation), self._kappa(rotation.device)
        return self._body, rotation, where, radius_nm.double(), kappa, self.dtype

    def _kappa(self, device: torch.device) -> Tensor:
        kappa = self.experiment.kappa
        return torch.tensor((kappa.real, kappa.imag), dtype=torch.float64, device=device)

    def _cancels(self, radius: Tensor) -> bool:
        k = self.experiment.wave_number
        return float(radius) * k < SMALL_BAND or abs(self.experiment.kappa) < SMALL_CONTRAST * k

    def _on_detector(
        self, program: Kernels, terms: Terms, radius: Tensor, *slopes: Tensor, also: tuple[str, ...] = ()
    ) -> Tensor:
        """The field and, given slopes, its derivatives at the pixels: (B, 1 + T, pixels, pixels)."""
        longest = terms.live.tolist()
        pixels, rows = self.experiment.pixels, 1 + sum(slope.shape[1] for slope in slopes[:1])
        fields = radius.new_empty(len(radius), rows, pixels, pixels, dtype=self.dtype.to_complex())
        for bucket, items in self._buckets(radius):
            skeleton = self._skeleton(bucket, radius.device)
            dtype = torch.float64 if slopes and self._cancels(radius[items[0]]) else self.dtype
            values = self._at_nodes(program, terms, skeleton, items, longest, *slopes, dtype=dtype)
            nodes = torch.complex(values[0::2], values[1::2])
            if slopes:
                nodes = self._with_shared(nodes, skeleton, also)
            both = torch.view_as_real(nodes).movedim(-1, 1).flatten(0, 2).to(self.dtype)
            real, imag = to_pixels(skeleton, both).unflatten(0, (rows, 2, -1)).transpose(0, 2).unbind(1)
            fields[torch.tensor(items, device=radius.device)] = torch.complex(real, imag)
        return fields

    def forward(self, radius_nm: Tensor, quaternion: Tensor) -> Tensor:
        """Complex field in nm^3: radius (B,), quaternion (B, 4) -> (B, pixels, pixels)."""
        differentiated = _differentiated(radius_nm) or _differentiated(quaternion)
        program = EAGER if differentiated else kernels(radius_nm.device, self.dtype, len(radius_nm))
        geometry = self._geometry(radius_nm, quaternion)
        terms = program.terms(*geometry)
        return self._on_detector(program, terms, geometry[3])[:, 0]

    @torch.no_grad()
    def jacobian(
        self, radius_nm: Tensor, quaternion: Tensor, also: tuple[str, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """Field and derivatives for :meth:`~icobench.simulator.simulator.Simulator.intensity_jacobian`.

        The field is smooth but where a facet stands edge-on: there it is continuous, but with absorption its
        derivative by the turn that takes the facet across differs on the two sides (rays along the facet then
        cross it at their start instead of their end). The result is that of one side; within 1e-9 rad of
        edge-on it is good to some 1e-3 (0.1 without contrast).

        Returns:
            field (B, pixels, pixels) in nm^3 and derivatives (B, T, pixels, pixels): nm^3 per radian and per
            nm; with "refractive_index" one more, by n, which is complex: the field is analytic in n; with
            "centre" two more, by k_x and k_y (nm^4), which grow without bound towards the horizon.
        """
        program = kernels(radius_nm.device, self.dtype, len(radius_nm))
        geometry = self._geometry(radius_nm, quaternion)
        radius, (terms, form_slopes, number_slopes) = geometry[3], program.term_slopes(*geometry)
        if "refractive_index" not in also:
            form_slopes, number_slopes = form_slopes[:, :4], number_slopes[:, :4]
        if "centre" in also:
            moved = _moved_forms(terms.forms, self.experiment.wave_number)
            form_slopes = torch.cat((form_slopes, moved), 1)
            still = number_slopes.new_zeros(len(radius), 2, *number_slopes.shape[2:])
            number_slopes = torch.cat((number_slopes, still), 1)
        fields = self._on_detector(program, terms, radius, form_slopes, number_slopes, also=also)
        if "centre" in also:
            height = (self.experiment.wave_number * self.experiment.cos_theta()).clamp_min(1e-9)
            fields[:, -2:] /= height.to(radius.device, self.dtype)
        return fields[:, 0], fields[:, 1:]

    def _with_shared(self, nodes: Tensor, skeleton: Skeleton, also: tuple[str, ...]) -> Tensor:
        """Add the changes that are the same for all segments to the derivatives; drop the shared sums."""
        geometry, shared = nodes[:-SHARED_SUMS], nodes[-SHARED_SUMS:]
        kappa, waves = self._kappa(nodes.device), skeleton.waves

        def weights(kappa: Tensor, depth: Tensor) -> Tensor:
            rows = wave_weights(torch.stack((*waves[:2], depth, waves[3])), kappa, torch.float64)
            return torch.complex(rows[0::2], rows[1::2]).to(nodes.dtype)

        def change(of_kappa: Tensor, of_depth: Tensor) -> Tensor:
            both = torch.func.jvp(weights, (kappa, waves[2]), (of_kappa, of_depth))
            return both[1][0] * shared[0] + both[1][1] * shared[2]

        still, flat = torch.zeros_like(kappa), torch.zeros_like(waves[2])
        if "refractive_index" in also:
            geometry[5] += change(kappa.new_tensor((1.0, 0.0)), flat)
            value = self.experiment.kappa
            if value != 0:
                geometry[5] += (1 / value - value.conjugate() / value**2) * shared[1]
            geometry[5] *= self.experiment.wave_number
        if "centre" in also:
            # At fixed length of the wave vector a step in k_x changes k_z by -k_x / k_z.
            geometry[-2] += change(still, -waves[0])
            geometry[-1] += change(still, -waves[1])
        return geometry


def _moved_forms(forms: Tensor, wave_number: float) -> Tensor:
    """k_z times the derivative of linear forms (B, S, 4, 4) by k_x and k_y, forms again: (B, 2, S, 4, 4).

    ``k_z d/dk_x (f_x k_x + f_y k_y + f_z q_z) = f_x (k + q_z) - f_z k_x``.
    """
    x, y, z, _ = forms.unbind(-1)
    none = torch.zeros_like(x)
    by_x = torch.stack((-z, none, x, wave_number * x), -1)
    by_y = torch.stack((none, -z, y, wave_number * y), -1)
    return torch.stack((by_x, by_y), 1)
