"""Resampling to the orthographic grid, against simulations on both detectors and simple oracles."""

import math

import numpy as np
import pytest
import torch

from icobench.errors import InputError
from icobench.fitting.counter import CountingSimulator
from icobench.fitting.least_squares import levenberg_marquardt
from icobench.fitting.objectives import LogImageError, PoissonDeviance
from icobench.geometry.orientation import disorientation, to_fundamental_domain
from icobench.images.pixels import log_image
from icobench.images.resample import LEAST_COVERAGE, FrameGeometry, Resampler, on_grid
from icobench.images.source import open_images
from icobench.runs.reconstruct import reconstruct
from icobench.sets.simulate import simulate
from icobench.simulator.experiment import Experiment, FlatDetector
from icobench.simulator.simulator import Simulator

TURNS = torch.nn.functional.normalize(
    torch.tensor([[0.9, 0.1, 0.3, 0.2], [0.7, -0.4, 0.2, 0.5]]), dim=1
).double()
FLAT = FlatDetector(50.0, 0.5, (131.4, 122.7))


def flat_images(radius_nm: float, pixels: int = 256, detector: FlatDetector = FLAT) -> np.ndarray:
    """Exact means of counts per pixel, (2, pixels, pixels)."""
    experiment = Experiment(detector=detector, pixels=pixels, solid_angle_factor=True)
    return Simulator(experiment).intensity(torch.full((2,), radius_nm), TURNS).numpy()


def geometry(detector: FlatDetector = FLAT) -> FrameGeometry:
    return FrameGeometry(detector.pixel_mm / detector.distance_mm, detector.centre, flat=True)


def save(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize("kind", ["counts", "log"])
@pytest.mark.parametrize(
    ("shape", "centre"), [((140, 150), (70, 61)), ((128, 128), (64, 64)), ((99, 301), (8, 90))]
)
def test_whole_pixel_offsets_are_an_exact_cut(rng, kind, shape, centre):
    target = Experiment(pixels=128, sin_theta_max=0.9)
    frames = rng.poisson(5.0, (2, *shape)).astype(np.float32)
    frames /= 1 if kind == "counts" else frames.max()
    mask = rng.random(frames.shape) < 0.9
    frames[~mask] = 0
    resampler = Resampler(shape, FrameGeometry(0.9 / 64, centre, flat=False), target)
    images, usable = resampler(frames, mask, kind)
    wide = np.pad(frames, ((0, 0), (200, 200), (200, 200)))
    there = np.pad(mask, ((0, 0), (200, 200), (200, 200)))
    top, left = 200 + centre[1] - 64, 200 + centre[0] - 64
    cut = np.s_[:, top : top + 128, left : left + 128]
    np.testing.assert_array_equal(usable, there[cut] & target.valid().numpy())
    np.testing.assert_allclose(images, wide[cut] * usable, rtol=0, atol=0 if kind == "counts" else 1e-6)


def test_a_finer_orthographic_frame_is_summed_by_area():
    """A naive twin: every source pixel a square, shared by overlap."""
    rng = np.random.default_rng(3)
    target = Experiment(pixels=16)
    source, pitch, centre = 50, 1 / 23.3, (24.7, 26.1)
    frames = rng.random((1, source, source)).astype(np.float32)

    def overlap(middle):
        low = (np.arange(source) - 0.5 - middle) * pitch
        edge = (np.arange(16) - 8.5) / 8
        top = np.minimum(low + pitch, edge[:, None] + 1 / 8)
        return np.maximum(0, top - np.maximum(low, edge[:, None])) / pitch

    down, across = overlap(centre[1]), overlap(centre[0])
    resampler = Resampler((source, source), FrameGeometry(pitch, centre, flat=False), target)
    images, usable = resampler(frames, np.ones(frames.shape, bool), "counts")
    steps = (np.arange(source) - np.array(centre)[:, None]) * pitch
    seen = steps[0] ** 2 + steps[1][:, None] ** 2 < 1
    coverage = down @ seen @ across.T * (pitch * 8) ** 2
    # Pixels near the horizon hold some that lie beyond it, and count nothing there.
    inner = usable[0] & (coverage > 1 - 1e-9)
    np.testing.assert_allclose(images[0][inner], (down @ frames[0] @ across.T)[inner], rtol=1e-5)
    np.testing.assert_array_equal(
        usable[0] | ~target.valid().numpy(), (coverage >= LEAST_COVERAGE) | ~target.valid().numpy()
    )


@pytest.mark.parametrize("radius_nm", [10.0, 20.0])
def test_counts_of_a_flat_detector_are_intensity_times_solid_angle(radius_nm):
    """Smooth images of small bodies: the simulation at pixel centres to 0.3 %; all counts kept."""
    frames = flat_images(radius_nm)
    believed = Experiment(solid_angle_factor=True)
    images, usable = Resampler(frames.shape[1:], geometry(), believed)(
        frames, np.ones(frames.shape, bool), "counts"
    )
    mean = Simulator(believed).intensity(torch.full((2,), radius_nm), TURNS).numpy()
    # One pixel on the beam sees (pixel / distance)^2, a target pixel 1 / 64^2.
    mean *= (FLAT.distance_mm / FLAT.pixel_mm / 64) ** 2
    assert usable[0].sum() > 8000
    assert np.linalg.norm((images - mean)[usable]) < 3e-3 * np.linalg.norm(mean[usable])
    assert abs(np.median(images[usable] / mean[usable]) - 1) < 2e-3
    np.testing.assert_allclose(images.sum(), frames.sum(), rtol=3e-3)


def test_coverage_of_a_flat_detector_is_one_inside(rng):
    """Uniform photons per area of the (k_x, k_y) plane come out uniform: box shares leave 0.3 % ripple."""
    believed = Experiment(solid_angle_factor=True)
    steps = np.arange(256)
    x, y, cosine = geometry().directions(steps, steps[:, None])
    flat = (cosine**4)[None].astype(np.float32)
    images, usable = Resampler((256, 256), geometry(), believed)(flat, np.ones(flat.shape, bool), "counts")
    expected = (FLAT.distance_mm / FLAT.pixel_mm / 64) ** 2
    np.testing.assert_allclose(images[usable], expected, rtol=2e-3)
    lone = np.zeros_like(flat)
    lone[0, 100, 140] = 1000
    images, _ = Resampler((256, 256), geometry(), believed)(lone, np.ones(flat.shape, bool), "counts")
    np.testing.assert_allclose(images.sum(), 1000, rtol=2e-3)
    row, column = np.unravel_index(images[0].argmax(), (128, 128))
    assert abs(column - 64 - 64 * x[100, 140]) <= 1
    assert abs(row - 64 - 64 * y[100, 140]) <= 1


def test_log_images_of_a_flat_detector_show_the_intensity():
    """Divided by cos^3 and averaged: the orthographic log image, up to one constant."""
    frames = flat_images(15.0)
    shown = log_image(torch.from_numpy(frames)).numpy()
    believed = Experiment()
    images, usable = Resampler(frames.shape[1:], geometry(), believed)(
        shown, np.ones(frames.shape, bool), "log"
    )
    mean = Simulator(believed).intensity(torch.full((2,), 15.0), TURNS)
    for image, one, mask in zip(images, log_image(mean).numpy(), usable, strict=True):
        seen = mask & (one > 0.2)
        difference = (image - one)[seen]
        assert np.ptp(np.quantile(difference, (0.02, 0.98))) < 0.004  # 0.024 decades, 5.6 %
        assert abs(difference).max() < 0.02


def test_bad_pixels_are_left_out_before():
    """What a masked pixel holds makes no difference; a hole stays a hole, its rim is scaled up."""
    frames = flat_images(10.0)
    mask = np.ones(frames.shape, bool)
    mask[:, 100:120, 90:110] = False
    mask[0, ::7, ::5] = False
    resampler = Resampler(frames.shape[1:], geometry(), Experiment(solid_angle_factor=True))
    whole, seen = resampler(frames, np.ones(frames.shape, bool), "counts")
    wild = np.where(mask, frames, 1e30).astype(np.float32)
    for damaged in (wild, np.where(mask, frames, 0)):
        images, usable = resampler(damaged, mask, "counts")
        assert 0.8 < usable.sum() / seen.sum() < 1
        assert np.median(abs(images / np.maximum(whole, 1e-9) - 1)[usable]) < 0.02
        assert not images[~usable].any()


def test_which_frames_are_resampled(tmp_path, rng):
    def grid(shape, **options):
        path = save(tmp_path / "a.npy", rng.integers(1, 9, (1, *shape)))
        with open_images(path) as opened:
            source, experiment = on_grid(opened, Experiment(sin_theta_max=0.8), **options)
            assert source.shape == (experiment.pixels, experiment.pixels)
            return source is opened, experiment, source.read([0])

    same, experiment, _ = grid((200, 200))
    assert (same, experiment.pixels, experiment.solid_angle_factor) == (True, 200, False)
    for shape in ((258, 258), (127, 127), (64, 300)):
        same, experiment, block = grid(shape)
        assert (same, experiment.pixels, experiment.sin_theta_max) == (False, 128, 0.8)
        assert block.mask.float().mean() > 0.3
    assert not grid((128, 128), centre=(60.0, 64.0))[0]
    assert grid((128, 128), pixels=64)[1].pixels == 64
    same, experiment, _ = grid((128, 128), detector=FlatDetector(50, 1.0))
    assert (same, experiment.solid_angle_factor, experiment.orthographic) == (False, True, True)
    save(tmp_path / "log.npy", rng.integers(90, 256, (1, 128, 128)).astype(np.uint8))
    with open_images(tmp_path / "log.npy") as opened:
        believed = Experiment(solid_angle_factor=True)
        assert not on_grid(opened, believed, detector=FlatDetector(50, 1.0))[1].solid_angle_factor
        assert on_grid(opened, believed, centre=(60.0, 64.0))[1].solid_angle_factor
    with pytest.raises(InputError, match="pixels must be even"):
        grid((128, 128), pixels=33)
    with pytest.raises(InputError, match="check the geometry"):
        grid((128, 128), detector=FlatDetector(1, 5.0))


def test_coarse_frames_are_warned_about_and_far_ones_fail(tmp_path):
    path = save(tmp_path / "a.npy", np.ones((2, 32, 32), np.int32))
    with open_images(path) as opened:
        source, _ = on_grid(opened, Experiment(), detector=FlatDetector(50, 2.0))
        (warning,) = source.warnings()
        assert "2.56 times as wide" in warning
        assert not source.read([1]).problems
        answer = reconstruct(opened, method="simplex", centre=(2000.0, 10.0))
    assert len(answer) == 2
    assert all(status.startswith("failed: no signal at usable pixels") for status in answer.status)


def test_many_large_frames_are_resampled_one_by_one(tmp_path, monkeypatch):
    from icobench.images import resample

    path = save(tmp_path / "a.npy", np.arange(1, 10 * 64 * 64 + 1, dtype=np.int32).reshape(10, 64, 64))
    with open_images(path) as opened:
        source, _ = on_grid(opened, Experiment(), centre=(30.0, 33.0), pixels=32)
        expected = source.read(range(10))
        monkeypatch.setattr(resample, "PIXELS", 3 * 64 * 64)
        sizes = []
        read = opened.read
        monkeypatch.setattr(opened, "read", lambda numbers: sizes.append(len(numbers)) or read(numbers))
        block = source.read(range(10))
    assert sizes == [3, 3, 3, 1]
    np.testing.assert_array_equal(block.images, expected.images)


# The bias of the radius, in nm, by averaging over a target pixel: see the module's text.
@pytest.mark.parametrize(
    ("kind", "radius_nm", "bias"),
    [("counts", 40.0, 0.05), ("counts", 80.0, 0.25), ("counts", 150.0, 1.2), ("log", 80.0, 0.08)],
)
def test_fits_of_resampled_images_are_close(kind, radius_nm, bias):
    """Exact images, off-centre and flat; log images of 8 bits."""
    detector = FlatDetector(50.0, 0.44, (143.3, 158.6))
    frames = flat_images(radius_nm, 300, detector)[:1]
    frames *= (1e7 / frames.sum((1, 2)))[:, None, None]
    if kind == "log":
        frames = ((log_image(torch.from_numpy(frames)) * 255).round() / 255).numpy()
    believed = Experiment(solid_angle_factor=kind == "counts")
    images, mask = Resampler((300, 300), geometry(detector), believed)(
        frames, np.ones(frames.shape, bool), kind
    )
    usable = torch.from_numpy(mask) & (believed.sin_theta() <= 0.8)
    objective = (PoissonDeviance if kind == "counts" else LogImageError)(
        torch.from_numpy(images), usable, CountingSimulator(Simulator(believed), 1)
    )
    fit = levenberg_marquardt(objective, torch.full((1,), radius_nm + 0.5).double(), TURNS[:1])
    miss = (fit.radius_nm - radius_nm).abs()
    assert (miss < bias).all(), miss
    assert (disorientation(fit.quaternion, TURNS[:1]) < 0.3).all()


def test_photons_of_an_off_centre_flat_detector_are_reconstructed(tmp_path, generator):
    """From file to table: 512 x 480, beam off the middle, hole, 3e5 photons."""
    detector = FlatDetector(50.0, 0.26, (240.0, 262.5))
    mean = torch.from_numpy(flat_images(60.0, 512, detector))[:, :, :480]
    counts = torch.poisson(mean * (3e5 / mean.sum((1, 2)))[:, None, None], generator=generator)
    x, y = np.arange(480) - 240.0, np.arange(512)[:, None] - 262.5
    hole = np.hypot(x, y) * 0.26 < 50 * math.tan(math.radians(3))
    path = save(tmp_path / "a.npy", counts.numpy().astype(np.uint16))
    with open_images(path, mask=str(save(tmp_path / "hole.npy", hole))) as opened:
        answer = reconstruct(opened, method="network+lm", detector=detector)
    assert (disorientation(answer.quaternion, to_fundamental_domain(TURNS)) < 0.5).all()
    assert ((answer.radius_nm - 60).abs() < 0.2).all()
    assert answer.status == ["ok"] * 2


def test_a_fraction_of_the_beam_s_offset_is_left_to_the_simulator(tmp_path):
    """Equal pitch: pixels are cut as they are, and the experiment says where the beam is."""
    frames = np.random.default_rng(0).poisson(5.0, (1, 140, 150)).astype(np.float32)
    with open_images(save(tmp_path / "a.npy", frames), "counts") as source:
        # 128 pixels over 2 x 0.9; the frame's shorter side spans 140 of them.
        cut, experiment = on_grid(source, Experiment(sin_theta_max=0.9), None, (70.3, 60.6), 140)
        assert experiment.centre_offset == pytest.approx((0.3, -0.4))
        assert not experiment.pixel_average
        image = cut.read([0]).images[0].numpy()
    inner = np.s_[9:140, 0:140]  # the frame starts 61 - 70 rows above the grid
    assert np.array_equal(image[inner][image[inner] > 0], frames[0][:131, :140][image[inner] > 0])
    assert (image[inner] > 0).mean() > 0.7


def test_bright_images_of_large_bodies_behind_a_hole_are_explained(generator):
    """Pixels at the hole's rim that are covered in part hold another average; they are left out."""
    detector = FlatDetector(50.0, 0.15, (250.5, 262.0))
    experiment = Experiment(detector=detector, pixels=512)
    images = simulate([110.0, 150.0], TURNS, 1e6, 3.0, experiment, seed=3)
    answer = reconstruct(images, method="dictionary+lm")
    assert answer.status == ["ok", "ok"]
    assert (answer.objective < 1.05).all()
    assert ((answer.radius_nm - torch.tensor([110.0, 150.0])).abs() < 0.06).all()
