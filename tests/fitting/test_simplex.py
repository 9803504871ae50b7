"""Simplex fits: they find the truth, and random starts are each image's own."""

import numpy as np
import torch
from problems import displaced, problem
from scipy.spatial.transform import Rotation

from icobench.fitting.simplex import (
    SimplexFits,
    SimplexOptions,
    _parameters,
    monte_carlo_simplex,
    random_starts,
    refine_simplex,
)
from icobench.geometry.orientation import disorientation, to_fundamental_domain


def test_refinement_finds_the_truth(generator):
    objective, radius, truth = problem(2, generator, radius=(35.0, 45.0))
    options = SimplexOptions(iterations=80, rotation_deg=3.0, radius_nm=2.0, angle_tolerance_deg=0.05)
    result = refine_simplex(
        objective, radius[:, None] + 1, displaced(truth, 3.0, generator)[:, None], options
    )
    # The bound at R = 40 nm and 1e5 photons is 0.7 degrees and 0.03 nm.
    assert float(disorientation(result.quaternion, truth).max()) < 3
    assert float((result.radius_nm - radius).abs().max()) < 0.2
    torch.testing.assert_close(to_fundamental_domain(result.quaternion), result.quaternion)
    at_truth = objective.value(torch.arange(2), radius, truth).double()
    assert (result.objective < at_truth + 0.01).all()
    trace = torch.stack(result.trace.objective)
    assert (trace[1:] <= trace[:-1]).all()


def test_the_best_of_several_starts_wins(generator):
    objective, radius, truth = problem(2, generator, radius=(35.0, 45.0))
    starts = torch.stack((displaced(truth, 30.0, generator), truth, displaced(truth, 25.0, generator)), 1)
    options = SimplexOptions(iterations=3, rotation_deg=1.0, radius_nm=0.2)
    result = refine_simplex(objective, radius[:, None].expand(2, 3), starts, options)
    assert float(disorientation(result.quaternion, truth).max()) < 2


def test_only_the_chosen_images_are_fitted(generator):
    objective, radius, truth = problem(3, generator, radius=(30.0, 35.0))
    options = SimplexOptions(iterations=2, rotation_deg=1.0, radius_nm=0.2)
    chosen = torch.tensor([2, 0])
    result = refine_simplex(objective, radius[chosen, None], truth[chosen, None], options, chosen)
    assert float(disorientation(result.quaternion, truth[chosen]).max()) < 2
    assert objective.simulator.evaluations[1] == 0
    assert torch.equal(result.evaluations, objective.simulator.evaluations[chosen])


def test_edges_are_each_images_own(generator):
    """The corners of the initial simplices of two of three images, against rotation vectors of SciPy."""
    objective, radius, truth = problem(3, generator, radius=(30.0, 35.0))
    edges = torch.tensor([[0.5, 0.1], [9.0, 9.0], [2.0, 0.4]])
    chosen = torch.tensor([2, 0])
    starts = radius[chosen, None], truth[chosen, None]
    fits = SimplexFits(objective, chosen, *starts, SimplexOptions(), edges[chosen])
    rows = torch.arange(2).repeat_interleave(5)
    sizes, turns = _parameters(fits.state.points.flatten(0, 1), fits.anchor[rows])
    anchor = Rotation.from_quat(truth[chosen][rows], scalar_first=True)
    angle = (Rotation.from_quat(turns, scalar_first=True) * anchor.inv()).magnitude()
    angle = np.sort(np.degrees(angle).reshape(2, 5), axis=1)
    np.testing.assert_allclose(angle, [[0, 0, 2, 2, 2], [0, 0, 0.5, 0.5, 0.5]], atol=1e-6)
    wider = (sizes - radius[chosen][rows]).reshape(2, 5).sort(1).values
    np.testing.assert_allclose(wider, [[0, 0, 0, 0, 0.4], [0, 0, 0, 0, 0.1]], atol=1e-6)
    # refine_simplex takes the edges of all images, and those of the options where there are none.
    options = SimplexOptions(iterations=1, rotation_deg=9.0, radius_nm=9.0)
    given, default = (
        refine_simplex(objective, radius[:, None], truth[:, None], options, edges=size)
        for size in (edges[1:2].expand(3, 2), None)
    )
    assert torch.equal(given.quaternion, default.quaternion)
    assert torch.equal(given.radius_nm, default.radius_nm)
    several = refine_simplex(objective, radius[:, None], truth[:, None], options, edges=edges)
    alone = refine_simplex(objective, *starts, options, chosen, edges=edges)
    torch.testing.assert_close(several.objective[chosen], alone.objective, rtol=1e-5, atol=0)


def test_a_small_simplex_expands(generator):
    """Two degrees and a nanometre off, forty times its edges."""
    objective, radius, truth = problem(3, generator, radius=(45.0, 55.0))
    options = SimplexOptions(iterations=150, angle_tolerance_deg=0.02)
    edges = torch.tensor([[0.05, 0.01]]).expand(3, 2)
    start = radius[:, None] + 1, displaced(truth, 2.0, generator)[:, None]
    result = refine_simplex(objective, *start, options, edges=edges)
    assert float(disorientation(result.quaternion, truth).max()) < 2
    at_truth = objective.value(torch.arange(3), radius, truth).double()
    assert (result.objective < at_truth + 0.01).all()


def test_radii_stay_within_their_margin(generator):
    objective, _, truth = problem(1, generator, radius=(55.0, 56.0))
    options = SimplexOptions(iterations=15, radius_range_nm=(30.0, 36.0), margin_nm=4.0)
    result = refine_simplex(objective, torch.tensor([[35.0]]), truth[:, None], options)
    assert 26 <= float(result.radius_nm) <= 40


def test_random_starts_belong_to_the_image():
    options = SimplexOptions(starts=40)
    radius, quaternion = random_starts(3, options, seed=7)
    assert radius.shape == (3, 40)
    assert quaternion.shape == (3, 40, 4)
    assert ((radius >= 30) & (radius <= 160)).all()
    torch.testing.assert_close(to_fundamental_domain(quaternion), quaternion)
    again = random_starts(2, options, seed=7, numbers=torch.tensor([2, 0]))
    assert torch.equal(again[0], radius[[2, 0]])
    assert torch.equal(again[1], quaternion[[2, 0]])
    assert not torch.equal(radius[0], radius[1])
    assert not torch.equal(random_starts(1, options, seed=8)[0], radius[:1])


def test_monte_carlo_is_independent_of_the_batch(generator):
    """The same image alone, under its number, and among others."""
    options = SimplexOptions(starts=2, iterations=6, radius_range_nm=(30.0, 40.0))
    objective, *_ = problem(2, generator, radius=(30.0, 40.0))
    together = monte_carlo_simplex(objective, options, seed=5)
    single = type(objective)(
        objective.images[1:], objective.mask[1:], type(objective.simulator)(objective.simulator.simulator, 1)
    )
    alone = monte_carlo_simplex(single, options, seed=5, numbers=torch.tensor([1]))
    # The first values are those of the same starts; later ones may follow float32 round-off.
    torch.testing.assert_close(together.trace.objective[0][1:], alone.trace.objective[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(together.objective[1:], alone.objective, rtol=1e-3, atol=0)
    assert float(disorientation(together.quaternion[1:], alone.quaternion)) < 0.5
