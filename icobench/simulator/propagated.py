"""The propagating simulator: split-step multi-slice with refraction and multiple scattering, batched."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from icobench.geometry.convex import ConvexBody
from icobench.geometry.rotations import quaternion_to_matrix
from icobench.simulator.experiment import Experiment
from icobench.simulator.skeleton import KnownRadii, Skeleton, SkeletonField, to_pixels

__all__ = ["STEPS_PER_WAVELENGTH", "PropagatedField"]

STEPS_PER_WAVELENGTH = 4
"""Pixels of the window and slices per wavelength."""

MARGIN_NM, RIM_NM = 60.0, 40.0
"""Width of the window beyond the body on each side, and the part of it that absorbs."""

SUB_RAYS = 3
"""Rays along either edge of a pixel, whose lengths in a slice are averaged."""

STEEPEST = 1e9
"""Bound on the slopes of facets that stand along the beam."""

ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Source elements of the bodies that are propagated together."""


class Window(NamedTuple):
    """Tables for the bodies of one bucket.

    Its window has N x N pixels, M x M of them around the body, which lies in S slices.

    Attributes:
        sharpen: (M, M) takes means over a pixel's width to values at its centre, along a row or column.
        offsets: (3, SUB_RAYS^2 M^2) float64 rows x, y, 1 of the rays in nm, sub-ray major.
        heights: (S + 1,) z in nm of the slices' boundaries.
        step: (N, N) complex; takes the spectrum of the scattered wave over one slice, in which the incoming
            wave stays 1.
        rim: (N, N) what a slice leaves of a wave near the window's edge.
        along_y: (N_a, M), along_x: (N_a, N_b, M), along_z: (N_a, N_b, S) complex; from sources to the
            skeleton's rows of nodes, padded.
        places: (P,) the skeleton's nodes among the N_a N_b padded ones.
    """

    sharpen: Tensor
    offsets: Tensor
    heights: Tensor
    step: Tensor
    rim: Tensor
    along_y: Tensor
    along_x: Tensor
    along_z: Tensor
    places: Tensor


def _sinc(phase: Tensor) -> Tensor:
    return torch.sinc(phase / math.pi)


def _sharpening(count: int) -> Tensor:
    """(count, count) float64: 1 - d^2 / 24 + 3 d^4 / 640, with d^2 the second difference.

    These are the first terms of 1 / sinc(k pitch / 2), which undoes the mean over a pixel.
    """
    second = torch.diag(torch.full((count,), -2.0, dtype=torch.float64))
    second += torch.diag(torch.ones(count - 1, dtype=torch.float64), 1)
    second += torch.diag(torch.ones(count - 1, dtype=torch.float64), -1)
    return torch.eye(count, dtype=torch.float64) - second / 24 + 3 / 640 * second @ second


def _left(phase: Tensor) -> Tensor:
    """What the sharpening leaves of a pixel's transform at phases k pitch / 2; 1 for small ones."""
    second = 4 * torch.sin(phase).square()
    return _sinc(phase) * (1 + second / 24 + 3 / 640 * second.square())


def _wave(phase: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(phase), phase)


def _fast_length(least: float) -> int:
    """The smallest even number above ``least`` whose Fourier transform is fast: no prime factor above 5."""
    length = 2 * math.ceil(least / 2)
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 2


class PropagatedField(SkeletonField):
    """Field of a convex body with refraction and multiple scattering, by split-step propagation.

    The wave inside the body, over the incoming wave, is ``1 + s``. A slice of thickness dz multiplies it by
    ``t = exp(i kappa L)``, with L(x, y) the length of a ray inside the body and the slice, and between slices
    ``s`` travels by ``exp(i (k_z - k) dz)``. A slice's source ``J = (t - 1) (1 + s)`` lies within the body.
    The far field is the sum of the sources' transforms,

        ``F(q) = sum over slices of FT[J](k_x, k_y) exp(-i q_z z) pitch^2 / (i kappa)``,

    so no scattered wave has to leave the window, which is little larger than the body and absorbs at its rim.
    L is averaged over the pixel, as an edge inside a pixel demands, and then sharpened: smooth functions come
    back. So pixels of a quarter wavelength keep the error below half a per cent (``reports/physics.md``). For
    weak scattering F becomes that of :class:`~icobench.simulator.exact.ExactField`.

    Args:
        experiment, dtype: as for the other methods.
        body: the convex body.
        steps: pixels and slices per wavelength. The error falls with their square (``reports/physics.md``).
    """

    def __init__(
        self,
        experiment: Experiment,
        body: ConvexBody,
        dtype: torch.dtype,
        steps: float = STEPS_PER_WAVELENGTH,
    ) -> None:
        super().__init__(experiment, dtype)
        self.body, self.pitch = body, experiment.wavelength_nm / steps

    def _window(self, bucket: int, skeleton: Skeleton) -> Window:
        if not hasattr(self, f"window_{bucket}_step"):
            for name, table in self._make_window(self._bucket_radius_nm(bucket), skeleton)._asdict().items():
                self.register_buffer(f"window_{bucket}_{name}", table, persistent=False)
        return Window(*(getattr(self, f"window_{bucket}_{name}") for name in Window._fields))

    def _make_window(self, radius_nm: float, skeleton: Skeleton) -> Window:
        """Tables for bodies of circumradius up to ``radius_nm``."""
        pitch, k, device = self.pitch, self.experiment.wave_number, skeleton.waves.device
        slices = math.ceil(2 * radius_nm / pitch)
        sources, pixels = slices, _fast_length(2 * (radius_nm + MARGIN_NM) / pitch)

        def centred(count: int, spacing: float) -> Tensor:
            numbers = torch.arange(count, dtype=torch.float64, device=device)
            return (numbers - (count - 1) / 2) * spacing

        centres, inner = centred(sources, pitch), centred(SUB_RAYS, pitch / SUB_RAYS)
        rays = inner[:, None] + centres
        shape = (SUB_RAYS, SUB_RAYS, sources, sources)
        y, x = rays[:, None, :, None].expand(shape), rays[None, :, None, :].expand(shape)
        offsets = torch.stack((x.flatten(), y.flatten(), torch.ones_like(x).flatten()))

        frequency = 2 * math.pi * torch.fft.fftfreq(pixels, pitch, dtype=torch.float64, device=device)
        ahead = k**2 - frequency[:, None] ** 2 - frequency**2
        # Evanescent waves decay.
        step = torch.exp(1j * (ahead.to(torch.complex128).sqrt() - k) * pitch)
        depth = (centred(pixels, pitch).abs() - (pixels * pitch / 2 - RIM_NM)).clamp_min(0) / RIM_NM
        # The same absorption per nm for every thickness of the slices.
        fade = torch.cos(math.pi / 2 * depth) ** (pitch / self.experiment.wavelength_nm)

        k_x, k_y, q_z, _ = skeleton.waves
        present = torch.arange(skeleton.ragged.shape[1], device=device) < skeleton.starts.diff()[:, None]
        k_x, q_z, k_y = k_x[skeleton.ragged], q_z[skeleton.ragged], k_y[skeleton.ragged[:, 0]]
        along_y = _wave(-k_y[:, None] * centres) / _left(k_y[:, None] * (pitch / 2))
        along_x = _wave(-k_x.unsqueeze(-1) * centres) / _left(k_x.unsqueeze(-1) * (pitch / 2))
        along_z = _wave(-q_z.unsqueeze(-1) * centred(slices, pitch)) / _sinc(q_z.unsqueeze(-1) * (pitch / 2))
        complex_type = self.dtype.to_complex()
        return Window(
            _sharpening(sources).to(device, self.dtype),
            offsets.to(self.dtype),
            centred(slices + 1, pitch).to(self.dtype),
            step.to(complex_type),
            (fade[:, None] * fade).to(self.dtype),
            along_y.to(complex_type),
            along_x.to(complex_type),
            (pitch**2 * along_z).to(complex_type),
            present.flatten().nonzero().squeeze(1),
        )

    @torch.no_grad()
    def forward(self, radius_nm: Tensor, quaternion: Tensor, radii: KnownRadii = None) -> Tensor:
        """Complex field in nm^3: radius (B,), quaternion (B, 4) -> (B, pixels, pixels).

        Bodies that are compared use the window of the same ``radii``, which are about theirs.
        """
        rotation = quaternion_to_matrix(quaternion.double())
        pixels = self.experiment.pixels
        fields = radius_nm.new_empty(len(radius_nm), pixels, pixels, dtype=self.dtype.to_complex())
        for bucket, items in self._buckets(radius_nm, radii):
            skeleton = self._skeleton(bucket, radius_nm.device)
            window = self._window(bucket, skeleton)
            slices = len(window.heights) - 1
            together = max(1, ELEMENTS[radius_nm.device.type] // slices**3)
            for rows in items.split(together):
                sources = self._sources(window, radius_nm[rows], rotation[rows])
                nodes = self._far_field(window, sources)
                values = to_pixels(skeleton, torch.view_as_real(nodes).movedim(-1, 0).flatten(0, 1))
                fields[rows] = torch.complex(*values.unflatten(0, (2, -1)).unbind(0))
        return fields

    def ray_ends(self, radius: Tensor, rotation: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Heights z_in <= z_out in nm where rays enter and leave bodies, equal where they miss: (B, P) each.

        Args:
            radius: (B,) circumradii in nm.
            rotation: (B, 3, 3) orientations.
            offsets: (3, P) rows x, y, 1 of the rays, in nm.
        """
        normals = torch.as_tensor(self.body.normals).to(rotation) @ rotation.mT
        along = normals[..., 2:]
        along = torch.where(along.abs() < 1 / STEEPEST, 1 / STEEPEST, along)
        distance = torch.as_tensor(self.body.offsets).to(radius) * radius[:, None]
        planes = torch.cat((-normals[..., :2], distance.unsqueeze(-1)), -1) / along
        heights = planes @ offsets
        leave = torch.where(along > 0, heights, torch.inf).amin(1)
        enter = torch.where(along < 0, heights, -torch.inf).amax(1)
        return enter, torch.maximum(enter, leave)

    def _sources(self, window: Window, radius: Tensor, rotation: Tensor) -> Tensor:
        """J / (i kappa) in nm of all slices: (B, S, M, M), [z, y, x]."""
        kappa, slices, pixels = self.experiment.kappa, len(window.heights) - 1, len(window.step)
        enter, leave = self.ray_ends(radius.to(self.dtype), rotation.to(self.dtype), window.offsets)
        enter, leave = (ends.view(len(radius), SUB_RAYS**2, slices, slices) for ends in (enter, leave))
        terms, first = _terms(kappa, self.pitch, self.dtype), (pixels - slices) // 2
        core = slice(first, first + slices)
        sources = window.step.new_empty(len(radius), slices, slices, slices)
        scattered = window.step.new_zeros(len(radius), pixels, pixels)
        crossed = torch.minimum(enter.clamp_min(window.heights[0]), leave).mean(1)
        for number, height in enumerate(window.heights[1:]):
            if number:
                scattered = torch.fft.ifft2(torch.fft.fft2(scattered) * window.step)
            before, crossed = crossed, torch.minimum(enter.clamp_min(height), leave).mean(1)
            inside = scattered[:, core, core]
            length = window.sharpen @ (crossed - before) @ window.sharpen
            source = _gain(kappa, length, terms) * (1 + inside)
            sources[:, number] = source
            inside += 1j * kappa * source
            scattered *= window.rim
        return sources

    def _far_field(self, window: Window, sources: Tensor) -> Tensor:
        """Fields at the skeleton's nodes: (B, P)."""
        batch, slices = sources.shape[:2]
        rows = torch.matmul(window.along_y, sources)  # (B, S, N_a, M)
        nodes = torch.bmm(window.along_x, rows.permute(2, 3, 0, 1).flatten(2))  # (N_a, N_b, B S)
        nodes = (nodes.unflatten(-1, (batch, slices)) * window.along_z.unsqueeze(2)).sum(-1)
        return nodes.flatten(0, 1)[window.places].T


def _terms(kappa: complex, longest: float, dtype: torch.dtype) -> int:
    """Terms of the series of :func:`_gain` that lengths up to ``longest`` need."""
    size, term, count = abs(kappa) * longest, 1.0, 1
    while term > torch.finfo(dtype).eps / 4:
        count += 1
        term *= size / count
    return count


def _gain(kappa: complex, length: Tensor, terms: int) -> Tensor:
    """(exp(i kappa L) - 1) / (i kappa) of lengths in nm, as a power series; L itself for kappa = 0.

    A series, because a complex exponential takes longer, and because the difference cancels for small kappa.
    """
    phase = 1j * kappa * length
    total = torch.ones_like(phase)
    for number in range(terms, 1, -1):
        total = 1 + phase * total / number
    return length * total
