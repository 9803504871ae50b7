"""Several test sets and seeds in one folder."""

import json

import pandas as pd
import pytest
import torch

from icobench.runs import comparison as runner
from icobench.runs.campaign import CAMPAIGN_FILE, Campaign, run_names
from icobench.methods import METHODS, Method
from icobench.runs.settings import ComparisonSettings
from icobench.errors import InputError
from icobench.reporting.html import write_report
from icobench.reporting.run_folder import read_runs
from icobench.reporting.verdict import overview, verdict
from icobench.simulator.experiment import Experiment

from .test_runner import FakeMethod

SETTINGS = ComparisonSettings("test", images=3, test_sets=("clean", "counting"), methods=("fake", "other"))


@pytest.fixture
def fake(monkeypatch):
    methods = {name: FakeMethod() for name in ("fake", "other")}
    for name, function in methods.items():
        monkeypatch.setitem(METHODS, name, Method(name, "for tests", function))
    monkeypatch.setattr(runner, "BLOCK", 2)
    return methods["fake"]


def opened(folder, settings=SETTINGS):
    return Campaign(folder, settings, Experiment(), 3, torch.device("cpu"), None)


def test_names():
    assert run_names(SETTINGS, 3) == {"clean": ("clean", 3), "counting": ("counting", 3)}
    several = ComparisonSettings("test", 3, ("clean",), seeds=2)
    assert run_names(several, 3) == {"clean-3": ("clean", 3), "clean-4": ("clean", 4)}


def test_every_run_is_there_and_is_continued(tmp_path, fake):
    folder = tmp_path / "campaign"
    begun = []
    results = opened(folder).run(begin=begun.append)
    assert begun == ["clean", "counting"]
    assert results.groupby(["run", "test_set", "method"]).size().tolist() == [3] * 4
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "results.parquet"), results)
    assert set(json.loads((folder / CAMPAIGN_FILE).read_text())["runs"]) == {"clean", "counting"}
    assert list(read_runs(folder)) == ["clean", "counting"]
    fake.asked.clear()
    again = opened(folder)
    assert again.missing() == []
    pd.testing.assert_frame_equal(again.run(), results)
    assert fake.asked == []
    more = ComparisonSettings("test", 3, ("clean", "counting"), methods=("fake", "other"), seeds=2)
    assert len(opened(tmp_path / "more", more).missing()) == 16


def test_report_begins_with_the_verdict(tmp_path, fake):
    folder = tmp_path / "campaign"
    opened(folder).run()
    runs = read_runs(folder)
    lines = verdict(runs)
    assert 1 <= len(lines) <= 5
    assert lines[0].startswith("Most accurate on counting: ")
    assert lines[-1].startswith("The same method elsewhere, median errors: clean ")
    headers, rows = overview(runs)
    assert [name for name, _ in headers] == ["method", "clean", "counting"]
    assert [row[0] for row in rows] == ["fake", "other"]
    page = write_report(folder).read_text()
    assert (
        page.index("Most accurate on counting") < page.index("All test sets") < page.index("<h2>Summary</h2>")
    )
    assert page.count("<h2>Summary</h2>") == 2
    assert (folder / "clean" / "targets_reached.svg").exists()


def test_folders_of_another_kind_are_kept(tmp_path, fake):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="not a folder of runs"):
        opened(tmp_path / "thesis")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        opened(tmp_path / "file")
    opened(tmp_path / "campaign").run()
    (tmp_path / "campaign" / CAMPAIGN_FILE).write_text("{")
    with pytest.raises(InputError, match="damaged"):
        read_runs(tmp_path / "campaign")
