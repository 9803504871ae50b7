"""Dictionaries larger than memory against one that fits."""

from pathlib import Path

import pytest
import torch

from icobench.fitting.dictionary import DictionaryOptions, build_dictionary
from icobench.geometry.orientation import disorientation, random_orientations
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

SMALL = DictionaryOptions(150, (35.0, 60.0))


@pytest.fixture
def match_in_shards(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "reports"))
    from paper_scale.large_dictionary import match_in_shards

    return match_in_shards


def test_shards_find_the_same_as_a_stored_dictionary(match_in_shards, generator):
    """The same best pattern; further ones as good, as each shard gives its own best four."""
    experiment, simulator = Experiment(), Simulator()
    radius, turns = torch.tensor([37.0, 45.0, 58.0]), random_orientations(3, generator)
    images = simulator.intensity(radius, turns)
    mask = experiment.valid().expand(images.shape)
    stored = build_dictionary(simulator, SMALL)
    expected = stored.match(images, mask, "intensity", experiment)
    result = match_in_shards(simulator, SMALL, images, mask, "intensity", experiment, shard=100)
    assert result.patterns == len(stored.radius_nm)
    assert result.candidates.score.shape == expected.score.shape
    torch.testing.assert_close(result.candidates.score[:, 0], expected.score[:, 0], rtol=1e-5, atol=0)
    torch.testing.assert_close(result.candidates.radius_nm[:, 0], expected.radius_nm[:, 0])
    assert disorientation(result.candidates.quaternion[:, 0], expected.quaternion[:, 0]).max() < 1e-5
    assert (result.candidates.score >= expected.score - 1e-5).all()
