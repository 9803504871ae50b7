"""The scripts of reports/ run on a small comparison, each alone, and tell what it holds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


def script(name: str, *words: object) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "reports" / name, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    words = "compare --images 7 --test-sets clean,counting --methods network,network+lm,dictionary+lm"
    done = subprocess.run(
        [sys.executable, "-m", "icobench.cli", *words.split(), "--run", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_figure_3_shows_the_best_and_the_worst(run, tmp_path):
    script("figure3.py", "--run", run / "counting", "--out", tmp_path / "figure3.png")
    assert (tmp_path / "figure3.png").read_bytes().startswith(b"\x89PNG")
    shown = json.loads((tmp_path / "figure3.json").read_text())["images"]
    results = pd.read_parquet(run / "counting" / "results.parquet")
    errors = results[results["method"] == "network"]["disorientation_deg"]
    assert shown[0]["disorientation_deg"] == errors.min()
    assert shown[-1]["disorientation_deg"] == errors.max()


def test_figure_4b_stands_on_stored_courses(run, tmp_path):
    out = tmp_path / "figure4b.svg"
    script("figure4b.py", "--run", run / "clean", "--sweep", tmp_path / "none", "--out", out)
    assert b"<svg" in out.read_bytes()
    shown = json.loads((tmp_path / "figure4b.json").read_text())["methods"]
    results = pd.read_parquet(run / "clean" / "results.parquet")
    spent = results.groupby("method")["evaluations"].mean()
    assert {name: one["simulations"] for name, one in shown.items()} == spent.to_dict()


def test_break_even_is_drawn_and_its_numbers_kept(run, tmp_path):
    script("break_even.py", "--run", run, "--out", tmp_path / "break_even.svg")
    assert b"<svg" in (tmp_path / "break_even.svg").read_bytes()
    shown = json.loads((tmp_path / "break_even.json").read_text())
    assert shown["test_set"] == "clean"
    pairs = {(row["method"], row["against"]): row for row in shown["break_even"]}
    assert set(pairs) == {("network", "dictionary+lm"), ("network+lm", "dictionary+lm")}
    network, fit = (shown["accounts"][name] for name in ("network", "dictionary+lm"))
    dear = (network["fixed_simulations"] - fit["fixed_simulations"]) / fit["evaluations"]
    row = pairs[("network", "dictionary+lm")]
    assert row["dear_simulations"]["value"] == pytest.approx(dear)
    assert row["at"]["the paper"]["value"] == pytest.approx(dear, rel=0.1)
    assert set(row["at"]) == set(shown["marks"])
    assert shown["not_charged"]["trainings"] >= 30


def test_claims_are_read_from_the_results(run, tmp_path):
    script("claims.py", "--run", run, "--out", tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    assert "Most accurate on counting: " in text
    assert "7 images each" in text
    assert "- clean: network+lm takes " in text
    # Without a simplex in the run, what is said of it is not measured.
    (line,) = [line for line in text.splitlines() if line.startswith("| simulations for an image")]
    assert "not measured yet" in line
    script("claims.py", "--run", tmp_path / "none", "--out", tmp_path / "empty.md")
    assert "The laptop run is still owed." in (tmp_path / "empty.md").read_text()
