"""Split-step multi-slice propagation: refraction and multiple scattering included.

Each slice multiplies the wave by exp(i k dz (n - 1)) where there is material and lets it travel freely
by exp(i k_z dz); at the exit the empty-space wave is subtracted. The exact and the sliced
method leave these effects out, so this one shows what a wrong model does to a reconstruction.
"""

import math

import torch
from torch import Tensor

from icobench.geometry.convex import ConvexBody
from icobench.simulator.experiment import Experiment
from icobench.simulator.sliced import SLICES, VoxelField, voxel_slices

__all__ = ["PropagatedField"]


class PropagatedField(VoxelField):
    """Field by split-step propagation through the voxel cube of the sliced method.

    Scaled so that it equals the exact method's field in the limit of weak scattering: the exit wave's
    deviation from the empty-space wave, divided by i kappa, carries the unit nm^3. For n = 1 the
    limit itself is not defined and an error is raised.
    """

    method = "propagated"
    step: Tensor
    back: Tensor

    def __init__(self, experiment: Experiment, body: ConvexBody, dtype: torch.dtype) -> None:
        if experiment.kappa == 0:
            raise ValueError("the propagated method needs a refractive index other than 1")
        super().__init__(experiment, body, dtype)
        k = experiment.wave_number
        numbers = torch.fft.fftfreq(self.padded, 1 / self.padded, dtype=torch.float64)
        pitch = 2 * math.pi / (self.padded * self.pitch)
        # All waves are carried times the ramp, so that the beam's offset is in the grid of wave numbers.
        x, y = ((numbers - offset) * pitch for offset in experiment.centre_offset)
        kz = (k**2 - y[:, None] ** 2 - x**2).to(torch.complex128).sqrt()
        # Relative to the empty-space wave, which travels with exp(i k dz). Evanescent waves decay; waves that
        # travel around the edge of the periodic grid are not removed.
        step = torch.exp(1j * (kz - k) * self.pitch)
        back = torch.exp(-1j * (k * (experiment.cos_theta() - 1)) * (SLICES / 2 * self.pitch))
        self.register_buffer("step", step.to(dtype.to_complex()), persistent=False)
        self.register_buffer("back", back.to(dtype.to_complex()), persistent=False)

    def image(self, radius: Tensor, rotation: Tensor) -> Tensor:
        kappa = self.experiment.kappa
        factor = complex(torch.exp(torch.tensor(1j * kappa * self.pitch, dtype=torch.complex128)))
        # The scattered part of the wave, travelling relative to the empty-space wave of 1.
        spectrum = torch.zeros_like(self.step)
        half_step = self.step.sqrt()
        for number in range(SLICES):
            inside = voxel_slices(self.body, radius, rotation, self.pitch, number, number + 1)[0]
            wave = torch.fft.ifft2(spectrum * half_step)
            # (1 + s) t - 1 with t = factor inside and 1 outside; the 1 carries the ramp, too.
            core = wave[:SLICES, :SLICES]
            wave[:SLICES, :SLICES] = core + inside * (factor - 1) * (self.ramp + core)
            spectrum = torch.fft.fft2(wave) * half_step
        index, shift = self.detector_samples()
        cropped = spectrum[index][:, index] * shift[:, None] * shift
        scale = self.pitch**2 / (1j * kappa)
        return cropped * self.back * scale * self.valid
