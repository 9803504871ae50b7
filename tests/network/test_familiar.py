"""Which images training has seen."""

from dataclasses import replace

import pytest
import torch

from icobench.images.masks import usable_pixels
from icobench.network.familiar import familiar, whole
from icobench.network.recipe import Recipe
from icobench.simulator.experiment import Experiment

EXPERIMENT = Experiment()
COUNTS = Recipe(steps=1)
REALISTIC = Recipe(steps=1, images="realistic")


def asked(recipe, kind="counts", hole=3.0, photons=1e5, experiment=EXPERIMENT, edge=1.0) -> bool:
    mask = usable_pixels(experiment, hole)[None] & (experiment.sin_theta() <= edge)
    images = mask.double() * photons / mask.sum()
    return bool(familiar(recipe, images, mask, experiment, kind))


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
    assert asked(COUNTS, **changes) == expected


def test_networks_for_flawed_images_know_larger_holes_and_no_counts():
    assert asked(REALISTIC, "log", hole=12.0)
    assert not asked(REALISTIC, "log", hole=20.0)
    assert not asked(REALISTIC)


def test_only_images_on_the_canonical_grid_are_whole():
    mask = EXPERIMENT.valid()[None].repeat(2, 1, 1)
    mask[1, 64, 64] = False
    assert whole(mask, EXPERIMENT).tolist() == [True, False]
    assert whole(mask, replace(EXPERIMENT, centre_offset=(0.3, 0))).tolist() == [False, False]
    finer = replace(EXPERIMENT, pixels=256)
    assert whole(finer.valid()[None], finer).tolist() == [False]
    assert familiar(Recipe(steps=1, images="clean"), mask, mask, EXPERIMENT, "intensity").tolist() == [
        True,
        False,
    ]
    assert torch.equal(whole(mask[:0], EXPERIMENT), torch.zeros(0, dtype=torch.bool))
