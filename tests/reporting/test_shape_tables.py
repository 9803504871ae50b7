"""Which body it is: tables counted by hand, and the pictures of a report."""

import io
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from icobench.errors import InputError
from icobench.reporting.examples import examples
from icobench.reporting.report import write_report
from icobench.reporting.run_folder import read_run
from icobench.reporting.shapes import body_text, confusion_table, geometry_table, print_shapes, shape_table
from icobench.reporting.tables import summary_cells, summary_table
from tests.reporting.made_runs import COST, named_bodies


def rows(*pairs):
    """Results of a method: true body, named body, status, size error."""
    columns = ["true_body", "body", "status", "size_error_nm"]
    table = pd.DataFrame(pairs, columns=columns)
    right = table["true_body"].str.split("=").str[0] == table["body"].str.split("=").str[0]
    error = np.where(right, table["size_error_nm"] / 2, np.nan)
    return table.assign(method="mine", disorientation_deg=error, radius_error_nm=error)


RESULTS = rows(
    ("cube", "cube", "ok", 0.1), ("cube", "cube", "ok-race", 0.3), ("cube", "sphere", "ok", 2.0),
    ("cube", "icosahedron", "unknown", 4.0), ("sphere", "sphere", "ambiguous", 0.1),
    ("hexagonal-prism=1.5", "hexagonal-prism=1.52", "ok", 0.2),
    ("hexagonal-prism=1.5", "truncated-cube=0.5", "poor-fit", 1.0),
)  # fmt: skip


def test_shares_of_right_told_and_silent_answers():
    headers, [cells] = shape_table(RESULTS)
    found = dict(zip([name for name, _ in headers], cells, strict=True))
    assert found["right body"].startswith("57.1 (")
    # Of four that are ok three are right; two of the wrong ones say so, one does not.
    assert (found["right"], found["wrong, told"], found["wrong, not told"]) == ("75.0", "28.6", "14.3")
    assert (found["ambiguous"], found["unknown"]) == ("14.3", "14.3")
    assert found["size error"].startswith("0.300 / ")


def test_the_printed_table_is_narrow_and_complete():
    stream = io.StringIO()
    print_shapes(RESULTS.assign(method="dictionary+lm-auto"), Console(file=stream, width=120))
    line = next(line for line in stream.getvalue().splitlines() if "dictionary" in line)
    words = "dictionary+lm-auto 57.1 75.0 28.6 14.3 14.3 14.3 0.300 / 2.80 0.075 / 0.135"
    assert line.split() == words.split()


def test_confusion_matrix():
    headers, cells = confusion_table(RESULTS)
    assert [name for name, _ in headers][:6] == ["true body", "1", "2", "8", "14", "17"]
    assert cells[0] == ["2 cube", "1", "2", "1", "", "", "50", "", "1", ""]
    assert cells[1] == ["8 sphere", "", "", "1", "", "", "100", "1", "", ""]
    assert cells[2] == ["14 hexagonal-prism", "", "", "", "1", "1", "50", "", "", "1"]


def test_errors_of_each_body():
    _, cells = geometry_table(RESULTS)
    assert cells[0][:4] == ["cube", "4", "1.15 / 3.40", "2"]
    assert cells[1][4:] == ["-", "0.050 / 0.050", "-"]
    assert cells[2][6] == "0.020 / 0.020"
    assert body_text("hexagonal-prism=1.51999") == "hexagonal-prism 1.52"
    assert body_text("cube") == "cube"


def test_a_report_of_bodies(run_folder):
    """Of two methods one names bodies; the other's rows, from before, have none. One has free facets."""
    named_bodies(run_folder)
    run = read_run(run_folder)
    assert set(run.results["body"]) == {"icosahedron", "cube", "hexagonal-prism=1.5"}
    assert run.results["size_error_nm"].notna().all()
    table = run.results.copy()
    table.loc[table["method"] == "simplex", "appendix_c_mean"] = np.nan
    cells = {row[0]: row[5] for row in summary_cells(summary_table(table))}
    assert cells.pop("simplex") == "- / -"
    assert "-" not in "".join(cells.values())
    cards = examples(run)
    assert set(cards) == set(COST)
    for card in cards["network+lm"]:
        true = ("cube", "icosahedron", "hexagonal-prism 1.50")[card["image"] % 3]
        assert card["named"] == ["icosahedron" if card["image"] == 3 else true, true]
        if card["named"][0] == "cube":
            assert len(list(ElementTree.fromstring(card["body"]).iter("polygon"))) <= 3
    assert all('aria-label="free facets"' in card["body"] for card in cards["simplex"])
    page = write_report(run_folder).read_text()
    assert "Which body it is" in page
    assert "(true: hexagonal-prism 1.50)" in page
    assert "over the orientations that look alike" in page


def test_a_damaged_table_of_facets_is_refused(run_folder):
    named_bodies(run_folder)
    (run_folder / "facets.parquet").write_bytes(b"none")
    with pytest.raises(InputError, match=r"facets\.parquet: not a readable parquet file"):
        read_run(run_folder)
