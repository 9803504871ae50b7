"""The comparison's run folder: resumable, honest counts, scores against the truth."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from icobench.runs import comparison as runner
from icobench.methods import METHODS, Method, Outcome, Problem, find_method
from icobench.runs.comparison import Comparison
from icobench.runs.settings import ComparisonSettings
from icobench.errors import InputError
from icobench.fitting.result import Trace
from icobench.geometry.orientation import disorientation
from icobench.network.selection import load_network
from icobench.simulator.experiment import Experiment

SETTINGS = ComparisonSettings("test", images=10, methods=("fake",))
CPU = torch.device("cpu")


class FakeMethod:
    """Answers a fixed orientation and radius, and remembers which images it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.stop_after: int | None = None

    def __call__(self, problem: Problem, progress) -> Outcome:
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(problem.numbers.tolist())
        count = len(problem.images)
        objective = problem.objective()
        radius = torch.full((count,), 80.0, dtype=torch.float64)
        quaternion = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64).repeat(count, 1)
        value = objective.value(torch.arange(count), radius, quaternion)
        trace = Trace()
        trace.add(objective.simulator.evaluations, radius, quaternion, value)
        nan = torch.full((count,), torch.nan)
        spent = objective.simulator.evaluations.clone()
        return Outcome(radius, quaternion, value, spent, nan, nan, ["ok"] * count, trace)


@pytest.fixture
def fake(monkeypatch) -> FakeMethod:
    function = FakeMethod()
    monkeypatch.setitem(METHODS, "fake", Method("fake", "for tests", function))
    monkeypatch.setattr(runner, "BLOCK", 4)
    return function


def open_run(folder, seed: int = 3, settings: ComparisonSettings = SETTINGS) -> Comparison:
    return Comparison(folder, settings, Experiment(), seed, CPU, None)


@pytest.mark.parametrize(
    ("test_set", "hole_degrees", "asked"),
    [("clean", None, ["clean"]), ("clean", 5.0, ["clean", "counts"]), ("counting", None, ["counts"])],
)
def test_only_networks_that_may_be_asked_are_charged(test_set, hole_degrees, asked, tmp_path):
    settings = ComparisonSettings(
        "test", images=2, methods=("network",), test_sets=(test_set,), hole_degrees=hole_degrees
    )
    run = Comparison(tmp_path / "run", settings, Experiment(), 3, CPU, load_network())
    assert run.network is not None
    assert [member.recipe.images for member in run.network.members] == asked


def test_folder_holds_what_is_promised_and_scores_are_right(tmp_path, fake):
    run = open_run(tmp_path / "run")
    results = run.run()
    assert fake.asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    for name in ("results.parquet", "curves.parquet", "run.json", "test_set.h5"):
        assert (tmp_path / "run" / name).exists()
    stored = pd.read_parquet(tmp_path / "run" / "results.parquet")
    pd.testing.assert_frame_equal(stored, results)
    assert list(results["image"]) == list(range(10))
    truth = torch.tensor(results[[f"true_q_{a}" for a in "wxyz"]].to_numpy())
    expected = disorientation(torch.tensor([1.0, 0, 0, 0], dtype=torch.float64), truth)
    np.testing.assert_allclose(results["disorientation_deg"], expected, atol=1e-6)
    np.testing.assert_allclose(results["radius_error_nm"], (results["true_radius_nm"] - 80).abs())
    assert (results["evaluations"] == 1).all()
    assert (results["bound_orientation_deg"] > 0).all()
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["seed"] == 3
    assert {"command", "versions", "machine", "device", "experiment", "commit"} <= set(described)


def test_a_second_call_computes_only_what_is_missing(tmp_path, fake):
    first = open_run(tmp_path / "run").run()
    fake.asked.clear()
    again = open_run(tmp_path / "run").run()
    assert fake.asked == []
    pd.testing.assert_frame_equal(first, again)


def test_interruption_leaves_a_resumable_folder_with_the_same_result(tmp_path, fake):
    whole = open_run(tmp_path / "whole").run()
    fake.asked.clear()
    fake.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        open_run(tmp_path / "run").run()
    fake.stop_after = None
    resumed = open_run(tmp_path / "run").run()
    assert fake.asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    columns = [name for name in whole if name != "seconds"]
    pd.testing.assert_frame_equal(whole[columns], resumed[columns])
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_a_folder_of_another_run_is_refused_and_kept(tmp_path, fake):
    open_run(tmp_path / "run").run()
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(InputError, match="other images, experiment or seed"):
        open_run(tmp_path / "run", seed=4)
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="not a run folder"):
        open_run(tmp_path / "else")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        open_run(tmp_path / "file")


def test_unknown_method_is_named():
    with pytest.raises(InputError, match=r"unknown method 'magic'; choose from .*network\+lm"):
        find_method("magic")


class Stumbling(FakeMethod):
    """Raises on the second block."""

    def __call__(self, problem: Problem, progress) -> Outcome:
        if self.asked:
            raise ZeroDivisionError("a division\nby zero")
        return super().__call__(problem, progress)


def test_a_method_that_fails_is_noted_and_the_others_go_on(tmp_path, fake, monkeypatch):
    stumbling = Stumbling()
    monkeypatch.setitem(METHODS, "stumbling", Method("stumbling", "for tests", stumbling))
    settings = ComparisonSettings("test", images=10, methods=("stumbling", "fake"))
    run = open_run(tmp_path / "run", settings=settings)
    results = run.run()
    assert run.failures == {"stumbling": "ZeroDivisionError: a division"}
    assert results["method"].value_counts().to_dict() == {"fake": 10, "stumbling": 4}
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["failures"] == run.failures
    stumbling.asked.clear()
    fake.asked.clear()
    again = open_run(tmp_path / "run", settings=settings)
    again.run()
    assert stumbling.asked == [[4, 5, 6, 7]]
    assert fake.asked == []
    alone = ComparisonSettings("test", images=10, methods=("stumbling",))
    with pytest.raises(InputError, match="stumbling failed: ZeroDivisionError"):
        open_run(tmp_path / "other", settings=alone).run()


def test_other_options_make_only_their_own_rows_anew(tmp_path, fake, monkeypatch):
    other = FakeMethod()
    monkeypatch.setitem(METHODS, "other", Method("other", "for tests", other, options={"steps": 1}))
    settings = ComparisonSettings("test", images=4, methods=("fake", "other"))
    open_run(tmp_path / "run", settings=settings).run()
    fake.asked.clear()
    other.asked.clear()
    monkeypatch.setitem(METHODS, "other", Method("other", "for tests", other, options={"steps": 2}))
    results = open_run(tmp_path / "run", settings=settings).run()
    assert fake.asked == []
    assert other.asked == [[0, 1, 2, 3]]
    assert len(results) == 8
    monkeypatch.setitem(METHODS, "fake", Method("fake", "for tests", fake, version=2))
    open_run(tmp_path / "run", settings=settings).run()
    assert fake.asked == [[0, 1, 2, 3]]


def test_noise_free_images_have_no_bound(tmp_path, fake):
    run = open_run(tmp_path / "run", settings=ComparisonSettings("test", 2, ("clean",), methods=("fake",)))
    results = run.run()
    assert results["bound_orientation_deg"].isna().all()
    with pytest.raises(InputError, match="unknown test set 'dirty'"):
        open_run(tmp_path / "x", settings=ComparisonSettings("test", 2, ("dirty",), methods=("fake",)))
    with pytest.raises(InputError, match="has no noise"):
        open_run(tmp_path / "x", settings=ComparisonSettings("test", 2, ("clean",), 1e5, methods=("fake",)))
