"""What a comparison cost and what is said of it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from icobench.provenance import short_commit
from icobench.reporting.findings import best_fitting_method, reading, training_cost, verdict
from icobench.reporting.tables import efficiency_table, number, paired_table, summary_table
from tests.reporting.made_runs import COST, IMAGES, made_results


def test_reading_names_the_leader_and_its_cost():
    results = made_results()
    results["success"] = results["method"] == "network+lm"
    table = summary_table(results)
    text = reading(table, results)
    assert "network+lm solved most: 100 %" in text
    assert number(table["evaluations_mean"][3]) in text
    assert "fastest was network" in text
    assert best_fitting_method(table) == "network+lm"


def test_reading_of_ties_failures_and_single_methods():
    results = made_results()
    results["success"] = True
    text = reading(summary_table(results), results)
    assert "share the highest success rate" in text
    assert "network simulates least" in text
    results["success"] = False
    assert "No method solved any image" in reading(summary_table(results), results)
    alone = results[results["method"] == "network"]
    assert best_fitting_method(summary_table(alone)) == "network"
    assert "1 method." in reading(summary_table(alone), alone)


def test_only_what_is_shown_to_be_as_accurate_is_called_so():
    """Of 42 images; one method's errors are the simplex's with noise of 3 %, another's 20 % larger."""
    parts = [
        made_results(seed).assign(image=lambda rows, seed=seed: rows["image"] + 7 * seed) for seed in range(6)
    ]
    results = pd.concat(parts, ignore_index=True).assign(success=True)
    errors, random = ["disorientation_deg", "radius_error_nm"], np.random.default_rng(0)
    simplex = results[results["method"] == "simplex"][errors].to_numpy()
    results.loc[results["method"] == "network+simplex", errors] = simplex * random.lognormal(0, 0.03, (42, 2))
    results.loc[results["method"] == "network+lm", errors] = simplex * random.lognormal(0.18, 0.03, (42, 2))
    results = results[results["method"] != "network"]
    run = SimpleNamespace(results=results, truth_known=True, run={}, count=42)
    first, accurate, cheapest, *_ = verdict({"mine": run})
    assert first == "On these images some method solves at least 90 %."
    best = accurate.split()[4]
    assert best in ("simplex", "network+simplex")
    other = {"simplex": "network+simplex", "network+simplex": "simplex"}[best]
    assert f"Shown to be as accurate, both errors the same within 10 %: {other}." in accurate
    assert "network+lm" not in accurate + cheapest
    failing, *_ = verdict(
        {"mine": SimpleNamespace(**{**vars(run), "results": results.assign(success=False)})}
    )
    assert failing.startswith("All methods fail, solving less than 90 % of the images, on mine (the best, ")
    few = results[results["image"] < 29]
    assert "too few" in verdict({"mine": SimpleNamespace(**{**vars(run), "results": few})})[1]


def test_distance_from_the_photon_limit_is_by_mean_squares():
    results = made_results()
    row = results["method"] == "network+lm"
    results["success"] = row
    factor = np.tile([3.0, 0.0], IMAGES)[:IMAGES]  # an error of thrice the bound, or none
    results.loc[row, "disorientation_deg"] = factor * results.loc[row, "bound_orientation_deg"]
    bounds = results.loc[row, "bound_orientation_deg"]
    expected = np.sqrt(((factor * bounds) ** 2).mean() / (bounds**2).mean())
    text = reading(summary_table(results), results)
    assert f"root mean square errors are {number(expected)} times the Cramér-Rao bound in orientation" in text
    without = results.assign(bound_orientation_deg=np.nan, bound_radius_nm=np.nan)
    assert "limit is not known" in reading(summary_table(without), without)


def test_commits_are_cut_but_stay_marked():
    assert [short_commit(commit) for commit in ("0123456789ab", "0123456789ab+", None)] == [
        "0123456", "0123456+", "?",
    ]  # fmt: skip


def test_training_cost():
    table = summary_table(made_results())
    spent = table["evaluations_mean"][1]
    text = training_cost({"training_seconds": 7200, "training_simulations": 450_000}, table)
    for words in ("2.00 hours", "450,000", f"fit {number(450_000 / spent)} images with simplex"):
        assert words in text
    assert "does not say" in training_cost({}, table)
    assert "No network" in training_cost(None, table)


def test_pairs_are_tested_and_efficiencies_given():
    results = made_results()
    headers, rows = paired_table(results)
    pairs = ("network", "simplex"), ("network+simplex", "simplex")
    assert [tuple(row[:2]) for row in rows[::2]] == list(pairs)
    assert {row[-1] for row in rows} == {"too few images"}
    assert all(len(row) == len(headers) for row in rows)
    headers, rows = efficiency_table(results)
    assert [row[0] for row in rows] == list(COST)
    without = results.assign(bound_orientation_deg=np.nan, bound_radius_nm=np.nan)
    assert efficiency_table(without)[1] == []
