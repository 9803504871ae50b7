"""Stored sets as training data."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from icobench.errors import InputError
from icobench.images.detector import DETECTORS, Detector
from icobench.images.pixels import log_image
from icobench.network.recipe import RECIPES
from icobench.network.stream import TrainingStream
from icobench.runs.training_set import read_training_set
from icobench.sets.generation import SetGeneration
from icobench.sets.pattern_file import read_patterns, write_patterns
from icobench.sets.patterns import PatternOptions, generate_patterns
from icobench.simulator.experiment import Experiment

CLEAN = DETECTORS["clean"]


def test_parts_of_a_set(tmp_path):
    path = tmp_path / "set.h5"
    options = PatternOptions(
        10, "log", CLEAN, splits=(("train", 6), ("validation", 2), ("test", 2)), radius_range_nm=(30, 40)
    )
    SetGeneration(path, options, Experiment(), 3).run()
    training_set = read_training_set(path, 6.0)
    held_out = training_set.held_out
    assert len(training_set.train) == 6
    assert len(held_out) == 2
    assert held_out.kind == "intensity"
    stored = read_patterns(path, "validation")
    assert torch.equal(held_out.quaternion, stored.quaternion)
    assert stored.numbers.tolist() == [6, 7]
    # Back to log images: the same eight bits.
    np.testing.assert_allclose(log_image(held_out.images, 6.0), stored.images, atol=1e-5)


def test_sets_without_parts_are_cut(tmp_path):
    patterns = generate_patterns(PatternOptions(5, detector=CLEAN, radius_range_nm=(30, 31)), Experiment(), 1)
    write_patterns(tmp_path / "set.h5", patterns, {})
    stored = read_training_set(tmp_path / "set.h5", 6.0)
    assert [len(part) for part in (stored.train, stored.held_out)] == [4, 1]
    torch.testing.assert_close(stored.train.images, patterns.images[:4])


def test_what_cannot_be_trained_on(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_training_set(tmp_path / "none.h5", 6.0)
    for name, count, experiment, message in (
        ("small.h5", 2, Experiment(pixels=32), "needs 128 x 128 pixels .* not 32 x 32 pixels"),
        ("half.h5", 2, Experiment(sin_theta_max=0.5), "half.h5: training needs .* not sin_theta_max 0.5"),
        ("solid.h5", 2, Experiment(solid_angle_factor=True), "not a solid-angle factor"),
        ("one.h5", 1, Experiment(), "too few images"),
    ):
        options = PatternOptions(count, detector=CLEAN, radius_range_nm=(30, 31))
        write_patterns(tmp_path / name, generate_patterns(options, experiment, 1), {})
        with pytest.raises(InputError, match=message):
            read_training_set(tmp_path / name, 6.0)


@pytest.mark.parametrize("kind", ["counts", "log"])
@pytest.mark.parametrize(
    ("detector", "flaw"),
    [
        (Detector(hole_degrees=3.0), "a central hole"),
        (Detector(sine=0.8), "a cropped range of angles"),
        (Detector(dead_share=0.01), "dead or saturated pixels"),
        (Detector(centre_offset=(0.4, 0.0)), "an off-centre beam"),
    ],
)
def test_images_that_are_not_whole_are_refused(tmp_path, kind, detector, flaw):
    """Whatever the kind: training would take the missing pixels for dark ones."""
    options = PatternOptions(2, kind, detector, radius_range_nm=(30, 31))
    SetGeneration(tmp_path / "set.h5", options, Experiment(), 3).run()
    with pytest.raises(InputError) as refused:
        read_training_set(tmp_path / "set.h5", 6.0)
    assert str(refused.value) == (
        f"{tmp_path / 'set.h5'}: training needs whole, noise-free, centred images, and these have {flaw};"
        " make a set with icobench generate --detector clean (for log images also --kind log)"
    )


def test_noisy_counts_are_refused(tmp_path):
    """Training would draw photons of photons."""
    for name, flaws in (
        ("counting", "photon noise, a central hole;"),
        ("experiment", "photon noise, .* beam"),
    ):
        options = PatternOptions(2, detector=DETECTORS[name], radius_range_nm=(30, 31))
        SetGeneration(tmp_path / f"{name}.h5", options, Experiment(), 3).run()
        with pytest.raises(InputError, match=f"these have {flaws}"):
            read_training_set(tmp_path / f"{name}.h5", 6.0)


def test_a_set_belongs_to_its_experiment(tmp_path):
    silver = Experiment(refractive_index=0.89 + 0.0859j)
    options = PatternOptions(2, detector=CLEAN, radius_range_nm=(30, 31))
    SetGeneration(tmp_path / "set.h5", options, silver, 3).run()
    stored = read_training_set(tmp_path / "set.h5", 6.0)
    assert stored.experiment == silver
    stored.require(silver)
    with pytest.raises(InputError, match=r"set\.h5: made for another experiment \(refractive_index \[0\.89"):
        stored.require(Experiment())


def test_log_images_get_no_second_background(tmp_path):
    clean, noisy = PatternOptions(2, detector=CLEAN, radius_range_nm=(30, 31)), RECIPES["paper"]
    SetGeneration(tmp_path / "clean.h5", clean, Experiment(), 3).run()
    log = replace(clean, kind="log", background=0.02)
    SetGeneration(tmp_path / "log.h5", log, Experiment(), 3).run()
    assert noisy.background > 0
    assert read_training_set(tmp_path / "clean.h5", 6.0).fitting(noisy) == noisy
    stored = read_training_set(tmp_path / "log.h5", 6.0)
    assert stored.fitting(noisy) == replace(noisy, background=0.0)
    with pytest.raises(InputError, match=r"log\.h5: log images cannot teach photon counts"):
        stored.fitting(RECIPES["compact-counts"])
    # So they reach the network as they are stored.
    recipe = replace(stored.fitting(noisy), images="clean", batch=4)
    shown = TrainingStream(recipe, stored.experiment, 3, "cpu", stored.train).batch(0).inputs[:, 0]
    images = read_patterns(tmp_path / "log.h5").images[: len(stored.train)]
    for image in shown:
        assert min(float((image - other).abs().max()) for other in images) < 1e-5
