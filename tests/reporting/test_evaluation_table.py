"""Statistics of an evaluation against their definitions."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from icobench.errors import InputError
from icobench.reporting.evaluation import Evaluated, evaluation_table, summarise, typical, write_evaluation
from icobench.simulator.experiment import Experiment


def made_table(count, rng):
    """Normal errors of standard deviation 2 nm and, about each axis, 3 degrees."""
    angle = np.linalg.norm(3 * rng.normal(size=(count, 3)), axis=1)
    return pd.DataFrame(
        {
            "disorientation_deg": angle, "second_disorientation_deg": angle + 10,
            "radius_error_nm": np.abs(2 * rng.normal(size=count)),
            "appendix_c_mean": 0.01, "appendix_c_max": 0.03,
            "radius_std_nm": 2.0, "orientation_std_deg": 3 * math.sqrt(3), "bound_radius_nm": 1.0,
            "bound_orientation_deg": 3 * math.sqrt(3),
        }
    )  # fmt: skip


def test_summary_of_known_errors(rng):
    table = made_table(40_000, rng)
    summary = summarise(Evaluated("counting", table, 20.0, "x"))
    assert summary["coverage_radius"] == pytest.approx(0.6827, abs=0.01)
    # The chi-square distribution with 3 degrees of freedom, below 3.
    assert summary["coverage_orientation"] == pytest.approx(0.6084, abs=0.01)
    assert summary["radius_error_nm_over_bound_rms"] == pytest.approx(2, rel=0.02)
    assert summary["disorientation_deg_over_bound_rms"] == pytest.approx(1, rel=0.02)
    low, high = summary["disorientation_deg_over_bound_rms_interval"]
    assert low < summary["disorientation_deg_over_bound_rms"] < high < 1.02
    assert not any(name.endswith("over_bound_median") for name in summary)
    assert summary["radius_error_nm"]["median"] == pytest.approx(2 * 0.6745, rel=0.02)
    inside = (table["disorientation_deg"] < 1) & (table["radius_error_nm"] < 1)
    assert summary["success_rate"] == pytest.approx(inside.mean())
    assert summary["second_hypothesis_nearer"] == 0
    assert summary["seconds_per_image"] == pytest.approx(5e-4)
    assert summary["networks"] == "x"


def test_table_and_files(rng, tmp_path):
    sets = [Evaluated("counting", made_table(12, rng), 0.1, "x")]
    pace = {
        "one_image_ms": {"median": 4.2, "low": 4.0, "high": 6.5},
        "images_per_second": {"median": 1234.0, "low": 990.0, "high": 1300.0},
    }
    text = evaluation_table(sets, pace)
    assert text.count("| counting |") == 4
    assert (
        "One image of counts takes 4.20 (4.00 to 6.50) ms; batches run at 1,230 (990 to 1,300) images/s."
        in text
    )
    old = evaluation_table(sets, {"one_image_ms": 4.2, "images_per_second": 1234.0})
    assert "takes 4.20 (the best round) ms" in old
    assert (typical(pace["one_image_ms"]), typical(4.1), typical(None)) == (4.2, 4.1, None)
    assert text.splitlines()[0].endswith("| RMS / RMS bound |")
    cards, experiment = [{"recipe": {"steps": 3}}], Experiment()
    write_evaluation(tmp_path / "e", sets, pace, cards, experiment, 7, torch.device("cpu"))
    stored = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert stored["sets"]["counting"]["images"] == 12
    assert (stored["seed"], stored["networks"], stored["speed"]) == (7, cards, pace)
    table = pd.read_parquet(tmp_path / "e" / "evaluation.parquet")
    assert len(table) == 12
    assert set(table["test_set"]) == {"counting"}
    assert text in (tmp_path / "e" / "evaluation.md").read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        write_evaluation(tmp_path / "file" / "e", sets, pace, [], experiment, 7, torch.device("cpu"))
