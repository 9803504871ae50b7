"""Stored sets as training data."""

import numpy as np
import pytest
import torch

from icobench.datasets.generation import generate_to_file
from icobench.datasets.pattern_file import read_patterns, write_patterns
from icobench.datasets.patterns import PatternOptions, generate_patterns
from icobench.datasets.training_data import training_data
from icobench.errors import InputError
from icobench.images.detector import DETECTORS
from icobench.images.log_image import log_image
from icobench.simulator.experiment import Experiment

CLEAN = DETECTORS["clean"]


def test_parts_of_a_set(tmp_path):
    path = tmp_path / "set.h5"
    options = PatternOptions(
        10, "log", CLEAN, splits=(("train", 6), ("validation", 2), ("test", 2)), radius_range_nm=(30, 40)
    )
    generate_to_file(path, options, Experiment(), 3, torch.device("cpu"), (1, 1))
    known, held_out = training_data(path, 6.0)
    assert len(known[1]) == 6
    assert len(held_out[1]) == 2
    stored = read_patterns(path, "validation")
    assert torch.equal(held_out[2], stored.quaternion)
    # Back to log images: the same eight bits.
    np.testing.assert_allclose(log_image(held_out[0], 6.0), stored.images, atol=1e-5)


def test_sets_without_parts_are_cut(tmp_path):
    patterns = generate_patterns(PatternOptions(5, detector=CLEAN, radius_range_nm=(30, 31)), Experiment(), 1)
    write_patterns(tmp_path / "set.h5", patterns, {})
    known, held_out = training_data(tmp_path / "set.h5", 6.0)
    assert [len(part[1]) for part in (known, held_out)] == [4, 1]
    torch.testing.assert_close(known[0], patterns.images[:4])


def test_what_cannot_be_trained_on(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        training_data(tmp_path / "none.h5", 6.0)
    for name, count, experiment, message in (
        ("small.h5", 2, Experiment(pixels=32), "needs 128 x 128 pixels"),
        ("half.h5", 2, Experiment(sin_theta_max=0.5), "needs 128 x 128 pixels"),
        ("one.h5", 1, Experiment(), "too few images"),
    ):
        options = PatternOptions(count, detector=CLEAN, radius_range_nm=(30, 31))
        write_patterns(tmp_path / name, generate_patterns(options, experiment, 1), {})
        with pytest.raises(InputError, match=message):
            training_data(tmp_path / name, 6.0)
