"""Counting simulator evaluations where they happen."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from icobench.fitting.nuisance import Nuisance
from icobench.fitting.shift import shifted
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["FURTHER_COST", "JACOBIAN_COST", "CountingSimulator", "EvaluationBudgetError"]

FURTHER_COST = 1
"""Charged for every further derivative."""

JACOBIAN_COST = 4
"""Evaluations charged for one image with its four derivatives: 3 to 4 by the time of ``intensity_jacobian``
over that of ``intensity`` in batches of 8 to 64 on two cores (``benchmarks/bench_ratios.py``)."""


class EvaluationBudgetError(RuntimeError):
    """A method asked for more evaluations than it was allowed."""


@dataclass
class CountingSimulator:
    """The simulator as fitters see it: checks, counts and bounds every call.

    Attributes:
        simulator: the simulator behind it.
        images: number of images being reconstructed; evaluations are counted for each.
        budget: evaluations allowed per image, None for no bound.
        evaluations: (images,) counted so far, int64.
    """

    simulator: Simulator
    images: int
    budget: int | None = None

    def __post_init__(self) -> None:
        self.evaluations = torch.zeros(self.images, dtype=torch.long)

    @property
    def experiment(self) -> Experiment:
        return self.simulator.experiment

    @property
    def device(self) -> torch.device:
        return self.simulator.device

    def charge(self, image: Tensor, cost: int = 1) -> None:
        """Book ``cost`` evaluations for each entry of ``image`` (indices, repeats allowed)."""
        self.evaluations += cost * torch.bincount(image.cpu(), minlength=self.images)
        if self.budget is not None and int(self.evaluations.max()) > self.budget:
            raise EvaluationBudgetError(f"an image took more than its budget of {self.budget} evaluations")

    def intensity(
        self, image: Tensor, radius_nm: Tensor, quaternion: Tensor, nuisance: Nuisance | None = None
    ) -> Tensor:
        """Intensities (B, H, W) on behalf of the images with the given indices (B,).

        A refractive index and a centre among the nuisance parameters are taken into account, a background is
        not: it is the objective's.
        """
        self.charge(image)
        offset = None if nuisance is None else nuisance.of("centre")
        parts = []
        for rows, simulator in self._materials(len(radius_nm), nuisance):
            if offset is None:
                parts.append(simulator.intensity(radius_nm[rows], quaternion[rows]))
            else:
                field = simulator.field(radius_nm[rows], quaternion[rows])
                parts.append(simulator.read(shifted(field, offset[rows])))
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
        parts = [
            simulator.intensity_jacobian(radius_nm[rows], quaternion[rows], also)
            for rows, simulator in self._materials(len(radius_nm), nuisance)
        ]
        intensity, slopes = (torch.cat(own) for own in zip(*parts, strict=True))
        offset = None if nuisance is None else nuisance.of("centre")
        if offset is not None:
            both = shifted(torch.cat((intensity.unsqueeze(1), slopes), 1), offset)
            intensity, slopes = both[:, 0], both[:, 1:]
        return intensity, slopes

    def _materials(self, count: int, nuisance: Nuisance | None) -> Iterator[tuple[slice, Simulator]]:
        """Rows of one material, and their simulator; the kernels take one index for a whole batch."""
        index = None if nuisance is None else nuisance.of("refractive_index")
        if index is None:
            yield slice(None), self.simulator
            return
        for row, (real, imag) in enumerate(index.tolist()):
            yield slice(row, row + 1), self.simulator.with_refractive_index(complex(real, imag))
