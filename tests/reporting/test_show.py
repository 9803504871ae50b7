"""The page on a stack: its pictures against simulations of their own, what it says, what it refuses."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import icobench
from icobench.images.prepare import prepare
from icobench.reporting.show import chosen_frames, find_results
from icobench.runs.reconstruct import begin
from icobench.simulator.experiment import Experiment, FlatDetector
from icobench.simulator.simulator import Simulator

LINE = "--distance-mm 50 --pixel-mm 0.5 --centre 131,122.5 --mask bad.npy --saturation 99999"
QUATERNION = ["q_w", "q_x", "q_y", "q_z"]


def parts_of(page):
    """Frames and masks in the page's script."""
    text = page.read_text()
    frames, masks = re.search(r"const frames = (.*), masks = (.*);\n", text).groups()
    return json.loads(frames), json.loads(masks), text


def shades(source):
    """(H, W) bytes of a picture, y up."""
    content = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))[::-1].astype(int)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Two frames of a flat detector, the second dark, with a mask; a table of them with a background."""
    folder = tmp_path_factory.mktemp("stack")
    experiment = Experiment(pixels=256, detector=FlatDetector(50, 0.5, (131, 122.5)))
    frame = icobench.simulate(50.0, photons=3e5, experiment=experiment).images[0].numpy()
    frame[100:110, 30:40] = 90_000
    bad = np.zeros(frame.shape, np.uint8)
    bad[100:110, 30:40] = 1
    np.save(folder / "frames.npy", np.stack((frame, 0 * frame)).astype(np.int32))
    np.save(folder / "bad.npy", bad)
    return folder


def test_the_page_shows_what_was_fitted_and_reads_the_images_in_the_same_way(call, stack, tmp_path):
    for name in ("frames.npy", "bad.npy"):
        shutil.copy2(stack / name, tmp_path)
    code, _, err = call(f"reconstruct frames.npy {LINE} --nuisance background --out r.csv")
    assert code == 0, err
    code, _, err = call("show frames.npy")  # neither geometry nor mask: the table's file knows them
    assert code == 0, err
    assert "wrote show.html: frames 0 to 1 of 2 with r.csv" in err
    frames, masks, text = parts_of(tmp_path / "show.html")
    assert "failed: empty" in frames[1]["caption"]
    assert frames[0]["caption"].startswith("R = ") and frames[0]["caption"].endswith(", ok")
    assert (frames[1]["body"], "residual" in frames[1]) == (None, False)
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")

    row = pd.read_csv(tmp_path / "r.csv").iloc[0]
    experiment = Experiment.from_dict(json.loads((tmp_path / "r.csv.json").read_text())["experiment"])
    with prepare(
        tmp_path / "frames.npy", detector=FlatDetector(50, 0.5, (131, 122.5)),
        reading=icobench.Reading(mask=str(tmp_path / "bad.npy")),
    ) as prepared:  # fmt: skip
        block = prepared.grid.read([0])
    usable = (block.mask[0] & experiment.valid()).numpy()
    fitted = usable & (experiment.sin_theta() <= 0.8 + 1e-9).numpy()
    counts = block.images[0].double().numpy() * usable
    radius, turn = torch.tensor([row["radius_nm"]]), torch.tensor(row[QUATERNION].to_numpy(dtype=float))
    model = Simulator(experiment).intensity(radius, turn[None])[0].double().numpy()
    model += row["background"] * model[fitted].mean()
    model *= counts[fitted].sum() / model[fitted].sum()
    shown = {name: shades(frames[0][name]) for name in ("target", "reconstruction", "residual")}
    for picture in shown.values():
        assert ((picture == 255) == ~usable).all()
    decades = np.log10(counts.max())
    for name, image in (("target", counts), ("reconstruction", model)):
        expected = 254 * (1 + np.log10(np.maximum(image, 1) / counts.max()) / decades).clip(0, 1)
        assert np.abs(shown[name] - expected)[usable].max() < 1
    expected = 254 * ((counts - model) / np.sqrt(model) / 8 + 0.5).clip(0, 1)
    assert np.abs(shown["residual"] - expected)[usable].max() < 1
    mask = shades(masks[frames[0]["mask"]])
    assert ((mask == 254) == fitted).all() and ((mask == 0) == (usable & ~fitted)).all()


def test_without_results_the_page_has_images_and_masks_and_says_so(call, stack, tmp_path):
    shutil.copy2(stack / "frames.npy", tmp_path / "<script>x.npy")
    code, _, err = call("show '<script>x.npy' --frames 0 --out a.html")
    assert code == 0, err
    assert "images and masks alone" in err and "wrote a.html: frame 0" in err
    frames, masks, text = parts_of(tmp_path / "a.html")
    assert len(frames) == len(masks) == 1
    assert set(frames[0]) == {"frame", "caption", "mask", "body", "target"}
    assert "Images and masks alone" in text and "<script>x" not in text


BAD = [
    ("--frames 9:", "there are no such frames among the 2"),
    ("--frames 1:x", "--frames must be first:last"),
    ("--frames ''", "--frames must be first:last"),
    ("--frames ::0", "--frames must be first:last"),
    ("--results none.csv", "none.csv: no such file"),
    ("--results frames.npy", "not a readable table"),
    ("--results some.csv", "some.csv: no column q_w, q_x, q_y, q_z, status"),
    ("--results far.csv", "far.csv: speaks of other images than the 2 of frames.npy"),
    ("--results shape.csv", "shape.csv: unknown shape 'banana'"),
    ("--results text.csv", "text.csv: wrong values"),
    ("--results damaged.csv", "damaged.csv.json: describes no experiment"),
    ("--out frames.npy", "--out must end in .html"),
    ("--out none/a.html", "none: no such folder"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_input_is_one_line_and_leaves_no_page(call, stack, tmp_path, options, message):
    shutil.copy2(stack / "frames.npy", tmp_path)
    row = {"index": 0, "radius_nm": 50.0, "q_w": 1, "q_x": 0, "q_y": 0, "q_z": 0, "status": "ok"}
    tables = {
        "far": row | {"index": 2}, "shape": row | {"shape": "banana"}, "text": row | {"radius_nm": "wide"},
        "some": {"index": 0, "radius_nm": 50.0}, "damaged": row,
    }  # fmt: skip
    for name, values in tables.items():
        pd.DataFrame([values]).to_csv(tmp_path / f"{name}.csv", index=False)
    (tmp_path / "damaged.csv.json").write_text('{"experiment": {"pixels": 128}}')
    before = sorted(tmp_path.iterdir())
    code, _, err = call(f"show frames.npy {options}")
    assert code == 2
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_table_is_taken_only_where_it_is_surely_the_one(stack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "frames.npy"
    shutil.copy2(stack / "frames.npy", images)
    state = images.stat()
    mine = {"file": [str(images), state.st_size, state.st_mtime_ns]}
    for name, origin in (("a", {"file": ["other", 1, 2]}), ("b", mine), ("c", [])):
        (tmp_path / f"{name}.csv").write_text("index\n")
        (tmp_path / f"{name}.csv.json").write_text(json.dumps(origin))
    (tmp_path / "lost.csv.json").write_text(json.dumps(mine))
    assert find_results(images).name == "b.csv"
    (tmp_path / "c.csv.json").write_text(json.dumps(mine))
    with pytest.raises(icobench.InputError, match=r"several tables were made from it, b\.csv, c\.csv"):
        find_results(images)
    images.touch()
    assert find_results(images) is None


def test_pages_are_bounded():
    assert chosen_frames(None, 40, 128) == range(40)
    assert chosen_frames(None, 10_000, 128) == range(100)
    assert len(chosen_frames(None, 10_000, 2048)) == 3
    assert chosen_frames("100:9000:90", 1000, 128) == range(100, 1000, 90)
    assert chosen_frames("7", 10, 128) == range(7, 8)
    with pytest.raises(icobench.InputError, match="too many for a page; at most 1,000"):
        chosen_frames(":", 1001, 128)


def test_automatic_physics_begins_with_straight_rays_whatever_the_images_were_made_with():
    images = icobench.simulate(40.0, photons=1e4, experiment=Experiment(physics="propagated"))
    with prepare(images) as prepared:
        assert prepared.experiment.physics == "propagated"
        assert begin(prepared, "dictionary+lm", auto_physics=True).fitting.experiment.physics == "straight"
