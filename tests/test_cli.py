"""The command line as users meet it: results, one-line errors, exit codes, nothing half-written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import typer

from icobench.cli import app

DATA = Path(__file__).parent / "data"
ROWS = [
    "index", "radius_nm", "q_w", "q_x", "q_y", "q_z", "radius_std_nm", "orientation_std_deg",
    "objective", "evaluations", "seconds", "status",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _compiled(monkeypatch):
    """Commands simulate by the thousand: with the compiled kernel where there is a compiler."""
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")


def one_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


COMMANDS = [
    "compare", "reconstruct", "watch", "replay", "classify", "simulate", "generate", "merge", "train",
    "evaluate", "sweep", "tune network", "tune simplex", "report", "status",
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
    code, _, err = call("compare --from run/run.json --run again --workers 1")
    assert code == 0, err
    rerun = pd.read_parquet(tmp_path / "again" / "results.parquet")
    times = ["seconds", "core_seconds"]
    pd.testing.assert_frame_equal(rerun.drop(columns=times), results.drop(columns=times))
    # Other options replace what is recorded.
    assert call("compare --from run/run.json --run fewer --images 1 --methods network --seed 6")[0] == 0
    fewer = json.loads((tmp_path / "fewer" / "run.json").read_text())
    assert (fewer["seed"], fewer["settings"]["images"], list(fewer["methods"])) == (6, 1, ["network"])
    for words, message in (
        ("", "--from needs --run"), ("--run x --preset quick", "give --from, --preset or --config"),
        ("--run x --config x.toml", "give --from, --preset or --config"),
    ):  # fmt: skip
        code, _, err = call(f"compare --from run/run.json {words}")
        assert code == 2
        assert message in one_line(err)
    code, _, err = call("compare --from missing.json --run x")
    assert code == 2
    assert "missing.json: no such file" in one_line(err)


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
    line = "sweep --axis starts --points 1,2 --seeds 1 --iterations 5 --images 2 --run sweep"
    code, first, err = call(line)
    assert code == 0, err
    assert len(pd.read_csv(tmp_path / "sweep" / "sweep.csv")) == 2
    assert call(line)[1] == first
    assert "2 of 2 points done" in call("status sweep")[1]
    code, out, err = call("tune simplex --trials 2 --images 2 --budget 60 --run tune")
    assert code == 0, err
    assert "best: trial " in out
    assert "tried first: trial 0 paper" in out
    assert "2 complete" in call("status tune")[1]
    code, out, err = call("compare --config tune/best.toml --methods simplex-tuned --run tuned")
    assert code == 0, err
    card = json.loads((tmp_path / "tuned" / "run.json").read_text())["methods"]["simplex-tuned"]
    assert card["search"]["trials"] == 2
    code, _, err = call("tune simplex --trials 2 --images 3 --budget 60 --run tune")
    assert code == 2
    assert "holds a search with other settings" in one_line(err)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("reconstruct x.npy --method magic", "unknown method 'magic'"),
        ("reconstruct x.npy --method magic-propagated", "unknown method 'magic-propagated'"),
        (
            "simulate out.h5 --radius 60 --physics bent",
            "physics must be one of straight, propagated",
        ),
        (
            "simulate out.h5 --radius 60 --physics auto",
            "physics must be one of straight, propagated",
        ),
        (
            "simulate out.h5 --radius 60 --polarization left",
            "--polarization must be none, x, y",
        ),
        ("simulate out.h5 --radius 60 --polarization nan", "polarization must be an angle in degrees"),
        ("simulate out.h5 --radius 60 --material Xx", "--material Xx: no element or compound"),
        ("simulate out.h5 --radius 60 --material SiO2", "give its density in g/cm^3"),
        ("simulate out.h5 --radius 60 --material Ag --refractive-index 0.9+0.1j", "not both"),
        ("reconstruct {cxi} --wavelength 20", "states wavelength 13.5 nm"),
        (
            "reconstruct {cxi} --wavelength 20 --override",
            "weights were made for wavelength 13.5 nm, not 20 nm; --method",
        ),
        ("reconstruct {cxi} --refractive-index 0.5+0.3j", "weights were made for"),
        ("reconstruct {cxi} --sin-theta-max 0.2", "weights were made for"),
        ("reconstruct {cxi} --refractive-index many", "--refractive-index must be a complex number"),
        ("reconstruct {cxi} --model none.safetensors", "none.safetensors: no such file"),
        ("reconstruct {cxi} --out missing/result.csv", "missing: no such folder"),
        ("classify {cxi} --out labels.docx", "--out must end in .csv or .parquet"),
        ("classify {cxi} --model none.safetensors", "none.safetensors: no such file"),
        ("classify none.cxi", "none.cxi: no such file"),
        ("classify {cxi} --kind pictures", "kind must be"),
        ("reconstruct {cxi} --out result.docx", "--out must end in .csv or .parquet"),
        ("reconstruct {cxi} --physics auto --nuisance centre", "the centre cannot be fitted along"),
        ("reconstruct {cxi} --physics propagated --nuisance centre", "the centre cannot be fitted along"),
        ("reconstruct {cxi} --device abacus", "--device must be auto, cpu or cuda"),
        ("reconstruct {cxi} --distance-mm 50", "needs --distance-mm and --pixel-mm"),
        ("reconstruct {cxi} --distance-mm 0 --pixel-mm 1", "distance_mm must be positive"),
        ("reconstruct {cxi} --centre 3", "--centre must be two numbers x,y"),
        ("reconstruct {cxi} --pixels 99", "pixels must be even"),
        ("reconstruct {cxi} --saturation nan", "saturation must be a positive number"),
        ("simulate out.h5 --radius 60 --beam 3,4", "needs --distance-mm and --pixel-mm"),
        ("watch {cxi} --out live.csv", "--out must end in .parquet"),
        ("watch {cxi} --method simplex", "watch needs a method that begins with a network"),
        ("watch {cxi} --subscribe", "only a stream can be subscribed to"),
        ("watch frames.npy", "only an HDF5 file grows frame by frame; watch its folder instead"),
        ("watch nowhere/run.h5", "nowhere: no such folder"),
        ("watch {cxi} --page 1 --out missing/live.parquet", "missing: no such folder"),
        ("watch {cxi} --idle inf", "--idle must be a finite number"),
        ("replay {cxi} --rate inf", "--rate must be a finite number"),
        ("watch tcp://nonsense", "tcp://nonsense: no address of a stream"),
        ("watch {cxi} --wavelength 20", "states wavelength 13.5 nm"),
        ("replay nowhere.h5", "nowhere.h5: no such file"),
        ("compare --preset huge", "unknown preset 'huge'"),
        ("compare --methods network,magic", "unknown method 'magic'"),
        ("simulate out.h5 --radius -3", "radius_nm must be positive"),
        ("simulate out.h5 --radius 60 --quaternion 1,2", "one quaternion"),
        ("simulate out.h5 --radius 60 --method magic", "unknown method 'magic'"),
        ("simulate out.h5 --radius 200 --method sliced", "does not fit"),
        ("generate out.h5 --photons -1", "photons must lie in"),
        ("train --preset huge", "unknown preset 'huge'"),
        ("train --data nowhere.h5", "nowhere.h5: no such file"),
        ("train --refractive-index some", "--refractive-index must be a complex number"),
        ("train --wavelength 0", "wavelength_nm must be positive"),
        ("train --preset smoke --refractive-index 0.7+0.1j", "the recipe is for refractive index"),
        ("sweep --axis dataset --sin-theta-max 0.5", "training needs 128 x 128 pixels"),
        ("evaluate --sets clean,moon", "unknown test set 'moon'"),
        ("evaluate --model nowhere.safetensors", "nowhere.safetensors: no such file"),
        ("sweep --axis moon", "unknown axis 'moon'"),
        ("sweep --axis starts --points 3,some", "--points must be numbers such as"),
        ("sweep --axis starts --shard 3/2", "shard 3/2: shards are counted from 1"),
        ("sweep --axis starts --method network", "--method has no meaning on the axis starts"),
        ("sweep --partition gpu", "--partition needs --executor slurm"),
        ("sweep --executor moon --run x", "--executor must be local or slurm"),
        ("sweep --executor slurm", "--executor slurm needs --run"),
        ("sweep --executor slurm --shard 1/2 --run x", "makes the shards itself"),
        ("tune simplex --space nowhere.toml", "nowhere.toml: No such file"),
        ("tune network --preset huge", "unknown preset 'huge'"),
        ("train --config nowhere.toml", "nowhere.toml: No such file"),
        ("generate ''", ".: is a folder"),
        (f"generate {'x' * 300}.h5 --images 3", "File name too long"),
        ("generate b.h5 --images 99999999999", "number of images must be at most"),
        ("generate b.h5 --images 900000000", "are free"),
        ("simulate a.h5 --radius 60 --hole 1e400", "the hole must lie in 0 to 80 degrees"),
        ("simulate a.h5 --radius 60 --photons 1e300", "the number of photons must lie in"),
        ("simulate a.h5 --radius 60 --pixels 1000000", "at most 8,192 pixels"),
        ("simulate a.h5 --radius 60 --pixels 20000", "at most 8,192 pixels"),
        ("simulate / --radius 60", "/: is a folder"),
        ("sweep --axis starts --wavelength 2 --run s", "larger than the grid can hold at 2 nm"),
        ("sweep --axis starts --points 1e12 --run s", "--points must be positive whole numbers of at most"),
        ("compare --images 1000000000000 --run c", "images must be at most 1,000,000"),
        ("compare --seeds 100000000000000000000000 --run c", "seeds must be at most 10,000"),
        (f"compare --images 2 --run {'x' * 300}", "File name too long"),
        ("tune simplex --trials 1000000000000000 --run t", "--trials must be at most 1,000,000"),
        ("train --steps 999999999999999999999 --run t", "steps must be at most 1,000,000,000"),
        ("merge m.h5 nothere.h5", "nothere.h5: no such file"),
        ("reconstruct {cxi} --preview ..", "..: is a folder"),
        ("reconstruct {cxi} --shape egg", "unknown shape 'egg', choose from icosahedron"),
        ("reconstruct {cxi} --shape hexagonal-prism=9", "must lie in 0.5 to 3, got 9"),
        ("reconstruct {cxi} --shape auto --method network", "networks know icosahedra only"),
        ("simulate out.h5 --radius 60 --shape cube=2", "the cube has no parameter"),
        ("status nowhere", "nowhere: no run, search, sweep or shards"),
        ("report nowhere", "nowhere"),
    ],
)
def test_bad_options_are_refused_in_one_line(call, tmp_path, line, message):
    code, _, err = call(line.format(cxi=DATA / "pymsft_patterns.cxi"))
    assert code == 2, err
    assert message in one_line(err)
    assert list(tmp_path.iterdir()) == []


def test_train_on_a_stored_set_then_evaluate(call, tmp_path):
    assert call("generate set.h5 --images 5 --detector clean --seed 4")[0] == 0
    code, _, err = call("train --preset smoke --steps 2 --data set.h5 --run run")
    assert code == 0, err
    assert "finished" in err
    code, out, err = call("evaluate --images 3 --sets counting --model run/network.safetensors --out e")
    assert code == 0, err
    assert "| counting | disorientation, deg |" in out
    assert {path.name for path in (tmp_path / "e").iterdir()} == {
        "evaluation.json", "evaluation.md", "evaluation.parquet",
    }  # fmt: skip


def test_the_published_network_by_its_name(call, tmp_path):
    """A bare name is the shipped network; ./paper is a folder here, whatever is in it."""
    from icobench.network.selection import SHIPPED

    assert call("generate set.h5 --images 1 --kind log --detector clean --background 0.02 --seed 4")[0] == 0
    code, _, err = call("reconstruct set.h5 --method network --model paper")
    assert code == 0, err
    assert "converted" not in err
    by_name = pd.read_csv(tmp_path / "result.csv")
    # The method keeps its weights, whatever the model.
    assert call(f"reconstruct set.h5 --method paper-network --model {SHIPPED / 'clean.safetensors'}")[0] == 0
    columns = [name for name in ROWS if name != "seconds"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "result.csv")[columns], by_name[columns])
    (tmp_path / "paper").mkdir()
    code, _, err = call("reconstruct set.h5 --method network --model ./paper")
    assert code == 2
    assert "paper: no weights in this folder" in one_line(err)


def test_train_for_another_wavelength_and_material(call, tmp_path):
    """Streamed, or on a set, which says itself what it was made for."""
    from icobench.network.checkpoint import read_weights

    line = "--wavelength 13 --refractive-index 0.9+0.08j"
    assert call(f"generate set.h5 --images 5 --detector clean --seed 4 {line}")[0] == 0
    trained = "train --preset smoke --steps 1"
    for run in (f"--run a {line}", "--run b --data set.h5", f"--run c --data set.h5 {line}"):
        code, _, err = call(f"{trained} {run}")
        assert code == 0, err
    for run in "abc":
        card = read_weights(tmp_path / run / "network.safetensors").card
        assert card["experiment"]["refractive_index"] == [0.9, 0.08]
        assert card["experiment"]["wavelength_nm"] == 13
        assert (card["data"] is None) == (run == "a")
    code, _, err = call(f"{trained} --run d --data set.h5 --wavelength 13.5")
    assert code == 2
    assert "made for another experiment (wavelength_nm 13.0, not 13.5)" in one_line(err)
    assert not (tmp_path / "d").exists()


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


@pytest.mark.slow
def test_several_test_sets_make_a_folder_of_runs(call, tmp_path):
    line = "compare --images 2 --methods network,dictionary+lm --test-sets clean,counting --run runs"
    code, out, err = call(line)
    assert code == 0, err
    assert "clean" in out
    assert "counting" in out
    assert (tmp_path / "runs" / "counting" / "results.parquet").exists()
    assert "Most accurate on counting" in (tmp_path / "runs" / "report.html").read_text()
    code, table, _ = call("report runs --format md")
    assert code == 0
    assert table.count("| network |") == 2
    (tmp_path / "own.toml").write_text('images = 2\nmethods = ["mine"]\n')
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\nfrom icobench.methods import METHODS\n"
        'MINE = replace(METHODS["network"].with_options(versions=2), name="mine", summary="my own")\n'
    )
    code, out, err = call("compare --config own.toml --method-file mine.py --run own")
    assert code == 0, err
    assert "mine" in out


@pytest.mark.parametrize("command", ["", "reconstruct", "compare", "generate", "tune network"])
def test_help_at_a_latin_1_terminal(command):
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    call = [sys.executable, "-m", "icobench.cli", *command.split(), "--help"]
    done = subprocess.run(call, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Usage" in done.stdout


@pytest.mark.slow
def test_a_notebooks_backend_does_not_matter(tmp_path):
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    images = str(DATA / "pymsft_patterns.cxi")
    call = [
        sys.executable,
        "-m",
        "icobench.cli",
        "reconstruct",
        images,
        "--method",
        "network",
        "--preview",
        "p.png",
    ]
    done = subprocess.run(call, env=environment, capture_output=True, cwd=tmp_path, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "wrote p.png" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_is_declared_twice(name):
    """One of the two would be ignored without a word."""
    command = typer.main.get_command(app)
    for word in name.split():
        command = command.commands[word]
    declared = [option for parameter in command.params for option in parameter.opts]
    assert len(set(declared)) == len(declared)
