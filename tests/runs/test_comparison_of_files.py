"""Comparisons on a user's own file, with and without truth."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from fakes import FakeMethod

from icobench.errors import InputError
from icobench.methods import Catalogue, Method
from icobench.runs.comparison import Comparison, compute_comparison
from icobench.runs.settings import ComparisonSettings
from icobench.simulator.experiment import Experiment

DATA = Path(__file__).parents[1] / "data"
PATTERNS, TRUTH = DATA / "pymsft_patterns.cxi", DATA / "pymsft_patterns_truth.csv"


def compared(folder, test_set, **more) -> Comparison:
    settings = ComparisonSettings("test", 200, (str(test_set),), methods=("fake",), **more)
    catalogue = Catalogue(methods=(Method("fake", "for tests", FakeMethod()),))
    return Comparison(folder, settings, Experiment(), 0, catalogue=catalogue)


def computed(comparison: Comparison) -> pd.DataFrame:
    compute_comparison(comparison)
    return comparison.collect()


def test_a_run_with_truth_scores_and_one_without_does_not(tmp_path):
    results = computed(compared(tmp_path / "known", PATTERNS, truth=str(TRUTH)))
    assert len(results) == 4
    np.testing.assert_allclose(results["radius_error_nm"], (pd.read_csv(TRUTH)["radius_nm"] - 80).abs())
    assert (results["bound_radius_nm"] > 0).all()
    blind = computed(compared(tmp_path / "unknown", PATTERNS))
    for column in ("disorientation_deg", "radius_error_nm", "true_radius_nm", "bound_radius_nm"):
        assert blind[column].isna().all()
    assert not blind["success"].any()
    np.testing.assert_allclose(blind["objective"], results["objective"])


def test_images_are_kept_as_they_are(tmp_path):
    images = np.random.default_rng(0).poisson(300, (2, 128, 128)).astype(np.float32)
    np.save(tmp_path / "mine.npy", images)
    computed(compared(tmp_path / "run", tmp_path / "mine.npy"))
    with h5py.File(tmp_path / "run" / "test_set.h5") as stream:
        kept, bad = stream["/entry_1/data_1/data"][()], stream["/entry_1/data_1/mask"][()]
    assert (kept[bad == 0] == images[bad == 0]).all()
    np.save(tmp_path / "mine.npy", images + 1)
    with pytest.raises(InputError, match=r"holds a run with other settings; .*sha256"):
        compared(tmp_path / "run", tmp_path / "mine.npy").check()


def test_files_and_names(tmp_path):
    with pytest.raises(InputError, match="taken as they are"):
        compared(tmp_path / "x", PATTERNS, photons=1e4).check()
    several = ComparisonSettings("test", 3, ("clean", str(PATTERNS)), seeds=2)
    runs = Comparison(tmp_path / "y", several, Experiment(), 1).runs
    assert list(runs) == ["clean-1", "pymsft_patterns", "clean-2"]
    np.save(tmp_path / "dark.npy", np.zeros((1, 128, 128), np.int32))
    with pytest.raises(InputError, match="empty"):
        compared(tmp_path / "dark", tmp_path / "dark.npy").check()
