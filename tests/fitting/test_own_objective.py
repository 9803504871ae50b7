"""A user's own objective works in every fit and judges itself."""

from functools import partial

import pytest
import torch
from problems import displaced, problem

from icobench.answer import OK, POOR, Hypotheses
from icobench.fitting.cma_es import CmaOptions, cma_es
from icobench.fitting.counter import CountingSimulator
from icobench.fitting.least_squares import (
    cramer_rao,
    levenberg_marquardt,
    maximum_likelihood,
    with_error_bars,
)
from icobench.fitting.objectives import Objective
from icobench.fitting.simplex import SimplexOptions, monte_carlo_simplex, refine_simplex
from icobench.fitting.warm_start import WARM_SIMPLEX, judge, judged
from icobench.geometry.orientation import disorientation

warm_simplex = partial(refine_simplex, options=WARM_SIMPLEX)
NEAR = {"radius_range_nm": (45.0, 65.0)}


class CubicRoots(Objective):
    """Mean squared difference of cubic roots; the scale is that of the sums."""

    def _scaled(self, image, intensity):
        usable = intensity * self.mask[image]
        scale = self.images[image].sum((1, 2)) / usable.sum((1, 2)).clamp_min(1e-30)
        return usable * scale[:, None, None], scale[:, None, None]

    def compare(self, image, intensity):
        return self.residuals(image, intensity)[0].square().sum((1, 2)) / self.usable[image]

    def residuals(self, image, intensity):
        mean, scale = self._scaled(image, intensity)
        slope = scale * mean.clamp_min(1e-3) ** (-2 / 3) / 3
        return mean ** (1 / 3) - self.images[image] ** (1 / 3), slope * self.mask[image]


class WithoutSlopes(CubicRoots):
    """Residuals that are not numbers."""

    def residuals(self, image, intensity):
        residual, slope = super().residuals(image, intensity)
        return residual, slope * torch.nan


@pytest.fixture
def scene(generator):
    """Objective, true radii and orientations of three images of photon counts."""
    counts, radius, truth = problem(3, generator, photons=1e6, radius=(50.0, 60.0))
    return (
        CubicRoots(counts.images, counts.mask, CountingSimulator(counts.simulator.simulator, 3)),
        radius,
        truth,
    )


@pytest.mark.parametrize("refine", [levenberg_marquardt, maximum_likelihood, warm_simplex])
def test_judged_fits(scene, refine, generator):
    objective, radius, truth = scene
    start = displaced(truth, 1.0, generator)[:, None]
    size = radius[:, None] + torch.tensor([[0.2], [-0.2], [30.0]])
    answer = judge(objective, Hypotheses(size, start, torch.zeros(3, 1)), refine)
    assert answer.status == [OK, OK, POOR]
    assert float(disorientation(answer.quaternion, truth)[:2].max()) < 2
    answer = with_error_bars(objective, answer)
    assert answer.orientation_std_deg.isfinite().all()


@pytest.mark.parametrize(
    "fit",
    [
        lambda o: monte_carlo_simplex(o, SimplexOptions(starts=3, iterations=3, **NEAR), 1),
        lambda o: cma_es(o, CmaOptions(6, 3, 1, **NEAR), 1),
    ],
)
def test_fits_from_random_starts(scene, fit):
    assert set(judged(scene[0], fit(scene[0])).status) <= {"ok", "poor-fit", "not-converged"}


def test_misfit_by_default(scene, generator):
    """The truth explains its image, an orientation 20 degrees off does not; a moved image is unlike."""
    objective, radius, truth = scene
    assert not objective.misfit(radius, truth).poor.any()
    assert objective.misfit(radius, displaced(truth, 20.0, generator)).poor.all()
    objective.images = objective.images.roll((8, 8), (1, 2))
    assert objective.misfit(radius, truth).unlike.all()


def test_error_bars_come_from_the_residuals_where_the_noise_is_unknown(scene):
    """Twice the weight of every residual changes nothing."""
    objective, radius, truth = scene

    class Doubled(CubicRoots):
        def residuals(self, image, intensity):
            return tuple(2 * part for part in super().residuals(image, intensity))

    doubled = Doubled(objective.images, objective.mask, objective.simulator)
    for ours, theirs in zip(
        cramer_rao(objective, radius, truth), cramer_rao(doubled, radius, truth), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_fit_without_derivatives_stays_at_its_start(scene):
    objective, radius, truth = scene
    undefined = WithoutSlopes(objective.images, objective.mask, objective.simulator)
    answer = levenberg_marquardt(undefined, radius + 0.2, truth)
    assert not answer.converged.any()
    assert torch.equal(answer.radius_nm, radius + 0.2)
