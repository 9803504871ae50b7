"""Axes, panels, CrystFEL's geometry and polar images: the same bodies are found in every arrangement."""

import numpy as np
import pytest
import torch

from icobench.errors import InputError
from icobench.geometry.orientation import disorientation, to_fundamental_domain
from icobench.images.geometry import Axes, parse_panels, read_geom
from icobench.images.reading import Reading
from icobench.runs.reconstruct import reconstruct
from icobench.sets.simulate import simulate
from icobench.simulator.experiment import Experiment, FlatDetector
from icobench.simulator.simulator import Simulator

RADII = torch.tensor([60.0, 90.0], dtype=torch.float64)
TURNS = torch.nn.functional.normalize(
    torch.tensor([[0.9, 0.1, 0.3, 0.2], [0.7, -0.4, 0.2, 0.5]]), dim=1
).double()
FLAT = FlatDetector(50.0, 0.4, (100.5, 92.25))


@pytest.fixture(autouse=True)
def _compiled(monkeypatch):
    """Fits by the hundred: with the compiled kernel where there is a compiler."""
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")


@pytest.fixture(scope="module")
def flat():
    """Two images of 3e5 photons on a flat detector of 200 x 200 pixels, without a hole."""
    return simulate(
        RADII, TURNS, 3e5, experiment=Experiment(detector=FLAT, pixels=200), seed=4
    ).images.numpy()


def check(answer, nm=0.15, deg=0.6):
    assert answer.status == ["ok"] * 2
    assert ((answer.radius_nm - RADII).abs() < nm).all()
    assert (disorientation(answer.quaternion, to_fundamental_domain(TURNS)) < deg).all()


CASES = [("", False), ("x", False), ("y", False), ("xy", False), ("", True), ("x", True), ("y", True)]


@pytest.mark.parametrize(("flip", "transpose"), CASES)
def test_axes_undo_what_a_camera_did(rng, flip, transpose):
    """The inverse: mirrored first, then transposed."""
    images = rng.random((2, 5, 7))
    stored = images[..., ::-1] if "x" in flip else images
    stored = stored[..., ::-1, :] if "y" in flip else stored
    stored = stored.swapaxes(1, 2) if transpose else stored
    axes = Axes(transpose, flip)
    np.testing.assert_array_equal(axes(stored), images)
    assert axes.shape(stored.shape[1:]) == images.shape[1:]
    row, column = np.argwhere(stored[0] == images[0, 3, 1])[0]
    assert axes.place(column, row, stored.shape[1:]) == (1, 3)
    with pytest.raises(InputError, match="--flip must be x, y or xy"):
        Axes(flip="z")


@pytest.mark.parametrize(("flip", "transpose"), CASES)
def test_flipped_frames_of_a_flat_detector(flat, flip, transpose):
    """The beam is given in pixels of the stored frames."""
    stored = flat[..., ::-1] if "x" in flip else flat
    stored = stored[..., ::-1, :] if "y" in flip else stored
    x, y = FLAT.centre
    x, y = 199 - x if "x" in flip else x, 199 - y if "y" in flip else y
    if transpose:
        stored, x, y = stored.swapaxes(1, 2), y, x
    reading = Reading("counts", flip=flip, transpose=transpose)
    detector = FlatDetector(50.0, 0.4, (x, y))
    check(
        reconstruct(np.ascontiguousarray(stored), reading=reading, detector=detector, method="dictionary+lm")
    )


def test_a_mirrored_frame_on_the_grid_itself():
    """A reader that mirrors: --flip undoes it. A mirrored camera gives another orientation, and nothing
    tells."""
    images = simulate(RADII, TURNS, 3e5, 3.0, seed=4)
    mirrored = images.images.flip(2), images.mask.flip(2)
    answer = reconstruct(*mirrored, reading=Reading("counts", flip="x"), method="dictionary+lm")
    check(answer)
    silent = reconstruct(
        images.images.roll(-1, 2).flip(2), images.mask.roll(-1, 2).flip(2), "counts", method="dictionary+lm"
    )
    assert silent.status == ["ok"] * 2
    assert (disorientation(silent.quaternion, to_fundamental_domain(TURNS)) > 5).all()


def test_two_halves_with_a_gap(flat):
    """A pnCCD: the lower half was moved by whole and broken pixels."""
    experiment = Experiment(detector=FlatDetector(50.0, 0.4, (100.5, 92.25 - 6.5)), pixels=200)
    lower = simulate(RADII, TURNS, 3e5, experiment=replace_centre(experiment, (-2.25, -6.5)), seed=5)
    scale = 1.0
    stored = np.concatenate((flat[:, :100], scale * lower.images.numpy()[:, 100:]), 1)
    answer = reconstruct(
        stored, kind="counts", detector=FLAT, panels="0:100:0,0;100:200:2.25,6.5", method="dictionary+lm"
    )
    check(answer, deg=0.8)
    with pytest.raises(InputError, match="--panels must be first:last:x,y"):
        parse_panels("0:100", (200, 200))
    with pytest.raises(InputError, match="the panels need 300 rows"):
        reconstruct(stored, kind="counts", detector=FLAT, panels="0:300:0,0")
    with pytest.raises(InputError, match="panels lie on a flat detector"):
        reconstruct(stored, kind="counts", panels="0:200:0,0")
    with pytest.raises(InputError, match="leave out --flip"):
        reconstruct(stored, detector=FLAT, panels="0:200:0,0", reading=Reading("counts", flip="x"))


def replace_centre(experiment, shift):
    """A detector whose pixels see what those of a panel that is moved by ``shift`` see."""
    x, y = FLAT.centre
    return Experiment(
        detector=FlatDetector(50.0, 0.4, (x + shift[0], y + shift[1])), pixels=experiment.pixels
    )


GEOM = """; a comment
photon_energy = 91.84012 eV
clen = 50 mm
res = 2500
adu_per_photon = 1
data = /entry_1/data_1/data
dim0 = %
dim2 = ss
dim3 = fs
rigid_group_a = p0,p1
bad_edge/min_fs = 0
bad_edge/max_fs = 3
bad_edge/min_ss = 10
bad_edge/max_ss = 12
bad_edge/panel = p1
p0/dim1 = 0
p0/min_fs = 0
p0/max_fs = 199
p0/min_ss = 0
p0/max_ss = 99
p0/fs = -1.0x +0.0y
p0/ss = +0.0x -1.0y
p0/corner_x = 101.0
p0/corner_y = 92.75
p1/dim1 = 1
p1/min_fs = 0
p1/max_fs = 199
p1/min_ss = 0
p1/max_ss = 99
p1/fs = +1.0x
p1/ss = +1.0y
p1/corner_x = -99.0
p1/corner_y = -107.25
"""


def test_modules_by_a_geometry_file(flat, tmp_path):
    """The second module stands on its head, as CrystFEL's axes say: x to the left and y up."""
    path = tmp_path / "a.geom"
    path.write_text(GEOM)
    panels = read_geom(path, (2, 100))
    assert [panel.rows for panel in panels.panels] == [(0, 100), (100, 200)]
    across, down = panels.places(np.array([0.0, 199.0, 0.0, 199.0]), np.array([0.0, 99.0, 100.0, 199.0]))
    np.testing.assert_allclose(across, np.array([0, 199, 199, 0]) - 100.5)
    np.testing.assert_allclose(down, np.array([0, 99, 199, 100]) - 92.25)
    assert panels.facts["wavelength_nm"].value == pytest.approx(13.5, rel=1e-4)
    assert panels.facts["distance_mm"].value == pytest.approx(50)
    assert panels.facts["pixel_mm"].value == pytest.approx(0.4)
    usable = panels.usable((200, 200))
    assert (~usable).sum() == 4 * 3
    assert not usable[110:113, :4].any()
    stored = np.stack((flat[:, :100], flat[:, 100:][:, ::-1, ::-1]), 1)
    np.save(tmp_path / "a.npy", stored)
    check(reconstruct(tmp_path / "a.npy", geometry=path, reading=Reading("counts"), method="dictionary+lm"))


@pytest.mark.parametrize("text", ["", "p0/min_fs = 0\n", "res = 1\np0/min_fs = x\n"])
def test_files_that_are_no_geometry(tmp_path, text):
    (tmp_path / "a.geom").write_text(text)
    with pytest.raises(InputError, match=r"a.geom: not a CrystFEL geometry"):
        read_geom(tmp_path / "a.geom", None)


@pytest.mark.parametrize(("flat_detector", "mirrored"), [(False, False), (True, False), (False, True)])
def test_polar_images(flat_detector, mirrored):
    """Angles by radii, interpolated as such sets are; half a degree and a column's width of a pixel."""
    radii, angles = 400, 720
    turn = np.arange(angles) / angles * 2 * np.pi * (-1 if mirrored else 1)
    column = np.arange(radii)
    detector = FlatDetector(50.0, 0.2) if flat_detector else None
    sine = np.sin(np.arctan(column * 0.2 / 50)) if flat_detector else column / radii * 0.9
    # Simulated at the samples themselves, by cubic interpolation of a fine grid.
    from scipy.ndimage import map_coordinates

    fine = Experiment(pixels=512)
    images = []
    for image in Simulator(fine).intensity(RADII, TURNS).numpy():
        x, y = sine * np.cos(turn)[:, None] * 256 + 256, sine * np.sin(turn)[:, None] * 256 + 256
        images.append(
            map_coordinates(image, [y, x], order=3) * (np.sqrt(1 - sine**2) ** 3 if flat_detector else 1)
        )
    stored = np.clip(np.stack(images), 0, None).astype(np.float32)
    stored *= 1e4 / stored.max()
    answer = reconstruct(
        stored, kind="counts", polar=True, detector=detector, method="dictionary+lm",
        reading=Reading("counts", gain=1.0, flip="y" if mirrored else None),
        experiment=None if flat_detector else {"sin_theta_max": 0.9},
    )  # fmt: skip
    assert ((answer.radius_nm - RADII).abs() < 0.3).all()
    assert (disorientation(answer.quaternion, to_fundamental_domain(TURNS)) < 0.5).all()
