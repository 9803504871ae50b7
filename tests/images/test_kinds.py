"""Counts or logarithms: told by the histogram, whatever the scale, and refused where it does not tell."""

import numpy as np
import pytest
import torch

from icobench.errors import InputError
from icobench.images.kinds import kind_of, lattice_unit
from icobench.images.pixels import log_image, photon_counts, usable_pixels
from icobench.images.source import open_images
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

RADII = (25.0, 60.0, 100.0, 150.0)


@pytest.fixture(scope="module")
def images():
    """Counts and noise-free intensities: (name, counts, intensity, mask), for radii, photons and holes."""
    generator = torch.Generator().manual_seed(7)
    turns = torch.nn.functional.normalize(torch.randn(len(RADII), 4, generator=generator), dim=1)
    intensity = Simulator(Experiment()).intensity(torch.tensor(RADII), turns)
    cases = []
    for photons in (1e4, 1e5, 1e7):
        for hole, sine in ((0, 1.0), (3, 1.0), (6, 0.6)):
            mask = usable_pixels(Experiment(), hole, sine)
            counts = photon_counts(intensity, mask, photons, generator)
            cases += [
                (count.numpy(), (one * mask).numpy(), mask.numpy())
                for count, one in zip(counts, intensity, strict=True)
            ]
    return cases


def decided(images, convert, smooth=False):
    return [kind_of(convert(case[1] if smooth else case[0])[case[2]]).kind for case in images]


@pytest.mark.parametrize("scale", [1, 60, 0.3, 1 / 977, 1000])
def test_counts_on_any_scale(images, scale):
    kinds = decided(images, lambda counts: (counts * scale).astype(np.float32))
    assert "log" not in kinds
    assert kinds.count("counts") >= 0.9 * len(kinds)


def test_counts_over_their_maximum(images):
    kinds = decided(images, lambda counts: (counts / counts.max()).astype(np.float32))
    assert "log" not in kinds
    assert kinds.count("counts") >= 0.9 * len(kinds)


@pytest.mark.parametrize(
    "function", [np.sqrt, np.log1p, lambda n: np.sqrt(n / n.max()), lambda n: np.log10(1 + n)]
)
def test_functions_of_counts_are_not_taken_for_counts_or_log_images(images, function):
    kinds = decided(images, lambda counts: function(counts).astype(np.float32))
    assert kinds.count("") >= 0.85 * len(kinds)
    assert "log" not in kinds


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("store", ["float", "uint8", "uint16", "eighths"])
def test_log_images_of_six_decades(images, smooth, store):
    def convert(intensity):
        shown = log_image(torch.as_tensor(intensity).double(), 6).numpy()
        if store == "float":
            return shown.astype(np.float32)
        if store == "eighths":
            return (np.round(shown * 255) / 255).astype(np.float32)
        return np.round(shown * np.iinfo(store).max).astype(store)

    kinds = decided(images, convert, smooth)
    assert kinds.count("log") >= (0.5 if store == "uint16" else 0.9) * len(kinds)
    assert store == "uint16" or "counts" not in kinds


def test_whole_numbers_are_counts_and_noise_free_intensities_are_no_log_images(images):
    assert set(decided(images, lambda counts: counts.astype(np.int32))) == {"counts"}
    assert set(decided(images, lambda counts: counts.clip(0, 60000).astype(np.uint16))) == {"counts"}
    assert "log" not in decided(images, lambda one: (one / one.max()).astype(np.float32), smooth=True)


def test_steps(rng):
    counts = rng.poisson(4.0, 3000)
    for unit in (1.0, 0.3, 17.0, 2.5e-4):
        assert lattice_unit((counts * unit).astype(np.float32)) == pytest.approx(unit, rel=1e-5)
    assert lattice_unit((60 * counts).astype(np.uint32)) == 60
    assert lattice_unit((counts / 7).astype(np.float16)) == pytest.approx(1 / 7, rel=1e-3)
    assert lattice_unit(counts * (1 + 0.03 * rng.standard_normal(3000))) is None
    assert lattice_unit(rng.random(3000)) is None
    assert lattice_unit(np.zeros(9)) is None


def test_the_decision_is_said_and_doubt_is_refused(images, tmp_path):
    counts, _, _ = images[5]
    np.save(tmp_path / "a.npy", (counts / counts.max()).astype(np.float32))
    with open_images(tmp_path / "a.npy") as source:
        assert source.kind == "counts"
        assert any(
            line.startswith("taken as photon counts: all values are multiples") for line in source.remarks
        )
        block = source.read([0])
        np.testing.assert_allclose(block.images[0], counts, rtol=1e-4)
        assert float(block.gain[0]) == pytest.approx(1 / counts.max(), rel=1e-4)
    np.save(tmp_path / "a.npy", np.sqrt(counts))
    with pytest.raises(InputError, match=r"not sure .* square roots of photon counts .*; say --kind"):
        open_images(tmp_path / "a.npy")
    with open_images(tmp_path / "a.npy", kind="counts") as source:
        assert source.kind == "counts"
