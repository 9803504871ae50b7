"""PNG, pages of TIFF, arrays in any order: what the formats hold, read a few frames at a time."""

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from icobench.errors import InputError
from icobench.images.source import open_images, read_images


def png(path, array, mode=None):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.mark.parametrize("mode", [None, "RGB", "RGBA", "LA", "P"])
def test_grey_png_of_8_bits_is_a_log_image(tmp_path, rng, mode):
    levels = rng.integers(0, 256, (20, 30), dtype=np.uint8)
    stack = read_images(png(tmp_path / "a.png", levels, mode))
    assert stack.kind == "log"
    np.testing.assert_allclose(stack.images[0], levels / 255, rtol=1e-6)


def test_png_of_16_bits_holds_counts(tmp_path, rng):
    counts = rng.integers(0, 65536, (17, 30), dtype=np.uint16)
    path = png(tmp_path / "a.png", counts)
    stack = read_images(path)
    assert stack.kind == "counts"
    np.testing.assert_array_equal(stack.images[0], counts)
    np.testing.assert_allclose(read_images(path, kind="log").images[0], counts / 65535, rtol=1e-6)


def test_coloured_or_transparent_png_is_refused(tmp_path):
    colour = np.full((16, 16, 3), 7, np.uint8)
    colour[3, 4] = 1, 2, 3
    alpha = np.full((16, 16, 4), 255, np.uint8)
    alpha[2, 2, 3] = 10
    for array in (colour, alpha):
        with pytest.raises(InputError, match=r"a\.png: not a greyscale PNG"):
            read_images(png(tmp_path / "a.png", array))
    # Two bytes a channel, which Pillow cannot write: a 16-bit header before 8-bit data.
    path = png(tmp_path / "b.png", np.full((16, 16, 3), 7, np.uint8))
    whole = bytearray(path.read_bytes())
    whole[24] = 16
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r"b\.png: "):
        read_images(path)


@pytest.mark.parametrize("damage", [b"", b"noise" * 100, None])
def test_damaged_png(tmp_path, rng, damage):
    path = png(tmp_path / "a.png", rng.integers(0, 256, (64, 64), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:2000] if damage is None else damage)
    with pytest.raises(InputError, match=r"a\.png: not a readable PNG file"):
        read_images(path)


def contiguous(path, data):
    tifffile.imwrite(path, data, photometric="minisblack")


def one_page(path, data):
    tifffile.imwrite(path, data, photometric="minisblack", truncate=True)


def big_endian(path, data):
    tifffile.imwrite(path, data, photometric="minisblack", byteorder=">")


def imagej(path, data):
    tifffile.imwrite(path, data, imagej=True)


def packed(path, data):
    tifffile.imwrite(path, data, photometric="minisblack", compression="zlib")


def appended(path, data):
    with tifffile.TiffWriter(path) as stream:
        for page in data:
            stream.write(page, photometric="minisblack", contiguous=False)


LAYOUTS = [contiguous, one_page, big_endian, imagej, packed, appended]


@pytest.fixture
def pages(rng):
    return rng.integers(1, 60000, (6, 24, 33), dtype=np.uint16)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiff_layouts(tmp_path, pages, layout):
    path = tmp_path / "a.tif"
    layout(path, pages)
    np.testing.assert_array_equal(read_images(path).images, pages)
    with open_images(path) as source:
        np.testing.assert_array_equal(source.read([4]).images[0], pages[4])
        np.testing.assert_array_equal(source.read([1, 5]).images, pages[[1, 5]])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_truncated_tiff_gives_what_is_there_and_says_so(tmp_path, pages, layout):
    """Frames before the cut are read; that some are gone is a failed frame or a warning, never silence."""
    path = tmp_path / "a.tif"
    layout(path, pages)
    path.write_bytes(path.read_bytes()[: int(pages.nbytes * 0.6)])
    with open_images(path) as source:
        block = source.read(range(len(source)))
        good = [n for n in range(len(source)) if n not in block.problems]
        np.testing.assert_array_equal(block.images[good], pages[good])
        assert good
        assert any("unreadable" in text for text in block.problems.values()) or source.warnings()
    with pytest.raises(InputError, match=r"a\.tif"):
        read_images(path)


def test_pages_unlike_the_first_fail(tmp_path, pages):
    with tifffile.TiffWriter(tmp_path / "a.tif") as stream:
        for page in (pages[0], pages[1, :20], pages[2].astype(np.float32), pages[3]):
            stream.write(page, photometric="minisblack", contiguous=False)
    with open_images(tmp_path / "a.tif") as source:
        block = source.read(range(len(source)))
    assert sorted(block.problems) == [1, 2]
    assert "unlike the first" in block.problems[1]


def test_colour_tiff_is_refused(tmp_path, rng):
    tifffile.imwrite(tmp_path / "a.tif", rng.integers(0, 255, (32, 32, 3), dtype=np.uint8), photometric="rgb")
    with pytest.raises(InputError, match=r"a\.tif: not a greyscale TIFF"):
        read_images(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_fortran_order_and_foreign_bytes(tmp_path, pages, suffix):
    for array in (np.asfortranarray(pages), pages.astype(">i4"), np.asfortranarray(pages[0])):
        path = tmp_path / f"a{suffix}"
        np.save(path, array) if suffix == ".npy" else np.savez_compressed(path, data=array)
        with open_images(path) as source:
            last = len(source) - 1
            np.testing.assert_array_equal(source.read([last]).images[0], pages[last])
            np.testing.assert_array_equal(source.read([0]).images[0], pages[0])


def test_truncated_npy_loses_the_last_frames_only(tmp_path, pages):
    path = tmp_path / "a.npy"
    np.save(path, pages)
    path.write_bytes(path.read_bytes()[: -pages[0].nbytes - 1])
    with open_images(path) as source:
        assert len(source) == 6
        block = source.read(range(6))
    assert block.problems == dict.fromkeys((4, 5), "unreadable (the file is cut short)")
    np.testing.assert_array_equal(block.images[:4], pages[:4])
    assert not block.mask[4:].any()
    with pytest.raises(InputError, match=r"a\.npy: image 4: unreadable"):
        read_images(path)


def test_damaged_chunk_of_hdf5_and_of_npz(tmp_path, pages):
    """A broken compressed chunk takes its own frames along; of a zip archive all that follow."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as stream:
        stream.create_dataset("d", data=pages, chunks=(2, 24, 33), compression="gzip")
        chunk = stream["d"].id.get_chunk_info(1)
    whole = bytearray(path.read_bytes())
    whole[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(whole)
    with open_images(path, dataset="/d") as source:
        block = source.read(range(6))
        assert source.where == f"{path}, /d"
    assert sorted(block.problems) == [2, 3]
    assert all("unreadable" in text and "\n" not in text for text in block.problems.values())
    good = [0, 1, 4, 5]
    np.testing.assert_array_equal(block.images[good], pages[good])

    np.savez_compressed(tmp_path / "a.npz", data=pages)
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    half = len(whole) // 2
    whole[half : half + 200] = bytes(200)
    (tmp_path / "a.npz").write_bytes(whole)
    with open_images(tmp_path / "a.npz") as source:
        block = source.read(range(6))
    assert 0 not in block.problems
    assert 5 in block.problems
    np.testing.assert_array_equal(block.images[0], pages[0])


def test_missing_datasets_are_named(tmp_path, pages):
    with h5py.File(tmp_path / "a.h5", "w") as stream:
        for n in range(9):
            stream[f"run/frames{n}"] = pages
    with pytest.raises(
        InputError, match=r"no dataset /run \(two-dimensional or more are: /run/frames0, .*frames5, \.\.\.\)"
    ):
        read_images(tmp_path / "a.h5", data_path="/run")
    with h5py.File(tmp_path / "b.h5", "w"):
        pass
    with pytest.raises(
        InputError, match=r"no dataset /entry_1/data_1/data \(two-dimensional or more are: none\)"
    ):
        read_images(tmp_path / "b.h5")
    np.savez(tmp_path / "a.npz", frames=pages, other=pages + 1)
    np.testing.assert_array_equal(read_images(tmp_path / "a.npz", data_path="other").images, pages + 1)
    with pytest.raises(InputError, match=r"no array named x \(there are: frames, other\)"):
        read_images(tmp_path / "a.npz", data_path="x")
    np.save(tmp_path / "a.npy", pages)
    with pytest.raises(InputError, match="holds no datasets"):
        read_images(tmp_path / "a.npy", data_path="x")
