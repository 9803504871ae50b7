"""Tables of methods and their figures, against NumPy."""

import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from icobench.reporting.statistics import error_quantile, success_interval
from icobench.reporting.tables import FORMATS, number, print_summary, summary_markdown, summary_table
from tests.reporting.made_runs import COST, IMAGES, made_results


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_error_quantile_is_numpys(fraction, count):
    values = np.random.default_rng(count).normal(size=(count, 3))
    assert np.allclose(error_quantile(values.T, fraction), np.quantile(values, fraction, axis=0))


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


def test_formats_of_the_table(run_folder):
    table = summary_table(made_results())
    latex = FORMATS["latex"](table.assign(method=["a_b", "c&d", "100 %", "\\x"]))
    assert latex.startswith(r"\begin{tabular}{lrrrrrrrr}")
    for cell in (r"a\_b &", r"c\&d &", r"100 \% &", r"\textbackslash x &"):
        assert cell in latex
    assert latex.count(r"\\") == 1 + len(table)
    again = pd.read_csv(io.StringIO(FORMATS["csv"](table)))
    pd.testing.assert_frame_equal(again, table, check_dtype=False)
    assert FORMATS["md"](table).count("\n") == 2 + len(table)


def test_import_is_light():
    code = (
        "import sys, icobench.reporting, icobench.reporting.tables; "
        "print([m for m in ('matplotlib', 'pandas', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "matplotlib" not in out
    assert "pandas" not in out
