"""Counting simulator evaluations where they happen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["FURTHER_COST", "JACOBIAN_COST", "CountingSimulator", "EvaluationBudgetError"]

FURTHER_COST = 1
"""Charged for every further derivative."""

JACOBIAN_COST = 4
"""Evaluations charged for one image with its four derivatives: 3 to 4 by the time of ``intensity_jacobian``
over that of ``intensity`` in batches of 8 to 64 on two cores (``benchmarks/bench_simulator.py``)."""


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

    def intensity(self, image: Tensor, radius_nm: Tensor, quaternion: Tensor) -> Tensor:
        """Intensities (B, H, W) on behalf of the images with the given indices (B,)."""
        self.charge(image)
        return self.simulator.intensity(radius_nm, quaternion)

    def intensity_jacobian(
        self, image: Tensor, radius_nm: Tensor, quaternion: Tensor, also: tuple[str, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """Intensities (B, H, W) and derivatives (B, T, H, W), T = 4 and 2 for each name in ``also``.

        An image is charged :data:`JACOBIAN_COST`, and :data:`FURTHER_COST` for every further derivative.
        """
        self.charge(image, JACOBIAN_COST + 2 * FURTHER_COST * len(also))
        return self.simulator.intensity_jacobian(radius_nm, quaternion, also)
