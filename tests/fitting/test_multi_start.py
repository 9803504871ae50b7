"""The race and the control: they find the truth, and each image's run is independent of the others."""

import builtins

import pytest
import torch
from problems import displaced, problem

from icobench.errors import InputError
from icobench.fitting.cma_es import CmaOptions, cma_es
from icobench.fitting.simplex import SimplexOptions, monte_carlo_simplex
from icobench.fitting.warm_start import lm_race
from icobench.geometry.orientation import disorientation

RACE = SimplexOptions(
    starts=40,
    iterations=60,
    radius_range_nm=(35.0, 45.0),
    angle_tolerance_deg=0.05,
    rounds=((8, 10), (10, 3)),
)
CONTROL = CmaOptions(population=20, generations=40, radius_nm=5.0, radius_range_nm=(35.0, 45.0))


def test_the_race_finds_the_truth_for_fewer_evaluations(generator):
    objective, radius, truth = problem(3, generator, radius=(36.0, 44.0))
    result = monte_carlo_simplex(objective, RACE, seed=1)
    assert float(disorientation(result.quaternion, truth).max()) < 3
    assert float((result.radius_nm - radius).abs().max()) < 0.3
    assert torch.equal(result.evaluations, objective.simulator.evaluations)
    # 40 starts of 5 corners, then 1 to 4 evaluations an iteration and simplex.
    assert int(result.evaluations.max()) < 40 * 5 + 2.5 * (40 * 8 + 10 * 10 + 3 * 60)
    trace = torch.stack(result.trace.objective)
    assert (trace[1:] <= trace[:-1]).all()


def test_the_best_of_raced_fits_goes_on(generator):
    """Whatever its place among the starts."""
    objective, radius, truth = problem(3, generator, radius=(45.0, 55.0))
    starts = torch.stack([displaced(truth, angle, generator) for angle in (25.0, 20.0, 3.0, 15.0, 30.0)], 1)
    sizes = radius[:, None] + torch.tensor([[3.0, -2.0, 0.5, 1.0, 0.0]])
    best_radius, best_turn = lm_race(objective, sizes, starts)
    assert float(disorientation(best_turn, truth).max()) < 2
    assert float((best_radius - radius).abs().max()) < 0.2


def test_control_finds_the_truth(generator):
    objective, radius, truth = problem(2, generator, radius=(36.0, 44.0))
    result = cma_es(objective, CONTROL, seed=2)
    assert float(disorientation(result.quaternion, truth).max()) < 3
    assert float((result.radius_nm - radius).abs().max()) < 0.3
    assert int(result.evaluations.max()) <= 20 * 40 * 2
    trace = torch.stack(result.trace.objective)
    assert (trace[1:] <= trace[:-1]).all()


@pytest.mark.parametrize(
    "run", [lambda o, n: monte_carlo_simplex(o, RACE, 3, n), lambda o, n: cma_es(o, CONTROL, 3, n)]
)
def test_an_images_run_does_not_depend_on_the_others(run, generator):
    objective, _, _ = problem(2, generator, radius=(36.0, 44.0))
    both = run(objective, torch.tensor([5, 9]))
    alone, _, _ = problem(1, generator, radius=(36.0, 44.0))
    alone.images, alone.mask = objective.images[1:], objective.mask[1:]
    alone.usable = objective.usable[1:]
    single = run(alone, torch.tensor([9]))
    # A sine's last digit depends on its place in a vector, and a search magnifies it.
    torch.testing.assert_close(both.radius_nm[1:], single.radius_nm, rtol=2e-4, atol=0)
    assert float(disorientation(both.quaternion[1:], single.quaternion)) < 0.05


def test_images_without_a_finite_value_are_not_converged(generator):
    objective, _, _ = problem(2, generator, radius=(36.0, 44.0))
    objective.images[0] = torch.nan
    race = SimplexOptions(starts=3, iterations=3, radius_range_nm=(36.0, 44.0), rounds=((3, 1),))
    control = CmaOptions(8, 3, 1, radius_nm=4.0, radius_range_nm=(36.0, 44.0))
    for result in (monte_carlo_simplex(objective, race, 1), cma_es(objective, control, 1)):
        assert not bool(result.converged[0])
        assert result.radius_nm.isfinite().all()


def test_the_control_asks_for_its_package(generator, monkeypatch):
    objective, _, _ = problem(1, generator)
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "cma":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="pip install cma"):
        cma_es(objective, CONTROL, 0)
