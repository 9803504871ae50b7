"""Gain and read-out noise of simulated cameras, and gaps and masks among their pixels."""

import h5py
import numpy as np
import pytest
import torch

from icobench.images.noise import neighbour_noise, noise_of, readout_noise
from icobench.images.pixels import expected_counts, usable_pixels
from icobench.images.reading import Reading
from icobench.images.source import open_arrays, open_images
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator


@pytest.fixture(scope="module")
def means():
    """Expected counts of four bodies, (4, 128, 128), for 1e5 photons, and the mask."""
    turns = torch.nn.functional.normalize(
        torch.randn(4, 4, generator=torch.Generator().manual_seed(7)), dim=1
    )
    intensity = Simulator(Experiment()).intensity(torch.tensor([35.0, 60, 100, 150]), turns)
    mask = usable_pixels(Experiment(), 3, 0.8)
    return expected_counts(intensity, mask, 1e5).numpy(), mask.numpy()


@pytest.mark.parametrize(("gain", "readout"), [(1.0, 0.0), (0.3, 0.0), (60.0, 0.0), (7.3, 3.0), (25.0, 20.0)])
def test_a_camera_from_residuals_and_from_neighbours(means, rng, gain, readout):
    for mean in means[0]:
        values = gain * rng.poisson(mean) + readout * rng.standard_normal(mean.shape)
        usable = means[1]
        found, noise = noise_of(gain * mean[usable], (values - gain * mean)[usable] ** 2)
        assert found == pytest.approx(gain, rel=0.08)
        assert noise == pytest.approx(readout, abs=0.1 * max(readout, gain))
        rough, _ = neighbour_noise(values, usable)
        assert 0.3 * gain < rough < 1.3 * gain
        if readout:
            assert readout_noise(values[usable]) == pytest.approx(readout, rel=0.08)


def test_a_model_that_is_off_does_not_raise_the_gain(means, rng):
    """The misfit grows with the square of the mean, photon noise with the mean."""
    mean, usable = 30 * means[0][1], means[1]
    counts = rng.poisson(mean)
    wrong = mean * (1 + 0.2 * np.sin(np.arange(128) / 2))
    gain, _ = noise_of(wrong[usable], (counts - wrong)[usable] ** 2)
    assert gain == pytest.approx(1, rel=0.3)
    assert ((counts - wrong)[usable] ** 2).sum() > 5 * mean[usable].sum()


def test_dark_subtracted_frames_keep_their_negative_pixels(means, rng, tmp_path):
    mean, _ = means
    values = (25 * rng.poisson(mean) + 8 * rng.standard_normal(mean.shape)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    with open_images(tmp_path / "a.npy", "counts") as source:
        assert source.readout == pytest.approx(8, rel=0.05)
        assert any("values below 0: read-out noise" in line for line in source.remarks)
        assert not source.steps
        source.with_noise(25.0)
        block = source.read(range(4))
    assert not block.problems
    np.testing.assert_allclose(block.images, values / 25, rtol=1e-6)
    np.testing.assert_allclose(block.readout, (source.readout / 25) ** 2, rtol=1e-5)
    assert (block.images < 0).any()
    with open_images(tmp_path / "a.npy", reading=Reading("counts", gain=25.0, readout_noise=9.0)) as source:
        assert float(source.read([0]).readout[0, 0, 0]) == pytest.approx((9 / 25) ** 2)


@pytest.mark.parametrize(
    ("dtype", "gaps"),
    [
        ("uint32", (2**32 - 1, 2**32 - 2)),
        ("uint16", (65535,)),
        ("int32", (-1, -2)),
        ("float32", (-9999.0, -1.0)),
    ],
)
def test_gaps_are_masked_and_said(rng, tmp_path, dtype, gaps):
    data = (rng.poisson(3.0, (4, 40, 50)) + 1).astype(dtype)
    for column, value in enumerate(gaps):
        data[:, :, 10 + column] = value
    np.save(tmp_path / "a.npy", data)
    with open_images(tmp_path / "a.npy") as source:
        assert source.kind == "counts"
        block = source.read(range(4))
        for value in gaps:
            assert any(
                line.startswith(f"pixels that hold {value:.10g} are gaps: 2 %") for line in source.remarks
            )
        assert source.readout == 0
    expected = np.ones(data.shape, bool)
    expected[:, :, 10 : 10 + len(gaps)] = False
    np.testing.assert_array_equal(block.mask, expected)
    np.testing.assert_array_equal(block.images, np.where(expected, data, 0))


def test_a_full_pixel_of_a_16_bit_log_image_is_no_gap(rng):
    levels = np.round(rng.uniform(0.4, 1, (1, 40, 40)) * 65535).astype(np.uint16)
    levels[0, 3, 3] = 65535
    source = open_arrays(levels)
    assert source.kind == "log"
    assert source.read([0]).mask.all()


def masked(path, data, mask, **more):
    with h5py.File(path, "w") as stream:
        stream["/entry_1/data_1/data"], stream["/entry_1/data_1/mask"] = data, mask
        for name, values in more.items():
            stream[name.replace("__", "/")] = values
    return path


def test_bits_of_cxi_masks(rng, tmp_path):
    data = rng.poisson(3.0, (2, 32, 32)) + 1
    mask = np.zeros((32, 32), np.uint32)
    mask[0], mask[1], mask[2], mask[3] = 16, 512, 2048, 2048 | 4
    with open_images(masked(tmp_path / "a.cxi", data, mask)) as source:
        (line,) = [line for line in source.remarks if "CXI mask bits" in line]
        block = source.read([0])
    assert "shadowed 3.1 %; missing 3.1 %" in line
    assert "artefact corrected 6.2 %, kept" in line
    assert "hot 3.1 %" in line
    assert (~block.mask[0]).all(1).nonzero()[:, 0].tolist() == [0, 1, 3]


def test_masks_that_hide_most_or_are_inverted_are_spoken_of(rng, tmp_path):
    data = rng.poisson(3.0, (2, 64, 64)) + 1
    most = np.ones((64, 64), np.uint8)
    most[30:34, 30:50] = 0
    with open_images(masked(tmp_path / "a.cxi", data, most)) as source:
        assert any("the mask hides 98" in line for line in source.remarks)
    good = np.zeros((64, 64), np.uint8)
    good[8:56, 8:56] = 1
    path = masked(tmp_path / "b.cxi", data * good, good)
    with open_images(path) as source:
        assert any("may be inverted" in line and "--invert-mask" in line for line in source.remarks)
        assert len(source.read([0]).problems) == 1
    with open_images(path, reading=Reading(invert_mask=True)) as source:
        block = source.read([0])
    np.testing.assert_array_equal(block.mask[0], good == 1)


def test_masks_elsewhere_are_named(rng, tmp_path):
    data = rng.poisson(3.0, (2, 32, 32)) + 1
    other = np.zeros((32, 32), np.uint8)
    other[4] = 1
    path = masked(tmp_path / "a.cxi", data, 0 * other, entry_1__image_1__mask=other)
    with open_images(path) as source:
        (line,) = [line for line in source.remarks if "not used" in line]
        assert "/entry_1/image_1/mask" in line
        assert source.read([0]).mask.all()
    with open_images(path, mask="/entry_1/image_1/mask") as source:
        assert not source.read([0]).mask[0, 4].any()
    with h5py.File(tmp_path / "b.cxi", "w") as stream:
        stream["/entry_1/data_1/data"], stream["/entry_1/data_1/mask_shared"] = data, other
    with open_images(tmp_path / "b.cxi") as source:
        assert not source.read([0]).mask[0, 4].any()
        assert any(line.startswith("masked by") and "mask_shared" in line for line in source.remarks)
