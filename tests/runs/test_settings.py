"""Presets, and settings of the user's own."""

import pytest

from icobench.errors import InputError
from icobench.methods import find_method
from icobench.runs.settings import (
    ComparisonSettings,
    read_preset,
    read_settings,
)
from icobench.sets.test_sets import TEST_SETS, find_test_set


def test_presets_name_methods_and_test_sets_that_exist():
    for name in ("quick", "laptop", "paper"):
        settings = read_preset(name)
        assert settings.preset == name
        for test_set in settings.test_sets:
            assert find_test_set(test_set).options(settings.images).images == settings.images
        for method in settings.methods:
            find_method(method)
    laptop = read_preset("laptop")
    assert laptop.images * laptop.seeds >= 200
    with pytest.raises(InputError, match=r"unknown preset 'huge'; choose from .*laptop"):
        read_preset("huge")


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "bright.toml"
    path.write_text('images = 3\nphotons = 1e6\nmethods = ["network"]\n')
    assert read_settings(path) == ComparisonSettings("bright", 3, photons=1e6, methods=("network",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images = ", "not a TOML file"),
        ("images = 3\nmethod = []", "unknown key 'method'; known are hole_degrees, images"),
        ("photons = 1e5", "images is missing"),
        ("images = 0", "images must be a positive whole number, got 0"),
        ("images = true", "images must be a positive whole number"),
        ("images = 3\nmethods = []", "methods must be a list of names"),
        ('images = 3\nmethods = "network"', "methods must be a list of names"),
        ("images = 3\nmethods = [1]", "methods must be a list of names"),
        ('images = 3\nphotons = "many"', "photons must be a number, got 'many'"),
        ("images = 3\ntest_sets = 7", "test_sets must be a list of names"),
        ('images = 3\ntest_sets = ["clean", "clean"]', "test_sets names one twice"),
        ("images = 3\nseeds = 0", "seeds must be a positive whole number, got 0"),
        ("images = 3\ndefine = 3", "must hold tables"),
        ("images = 3\n[define.own]\nstarts = 1", "define.own needs starts and iterations"),
        ("images = 3\n[define.simplex]\nstarts = 1\niterations = 1", "there is a method simplex already"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_settings(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="No such file"):
        read_settings(tmp_path / "missing.toml")


def test_test_sets_make_what_they_say():
    assert {"clean", "counting", "experiment", "voxels", "propagated", "realistic"} <= set(TEST_SETS)
    clean = find_test_set("clean").options(2)
    assert clean.stored_kind == "intensity"
    assert find_test_set("voxels").options(2).method == "sliced"
    dim = find_test_set("counting").options(2, photons=1e4, hole_degrees=1.0).detector
    assert (dim.photons, dim.hole_degrees) == (1e4, 1.0)
