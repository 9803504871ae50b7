"""Targets decode what they encode; losses are least at the truth."""

import math

import numpy as np
import pytest
import torch

from icobench.geometry.orientation import disorientation, equivalents, random_orientations
from icobench.geometry.rotations import quaternion_multiply, rotation_vector_to_quaternion
from icobench.network.outputs import LOSSES, Layout
from icobench.network.targets import TARGETS, Circles, Line


@pytest.mark.parametrize("name", TARGETS)
def test_decoding_undoes_encoding(name, generator):
    target = TARGETS[name]
    quaternion = random_orientations(50, generator)
    encoded = target.encode(quaternion)
    assert encoded.shape == (50, target.dimension)
    # float32, and near w = 1 the angle comes from x, y, z alone.
    assert float(disorientation(target.decode(encoded), quaternion).max()) < 1e-3
    np.testing.assert_allclose(target.squared_error(encoded, quaternion), 0, atol=1e-5)


def test_the_published_scaling(generator):
    """w from the fundamental domain's range to [0, 1]."""
    w = TARGETS["quaternion"].encode(random_orientations(20_000, generator))[:, 0]
    assert 0 <= float(w.min()) < 0.05
    assert 0.95 < float(w.max()) <= 1
    corner = math.cos(math.radians(44.4775 / 2))
    assert float(TARGETS["quaternion"].encode(torch.tensor([[corner, 0, 0, 0]]))[0, 0]) == pytest.approx(
        0, abs=1e-3
    )


def test_equivalents_cost_nothing_where_the_target_knows_them(generator):
    quaternion = random_orientations(4, generator)
    every = equivalents(quaternion)
    for name in ("orbit", "nearest"):
        target = TARGETS[name]
        for place in (7, 30, 59):
            encoded = target.encode(every[:, place])
            np.testing.assert_allclose(target.squared_error(encoded, quaternion), 0, atol=1e-5)
    for name in ("quaternion", "sixd"):
        encoded = TARGETS[name].encode(every[:, 30])
        assert float(TARGETS[name].squared_error(encoded, quaternion).min()) > 0.01


@pytest.mark.parametrize("name", TARGETS)
def test_squared_angles(name, generator):
    target = TARGETS[name]
    quaternion = random_orientations(20, generator)
    turn = 0.01 * torch.randn(20, 3, generator=generator, dtype=torch.float64)
    moved = quaternion_multiply(rotation_vector_to_quaternion(turn), quaternion)
    result = target.squared_angle(target.encode(moved), quaternion)
    np.testing.assert_allclose(result, turn.square().sum(1), rtol=0.05, atol=1e-6)


SIZES = {"line": Line(), "circles": Circles((256, 64, 16))}
ORBIT = Layout(TARGETS["orbit"], Line())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", TARGETS)
def test_loss_is_least_at_the_truth(name, size, loss, generator):
    layout = Layout(TARGETS[name], SIZES[size])
    quaternion, radius = random_orientations(2, generator), torch.tensor([60.0, 120.0])
    perfect = torch.cat(
        (layout.target.encode(quaternion), layout.size.encode(radius), torch.full((2, 2), -3.0)), 1
    )
    torch.testing.assert_close(layout.size.decode(layout.split(perfect)[1]), radius)
    radius_std, angle_std = layout.error_bars(perfect)
    torch.testing.assert_close(radius_std, torch.full((2,), 130 * math.exp(-3.0)))
    torch.testing.assert_close(angle_std, torch.full((2,), math.degrees(math.sqrt(3) * math.exp(-3.0))))
    best = LOSSES[loss](perfect, layout, quaternion, radius)
    for column in (0, layout.target.dimension - 1, layout.target.dimension, layout.dimension - 1):
        worse = perfect.clone()
        worse[:, column] += 0.1
        assert LOSSES[loss](worse, layout, quaternion, radius) > best


@pytest.mark.parametrize("loss", ["log", "square", "weighted"])
def test_spreads_are_fitted_to_the_errors(loss, generator):
    """Gaussian errors of known size: the gradient leads to their standard deviations, and ends there."""
    target = ORBIT.target
    quaternion = random_orientations(4000, generator)
    turn = 0.02 * torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    moved = quaternion_multiply(rotation_vector_to_quaternion(turn), quaternion)
    radius = torch.full((4000,), 95.0)
    size = 0.5 + 0.01 * torch.randn(4000, generator=generator)
    answer = torch.cat((target.encode(moved), size[:, None]), 1).float()
    truth = torch.tensor([math.log(0.01), math.log(0.02)])

    def slope(spreads):
        spreads = spreads.clone().requires_grad_()
        output = torch.cat((answer, spreads.expand(4000, 2)), 1)
        LOSSES[loss](output, ORBIT, quaternion, radius).backward()
        return spreads.grad

    for number in (0, 1):
        step = torch.zeros(2)
        step[number] = 0.1
        assert slope(truth + step)[number] > 0 > slope(truth - step)[number]


@pytest.mark.parametrize("loss", ["log", "square"])
def test_spreads_do_not_bend_the_answer(loss, generator):
    quaternion, radius = random_orientations(8, generator), torch.linspace(40, 150, 8)
    answer = torch.randn(8, ORBIT.dimension, generator=generator)

    def slope(spread):
        leaf = answer.clone().requires_grad_()
        output = torch.cat((leaf, torch.full((8, 2), spread)), 1)
        LOSSES[loss](output, ORBIT, quaternion, radius).backward()
        return leaf.grad

    torch.testing.assert_close(slope(-3.0), slope(-1.0))


def test_square_loss_is_the_sum_of_squares(generator):
    """Whatever the spreads."""
    target = ORBIT.target
    quaternion, radius = random_orientations(8, generator), torch.linspace(40, 150, 8)
    output = torch.cat((target.encode(quaternion), (radius[:, None] - 30) / 130), 1).float()
    output = torch.cat((output, torch.randn(8, 2, generator=generator)), 1)
    output[:, 0] += 0.3
    output[:, target.dimension] += 0.2
    result = LOSSES["square"](output, ORBIT, quaternion, radius)
    torch.testing.assert_close(result, torch.tensor(0.3**2 + 0.2**2))


def test_the_weighted_loss_counts_errors_by_their_predicted_spreads(generator):
    """Twice the spread, a quarter of the pull on the answer; equal spreads give the square loss."""
    quaternion, radius = random_orientations(8, generator), torch.linspace(40, 150, 8)
    answer = torch.randn(8, ORBIT.dimension, generator=generator)

    def pull(loss, spread):
        leaf = answer.clone().requires_grad_()
        LOSSES[loss](torch.cat((leaf, spread), 1), ORBIT, quaternion, radius).backward()
        return leaf.grad

    equal, mixed = torch.full((8, 2), -3.0), torch.full((8, 2), -3.0)
    torch.testing.assert_close(pull("weighted", equal), pull("square", equal))
    mixed[:3, 0] += math.log(2)
    change = pull("weighted", mixed) / pull("weighted", equal)
    of_size = change[:, ORBIT.target.dimension :]
    torch.testing.assert_close(4 * of_size[0], of_size[-1])
    torch.testing.assert_close(change[:, : ORBIT.target.dimension], torch.ones(8, ORBIT.target.dimension))


def test_networks_without_spreads_have_no_error_bars():
    output, layout = torch.zeros(3, 5), Layout(TARGETS["quaternion"], Line())
    for error_bar in layout.error_bars(output):
        assert torch.isnan(error_bar).all()
    torch.testing.assert_close(layout.size.decode(layout.split(output)[1]), torch.full((3,), 30.0))
