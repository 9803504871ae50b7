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
    words = (
        "compare --images 4 --seeds 2 --test-sets paper,counting --methods network,network+lm,dictionary+lm"
    )
    done = subprocess.run(
        [sys.executable, "-m", "icobench.cli", *words.split(), "--run", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_figure_3_shows_the_best_and_the_worst(run, tmp_path):
    script("figure3.py", "--run", run / "counting-1", "--out", tmp_path / "figure3.png")
    assert (tmp_path / "figure3.png").read_bytes().startswith(b"\x89PNG")
    shown = json.loads((tmp_path / "figure3.json").read_text())["images"]
    results = pd.read_parquet(run / "counting-1" / "results.parquet")
    errors = results[results["method"] == "network"]["disorientation_deg"]
    assert shown[0]["disorientation_deg"] == errors.min()
    assert shown[-1]["disorientation_deg"] == errors.max()


def test_figure_4b_stands_on_stored_results(run, tmp_path):
    out = tmp_path / "figure4b.svg"
    script("figure4b.py", "--run", run, "--sweep", tmp_path / "none", "--out", out)
    assert b"<svg" in out.read_bytes()
    shown = json.loads((tmp_path / "figure4b.json").read_text())
    results = pd.concat([pd.read_parquet(run / f"paper-{seed}" / "results.parquet") for seed in (0, 1)])
    for name, answers in results.groupby("method"):
        row = shown["methods"][name]
        assert row["images"] == 8
        assert row["simulations"] == answers["evaluations"].mean()
        assert row["appendix_c_mean"]["median"] == pytest.approx(answers["appendix_c_mean"].median())
    cards = json.loads((run / "paper-0" / "run.json").read_text())["networks"]
    assert shown["methods"]["network"]["simulated_before"] == sum(
        card["training_simulations"] for card in cards
    )
    assert shown["methods"]["dictionary+lm"]["before"]["here"] == pytest.approx(1000, rel=0.2)
    # The complete one of the published set's parts has as many images as the paper's, and its training time.
    assert [row["images"] for row in shown["parts"]] == sorted(row["images"] for row in shown["parts"])
    assert shown["parts"][-1]["images"] == 25_058
    assert shown["parts"][-1]["before"]["paper"] == pytest.approx(
        25_058 + shown["parts"][-1]["gpu_seconds"] / 2.5
    )
    script("figure4b.py", "--run", tmp_path / "none", "--out", tmp_path / "owed.svg")
    assert not (tmp_path / "owed.svg").exists()


def test_break_even_is_drawn_and_its_numbers_kept(run, tmp_path):
    script("break_even.py", "--run", run, "--out", tmp_path / "break_even.svg")
    assert b"<svg" in (tmp_path / "break_even.svg").read_bytes()
    shown = json.loads((tmp_path / "break_even.json").read_text())
    assert shown["test_set"] == "paper"
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
    script("claims.py", "--run", run, "--figures", tmp_path, "--out", tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    assert "| counting | network+lm | 8 |" in text
    assert "- paper: network+lm takes " in text
    assert "36.7" not in text
    # Without a simplex in the run, what is said of it is not measured.
    (line,) = [line for line in text.splitlines() if line.startswith("| simulations for an image")]
    assert "not measured yet" in line
    script("claims.py", "--run", tmp_path / "none", "--figures", tmp_path, "--out", tmp_path / "empty.md")
    assert "The laptop run is still owed." in (tmp_path / "empty.md").read_text()


@pytest.mark.slow
def test_the_figures_of_the_physics_page_are_drawn(tmp_path):
    script("conventions.py", "--out", tmp_path)
    drawn = {path.name for path in tmp_path.iterdir() if b"<svg" in path.read_bytes()[:1000]}
    assert drawn == {path.name for path in (ROOT / "docs" / "figures").iterdir()}
    page = (ROOT / "docs" / "physics.md").read_text()
    assert all(f"(figures/{name})" in page for name in drawn)
