"""Sets on disk: shards, interruptions and merging leave the same bytes."""

import json
import os
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
import scipy.stats
import torch

from icobench.errors import InputError
from icobench.images.detector import DETECTORS, Detector
from icobench.images.formats import DATA_PATH, MASK_PATH
from icobench.images.philox import draws_for
from icobench.images.pixels import log_image
from icobench.seeds import Purpose
from icobench.sets import generation
from icobench.sets.generation import (
    SetGeneration,
    chosen_options,
    merge_shards,
    shard_range,
)
from icobench.sets.pattern_file import TRUTH_GROUP, read_patterns, write_patterns
from icobench.sets.patterns import PatternOptions, PatternSource, generate_patterns
from icobench.sets.test_sets import find_test_set
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import share

EXPERIMENT = Experiment(pixels=32)
DETECTOR = Detector(photons=2e4, hole_degrees=3, saturation=200)
OPTIONS = PatternOptions(
    45, detector=DETECTOR, radius_range_nm=(28.0, 40.0), splits=(("train", 40), ("test", 5))
)
ARRAYS = (DATA_PATH, MASK_PATH, f"{TRUTH_GROUP}/radius_nm", f"{TRUTH_GROUP}/quaternion")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(generation, "BLOCK", 8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "set.h5"
    assert SetGeneration(path, OPTIONS, EXPERIMENT, 3).run() == 45
    return path


def arrays(path):
    with h5py.File(path) as stream:
        return [stream[name][()].tobytes() for name in ARRAYS]


def test_the_file_holds_what_memory_would(whole):
    expected = generate_patterns(OPTIONS, EXPERIMENT, 3)
    patterns = read_patterns(whole)
    for name in ("images", "mask", "radius_nm", "quaternion"):
        assert torch.equal(getattr(patterns, name), getattr(expected, name))
    assert patterns.experiment == EXPERIMENT
    with h5py.File(whole) as stream:
        assert stream[DATA_PATH].dtype == np.int32
        assert stream[DATA_PATH].compression == "gzip"
        assert stream[DATA_PATH].chunks == (16, 32, 32)
        origin = json.loads(stream[TRUTH_GROUP].attrs["origin"])
    assert origin["seed"] == 3
    assert "torch" in origin["versions"]
    assert os.listdir(whole.parent) == ["set.h5"]


def test_splits(whole):
    everything, test = read_patterns(whole), read_patterns(whole, "test")
    assert len(read_patterns(whole, "train")) == 40
    assert torch.equal(test.images, everything.images[40:])
    assert torch.equal(test.radius_nm, everything.radius_nm[40:])
    with pytest.raises(InputError, match=r"no split 'validation', the set has train, test"):
        read_patterns(whole, "validation")


@pytest.mark.parametrize(("images", "shards"), [(45, 1), (45, 2), (45, 7), (5, 5), (30_058, 8), (1000, 3)])
def test_shards_are_a_partition(images, shards):
    numbers = [n for shard in range(1, shards + 1) for n in shard_range(images, shard, shards)]
    assert numbers == list(range(images))
    sizes = [len(shard_range(images, shard, shards)) for shard in range(1, shards + 1)]
    assert max(sizes) - min(sizes) <= 32


@pytest.mark.parametrize("shards", [2, 7])
def test_shards_merge_to_the_same_bytes(whole, tmp_path, shards):
    files = [tmp_path / f"{shard}.h5" for shard in range(1, shards + 1)]
    for shard, file in enumerate(files, 1):
        SetGeneration(file, OPTIONS, EXPERIMENT, 3, shard=(shard, shards)).run()
    assert merge_shards(tmp_path / "all.h5", files[::-1]) == 45
    assert arrays(tmp_path / "all.h5") == arrays(whole)
    assert len(read_patterns(tmp_path / "all.h5", "test")) == 5
    # A merged set counts as the whole one.
    assert SetGeneration(tmp_path / "all.h5", OPTIONS, EXPERIMENT, 3).run() == 0


@pytest.mark.parametrize("after", [0, 1, 4])
def test_killed_and_started_again(whole, tmp_path, after):
    """A real kill -9 in the middle, half a file left behind by it, then the rest."""
    code = f"""
import os, signal
from pathlib import Path
import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_generation import EXPERIMENT, OPTIONS, generation
generation.BLOCK = 8
real, done = generation.SetGeneration.compute, 0
def dies(work, piece, *rest):
    global done
    if done == {after}:
        (work.store.folder / ".half.h5.tmp").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    real(work, piece, *rest)
    done += 1
generation.SetGeneration.compute = dies
generation.SetGeneration(Path("set.h5"), OPTIONS, EXPERIMENT, 3).run()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert done.returncode == -9, done.stderr
    path = tmp_path / "set.h5"
    assert not path.exists()
    assert SetGeneration(path, OPTIONS, EXPERIMENT, 3).run() == 45 - 8 * after
    assert arrays(path) == arrays(whole)
    assert os.listdir(tmp_path) == ["set.h5"]


def test_a_damaged_part_is_made_again(whole, tmp_path):
    path = tmp_path / "set.h5"

    def stop(share):
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SetGeneration(path, OPTIONS, EXPERIMENT, 3).run(stop)
    parts = sorted((tmp_path / "set.h5.parts").glob("*.h5"))
    assert len(parts) == 3
    parts[1].write_bytes(parts[1].read_bytes()[:1000])
    assert SetGeneration(path, OPTIONS, EXPERIMENT, 3).run() == 45 - 16
    assert arrays(path) == arrays(whole)


def test_other_settings_are_refused(whole, tmp_path):
    before = whole.read_bytes()
    with pytest.raises(InputError, match="other settings"):
        SetGeneration(whole, OPTIONS, EXPERIMENT, 4).run()
    assert whole.read_bytes() == before
    path = tmp_path / "set.h5"
    with pytest.raises(ZeroDivisionError):
        SetGeneration(path, OPTIONS, EXPERIMENT, 3).run(lambda share: 1 / 0)
    with pytest.raises(InputError, match=r"set\.h5\.parts: holds .* other settings; .*seed 3, not 4"):
        SetGeneration(path, OPTIONS, EXPERIMENT, 4).run()


def test_several_processes_share_a_set(whole, tmp_path):
    """Each computes every other block; whoever comes last joins them."""
    work = SetGeneration(tmp_path / "set.h5", OPTIONS, EXPERIMENT, 3)
    work.check()
    assert not os.listdir(tmp_path)
    pieces = work.pieces()
    assert [len(piece) for piece in pieces] == [8, 8, 8, 8, 8, 5]
    for number in (1, 2):
        assert not work.finish()
        partner = pickle.loads(pickle.dumps(work))
        partner.open()
        for piece in share(pieces, (number, 2)):
            assert not partner.is_stored(piece)
            partner.compute(piece, "cpu")
            assert work.is_stored(piece)
    assert work.finish()
    assert arrays(work.path) == arrays(whole)
    assert os.listdir(tmp_path) == ["set.h5"]
    assert all(work.is_stored(piece) for piece in pieces)
    assert work.finish()
    with pytest.raises(InputError, match="simulated on cpu, not on cuda"):
        work.compute(pieces[0], "cuda")
    with pytest.raises(InputError, match="no such folder"):
        SetGeneration(tmp_path / "no" / "set.h5", OPTIONS, EXPERIMENT, 3).check()


def test_distorted_log_images_are_stored_exactly(tmp_path):
    options = PatternOptions(10, "log", Detector(), (30, 31), augmentation="realistic")
    expected = generate_patterns(options, EXPERIMENT, 3)
    SetGeneration(tmp_path / "set.h5", options, EXPERIMENT, 3).run()
    write_patterns(tmp_path / "other.h5", expected, {})
    for name in ("set.h5", "other.h5"):
        stored = read_patterns(tmp_path / name)
        assert stored.kind == "log"
        assert torch.equal(stored.images, expected.images)
        assert torch.equal(stored.mask, expected.mask)


@pytest.mark.parametrize("limit", [5_000, 30_000])
def test_a_full_disk(tmp_path, limit):
    """A limit on the size of files stands in for it, too low for a part or for the whole."""
    code = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_generation import EXPERIMENT, OPTIONS, InputError, generation
generation.BLOCK = 8
generation.prepare_kernel = lambda device: None
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    generation.SetGeneration(Path("set.h5"), OPTIONS, EXPERIMENT, 3).run()
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("set.h5: could not be written")
    assert len(done.stdout.splitlines()) == 1
    assert os.listdir(tmp_path) == ["set.h5.parts"]
    assert not [name for name in os.listdir(tmp_path / "set.h5.parts") if not name.endswith((".json", ".h5"))]


def test_merging_what_does_not_belong_together(whole, tmp_path):
    files = [tmp_path / f"{name}.h5" for name in ("one", "two", "again", "other")]
    for file, shard, seed in zip(files, (1, 2, 1, 3), (3, 3, 3, 4), strict=True):
        SetGeneration(file, OPTIONS, EXPERIMENT, seed, shard=(shard, 3)).run()
    one, two, again, other = files
    out = tmp_path / "all.h5"
    for shards, message in (
        ([one, two], "missing shard 3/3"),
        ([one, two, again], r"again\.h5: shard 1/3 was given already as .*one\.h5"),
        ([one, two, other], r"other\.h5: a shard of another set"),
        ([one, whole], r"set\.h5: a shard of another set"),
        ([one, tmp_path / "none.h5"], r"none\.h5: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            merge_shards(out, shards)
        assert not out.exists()
    two.write_bytes(two.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"two\.h5: not a set"):
        merge_shards(out, [one, two])
    with pytest.raises(InputError, match="exists"):
        merge_shards(one, [two])


def test_bad_shards():
    for shard, shards, message in (
        (0, 2, "counted from 1"),
        (3, 2, "counted from 1"),
        (1, 50, "cannot be divided"),
    ):
        with pytest.raises(InputError, match=message):
            shard_range(45, shard, shards)


def test_presets_and_choices():
    paper = chosen_options("paper")
    assert paper.images == 30_058
    assert dict(paper.splits) == {"train": 20_046, "validation": 5_012, "test": 5_000}
    assert paper.kind == "log"
    assert chosen_options(detector="experiment", photons=1e6).detector.photons == 1e6
    assert chosen_options("paper", images=10).splits == ()
    assert chosen_options().detector == DETECTORS["counting"]
    with pytest.raises(InputError, match="choose from paper"):
        chosen_options("nature")
    with pytest.raises(InputError, match="choose from clean, counting, experiment"):
        chosen_options(detector="eye")


def test_the_beam_s_offset_is_in_the_images_but_not_in_the_believed_experiment():
    options = PatternOptions(2, detector=Detector(centre_offset=(0.4, -0.3)), radius_range_nm=(60, 60.1))
    patterns = PatternSource(options, Experiment(), 0).block(range(2))
    assert patterns.experiment == Experiment()
    true = Simulator(Experiment(centre_offset=(0.4, -0.3)))
    expected = true.intensity(patterns.radius_nm, patterns.quaternion) * patterns.mask
    expected = expected * (patterns.images.sum((1, 2)) / expected.sum((1, 2)))[:, None, None]
    torch.testing.assert_close(patterns.images, expected, rtol=1e-3, atol=1e-3)


def test_background_brightens_log_images():
    dark = PatternOptions(2, "log", Detector(), (30, 31))
    noisy = PatternOptions(2, "log", Detector(), (30, 31), background=0.05)
    plain, bright = (PatternSource(o, EXPERIMENT, 0).block(range(2)) for o in (dark, noisy))
    gain = (bright.images - plain.images)[plain.mask & (plain.images < 0.7)].double()
    # The mean of a half-normal number is sqrt(2 / pi) standard deviations.
    expected = 0.05 * (2 / np.pi) ** 0.5
    assert float(gain.mean()) == pytest.approx(expected, abs=5 * 0.05 / len(gain) ** 0.5 + 0.5 / 255)
    assert (bright.images[~plain.mask] == 0).all()


def test_background_is_half_normal_and_independent_of_the_batch():
    numbers = torch.arange(40)
    draws = draws_for(7, Purpose.BACKGROUND, numbers)
    values = draws.half_normal(999)
    assert scipy.stats.kstest(values.double().flatten().numpy(), "halfnorm").pvalue > 0.01
    alone = draws_for(7, Purpose.BACKGROUND, numbers[5:6]).half_normal(999)
    torch.testing.assert_close(alone[0], values[5], rtol=0, atol=0)
    correlation = np.corrcoef(values[:2].numpy())[0, 1]
    assert abs(correlation) < 5 / 999**0.5


def test_the_test_set_paper_has_eight_bits_and_a_background():
    """Appendix B of Stielow et al. 2020: six decades, 256 levels, noise that only brightens."""
    made = generate_patterns(find_test_set("paper").options(3), EXPERIMENT, 0)
    assert made.kind == "log"
    levels = made.images * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    clean = Simulator(EXPERIMENT).intensity(made.radius_nm, made.quaternion)
    expected = log_image(clean, 6.0)
    dark = made.mask & (expected == 0)
    assert (made.images[made.mask] >= expected[made.mask] - 0.5 / 255 - 1e-5).all()
    if dark.any():
        assert 0 < float(made.images[dark].mean()) < 0.05
