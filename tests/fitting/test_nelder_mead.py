"""Batched Nelder-Mead against SciPy's, simplex by simplex."""

import numpy as np
import pytest
import torch
from problems import EXPERIMENT, displaced, problem
from scipy.optimize import minimize

from icobench.fitting.nelder_mead import NelderMead
from icobench.fitting.simplex import RADIUS_UNIT_NM, SimplexFits, SimplexOptions
from icobench.geometry.rotations import (
    quaternion_multiply,
    quaternion_normalize,
    rotation_vector_to_quaternion,
)
from icobench.simulator.simulator import Simulator


def rosenbrock(x):
    return (100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(-1)


def bowl(x):
    """A skew quadratic with its minimum at (0.3, 0.6, ...)."""
    d = x - 0.3 * torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    return (d * d).sum(-1) + 0.8 * d[..., 0] * d[..., 1]


def ripples(x):
    """Rough on every scale of the simplex: contractions fail and it shrinks."""
    return (x * x).sum(-1) + 0.7 * torch.sin(37 * x).sum(-1) + 0.4 * torch.cos(91 * x[..., 0] * x[..., 1])


class Counted:
    """The function as NelderMead wants it, counting per simplex."""

    def __init__(self, function, simplices):
        self.function, self.calls = function, torch.zeros(simplices, dtype=torch.long)

    def __call__(self, rows, points):
        assert len(rows) == len(points) > 0
        self.calls += torch.bincount(rows, minlength=len(self.calls))
        return self.function(points)


def start(simplices, dimensions, seed, size=0.5):
    generator = torch.Generator().manual_seed(seed)
    origin = 2 * torch.rand(simplices, 1, dimensions, generator=generator, dtype=torch.float64) - 1
    edges = size * torch.eye(dimensions, dtype=torch.float64).expand(simplices, -1, -1)
    return torch.cat((origin, origin + edges), 1)


def scipy_minimise(function, simplex, iterations, bounds=None, xatol=0.0, fatol=0.0):
    """SciPy counts its start as the first iteration."""
    options = {
        "initial_simplex": simplex.numpy(), "maxiter": iterations + 1, "xatol": xatol, "fatol": fatol,
    }  # fmt: skip
    return minimize(
        lambda x: float(function(torch.from_numpy(np.array(x)))),
        simplex[0].numpy(),
        method="Nelder-Mead",
        bounds=bounds,
        options=options,
    )


@pytest.mark.filterwarnings("ignore:Maximum number of iterations", "ignore:Initial guess is not within")
@pytest.mark.parametrize(
    ("function", "dimensions", "iterations", "bounds"),
    [
        (rosenbrock, 2, 70, None),
        (rosenbrock, 4, 60, None),
        (bowl, 4, 50, (-0.45, 0.45)),
        (ripples, 3, 60, None),
        (ripples, 4, 40, (-0.45, 0.45)),
    ],
)
def test_same_course_as_scipy(function, dimensions, iterations, bounds):
    """Same values, same points, same number of evaluations, for several simplices at once."""
    simplices = start(5, dimensions, seed=dimensions)
    limits = None
    if bounds:
        simplices = 0.3 * simplices  # within the bounds: at most 0.3 (1 + 0.5) out
        limits = [torch.full((dimensions,), limit, dtype=torch.float64) for limit in bounds]
    counted = Counted(function, 5)
    solver = NelderMead(counted, *(limits or ()))
    state = solver.start(simplices)
    for _ in range(iterations):
        solver.step(state)
    assert torch.equal(state.evaluations, counted.calls)
    for i in range(5):
        expected = scipy_minimise(function, simplices[i], iterations, bounds and [bounds] * dimensions)
        assert int(state.evaluations[i]) == expected.nfev
        # The mean of the simplex is summed in another order: round-off, grown along the course.
        assert float(state.values[i, 0]) == pytest.approx(expected.fun, rel=1e-7, abs=1e-12)
        np.testing.assert_allclose(state.points[i, 0], expected.x, rtol=1e-6, atol=1e-8)
    if limits:
        assert float(state.points.min()) >= bounds[0]
        assert float(state.points.max()) <= bounds[1]


def test_stops_at_its_tolerance_like_scipy():
    simplices = start(3, 3, seed=9)
    counted = Counted(bowl, 3)
    solver = NelderMead(counted, xatol=1e-4, fatol=1e-6)
    state = solver.start(simplices)
    for _ in range(300):
        solver.step(state)
    assert not state.active.any()
    for i in range(3):
        expected = scipy_minimise(bowl, simplices[i], 300, xatol=1e-4, fatol=1e-6)
        assert expected.success
        assert int(state.evaluations[i]) == expected.nfev
        assert float(state.values[i, 0]) == pytest.approx(expected.fun, abs=1e-12)
    before = counted.calls.clone()
    solver.step(state)  # nothing is active: nothing is evaluated
    assert torch.equal(counted.calls, before)


@pytest.mark.filterwarnings("ignore:Maximum number of iterations", "ignore:Initial guess is not within")
def test_a_start_at_its_upper_bound_keeps_its_extent():
    """Clipping alone would flatten the simplex for good; SciPy mirrors such corners into the interior."""
    simplex = torch.tensor([[[0.9, 0.0], [1.4, 0.0], [1.2, 0.5]], [[1.0, 0.0], [1.5, 0.0], [1.0, 0.5]]])
    simplex = simplex.double()
    upper = torch.ones(2, dtype=torch.float64)
    solver = NelderMead(Counted(bowl, 2), -upper, upper)
    state = solver.start(simplex)
    for _ in range(40):
        solver.step(state)
    for i in range(2):
        expected = scipy_minimise(bowl, simplex[i], 40, [(-1, 1)] * 2)
        assert float(state.values[i, 0]) == pytest.approx(expected.fun, abs=1e-9)
        np.testing.assert_allclose(state.points[i, 0], (0.3, 0.6), atol=1e-3)


def test_simplices_do_not_influence_each_other():
    simplices = start(4, 3, seed=2)
    together = NelderMead(Counted(ripples, 4))
    alone = NelderMead(Counted(ripples, 1))
    state, single = together.start(simplices), alone.start(simplices[2:3])
    for _ in range(30):
        together.step(state)
        alone.step(single)
    assert torch.equal(state.points[2], single.points[0])
    assert state.evaluations[2] == single.evaluations[0]


def test_points_without_a_value_are_left():
    """A function with a hole: not a number beyond a plane."""

    def holed(x):
        return torch.where(x[..., 0] > 0.5, torch.nan, bowl(x))

    solver = NelderMead(Counted(holed, 4))
    simplices = start(4, 3, seed=6)
    simplices[..., 0] -= 0.6  # every simplex has a corner outside the hole
    state = solver.start(simplices)
    for _ in range(150):
        solver.step(state)
    assert (state.values[:, 0] < 1e-3).all()
    assert (state.points[:, 0, 0] <= 0.5).all()


@pytest.mark.filterwarnings("ignore:Maximum number of iterations", "ignore:Initial guess is not within")
def test_same_course_as_scipy_on_the_simulator(generator):
    """The whole fit: rotation vector and radius within bounds, Poisson deviance, float64."""
    simulator = Simulator(EXPERIMENT, dtype=torch.float64)
    objective, radius, truth = problem(1, generator, radius=(40.0, 45.0), simulator=simulator)
    options = SimplexOptions(iterations=40, radius_range_nm=(38.0, 50.0), margin_nm=2.0)
    starts = torch.stack([displaced(truth, angle, generator) for angle in (4.0, 9.0, 20.0)], 1)
    sizes = torch.stack((radius - 2, radius + 3, radius + 1), 1)
    fits = SimplexFits(objective, torch.tensor([0]), sizes, starts, options)
    corners = fits.state.points.clone()
    for _ in range(40):
        fits.step()

    for i in range(3):

        def value(point, anchor=starts[0, i]):
            turn = rotation_vector_to_quaternion(torch.from_numpy(point[:3]))
            turned = quaternion_normalize(quaternion_multiply(turn, anchor))
            size = RADIUS_UNIT_NM * torch.tensor([point[3]])
            return float(objective.value(torch.tensor([0]), size, turned[None]).double())

        expected = minimize(
            value, corners[i, 0].numpy(), method="Nelder-Mead", bounds=[(-np.pi, np.pi)] * 3 + [(3.6, 5.2)],
            options={"initial_simplex": corners[i].numpy(), "maxiter": 41, "xatol": 0, "fatol": 0},
        )  # fmt: skip
        assert int(fits.state.evaluations[i]) == expected.nfev
        assert float(fits.state.values[i, 0]) == pytest.approx(expected.fun, rel=1e-9)
        np.testing.assert_allclose(fits.state.points[i, 0], expected.x, rtol=1e-5, atol=1e-7)
