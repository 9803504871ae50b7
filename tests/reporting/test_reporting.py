"""Tables, figures and report from made-up runs."""

import io
import json
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from xml.etree import ElementTree

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from icobench.comparison.runner import Comparison
from icobench.comparison.settings import ComparisonSettings
from icobench.comparison.targets import first_hits
from icobench.errors import InputError
from icobench.images.masks import usable_pixels
from icobench.network.selection import load_network
from icobench.reporting.courses import carried_forward, evaluation_grid, median_course
from icobench.reporting.economy import (
    accounts_of,
    break_even_table,
    break_evens,
    efficiency_table,
    ledger_table,
    paired_table,
    published_text,
    running_time_table,
)
from icobench.reporting.figures import error_against_evaluations, gallery, targets_reached
from icobench.reporting.findings import best_fitting_method, reading, training_cost
from icobench.reporting.html import write_report
from icobench.reporting.quantiles import error_quantile, success_interval
from icobench.reporting.run_folder import read_run
from icobench.reporting.tables import FORMATS, number, print_summary, summary_markdown, summary_table
from icobench.simulator.experiment import Experiment
from tests.reporting.made_runs import COST, IMAGES, made_curves, made_results


def test_import_is_light():
    code = (
        "import sys, icobench.reporting, icobench.reporting.tables; "
        "print([m for m in ('matplotlib', 'pandas', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "matplotlib" not in out
    assert "pandas" not in out


# Quantiles


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_error_quantile_is_numpys(fraction, count):
    values = np.random.default_rng(count).normal(size=(count, 3))
    assert np.allclose(error_quantile(values, fraction), np.quantile(values, fraction, axis=0))


def test_missing_answers_are_infinitely_wrong():
    assert error_quantile(np.array([1.0, np.nan, 2.0]), 0.5) == 2
    assert error_quantile(np.array([1.0, np.nan, np.nan]), 0.5) == np.inf
    assert error_quantile(np.array([np.nan, np.nan]), 0.3) == np.inf
    assert np.isnan(error_quantile(np.array([]), 0.5))


def test_success_interval():
    # Wilson 1927, as tabulated by Newcombe 1998: 81 of 263 and 0 of 20.
    assert success_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert success_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert success_interval(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)


# Tables


def test_summary_against_numpy():
    results = made_results()
    table = summary_table(results)
    assert list(table["method"]) == list(COST)
    for _, row in table.iterrows():
        own = results[results["method"] == row["method"]]
        assert row["images"] == IMAGES
        for column, name in (
            ("disorientation_deg", "disorientation_{}_deg"),
            ("radius_error_nm", "radius_{}_nm"),
            ("appendix_c_mean", "appendix_c_mean_{}"),
            ("appendix_c_max", "appendix_c_max_{}"),
        ):
            assert row[name.format("median")] == pytest.approx(np.median(own[column]))
            assert row[name.format("90")] == pytest.approx(np.quantile(own[column], 0.9))
        assert row["success_rate"] == pytest.approx(own["success"].sum() / IMAGES)
        assert row["evaluations_mean"] == pytest.approx(own["evaluations"].sum() / IMAGES)
        assert row["seconds_mean"] == pytest.approx(own["seconds"].iloc[0])


def test_summary_keeps_the_order_of_first_appearance():
    results = made_results().iloc[::-1]
    assert list(summary_table(results)["method"]) == list(COST)[::-1]


def test_number():
    cases = {
        0.0: "0", 3e-7: "3e-07", 0.0973: "0.097", 0.0999: "0.100", 0.1234: "0.123", 1.0: "1.00",
        9.999: "10.0", -12.34: "-12.3", 296.4: "296", 4500.0: "4,500", 1234567.0: "1,230,000",
        np.inf: "inf", np.nan: "-",
    }  # fmt: skip
    assert {value: number(value) for value in cases} == cases


def test_printed_summary_fits_120_columns():
    stream = io.StringIO()
    print_summary(summary_table(made_results()), Console(file=stream, width=120))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 120
    assert "…" not in text
    for method in COST:
        assert method in text
    for unit in ("(deg)", "(nm)", "(%)", "(s per"):
        assert unit in text


def test_markdown_has_a_row_per_method():
    table = summary_table(made_results())
    lines = summary_markdown(table).splitlines()
    assert len(lines) == 2 + len(COST)
    assert len({line.count("|") for line in lines}) == 1
    assert f"{100 * table['success_rate'][1]:.1f}" in lines[3]
    assert number(100 * table["appendix_c_mean_median"][1]) in lines[3]


# Courses


def test_carried_forward_against_a_loop():
    curves = made_curves()
    fits = curves[curves["method"] == "simplex"].sample(frac=1, random_state=0)
    fits.loc[fits.index[3], "disorientation_deg"] = np.nan
    grid = evaluation_grid(curves, per_decade=12)
    fast = carried_forward(fits, "disorientation_deg", grid)
    assert fast.shape == (IMAGES, len(grid))
    rows = list(fits.itertuples())
    for i in range(IMAGES):
        for j, spent in enumerate(grid):
            value, latest = np.nan, -1
            for row in rows:
                if row.image == i and latest < row.evaluations <= spent:
                    latest, value = row.evaluations, row.disorientation_deg
                    value = np.inf if np.isnan(value) else value
            assert fast[i, j] == value or (np.isnan(fast[i, j]) and np.isnan(value))


def test_of_two_steps_at_one_evaluation_the_later_counts():
    fits = pd.DataFrame({"image": 0, "step": [1, 0], "evaluations": 4, "disorientation_deg": [2.0, 3.0]})
    assert carried_forward(fits, "disorientation_deg", np.array([3.0, 4.0, 9.0]))[0, 1:].tolist() == [2, 2]


def test_median_course_starts_where_all_images_have_a_value():
    fits = pd.DataFrame(
        {
            "image": [0, 0, 1, 1],
            "step": [0, 1, 0, 1],
            "evaluations": [2, 50, 5, 20],
            "disorientation_deg": [4.0, 1.0, 8.0, 2.0],
        }
    )
    course = median_course(fits, "disorientation_deg", np.geomspace(1, 100, 41))
    assert course.evaluations[0] == 5
    assert course.evaluations[-1] == 50
    assert course.median[0] == 6
    assert course.median[-1] == 1.5
    assert course.low[0] == pytest.approx(4.4)
    assert course.high[0] == pytest.approx(7.6)
    assert course.median[np.searchsorted(course.evaluations, 20)] == 3


def test_course_from_zero_evaluations_starts_at_one():
    fits = pd.DataFrame({"image": 0, "step": [0, 1], "evaluations": [0, 8], "disorientation_deg": [4.0, 1.0]})
    course = median_course(fits, "disorientation_deg", np.array([1.0, 4.0, 8.0]))
    assert course.evaluations.tolist() == [1, 4, 8]
    assert course.median.tolist() == [4, 4, 1]


# Figures


def test_error_figure():
    results = made_results()
    figure = error_against_evaluations(results, made_curves())
    assert len(figure.axes) == 2
    for axes in figure.axes:
        assert axes.get_xscale() == axes.get_yscale() == "log"
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
    figure = error_against_evaluations(made_results(), made_curves(), training)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels.count("network by size of its training set") == 1
    assert figure.axes[0].get_xlim()[1] > sizes[-1]
    places = [one.get_data() for one in figure.axes[0].lines if one.get_marker() == "x"]
    assert [(float(x[0]), float(y[0])) for x, y in places] == [(1_000, 2.0), (16_000, 2.0)]


@pytest.mark.parametrize("methods", [["network"], ["simplex"]])
def test_error_figure_of_one_method_and_without_courses(methods):
    results = made_results()
    results = results[results["method"].isin(methods)]
    figure = error_against_evaluations(results, made_curves().iloc[:0])
    figure.canvas.draw()
    assert figure.legends[0].get_texts()[0].get_text() == methods[0]
    assert set(methods) <= set(figure.axes[0].get_legend_handles_labels()[1])


def test_error_figure_survives_missing_answers():
    results, curves = made_results(), made_curves()
    results.loc[results["method"] == "network", "disorientation_deg"] = np.nan
    curves.loc[curves["method"] == "simplex", "disorientation_deg"] = np.nan
    error_against_evaluations(results, curves).canvas.draw()


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
    threads = [
        threading.Thread(target=lambda: done.append(error_against_evaluations(results, curves)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 2
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


# Sentences


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


def test_training_cost():
    table = summary_table(made_results())
    spent = table["evaluations_mean"][1]
    text = training_cost({"training_seconds": 7200, "training_simulations": 450_000}, table)
    for words in ("2.00 hours", "450,000", f"fit {number(450_000 / spent)} images with simplex"):
        assert words in text
    assert "does not say" in training_cost({}, table)
    assert "No network" in training_cost(None, table)


# Report


class _Page(HTMLParser):
    """Collects tags and refuses a page whose tags do not close."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report_is_complete_and_self_contained(finished):
    text = finished.read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    # Two figures, three pictures for each of three images of every method, and an icon.
    assert len(page.sources) == 2 + 3 * 3 * len(COST) + 1
    assert all(source.startswith("data:") for source in page.sources)
    assert page.tags.count("script") == 1
    assert not re.search(r"(src|href)=.https?://|<script src|@import|url\(", text)
    for method in COST:
        assert method in text
    assert "a&lt;b&gt;&amp;c" in text
    assert "<b>" not in text
    assert "not recorded" in text  # The commit.
    for word in ("2025-01-02", "abacus", "torch 2.x", "450,000", "123,456", "2.00 hours", "3 degrees"):
        assert word in text


def test_report_leaves_figures_and_no_temporary_files(finished):
    names = {path.name for path in finished.parent.iterdir()}
    assert names == {
        "results.parquet", "curves.parquet", "test_set.h5", "run.json",
        "report.html", "error_against_evaluations.svg", "targets_reached.svg",
    }  # fmt: skip
    for name in ("error_against_evaluations.svg", "targets_reached.svg"):
        ElementTree.parse(finished.parent / name)


@pytest.mark.parametrize("name", ["results.parquet", "curves.parquet", "test_set.h5", "run.json"])
def test_missing_and_damaged_files(run_folder, name):
    path = run_folder / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=re.escape(name)) as caught:
        write_report(run_folder)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(InputError, match=f"{re.escape(name)}: no such file"):
        write_report(run_folder)
    assert not (run_folder / "report.html").exists()


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "nowhere")


def _rewritten(folder, name, change):
    path = folder / name
    if name == "run.json":
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    else:
        change(pd.read_parquet(path)).to_parquet(path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("results.parquet", lambda t: t.drop(columns="evaluations"), "no column evaluations"),
        ("results.parquet", lambda t: t.iloc[:0], "no result"),
        ("results.parquet", lambda t: t.assign(image=t["image"] + 5), "fewer than the results"),
        ("results.parquet", lambda t: t.assign(seconds="long"), "wrong type"),
        ("curves.parquet", lambda t: t.drop(columns="step"), "no column step"),
        ("run.json", lambda r: r.pop("experiment"), "no experiment"),
        ("run.json", lambda r: r.update(settings=3), "no settings"),
        ("run.json", lambda r: r.update(machine=[1]), "machine is not an object"),
        ("run.json", lambda r: r["experiment"].update(wavelength_nm=-1), "not an experiment"),
        ("run.json", lambda r: r["experiment"].update(pixels=64), "images of 32 pixels"),
    ],
)
def test_files_that_do_not_fit(run_folder, name, change, message):
    _rewritten(run_folder, name, change)
    with pytest.raises(InputError, match=message):
        write_report(run_folder)


def test_report_without_network_or_answers(run_folder):
    def unanswered(table):
        table = table[~table["method"].str.contains("network")].copy()
        table[["radius_nm", "disorientation_deg", "radius_error_nm"]] = np.nan
        return table.assign(success=False)

    _rewritten(run_folder, "results.parquet", unanswered)
    _rewritten(run_folder, "run.json", lambda run: run.update(network=None))
    text = write_report(run_folder).read_text()
    assert "No method solved any image" in text
    assert "No method gave an answer that could be simulated" in text
    assert "No network took part" in text


def test_log_images_become_intensities(run_folder):
    with h5py.File(run_folder / "test_set.h5", "r+") as stream:
        counts = stream["/entry_1/data_1/data"][()]
        del stream["/entry_1/data_1/data"]
        relative = counts / counts.max((1, 2), keepdims=True)
        image = np.clip(1 + np.log10(np.maximum(relative, 1e-6)) / 6, 0, 1)
        stream["/entry_1/data_1/data"] = (255 * image).round().astype(np.uint8)
        stream["/icobench"].attrs["kind"] = "log"
    run = read_run(run_folder)
    # One of 255 steps over six decades is a factor 1.056.
    intensity, mask = run.load(range(run.count))
    seen = mask & (intensity > 0)
    assert run.kind == "log"
    assert seen.mean() > 0.5
    assert np.allclose(intensity[seen], relative[seen], rtol=0.03)


def test_mask_leaves_out_bad_and_invalid_pixels(inputs):
    run = read_run(inputs)
    expected = usable_pixels(run.experiment, 3.0).numpy()
    intensity, mask = run.load([4, 0])
    assert (mask == expected).all()
    assert intensity.shape == mask.shape == (2, *expected.shape)


def test_images_that_were_left_out_are_made_anew(tmp_path):
    settings = ComparisonSettings("test", 3, ("counting",), methods=("network",), photons=2e4)
    made = Comparison(tmp_path / "run", settings, Experiment(), 7, torch.device("cpu"), load_network())
    made.run()
    before, mask = read_run(tmp_path / "run").load([2, 0])
    (tmp_path / "run" / "test_set.h5").unlink()
    again = read_run(tmp_path / "run")
    assert (again.kind, again.count) == ("counts", 3)
    after = again.load([2, 0])
    assert (after[0] == before).all()
    assert (after[1] == mask).all()


def test_ledger_in_both_currencies():
    results = made_results()
    run = {
        "network": {"training_seconds": 7200.0, "training_simulations": 450_000},
        "dictionary": {"seconds": 9.0, "simulations": 1000},
        "methods": {name: {"needs_network": "network" in name} for name in COST},
    }
    accounts = accounts_of(results, run)
    headers, rows = ledger_table(accounts)
    assert [row[0] for row in rows] == list(COST)
    assert all(len(row) == len(headers) for row in rows)
    by_name = {row[0]: row for row in rows}
    assert by_name["network"][1:3] == ["450,000", "7,200"]
    assert by_name["simplex"][1:3] == ["0", "0"]
    found = break_evens(results, accounts)
    pairs = {(one.first, one.second, one.currency): one.images.value for one in found}
    spent = results[results["method"] == "simplex"]["evaluations"].mean()
    assert pairs[("network", "simplex", "simulations")] == pytest.approx(450_000 / spent)
    assert pairs[("network", "simplex", "seconds")] == pytest.approx(7200 / 4.501, rel=1e-3)
    assert not any(first == "simplex" for first, _, _ in pairs)
    text = published_text(accounts)
    assert "break-even at 3.1 images" in text
    assert f"break-even at {450_000 / spent:.1f} images" in text
    _, cells = break_even_table(found)
    assert cells[0][:2] == ["network", "simplex"]


def test_neighbours_are_tested_and_efficiencies_given():
    results = made_results()
    headers, rows = paired_table(results)
    assert len(rows) == len(COST) - 1
    assert all(len(row) == len(headers) for row in rows)
    headers, rows = efficiency_table(results)
    assert [row[0] for row in rows] == list(COST)
    without = results.assign(bound_orientation_deg=np.nan, bound_radius_nm=np.nan)
    assert efficiency_table(without)[1] == []


def test_a_method_that_failed_half_way_has_no_break_even():
    results = made_results()
    results = results[(results["method"] != "network") | (results["image"] < 3)]
    run = {"network": {"training_seconds": 7200.0, "training_simulations": 450_000}}
    found = break_evens(results, accounts_of(results, run))
    assert not any("network" in (one.first, one.second) for one in found)


def test_report_says_what_it_costs(finished):
    page = finished.read_text()
    for heading in (
        "Targets reached",
        "What it costs",
        "When the cost before the first image is repaid",
        "Efficiency",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert "31,000" in page


def test_formats_of_the_table(run_folder):
    table = summary_table(made_results())
    latex = FORMATS["latex"](table.assign(method=["a_b", "c&d", "100 %", "\\x"]))
    assert latex.startswith(r"\begin{tabular}{lrrrrrrrr}")
    for cell in (r"a\_b &", r"c\&d &", r"100 \% &", r"\textbackslash{}x &"):
        assert cell in latex
    assert latex.count(r"\\") == 1 + len(table)
    again = pd.read_csv(io.StringIO(FORMATS["csv"](table)))
    pd.testing.assert_frame_equal(again, table, check_dtype=False)
    assert FORMATS["md"](table).count("\n") == 2 + len(table)


def test_targets_are_reached_by_the_share_that_the_curves_say():
    results, curves = made_results(), made_curves()
    figure = targets_reached(results, curves)
    left = figure.axes[0]
    ends = {line.get_label(): line.get_ydata()[-1] for line in left.lines}
    assert set(ends) == set(COST)
    for method, end in ends.items():
        hits, _ = first_hits(curves, results, method)
        assert end == pytest.approx(100 * np.isfinite(hits).mean())
    headers, rows = running_time_table(results, curves)
    assert len(rows) == len(COST)
    assert all(len(row) == len(headers) for row in rows)
