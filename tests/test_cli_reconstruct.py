"""The files of ``icobench reconstruct`` as users meet them: what it reads, refuses and writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from icobench.geometry.orientation import disorientation
from icobench.images.detector import MCP_EFFICIENCY
from tests.test_cli import DATA, ROWS, _compiled, one_line  # noqa: F401  a fixture


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


def write(path: Path, array: np.ndarray) -> str:
    np.save(path, array)
    return str(path)


def counts(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(3.0, (2, 128, 128)).astype(float)


def write_hdf5(path: Path, data, mask=None) -> str:
    with h5py.File(path, "w") as stream:
        stream["/entry_1/data_1/data"] = data
        if mask is not None:
            stream["/entry_1/data_1/mask"] = mask
    return str(path)


def test_bad_images_are_refused_in_one_line(call, tmp_path):
    cut = tmp_path / "cut.cxi"
    cut.write_bytes((DATA / "pymsft_patterns.cxi").read_bytes()[:5000])
    damaged = tmp_path / "damaged.cxi"
    damaged.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(5000))
    text = np.full((2, 128, 128), b"x")
    at = "/entry_1/data_1"
    cases = {
        write(tmp_path / "rank.npy", np.zeros((2, 3, 128, 128))): "rank.npy: expected images of shape",
        write_hdf5(tmp_path / "rank.h5", np.zeros(128)): f"rank.h5, {at}/data: expected images of shape",
        write_hdf5(tmp_path / "complex.h5", counts() + 1j): f"complex.h5, {at}/data: images must be real",
        write_hdf5(tmp_path / "text.h5", text): f"text.h5, {at}/data: images must be real",
        write_hdf5(tmp_path / "object.h5", ["a", "b"]): f"object.h5, {at}/data: images must be real",
        write_hdf5(tmp_path / "none.h5", np.zeros((0, 128, 128))): f"none.h5, {at}/data: holds no image",
        write_hdf5(tmp_path / "mask.h5", counts(), np.zeros((128, 64))): f"mask.h5, {at}/mask: mask of shape",
        str(cut): "cut.cxi: not a readable HDF5 file",
        str(damaged): "damaged.cxi: not a readable HDF5 file",
        str(tmp_path / "nowhere.cxi"): "nowhere.cxi: no such file",
        f"{DATA / 'pymsft_patterns.cxi'} --dataset /no/such": "more are: /entry_1/data_1/data, /entry_1",
        f"{DATA / 'pymsft_patterns.cxi'} --mask-path /no/such": "no dataset /no/such",
    }
    for arguments, message in cases.items():
        code, _, err = call(f"reconstruct {arguments} --out result.csv")
        assert code == 2, (arguments, err)
        assert message in one_line(err)
        assert not (tmp_path / "result.csv").exists()


def test_bad_frames_fail_alone_and_are_named(call, tmp_path):
    assert call("simulate good.h5 --radius 60 --photons 1e5")[0] == 0
    with h5py.File(tmp_path / "good.h5") as stream:
        good = stream["/entry_1/data_1/data"][0].astype(float)
    frames = np.stack([good] * 5)
    frames[1] = np.nan
    frames[2, 70, 70] = -1
    frames[3] = 0
    frames[4, 70, 70] = np.inf
    path = write_hdf5(tmp_path / "some.h5", frames)
    code, _, err = call(f"reconstruct {path} --method network --out r.csv --preview p.png")
    assert code == 0, err
    table = pd.read_csv(tmp_path / "r.csv")
    assert list(table.columns) == ROWS
    assert table["index"].tolist() == [0, 1, 2, 3, 4]
    failed = table["status"].str.startswith("failed: ")
    assert failed.tolist() == [False, True, False, True, False]
    assert table.loc[failed, ROWS[1:9]].isna().all(axis=None)
    assert (table.loc[failed, ["evaluations", "seconds"]] == 0).all(axis=None)
    assert table.loc[~failed, "radius_nm"].between(55, 65).all()
    assert "pixels that hold -1 are gaps" in err
    for number, reason in ((1, "masked completely"), (3, "empty")):
        assert f"{path}, /entry_1/data_1/data: image {number} failed: {reason}" in err
        assert reason in table["status"][number]
    assert (tmp_path / "p.png").exists()


def test_a_table_is_written_although_all_frames_failed(call, tmp_path):
    path = write(tmp_path / "dark.npy", np.zeros((3, 128, 128)))
    code, _, err = call(f"reconstruct {path} --method network --out r.parquet --preview p.png")
    assert code == 2
    assert "dark.npy: no image could be fitted (image 0: empty" in one_line(err)
    table = pd.read_parquet(tmp_path / "r.parquet")
    assert (table["status"] == "failed: empty: all usable pixels are 0").all()
    assert len(table) == 3
    assert not (tmp_path / "p.png").exists()


def test_frames_of_a_flat_detector_are_reconstructed(call, tmp_path):
    """Both spellings of the geometry; the mask from a file; pixels that saturate."""
    line = "--distance-mm 50 --pixel-mm 0.5 --centre 131,122.5"
    code, _, err = call(
        f"simulate flat.h5 --radius 50 --photons 3e5 --pixels 256 --solid-angle-factor {line}"
    )
    assert code == 0, err
    same = "--distance 50 --pixel-size 0.5 --beam 131,122.5"
    assert (
        call(f"simulate same.h5 --radius 50 --photons 3e5 --pixels 256 --solid-angle-factor {same}")[0] == 0
    )
    with h5py.File(tmp_path / "flat.h5") as stream, h5py.File(tmp_path / "same.h5") as other:
        data = stream["/entry_1/data_1/data"][()]
        np.testing.assert_array_equal(data, other["/entry_1/data_1/data"][()])
    data[0, 40, 50] = 100_000
    mask = np.zeros(data.shape[1:], np.uint8)
    mask[100:110, 30:40] = 1
    data[0, 100:110, 30:40] = 90_000
    write(tmp_path / "frames.npy", data), write(tmp_path / "bad.npy", mask)
    code, _, err = call(f"reconstruct frames.npy --mask bad.npy --saturation 99999 {line} --out r.csv")
    assert code == 0, err
    table = pd.read_csv(tmp_path / "r.csv")
    assert table["status"].tolist() == ["ok"]
    assert abs(table["radius_nm"][0] - 50) < 0.2
    assert "warning" not in err


def table_of(tmp_path, name="result.csv"):
    return pd.read_csv(tmp_path / name)


ROUND_TRIPS = [
    ("--wavelength 20", "--method dictionary+lm", ""),
    ("--wavelength 12.9 --refractive-index 0.9+0.08j", "--method dictionary+lm",
     "--wavelength 12.9 --refractive-index 0.9+0.08j"),
    ("--sin-theta-max 0.7", "", "--sin-theta-max 0.7"),
    ("--solid-angle-factor", "", "--solid-angle-factor"),
    ("--polarization x", "", "--polarization x"),
    ("--pixels 192", "", ""),
    ("--pixels 512 --distance-mm 50 --pixel-mm 0.15 --centre 250.5,262", "",
     "--distance-mm 50 --pixel-mm 0.15 --centre 250.5,262"),
    ("--pixels 256 --distance-mm 50 --pixel-mm 0.3 --no-solid-angle-factor", "",
     "--distance-mm 50 --pixel-mm 0.3 --no-solid-angle-factor"),
    ("--pixels 300 --distance-mm 50 --pixel-mm 0.3 --wavelength 14", "--method dictionary+lm",
     "--distance-mm 50 --pixel-mm 0.3 --wavelength 14"),
    ("--efficiency eff.csv", "", "--efficiency eff.csv"),
]  # fmt: skip
"""Options of simulate; of reconstruct beside; and what reconstruct must be told if the file cannot state
it."""


@pytest.mark.parametrize(("made", "how", "told"), ROUND_TRIPS)
def test_what_simulate_writes_reconstruct_reads(call, tmp_path, made, how, told):
    """From an HDF5 file, which states all of it, and from a bare array whose options are repeated."""
    (tmp_path / "eff.csv").write_text("angle,share\n0,1\n20,0.9\n50,0.5\n")
    body = "--radius 62 --quaternion 0.9,0.1,0.3,0.2 --photons 3e5 --hole 3"
    for name, more in (("a.h5", ""), ("a.npy", told)):
        code, _, err = call(f"simulate {name} {body} {made}")
        assert code == 0, err
        if name == "a.npy" and "dictionary" in how and "wavelength 20" in made:
            continue
        code, _, err = call(f"reconstruct {name} {how} {more}")
        assert code == 0, err
        row = table_of(tmp_path).iloc[0]
        assert row["status"] == "ok", err
        assert abs(row["radius_nm"] - 62) < 6 * row["radius_std_nm"] + 0.02
        turn = torch.tensor(row[["q_w", "q_x", "q_y", "q_z"]].to_numpy(dtype=float))[None]
        truth = torch.nn.functional.normalize(torch.tensor([[0.9, 0.1, 0.3, 0.2]]).double(), dim=1)
        assert float(disorientation(turn, truth)) < 5 * row["orientation_std_deg"]


@pytest.mark.parametrize("detector", ["clean", "counting", "experiment", "mcp"])
@pytest.mark.parametrize("kind", ["counts", "log"])
def test_what_generate_writes_reconstruct_reads(call, tmp_path, detector, kind):
    if kind == "log" and detector in (
        "experiment",
        "mcp",
    ):  # what they do to a beam or a response is not told
        return
    assert call(f"generate a.h5 --images 3 --detector {detector} --kind {kind} --seed 3")[0] == 0
    (tmp_path / "eff.csv").write_text("".join(f"{angle} {share}\n" for angle, share in MCP_EFFICIENCY))
    more = {
        "experiment": "--fit-centre", "mcp": "--efficiency eff.csv --gamma 0.75 --soft-saturation 300",
    }.get(detector, "")  # fmt: skip
    code, _, err = call(f"reconstruct a.h5 {more}")
    assert code == 0, err
    table = table_of(tmp_path)
    with h5py.File(tmp_path / "a.h5") as stream:
        radius = stream["icobench/radius_nm"][()]
    assert (abs(table["radius_nm"] - radius) < 0.5).all(), table


def test_contradictions_are_refused_and_origins_are_written(call, tmp_path):
    assert call("simulate a.h5 --radius 60 --photons 1e5 --wavelength 20")[0] == 0
    code, _, err = call("reconstruct a.h5 --method dictionary+lm --wavelength 13.5")
    assert code == 2
    assert "states wavelength 20 nm (a.h5, /icobench), not wavelength 13.5 nm" in one_line(err)
    assert not (tmp_path / "result.csv").exists()
    code, _, err = call("reconstruct a.h5 --method dictionary+lm --wavelength 13.5 --override")
    assert code == 0, err
    facts = json.loads((tmp_path / "result.csv.json").read_text())["facts"]
    assert facts["wavelength_nm"] == {"value": 13.5, "from": "the command line"}
    assert facts["sin_theta_max"] == {"value": 1.0, "from": "a.h5, /icobench"}
    code, _, err = call("reconstruct a.h5")
    assert code == 2
    assert one_line(err).count("wavelength 13.5 nm, not 20 nm") == 1
    assert "--method dictionary+lm needs no network" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--preview folder", "folder: is a folder"),
        ("--preview p.txt", "--preview must end in .png"),
        ("--out missing/r.csv", "missing: no such folder"),
        (f"--out {'x' * 300}.csv", "cannot be written (File name too long)"),
        ("--out /proc/r.csv", "/proc/r.csv: cannot be written"),
        ("--kind photo", "kind must be auto, counts or log"),
        ("--gain -1", "gain must be a positive number"),
        ("--readout-noise -1", "the read-out noise must not be negative"),
        ("--gamma 9", "gamma must lie in 0.1 to 3"),
        ("--flip z", "--flip must be x, y or xy"),
        ("--frame-axis 2", "--frame-axis must be first or last"),
        ("--panels 3", "--panels must be first:last:x,y"),
        ("--geometry no.geom", "no.geom: No such file"),
        ("--efficiency no.csv", "no.csv: no such file"),
        ("--nuisance decades", "decades cannot be fitted to counts images"),
        ("--polar --flip x", "polar images have no columns to mirror"),
        ("--posterior 5", "a posterior needs 100 to 100000 samples, got 5"),
        ("--posterior 100 --nuisance background", "without nuisance parameters"),
    ],
)
def test_outputs_and_options_are_checked_before_any_work(call, tmp_path, monkeypatch, options, message):
    (tmp_path / "folder").mkdir()
    from icobench.methods import base

    monkeypatch.setattr(base.Method, "run", lambda *arguments: pytest.fail("worked"))
    code, _, err = call(f"reconstruct {DATA / 'pymsft_patterns.cxi'} {options}")
    assert code == 2, err
    assert message in one_line(err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]


def test_samples_of_the_posterior_are_written_and_drawn(call, tmp_path):
    import pandas as pd

    assert call("simulate a.h5 --radius 60 --photons 1e5 --hole 3")[0] == 0
    code, _, err = call("reconstruct a.h5 --method dictionary+lm --posterior 150")
    assert code == 0, err
    samples, (row,) = pd.read_parquet(tmp_path / "result.posterior.parquet"), table_of(tmp_path).itertuples()
    assert len(samples) == 150
    assert samples["weight"].sum() == pytest.approx(1)
    mean = (samples["weight"] * samples["radius_nm"]).sum()
    assert abs(mean - row.radius_nm) < row.radius_std_nm
    assert row.posterior_effective > 50
    assert row.evaluations > 150
    assert (tmp_path / "result.posterior.png").read_bytes().startswith(b"\x89PNG")
    assert "effective samples" in err
    code, _, err = call(
        "reconstruct a.h5 --method network --kind log --decades 6 --posterior 150 --out b.csv"
    )
    assert code == 2


def test_the_table_is_there_whatever_happens_to_the_preview(call, tmp_path, monkeypatch):
    from icobench.reporting import gallery

    monkeypatch.setattr(gallery, "gallery", lambda *given: 1 / 0)
    code, _, err = call(f"reconstruct {DATA / 'pymsft_patterns.cxi'} --method network --preview p.png")
    assert code == 0, err
    assert "warning: p.png could not be drawn (ZeroDivisionError" in err
    assert len(table_of(tmp_path)) == 4


def test_a_full_disk_costs_no_result(call, monkeypatch):
    from icobench.commands import images

    def full(answer, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images, "write_table", full)
    code, out, err = call(f"reconstruct {DATA / 'pymsft_patterns.cxi'} --method network")
    assert code == 2
    assert "No space left on device" in one_line(err)
    assert len(out.splitlines()) == 5


def test_an_interrupted_reconstruction_goes_on_to_the_same_table(call, tmp_path, monkeypatch):
    from icobench.runs import blocks, stack

    line = f"reconstruct {DATA / 'pymsft_patterns.cxi'} --method network"
    monkeypatch.setattr(stack, "BLOCK", 1)
    assert call(f"{line} --out whole.csv")[0] == 0
    work, answered = blocks.Fitting.answer, []

    def interrupted(self, block, report):
        if len(answered) == 2:
            answered.append("stop")
            raise KeyboardInterrupt
        answered.append(block.numbers.tolist())
        return work(self, block, report)

    monkeypatch.setattr(blocks.Fitting, "answer", interrupted)
    code, _, err = call(line)
    assert code == 130
    assert "2 of 4 images are finished, the same command goes on (.result.unfinished)" in err
    assert not (tmp_path / "result.csv").exists()
    code, _, err = call(line.replace("network", "dictionary+lm"))
    assert code == 2
    assert "an unfinished reconstruction with other settings; choose another --out" in one_line(err)
    code, _, err = call(line)
    assert code == 0, err
    assert answered == [[0], [1], "stop", [2], [3]]
    whole, gone_on = (
        table_of(tmp_path, name).drop(columns="seconds") for name in ("whole.csv", "result.csv")
    )
    pd.testing.assert_frame_equal(gone_on, whole)
    assert not (tmp_path / ".result.unfinished").exists()


def test_shards_and_workers_give_the_same_table(call, tmp_path, monkeypatch):
    from icobench.runs import stack

    line = f"reconstruct {DATA / 'pymsft_patterns.cxi'} --method network"
    monkeypatch.setattr(stack, "BLOCK", 1)
    assert call(f"{line} --out whole.csv")[0] == 0
    code, _, err = call(f"{line} --shard 2/2")
    assert code == 0, err
    assert "shard 2/2 is finished; 3 of 4 images are" in err
    assert not (tmp_path / "result.csv").exists()
    code, _, err = call(f"{line} --workers 1")
    assert code == 0, err
    whole, shared = (table_of(tmp_path, name).drop(columns="seconds") for name in ("whole.csv", "result.csv"))
    pd.testing.assert_frame_equal(shared, whole)


@pytest.mark.slow
def test_processes_of_their_own_change_no_digit(tmp_path):
    """Programs of their own, which begin with as many threads as there are cores."""
    run = [sys.executable, "-m", "icobench.cli"]
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    subprocess.run([*run, "generate", "set.h5", "--images", "70"], cwd=tmp_path, check=True)
    tables = []
    for workers in "12":
        words = ["reconstruct", "set.h5", "--method", "network", "--workers", workers]
        subprocess.run([*run, *words], cwd=tmp_path, check=True, env=environment)
        tables.append(table_of(tmp_path).drop(columns="seconds"))
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_another_body_is_reconstructed_by_its_name(call, tmp_path):
    """Its columns, with the method that needs no network; the preview is of that body."""
    code, _, err = call(
        "simulate cube.h5 --radius 60 --quaternion 0.8,0.3,-0.4,0.33 --photons 1e5 --shape cube"
    )
    assert code == 0, err
    code, _, err = call("reconstruct cube.h5 --shape cube --out r.csv --preview p.png")
    assert code == 0, err
    assert "image 0: cube, R = " in err
    row = pd.read_csv(tmp_path / "r.csv").iloc[0]
    assert (row["status"], row["shape"]) == ("ok", "cube")
    assert row["radius_nm"] == pytest.approx(60, abs=0.3)
    side = row["radius_nm"] * 2 / 3**0.5
    assert row["volume_equivalent_radius_nm"] == pytest.approx(side * (3 / (4 * np.pi)) ** (1 / 3))
    assert (tmp_path / "p.png").exists()
    assert json.loads((tmp_path / "r.csv.json").read_text())["shape"] == "cube"
