"""Simulator evaluations are counted here, where they happen, and nowhere else."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from icobench.fitting.nuisance import Nuisance
from icobench.fitting.shift import shifted
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["FURTHER_COST", "JACOBIAN_COST", "CountingSimulator"]

FURTHER_COST = 1
"""Charged for every further derivative."""

JACOBIAN_COST = 4
"""Evaluations charged for one image with its four derivatives: 3 to 4 by the time of ``intensity_jacobian``
over that of ``intensity`` in batches of 8 to 64 on two cores (``benchmarks/bench_ratios.py``)."""


@dataclass
class CountingSimulator:
    """The simulator as fits see it: every call is counted.

    Attributes:
        simulator: does the work.
        images: number of images to reconstruct; evaluations are counted for each.
        evaluations: (images,) counted so far, int64.
    """

    simulator: Simulator
    images: int

    def __post_init__(self) -> None:
        self.evaluations = torch.zeros(self.images, dtype=torch.long)

    @property
    def experiment(self) -> Experiment:
        return self.simulator.experiment

    @property
    def device(self) -> torch.device:
        return self.simulator.device

    def charge(self, image: Tensor, cost: int = 1) -> None:
        """Count ``cost`` evaluations for each entry of ``image`` (indices, repeats allowed)."""
        self.evaluations += cost * torch.bincount(image.cpu(), minlength=self.images)

    def intensity(
        self, image: Tensor, radius_nm: Tensor, quaternion: Tensor, nuisance: Nuisance | None = None
    ) -> Tensor:
        """Intensities (B, H, W), counted for the images with the given indices (B,).

        A refractive index and a centre among the nuisance parameters (B, P) are taken into account, a
        background is not: the objective adds it.
        """
        self.charge(image)
        nuisance = nuisance or Nuisance.none(len(radius_nm))
        offset = nuisance.of("centre")
        parts = []
        for rows, simulator in self._materials(nuisance):
            if offset is None:
                parts.append(simulator.intensity(radius_nm[rows], quaternion[rows]))
            else:
                field = simulator.field(radius_nm[rows], quaternion[rows])
                parts.append(simulator.read(shifted(field, offset[rows].to(field.device))))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def intensity_jacobian(
        self,
        image: Tensor,
        radius_nm: Tensor,
        quaternion: Tensor,
        also: tuple[str, ...] = (),
        nuisance: Nuisance | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Intensities (B, H, W) and derivatives (B, T, H, W), T = 4 and 2 for each name in ``also``.

        An image is charged :data:`JACOBIAN_COST`, and :data:`FURTHER_COST` for every further derivative.
        """
        self.charge(image, JACOBIAN_COST + 2 * FURTHER_COST * len(also))
        nuisance = nuisance or Nuisance.none(len(radius_nm))
        parts = [
            simulator.intensity_jacobian(radius_nm[rows], quaternion[rows], also)
            for rows, simulator in self._materials(nuisance)
        ]
        intensity, slopes = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        offset = nuisance.of("centre")
        if offset is not None:
            both = shifted(torch.cat((intensity.unsqueeze(1), slopes), 1), offset.to(intensity.device))
            intensity, slopes = both[:, 0], both[:, 1:]
        return intensity, slopes

    def _materials(self, nuisance: Nuisance) -> Iterator[tuple[slice, Simulator]]:
        """Rows of one material, and their simulator: its kernels take one refractive index for a batch."""
        index = nuisance.of("refractive_index")
        if index is None or not len(index):
            yield slice(None), self.simulator
            return
        for row, (real, imag) in enumerate(index.tolist()):
            yield slice(row, row + 1), self.simulator.with_refractive_index(complex(real, imag))
