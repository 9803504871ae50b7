"""Comparisons on a user's own file, with and without truth."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from icobench.errors import InputError
from icobench.fitting.result import Trace
from icobench.methods import METHODS, Method, Outcome
from icobench.runs.campaign import run_names
from icobench.runs.comparison import Comparison
from icobench.runs.settings import ComparisonSettings
from icobench.simulator.experiment import Experiment

DATA = Path(__file__).parents[1] / "data"
PATTERNS, TRUTH = DATA / "pymsft_patterns.cxi", DATA / "pymsft_patterns_truth.csv"


def answer(problem, progress):
    """Always the same orientation and radius."""
    count = len(problem.images)
    radius = torch.full((count,), 80.0, dtype=torch.float64)
    turn = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64).repeat(count, 1)
    value = problem.objective().value(torch.arange(count), radius, turn)
    trace = Trace()
    trace.add(torch.ones(count), radius, turn, value)
    nan = torch.full((count,), torch.nan)
    return Outcome(radius, turn, value, torch.ones(count), nan, nan, ["ok"] * count, trace)


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setitem(METHODS, "fake", Method("fake", "for tests", answer))


def compared(folder, test_set, **more):
    settings = ComparisonSettings("test", 200, (str(test_set),), methods=("fake",), **more)
    return Comparison(folder, settings, Experiment(), 0, torch.device("cpu"), None)


def test_a_run_with_truth_scores_and_one_without_does_not(tmp_path):
    results = compared(tmp_path / "known", PATTERNS, truth=str(TRUTH)).run()
    assert len(results) == 4
    np.testing.assert_allclose(results["radius_error_nm"], (pd.read_csv(TRUTH)["radius_nm"] - 80).abs())
    assert (results["bound_radius_nm"] > 0).all()
    blind = compared(tmp_path / "unknown", PATTERNS).run()
    for column in ("disorientation_deg", "radius_error_nm", "true_radius_nm", "bound_radius_nm"):
        assert blind[column].isna().all()
    assert not blind["success"].any()
    np.testing.assert_allclose(blind["objective"], results["objective"])


def test_images_are_kept_as_they_are(tmp_path):
    images = np.random.default_rng(0).uniform(0, 300, (2, 128, 128)).astype(np.float32)
    np.save(tmp_path / "mine.npy", images)
    run = compared(tmp_path / "run", tmp_path / "mine.npy")
    run.run()
    with h5py.File(tmp_path / "run" / "test_set.h5") as stream:
        kept, bad = stream["/entry_1/data_1/data"][()], stream["/entry_1/data_1/mask"][()]
    assert (kept[bad == 0] == images[bad == 0]).all()
    np.save(tmp_path / "mine.npy", images + 1)
    with pytest.raises(InputError, match="other images"):
        compared(tmp_path / "run", tmp_path / "mine.npy")


def test_files_and_names(tmp_path):
    with pytest.raises(InputError, match="taken as they are"):
        compared(tmp_path / "x", PATTERNS, photons=1e4)
    several = ComparisonSettings("test", 3, ("clean", str(PATTERNS)), seeds=2)
    assert list(run_names(several, 1)) == ["clean-1", "clean-2", "pymsft_patterns"]
    np.save(tmp_path / "dark.npy", np.zeros((1, 128, 128), np.int32))
    with pytest.raises(InputError, match="empty"):
        compared(tmp_path / "dark", tmp_path / "dark.npy")
