"""What training images show: log images over hidden peaks, and of photon counts."""

import numpy as np
import torch

from icobench.images.pixels import intensity_from_log
from icobench.network.recipe import Recipe
from icobench.network.stream import HIDDEN_DEGREES, TrainingStream
from icobench.simulator.experiment import Experiment

EXPERIMENT = Experiment()


def shown(**changes) -> torch.Tensor:
    """Brightness of 8 training images without filters."""
    recipe = Recipe(steps=1, images="clean", batch=8, **changes)
    return TrainingStream(recipe, EXPERIMENT, 3, "cpu").batch(0).inputs[:, 0]


def test_a_hidden_peak_moves_the_image_up_and_saturates_the_centre():
    visible, hidden = shown(), shown(hidden_peak=1.0)
    between = (visible > 0) & (hidden > 0) & (hidden < 1)
    for image, other, seen in zip(visible, hidden, between, strict=True):
        np.testing.assert_allclose((other - image)[seen], float((other - image)[seen].median()), atol=1e-5)
    full = hidden == 1
    sines = EXPERIMENT.sines()
    far = (sines[:, None] ** 2 + sines**2).sqrt() > np.sin(np.radians(HIDDEN_DEGREES)) + 0.02
    # Some images have a large centre hidden; beyond it one pixel may be the brightest.
    assert int(full.flatten(1).sum(1).max()) > 20
    assert bool(((full & far).flatten(1).sum(1) <= 1).all())


def test_counted_images_are_whole_numbers_over_the_largest():
    images = shown(counted=1.0, photons=(1e4, 2e4))
    for image in images.double():
        relative = intensity_from_log(image)
        single = float(relative[relative > 0].min())  # one photon
        counts = relative / single
        np.testing.assert_allclose(counts, counts.round(), rtol=2e-3)
        assert 0.9e4 < float(counts.sum()) < 2.1e4
