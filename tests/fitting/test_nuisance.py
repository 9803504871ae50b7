"""Nuisance parameters: derivatives by differences, and fits that need them."""

from dataclasses import replace

import pytest
import torch
from problems import displaced

from icobench.answer import Answer
from icobench.errors import InputError
from icobench.fitting.counter import FURTHER_COST, JACOBIAN_COST, CountingSimulator, inner_pixels
from icobench.fitting.least_squares import cramer_rao, levenberg_marquardt
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import PoissonDeviance
from icobench.geometry.orientation import disorientation, random_orientations
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

EXPERIMENT = Experiment()
ALL = ("centre", "background", "refractive_index")


def images(generator, count, experiment=EXPERIMENT, background=0.0, photons=3e5):
    """Photon counts of another experiment than the one believed in; objective, radii, orientations."""
    radius = 40 + 40 * torch.rand(count, generator=generator, dtype=torch.float64)
    truth = random_orientations(count, generator)
    mask = (inner_pixels(EXPERIMENT) & (EXPERIMENT.sin_theta() < 0.8)).expand(count, -1, -1)
    clean = Simulator(experiment).intensity(radius, truth) * mask
    mean = (clean.sum((1, 2)) / mask.sum((1, 2)))[:, None, None]
    clean = (clean + background * mean) * mask
    clean = clean * (photons / clean.sum((1, 2), keepdim=True))
    counts = torch.poisson(clean, generator=generator)
    counter = CountingSimulator(Simulator(EXPERIMENT), count)
    return PoissonDeviance(counts, mask, counter), radius, truth


def test_start_has_the_experiments_own_values():
    nuisance = Nuisance.start(ALL, 2, EXPERIMENT)
    assert nuisance.names == ("background", "refractive_index", "centre")
    index = EXPERIMENT.refractive_index
    assert nuisance.values.tolist() == [[0.0, index.real, index.imag, 0.0, 0.0]] * 2
    assert nuisance.simulated == ("refractive_index", "centre")
    with pytest.raises(InputError, match="unknown nuisance parameter 'gain'"):
        Nuisance.start(("gain",), 1, EXPERIMENT)


def test_there_may_be_none():
    none = Nuisance.none(3)
    assert none.columns == none.simulated == ()
    assert none.of("centre") is None
    assert none.moved(torch.zeros(3, 0)).values.shape == none.values.shape == (3, 0)
    assert none.to_columns() == {}
    assert Nuisance.start((), 3, EXPERIMENT).values.shape == (3, 0)


def test_answers_carry_them_by_column():
    nuisance = Nuisance.start(ALL, 2, EXPERIMENT).moved(torch.tensor([[0.1, 0.01, 0.02, 0.3, -0.4]]))
    columns = nuisance.to_columns()
    assert list(columns) == ["background", "index_real", "index_imag", "centre_x", "centre_y"]
    answer = Answer(torch.ones(2), torch.ones(2, 4), nuisance=columns)
    again = Nuisance.from_answer(answer)
    assert again.names == nuisance.names
    assert torch.equal(again.values, nuisance.values)
    assert Nuisance.from_answer(Answer(torch.ones(2), torch.ones(2, 4))).values.shape == (2, 0)


def test_values_stay_within_bounds():
    nuisance = Nuisance.start(ALL, 1, EXPERIMENT).moved(torch.tensor([[-1.0, 1.0, -1.0, 9.0, -9.0]]))
    low, high, _ = nuisance.limits
    assert (nuisance.values >= low - 1e-9).all()
    assert (nuisance.values <= high + 1e-9).all()


def test_derivatives_by_differences(generator):
    objective, radius, truth = images(generator, 1)
    image = torch.tensor([0])
    nuisance = Nuisance.start(ALL, 1, EXPERIMENT)
    nuisance.values[0] += torch.tensor([0.2, -0.02, 0.01, 0.3, -0.4])
    before = objective.simulator.evaluations.clone()
    _, slopes = objective.model_jacobian(image, radius, truth, nuisance)
    charged = int((objective.simulator.evaluations - before)[0])
    assert charged == JACOBIAN_COST + 4 * FURTHER_COST
    assert slopes.shape == (1, 9, 128, 128)
    mask = objective.mask[0]
    for column, step in enumerate((1e-2, 1e-3, 1e-3, 1e-2, 1e-2)):
        change = torch.zeros(1, 5, dtype=torch.float64)
        change[0, column] = step
        high, low = (
            objective.model(image, radius, truth, Nuisance(nuisance.names, nuisance.values + sign * change))
            for sign in (1, -1)
        )
        expected = ((high - low) / (2 * step))[0][mask]
        error = (slopes[0, 4 + column][mask] - expected).norm() / expected.norm()
        assert float(error) < 0.02, nuisance.columns[column]


@pytest.mark.parametrize(
    ("names", "changed", "background", "expected", "tolerance"),
    [
        (("background",), {}, 0.3, [0.3], 0.03),
        (("centre",), {"centre_offset": (0.6, -0.35)}, 0.0, [0.6, -0.35], 0.05),
        (("refractive_index",), {"refractive_index": 0.93 + 0.08j}, 0.0, [0.93, 0.08], 0.01),
    ],
)
def test_fits_find_what_disturbs_them(names, changed, background, expected, tolerance, generator):
    """Without the nuisance parameter the deviance stays high, with it the fit is as good as the truth."""
    objective, radius, truth = images(generator, 3, replace(EXPERIMENT, **changed), background)
    start = displaced(truth, 1.0, generator)
    plain = levenberg_marquardt(objective, radius + 0.3, start)
    nuisance = Nuisance.start(names, 3, EXPERIMENT)
    result = levenberg_marquardt(objective, radius + 0.3, start, nuisance=nuisance)
    assert (result.objective < 0.97 * plain.objective).all()
    fitted = Nuisance.from_answer(result)
    assert fitted.names == names
    assert float((fitted.values - torch.tensor(expected)).abs().max()) < tolerance
    assert nuisance.values[0].tolist() != fitted.values[0].tolist()  # the start is not written to
    bound = cramer_rao(objective, result.radius_nm, result.quaternion, fitted)
    assert (disorientation(result.quaternion, truth) < 4 * bound[1]).all()
    assert ((result.radius_nm - radius).abs() < 5 * bound[0]).all()


def test_what_is_not_known_widens_the_bound(generator):
    objective, radius, truth = images(generator, 2)
    known = cramer_rao(objective, radius, truth)
    unknown = cramer_rao(objective, radius, truth, Nuisance.start(ALL, 2, EXPERIMENT))
    assert (unknown[0] > known[0]).all()
    assert (unknown[1] > known[1]).all()
