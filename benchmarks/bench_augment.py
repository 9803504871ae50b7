"""Speed of the augmentations."""

import time

import torch

from icobench.images.augment import FILTERS, augment

BATCH = 64


class Augment:
    """One filter, or one drawn for each image, on a batch of 64 images of 128 x 128 pixels."""

    params = (*FILTERS, "random")
    param_names = ("which",)

    def setup(self, which: str) -> None:
        self.images = torch.rand(BATCH, 128, 128, generator=torch.Generator().manual_seed(1))
        augment(self.images, which, 0)

    def time_batch(self, which: str) -> None:
        augment(self.images, which, 0)

    def track_images_per_second(self, which: str) -> float:
        own = []
        for _ in range(10):
            start = time.perf_counter()
            augment(self.images, which, 0)
            own.append(time.perf_counter() - start)
        return BATCH / min(own)

    track_images_per_second.unit = "images/s"
