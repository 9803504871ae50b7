"""The comparison: resumable, honest counts, scores against the truth, the same for any number of workers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fakes import FakeMethod

from icobench.answer import Answer
from icobench.errors import InputError
from icobench.geometry.orientation import disorientation
from icobench.methods import METHODS, Catalogue, Method, Problem
from icobench.reporting.findings import overview, verdict
from icobench.reporting.ledger import account
from icobench.reporting.report import write_report
from icobench.reporting.run_folder import read_runs
from icobench.runs import comparison_run
from icobench.runs.comparison import (
    COMPARISON_FILE,
    Comparison,
    _simulate_block,
    automatic_workers,
    compute_comparison,
)
from icobench.runs.pieces import missing_pieces
from icobench.runs.settings import ComparisonSettings, read_settings
from icobench.sets.patterns import PatternOptions, generate_patterns
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

SETTINGS = ComparisonSettings("test", images=10, methods=("fake",))
SEVERAL = ComparisonSettings("test", images=3, test_sets=("clean", "counting"), methods=("fake", "other"))
CPU = torch.device("cpu")


@pytest.fixture
def fake(monkeypatch) -> FakeMethod:
    monkeypatch.setattr(comparison_run, "BLOCK", 4)
    return FakeMethod()


def opened(
    folder, *functions, seed: int = 3, settings: ComparisonSettings = SETTINGS, **changes
) -> Comparison:
    """A comparison of methods with these functions, in the order of the settings."""
    methods = tuple(
        replace(Method(name, "for tests", function), **changes.get(name, {}))
        for name, function in zip(settings.methods, functions, strict=True)
    )
    catalogue = Catalogue(methods=methods)
    return Comparison(Path(folder), settings, Experiment(), seed, catalogue=catalogue)


def computed(comparison: Comparison) -> pd.DataFrame:
    compute_comparison(comparison)
    return comparison.collect()


@pytest.mark.parametrize(
    ("test_set", "hole_degrees", "charged"),
    [("clean", None, ["clean"]), ("clean", 5.0, ["clean", "counts"]), ("counting", None, ["counts"])],
)
def test_only_networks_that_may_be_asked_are_charged(test_set, hole_degrees, charged, tmp_path):
    settings = ComparisonSettings(
        "test", images=2, methods=("network",), test_sets=(test_set,), hole_degrees=hole_degrees
    )
    run = Comparison(tmp_path / "run", settings, Experiment(), 3).runs[""]
    assert [member.recipe.images for member in run.networks["", ""].members] == charged
    assert [card["recipe"]["images"] for card in run.description()["networks"]] == charged


def test_on_a_rung_of_another_material_networks_fail_alone(tmp_path):
    """The published network knows the paper's index alone; the ladder goes on without it."""
    methods = ("paper-network", "network", "network-propagated")
    settings = ComparisonSettings("test", images=1, methods=methods, test_sets=("paper", "propagated"))
    comparison = Comparison(tmp_path / "run", settings, Experiment(), 3)
    results = computed(comparison)
    assert list(comparison.failures) == ["propagated, paper-network"]
    assert "refractive index" in comparison.failures["propagated, paper-network"]
    answered = results.groupby("run")["method"].agg(set).to_dict()
    assert answered == {"paper": set(methods), "propagated": {"network", "network-propagated"}}


def test_a_posterior_is_compared_where_photons_are_counted(tmp_path):
    """On log images it fails alone, as a method that was not made for them."""
    settings = ComparisonSettings(
        "test", images=1, methods=("network", "posterior"), test_sets=("paper", "counting")
    )
    comparison = Comparison(tmp_path / "run", settings, Experiment(), 3)
    results = computed(comparison)
    results = results[results["method"] == "posterior"]
    assert list(comparison.failures) == ["paper, posterior"]
    assert "photon counts" in comparison.failures["paper, posterior"]
    assert results["run"].unique().tolist() == ["counting"]
    assert (results["orientation_std_deg"] > 0).all()
    assert (results["disorientation_deg"] < 3).all()


def test_every_method_is_charged_for_its_networks_alone(tmp_path):
    """Side by side: the published network cost 25,058 images and 149.4 s, the other its own training."""
    methods = ("paper-network", "network", "paper-network+lm", "dictionary+lm")
    settings = ComparisonSettings("test", images=2, methods=methods, test_sets=("paper", "counting"))
    comparison = Comparison(tmp_path / "run", settings, Experiment(), 3)
    results = computed(comparison)
    assert comparison.failures == {}
    for name in settings.test_sets:
        run = json.loads((tmp_path / "run" / name / "run.json").read_text())
        cards = {card["digest"]: card for card in run["networks"]}
        assert [card["architecture"] for card in run["networks"]].count("paper") == 1
        rows = results[results["run"] == name]
        costs = {method: account(method, rows, run, 1.0) for method in methods}
        assert costs["paper-network"].fixed_simulations == 25_058
        # The seconds of a GPU, which are none of this machine. That for counts was trained on both.
        assert costs["paper-network"].foreign_seconds == pytest.approx(149.4)
        assert costs["paper-network"].fixed_seconds == 0
        assert (costs["network"].foreign_seconds > 0) == (name == "counting")
        assert costs["network"].fixed_seconds > 3600
        default = [card for card in cards.values() if card["architecture"] == "compact"]
        paid = sum(card["training_simulations"] for card in default)
        assert costs["network"].fixed_simulations == paid > 100_000
        dictionary = run["dictionary"]["simulations"]
        assert costs["paper-network+lm"].fixed_simulations == 25_058 + dictionary
        assert costs["dictionary+lm"].fixed_simulations == dictionary
        assert "networks" not in run["methods"]["dictionary+lm"]
        # Only photon counts are converted, and only for the network that did not learn from them.
        converted = {method for method in methods if "converted" in run["methods"][method]}
        assert converted == ({"paper-network", "paper-network+lm"} if name == "counting" else set())
        # A run of an earlier version: the same networks for all.
        for card in run["methods"].values():
            card.pop("networks", None)
        older = account("paper-network", rows, run, 1.0)
        assert older.fixed_simulations == paid + 25_058
    (line,) = comparison.conversions
    assert line.startswith("counting, paper-network, paper-network+lm: photon counts were converted to log")
    page = write_report(tmp_path / "run").read_text()
    assert page.count("For paper-network, photon counts were converted to log images over 6 decades") == 1


def test_a_network_for_another_experiment(tmp_path):
    """It is refused where it was asked for by name; with "all" its methods fail, and the others go on."""
    silver = Experiment(refractive_index=0.89 + 0.0859j)
    named = ComparisonSettings("test", images=1, methods=("network", "paper-network"))
    with pytest.raises(InputError, match="weights were made for refractive index"):
        Comparison(tmp_path / "named", named, silver, 3).check()
    every = Comparison(tmp_path / "every", replace(named, methods=("all",)), silver, 3)
    every.check()
    method, images = METHODS["paper-network"], generate_patterns(PatternOptions(1), silver, 3)
    problem = Problem(images, Simulator(silver), every.runs[""].networks_of(method))
    with pytest.raises(InputError, match="weights were made for refractive index"):
        method.run(problem)


def test_folder_holds_what_is_promised_and_scores_are_right(tmp_path, fake):
    comparison = opened(tmp_path / "run", fake)
    assert not (tmp_path / "run").exists()  # making one writes nothing
    results = computed(comparison)
    assert fake.blocks == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
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
    first = computed(opened(tmp_path / "run", fake))
    fake.blocks.clear()
    again = computed(opened(tmp_path / "run", fake))
    assert fake.blocks == []
    pd.testing.assert_frame_equal(first, again)


def test_interruption_leaves_a_resumable_folder_with_the_same_result(tmp_path, fake):
    undisturbed = computed(opened(tmp_path / "undisturbed", fake))
    fake.blocks.clear()
    fake.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        computed(opened(tmp_path / "run", fake))
    fake.stop_after = None
    resumed = computed(opened(tmp_path / "run", fake))
    assert fake.blocks == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    columns = [name for name in undisturbed if name not in ("seconds", "core_seconds")]
    pd.testing.assert_frame_equal(undisturbed[columns], resumed[columns])
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path, fake):
    computed(opened(tmp_path / "run", fake))
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(InputError, match=r"holds a run with other settings; .*seed 3, not 4"):
        opened(tmp_path / "run", fake, seed=4).check()
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="not empty and not a run"):
        opened(tmp_path / "else", fake).check()
    with pytest.raises(InputError, match="not empty and not a folder of runs"):
        opened(tmp_path / "else", fake, fake, settings=SEVERAL).check()
    assert [path.name for path in (tmp_path / "else").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("x")
    for settings, functions in ((SETTINGS, [fake]), (SEVERAL, [fake, fake])):
        with pytest.raises(InputError, match="is a file"):
            opened(tmp_path / "file", *functions, settings=settings).check()


class Stumbling(FakeMethod):
    """Raises on the second block."""

    def __call__(self, problem: Problem, options, progress) -> Answer:
        if self.blocks:
            raise ZeroDivisionError("a division\nby zero")
        return super().__call__(problem, options, progress)


def test_a_method_that_fails_is_noted_and_the_others_go_on(tmp_path, fake):
    stumbling = Stumbling()
    settings = ComparisonSettings("test", images=10, methods=("stumbling", "fake"))
    comparison = opened(tmp_path / "run", stumbling, fake, settings=settings)
    results = computed(comparison)
    assert comparison.failures == {"stumbling": "ZeroDivisionError: a division"}
    assert results["method"].value_counts().to_dict() == {"fake": 10, "stumbling": 4}
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["failures"] == comparison.failures
    stumbling.blocks.clear()
    fake.blocks.clear()
    computed(opened(tmp_path / "run", stumbling, fake, settings=settings))
    assert stumbling.blocks == [[4, 5, 6, 7]]
    assert fake.blocks == []
    alone = ComparisonSettings("test", images=10, methods=("stumbling",))
    with pytest.raises(InputError, match="stumbling failed: ZeroDivisionError"):
        computed(opened(tmp_path / "other", stumbling, settings=alone))


def test_other_options_make_only_their_own_rows_anew(tmp_path, fake):
    other = FakeMethod()
    settings = ComparisonSettings("test", images=4, methods=("fake", "other"))
    computed(opened(tmp_path / "run", fake, other, settings=settings, other={"options": {"steps": 1}}))
    fake.blocks.clear()
    other.blocks.clear()
    changed = {"other": {"options": {"steps": 2}}}
    results = computed(opened(tmp_path / "run", fake, other, settings=settings, **changed))
    assert fake.blocks == []
    assert other.blocks == [[0, 1, 2, 3]]
    assert len(results) == 8
    computed(opened(tmp_path / "run", fake, other, settings=settings, fake={"version": 2}, **changed))
    assert fake.blocks == [[0, 1, 2, 3]]


def test_noise_free_images_have_no_bound(tmp_path, fake):
    clean = replace(SETTINGS, images=2, test_sets=("clean",))
    results = computed(opened(tmp_path / "run", fake, settings=clean))
    assert results["bound_orientation_deg"].isna().all()
    with pytest.raises(InputError, match="unknown test set 'dirty'"):
        opened(tmp_path / "x", fake, settings=replace(clean, test_sets=("dirty",))).check()
    with pytest.raises(InputError, match="has no noise"):
        opened(tmp_path / "x", fake, settings=replace(clean, photons=1e5)).check()


def test_realistic_log_images_are_kept_as_they_are(tmp_path, fake):
    comparison = opened(
        tmp_path / "run", fake, settings=replace(SETTINGS, images=2, test_sets=("realistic",))
    )
    computed(comparison)
    run = comparison.runs[""]
    assert run.test_images.kind == "log"
    shades = torch.unique(run.test_images.images * 255)
    assert not torch.equal(shades, shades.round())  # not cut to 8 bits in the file


def names(comparison: Comparison) -> dict[str, tuple[str, int]]:
    return {name: (run.test_set.name, run.seed) for name, run in comparison.runs.items()}


def test_a_comparison_is_a_list_of_runs(tmp_path, fake):
    assert names(opened(tmp_path / "a", fake)) == {"": ("counting", 3)}
    assert names(opened(tmp_path / "b", fake, fake, settings=SEVERAL)) == {
        "clean": ("clean", 3), "counting": ("counting", 3),
    }  # fmt: skip
    seeds = replace(SETTINGS, test_sets=("clean",), seeds=2)
    assert names(opened(tmp_path / "c", fake, settings=seeds)) == {
        "clean-3": ("clean", 3), "clean-4": ("clean", 4),
    }  # fmt: skip


def test_every_run_is_there_and_is_continued(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(comparison_run, "BLOCK", 2)
    folder, other = tmp_path / "runs", FakeMethod()
    results = computed(opened(folder, fake, other, settings=SEVERAL))
    assert results.groupby(["run", "test_set", "method"]).size().tolist() == [3] * 4
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "results.parquet"), results)
    assert set(json.loads((folder / COMPARISON_FILE).read_text())["runs"]) == {"clean", "counting"}
    assert list(read_runs(folder)) == ["clean", "counting"]
    fake.blocks.clear()
    again = opened(folder, fake, other, settings=SEVERAL)
    assert missing_pieces(again) == []
    pd.testing.assert_frame_equal(computed(again), results)
    assert fake.blocks == []
    more = replace(SEVERAL, seeds=2)
    assert len(missing_pieces(opened(tmp_path / "more", fake, other, settings=more))) == 16
    (folder / COMPARISON_FILE).write_text("{")
    with pytest.raises(InputError, match="damaged"):
        read_runs(folder)


def test_shards_take_every_block_once(tmp_path, fake):
    every = opened(tmp_path / "run", fake).pieces()
    parts = [missing_pieces(opened(tmp_path / "run", fake), (number, 2)) for number in (1, 2)]
    assert sorted(parts[0] + parts[1]) == sorted(every)
    compute_comparison(opened(tmp_path / "run", fake), (2, 2))
    assert fake.blocks == [[4, 5, 6, 7]]


def test_report_begins_with_the_verdict(tmp_path, fake):
    folder = tmp_path / "runs"
    computed(opened(folder, fake, FakeMethod(), settings=SEVERAL))
    runs = read_runs(folder)
    lines = verdict(runs)
    assert 1 <= len(lines) <= 7
    # The fake answers the same to every image.
    assert lines[0].startswith(
        "All methods fail, solving less than 90 % of the images, on clean (the best, fake, "
    )
    assert "and counting (the best, fake, solves 0.0 % of 3 images" in lines[0]
    assert lines[1].startswith("Most accurate on counting: ")
    assert "too few to show" in lines[1]
    assert lines[-1].startswith("The same method elsewhere, median errors: clean ")
    headers, rows = overview(runs)
    assert all(len(row) == len(headers) for row in rows)
    assert [row[:3] for row in rows] == [
        [test_set, method, "3"] for test_set in ("clean", "counting") for method in ("fake", "other")
    ]
    page = write_report(folder).read_text()
    assert (
        page.index("Most accurate on counting") < page.index("All test sets") < page.index("<h2>Summary</h2>")
    )
    assert page.count("<h2>Summary</h2>") == 2
    assert (folder / "clean" / "targets_reached.svg").exists()


PRESET = """
images = 10
test_sets = ["clean", "counting", "voxels"]
methods = ["few", "fragile", "dictionary+lm"]

[define.few]
starts = 2
iterations = 3
"""
FILE = """
from dataclasses import replace
from icobench.methods import METHODS


def run(problem, options, progress):
    if problem.images.kind == "counts" and 8 in problem.images.numbers.tolist():
        raise ValueError("eight")
    return METHODS["dictionary+lm"].function(problem, options, progress)


FRAGILE = replace(METHODS["dictionary+lm"], name="fragile", summary="fails at image 8", function=run)
"""


def test_results_do_not_depend_on_the_number_of_workers(tmp_path):
    preset, file = tmp_path / "own.toml", tmp_path / "fragile.py"
    preset.write_text(PRESET)
    file.write_text(FILE)
    settings = read_settings(preset)
    results = {}
    for workers in (1, 2):
        comparison = Comparison(
            tmp_path / str(workers), settings, Experiment(), 3, catalogue=settings.catalogue((file,)),
            workers=workers,
        )  # fmt: skip
        results[workers] = computed(comparison).drop(columns=["seconds", "core_seconds"])
        failed = ("counting, fragile", "voxels, fragile")
        assert comparison.failures == dict.fromkeys(failed, "ValueError: eight")
        described = json.loads((tmp_path / str(workers) / "counting" / "run.json").read_text())
        assert described["machine"]["threads"] == 1
        assert described["machine"].get("workers", 1) == workers
        assert described["dictionary"]["simulations"] > 0
    pd.testing.assert_frame_equal(results[1], results[2])


def test_as_many_workers_as_slurm_gave_cores(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert automatic_workers(CPU) == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    assert automatic_workers(CPU) == 8


def test_blocks_of_other_processes_name_their_bodies():
    options = PatternOptions(3, radius_range_nm=(30.0, 40.0), shapes=("cube", "sphere"))
    made = _simulate_block(options, Experiment(pixels=32), 0, 1, 3, rank=0, device="cpu")
    assert made["bodies"] == ["sphere", "cube"]
