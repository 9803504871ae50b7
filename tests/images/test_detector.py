"""The detector model: each effect by itself, against what its parameter says."""

import math

import numpy as np
import pytest
import torch

from icobench.errors import InputError
from icobench.images.detector import CLEAN_PHOTONS, DETECTORS, Detector, DetectorModel
from icobench.simulator.experiment import Experiment

EXPERIMENT = Experiment(pixels=64)
FLAT = torch.ones(4, 64, 64)


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + number) for number in range(count)]


def test_clean_images_are_the_intensity_in_other_units():
    model = DetectorModel(DETECTORS["clean"], EXPERIMENT, 0)
    intensity = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0)) * 1e8
    images, mask = model.record(intensity, [])
    assert torch.equal(mask, EXPERIMENT.valid().expand(2, -1, -1))
    np.testing.assert_allclose(images.sum((1, 2)), CLEAN_PHOTONS, rtol=1e-5)
    ratio = (images / intensity)[mask].view(2, -1)
    np.testing.assert_allclose(ratio / ratio[:, :1], 1, rtol=1e-5)
    assert (images[~mask] == 0).all()


def test_counts_are_poisson():
    images, mask = DetectorModel(Detector(photons=3e4), EXPERIMENT, 0).record(FLAT, generators(4))
    seen = images[mask].double()
    mean, pixels = 3e4 / int(mask[0].sum()), len(seen)
    assert float(seen.mean()) == pytest.approx(mean, abs=5 * math.sqrt(mean / pixels))
    assert float(seen.var()) == pytest.approx(mean, rel=5 * math.sqrt(2 / pixels))
    assert torch.equal(seen, seen.round())


def test_readout_noise_is_rounded_away_when_faint():
    """A dark pixel reads 1 and more where the noise exceeds half a photon: Q(0.5 / sigma) of them."""
    detector = Detector(photons=1e-6, readout_noise=0.3)
    images, mask = DetectorModel(detector, EXPERIMENT, 0).record(FLAT, generators(4))
    share = float((images[mask] > 0).double().mean())
    expected = 0.5 * math.erfc(0.5 / 0.3 / math.sqrt(2))
    assert share == pytest.approx(expected, abs=5 * math.sqrt(expected / int(mask.sum())))
    assert (images >= 0).all()


def test_saturated_pixels_are_masked_image_by_image():
    images, mask = DetectorModel(Detector(photons=3e4, saturation=12), EXPERIMENT, 0).record(
        FLAT[:2], generators(2)
    )
    free, usable = DetectorModel(Detector(photons=3e4), EXPERIMENT, 0).record(FLAT[:2], generators(2))
    assert torch.equal(mask, usable & (free < 12))
    assert torch.equal(images, torch.where(mask, free, 0.0))
    assert not torch.equal(mask[0], mask[1])


def test_dead_pixels_and_gains_belong_to_the_detector():
    detector = Detector(photons=1e5, dead_share=0.1, gain_variation=0.2)
    experiment = Experiment()
    model, same, other = (DetectorModel(detector, experiment, seed) for seed in (1, 1, 2))
    assert torch.equal(model.mask, same.mask)
    assert torch.equal(model.gain, same.gain)
    assert not torch.equal(model.mask, other.mask)
    valid = experiment.valid()
    dead = float((valid & ~model.mask).sum() / valid.sum())
    assert dead == pytest.approx(0.1, abs=5 * math.sqrt(0.09 / int(valid.sum())))
    assert float(model.gain.std()) == pytest.approx(0.2, rel=0.05)
    assert float(model.gain.mean()) == pytest.approx(1, abs=0.01)
    assert (model.gain > 0).all()


def test_gains_multiply_what_is_counted():
    detector = Detector(photons=1e7, gain_variation=0.2)
    model = DetectorModel(detector, EXPERIMENT, 0)
    images, mask = model.record(FLAT[:1], generators(1))
    gains = (images / (1e7 / mask.sum()))[mask]
    np.testing.assert_allclose(gains, model.gain[mask[0]], atol=5 * 1.5 / math.sqrt(1e7 / int(mask.sum())))


def test_hole_and_range():
    mask = DetectorModel(Detector(hole_degrees=10, sine=0.5), EXPERIMENT, 0).mask
    x, y = EXPERIMENT.transverse()
    expected = EXPERIMENT.valid() & (x.abs() <= 0.5) & (y.abs() <= 0.5)
    expected &= EXPERIMENT.sin_theta() >= math.sin(math.radians(10))
    assert torch.equal(mask, expected)


def test_an_image_depends_on_its_own_generator_alone():
    model = DetectorModel(DETECTORS["experiment"], EXPERIMENT, 0)
    together, _ = model.record(FLAT, generators(4))
    alone, _ = model.record(FLAT[2:3], generators(4)[2:3])
    assert torch.equal(together[2], alone[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"photons": -1}, "photons"),
        ({"photons": math.nan}, "photons"),
        ({"hole_degrees": 90}, "hole_degrees"),
        ({"sine": 0.0}, "sine"),
        ({"dead_share": 1.0}, "dead_share"),
        ({"readout_noise": -0.1, "photons": 1}, "readout_noise"),
        ({"readout_noise": 0.1}, "number of photons"),
        ({"saturation": 10}, "number of photons"),
    ],
)
def test_impossible_detectors(wrong, message):
    with pytest.raises(InputError, match=message):
        Detector(**wrong)


def test_a_hole_that_swallows_all():
    with pytest.raises(InputError, match="no usable pixel"):
        DetectorModel(Detector(hole_degrees=50, sine=0.5), EXPERIMENT, 0)
