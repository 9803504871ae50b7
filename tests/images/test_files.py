"""Reading every format, and a message that names the file for everything that can be wrong with it."""

import os

import h5py
import numpy as np
import pytest
import tifffile
import torch

from icobench.errors import InputError
from icobench.images.formats import DATA_PATH, MASK_PATH
from icobench.images.source import read_images
from icobench.storage import atomic_path


@pytest.fixture
def counts(rng):
    return rng.poisson(3.0, size=(3, 16, 16)) + 1


def write_hdf5(path, data, bad=None, data_path=DATA_PATH, mask_path=MASK_PATH):
    with h5py.File(path, "w") as stream:
        stream[data_path] = data
        if bad is not None:
            stream[mask_path] = bad
    return path


def write(path, data):
    """Any format by its suffix."""
    if path.suffix == ".npy":
        np.save(path, data)
    elif path.suffix == ".npz":
        np.savez(path, data=data)
    elif path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, data, photometric="minisblack")
    else:
        write_hdf5(path, data)
    return path


SUFFIXES = [".cxi", ".h5", ".hdf5", ".npy", ".npz", ".tif", ".tiff", ".CXI"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.float32, np.float64])
def test_photon_counts_in_every_format(tmp_path, counts, suffix, dtype):
    if suffix.startswith(".tif") and dtype == np.float64:
        dtype = np.float32
    path = write(tmp_path / f"images{suffix.lower()}", counts.astype(dtype))
    path = path.rename(path.with_suffix(suffix))
    stack = read_images(path)
    assert stack.kind == "counts"
    assert stack.images.dtype == torch.float32
    assert stack.experiment is None
    assert stack.numbers.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(stack.images, counts)
    assert stack.mask.shape == counts.shape
    assert stack.mask.all()


@pytest.mark.parametrize("suffix", [".cxi", ".npy", ".npz", ".tif"])
def test_log_images_in_every_format(tmp_path, rng, suffix):
    """8-bit images and floats up to 1 are log images, in [0, 1] after reading."""
    levels = rng.integers(0, 256, size=(2, 18, 18)).astype(np.uint8)
    stack = read_images(write(tmp_path / f"bytes{suffix}", levels))
    assert stack.kind == "log"
    np.testing.assert_allclose(stack.images, levels / 255, rtol=1e-6)
    share = rng.random(size=(2, 18, 18)).astype(np.float32)
    stack = read_images(write(tmp_path / f"floats{suffix}", share))
    assert stack.kind == "log"
    np.testing.assert_array_equal(stack.images, share)


def test_the_kind_can_be_given(tmp_path, rng):
    levels = rng.integers(0, 4, size=(2, 16, 16)).astype(np.uint8)
    path = write(tmp_path / "bytes.npy", levels)
    stack = read_images(path, kind="counts")
    np.testing.assert_array_equal(stack.images, levels)
    faint = write(tmp_path / "faint.npy", (levels > 2).astype(np.float32))
    assert read_images(faint, kind="counts").kind == "counts"
    with pytest.raises(InputError, match="kind"):
        read_images(path, kind="intensity")


def test_a_single_image_is_a_stack_of_one(tmp_path, counts):
    assert read_images(write(tmp_path / "one.npy", counts[0])).images.shape == (1, 16, 16)


def test_masks(tmp_path, counts):
    """In CXI non-zero means bad; one mask for all images or one for each."""
    bad = np.zeros((16, 16), dtype=np.uint32)
    bad[3, 4], bad[5, 6] = 1, 512
    stack = read_images(write_hdf5(tmp_path / "shared.cxi", counts, bad))
    assert (stack.mask == (bad == 0)).all()
    assert (stack.images[:, bad > 0] == 0).all()
    each = np.stack((bad, 0 * bad, bad.T))
    stack = read_images(write_hdf5(tmp_path / "each.cxi", counts, each))
    np.testing.assert_array_equal(stack.mask, each == 0)
    np.savez(tmp_path / "shared.npz", images=counts, mask=bad)
    np.testing.assert_array_equal(read_images(tmp_path / "shared.npz").mask[1], bad == 0)


def test_own_dataset_names(tmp_path, counts):
    bad = np.eye(16, dtype=np.uint8)
    path = write_hdf5(tmp_path / "own.h5", counts, bad, "/det/frames", "/det/bad")
    stack = read_images(path, data_path="/det/frames", mask_path="/det/bad")
    np.testing.assert_array_equal(stack.mask[0], bad == 0)
    assert read_images(path, data_path="/det/frames").mask.all()
    for wrong in ({}, {"data_path": "/det"}, {"data_path": "/det/frames", "mask_path": "/det/nothing"}):
        with pytest.raises(InputError, match=r"own\.h5: no dataset"):
            read_images(path, **wrong)


@pytest.mark.parametrize("junk", [np.nan, np.inf, -1e9])
def test_masked_pixels_may_hold_anything(tmp_path, counts, junk):
    data = counts.astype(float)
    bad = np.zeros((16, 16), dtype=np.uint8)
    bad[7, 7] = 1
    data[:, 7, 7] = junk
    stack = read_images(write_hdf5(tmp_path / "junk.cxi", data, bad))
    assert (stack.images[:, 7, 7] == 0).all()
    assert np.isfinite(stack.images).all()


@pytest.mark.parametrize("junk", [np.nan, np.inf, 65535.0])
def test_masked_pixels_do_not_decide_the_kind(tmp_path, rng, junk):
    data = rng.random(size=(1, 16, 16))
    bad = np.zeros((16, 16), dtype=np.uint8)
    bad[7, 7] = 1
    data[:, 7, 7] = junk
    assert read_images(write_hdf5(tmp_path / "log.cxi", data, bad)).kind == "log"


def put(value, index=(1, 2, 3)):
    def change(data):
        data[index] = value
        return data

    return change


@pytest.mark.parametrize("suffix", [".cxi", ".npy", ".npz", ".tif"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(np.nan, 1), "image 1: masked completely"),
        (put(-np.inf, 1), "image 1: masked completely"),
        (put(0.0, 2), "image 2: empty"),
        (lambda data: data[None, None] * np.ones((2, 2, 1, 1, 1)), r"expected images of shape"),
        (lambda data: data[:, :14], "images must have at least 16"),
        (lambda data: data[:, :, :14], "images must have at least 16"),
    ],
)
def test_bad_images(tmp_path, suffix, change, message):
    path = write(tmp_path / f"bad{suffix}", change(np.ones((3, 16, 16), dtype=np.float32)))
    with pytest.raises(InputError, match=rf"bad\{suffix}.*: {message}"):
        read_images(path)


@pytest.mark.parametrize("suffix", [".cxi", ".npy", ".npz"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.ones((0, 16, 16)), "holds no image"),
        (np.ones((1, 16, 16), dtype=complex), "real numbers"),
        (np.ones((1, 16, 16), dtype=bool), "real numbers"),
        (np.full((1, 16, 16), b"7"), "real numbers"),
        (np.zeros((1, 16, 16), dtype=[("x", "f4")]), "real numbers"),
    ],
)
def test_bad_types(tmp_path, suffix, data, message):
    path = write(tmp_path / f"bad{suffix}", data)
    with pytest.raises(InputError, match=rf"bad\{suffix}.*: .*{message}"):
        read_images(path)


def test_log_images_above_1(tmp_path):
    path = write(tmp_path / "counts.npy", np.full((1, 16, 16), 7.0))
    with pytest.raises(InputError, match=r"counts\.npy: image 0: not a log image"):
        read_images(path, kind="log")


def test_bad_masks(tmp_path, counts):
    path = write_hdf5(
        tmp_path / "all.cxi", counts, np.stack((np.ones((16, 16)),) + (np.zeros((16, 16)),) * 2)
    )
    with pytest.raises(InputError, match=r"all\.cxi, /entry_1/data_1/data: image 0: masked"):
        read_images(path)
    path = write_hdf5(tmp_path / "shape.cxi", counts, np.zeros((16, 17)))
    with pytest.raises(
        InputError, match=r"shape\.cxi, /entry_1/data_1/mask: mask of shape \(16, 17\) does not fit"
    ):
        read_images(path)


@pytest.mark.parametrize("suffix", [".cxi", ".h5", ".npy", ".npz", ".tif"])
@pytest.mark.parametrize("damage", ["empty", "noise", "truncated", "cut short"])
def test_damaged_files(tmp_path, counts, suffix, damage, rng):
    path = write(tmp_path / f"damaged{suffix}", counts.astype(np.int32))
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "noise": rng.bytes(3000),
            "truncated": whole[: len(whole) // 2],
            "cut short": whole[:-100],
        }[damage]
    )
    with pytest.raises(InputError, match=rf"damaged\{suffix}"):
        read_images(path)


def test_npz_with_unknown_names(tmp_path, counts):
    np.savez(tmp_path / "only.npz", anything=counts)
    np.testing.assert_array_equal(read_images(tmp_path / "only.npz").images, counts)
    np.savez(tmp_path / "two.npz", first=counts, second=counts)
    with pytest.raises(InputError, match=r"two\.npz: no array named data or images .*first, second"):
        read_images(tmp_path / "two.npz")


def test_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"objects\.npy: images must be real numbers, got object"):
        read_images(tmp_path / "objects.npy")


def test_missing_and_unknown_files(tmp_path, counts):
    with pytest.raises(InputError, match=r"nothing\.cxi: no such file"):
        read_images(tmp_path / "nothing.cxi")
    with pytest.raises(InputError, match="no such file"):
        read_images(tmp_path)
    (tmp_path / "image.jpg").write_bytes(b"jpg")
    with pytest.raises(InputError, match=r"image\.jpg: unknown file type \.jpg"):
        read_images(tmp_path / "image.jpg")
    (tmp_path / "plain").write_bytes(b"x")
    with pytest.raises(InputError, match=r"plain: unknown file type \(none\)"):
        read_images(tmp_path / "plain")


def test_atomic_path_replaces_only_on_success(tmp_path):
    target = tmp_path / "result.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("first")
        assert not target.exists()
    assert target.read_text() == "first"
    with pytest.raises(RuntimeError, match="half-way"), atomic_path(target) as temporary:
        temporary.write_text("second")
        raise RuntimeError("half-way")
    assert target.read_text() == "first"
    with pytest.raises(KeyboardInterrupt), atomic_path(target):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["result.txt"]


def test_atomic_path_needs_a_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder"), atomic_path(tmp_path / "no" / "file.txt"):
        pass
    assert not list(tmp_path.iterdir())
