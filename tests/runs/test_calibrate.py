"""Gain, noise, response and decades that a file does not state, found from its images; and what is said of
it."""

import numpy as np
import pytest
import torch

from icobench.errors import InputError
from icobench.geometry.orientation import disorientation, random_orientations
from icobench.images.detector import DETECTORS, MCP_EFFICIENCY
from icobench.images.pixels import log_image
from icobench.images.reading import Reading
from icobench.runs.reconstruct import reconstruct
from icobench.sets.patterns import PatternOptions, generate_patterns
from icobench.sets.simulate import simulate
from icobench.simulator.experiment import Experiment

RADII = torch.tensor([60.0, 80, 110, 140], dtype=torch.float64)
TURNS = random_orientations(4, torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def _compiled(monkeypatch):
    """Fits by the hundred: with the compiled kernel where there is a compiler."""
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")


@pytest.fixture(scope="module")
def images():
    return simulate(RADII, TURNS, 1e5, 3.0, seed=1)


def check(answer, status="ok", bars=5):
    assert set(answer.status) == {status}
    assert (disorientation(answer.quaternion, TURNS) < bars * answer.orientation_std_deg).all()
    assert ((answer.radius_nm - RADII).abs() < bars * answer.radius_std_nm).all()


@pytest.mark.parametrize("unit", [60, 1000, 0.3])
def test_detector_units_make_no_difference(images, unit):
    """The same answer and the same bars as of photons, and the gain is reported."""
    photons = reconstruct(images.images, images.mask, "counts", method="dictionary+lm")
    scaled = reconstruct(images.images * unit, images.mask, "counts", method="dictionary+lm")
    check(scaled)
    torch.testing.assert_close(scaled.radius_nm, photons.radius_nm, rtol=1e-4, atol=0)
    torch.testing.assert_close(scaled.radius_std_nm, photons.radius_std_nm, rtol=1e-3, atol=0)
    torch.testing.assert_close(
        scaled.nuisance["gain"], torch.full((4,), float(unit), dtype=torch.float64), rtol=1e-4, atol=0
    )
    assert "gain" in scaled.to_frame()
    assert "gain" not in photons.to_frame()


@pytest.mark.parametrize(("gain", "readout"), [(25, 8), (25, 30), (7.3, 0)])
def test_an_uncalibrated_camera(images, rng, gain, readout):
    """Noise, and gains of the pixels that differ by 2 %: no steps are left, and the noise tells the gain."""
    values = images.images.numpy() * gain * (1 + 0.02 * rng.standard_normal((128, 128)))
    values = values + readout * rng.standard_normal(values.shape)
    answer = reconstruct(values.astype(np.float32), images.mask, "counts")
    check(answer)
    np.testing.assert_allclose(answer.nuisance["gain"], gain, rtol=0.08)
    (note,) = [note for note in answer.notes if note.startswith("gain estimated")]
    assert "--gain" in note


def test_whole_numbers_of_a_camera_are_no_photons(images, rng):
    values = np.round(images.images.numpy() * 7.3 * (1 + 0.02 * rng.standard_normal((128, 128)))).astype(
        np.int32
    )
    answer = reconstruct(values, images.mask, method="dictionary+lm")
    check(answer)
    np.testing.assert_allclose(answer.nuisance["gain"], 7.3, rtol=0.08)


@pytest.mark.parametrize("unit", [1.0, 0.3])
def test_another_body_is_a_poor_fit_on_any_scale(images, unit):
    """A spheres's misfit is not taken for a gain."""
    spheres = simulate(RADII, TURNS, 1e5, 3.0, seed=1, shape="sphere")
    answer = reconstruct(spheres.images * unit, spheres.mask, "counts", method="dictionary+lm")
    assert set(answer.status) == {"poor-fit"}
    assert unit == 1 or (answer.nuisance["gain"] - unit).abs().max() < 1e-4


@pytest.mark.parametrize(("method", "blur"), [("dictionary+lm", 0.0), ("network", 0.0), ("network", 0.4)])
def test_another_material_is_a_poor_fit_and_no_gain(images, rng, method, blur):
    """Silver's waves, believed to be straight rays, differ from every fit as noise of larger units would;
    neighbouring pixels do not. Of whole counts, and of counts that a camera has blurred by its noise."""
    silver = simulate(
        RADII, TURNS, 1e5, 3.0, Experiment(refractive_index=0.89 + 0.0859j, physics="propagated"), seed=1
    )
    counts = silver.images + blur * torch.as_tensor(rng.standard_normal(silver.images.shape))
    answer = reconstruct(counts.float(), silver.mask, "counts", method=method)
    assert set(answer.status) == {"poor-fit"}


def test_the_gain_can_be_given(images):
    answer = reconstruct(
        images.images * 5, images.mask, reading=Reading("counts", gain=5.0), method="dictionary+lm"
    )
    check(answer)
    wrong = reconstruct(
        images.images * 5, images.mask, reading=Reading("counts", gain=1.0), method="dictionary+lm"
    )
    assert set(wrong.status) == {"poor-fit"}


def test_intensities_without_noise_are_told_from_counts(images):
    smooth = simulate(RADII, TURNS, 0, 3.0)
    answer = reconstruct(smooth.images, smooth.mask, "counts", method="dictionary+lm")
    assert "no noise of photons shows: taken as intensities without noise" in answer.notes
    assert set(answer.status) == {"ok"}


@pytest.mark.parametrize("decades", [4.0, 5.0, 8.0])
def test_decades_that_nobody_stated_are_fitted(decades):
    """Log images of 8 bits; read as six decades they would be degrees off, well within wrong error bars."""
    smooth = simulate(RADII, TURNS, 0, 3.0)
    levels = (log_image(smooth.images, decades) * 255).round().to(torch.uint8)
    answer = reconstruct(levels, smooth.mask, "log", method="dictionary+lm")
    check(answer)
    np.testing.assert_allclose(answer.nuisance["decades"], decades, atol=0.05)
    assert any("assumed to span 6 decades" in line for line in answer.origins)
    assert "their decades are fitted along" in answer.notes
    stated = reconstruct(levels, smooth.mask, reading=Reading("log", decades=decades), method="dictionary+lm")
    check(stated)
    assert "decades" not in stated.nuisance
    with pytest.raises(InputError, match="gamma cannot be fitted to log images"):
        reconstruct(levels, smooth.mask, "log", method="dictionary+lm", nuisance=("gamma",))


@pytest.mark.slow
def test_the_response_of_a_microchannel_plate_is_found():
    """Five images: the exponent and the ceiling within some per cent, and every body within its bars."""
    tests = generate_patterns(
        PatternOptions(5, detector=DETECTORS["mcp"], radius_range_nm=(60, 150)), Experiment(), 5
    )
    known = Experiment(efficiency=MCP_EFFICIENCY)
    blind = reconstruct(tests.images, tests.mask, "counts", known, "dictionary+lm")
    assert set(blind.status) == {"poor-fit"}
    answer = reconstruct(tests.images, tests.mask, "counts", known, "dictionary+lm", fit_response=True)
    (note,) = [note for note in answer.notes if note.startswith("response")]
    assert float(note.split("--gamma ")[1].split()[0]) == pytest.approx(0.75, abs=0.04)
    assert set(answer.status) == {"ok"}
    assert (disorientation(answer.quaternion, tests.quaternion) < 5 * answer.orientation_std_deg).all()
    assert ((answer.radius_nm - tests.radius_nm).abs() < 5 * answer.radius_std_nm).all()
    with pytest.raises(InputError, match="--fit-response is for counts"):
        reconstruct(tests.images / tests.images.max(), tests.mask, "log", fit_response=True)


def test_every_frame_has_its_own_wavelength(tmp_path):
    """Radii scale with it: two images of one body at 13.4 and 13.6 nm."""
    import h5py

    with h5py.File(tmp_path / "a.cxi", "w") as stream:
        for number, wavelength in enumerate((13.4, 13.6), 1):
            image = simulate(80.0, TURNS[0], 1e6, 0, Experiment(wavelength_nm=wavelength), seed=number)
            stream[f"entry_{number}/instrument_1/detector_1/data"] = image.images[0].numpy().astype(np.int32)
            energy = 1239.841984 / wavelength * 1.602176634e-19
            stream[f"entry_{number}/instrument_1/source_1/energy"] = energy
    answer = reconstruct(tmp_path / "a.cxi", method="dictionary+lm")
    assert ((answer.radius_nm - 80).abs() < 4 * answer.radius_std_nm).all()
    assert any(
        note.startswith("every frame has its own wavelength, 13.4 to 13.6 nm") for note in answer.notes
    )


def test_a_body_beyond_the_range_is_no_measurement():
    tiny = simulate([12.0, 80.0], (1, 0, 0, 0), 1e6, seed=2)
    answer = reconstruct(tiny.images, kind="counts", method="dictionary+lm")
    assert answer.status[0] == "outside-range"
    assert answer.status[1] == "ok"
    assert answer.radius_std_nm[0].isnan()
    assert "radii are searched from 20 to 170 nm; outside-range fits ended there" in answer.notes


def test_rows_do_not_depend_on_the_block(images):
    together = reconstruct(images.images * 60, images.mask, "counts", method="dictionary+lm")
    alone = reconstruct(images.images[2:3] * 60, images.mask[2:3], "counts", method="dictionary+lm")
    torch.testing.assert_close(alone.radius_nm, together.radius_nm[2:3], rtol=1e-6, atol=0)
