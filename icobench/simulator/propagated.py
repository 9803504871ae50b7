"""Split-step multi-slice propagation: refraction and multiple scattering included.

Each slice multiplies the wave by exp(i k dz (n - 1)) where there is material and lets it travel freely
by exp(i k_z dz); at the exit the empty-space wave is subtracted. The exact and the sliced
method leave these effects out, so this is the test of a model mismatch.
"""

import math

import torch
from torch import Tensor, nn

from icobench.geometry.convex import ConvexBody
from icobench.geometry.rotations import quaternion_to_matrix
from icobench.simulator.experiment import Experiment
from icobench.simulator.sliced import SLICES, SlicedField, voxel_slices

__all__ = ["PropagatedField"]


class PropagatedField(nn.Module):
    """Field by split-step propagation through the voxel cube of the sliced method.

    Scaled so that it equals the exact method's field in the limit of weak scattering: the exit wave's
    deviation from the empty-space wave, divided by i kappa, carries the unit nm^3. For n = 1 the
    limit itself is not defined and an error is raised.
    """

    step: Tensor
    back: Tensor
    valid: Tensor
    ramp: Tensor

    def __init__(self, experiment: Experiment, body: ConvexBody, dtype: torch.dtype) -> None:
        super().__init__()
        if experiment.kappa == 0:
            raise ValueError("the propagated method needs a refractive index other than 1")
        self.experiment = experiment
        self.body = body
        self.dtype = dtype
        grid = SlicedField(experiment, body, dtype)
        self.pitch = grid.pitch
        self.padded = grid.padded
        k = experiment.wave_number
        numbers = torch.fft.fftfreq(self.padded, 1 / self.padded, dtype=torch.float64)
        pitch = 2 * math.pi / (self.padded * self.pitch)
        x, y = ((numbers - own) * pitch for own in experiment.centre_offset)
        kz = (k**2 - y[:, None] ** 2 - x**2).to(torch.complex128).sqrt()
        # Relative to the empty-space wave, which travels with exp(i k dz).
        step = torch.exp(1j * (kz - k) * self.pitch)
        # Waves that would travel around the periodic grid's edge are left to decay: evanescent
        # ones do, and grazing ones are cut just below the horizon.
        complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
        self.register_buffer("step", step.to(complex_dtype), persistent=False)
        exit_plane = SLICES / 2 * self.pitch
        depth = k * (experiment.cos_theta() - 1)
        self.register_buffer("back", torch.exp(-1j * depth * exit_plane).to(complex_dtype), persistent=False)
        self.register_buffer("valid", experiment.valid(), persistent=False)
        # All waves are carried times the ramp, so that the beam's offset is in the grid of wave numbers.
        self.register_buffer("ramp", grid.ramp, persistent=False)

    @torch.no_grad()
    def forward(self, radius_nm: Tensor, quaternion: Tensor) -> Tensor:
        """Complex field in nm^3: radius (B,), quaternion (B, 4) -> (B, pixels, pixels)."""
        rotations = quaternion_to_matrix(quaternion.to(self.dtype))
        return torch.stack(
            [self._one(r, m) for r, m in zip(radius_nm.to(self.dtype), rotations, strict=True)]
        )

    def _one(self, radius: Tensor, rotation: Tensor) -> Tensor:
        if float(radius) > SLICES * self.pitch / 2:
            raise ValueError(
                f"radius_nm {float(radius):g} does not fit into the propagated method's cube of "
                f"half-width {SLICES * self.pitch / 2:g} nm"
            )
        kappa, pixels = self.experiment.kappa, self.experiment.pixels
        factor = complex(torch.exp(torch.tensor(1j * kappa * self.pitch, dtype=torch.complex128)))
        # The scattered part of the wave, travelling relative to the empty-space wave of 1.
        spectrum = torch.zeros_like(self.step)
        half_step = self.step.sqrt()
        for index in range(SLICES):
            inside = voxel_slices(self.body, radius, rotation, self.pitch, index, index + 1)[0]
            wave = torch.fft.ifft2(spectrum * half_step)
            # (1 + s) t - 1 with t = factor inside and 1 outside; the 1 carries the ramp, too.
            core = wave[:SLICES, :SLICES]
            wave[:SLICES, :SLICES] = core + inside * (factor - 1) * (self.ramp + core)
            spectrum = torch.fft.fft2(wave) * half_step
        keep = torch.arange(pixels, device=radius.device) - pixels // 2
        wrapped = keep % self.padded
        keep = keep.to(self.dtype)
        shift = torch.polar(
            torch.ones_like(keep),
            2 * math.pi * keep / self.padded * ((SLICES - 1) / 2),
        )
        cropped = spectrum[wrapped][:, wrapped] * shift[:, None] * shift
        scale = self.pitch**2 / (1j * kappa)
        return cropped * self.back * scale * self.valid
