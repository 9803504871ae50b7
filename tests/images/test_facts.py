"""What files state, in their units, and how it is brought together with what a user says."""

import numpy as np
import pytest

from icobench.errors import InputError
from icobench.images.facts import Fact, experiment_facts, settle
from icobench.images.stated import header_facts, tree_facts
from icobench.simulator.experiment import Experiment, FlatDetector

EV = 1.602176634e-19
SHAPE = (32, 40)


def stated(*items, frames=5):
    """Facts of data sets given as path, value and unit."""
    return tree_facts(
        [(path, np.asarray(value), unit) for path, value, unit in items], "run.cxi", frames, SHAPE
    )


# 13.5 nm is 91.84 eV (h c = 1239.84 eV nm).
@pytest.mark.parametrize(
    ("path", "value", "unit"),
    [
        ("/entry_1/instrument_1/source_1/wavelength", 13.5e-9, ""),
        ("/entry_1/instrument_1/source_1/energy", 91.8401 * EV, ""),
        ("/entry_1/instrument_1/source_1/energy", 91.8401 * EV, "J"),
        ("/entry_1/instrument_1/source_1/energy", 91.8401, "eV"),
        ("/entry_1/instrument_1/source_1/energy", 91.8401, ""),
        ("/entry/instrument/beam/incident_wavelength", 135.0, "angstrom"),
        ("/entry/instrument/beam/incident_wavelength", 13.5, "nm"),
        ("/entry/instrument/monochromator/energy", 0.0918401, "keV"),
        ("/LCLS/photon_energy_eV", [91.8401] * 5, ""),
        ("/LCLS/photon_wavelength_A", 135.0, ""),
    ],
)
def test_wavelengths_in_every_unit(path, value, unit):
    fact = stated((path, value, unit))["wavelength_nm"]
    assert fact.value == pytest.approx(13.5, rel=1e-5)
    assert fact.origin.startswith(f"run.cxi, {path}")
    assert fact.by_frame is None


def test_a_wavelength_for_every_frame():
    energies = np.array([91.0, 92.0, 0.0, 91.5, 91.5])  # one shot was not measured
    fact = stated(("/entry_1/instrument_1/source_1/energy", energies, "eV"))["wavelength_nm"]
    expected = 1239.841984 / np.array([91.0, 92.0, 91.5, 91.5, 91.5])
    np.testing.assert_allclose(fact.by_frame, expected, rtol=1e-9)
    assert fact.value == pytest.approx(1239.841984 / 91.5)


@pytest.mark.parametrize(
    ("value", "unit", "problem"),
    [
        (13.5, "", "states 13.5 without a unit"),
        (13.5, "furlong", "in 'furlong'"),
        (5e-3, "m", "no wavelength"),
    ],
)
def test_a_wavelength_that_cannot_be_used_is_asked_for(value, unit, problem):
    facts = stated(("/entry_1/instrument_1/source_1/wavelength", value, unit))
    with pytest.raises(InputError, match=f"{problem}.*give --wavelength"):
        settle(facts, {})
    assert settle(facts, {"wavelength_nm": 13.5}).experiment.wavelength_nm == 13.5


@pytest.mark.parametrize("value", [0.0, np.nan, -1.0])
def test_placeholders_state_nothing(value):
    assert stated(("/entry_1/instrument_1/source_1/energy", value, "J")) == {}


def test_a_pulse_energy_is_no_photon_energy():
    assert stated(("/entry_1/instrument_1/source_1/pulse_energy", 1e-6, "J")) == {}
    assert stated(("/entry_1/sample_1/energy", 1e-6, "J")) == {}


DETECTOR = "/entry_1/instrument_1/detector_1/"


def test_flat_detectors_of_cxi():
    """Corner and axes as CXI has them: x to the left and y up, along the beam."""
    pitch = 6e-4
    facts = stated(
        (DETECTOR + "distance", 0.05, ""), (DETECTOR + "x_pixel_size", pitch, ""),
        (DETECTOR + "y_pixel_size", pitch, ""),
        (DETECTOR + "basis_vectors", [[0, -pitch, 0], [-pitch, 0, 0]], ""),
        (DETECTOR + "corner_position", [20.5 * pitch, 15 * pitch, 0.05], ""),
    )  # fmt: skip
    setup = settle(facts, {})
    assert setup.detector is not None
    assert (setup.detector.distance_mm, setup.detector.pixel_mm) == pytest.approx((50.0, 0.6))
    assert setup.detector.centre == pytest.approx((20.0, 14.5))
    assert setup.experiment.solid_angle_factor
    assert "flip" not in facts
    assert "transpose" not in facts


@pytest.mark.parametrize(
    ("slow", "fast", "transpose", "flip"),
    [
        ((0, -1, 0), (-1, 0, 0), False, ""), ((0, 1, 0), (-1, 0, 0), False, "y"),
        ((0, -1, 0), (1, 0, 0), False, "x"), ((-1, 0, 0), (0, -1, 0), True, ""),
        ((1, 0, 0), (0, -1, 0), True, "x"), ((-1, 0, 0), (0, 1, 0), True, "y"),
    ],
)  # fmt: skip
def test_axes_by_basis_vectors(slow, fast, transpose, flip):
    """Rows that run up, columns that run left, rows that run along x: Axes turns them."""
    facts = stated((DETECTOR + "basis_vectors", np.array([slow, fast]) * 1e-4, ""))
    assert facts.get("transpose", Fact(False, "")).value == transpose
    assert facts.get("flip", Fact("", "")).value == flip


def test_a_tilted_detector_is_not_taken_for_a_straight_one():
    facts = stated((DETECTOR + "basis_vectors", [[0, -1e-4, 1e-5], [-1e-4, 0, 0]], ""))
    assert "turned or tilted" in facts["flip"].problem


def test_eiger_and_nexus_centres():
    pixels = stated((DETECTOR + "beam_center_x", 20.0, ""), (DETECTOR + "beam_center_y", 15.5, "pixels"))
    assert pixels["centre"].value == (20.0, 15.5)
    lengths = stated(
        (DETECTOR + "distance", 50.0, "mm"), (DETECTOR + "x_pixel_size", 0.5, "mm"),
        (DETECTOR + "beam_center_x", 10.25, "mm"), (DETECTOR + "beam_center_y", 0.01, "m"),
    )  # fmt: skip
    # From the corner of the first pixel, whose centre is half a pixel further.
    assert lengths["centre"].value == pytest.approx((20.0, 19.5))
    assert lengths["distance_mm"].value == 50.0


def test_half_a_geometry_is_not_used_and_that_is_said():
    setup = settle(stated((DETECTOR + "x_pixel_size", 75e-6, "")), {})
    assert setup.detector is None
    assert "not used: pixel size 0.075 mm" in "; ".join(setup.lines())
    both = settle(stated((DETECTOR + "x_pixel_size", 75e-6, "")), {"distance_mm": 70.0})
    assert both.detector == FlatDetector(70.0, 0.075)
    with pytest.raises(InputError, match="not square"):
        settle(stated((DETECTOR + "x_pixel_size", 75e-6, ""), (DETECTOR + "y_pixel_size", 50e-6, "")), {})


def test_contradictions_are_refused_unless_overridden():
    facts = {"wavelength_nm": Fact(20.0, "a.h5"), "sin_theta_max": Fact(0.8, "a.h5")}
    with pytest.raises(
        InputError, match=r"states wavelength 20 nm \(a\.h5\), not wavelength 13.5 nm; .*--override"
    ):
        settle(facts, {"wavelength_nm": 13.5})
    setup = settle(facts, {"wavelength_nm": 13.5}, override=True)
    assert setup.experiment.wavelength_nm == 13.5
    assert setup.experiment.sin_theta_max == 0.8
    assert "overridden: the file states wavelength 20 nm" in "; ".join(setup.lines())
    # The same in fewer digits: the file's value, which may have more.
    assert (
        settle({"wavelength_nm": Fact(13.4987, "a")}, {"wavelength_nm": 13.5}).experiment.wavelength_nm
        == 13.4987
    )


def test_a_grid_and_a_flat_detector_contradict_each_other():
    grid = experiment_facts(Experiment(), "a.h5")
    flat = experiment_facts(Experiment(detector=FlatDetector(50, 0.5)), "b.h5")
    with pytest.raises(InputError, match=r"an orthographic grid .*, not detector distance 50 mm"):
        settle(grid, {"distance_mm": 50.0, "pixel_mm": 0.5})
    setup = settle(grid, {"distance_mm": 50.0, "pixel_mm": 0.5}, override=True)
    assert setup.detector == FlatDetector(50, 0.5)
    assert setup.experiment.solid_angle_factor
    with pytest.raises(InputError, match=r"a flat detector .*, not an orthographic grid"):
        settle(flat, {"sin_theta_max": 0.7})
    assert settle(flat, {"sin_theta_max": 0.7}, override=True).detector is None
    assert settle(flat, {}).detector == FlatDetector(50, 0.5, (64, 64))


def test_a_material_is_looked_up_at_the_files_wavelength():
    pytest.importorskip("periodictable")
    from icobench.simulator.material import refractive_index

    setup = settle({"wavelength_nm": Fact(20.0, "a.h5")}, {"material": "Ag"})
    assert setup.experiment.refractive_index == refractive_index("Ag", 20.0)
    assert setup.experiment.refractive_index != refractive_index("Ag", 13.5)


def test_what_is_assumed_is_said():
    (line,) = settle({}, {}).lines()
    assert line.startswith("assumed, as nothing says otherwise: wavelength 13.5 nm")
    assert "orthographic grid" in line


def test_headers_of_edf_and_cbf():
    edf = {
        "WaveLength": "1.35e-08",
        "SampleDistance": "0.05 m",
        "PSize_1": "6e-4",
        "Center_1": "20.5",
        "Center_2": "15",
    }
    text = "# Wavelength 135.0 A\n# Detector_distance 0.05000 m\n"
    text += "# Pixel_size 600e-6 m x 600e-6 m\n# Beam_xy (20.5, 15.0) pixels"
    for header in (edf, {"_array_data.header_contents": text}):
        values = {name: fact.value for name, fact in header_facts(header, "a.edf").items()}
        assert values["wavelength_nm"] == pytest.approx(13.5)
        assert values["distance_mm"] == pytest.approx(50)
        assert values["pixel_mm"] == pytest.approx(0.6)
        assert values["centre"] == (20.5, 15.0)
