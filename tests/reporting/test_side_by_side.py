"""Two runs beside each other."""

import json
import shutil

import pandas as pd
import pytest

from icobench.errors import InputError
from icobench.reporting.run_folder import read_run
from icobench.reporting.side_by_side import same_images, side_by_side_table, write_side_by_side
from tests.reporting.made_runs import COST


def changed(folder, change=None, **facts):
    path = folder / "run.json"
    run = json.loads(path.read_text())
    path.write_text(json.dumps({**run, **facts}))
    if change:
        table = folder / "results.parquet"
        change(pd.read_parquet(table)).to_parquet(table)
    return folder


@pytest.fixture
def pair(inputs, tmp_path):
    """The same images twice: the second machine is half as fast, the second commit three times as far off."""
    here = changed(shutil.copytree(inputs, tmp_path / "here"), identity={"seed": 5}, commit="abc")

    def worse(table):
        return table.assign(seconds=2 * table["seconds"], disorientation_deg=3 * table["disorientation_deg"])

    there = changed(shutil.copytree(inputs, tmp_path / "there"), worse, identity={"seed": 5}, commit="def")
    return here, there


def test_ratios_to_the_first_run(pair):
    runs = {folder.name: read_run(folder) for folder in pair}
    assert same_images(*runs.values())
    headers, rows = side_by_side_table(runs)
    assert len(rows) == 2 * len(COST)
    assert all(len(row) == len(headers) for row in rows)
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first[:2] == [second[0], "here"]
        assert first[-2:] == ["1", "1"]
        assert second[-2:] == ["3.00 (3.00 to 3.00)", "2.00"]


def test_page(pair, tmp_path):
    path = write_side_by_side(pair, tmp_path / "both.html")
    page = path.read_text()
    assert "Runs side by side: here, there" in page
    assert "<td>commit</td><td>abc</td><td>def</td>" in page
    assert "compare with care" not in page
    changed(pair[1], identity={"seed": 6})
    page = write_side_by_side(pair, path).read_text()
    assert "compare with care" in page
    assert "3.00 (3.00 to 3.00)" not in page


def test_runs_that_cannot_be_compared(pair, tmp_path):
    with pytest.raises(InputError, match="named twice"):
        write_side_by_side((pair[0], pair[0]), tmp_path / "x.html")
    changed(pair[1], settings={"test_sets": ["clean"]})
    with pytest.raises(InputError, match="no test set in common"):
        write_side_by_side(pair, tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()
