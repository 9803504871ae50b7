"""Images that wait for a fit while a source is watched."""

import numpy as np
import torch

from icobench.answer import SOLVED_DEG, SOLVED_NM, Answer
from icobench.images.image_set import ImageSet

__all__ = ["FitQueue"]


class FitQueue:
    """Images that wait for a fit, at most so many; those with the largest predicted errors stay.

    Args:
        most: images that wait.
        block: images that are taken together.

    Attributes:
        dropped: images that were left out.
    """

    def __init__(self, most: int, block: int) -> None:
        self.most, self.block, self.dropped = most, block, 0
        self._errors: list[np.ndarray] = []
        """Of the images of each set; -1 where one is gone."""
        self._sets: list[ImageSet] = []

    def __len__(self) -> int:
        return sum(int((errors >= 0).sum()) for errors in self._errors)

    def add(self, images: ImageSet, answer: Answer) -> None:
        """Images (N,) with the network's answer for them."""
        errors = torch.maximum(answer.orientation_std_deg / SOLVED_DEG, answer.radius_std_nm / SOLVED_NM)
        self._errors.append(errors.nan_to_num(nan=torch.inf).numpy().copy())
        self._sets.append(images)
        before = len(self)
        for errors_of_set, stays in zip(self._errors, self._largest(self.most), strict=True):
            errors_of_set[~stays] = -1
        self.dropped += before - len(self)
        self._tidy()

    def take(self) -> ImageSet | None:
        """The images with the largest predicted errors."""
        if not len(self):
            return None
        taken = []
        for images, errors, chosen in zip(self._sets, self._errors, self._largest(self.block), strict=True):
            errors[chosen] = -1
            if chosen.any():
                taken.append(images.subset(torch.from_numpy(chosen)))
        self._tidy()
        return ImageSet.join(taken)

    def _largest(self, count: int) -> list[np.ndarray]:
        """For each set, which of its images are among so many with the largest errors."""
        errors = np.concatenate(self._errors)
        chosen = np.zeros(len(errors), dtype=bool)
        chosen[np.argsort(-errors, kind="stable")[: min(count, len(self))]] = True
        return np.split(chosen, np.cumsum([len(part) for part in self._errors])[:-1])

    def _tidy(self) -> None:
        """Let go of sets of which less than half is left."""
        kept = []
        for images, errors in zip(self._sets, self._errors, strict=True):
            left = errors >= 0
            if 2 * left.sum() < len(left):
                images, errors = images.subset(torch.from_numpy(left)), errors[left]
            if len(errors):
                kept.append((images, errors))
        self._sets, self._errors = [images for images, _ in kept], [errors for _, errors in kept]
