"""Stored sweeps: what is read, and what is made of it."""

import json

import numpy as np
import pytest

from icobench.errors import InputError
from icobench.reporting.sweeps import read_described, read_points, sweep_figure, sweep_markdown, write_sweep

IDENTITY = {"axis": "starts", "images": 4, "seed": 0}
ERRORS = ("disorientation_deg", "radius_error_nm", "appendix_c_mean", "appendix_c_max")


def stored_point(folder, point, repetition, identity=IDENTITY, **changes):
    random = np.random.default_rng((point, repetition))
    result = {
        "point": point, "repetition": repetition, "fixed_simulations": 0, "fixed_seconds": 0.0,
        "seconds": 1.5, "evaluations": [90 * point] * 4,
        **{name: random.random(4).tolist() for name in ERRORS}, **changes,
    }  # fmt: skip
    path = folder / "points" / f"starts-{point:08d}-seed{repetition}.json"
    path.write_text(
        json.dumps({"axis": "starts", "method": "simplex", "identity": identity, "result": result})
    )
    return path


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "points").mkdir()
    described = {"identity": IDENTITY, "points": [1, 2], "seeds": 3, "command": "icobench sweep"}
    (tmp_path / "sweep.json").write_text(json.dumps(described))
    return tmp_path


def test_points_have_a_row_for_each_image(sweep):
    assert not len(read_points(sweep))
    for point in (2, 1):
        for repetition in range(3):
            stored_point(sweep, point, repetition, radius_error_nm=[0.5, 0.5, 0.5, 2.0])
    points = read_points(sweep)
    assert list(points.columns[:5]) == ["method", "axis", "image", "point", "repetition"]
    assert points["point"].tolist() == [1] * 12 + [2] * 12
    assert points["image"].tolist() == [0, 1, 2, 3] * 6
    assert points["success"].tolist() == [True, True, True, False] * 6
    assert read_described(sweep)["command"] == "icobench sweep"


def test_table_text_and_figure(sweep):
    for point in (1, 2):
        for repetition in range(3):
            bounds = {"bound_orientation_deg": [0.1] * 4, "bound_radius_nm": [0.01] * 4}
            stored_point(sweep, point, repetition, **bounds)
    table = write_sweep(sweep)
    points = read_points(sweep)
    errors = points[(points["point"] == 2) & (points["repetition"] == 1)]["disorientation_deg"]
    row = table.iloc[4]
    assert row["disorientation_median"] == pytest.approx(errors.median())
    assert row["disorientation_90"] == pytest.approx(errors.quantile(0.9))
    assert row["success_rate"] == 1.0
    assert row["simulations_per_image"] == 180
    assert row["radius_bound_median"] == 0.01
    lines = sweep_markdown(table).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("| random starts of the simplex | repetitions |")
    assert {path.name for path in sweep.iterdir()} >= {"sweep.csv", "sweep.md", "sweep.png"}


def test_figure_draws_means_bounds_and_every_repetition(sweep):
    for repetition in range(3):
        stored_point(sweep, 1, repetition, bound_orientation_deg=0.1, bound_radius_nm=0.01)
        # One image in the second point has no answer, and the 90 % quantile of its errors is infinite.
        stored_point(sweep, 2, repetition, disorientation_deg=[0.1, 0.2, 0.3, None])
    table = write_sweep(sweep)
    figure = sweep_figure(table)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    expected = table.groupby("point")["disorientation_median"].mean()
    assert lines["median"].get_ydata() == pytest.approx(expected.to_numpy())
    assert len(lines["90 % quantile"].get_ydata()) == 1
    assert lines["Cramér-Rao bound (median)"].get_ydata() == pytest.approx([0.1])
    assert [len(dots.get_offsets()) for dots in figure.axes[0].collections] == [6, 3]


def test_what_is_no_sweep_is_refused(sweep, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_points(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no point is stored yet"):
        write_sweep(sweep)
    path = stored_point(sweep, 1, 0, identity={"axis": "photons"})
    with pytest.raises(InputError, match="a point of another sweep"):
        read_points(sweep)
    for content in ("{", "[]", json.dumps({"identity": IDENTITY, "result": {"point": 1}})):
        path.write_text(content)
        with pytest.raises(InputError, match="damaged; remove it"):
            read_points(sweep)
    path = stored_point(sweep, 1, 0)
    stored = json.loads(path.read_text())
    stored["result"]["radius_error_nm"].append(0.0)
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match="damaged; remove it"):
        read_points(sweep)
    described = json.loads((sweep / "sweep.json").read_text())
    (sweep / "sweep.json").write_text(json.dumps(described | {"identity": 3}))
    with pytest.raises(InputError, match="damaged; remove it"):
        read_points(sweep)
    (sweep / "sweep.json").unlink()
    with pytest.raises(InputError, match="no sweep"):
        read_points(sweep)
