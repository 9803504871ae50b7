"""Small files in the layouts of facilities: CXI, NeXus, Eiger, European XFEL, one image a group, TIFF, EDF,
CBF."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tifffile

from icobench.errors import InputError
from icobench.images.prepare import prepare
from icobench.images.reading import Reading
from icobench.images.source import open_images

EV = 1.602176634e-19


@pytest.fixture
def frames(rng):
    return rng.poisson(3.0, (5, 32, 40)).astype(np.uint16) + 1


def opened(path, **reading):
    return open_images(path, reading=Reading(**reading))


def test_eiger_masters(tmp_path, frames):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    packings = {"e_data_000001.h5": hdf5plugin.Bitshuffle(), "e_data_000002.h5": hdf5plugin.LZ4()}
    parts = frames[:3], frames[3:]
    for (name, packing), part in zip(packings.items(), parts, strict=True):
        with h5py.File(tmp_path / name, "w") as stream:
            stream.create_dataset(
                "entry/data/data", data=part.astype(np.uint32), chunks=(1, 32, 40), **packing
            )
    bad = np.zeros((32, 40), np.uint32)
    bad[3, 4] = 1
    with h5py.File(tmp_path / "e_master.h5", "w") as stream:
        for number, name in enumerate(packings, 1):
            stream[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(name, "entry/data/data")
        beam, place = (
            stream.create_group("entry/instrument/beam"),
            stream.create_group("entry/instrument/detector"),
        )
        beam["incident_wavelength"] = 135.0
        beam["incident_wavelength"].attrs["units"] = "angstrom"
        place["detector_distance"], place["x_pixel_size"], place["y_pixel_size"] = 0.07, 75e-6, 75e-6
        place["beam_center_x"], place["beam_center_y"] = 20.0, 15.5
        place["detectorSpecific/pixel_mask"] = bad
    with prepare(tmp_path / "e_master.h5") as prepared:
        block = prepared.source.read(range(5))
        assert (prepared.setup.detector.distance_mm, prepared.setup.detector.centre) == (70.0, (20.0, 15.5))
        assert prepared.setup.experiment.wavelength_nm == pytest.approx(13.5)
        assert any("2 linked datasets with 5 frames" in note for note in prepared.notes)
    np.testing.assert_array_equal(block.images, np.where(bad, 0, frames))
    with opened(tmp_path / "e_master.h5") as source:
        np.testing.assert_array_equal(source.read([2, 3]).images[:, 5], frames[2:4, 5])
    (tmp_path / "e_data_000002.h5").unlink()
    with pytest.raises(
        InputError, match=r"/entry/data/data_000002 links to e_data_000002.h5, which is not there"
    ):
        opened(tmp_path / "e_master.h5")


def test_a_missing_compression_is_named(tmp_path, frames):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    with h5py.File(tmp_path / "a.h5", "w") as stream:
        stream.create_dataset(
            "/entry_1/data_1/data", data=frames, chunks=(1, 32, 40), **hdf5plugin.Bitshuffle()
        )
    # Another process, without the plugin.
    program = (
        "import sys; sys.modules['hdf5plugin'] = None\n"
        f"from icobench.images.source import open_images; open_images({str(tmp_path / 'a.h5')!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert 'compressed by bitshuffle (HDF5 filter 32008); pip install "icobench[files]"' in done.stderr


def virtual(path, source, inside, shape, dtype=np.int32):
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource(source, inside, shape)
    with h5py.File(path, "w") as stream:
        stream.create_virtual_dataset("/entry_1/data_1/data", layout)
    return path


def test_virtual_sets_and_their_sources(tmp_path, frames):
    with h5py.File(tmp_path / "source.h5", "w") as stream:
        stream["d"] = frames.astype(np.int32)
    path = virtual(tmp_path / "v.h5", "source.h5", "d", frames.shape)
    with opened(path) as source:
        np.testing.assert_array_equal(source.read(range(5)).images, frames)
    with pytest.raises(InputError, match=r"its source e in source.h5 is not there"):
        opened(virtual(tmp_path / "w.h5", "source.h5", "e", frames.shape))
    (tmp_path / "source.h5").unlink()
    with pytest.raises(InputError, match=r"links to source.h5, which is not there"):
        opened(path)


def test_links_that_lead_astray(tmp_path, frames):
    """To itself, out of the folder, to a pipe, to nothing: refused before HDF5 follows them."""
    with pytest.raises(InputError, match="source /entry_1/data_1/data is not there"):
        opened(virtual(tmp_path / "self.h5", ".", "/entry_1/data_1/data", frames.shape))
    os.mkfifo(tmp_path / "pipe")
    folder = tmp_path / "run"
    folder.mkdir()
    with h5py.File(tmp_path / "outside.h5", "w") as stream:
        stream["d"] = frames
    links = {
        "../outside.h5": "outside of the file's folder", "gone.h5": "not there", "pipe": "not a plain file",
    }  # fmt: skip
    os.symlink(tmp_path / "pipe", folder / "pipe")
    for target, message in links.items():
        with h5py.File(folder / "a.h5", "w") as stream:
            stream["/entry_1/data_1/data"] = h5py.ExternalLink(target, "d")
        with pytest.raises(InputError, match=message if target != "pipe" else "outside of|not a plain"):
            opened(folder / "a.h5")
    with h5py.File(folder / "a.h5", "w") as stream:
        stream["/entry_1/data_1/data"] = h5py.ExternalLink("../outside.h5", "d")
    with opened(folder / "a.h5", follow_links=True) as source:
        np.testing.assert_array_equal(source.read([1]).images[0], frames[1])
    with h5py.File(folder / "b.h5", "w") as stream:
        stream["/entry_1/data_1"] = h5py.SoftLink("/entry_1/instrument_1/detector_1")
    with pytest.raises(InputError, match="/entry_1/data_1 is a link to something that is not there"):
        opened(folder / "b.h5")


def test_a_file_that_is_being_written(tmp_path, frames):
    """By another process: refused with advice, or read as far as it is where the writer allows that."""
    program = """
import sys, h5py, numpy as np
stream = h5py.File(sys.argv[1], "w", libver="latest")
data = stream.create_dataset("/entry_1/data_1/data", data=np.full((3, 32, 40), 7), maxshape=(None, 32, 40))
if sys.argv[2] == "swmr":
    stream.swmr_mode = True
stream.flush()
print("ready", flush=True)
sys.stdin.read()
"""
    for mode in ("plain", "swmr"):
        path = tmp_path / f"{mode}.h5"
        with subprocess.Popen(
            [sys.executable, "-c", program, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout.readline() == b"ready\n"
            if mode == "plain":
                with pytest.raises(InputError, match="another program has this file open for writing; wait"):
                    opened(path)
            else:
                with opened(path) as source:
                    assert any("another program is writing" in line for line in source.remarks)
                    assert float(source.read([2]).images.mean()) == 7
            writer.stdin.close()


def test_cxi_with_links_masks_and_energy_in_joules(tmp_path, frames):
    with h5py.File(tmp_path / "a.cxi", "w") as stream:
        detector = stream.create_group("entry_1/instrument_1/detector_1")
        detector["data"], detector["distance"] = frames, 0.05
        detector["x_pixel_size"] = detector["y_pixel_size"] = 6e-4
        detector["mask"] = (np.arange(32)[:, None] == 1) * np.ones((32, 40), np.uint32) * 512
        stream["entry_1/instrument_1/source_1/energy"] = 91.8401 * EV
        stream["entry_1/data_1"] = h5py.SoftLink("/entry_1/instrument_1/detector_1")
    with prepare(tmp_path / "a.cxi") as prepared:
        assert prepared.setup.experiment.wavelength_nm == pytest.approx(13.5, rel=1e-4)
        assert prepared.setup.detector.distance_mm == 50
        block = prepared.source.read([0])
    assert (~block.mask[0]).all(1).nonzero()[:, 0].tolist() == [1]


def test_one_image_a_group_with_an_energy_each(tmp_path, frames):
    with h5py.File(tmp_path / "a.cxi", "w") as stream:
        for number, frame in enumerate(frames, 1):
            stream[f"entry_{number}/instrument_1/detector_1/data"] = frame
            stream[f"entry_{number}/instrument_1/source_1/energy"] = (90 + number) * EV
            stream[f"entry_{number}/note_1/data"] = np.zeros(10)
    with prepare(tmp_path / "a.cxi") as prepared:
        np.testing.assert_array_equal(prepared.source.read(range(5)).images, frames)
        np.testing.assert_array_equal(prepared.source.read([3]).images[0], frames[3])
        fact = prepared.setup.facts["wavelength_nm"]
    np.testing.assert_allclose(fact.by_frame, 1239.841984 / (90 + np.arange(1, 6)), rtol=1e-6)


def test_masks_of_one_image_a_group_are_used_where_all_have_one(tmp_path, frames):
    bad = np.arange(frames.size).reshape(frames.shape) % 7 == 0
    with h5py.File(tmp_path / "a.cxi", "w") as stream:
        for number, (frame, mask) in enumerate(zip(frames, bad, strict=True), 1):
            stream[f"entry_{number}/data_1/data"] = frame
            stream[f"entry_{number}/data_1/mask"] = mask.astype(np.uint8)
            if number > 2:
                stream[f"entry_{number}/data_1/pixel_mask"] = mask.astype(np.uint8)
    with prepare(tmp_path / "a.cxi") as prepared:
        block = prepared.source.read(range(5))
        assert any("pixel_mask of 3 of 5 groups is not used" in note for note in prepared.notes)
    np.testing.assert_array_equal(block.images, np.where(bad, 0, frames))
    np.testing.assert_array_equal(block.mask, ~bad)


def xfel(path, rng, raw=False):
    """As EXtra-data writes virtual CXI files: modules, gain, mask, trainId."""
    data = rng.poisson(2.0, (4, 2, 16, 40)).astype(np.float32) + 1
    mask = np.zeros(data.shape, np.uint32)
    mask[:, 1, 3] = 32
    with h5py.File(path, "w") as stream:
        detector = stream.create_group("entry_1/instrument_1/detector_1")
        detector["data"] = np.stack((data, 9 * data), 2) if raw else data
        detector["data"].attrs["axes"] = "experiment_identifier:module_identifier:y:x"
        if not raw:
            detector["gain"], detector["mask"] = np.zeros(data.shape, np.uint8), mask
        detector["module_identifier"] = [0, 1]
        stream["entry_1/trainId"] = np.arange(4)
        stream["entry_1/data_1"] = h5py.SoftLink("/entry_1/instrument_1/detector_1")
    return data.reshape(4, 32, 40), mask.reshape(4, 32, 40)


def test_modules_of_the_european_xfel(tmp_path, rng):
    data, mask = xfel(tmp_path / "a.cxi", rng)
    with opened(tmp_path / "a.cxi") as source:
        block = source.read(range(4))
        assert source.modules == (2, 16)
        assert not any("CXI mask bits" in line for line in source.remarks)  # its bits mean other things
    np.testing.assert_array_equal(block.mask, mask == 0)
    np.testing.assert_array_equal(block.images, np.where(mask, 0, data))
    with pytest.raises(InputError, match=r"got 2 parts of each; .*--geometry FILE.geom or --panels"):
        prepare(tmp_path / "a.cxi")
    np.save(tmp_path / "bad.npy", mask[0].reshape(2, 16, 40) > 0)
    with opened(tmp_path / "a.cxi", mask=str(tmp_path / "bad.npy")) as source:
        np.testing.assert_array_equal(source.read([0]).mask[0], mask[0] == 0)
    data, _ = xfel(tmp_path / "raw.cxi", rng, raw=True)
    with opened(tmp_path / "raw.cxi") as source:
        np.testing.assert_array_equal(source.read([1]).images[0], data[1])
        assert any("the first is used, not the gain" in line for line in source.remarks)


@pytest.mark.parametrize("suffix", [".npy", ".h5"])
def test_frames_along_the_last_axis_are_asked_about(tmp_path, rng, suffix):
    data = rng.poisson(3.0, (7, 32, 32)) + 1
    path, last = tmp_path / f"a{suffix}", np.moveaxis(data, 0, -1)
    if suffix == ".npy":
        np.save(path, last)
    else:
        with h5py.File(path, "w") as stream:
            stream["/entry_1/data_1/data"] = last
    with pytest.raises(
        InputError, match=r"\(32, 32, 7\) may be 7 frames of 32 x 32 .*--frame-axis last or first"
    ):
        opened(path)
    with opened(path, frame_axis="last") as source:
        np.testing.assert_array_equal(source.read(range(7)).images, data)
        np.testing.assert_array_equal(source.read([5]).images[0], data[5])
    with pytest.raises(InputError, match="at least 16 pixels"):
        opened(path, frame_axis="first")


def test_matlab_files(tmp_path, rng):
    from scipy.io import savemat

    data = rng.poisson(3.0, (7, 20, 32)) + 1.0
    savemat(tmp_path / "five.mat", {"images": np.moveaxis(data, 0, -1), "comment": "x"})
    with opened(tmp_path / "five.mat", frame_axis="last") as source:
        np.testing.assert_array_equal(source.read(range(7)).images, data)
    # Since version 7.3 HDF5, with the axes of MATLAB's (20, 32, 7) reversed.
    with h5py.File(tmp_path / "seven.mat", "w", userblock_size=512) as stream:
        stream["images"] = data.swapaxes(1, 2)
    with (tmp_path / "seven.mat").open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file")
    with opened(tmp_path / "seven.mat", dataset="images") as source:
        assert any("transpose True" in line for line in source.remarks)
        np.testing.assert_array_equal(source.read(range(7)).images, data)


@pytest.mark.parametrize("planes", [3, 4])
def test_planes_of_tiff_are_frames(tmp_path, rng, planes):
    data = rng.integers(1, 200, (planes, 32, 40), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "b.tif", data, photometric="rgb", planarconfig="separate", compression="zlib")
    for name in ("a.tif", "b.tif"):
        with opened(tmp_path / name) as source:
            assert any(f"{planes} separate planes" in line for line in source.remarks)
            np.testing.assert_array_equal(source.read(range(planes)).images, data)
            np.testing.assert_array_equal(source.read([1]).images[0], data[1])


# TIFF 6.0, section 8: where the first row and the first column of the stored image lie in the shown one.
SHOWN = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
    6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: np.rot90,
}  # fmt: skip


@pytest.mark.parametrize("orientation", SHOWN)
def test_orientation_of_tiff(tmp_path, frames, orientation):
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", frames[0], photometric="minisblack", extratags=tag)
    with opened(tmp_path / "a.tif") as source:
        np.testing.assert_array_equal(source.read([0]).images[0], SHOWN[orientation](frames[0]))
        assert any("orientation tag" in line for line in source.remarks) == (orientation > 1)


def test_edf_and_cbf(tmp_path, frames):
    fabio = pytest.importorskip("fabio")
    header = {"WaveLength": "1.35e-8", "SampleDistance": "0.05", "PSize_1": "6e-4", "PSize_2": "6e-4"}
    fabio.edfimage.EdfImage(data=frames[0], header=header).write(str(tmp_path / "a.edf"))
    text = "# Wavelength 135.0 A\r\n# Detector_distance 0.05000 m\r\n# Pixel_size 600e-6 m x 600e-6 m"
    contents = {"_array_data.header_contents": text}
    image = fabio.cbfimage.CbfImage(data=frames[0].astype(np.int32), header=contents)
    image.write(str(tmp_path / "a.cbf"))
    for name in ("a.edf", "a.cbf"):
        with prepare(tmp_path / name) as prepared:
            np.testing.assert_array_equal(prepared.source.read([0]).images[0], frames[0])
            assert prepared.setup.experiment.wavelength_nm == pytest.approx(13.5)
            assert prepared.setup.detector.pixel_mm == pytest.approx(0.6)


def test_formats_that_need_fabio_say_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fabio", None)
    (tmp_path / "a.edf").write_bytes(b"{\n}\n")
    with pytest.raises(InputError, match=r'need fabio; pip install "icobench\[files\]"'):
        opened(tmp_path / "a.edf")


def test_facts_in_an_npz(tmp_path, frames):
    np.savez(
        tmp_path / "a.npz", data=frames, mask=frames[0] > 5, wavelength_nm=13.2, distance_mm=50, pixel_mm=0.6
    )
    with prepare(tmp_path / "a.npz") as prepared:
        assert prepared.setup.experiment.wavelength_nm == 13.2
        assert prepared.setup.detector.distance_mm == 50
        np.testing.assert_array_equal(prepared.source.read([0]).mask[0], frames[0] <= 5)
