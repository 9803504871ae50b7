"""The paper's method on a binary voxel cube: 192 slices of the body at pitch wavelength / 8."""

import math

import torch
from torch import Tensor, nn

from icobench.geometry.convex import ConvexBody
from icobench.geometry.rotations import quaternion_to_matrix
from icobench.simulator.experiment import Experiment
from icobench.simulator.skeleton import KnownRadii

__all__ = ["SLICES", "STEPS_PER_WAVELENGTH", "SlicedField", "voxel_slices"]

SLICES = 192
STEPS_PER_WAVELENGTH = 8
CHUNK = 16
"""Slices transformed at once."""

MIDDLE = (SLICES - 1) / 2
"""The cube's centre, counted in voxels from the first one's centre."""


def voxel_slices(
    body: ConvexBody, radius: Tensor, rotation: Tensor, pitch: float, start: int, stop: int
) -> Tensor:
    """Slices [start, stop) of the binary cube, True inside the body: (stop - start, 192, 192), [z, y, x].

    The body has circumradius () in nm and rotation (3, 3); voxel centres lie at (i - 95.5) pitch.
    """
    centres = (torch.arange(SLICES, device=radius.device, dtype=radius.dtype) - MIDDLE) * pitch
    normals = torch.as_tensor(body.normals, dtype=radius.dtype, device=radius.device) @ rotation.T
    offsets = torch.as_tensor(body.offsets, dtype=radius.dtype, device=radius.device) * radius
    inside = torch.ones(stop - start, SLICES, SLICES, dtype=torch.bool, device=radius.device)
    for normal, offset in zip(normals, offsets, strict=True):
        z, y, x = centres[start:stop, None, None], centres[:, None], centres
        inside &= normal[2] * z + normal[1] * y + normal[0] * x <= offset
    return inside


class SlicedField(nn.Module):
    """The paper's multi-slice Fourier transform (Stielow et al. 2020, appendix B), repeated for comparison.

    Each slice, absorbed by the material already crossed, is zero-padded to 512 and Fourier transformed,
    propagated by its phase, summed coherently and cropped. This is slow.

    With the default experiment the FFT's pitch is exactly k / 64, so its central 128 x 128 is the detector.
    For another angular range or pixel number the cube is padded so that the pitch of the transform equals
    the detector's.

    Attributes:
        pitch: edge of a voxel in nm.
        padded: samples of the transform along each axis.
        depth: (pixels, pixels) q_z in 1/nm.
        ramp: (192, 192) phase factor, [y, x], that moves the transform of a slice by the beam's offset.
    """

    depth: Tensor
    valid: Tensor
    ramp: Tensor

    def __init__(self, experiment: Experiment, body: ConvexBody, dtype: torch.dtype) -> None:
        super().__init__()
        self.experiment, self.body, self.dtype = experiment, body, dtype
        if not experiment.orthographic:
            raise ValueError("the sliced method needs the orthographic grid; use 'exact' for a flat detector")
        self.pitch = experiment.wavelength_nm / STEPS_PER_WAVELENGTH
        padded = STEPS_PER_WAVELENGTH * experiment.pixels / (2 * experiment.sin_theta_max)
        if abs(padded - round(padded)) > 1e-9 or round(padded) < max(SLICES, experiment.pixels):
            raise ValueError(
                "the sliced method needs 4 * pixels / sin_theta_max to be an integer of at least "
                f"{max(SLICES, experiment.pixels)}, got {padded:g}"
            )
        self.padded = round(padded)
        depth = experiment.wave_number * (experiment.cos_theta() - 1)
        samples = torch.arange(SLICES, dtype=torch.float64) - MIDDLE
        self.register_buffer("depth", depth.to(dtype), persistent=False)
        self.register_buffer("valid", experiment.valid(), persistent=False)
        x, y = (2 * math.pi * offset / self.padded * samples for offset in experiment.centre_offset)
        phase = (y[:, None] + x).to(dtype)
        self.register_buffer("ramp", torch.polar(torch.ones_like(phase), phase), persistent=False)

    @torch.no_grad()
    def forward(self, radius_nm: Tensor, quaternion: Tensor, radii: KnownRadii = None) -> Tensor:
        """Complex field in nm^3: radius (B,), quaternion (B, 4) -> (B, pixels, pixels)."""
        rotations = quaternion_to_matrix(quaternion.to(self.dtype))
        half_width = SLICES * self.pitch / 2
        sizes = (radius_nm if radii is None else radii).tolist()
        fields = []
        for size, radius, rotation in zip(sizes, radius_nm.to(self.dtype), rotations, strict=True):
            if size > half_width:
                raise ValueError(
                    f"radius_nm {size:g} does not fit into the sliced method's cube of "
                    f"half-width {half_width:g} nm"
                )
            fields.append(self.image(radius, rotation))
        return torch.stack(fields)

    def detector_samples(self) -> tuple[Tensor, Tensor]:
        """Indices of the pixels in a transform, and phases that move its origin: (pixels,) each.

        The FFT takes the first sample as its origin; the cube's centre (and the ramp's) is 95.5 samples on.
        """
        pixels = self.experiment.pixels
        steps = torch.arange(pixels, device=self.valid.device) - pixels // 2
        angle = 2 * math.pi * steps.to(self.dtype) / self.padded * MIDDLE
        return steps % self.padded, torch.polar(torch.ones_like(angle), angle)

    def image(self, radius: Tensor, rotation: Tensor) -> Tensor:
        """Field (pixels, pixels) of a body of radius () with rotation (3, 3)."""
        kappa, pixels = self.experiment.kappa, self.experiment.pixels
        crossed = torch.zeros(SLICES, SLICES, dtype=self.dtype, device=radius.device)
        total = torch.zeros(pixels, pixels, dtype=self.dtype.to_complex(), device=radius.device)
        index, shift = self.detector_samples()
        for start in range(0, SLICES, CHUNK):
            inside = voxel_slices(self.body, radius, rotation, self.pitch, start, start + CHUNK)
            # Material crossed up to the middle of each voxel.
            before = crossed + (inside.cumsum(0) - 0.5 * inside.to(self.dtype)) * self.pitch
            crossed = crossed + inside.sum(0) * self.pitch
            amplitude = torch.polar(torch.exp(-kappa.imag * before) * inside, kappa.real * before)
            spectrum = torch.fft.fft2(amplitude * self.ramp, s=(self.padded, self.padded))
            cropped = spectrum[:, index][:, :, index]
            heights = (torch.arange(start, start + CHUNK, device=radius.device) - MIDDLE) * self.pitch
            phase = -self.depth * heights[:, None, None].to(self.dtype)
            total += (cropped * torch.polar(torch.ones_like(phase), phase)).sum(0)
        return total * shift[:, None] * shift * self.pitch**3 * self.valid
