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


def test_counts_of_polarised_beams_look_like_those_of_scalar_waves():
    """Divided by the factor they have the same means; the noise grows, and the darkest pixels are masked."""
    batches = []
    for polarised in (0.0, 1.0):
        recipe = Recipe(steps=1, batch=16, variants=1, photons=(1e9, 1e9), warm_share=0.0, whole_share=1.0,
                        hole_degrees=(0.0, 0.0), polarised=polarised)  # fmt: skip
        batches.append(TrainingStream(recipe, EXPERIMENT, 3, "cpu").batch(0))
    scalar, polarised = (batch.inputs for batch in batches)
    assert torch.equal(batches[0].radius_nm, batches[1].radius_nm)
    usable, everywhere = polarised[:, 1] > 0, scalar[:, 1] > 0
    share = usable.sum((1, 2)) / everywhere.sum((1, 2))
    # 1 - sin^2 > 1/4: a strip of the unit disk between -0.87 and 0.87, but for directions between the axes.
    np.testing.assert_allclose(share, 0.94, atol=0.02)
    both = usable & everywhere & (scalar[:, 0] > 1.5)  # 400 counts and more
    counts = [torch.expm1(4 * inputs[:, 0].double()) for inputs in (scalar, polarised)]
    for number in range(16):
        first, second = (image[number][both[number]] for image in counts)
        first, second = first / first.sum(), second / second.sum()
        np.testing.assert_allclose(second, first, rtol=0.6)
        assert abs(float((second / first).mean()) - 1) < 0.02


def test_networks_of_propagated_waves_learn_from_these():
    experiment = Experiment(refractive_index=0.89 + 0.0859j, physics="propagated")
    recipe = Recipe(steps=1, batch=2, variants=1, radius_nm=(30.0, 40.0))
    stream = TrainingStream(recipe, experiment, 3, "cpu")
    patterns = stream.patterns(0)
    for row, index in enumerate(patterns.refractive_index.tolist()):
        simulator = stream.simulator.with_refractive_index(index)
        assert simulator.method == "propagated"
        body = patterns.radius_nm[row : row + 1], patterns.quaternion[row : row + 1]
        torch.testing.assert_close(patterns.images[row], simulator.intensity(*body)[0], rtol=1e-4, atol=1e3)
