"""Images of unknown truth: methods held against the best objective's answer."""

import numpy as np

from icobench.reporting.findings import verdict
from icobench.reporting.report import write_report
from icobench.reporting.run_folder import read_run
from icobench.reporting.statistics import differences
from icobench.reporting.tables import agreement_table
from tests.reporting.made_runs import COST, IMAGES, made_results

UNKNOWN = (
    "true_radius_nm", "true_q_w", "true_q_x", "true_q_y", "true_q_z", "disorientation_deg", "radius_error_nm",
    "appendix_c_mean", "appendix_c_max", "bound_radius_nm", "bound_orientation_deg",
)  # fmt: skip


def unknown():
    results = made_results().assign(**dict.fromkeys(UNKNOWN, np.nan), success=False)
    results["objective"] = results["objective"].where(results["method"] != "network+lm", 0.5)
    return results


def test_distance_from_the_best_answer():
    results = unknown()
    results.loc[(results["method"] == "network") & (results["image"] == 0), ["radius_nm", "q_w"]] = np.nan
    found = differences(results)
    best = found[found["method"] == "network+lm"]
    assert (best["angle_deg"] < 1e-5).all()
    assert (best["size_nm"] == 0).all()
    own = results.pivot(index="image", columns="method", values="radius_nm")
    expected = (own["simplex"] - own["network+lm"]).abs()
    np.testing.assert_allclose(found[found["method"] == "simplex"]["size_nm"], expected)
    assert np.isinf(found[(found["method"] == "network") & (found["image"] == 0)]["angle_deg"]).all()


def test_answers_agree_only_on_one_body():
    """And by its own group: a quarter turn of a cube is none."""
    results = unknown()
    quarter = np.sqrt(0.5)
    turn = {"q_w": quarter, "q_x": 0.0, "q_y": 0.0, "q_z": quarter}
    best, other = (results["method"] == name for name in ("network+lm", "simplex"))
    results.loc[best, list(turn)] = [1.0, 0.0, 0.0, 0.0]
    results.loc[other, list(turn)] = list(turn.values())
    found = differences(results.assign(body="cube"))
    assert (found[other]["angle_deg"] < 1e-5).all()
    found = differences(results.assign(body=np.where(other, "octahedron", "cube")))
    assert np.isinf(found[other]["angle_deg"]).all()
    assert not found[other]["agrees"].any()
    assert (differences(results)[other]["angle_deg"] > 1).all()


def test_table_and_verdict():
    headers, rows = agreement_table(unknown())
    assert [row[0] for row in rows] == list(COST)
    assert all(len(row) == len(headers) for row in rows)
    assert rows[3][4] == "100.0"
    assert rows[0][3] == "-"  # the network evaluates no objective


def test_report_without_truth(run_folder):
    path = run_folder / "results.parquet"
    bodies = {"body": "cube", "true_body": None, "size_error_nm": np.nan}
    unknown().assign(**bodies).to_parquet(path)
    run = read_run(run_folder)
    assert not run.truth_known
    (line,) = verdict({"mine": run})
    assert line.startswith(
        "The truth of mine is not known. network+lm has the answer with the lowest objective"
    )
    assert f"on {IMAGES} of {IMAGES} images" in line
    page = write_report(run_folder).read_text()
    assert "the truth is not known" in page
    assert "Accuracy against simulations" not in page
    assert "what for what" not in page
    assert "best: image" in page
    assert ", cube, R = " in page
    assert "What it costs" in page
    assert not (run_folder / "targets_reached.svg").exists()


def test_nothing_to_compare_with():
    results = unknown().assign(objective=np.nan)
    assert differences(results)["angle_deg"].isna().all()
    _, rows = agreement_table(results)
    assert [row[4] for row in rows] == ["0.0"] * len(COST)
