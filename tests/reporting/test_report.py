"""The report page and the folder that it is read from."""

import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from icobench.errors import InputError
from icobench.images.pixels import usable_pixels
from icobench.reporting.findings import overview
from icobench.reporting.report import write_report
from icobench.reporting.run_folder import read_run, read_runs
from icobench.reporting.tables import interval_table, number, summary_table
from icobench.sets.patterns import PatternSource
from icobench.sets.test_sets import find_test_set
from tests.reporting.made_runs import COST, IMAGES, made_results


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
    # Four figures, three pictures for each of three images of every method, and an icon.
    assert len(page.sources) == 4 + 3 * 3 * len(COST) + 1
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
        "report.html", "error_against_evaluations.svg", "targets_reached.svg", "break_even.svg",
        "rejection.svg", "error_bars.csv", "abstention.csv",
    }  # fmt: skip
    for name in ("error_against_evaluations.svg", "targets_reached.svg", "break_even.svg", "rejection.svg"):
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
    images = run.load(range(run.count))
    intensity, mask = images.images.numpy(), images.mask.numpy()
    assert images.kind == "intensity"
    seen = mask & (intensity > 0)
    assert run.kind == "log"
    assert seen.mean() > 0.5
    assert np.allclose(intensity[seen], relative[seen], rtol=0.03)


def test_mask_leaves_out_bad_and_invalid_pixels(inputs):
    run = read_run(inputs)
    expected = usable_pixels(run.experiment, 3.0).numpy()
    loaded = run.load([4, 0])
    assert (loaded.mask.numpy() == expected).all()
    assert loaded.images.shape == loaded.mask.shape == (2, *expected.shape)


def test_images_that_were_left_out_are_made_anew(run_folder):
    settings = {"test_sets": ["counting"], "images": IMAGES, "photons": 2e4, "hole_degrees": None}
    _rewritten(run_folder, "run.json", lambda run: run.update(identity={"settings": settings}))
    (run_folder / "test_set.h5").unlink()
    run = read_run(run_folder)
    assert (run.kind, run.count) == ("counts", IMAGES)
    images = run.load([2, 0])
    options = find_test_set("counting").options(IMAGES, 2e4)
    expected = PatternSource(options, run.experiment, 5).block(range(IMAGES))
    for place, image in enumerate((2, 0)):
        assert (images.images[place] == expected.images[image]).all()
        assert (images.mask[place] == (expected.mask[image] & run.experiment.valid())).all()


def test_runs_of_one_folder_keep_their_order(inputs, tmp_path):
    for name in ("b", "a"):
        shutil.copytree(inputs, tmp_path / name)
    (tmp_path / "campaign.json").write_text(json.dumps({"runs": ["b", "a"]}))
    assert list(read_runs(tmp_path)) == ["b", "a"]
    assert list(read_runs(tmp_path / "a")) == [""]
    text = write_report(tmp_path).read_text()
    assert "<h2>All test sets</h2>" in text
    (tmp_path / "campaign.json").write_text(json.dumps({"runs": []}))
    with pytest.raises(InputError, match="names no run"):
        read_runs(tmp_path)


@pytest.fixture
def seeds(inputs, tmp_path):
    """Two runs of one test set with other images and answers, and a third of another test set."""
    runs = {"mine-5": ("mine", 5), "yours": ("yours", 5), "mine-6": ("mine", 6)}
    for name in runs:
        shutil.copytree(inputs, tmp_path / name)
        _rewritten(tmp_path / name, "run.json", lambda run, name=name: run.update(commit=f"{name}+"))
    second = tmp_path / "mine-6"
    other = made_results(seed=9)
    other.loc[other["method"] == "simplex", "success"] = False
    other.to_parquet(second / "results.parquet")
    _rewritten(second, "run.json", lambda run: run.update(seed=6))
    with h5py.File(second / "test_set.h5", "r+") as stream:
        stream["/entry_1/data_1/data"][...] = stream["/entry_1/data_1/data"][()] + 1
    described = {name: {"test_set": test_set, "seed": seed} for name, (test_set, seed) in runs.items()}
    (tmp_path / "campaign.json").write_text(json.dumps({"runs": described}))
    return tmp_path


def test_seeds_of_a_test_set_are_pooled(seeds):
    runs = read_runs(seeds)
    assert list(runs) == ["mine", "yours"]
    pooled, parts = runs["mine"], [read_run(seeds / name) for name in ("mine-5", "mine-6")]
    assert (pooled.count, pooled.seeds, runs["yours"].seeds) == (2 * IMAGES, 2, 1)
    for method in COST:
        answers = pooled.results[pooled.results["method"] == method]
        assert sorted(answers["image"]) == list(range(2 * IMAGES))
        assert answers["run"].tolist() == ["mine-5"] * IMAGES + ["mine-6"] * IMAGES
        assert answers["seed"].tolist() == [5] * IMAGES + [6] * IMAGES
        assert answers["block"].nunique() == 2  # of at most eight images, none with images of two runs
    own = [part.results for part in parts]
    for column in ("disorientation_deg", "seconds", "success"):
        assert sorted(pooled.results[column]) == sorted([*own[0][column], *own[1][column]])
    rates = [table.groupby("method", sort=False)["success"].mean() for table in own]
    table = summary_table(pooled.results).set_index("method")
    assert table["success_rate"].to_dict() == pytest.approx(((rates[0] + rates[1]) / 2).to_dict())
    assert set(pooled.curves["image"]) == set(range(2 * IMAGES))
    # Images come from the right run: those of the second have a count more.
    numbers = [IMAGES + 2, 2, 0]
    shown = pooled.load(numbers).images
    for place, (part, image) in enumerate(((parts[1], 2), (parts[0], 2), (parts[0], 0))):
        assert torch.equal(shown[place], part.load([image]).images[0])
    assert not torch.equal(shown[0], shown[1])


def test_report_of_pooled_seeds(seeds):
    page = write_report(seeds).read_text()
    assert page.count("<h2>Summary</h2>") == 2
    assert f"{2 * IMAGES} test images of known truth" in page
    assert "simulated diffraction images from 2 seeds" in page
    assert re.search(r"image \d of mine-6", page)
    assert "mine-5+, mine-6+, yours+" in page  # uncommitted changes stay marked
    assert (seeds / "mine_targets_reached.svg").exists()
    assert (seeds / "yours" / "targets_reached.svg").exists()
    headers, rows = interval_table(read_runs(seeds)["mine"].results)
    row = dict(zip([name for name, _ in headers], rows[1], strict=True))
    first = read_run(seeds / "mine-5").results
    rate = 100 * first[first["method"] == "simplex"]["success"].mean()
    assert row["seeds: solved"] == f"0 to {number(rate)}"
    medians = [
        table[table["method"] == "simplex"]["disorientation_deg"].median()
        for table in (first, read_run(seeds / "mine-6").results)
    ]
    assert row["seeds: disorientation, median"] == f"{number(min(medians))} to {number(max(medians))}"
    (seeds / "mine-6" / "run.json").write_text(
        (seeds / "mine-6" / "run.json").read_text().replace('"wavelength_nm": 13.5', '"wavelength_nm": 13')
    )
    with pytest.raises(InputError, match="not the experiment of"):
        read_runs(seeds)


def test_older_runs_lack_columns(run_folder):
    """Core-seconds are then those of all threads of all processes; on a GPU, of all processes' GPUs."""
    machine = {"processor": "abacus", "cores": 8, "threads": 3, "workers": 2}
    _rewritten(run_folder, "run.json", lambda run: run.update(machine=machine))
    run = read_run(run_folder)
    assert np.allclose(run.results["core_seconds"], 6 * run.results["seconds"])
    assert run.curves["appendix_c_mean"].isna().all()
    _rewritten(run_folder, "run.json", lambda run: run.update(machine={**machine, "gpu": "fast"}))
    run = read_run(run_folder)
    assert np.allclose(run.results["core_seconds"], 2 * run.results["seconds"])
    _rewritten(run_folder, "results.parquet", lambda table: table.assign(core_seconds=0.5))
    assert (read_run(run_folder).results["core_seconds"] == 0.5).all()


def test_overview_of_error_bars_and_abstention(run_folder):
    """Errors about a third and twice as large as the bars; one image in seven is given up."""

    def judged(table):
        table = table.assign(disorientation_deg=0.1, radius_error_nm=0.2, orientation_std_deg=0.3)
        table["radius_std_nm"] = np.where(table["image"] < 2, 0.4, 0.1)
        table.loc[table["method"] == "network", ["orientation_std_deg", "radius_std_nm"]] = np.nan
        table["status"] = np.where(
            table["image"] == 3, "poor-fit", np.where(table["image"] == 4, "ok-race", "ok")
        )
        return table

    _rewritten(run_folder, "results.parquet", judged)
    _, rows = overview({"mine": read_run(run_folder)})
    assert {row[1]: row[6:] for row in rows} == {
        "network": ["-", "-", "14.3"],
        **{method: ["100", "29", "14.3"] for method in COST if method != "network"},
    }


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
