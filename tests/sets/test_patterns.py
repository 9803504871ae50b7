"""Simulated sets: reproducible image by image, and their files."""

import dataclasses
import json
import math
import os

import h5py
import numpy as np
import pytest
import torch

from icobench.errors import InputError
from icobench.geometry.convex import icosahedron
from icobench.geometry.orientation import to_fundamental_domain
from icobench.geometry.shapes import SHAPES, shape
from icobench.images.augment import augment
from icobench.images.detector import Detector
from icobench.images.formats import DATA_PATH, MASK_PATH
from icobench.images.pixels import log_image, usable_pixels
from icobench.images.source import read_images
from icobench.sets.pattern_file import TRUTH_GROUP, join_files, read_patterns, write_patterns
from icobench.sets.patterns import PatternOptions, PatternSource, generate_patterns
from icobench.sets.simulate import simulate
from icobench.sets.test_sets import find_icosahedra, find_test_set
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

EXPERIMENT = Experiment(pixels=32, refractive_index=0.89 + 0.0859j, solid_angle_factor=True)
FEW = PatternOptions(images=3, radius_range_nm=(30.0, 40.0))


@pytest.fixture(scope="module")
def few():
    return generate_patterns(FEW, EXPERIMENT, seed=11)


def test_truth_is_within_its_range(few):
    many = generate_patterns(
        PatternOptions(images=40, radius_range_nm=(28.0, 30.0)), Experiment(pixels=16), seed=1
    )
    assert 28 <= float(many.radius_nm.min()) < 28.4  # 40 uniform draws reach the lowest fifth
    assert 29.6 < float(many.radius_nm.max()) <= 30
    torch.testing.assert_close(to_fundamental_domain(many.quaternion), many.quaternion)
    assert few.kind == "counts"
    assert len(few) == 3


def test_images_are_counts_of_their_truth(few):
    """Pearson's chi square per pixel is 1 about the simulated mean."""
    mask = usable_pixels(EXPERIMENT, 3.0)
    assert torch.equal(few.mask, mask.expand(3, -1, -1))
    mean = Simulator(EXPERIMENT).intensity(few.radius_nm, few.quaternion) * mask
    mean = mean / mean.sum((1, 2), keepdim=True) * 1e5
    np.testing.assert_allclose(few.images.sum((1, 2)), 1e5, rtol=5e-3 * 3)  # 5 sigma
    seen = mean > 0.5
    chi = ((few.images - mean).square() / mean)[seen].mean()
    assert float(chi) == pytest.approx(1, abs=5 * math.sqrt(2 / int(seen.sum())) + 0.05)
    assert (few.images[:, ~mask] == 0).all()


def test_an_image_is_independent_of_the_number_of_images(few):
    more = generate_patterns(dataclasses.replace(FEW, images=5), EXPERIMENT, seed=11)
    assert torch.equal(more.radius_nm[:3], few.radius_nm)
    assert torch.equal(more.quaternion[:3], few.quaternion)
    assert torch.equal(more.images[:3], few.images)
    assert not torch.equal(generate_patterns(FEW, EXPERIMENT, seed=12).radius_nm, few.radius_nm)


def test_progress():
    seen = []
    generate_patterns(
        PatternOptions(images=2, radius_range_nm=(30.0, 30.0)), EXPERIMENT, 1, progress=seen.append
    )
    assert seen[-1] == 1


def test_log_images(few):
    """Noise-free log images of the same truth, in 255 steps."""
    options = dataclasses.replace(FEW, kind="log", detector=Detector(hole_degrees=3.0))
    logs = generate_patterns(options, EXPERIMENT, seed=11)
    assert torch.equal(logs.radius_nm, few.radius_nm)
    steps = logs.images * 255
    np.testing.assert_allclose(steps, steps.round(), atol=1e-4)
    mask = usable_pixels(EXPERIMENT, 3.0)
    intensity = Simulator(EXPERIMENT).intensity(few.radius_nm, few.quaternion) * mask
    relative = intensity / intensity.amax((1, 2), keepdim=True)
    seen = relative > 1e-6
    np.testing.assert_allclose(logs.images[seen], 1 + np.log10(relative[seen]) / 6, atol=0.51 / 255)


def test_log_images_with_a_background_are_the_same_in_every_block():
    options = find_test_set("paper").options(5)
    together = generate_patterns(options, EXPERIMENT, seed=11)
    assert torch.equal(PatternSource(options, EXPERIMENT, 11).block(range(3, 5)).images, together.images[3:])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["paper", "clean", "counting", "realistic"])
def test_a_gpu_makes_the_same_images(name):
    """But for rounding, which moves few pixels by one step of 255, or a photon."""
    options = find_test_set(name).options(4)
    sources = (PatternSource(options, EXPERIMENT, 11, device) for device in ("cpu", "cuda"))
    here, there = (source.block(range(4)) for source in sources)
    assert there.images.device.type == there.mask.device.type == "cpu"
    assert torch.equal(here.quaternion, there.quaternion) and torch.equal(here.mask, there.mask)
    close = torch.isclose(here.images, there.images, rtol=1e-3, atol=1e-4)
    assert float(close.double().mean()) > 0.99


def test_realistic_images_are_augmented_log_images():
    """Image by image, whatever the block; only the clean pattern is shared with others of that seed."""
    options = find_test_set("realistic").options(5)
    augmented = generate_patterns(options, EXPERIMENT, seed=11)
    assert augmented.kind == "log"
    assert torch.equal(PatternSource(options, EXPERIMENT, 11).block(range(3, 5)).images, augmented.images[3:])
    clean = generate_patterns(find_test_set("clean").options(5), EXPERIMENT, seed=11)
    expected = augment(log_image(clean.images), "realistic", 11, mask=clean.mask)
    assert torch.equal(augmented.images, expected.images)
    assert torch.equal(augmented.mask, expected.mask)
    assert torch.equal(augmented.quaternion, clean.quaternion)


def test_subset(few):
    part = few.subset(torch.tensor([2, 0]))
    assert len(part) == 2
    assert torch.equal(part.images, few.images[[2, 0]])
    assert torch.equal(part.quaternion, few.quaternion[[2, 0]])
    assert part.experiment == few.experiment


@pytest.mark.parametrize("kind", ["counts", "log"])
def test_files_round_trip(tmp_path, few, kind):
    patterns = few
    if kind == "log":
        patterns = generate_patterns(
            dataclasses.replace(FEW, kind="log", detector=Detector(1e6, 3.0)), EXPERIMENT, seed=2
        )
    path = tmp_path / "set.cxi"
    write_patterns(path, patterns, {"command": "test", "seed": 11})
    back = read_patterns(path)
    assert back.kind == kind
    assert back.experiment == EXPERIMENT
    for name in ("radius_nm", "quaternion", "mask"):
        assert torch.equal(getattr(back, name), getattr(patterns, name))
    torch.testing.assert_close(back.images, patterns.images * patterns.mask, rtol=0, atol=1e-6)
    assert os.listdir(tmp_path) == ["set.cxi"]
    # The layout that others read.
    with h5py.File(path) as stream:
        assert stream[DATA_PATH].dtype == (np.int32 if kind == "counts" else np.uint8)
        np.testing.assert_array_equal(
            np.broadcast_to(stream[MASK_PATH][()] != 0, patterns.mask.shape), ~patterns.mask.numpy()
        )
        assert stream["/entry_1/instrument_1/source_1/wavelength"][()] == pytest.approx(13.5e-9)
        assert json.loads(stream[TRUTH_GROUP].attrs["origin"])["seed"] == 11
    assert read_images(path).kind == kind


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": 0}, "number of images"),
        ({"kind": "photo"}, "kind"),
        ({"background": 0.1}, "log images"),
        ({"augmentation": "blur"}, "log images"),
        ({"augmentation": "all", "kind": "log"}, "unknown augmentation"),
        ({"background": math.nan, "kind": "log"}, "background"),
        ({"splits": (("train", 2),)}, "splits"),
        ({"radius_range_nm": (30.0, math.inf)}, "radii"),
        ({"radius_range_nm": (40.0, 30.0)}, "radii"),
        ({"radius_range_nm": (0.0, 30.0)}, "radii"),
    ],
)
def test_bad_options(wrong, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(FEW, **wrong)


def test_unreadable_sets(tmp_path, few):
    with pytest.raises(InputError, match=r"nothing\.cxi: no such file"):
        read_patterns(tmp_path / "nothing.cxi")
    path = tmp_path / "set.cxi"
    write_patterns(path, few, {})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"set\.cxi: not a set of patterns"):
        read_patterns(path)
    with h5py.File(tmp_path / "images.h5", "w") as stream:
        stream[DATA_PATH] = few.images.numpy()
    with pytest.raises(InputError, match=r"images\.h5: not a set of patterns with truth"):
        read_patterns(tmp_path / "images.h5")


@pytest.mark.parametrize("part", ["radius_nm", "quaternion"])
def test_truth_that_does_not_fit_is_refused(tmp_path, few, part):
    path = tmp_path / "set.cxi"
    write_patterns(path, few, {})
    with h5py.File(path, "a") as stream:
        shorter = stream[TRUTH_GROUP][part][:-1]
        del stream[TRUTH_GROUP][part]
        stream[TRUTH_GROUP][part] = shorter
    with pytest.raises(InputError, match=r"set\.cxi"):
        read_patterns(path)


def test_a_failed_write_leaves_nothing(tmp_path, few):
    with pytest.raises(InputError, match="no such folder"):
        write_patterns(tmp_path / "no" / "set.cxi", few, {})
    with pytest.raises(TypeError):
        write_patterns(tmp_path / "set.cxi", few, {"not json": object()})
    assert not os.listdir(tmp_path)


RADII, TURNS = [30.0, 35.0], [[1.0, 0, 0, 0], [2.0, 0, 1.0, 0]]


def test_simulate_to_numpy(tmp_path):
    path = tmp_path / "out.npy"
    simulate(RADII, TURNS, hole_degrees=5.0, experiment=EXPERIMENT, path=path)
    expected = Simulator(EXPERIMENT).intensity(torch.tensor(RADII), torch.tensor(TURNS))
    expected = expected * usable_pixels(EXPERIMENT, 5.0)
    np.testing.assert_allclose(np.load(path), expected, rtol=1e-4, atol=1e-6 * float(expected.max()))
    assert os.listdir(tmp_path) == ["out.npy"]


def test_simulate_counts_to_a_set(tmp_path):
    path = tmp_path / "out.h5"
    simulate(RADII, TURNS[1:], 2e4, experiment=EXPERIMENT, seed=6, path=path)
    back = read_patterns(path)
    assert back.kind == "counts"
    np.testing.assert_allclose(back.images.sum((1, 2)), 2e4, rtol=5 / math.sqrt(2e4))
    np.testing.assert_allclose(back.radius_nm, RADII)
    np.testing.assert_allclose(back.quaternion, np.array([[2, 0, 1, 0]] * 2) / 5**0.5)
    simulate(RADII, TURNS[1:], 2e4, experiment=EXPERIMENT, seed=6, path=tmp_path / "again.h5")
    assert torch.equal(read_patterns(tmp_path / "again.h5").images, back.images)


def test_simulated_intensities_can_be_read_back(tmp_path):
    path = tmp_path / "out.h5"
    simulate(RADII, TURNS, experiment=EXPERIMENT, path=path)
    expected = Simulator(EXPERIMENT).intensity(torch.tensor(RADII), torch.tensor(TURNS))
    images = read_images(path, kind="counts").images
    np.testing.assert_allclose(images, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))
    assert read_patterns(path).kind == "intensity"


@pytest.mark.parametrize("convert", [float, np.float32, torch.tensor])
def test_one_body_or_many_in_memory(convert):
    """Numbers, NumPy or torch; one radius or one orientation for all."""
    turn = torch.tensor(TURNS[1])
    alone = simulate(convert(35.0), turn, experiment=EXPERIMENT)
    assert (alone.kind, len(alone)) == ("intensity", 1)
    several = simulate(convert(35.0), np.array(TURNS), experiment=EXPERIMENT)
    assert torch.equal(several.images[1:], alone.images)
    assert torch.equal(simulate([30.0, 35.0], turn.numpy(), experiment=EXPERIMENT).images[1:], alone.images)
    assert several.radius_nm.tolist() == [35, 35]
    assert simulate(40.0, photons=10).experiment == Experiment()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "out.png"}, "unknown file type"),
        ({"path": "no/out.h5"}, "no such folder"),
        ({"photons": -1.0}, "photons"),
        ({"photons": math.nan}, "photons"),
        ({"quaternion": [*TURNS, TURNS[0]]}, "one quaternion"),
        ({"quaternion": [[1.0, 0, 0]] * 2}, "one quaternion"),
        ({"quaternion": [[0.0, 0, 0, 0]] * 2}, "quaternion"),
        ({"radius_nm": [30.0, -1.0]}, "radius_nm"),
        ({"radius_nm": []}, "quaternion"),
        ({"radius_nm": [30.0, 170.0], "simulator": "sliced"}, "does not fit|sliced method"),
        ({"simulator": "guess"}, "unknown method"),
    ],
)
def test_simulate_refuses_nonsense(tmp_path, change, message):
    arguments = {
        "path": "out.h5",
        "radius_nm": RADII,
        "quaternion": TURNS,
        "experiment": EXPERIMENT,
        **change,
    }
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises(InputError, match=message):
        simulate(**arguments)
    assert not os.listdir(tmp_path)


def test_bodies_of_equal_volume_in_turn(tmp_path):
    """Each in the domain of its own group; names, with parameters, survive a file and its joining."""
    options = dataclasses.replace(find_test_set("bodies").options(34), radius_range_nm=(50.0, 50.0))
    source = PatternSource(options, Experiment(pixels=16), seed=2)
    whole = source.block(range(34))
    assert [name.partition("=")[0] for name in whole.bodies] == [*SHAPES, *SHAPES]
    volume = {"sphere": 4 / 3 * math.pi}
    for name, radius, turn in zip(whole.bodies, whole.radius_nm.tolist(), whole.quaternion, strict=True):
        body = shape(name)
        assert radius**3 * volume.get(name, body.volume) == pytest.approx(50**3 * icosahedron().volume)
        torch.testing.assert_close(to_fundamental_domain(turn, body), turn)
    values = [float(name.partition("=")[2]) for name in whole.bodies if "=" in name]
    assert len(set(values)) == len(values) == 8
    # A prism's counts are those of its own simulation, and not those of an icosahedron.
    alone = source.block(range(13, 14))
    assert alone.bodies == [whole.bodies[13]]
    assert torch.equal(alone.images[0], whole.images[13])
    mask = whole.mask[13] & (whole.images[13] > 10)
    for body, fits in ((shape(whole.bodies[13]), True), (icosahedron(), False)):
        mean = Simulator(source.experiment, body=body).intensity(alone.radius_nm, alone.quaternion)[0]
        ratio = (whole.images[13] / mean)[mask]
        assert (float(ratio.std() / ratio.mean()) < 0.2) == fits
    assert whole.subset(torch.arange(34) >= 33).bodies == whole.bodies[33:]
    for number, rows in enumerate((range(20), range(20, 34))):
        write_patterns(tmp_path / f"{number}.h5", source.block(rows), {})
    join_files(tmp_path / "set.h5", [tmp_path / "0.h5", tmp_path / "1.h5"], 34, {}, tmp_path / "set.h5")
    assert read_patterns(tmp_path / "set.h5").bodies == whole.bodies
    with h5py.File(tmp_path / "set.h5", "a") as stream:
        stream[f"{TRUTH_GROUP}/body"][3] = "egg"
    with pytest.raises(InputError, match="unknown shape 'egg'"):
        read_patterns(tmp_path / "set.h5")


def test_bodies_that_cannot_be_made():
    with pytest.raises(InputError, match="unknown shape 'egg'"):
        PatternOptions(3, shapes=("cube", "egg"))
    # A tetrahedron of the volume of an icosahedron has 1.7 times its circumradius.
    options = PatternOptions(3, radius_range_nm=(30.0, 600.0), shapes=("tetrahedron",))
    with pytest.raises(InputError, match="radii up to 1022 nm are larger than the grid can hold"):
        PatternSource(options, Experiment(), 0)
    with pytest.raises(InputError, match="icobench compare takes it"):
        find_icosahedra("bodies")
