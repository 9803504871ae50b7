"""Parts of the page: values that tables sort by, figures that come out the same."""

import pytest

from icobench.reporting.figures import plot_targets_reached, svg
from icobench.reporting.page import environment, sorting_value
from tests.reporting.made_runs import made_curves, made_results


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("4,500", "4500"),
        ("0.089 / 0.159", "0.089"),
        ("7e-07 / 2e-06", "7e-07"),
        ("-1.5", "-1.5"),
        ("100.0 (98 to 100)", "100.0"),
        ("inf", "Infinity"),
        ("never", "Infinity"),
        ("-", ""),
        ("", ""),
        ("network+lm", None),
    ],
)
def test_cells_sort_by_their_leading_number(cell, value):
    assert sorting_value(cell) == value


def test_a_table_has_a_button_per_column_and_escapes():
    table = environment().get_template("parts.html.j2").module.table
    html = table(([("a<b", "nm"), ("c", "")], [["x&y", "4,500"]]))
    assert html.count("<button") == 2
    assert "a&lt;b<small>nm</small>" in html
    assert '<td>x&amp;y</td><td data-value="4500">4,500</td>' in html


def test_the_same_figure_gives_the_same_bytes():
    first, second = (svg(plot_targets_reached(made_results(), made_curves())) for _ in range(2))
    assert first == second
    assert b"<text" not in first  # letters as outlines need no fonts
