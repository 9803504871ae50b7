"""Courses of the error, and what is drawn of them."""

import sys
import threading

import numpy as np
import pandas as pd
import pytest

from icobench.reporting.figures import INFINITE, carried_forward, courses, plot_errors, plot_targets_reached
from icobench.reporting.gallery import gallery
from icobench.reporting.statistics import first_hits
from icobench.reporting.tables import running_time_table
from tests.reporting.made_runs import COST, IMAGES, made_curves, made_results


def test_carried_forward_against_a_loop():
    curves = made_curves()
    fits = curves[curves["method"] == "simplex"].sample(frac=1, random_state=0)
    fits.loc[fits.index[3], "disorientation_deg"] = np.nan
    grid = np.geomspace(1, curves["evaluations"].max(), 40)
    carried = carried_forward(fits, grid)
    fast = carried.pivot(index="image", columns="evaluations", values="disorientation_deg").to_numpy()
    assert fast.shape == (IMAGES, len(grid))
    rows = list(fits.itertuples())
    for i in range(IMAGES):
        for j, spent in enumerate(grid):
            value, latest = np.nan, -1
            for row in rows:
                if row.image == i and latest < row.evaluations <= spent:
                    latest, value = row.evaluations, row.disorientation_deg
                    value = INFINITE if np.isnan(value) else value
            assert fast[i, j] == value or (np.isnan(fast[i, j]) and np.isnan(value))


def test_of_two_steps_at_one_evaluation_the_later_counts():
    fits = pd.DataFrame(
        {
            "image": 0, "step": [1, 0], "evaluations": 4, "disorientation_deg": [2.0, 3.0],
            "radius_error_nm": 1.0,
        }
    )  # fmt: skip
    carried = carried_forward(fits, np.array([3.0, 4.0, 9.0]))["disorientation_deg"].tolist()
    assert carried[1:] == [2, 2]
    assert np.isnan(carried[0])


def course_of(**columns):
    """The drawn course of a made-up method: x and y of the median, and the outline of the band."""
    curves = pd.DataFrame({"method": "made", "radius_error_nm": 1.0, **columns})
    results = curves.groupby("image", as_index=False).last().assign(success=True, seconds=1.0)
    bounds = results.assign(bound_orientation_deg=np.nan, bound_radius_nm=np.nan)
    axes = plot_errors(bounds, curves).axes[0]
    line = max(axes.lines, key=lambda line: len(line.get_xdata()))
    return line.get_xdata(), line.get_ydata(), axes.collections[0].get_paths()[0].vertices


def test_course_starts_where_all_images_have_a_value():
    spent, median, band = course_of(
        image=[0, 0, 1, 1], step=[0, 1, 0, 1], evaluations=[2, 50, 5, 20], disorientation_deg=[4.0, 1, 8, 2]
    )
    assert spent[[0, -1]] == pytest.approx([5, 50])
    assert median[[0, -1]] == pytest.approx([6, 1.5])
    assert band[band[:, 0] == spent[0], 1].min() == pytest.approx(4.4)
    assert band[band[:, 0] == spent[0], 1].max() == pytest.approx(7.6)
    assert median[np.searchsorted(spent, 20)] == 3


def test_course_from_zero_evaluations_starts_at_one():
    curves = pd.DataFrame(
        {
            "method": "made", "image": 0, "step": [0, 1], "evaluations": [0, 8],
            "disorientation_deg": [4.0, 1.0], "radius_error_nm": 1.0,
        }
    )  # fmt: skip
    course = courses(curves, ["made"])
    assert course["evaluations"].iloc[[0, -1]].tolist() == [1, 8]
    assert set(course["disorientation_deg"][:-1]) == {4}
    assert course["disorientation_deg"].iloc[-1] == 1


def test_error_figure():
    results = made_results()
    figure = plot_errors(results, made_curves())
    assert len(figure.axes) == 2
    for axes in figure.axes:
        assert (axes.get_xscale(), axes.get_yscale()) == ("symlog", "log")
        assert axes.get_xlabel()
        assert "deg" in axes.get_ylabel() or "nm" in axes.get_ylabel()
        labels = axes.get_legend_handles_labels()[1]
        assert set(COST) <= set(labels)
        assert len(labels) == len(COST) + 1
        ticks = [axes.xaxis.get_major_formatter()(x, 0) for x in axes.xaxis.get_majorticklocs()]
        assert ticks[:3] == ["0", "1", "10"]
    dashed = [line for line in figure.axes[0].lines if "bound" in str(line.get_label())]
    assert dashed[0].get_ydata()[0] == pytest.approx(results["bound_orientation_deg"][:IMAGES].median())


def test_error_figure_with_training_sets():
    sizes = [1_000, 16_000]
    training = pd.concat(
        pd.DataFrame(
            {"fixed_simulations": size, "disorientation_deg": [1.0, 3.0, 2.0], "radius_error_nm": 1.0}
        )
        for size in sizes
    )
    figure = plot_errors(made_results(), made_curves(), training)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels.count("network by size of its training set") == 1
    assert figure.axes[0].get_xlim()[1] > sizes[-1]
    (trained,) = (line for line in figure.axes[0].lines if line.get_marker() == "X")
    assert list(zip(*trained.get_data(), strict=True)) == [(1_000, 2.0), (16_000, 2.0)]


@pytest.mark.parametrize("methods", [["network"], ["simplex"]])
def test_error_figure_of_one_method_and_without_courses(methods):
    results = made_results()
    results = results[results["method"].isin(methods)]
    figure = plot_errors(results, made_curves().iloc[:0])
    figure.canvas.draw()
    assert figure.legends[0].get_texts()[0].get_text() == methods[0]
    assert set(methods) <= set(figure.axes[0].get_legend_handles_labels()[1])


def test_error_figure_of_a_single_image_without_answers_stays_on_the_scale():
    results, curves = made_results(), made_curves()
    results, curves = results[results["image"] == 0], curves[curves["image"] == 0].copy()
    curves.loc[curves["method"] == "simplex", "disorientation_deg"] = np.nan
    results.loc[results["method"] == "network", "disorientation_deg"] = np.nan
    assert plot_errors(results, curves).axes[0].get_ylim()[1] < 1e3


def test_a_missing_answer_raises_the_quantiles():
    results, curves = made_results(), made_curves()
    network = results["method"] == "network"
    results.loc[network, "disorientation_deg"] = [0.1, 0.2, 0.3, 0.4, np.nan, np.nan, np.nan]
    axes = plot_errors(results, curves).axes[0]
    marker = next(line for line in axes.lines if list(line.get_xdata()) == [0.0])
    assert marker.get_ydata() == pytest.approx([0.4])


def test_error_figure_survives_missing_answers():
    results, curves = made_results(), made_curves()
    results.loc[results["method"] == "network", "disorientation_deg"] = np.nan
    curves.loc[curves["method"] == "simplex", "disorientation_deg"] = np.nan
    plot_errors(results, curves).canvas.draw()


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (7, 6)])
def test_gallery(count, shown):
    targets = np.random.default_rng(0).poisson(20, (count, 16, 16)).astype(float)
    masks = np.ones((count, 16, 16), dtype=bool)
    masks[:, 6:9, 6:9] = False
    figure = gallery(targets, targets + 1, masks, [f"$image {i}" for i in range(count)])
    if count == 1:
        figure.canvas.draw()
    assert len(figure.axes) == 3 * shown + 2
    image = figure.axes[0].images[0].get_array()
    assert image.mask.sum() == 9
    assert image.mask[7, 7]
    assert image.max() == 0
    assert any("intensity" in axes.get_ylabel() for axes in figure.axes[-2:])


def test_gallery_difference_is_the_log_ratio():
    target = np.full((1, 16, 16), 100.0)
    figure = gallery(target, target * 10**-0.5, np.ones_like(target, dtype=bool), [""])
    assert np.allclose(figure.axes[2].images[0].get_array(), -0.5)


def test_gallery_refuses_missing_titles():
    with pytest.raises(ValueError, match="titles"):
        gallery(np.ones((2, 16, 16)), np.ones((2, 16, 16)), np.ones((2, 16, 16)), ["one"])


def test_figures_leave_pyplot_alone_and_work_in_threads():
    results, curves = made_results(), made_curves()
    done = []
    threads = [threading.Thread(target=lambda: done.append(plot_errors(results, curves))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 2
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_targets_are_reached_by_the_share_that_the_curves_say():
    results, curves = made_results(), made_curves()
    figure = plot_targets_reached(results, curves)
    left = figure.axes[0]
    right_end = left.get_xlim()[1]
    ends = {
        line.get_label(): line.get_ydata()[line.get_xdata() <= right_end].max(initial=0)
        for line in left.lines
    }
    assert set(ends) == set(COST)
    for method, end in ends.items():
        hits, _ = first_hits(curves, results, method)
        assert end == pytest.approx(100 * np.isfinite(hits).mean())
    headers, rows = running_time_table(results, curves)
    assert len(rows) == len(COST)
    assert all(len(row) == len(headers) for row in rows)
