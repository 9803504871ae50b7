"""The command line as users meet it: results, one-line errors, exit codes, nothing half-written."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from icobench import cli

DATA = Path(__file__).parent / "data"
ROWS = [
    "index", "radius_nm", "q_w", "q_x", "q_y", "q_z", "radius_std_nm", "orientation_std_deg",
    "objective", "evaluations", "seconds", "status",
]  # fmt: skip


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run ``icobench ...`` in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["icobench", *shlex.split(line)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def one_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


COMMANDS = [
    "compare", "reconstruct", "simulate", "generate", "merge", "train", "sweep", "tune network",
    "tune simplex", "report",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(call, command):
    code, out, _ = call(f"{command} --help")
    assert code == 0
    assert "Example" in out
    assert f"icobench {command}" in " ".join(out.split())


def test_import_and_help_load_nothing_heavy():
    code = (
        "import sys, icobench, icobench.cli; "
        "heavy = {'torch', 'pandas', 'matplotlib', 'optuna', 'h5py', 'scipy'} & set(sys.modules); "
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_compare_leaves_a_report_and_continues(call, tmp_path):
    line = "compare --images 2 --methods network,network+lm --run run --seed 5"
    code, out, err = call(line)
    assert code == 0, err
    assert "network+lm" in out
    folder = tmp_path / "run"
    for name in ("results.parquet", "curves.parquet", "run.json", "report.html", "test_set.h5"):
        assert (folder / name).exists()
    results = pd.read_parquet(folder / "results.parquet")
    assert len(results) == 4
    described = json.loads((folder / "run.json").read_text())
    assert described["command"] == f"icobench {line}"
    parts = sorted((folder / "parts").iterdir())
    times = [part.stat().st_mtime_ns for part in parts]
    code, again, err = call(line)
    assert code == 0, err
    assert [part.stat().st_mtime_ns for part in parts] == times
    assert again == out
    code, table, _ = call("report run")
    assert code == 0
    assert table == out


def test_reconstruct_writes_the_promised_columns_and_a_preview(call, tmp_path):
    code, _, err = call(
        f"reconstruct {DATA / 'pymsft_patterns.cxi'} --method network+lm --solid-angle-factor "
        "--out result.csv --preview preview.png"
    )
    assert code == 0, err
    table = pd.read_csv(tmp_path / "result.csv")
    assert list(table.columns) == ROWS
    assert len(table) == 4
    assert table["status"][0] == "ok"
    assert (tmp_path / "preview.png").read_bytes().startswith(b"\x89PNG")


def test_generate_then_reconstruct_parquet(call, tmp_path):
    assert call("generate set.h5 --images 2 --seed 4")[0] == 0
    with h5py.File(tmp_path / "set.h5") as stream:
        assert stream["/entry_1/data_1/data"].shape == (2, 128, 128)
        truth = stream["/icobench/radius_nm"][()]
    assert call("reconstruct set.h5 --method network+simplex --out r.parquet")[0] == 0
    table = pd.read_parquet(tmp_path / "r.parquet")
    assert list(table.columns) == ROWS
    np.testing.assert_allclose(table["radius_nm"], truth, atol=1.0)


def test_simulate_is_what_the_simulator_says(call, tmp_path):
    code, _, err = call("simulate p.npy --radius 60 --radius 70 --quaternion 1,0,0,0")
    assert code == 0, err
    images = np.load(tmp_path / "p.npy")
    assert images.shape == (2, 128, 128)
    assert images[1].max() > images[0].max()
    assert call("simulate p.h5 --radius 60 --photons 1e4 --hole 3")[0] == 0
    with h5py.File(tmp_path / "p.h5") as stream:
        data, mask = stream["/entry_1/data_1/data"][()], stream["/entry_1/data_1/mask"][()]
    assert abs(data.sum() - 1e4) < 500  # five standard deviations
    assert (data[mask != 0] == 0).all()


def test_small_studies_run_and_resume(call, tmp_path):
    line = "sweep --axis starts --points 1,2 --images 2 --run sweep"
    code, first, err = call(line)
    assert code == 0, err
    assert len(pd.read_csv(tmp_path / "sweep" / "starts.csv")) == 2
    assert call(line)[1] == first
    code, out, err = call("tune simplex --trials 1 --images 1 --run tune")
    assert code == 0, err
    assert "best of 1" in out


def write(path: Path, array: np.ndarray) -> str:
    np.save(path, array)
    return str(path)


def counts(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(3.0, (2, 128, 128)).astype(float)


def test_bad_images_are_refused_in_one_line(call, tmp_path):
    nan, negative = counts(), counts()
    nan[1, 70, 70] = np.nan
    negative[0, 70, 70] = -1
    masked = tmp_path / "masked.npz"
    np.savez(masked, data=counts(), mask=np.ones((128, 128)))
    cut = tmp_path / "cut.cxi"
    cut.write_bytes((DATA / "pymsft_patterns.cxi").read_bytes()[:5000])
    cases = {
        write(tmp_path / "shape.npy", np.zeros((2, 3, 128, 128))): "expected images of shape",
        write(tmp_path / "nan.npy", nan): "image 1 holds NaN",
        write(tmp_path / "negative.npy", negative): "image 0 holds negative",
        str(masked): "masked completely",
        str(cut): "not a readable HDF5 file",
        str(tmp_path / "none.cxi"): "no such file",
        f"{DATA / 'pymsft_patterns.cxi'} --data-path /no/such": "no dataset /no/such",
    }
    for arguments, message in cases.items():
        code, _, err = call(f"reconstruct {arguments} --out result.csv")
        assert code == 2, (arguments, err)
        assert message in one_line(err)
        assert not (tmp_path / "result.csv").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("reconstruct x.npy --method magic", "unknown method 'magic'"),
        ("reconstruct {cxi} --wavelength 20", "weights were made for"),
        ("reconstruct {cxi} --refractive-index 0.5+0.3j", "weights were made for"),
        ("reconstruct {cxi} --sin-theta-max 0.2", "weights were made for"),
        ("reconstruct {cxi} --refractive-index many", "--refractive-index must be a complex number"),
        ("reconstruct {cxi} --model none.safetensors", "none.safetensors: no such file"),
        ("reconstruct {cxi} --out missing/result.csv", "missing: no such folder"),
        ("reconstruct {cxi} --out result.docx", "--out must end in .csv or .parquet"),
        ("reconstruct {cxi} --device abacus", "--device must be auto, cpu or cuda"),
        ("compare --preset huge", "unknown preset 'huge'"),
        ("compare --methods network,magic", "unknown method 'magic'"),
        ("simulate out.h5 --radius -3", "radius_nm must be positive"),
        ("simulate out.h5 --radius 60 --quaternion 1,2", "one quaternion"),
        ("simulate out.h5 --radius 60 --method magic", "unknown method 'magic'"),
        ("simulate out.h5 --radius 200 --method sliced", "does not fit"),
        ("generate out.h5 --photons -1", "photons must lie in"),
        ("train --preset huge", "unknown preset 'huge'"),
        ("sweep --axis moon", "unknown axis 'moon'"),
        ("report nowhere", "nowhere"),
    ],
)
def test_bad_options_are_refused_in_one_line(call, tmp_path, line, message):
    code, _, err = call(line.format(cxi=DATA / "pymsft_patterns.cxi"))
    assert code == 2, err
    assert message in one_line(err)
    assert list(tmp_path.iterdir()) == []


def test_generate_in_shards_then_merge(call, tmp_path):
    line = "--images 6 --kind log --detector experiment --seed 4"
    for shard in (1, 2):
        code, _, err = call(f"generate {shard}.h5 {line} --shard {shard}/2")
        assert code == 0, err
    code, _, err = call("merge all.h5 1.h5")
    assert code == 2
    assert "missing shard 2/2" in err
    assert call("merge all.h5 1.h5 2.h5")[0] == 0
    assert call(f"generate whole.h5 {line}")[0] == 0
    with h5py.File(tmp_path / "all.h5") as merged, h5py.File(tmp_path / "whole.h5") as whole:
        for name in ("entry_1/data_1/data", "entry_1/data_1/mask", "icobench/radius_nm"):
            assert (merged[name][()] == whole[name][()]).all()
    code, _, err = call("generate whole.h5 --images 7 --seed 4")
    assert code == 2
    assert "other settings" in err
