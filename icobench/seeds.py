"""Random streams: one seed for everything, split by purpose.

Every random number of the package comes from ``numpy.random.SeedSequence(seed, spawn_key=(purpose, ...))``:
what is drawn for one purpose never depends on what is drawn for another. Numbers behind the purpose, such as
that of an image, split the stream further, so that results do not depend on batches or workers.
"""

from enum import IntEnum

import numpy as np
import torch

__all__ = ["Purpose", "random_generator", "seed_sequence", "seed_word", "torch_generator"]


class Purpose(IntEnum):
    """What a stream is for. The numbers are part of all stored results: a new purpose takes a new one."""

    WEIGHTS = 0
    TRAINING = 1
    """Followed by the step, then 0 for its bodies and 1 for what is done to their images."""
    STARTS = 2
    """Random starts of a fit, followed by the number of the image."""
    TEST_IMAGES = 3
    """Followed by the number of the image, then 0 for its truth and 1 for its noise."""
    SIMULATE = 4
    TRAINING_POOL = 5
    """Followed by the number of the body."""
    AUGMENTATION = 6
    DETECTOR = 7
    """Dead pixels and gains."""
    CMA_ES = 8
    """Followed by the number of the image and the number of the restart."""
    BOOTSTRAP = 9
    PORTION = 10
    """Which images are in a portion of a training set."""
    SAMPLER = 11
    """Of a hyperparameter search, followed by the number of trials so far and the worker."""
    BACKGROUND = 12
    """Of log images; numbers are drawn by counting, see :mod:`icobench.images.philox`."""
    POSTERIOR = 13
    """Draws of a posterior, followed by the number of the image."""


def seed_sequence(seed: int, purpose: Purpose, *key: int) -> np.random.SeedSequence:
    """The seed sequence of one purpose, split further by ``key``."""
    return np.random.SeedSequence(seed, spawn_key=(int(purpose), *key))


def random_generator(seed: int, purpose: Purpose, *key: int) -> np.random.Generator:
    """A NumPy generator for one purpose, split further by ``key``."""
    return np.random.default_rng(seed_sequence(seed, purpose, *key))


def torch_generator(seed: int, purpose: Purpose, *key: int) -> torch.Generator:
    """A torch generator on the CPU for one purpose, split further by ``key``."""
    state = seed_sequence(seed, purpose, *key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))  # torch takes 63 bits


def seed_word(seed: int, purpose: Purpose, *key: int) -> int:
    """One number in [0, 2^32) for libraries that want a seed of their own."""
    return int(seed_sequence(seed, purpose, *key).generate_state(1)[0])
