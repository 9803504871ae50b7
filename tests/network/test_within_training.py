"""Which images training has seen."""

from dataclasses import replace

import pytest
import torch

from icobench.geometry.orientation import random_orientations
from icobench.images.augment import augment
from icobench.images.pixels import log_image, usable_pixels
from icobench.network.recipe import Recipe
from icobench.network.selection import LEAST_LOG_MEAN, complete, within_training
from icobench.sets.simulate import simulate
from icobench.simulator.simulator import Simulator
from tests.network.tiny import EXPERIMENT, image_set

COUNTS = Recipe(steps=1)
REALISTIC = Recipe(steps=1, images="realistic")


def is_within(recipe, kind="counts", hole=3.0, photons=1e5, experiment=EXPERIMENT, edge=1.0) -> bool:
    mask = usable_pixels(experiment, hole)[None] & (experiment.sin_theta() <= edge)
    images = mask.double() * photons / mask.sum()
    return bool(within_training(recipe, image_set(images, kind, mask, experiment)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"hole": 5.0}, True),
        ({"hole": 8.0}, False),
        ({"photons": 4e4}, True),
        ({"photons": 1e3}, False),
        ({"edge": 0.8}, True),
        ({"edge": 0.3}, False),
        ({"kind": "log"}, False),
        ({"kind": "intensity", "photons": 1.0}, True),
        ({"experiment": replace(EXPERIMENT, pixels=256)}, True),
        ({"experiment": replace(EXPERIMENT, pixels=64)}, False),
    ],
)
def test_networks_for_counts(changes, expected):
    assert is_within(COUNTS, **changes) == expected


def test_networks_for_flawed_images_know_larger_holes_and_no_counts():
    assert is_within(REALISTIC, "log", hole=12.0)
    assert not is_within(REALISTIC, "log", hole=20.0)
    assert not is_within(REALISTIC)


def test_only_images_on_the_canonical_grid_are_complete():
    mask = EXPERIMENT.valid()[None].repeat(2, 1, 1)
    mask[1, 64, 64] = False
    images = image_set(torch.zeros(2, 128, 128), "intensity", mask)
    assert complete(images).tolist() == [True, False]
    shifted = replace(images, experiment=replace(EXPERIMENT, centre_offset=(0.3, 0)))
    assert complete(shifted).tolist() == [False, False]
    finer = replace(EXPERIMENT, pixels=256)
    assert complete(image_set(torch.zeros(1, 256, 256), experiment=finer)).tolist() == [False]
    assert within_training(Recipe(steps=1, images="clean"), images).tolist() == [True, False]
    assert torch.equal(complete(images.subset(torch.arange(0))), torch.zeros(0, dtype=torch.bool))


def test_linear_images_are_no_log_images():
    shown = simulate([40.0, 90.0, 150.0], photons=1e5, hole_degrees=3.0, seed=1)
    linear = shown.images / shown.images.amax((1, 2), keepdim=True)
    for images, expected in ((linear, False), (log_image(shown.images), True)):
        told = within_training(REALISTIC, image_set(images, "log", shown.mask))
        assert told.tolist() == [expected] * 3


def test_distorted_log_images_are_light_enough():
    generator = torch.Generator().manual_seed(1)
    radius = 25 + 130 * torch.rand(48, generator=generator, dtype=torch.float64)
    clean = log_image(Simulator(EXPERIMENT).intensity(radius, random_orientations(48, generator)))
    for filters in ("realistic", "random"):
        shown = augment(clean, filters, 5).images
        lit = shown > 0
        mean = torch.where(lit, shown, 0.0).sum((1, 2)) / lit.sum((1, 2))
        assert mean.min() > LEAST_LOG_MEAN
