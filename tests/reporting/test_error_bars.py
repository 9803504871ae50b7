"""Coverage, width and score of error bars against drawn errors and SciPy, rejection against counting."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import multivariate_normal, norm

from icobench.reporting.error_bars import (
    LEVELS,
    QUANTITIES,
    abstention,
    abstention_cells,
    coverage,
    error_bar_cells,
    error_bars,
    own_order,
    perfect_order,
    print_error_bars,
    scores,
)
from icobench.reporting.figures import plot_rejection
from icobench.reporting.run_folder import read_run

TURN, SIZE = QUANTITIES


def drawn(count: int, factor: float = 1.0, seed: int = 0):
    """Answers with normal errors and their vectors; error bars are too small by the factor."""
    random = np.random.default_rng(seed)
    spread = random.uniform(0.05, 0.5, (2, count))
    vectors = random.normal(size=(count, 3)) * spread[0, :, None]
    miss = random.normal(size=count) * spread[1]
    answers = pd.DataFrame(
        {
            "image": np.arange(count), "method": "made", "status": "ok",
            "disorientation_deg": np.linalg.norm(vectors, axis=1), "radius_error_nm": np.abs(miss),
            "orientation_std_deg": np.sqrt(3) * spread[0] / factor, "radius_std_nm": spread[1] / factor,
            "bound_orientation_deg": np.sqrt(3) * spread[0], "bound_radius_nm": spread[1],
        }
    )  # fmt: skip
    answers["success"] = (answers["disorientation_deg"] < 1) & (answers["radius_error_nm"] < 1)
    return answers, vectors, miss


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_normal_errors_are_covered_as_often_as_the_level_says(quantity):
    answers, *_ = drawn(20_000)
    for level in LEVELS:
        images, covered = coverage(answers, quantity, level)
        assert images == len(answers)
        assert abs(covered / images - level) < 4 * np.sqrt(level * (1 - level) / images)
    # The interval of 68 % of a radius is that between the quantiles 16 and 84 %.
    told = answers["radius_error_nm"] < norm.ppf(0.84) * answers["radius_std_nm"]
    assert coverage(answers, SIZE, 0.68)[1] == told.sum()


def test_scores_are_the_densities_of_scipy():
    answers, vectors, miss = drawn(50, factor=1.7)
    spread = answers["orientation_std_deg"] / np.sqrt(3)
    expected = [
        -multivariate_normal(cov=each**2 * np.eye(3)).logpdf(vector)
        for each, vector in zip(spread, vectors, strict=True)
    ]
    assert np.allclose(scores(answers, TURN), expected)
    assert np.allclose(scores(answers, SIZE), -norm(scale=answers["radius_std_nm"]).logpdf(miss))


def test_bars_at_the_bound_score_as_their_entropy_and_wrong_ones_worse():
    honest, narrow, wide = (error_bars(drawn(20_000, factor)[0]) for factor in (1.0, 3.0, 1 / 3))
    bound = drawn(20_000)[0]["bound_radius_nm"]
    assert honest["score_at_bound"][1] == pytest.approx(norm(scale=bound).entropy().mean())
    assert honest["score_mean"].tolist() == pytest.approx(honest["score_at_bound"].tolist(), abs=0.03)
    assert honest["bar_over_bound"].tolist() == pytest.approx([1, 1])
    assert narrow["bar_over_bound"].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert wide["bar_over_bound"].tolist() == pytest.approx([3, 3])
    for other in (narrow, wide):
        assert (other["score_mean"] > honest["score_mean"] + 0.3).all()
    assert (narrow["within_68"] < 0.4).all()
    assert (wide["within_95"] > 0.999).all()
    assert ((honest["within_68_low"] < honest["within_68"]) & (honest["within_68"] < 0.69)).all()


def test_answers_without_bars_are_counted_and_said():
    answers, *_ = drawn(40)
    answers.loc[:9, ["orientation_std_deg", "radius_std_nm"]] = np.nan
    answers.loc[:9, "status"] = "outside-range"
    answers.loc[10, "disorientation_deg"] = np.nan  # a bar, but no answer: not covered, and the worst score
    answers.loc[11, "radius_std_nm"] = 0.0
    table = error_bars(answers).set_index(["quantity", "answers"])
    assert table["images"].tolist() == [40, 40, 30, 30]
    assert table["with_bars"].tolist() == [30, 30, 30, 30]
    assert table.loc[("orientation", "all"), "score_mean"] == np.inf
    assert table.loc[("radius", "ok"), "score_mean"] == np.inf
    kept = answers[12:]
    assert coverage(answers, TURN, 0.95)[1] <= 29
    assert coverage(answers[10:11], TURN, 0.95) == (1, 0)
    assert np.isfinite(scores(kept, TURN)).all()
    without = answers.assign(orientation_std_deg=np.nan, radius_std_nm=np.nan, status="ok")
    headers, rows = error_bar_cells(error_bars(without))
    assert [row[3:] for row in rows] == [["0 of 40", *["-"] * 6]] * 2
    assert all(len(row) == len(headers) for row in rows)


def by_counting(answers, order):
    """Shares not solved and 90 % quantiles among the first 1, 2, ... images of an order."""
    errors = np.maximum(answers["disorientation_deg"], answers["radius_error_nm"]).to_numpy()[order]
    counts = range(1, len(order) + 1)
    return [np.mean(errors[:k] >= 1) for k in counts], [np.quantile(errors[:k], 0.9) for k in counts]


def test_statuses_come_first_and_then_error_bars():
    answers, *_ = drawn(60, seed=3)
    answers[["disorientation_deg", "radius_error_nm"]] *= 3
    answers["success"] = (answers["disorientation_deg"] < 1) & (answers["radius_error_nm"] < 1)
    words = (
        "ok", "ok-race", "not-converged", "ambiguous", "outside-training", "poor-fit", "outside-range",
        "failed: no light",
    )  # fmt: skip
    answers["status"] = np.random.default_rng(1).choice(words, 60)
    bars = np.maximum(answers["orientation_std_deg"], answers["radius_std_nm"])
    order = sorted(range(60), key=lambda row: (words.index(answers["status"][row]), bars[row]))
    curve = own_order(answers)
    unsolved, error = by_counting(answers, order)
    assert np.allclose(curve.kept, np.arange(1, 61) / 60)
    assert np.allclose(curve.unsolved, unsolved)
    assert np.allclose(curve.error, error)
    # The order of the rows does not matter.
    assert np.allclose(own_order(answers.sample(frac=1, random_state=2)).error, error)


def test_areas_of_perfect_no_and_reversed_knowledge():
    answers, *_ = drawn(100)
    answers["radius_error_nm"] = np.arange(100) / 80  # the last 20 are not solved
    answers = answers.assign(disorientation_deg=0.0, success=answers["radius_error_nm"] < 1)
    perfect, none, reverse = (
        answers.assign(orientation_std_deg=0.0, radius_std_nm=bars)
        for bars in (answers["radius_error_nm"] / 9, np.nan, 2 - answers["radius_error_nm"])
    )
    none["orientation_std_deg"] = np.nan
    table = abstention(
        pd.concat([perfect, none.assign(method="none"), reverse.assign(method="reverse")])
    ).set_index("method")
    best = np.mean([max(0, (k - 80) / k) for k in range(1, 101)])
    assert table["unsolved_area_perfect"].tolist() == pytest.approx([best] * 3)
    assert table["unsolved_area_random"].tolist() == pytest.approx([0.2] * 3)
    worst = np.mean([min(1, 20 / k) for k in range(1, 101)])
    assert table["unsolved_area"].tolist() == pytest.approx([best, 0.2, worst])
    assert table["error_area"]["made"] == pytest.approx(table["error_area_perfect"]["made"])
    assert table["error_area"]["none"] == pytest.approx(table["error_area_random"]["none"])
    # On average over random bars, no knowledge is worth as much as no order.
    random = np.random.default_rng(0)
    areas = [
        own_order(answers.assign(radius_std_nm=random.uniform(5, 6, 100))).unsolved.mean() for _ in range(100)
    ]
    assert np.mean(areas) == pytest.approx(0.2, abs=0.02)


def test_shares_of_statuses_and_missing_answers():
    answers, *_ = drawn(10)
    answers["status"] = ["ok"] * 4 + ["ok-race", "poor-fit", "ambiguous", "ambiguous", "failed: x", "mine"]
    answers["success"] = [True] * 4 + [False, False, True, True, False, False]
    answers.loc[8, ["disorientation_deg", "radius_error_nm"]] = np.nan
    headers, (row,) = abstention_cells(abstention(answers))
    assert row[1:9] == ["10", "50.0", "10.0", "20.0", "20.0", "40.0", "20.0", "60.0"]
    assert row[-1].endswith("to inf)")
    assert len(row) == len(headers)
    assert perfect_order(answers).error[-1] == np.inf


def test_printed_table_fits_a_terminal():
    answers, *_ = drawn(30)
    other = answers.assign(method="network+something", orientation_std_deg=np.nan, radius_std_nm=np.nan)
    answers.loc[:2, "status"] = "ambiguous"
    stream = io.StringIO()
    print_error_bars(pd.concat([answers, other]), Console(file=stream, width=120))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 120
    assert "27 of 27" in text
    assert "0 of 30" in text
    assert "1.00 / 1.00" in text


def test_rejection_figure():
    answers, *_ = drawn(50)
    answers["radius_error_nm"] = np.arange(50) / 40
    answers["radius_std_nm"] = 2 + answers["radius_error_nm"]
    answers = answers.assign(disorientation_deg=0.0, success=answers["radius_error_nm"] < 1)
    answers.loc[40:, "status"] = "poor-fit"
    blind = answers.assign(method="blind", radius_std_nm=np.nan, orientation_std_deg=np.nan, status="ok")
    figure = plot_rejection({"one": pd.concat([answers, blind]), "two": answers})
    figure.canvas.draw()
    assert [axes.get_title() for axes in figure.axes] == ["one", "one", "two", "two"]
    left = {line.get_label(): line for line in figure.axes[0].lines}
    shares = left["made"].get_ydata()
    assert (np.diff(shares) >= 0).all()  # falls as fewer are kept, which is drawn to the right
    assert figure.axes[0].get_xlim()[0] > figure.axes[0].get_xlim()[1]
    assert np.ptp(left["blind"].get_ydata()) == 0
    (point,) = (line for line in figure.axes[0].lines if line.get_marker() == "o" and len(line.get_xdata()))
    assert list(point.get_xdata()) == [80]


def test_tables_are_stored_and_shown(finished):
    page, results = finished.read_text(), read_run(finished.parent).results
    for name, made in (("error_bars", error_bars), ("abstention", abstention)):
        pd.testing.assert_frame_equal(pd.read_csv(finished.parent / f"{name}.csv"), made(results))
    assert "<h2>Whether error bars and statuses hold</h2>" in page
    page = page.replace("<span>", "").replace("</span>", "")  # an interval may go below its estimate
    for row in error_bar_cells(error_bars(results))[1] + abstention_cells(abstention(results))[1]:
        assert all(f">{cell}<" in page for cell in row)
