"""The front door for Python: the same path as the command line, and examples that run."""

import doctest
import inspect
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import icobench
from icobench import cli


@pytest.fixture(autouse=True)
def _compiled(monkeypatch):
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")


def command(line: str, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["icobench", *line.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)


@pytest.mark.parametrize("kind", ["counts", "log"])
def test_rows_are_those_of_the_command_line(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = icobench.generate(3, kind=kind, detector="experiment", seed=4, path="set.h5")
    np.save("frames.npy", images.images.numpy())
    np.save("mask.npy", (~images.mask).numpy())
    command(f"reconstruct frames.npy --mask mask.npy --kind {kind} --out rows.parquet", monkeypatch)
    answer = icobench.reconstruct(images.images.numpy(), mask=images.mask, kind=kind)
    stored = pd.read_parquet("rows.parquet")
    pd.testing.assert_frame_equal(answer.to_frame().drop(columns="seconds"), stored.drop(columns="seconds"))


def test_frames_of_any_size_are_checked_and_brought_to_the_grid(tmp_path):
    """What a hand-made set of images would silently lack: the cut, the checks and the resampling."""
    flat = icobench.FlatDetector(50.0, 0.5)
    seen = icobench.Experiment(detector=flat, pixels=256, solid_angle_factor=True)
    pattern = icobench.simulate(50.0, (0.9, 0.1, 0.3, 0.2), photons=3e5, experiment=seen)
    frames = torch.cat((pattern.images, torch.full_like(pattern.images, torch.nan)))
    answer = icobench.reconstruct(frames, detector=flat)
    assert answer.status == ["ok", "failed: masked completely"]
    assert abs(float(answer.radius_nm[0]) - 50) < 0.2
    assert torch.isnan(answer.radius_nm[1])
    assert (answer.experiment.pixels, answer.experiment.solid_angle_factor) == (128, True)
    with pytest.raises(icobench.InputError, match="at least 16 pixels a side"):
        icobench.reconstruct(np.ones((8, 8)))
    with pytest.raises(icobench.InputError, match=r"mask of shape \(4, 4\) does not fit"):
        icobench.reconstruct(np.ones((64, 64)), mask=np.ones((4, 4), bool))


def test_a_comparison_is_that_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("compare --images 2 --methods network,dictionary+lm --run run --seed 5 --workers 1", monkeypatch)
    result = icobench.compare(["network", "dictionary+lm"], images=2, seed=5, workers=1)
    stored = pd.read_parquet("run/results.parquet")
    pd.testing.assert_frame_equal(
        result.results.drop(columns=["seconds", "core_seconds"]),
        stored.drop(columns=["seconds", "core_seconds"]),
    )
    kept = icobench.compare(["network", "dictionary+lm"], images=2, seed=5, workers=1, folder="kept")
    assert (tmp_path / "kept" / "run.json").exists()
    columns = ["image", "method", "radius_nm", "evaluations", "status"]
    pd.testing.assert_frame_equal(kept.results[columns], result.results[columns])
    assert list(result.table()["method"]) == ["network", "dictionary+lm"]
    assert result.plot().axes
    assert "<table" in result._repr_html_()


def test_methods_and_test_sets_of_ones_own_are_values():
    few = replace(icobench.methods()["simplex"].with_options(starts=1, iterations=2), name="few")
    bright = replace(icobench.test_sets()["counting"], name="bright")
    result = icobench.compare([few, "network"], [bright, "clean"], images=1)
    assert list(result.results["run"]) == ["bright", "bright", "clean", "clean"]
    assert list(result.table()["method"]) == ["few", "network"] * 2
    assert result.failures == {}
    assert "few" not in icobench.methods()


def test_answers_show_themselves_as_tables():
    answer = icobench.reconstruct(icobench.simulate([60.0, 90.0], photons=1e5), method="network")
    assert len(answer) == 2
    assert answer._repr_html_().count("<tr") == 3
    assert list(answer.to_frame()["index"]) == [0, 1]


PUBLIC = sorted(set(icobench.__all__) - {"__version__"})


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example_that_runs(name):
    value = getattr(icobench, name)
    text = inspect.getdoc(value)
    assert ">>> " in text, name
    names = vars(inspect.getmodule(value)) | {"icobench": icobench}
    test = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert (results.attempted > 0, results.failed) == (True, 0)


def test_import_loads_nothing_heavy():
    code = "import sys, icobench; print(sorted({'torch', 'pandas', 'scipy', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
