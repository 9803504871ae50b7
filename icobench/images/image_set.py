"""One type for images with their masks and, where known, their truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icobench.devices import joined
from icobench.simulator.experiment import Experiment

__all__ = ["KINDS", "ImageSet"]

KINDS = ("counts", "log", "intensity")
"""Photon counts; log images in [0, 1]; noise-free intensities."""

FURTHER = ("refractive_index", "readout", "gain")
"""Fields that a set may have for each image."""


@dataclass
class ImageSet:
    """Images that belong together: a file's, a test set's, a training step's.

    Attributes:
        images: (N, H, W) float32, finite and, without read-out noise, not negative; 0 where masked.
        mask: (N, H, W) bool, True where usable.
        kind: one of :data:`KINDS`.
        experiment: physics and grid that a reconstruction assumes; None for frames of a file whose geometry
            is not known yet.
        radius_nm: (N,) float64 true radii, NaN where unknown.
        quaternion: (N, 4) float64 true orientations in the fundamental domain, NaN where unknown.
        numbers: (N,) int64 numbers of the images within the complete set; random starts depend on them.
        problems: why an image cannot be used, by its number; such images are 0 and masked completely.
        refractive_index: (N,) complex128, of each body; None where all have the experiment's.
        readout: (N, H, W) float32 variance of the read-out noise in photons squared; None where there is
            none. Counts with it may be negative.
        gain: (N,) float64, stored units per photon, by which counts were divided; None where they were not.
        bodies: N names of the true bodies, as :func:`~icobench.geometry.shapes.shape` takes them; None where
            all are icosahedra.

    Example:
        >>> images = ImageSet(torch.ones(3, 64, 64), torch.ones(3, 64, 64, dtype=torch.bool), "counts")
        >>> len(images.subset(torch.tensor([0, 2]))), images.radius_nm.isnan().all().item()
        (2, True)
    """

    images: Tensor
    mask: Tensor
    kind: str
    experiment: Experiment | None = None
    radius_nm: Tensor = None  # type: ignore[assignment]
    quaternion: Tensor = None  # type: ignore[assignment]
    numbers: Tensor = None  # type: ignore[assignment]
    problems: dict[int, str] = field(default_factory=dict)
    refractive_index: Tensor | None = None
    readout: Tensor | None = None
    gain: Tensor | None = None
    bodies: list[str] | None = None

    def __post_init__(self) -> None:
        count = len(self.images)
        if self.radius_nm is None:
            self.radius_nm = torch.full((count,), torch.nan, dtype=torch.float64)
        if self.quaternion is None:
            self.quaternion = torch.full((count, 4), torch.nan, dtype=torch.float64)
        if self.numbers is None:
            self.numbers = torch.arange(count)

    def __getstate__(self) -> dict[str, Any]:
        # As arrays: tensors would be sent to other processes by shared memory, of which there may be little.
        return {
            name: value.cpu().numpy() if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, torch.from_numpy(value) if isinstance(value, np.ndarray) else value)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def known_experiment(self) -> Experiment:
        """The experiment; a ValueError if there is none."""
        if self.experiment is None:
            raise ValueError("images must have an experiment")
        return self.experiment

    def subset(self, index: Tensor) -> "ImageSet":
        """The images with the given indices (M,), or where a mask (N,) is True."""
        where = index.to(self.images.device)
        further: dict[str, Any] = {
            name: values[index] for name in FURTHER if (values := getattr(self, name)) is not None
        }
        if self.bodies is not None:
            further["bodies"] = [self.bodies[place] for place in torch.arange(len(self))[index].tolist()]
        return replace(
            self, images=self.images[where], mask=self.mask[where], radius_nm=self.radius_nm[index],
            quaternion=self.quaternion[index], numbers=self.numbers[index], **further,
        )  # fmt: skip

    @classmethod
    def join(cls, parts: Sequence["ImageSet"]) -> "ImageSet":
        """One set from its consecutive parts; kind and experiment are those of the first part."""
        names = ["images", "mask", "radius_nm", "quaternion", "numbers"]
        names += [name for name in FURTHER if getattr(parts[0], name) is not None]
        tables: dict[str, Any] = {name: joined([getattr(part, name) for part in parts]) for name in names}
        if parts[0].bodies is not None:
            tables["bodies"] = [name for part in parts for name in part.bodies or ()]
        problems = {number: reason for part in parts for number, reason in part.problems.items()}
        return replace(parts[0], **tables, problems=problems)
