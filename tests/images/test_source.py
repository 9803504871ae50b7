"""Streaming, masks, bad pixels and bad frames of a source; what changes while it is read."""

import os
import tracemalloc

import h5py
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from icobench.errors import InputError
from icobench.images.formats import DATA_PATH, MASK_PATH
from icobench.images.source import DECIDING, open_arrays, open_images


def save(path, array):
    np.save(path, array)
    return path


@pytest.fixture
def frames(rng):
    return rng.integers(1, 900, (7, 20, 31)).astype(np.int32)


def test_blocks_are_the_stack(tmp_path, frames):
    with open_images(save(tmp_path / "a.npy", frames)) as source:
        assert (len(source), source.shape, source.kind) == (7, (20, 31), "counts")
        blocks = list(source.blocks(3))
    assert [block.numbers.tolist() for block in blocks] == [[0, 1, 2], [3, 4, 5], [6]]
    np.testing.assert_array_equal(np.concatenate([block.images for block in blocks]), frames)
    assert not any(block.problems for block in blocks)


@pytest.mark.parametrize("numbers", [[2, 0, 4], [5, 5, 1], [3]])
def test_frames_are_read_in_any_order(tmp_path, frames, numbers):
    with open_images(save(tmp_path / "a.npy", frames)) as source:
        block = source.read(numbers)
    assert block.numbers.tolist() == numbers
    np.testing.assert_array_equal(block.images, frames[numbers])


@pytest.mark.parametrize("suffix", [".h5", ".npy", ".npz", ".tif"])
def test_a_long_stack_is_never_held_whole(tmp_path, suffix):
    """3,000 frames of 32 x 32 floats, 12 MB: 32 at once take well below 3 MB. Deciding the kind takes 8."""
    path = tmp_path / f"long{suffix}"
    data = np.random.default_rng(1).uniform(0.3, 1, (3000, 32, 32)).astype(np.float32)
    data[2999] = 40.0
    if suffix == ".h5":
        with h5py.File(path, "w") as stream:
            stream.create_dataset(DATA_PATH, data=data, chunks=(16, 32, 32), compression="gzip")
            stream.create_dataset(MASK_PATH, data=data > 50, chunks=(16, 32, 32))
    elif suffix == ".npz":
        np.savez(path, data=data, mask=(data > 50).astype(np.uint8))
    elif suffix == ".tif":
        tifffile.imwrite(path, data, photometric="minisblack")
    else:
        np.save(path, data)
    with open_images(path):  # what is imported on the way does not count
        pass
    tracemalloc.start()
    try:
        seen = 0
        with open_images(path) as source:
            assert source.kind == "log"
            for block in source.blocks(32):
                seen += len(block.numbers) - len(block.problems)
        assert tracemalloc.get_traced_memory()[1] < (7e6 if suffix == ".tif" else 3e6)
    finally:
        tracemalloc.stop()
    assert seen == 2999
    assert block.problems == {2999: "not a log image: values above 1"}


def test_the_kind_of_floats_is_decided_by_the_first_usable_frames(tmp_path, rng):
    """Log images, empty ones among them; frames that contradict each other decide nothing."""
    data = rng.uniform(0.2, 1, (DECIDING + 12, 16, 16))
    data[:4] = 0  # empty frames decide nothing
    data[4] = np.nan
    path = tmp_path / "a.npy"
    with open_images(save(path, data)) as source:
        assert source.kind == "log"
    changed = data.copy()
    changed[5 : 5 + DECIDING] = rng.poisson(3.0, (DECIDING, 16, 16)) / 11
    with open_images(save(path, changed)) as source:
        assert source.kind == "counts"
    with open_images(path, kind="log") as source:
        assert source.kind == "log"
    changed[5 : 5 + DECIDING // 2] = data[5 : 5 + DECIDING // 2]
    with pytest.raises(InputError, match="not sure whether these are counts or log images"):
        open_images(save(path, changed))
    with open_images(save(path, 0 * data)) as source:
        assert source.kind == "counts"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".tif", ".png", ".h5"])
@pytest.mark.parametrize("images", [".npy", ".h5", ".png"])
def test_a_mask_in_a_file_of_its_own(tmp_path, rng, frames, suffix, images):
    bad = (rng.random((20, 31)) < 0.2).astype(np.uint8)
    mask = tmp_path / f"mask{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(mask, bad, photometric="minisblack")
    elif suffix == ".png":
        Image.fromarray(bad * 255).save(mask)
    elif suffix == ".h5":
        with h5py.File(mask, "w") as stream:
            stream["bad"] = bad
    else:
        np.save(mask, bad > 0) if suffix == ".npy" else np.savez(mask, bad=bad)
    path = tmp_path / f"a{images}"
    if images == ".h5":
        with h5py.File(path, "w") as stream:
            stream[DATA_PATH] = frames
            stream[MASK_PATH] = 1 - bad  # the named one counts
    elif images == ".png":
        Image.fromarray(frames[0].astype(np.uint16)).save(path)
    else:
        np.save(path, frames)
    with open_images(path, mask=str(mask)) as source:
        block = source.read([0])
    np.testing.assert_array_equal(block.mask[0], bad == 0)
    np.testing.assert_array_equal(block.images[0], np.where(bad, 0, frames[0]))


def test_a_mask_for_each_frame_is_read_with_it(tmp_path, rng, frames):
    bad = rng.random(frames.shape) < 0.2
    bad[2] = True
    with open_images(save(tmp_path / "a.npy", frames), mask=str(save(tmp_path / "m.npy", bad))) as source:
        block = source.read([6, 2, 3])
    assert block.problems == {2: "masked completely"}
    np.testing.assert_array_equal(block.mask, ~bad[[6, 2, 3]])


def test_masks_that_do_not_fit(tmp_path, frames):
    path = save(tmp_path / "a.npy", frames)
    for bad, message in (
        (frames[0].T, r"mask of shape \(31, 20\) does not fit images of shape \(7, 20, 31\)"),
        (frames[:6], r"mask of shape \(6, 20, 31\) does not fit"),
        (frames[0].astype(str), "a mask must hold numbers"),
    ):
        with pytest.raises(InputError, match=rf"m\.npy: {message}"):
            open_images(path, mask=str(save(tmp_path / "m.npy", bad)))
    with pytest.raises(InputError, match=r"nowhere\.npy: no such file"):
        open_images(path, mask="nowhere.npy")


def test_saturated_and_undefined_pixels_are_masked(tmp_path, frames):
    data = frames.astype(np.float64)
    data[0, 3, 4], data[1, 5, 6], data[2, 7, 8] = np.nan, -np.inf, 1e300
    with open_images(save(tmp_path / "a.npy", data), saturation=800) as source:
        block = source.read(range(7))
    expected = np.isfinite(data) & (data < 800)
    np.testing.assert_array_equal(block.mask, expected)
    np.testing.assert_array_equal(block.images, np.where(expected, data, 0))
    assert not block.problems
    levels = np.arange(90, 346, dtype=np.uint16).clip(90, 240).astype(np.uint8).reshape(1, 16, 16)
    levels[0, 2, 2] = 255
    with open_images(save(tmp_path / "b.npy", levels), saturation=255) as source:
        assert source.kind == "log"
        assert (~source.read([0]).mask).sum() == 1
    for wrong in (0.0, -3.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="saturation must be a positive number"):
            open_images(tmp_path / "a.npy", saturation=wrong)


def test_bad_frames_fail_alone(tmp_path, frames):
    data = frames.astype(np.float32)
    data[1] = np.nan
    data[2] = 0
    data[4, 3, 3] = -50
    with open_images(save(tmp_path / "a.npy", data)) as source:
        block = source.read(range(7))
    assert block.problems == {1: "masked completely", 2: "empty: all usable pixels are 0"}
    assert not block.images[[1, 2]].any()
    assert not block.mask[[1, 2]].any()
    assert not block.mask[4, 3, 3]  # a single negative pixel is a bad one
    assert block.mask[4].sum() == 20 * 31 - 1
    np.testing.assert_array_equal(block.images[[0, 3, 5, 6]], frames[[0, 3, 5, 6]])


def test_a_file_that_grows_shrinks_or_goes_is_noticed(tmp_path, frames):
    path = save(tmp_path / "a.npy", frames)
    with open_images(path) as source:
        assert source.warnings() == []
        with path.open("ab") as stream:
            stream.write(bytes(1000))
        block = source.read(range(len(source)))
        (warning,) = source.warnings()
    assert not block.problems
    assert "changed while it was read; the 7 frames present at opening were used" in warning
    save(path, frames)
    with open_images(path) as source:
        os.truncate(path, path.stat().st_size - 1)
        assert sorted(source.read(range(7)).problems) == [6]
        assert source.warnings()
    save(path, frames)
    with open_images(path) as source:
        path.unlink()
        assert not source.read(range(7)).problems
        assert source.warnings()


def test_a_dataset_that_grows(tmp_path, frames):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as stream:
        stream.create_dataset(DATA_PATH, data=frames, maxshape=(None, 20, 31))
    with open_images(path) as source:
        pass
    with h5py.File(path, "a") as stream:
        stream[DATA_PATH].resize(9, axis=0)
    assert len(source) == 7
    assert "changed" in source.warnings()[0]


@pytest.mark.parametrize("decades", [4.0, 8.0])
def test_other_decades_are_brought_to_six(tmp_path, decades):
    """Intensities are the same; what lies below a shorter range is masked, below six decades it is 0."""
    intensity = 10 ** -np.linspace(0, 7.5, 400).reshape(20, 20)
    path = save(tmp_path / "log.npy", (1 + np.log10(intensity) / decades).clip(0, 1))
    with open_images(path, "log", decades=decades) as source:
        block = source.read((0,))
    expected, in_range = (1 + np.log10(intensity) / 6).clip(0, 1), intensity > 10**-decades
    np.testing.assert_array_equal(block.mask[0], in_range if decades < 6 else True)
    np.testing.assert_allclose(block.images[0][in_range], expected[in_range], atol=1e-6)
    np.testing.assert_array_equal(block.images[0][~in_range], 0)


def test_decades_of_counts_are_refused(tmp_path, frames):
    path = save(tmp_path / "counts.npy", frames)
    with pytest.raises(InputError, match="no decades"):
        open_images(path, decades=4.0)
    with pytest.raises(InputError, match="positive"):
        open_images(path, "log", decades=0.0)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_arrays_in_memory_are_checked_like_files(tmp_path, rng, frames, convert):
    data, mask = frames.astype(np.float32), rng.random(frames.shape[1:]) < 0.9
    data[1] = 0
    with open_images(save(tmp_path / "a.npy", data), mask=str(save(tmp_path / "m.npy", ~mask))) as source:
        expected = source.read(range(7))
    arrays = open_arrays(convert(data), convert(mask))
    read = arrays.read(range(7))
    assert (arrays.kind, arrays.shape, arrays.warnings()) == ("counts", (20, 31), [])
    assert read.problems == expected.problems == {1: "empty: all usable pixels are 0"}
    assert torch.equal(read.images, expected.images)
    assert torch.equal(read.mask, expected.mask)
    assert len(open_arrays(convert(data[0]), kind="intensity").read([0])) == 1
    with pytest.raises(InputError, match="kind must be auto, counts, log or intensity"):
        open_arrays(data, kind="photo")
    with pytest.raises(InputError, match="the mask: mask of shape"):
        open_arrays(data, mask.T)
