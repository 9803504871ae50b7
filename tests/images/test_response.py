"""A detector's response and its inverse, and the detector that has one."""

import math

import numpy as np
import pytest
import torch

from icobench.errors import InputError
from icobench.images.detector import DETECTORS, MCP_EFFICIENCY
from icobench.images.reading import Reading
from icobench.images.response import Response
from icobench.images.source import open_arrays
from icobench.sets.patterns import PatternOptions, generate_patterns
from icobench.simulator.experiment import Experiment


@pytest.mark.parametrize(
    ("gamma", "ceiling"), [(1.0, math.inf), (0.5, math.inf), (0.75, 300.0), (1.4, 5000.0)]
)
def test_readings_and_photons_are_inverses(gamma, ceiling):
    response, photons = Response(gamma, ceiling), np.geomspace(1e-3, 400, 50)
    readings = response.readings(photons)
    assert (np.diff(readings) > 0).all()
    assert (readings < ceiling).all()
    np.testing.assert_allclose(response.photons(readings), photons, rtol=1e-9)
    np.testing.assert_allclose(response.photons(-readings), -photons, rtol=1e-9)
    assert math.isfinite(response.photons(np.array([2 * ceiling if ceiling < math.inf else 1e9]))[0])


def test_bad_responses():
    for wrong in ({"gamma": 0.0}, {"gamma": 9.0}, {"saturation": 0.0}, {"saturation": -1.0}):
        with pytest.raises(InputError):
            Response(**wrong)
    assert Response.of(None, None) is None
    assert Response.of(None, 100.0) == Response(1.0, 100.0)


def test_a_microchannel_plate(rng):
    """Told of its response, a source gives whole photons again; the efficiency is the experiment's."""
    options = PatternOptions(3, detector=DETECTORS["mcp"])
    read = generate_patterns(options, Experiment(), 5)
    known = Experiment(efficiency=MCP_EFFICIENCY)
    photons = generate_patterns(PatternOptions(3, detector=DETECTORS["mcp"], calibrated=True), known, 5)
    assert torch.equal(read.mask, photons.mask)
    np.testing.assert_allclose(photons.images, photons.images.round(), atol=2e-3)
    np.testing.assert_allclose(photons.images.sum((1, 2)), 1e5, rtol=0.02)
    source = open_arrays(
        read.images, read.mask, reading=Reading("counts", gamma=0.75, soft_saturation=300.0, gain=1.0)
    )
    np.testing.assert_allclose(source.read(range(3)).images, photons.images, rtol=1e-4, atol=2e-3)


def test_efficiency_of_an_experiment():
    """Linear between the table's angles, constant beyond; it lowers the intensity alone."""
    experiment = Experiment(efficiency=((5.0, 0.2), (10.0, 1.0), (60.0, 0.5)))
    degrees = torch.tensor([0.0, 5.0, 7.5, 10.0, 35.0, 60.0, 90.0], dtype=torch.float64)
    share = experiment.seen_share(torch.sin(torch.deg2rad(degrees)))
    np.testing.assert_allclose(share, [0.2, 0.2, 0.6, 1.0, 0.75, 0.5, 0.5], rtol=1e-9)
    np.testing.assert_allclose(
        experiment.gain(), Experiment().gain() * experiment.seen_share(experiment.sin_theta())
    )
    assert Experiment.from_dict(experiment.to_dict()) == experiment
    assert "efficiency" not in Experiment().to_dict()
    for wrong in (((5.0, 1.0), (3.0, 1.0)), ((0.0, 1.5),), ((0.0, 0.0),), ((95.0, 1.0),)):
        with pytest.raises(ValueError, match="efficiency"):
            Experiment(efficiency=wrong)
