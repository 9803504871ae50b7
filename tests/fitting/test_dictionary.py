"""The dictionary against brute force: its sampling, its scores, its file."""

import math

import pytest
import torch

from icobench.errors import InputError
from icobench.fitting import dictionary
from icobench.fitting.dictionary import (
    Dictionary,
    DictionaryOptions,
    build_dictionary,
    dictionary_for,
    sample,
)
from icobench.fitting.polar_match import (
    RINGS,
    SECTORS,
    PolarSpread,
    log_scores,
    poisson_scores,
    spectra,
)
from icobench.geometry.orientation import disorientation, random_orientations
from icobench.geometry.rotations import quaternion_to_matrix, rotate_about_beam
from icobench.geometry.shapes import shape
from icobench.images.detector import DETECTORS
from icobench.sets.patterns import PatternOptions, generate_patterns
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

SMALL = DictionaryOptions(150, (35.0, 60.0))


@pytest.fixture(scope="module")
def small():
    return build_dictionary(Simulator(), SMALL)


@pytest.mark.parametrize("name", ["icosahedron", "cube"])
def test_sample_covers_every_direction(name, generator):
    """Any orientation, turned about the beam, is near a stored one of its shell."""
    body = shape(name)
    radius, quaternion = sample(DictionaryOptions(2000, (90.0, 120.0)), body)
    assert abs(len(radius) - 2000) < 150
    assert ((radius > 90) & (radius < 120)).all()
    shell = quaternion[radius == radius[0]]
    stored = quaternion_to_matrix(shell)[:, 2]  # the beam in the body
    group = quaternion_to_matrix(torch.as_tensor(body.group))
    wanted = quaternion_to_matrix(random_orientations(200, generator))[:, 2]
    cosine = torch.einsum("ai,gij,sj->ags", wanted, group, stored).amax((1, 2))
    spacing = math.sqrt(4 * math.pi / len(body.group) / len(shell))
    assert float(torch.acos(cosine.clamp(max=1)).max()) < 1.5 * spacing


def test_spread_is_the_adjoint_of_interpolation(generator):
    """sum(pixels x prediction) = sum(cells x pattern), for a smooth pattern also the sum itself."""
    experiment = Experiment(sin_theta_max=0.7, centre_offset=(1.3, -0.4))
    spread = PolarSpread(experiment)
    image = torch.rand(1, 128, 128, generator=generator)
    cells = spread(image)
    assert cells.shape == (1, RINGS, SECTORS)
    valid = experiment.valid()
    torch.testing.assert_close(cells.sum(), image[0][valid].sum(), rtol=1e-5, atol=0)
    ring = (torch.arange(RINGS) + 0.5) / RINGS
    turn = torch.arange(SECTORS) / SECTORS * 2 * math.pi
    pattern = ring[:, None] * torch.cos(turn)  # sin(theta) cos(phi), that is k_x / k
    expected = (image[0] * experiment.transverse()[0])[valid].sum()
    assert float((cells[0] * pattern).sum()) == pytest.approx(float(expected), rel=2e-3, abs=0.05)


def brute_force(pattern, experiment, shift):
    """The stored pattern (RINGS, SECTORS) turned by whole sectors, at the detector's pixels, bilinear."""
    turned = torch.roll(pattern, shift, -1)
    spread = PolarSpread(experiment)
    return sum(
        turned.flatten()[cells] * weights for cells, weights in zip(spread.cells, spread.weights, strict=True)
    ).reshape(experiment.pixels, experiment.pixels)


def test_scores_are_those_of_every_turn(generator):
    """A pattern smooth round the beam, so that no harmonic is cut off."""
    experiment = Experiment(pixels=64)
    turn = torch.arange(SECTORS) / SECTORS * 2 * math.pi
    ring = torch.linspace(0, 1, RINGS)[:, None]
    logs = torch.stack(
        (-4 * ring + torch.cos(3 * turn) * 0.4 - 0.4, -3 * ring**2 + 0.3 * torch.sin(turn) - 0.3)
    )
    mask = torch.rand(3, 64, 64, generator=generator) > 0.2
    mask &= experiment.valid()
    mask[2] = mask[1]
    counts = torch.poisson(50 * torch.rand(3, 64, 64, generator=generator), generator=generator) * mask
    factor = 1 + torch.rand(64, 64, generator=generator)
    scores = poisson_scores(PolarSpread(experiment), counts, mask, factor, spectra(logs, "counts"))
    shown = torch.rand(3, 64, 64, generator=generator) * mask
    correlations = log_scores(PolarSpread(experiment), shown, mask, spectra(logs, "log"))
    assert scores.shape == correlations.shape == (3, 2, SECTORS)
    for b, k, shift in ((0, 0, 0), (1, 1, 17), (2, 0, 100)):
        likely = brute_force(logs[k] * math.log(10), experiment, shift)
        mean = brute_force(10 ** logs[k], experiment, shift) * factor
        expected = (counts[b] * likely).sum() - counts[b].sum() * (mean * mask[b]).sum().log()
        # Relative to the spread of the scores over turns, which is what decides.
        assert float(scores[b, k, shift] - expected) == pytest.approx(
            0, abs=0.02 * float(scores[b, k].std() + 1)
        )
        d = brute_force(1 + logs[k] / 6, experiment, shift)[mask[b]]
        expected = torch.corrcoef(torch.stack((shown[b][mask[b]], d)))[0, 1]
        assert float(correlations[b, k, shift]) == pytest.approx(float(expected), abs=2e-3)


@pytest.mark.parametrize("detector", ["clean", "counting"])
def test_the_nearest_pattern_is_near(small, detector):
    options = PatternOptions(12, detector=DETECTORS[detector], radius_range_nm=(38.0, 57.0))
    patterns = generate_patterns(options, Experiment(), 3)
    matches = small.match(patterns.images, patterns.mask, patterns.kind, Experiment(), 4)
    assert matches.radius_nm.shape == matches.score.shape == (12, 4)
    turn = disorientation(matches.quaternion, patterns.quaternion[:, None])
    near = (turn < 8) & ((matches.radius_nm - patterns.radius_nm[:, None]).abs() < 4)
    assert float(near.any(1).double().mean()) > 0.9
    assert (matches.score[:, 0] >= matches.score[:, 1]).all()
    apart = disorientation(matches.quaternion[:, 0], matches.quaternion[:, 1])
    assert ((apart > 4) | ((matches.radius_nm[:, 0] - matches.radius_nm[:, 1]).abs() >= 4)).all()


def test_a_stored_pattern_turned_about_the_beam_finds_itself(small):
    """Its own score is the best, and the turn is right to half a step."""
    rows = torch.tensor([3, 40, 77])
    turn = rotate_about_beam(small.quaternion[rows], torch.tensor([0.3, 2.0, -1.1], dtype=torch.float64))
    images = Simulator().intensity(small.radius_nm[rows], turn)
    matches = small.match(images, torch.ones_like(images, dtype=torch.bool), "intensity", Experiment(), 2)
    assert torch.equal(matches.radius_nm[:, 0], small.radius_nm[rows])
    assert float(disorientation(matches.quaternion[:, 0], turn).max()) < 180 / SECTORS + 0.1


def test_file_and_physics(small, tmp_path):
    path = tmp_path / "dictionary.safetensors"
    small.save(path)
    again = Dictionary.load(path)
    assert torch.equal(again.patterns, small.patterns)
    assert again.card == small.card
    assert small.card["simulations"] == len(small.radius_nm)
    assert small.card["seconds"] > 0
    assert small.card["core_seconds"] > 0
    images = torch.ones(1, 128, 128)
    silver = Experiment(refractive_index=0.89 + 0.0859j)
    with pytest.raises(InputError, match="the dictionary was made for refractive_index"):
        small.match(images, images > 0, "counts", silver)
    path.write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="not a readable dictionary"):
        Dictionary.load(path)


def test_the_cache_is_built_once_and_mended(tmp_path):
    simulator, options = Simulator(), DictionaryOptions(20, (30.0, 40.0))
    first = dictionary_for(simulator, options, tmp_path)
    (path,) = tmp_path.iterdir()
    stamp = path.stat().st_mtime_ns
    assert dictionary_for(simulator, options, tmp_path) is first
    assert path.stat().st_mtime_ns == stamp
    other = dictionary_for(Simulator(Experiment(wavelength_nm=13.0)), options, tmp_path)
    assert other.card["identity"] != first.card["identity"]
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / path.name).write_bytes(path.read_bytes()[:1000])
    assert torch.equal(dictionary_for(simulator, options, cut).patterns, first.patterns)


def test_the_cache_does_not_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(dictionary, "MOST_CACHED", 2)
    simulator = Simulator()
    for size in (3, 4, 5):
        dictionary_for(simulator, DictionaryOptions(size, (30.0, 31.0)), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_dictionary_is_of_the_simulators_body():
    cube = Simulator(body=shape("cube"))
    built = build_dictionary(cube, DictionaryOptions(60, (40.0, 50.0)))
    assert built.card["identity"]["body"] == "cube"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, caplog, monkeypatch):
    """With one line, and made once in a process all the same."""
    (tmp_path / "file").write_text("")
    options, calls = DictionaryOptions(size=8), []
    build = dictionary.build_dictionary
    monkeypatch.setattr(dictionary, "build_dictionary", lambda *given: calls.append(1) or build(*given))
    monkeypatch.setattr(dictionary, "_UNSTORED", {})
    for _ in range(2):
        made = dictionary_for(Simulator(Experiment()), options, tmp_path / "file" / "cache")
        assert len(made.radius_nm) > 8
    assert len(calls) == 1
    assert caplog.text.count("the dictionary is not kept for the next time") == 1
