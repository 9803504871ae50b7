"""The degree-6 embedding: invariance, metric, decoding."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from icobench.geometry.orientation import disorientation, equivalents, random_orientations
from icobench.geometry.rotations import (
    quaternion_multiply,
    random_quaternions,
    rotation_vector_to_quaternion,
)
from icobench.network.orbit import DIMENSION, decode, embed, small_turn


def test_the_same_for_all_equivalents(generator):
    quaternion = random_quaternions(8, generator)
    vector = embed(quaternion)
    assert vector.shape == (8, DIMENSION)
    np.testing.assert_allclose(vector.norm(dim=1), 1, atol=1e-12)
    every = embed(equivalents(quaternion))
    np.testing.assert_allclose(every, vector.unsqueeze(1).expand_as(every), atol=1e-12)


def test_inner_products_are_legendre_sums(generator):
    """Addition theorem: sum_m Y_m(a) Y_m(b) = 13 / (4 pi) P_6(a . b), summed over both bodies' axes."""
    quaternion = random_quaternions(5, generator)
    phi = (1 + 5**0.5) / 2
    axes = np.array(
        [(0, 1, phi), (0, -1, phi), (1, phi, 0), (-1, phi, 0), (phi, 0, 1), (phi, 0, -1)]
    ) / math.hypot(1, phi)
    turned = np.stack([Rotation.from_quat(q, scalar_first=True).apply(axes) for q in quaternion.numpy()])
    legendre = np.polynomial.legendre.Legendre.basis(6)
    products = legendre(np.einsum("iax,jbx->ijab", turned, turned)).sum((2, 3))
    expected = products / products[0, 0]
    vector = embed(quaternion).numpy()
    np.testing.assert_allclose(vector @ vector.T, expected, atol=1e-12)


def test_speed_is_sqrt_14_in_every_direction(generator):
    """Central difference over 1e-4 rad: relative error 1e-7."""
    quaternion = random_quaternions(6, generator)
    for direction in torch.cat((torch.eye(3), torch.ones(1, 3) / 3**0.5)).double():
        step = rotation_vector_to_quaternion(1e-4 * direction)
        back = rotation_vector_to_quaternion(-1e-4 * direction)
        ahead, behind = (embed(quaternion_multiply(turn, quaternion)) for turn in (step, back))
        speed = (ahead - behind).norm(dim=1) / 2e-4
        np.testing.assert_allclose(speed, math.sqrt(14), rtol=1e-6)


def test_float32_and_leading_dimensions(generator):
    quaternion = random_quaternions(6, generator).reshape(2, 3, 4)
    vector = embed(quaternion.float())
    assert vector.dtype == torch.float32
    np.testing.assert_allclose(vector, embed(quaternion), atol=1e-5)


def test_decoding_recovers_the_orientation(generator):
    quaternion = random_orientations(100, generator)
    decoded = decode(7.3 * embed(quaternion).float())  # the norm is of no account
    assert decoded.quaternion.shape == (100, 2, 4)
    # float32 input: 6e-8 over a speed of sqrt 14, in degrees.
    assert float(disorientation(decoded.quaternion[:, 0], quaternion).max()) < 1e-4
    np.testing.assert_allclose(decoded.score[:, 0], 1, atol=1e-6)
    assert (decoded.score[:, 0] >= decoded.score[:, 1]).all()


def test_decoding_noise_costs_what_the_metric_says(generator):
    """Noise s per component moves the nearest point by s / sqrt 14 per axis; rms angle sqrt(3 / 14) s."""
    quaternion = random_orientations(300, generator)
    noise = 0.02 * torch.randn(300, DIMENSION, generator=generator, dtype=torch.float64)
    result = decode(embed(quaternion) + noise, 1).quaternion[:, 0]
    angle = disorientation(result, quaternion)
    expected = math.degrees(0.02 * math.sqrt(3 / 14))
    # 900 squared normal deviates: the rms scatters by 1 / sqrt(1800) = 2.4 %.
    assert float(angle.square().mean().sqrt()) == pytest.approx(expected, rel=0.1)


def test_second_hypothesis_is_the_other_one(generator):
    """Between two orientations far apart the decoder finds a maximum near the first; a second one is real."""
    first, second = random_orientations(600, generator).reshape(2, 300, 4)
    apart = (embed(first) * embed(second)).sum(1) < -0.2
    mixed = 0.6 * embed(first[apart]) + 0.4 * embed(second[apart])
    decoded = decode(mixed)
    assert float(disorientation(decoded.quaternion[:, 0], first[apart]).median()) < 8
    two = decoded.score[:, 1] > -1  # a score of -1 says that there is one maximum only
    assert int(two.sum()) >= 3
    quaternion, score = decoded.quaternion[two], decoded.score[two]
    assert float(disorientation(quaternion[:, 0], quaternion[:, 1]).min()) > 2
    # Both are maxima: no small turn has a larger cosine with the prediction.
    unit = torch.nn.functional.normalize(mixed[two], dim=1)
    for axis in torch.cat((torch.eye(3), -torch.eye(3))).double():
        nearby = quaternion_multiply(rotation_vector_to_quaternion(1e-2 * axis), quaternion)
        assert ((embed(nearby) * unit.unsqueeze(1)).sum(-1) <= score + 1e-4).all()


@pytest.mark.parametrize("noise", [0.03, 0.3])
def test_decoding_ends_on_a_maximum_however_far_the_vector_lies_from_the_orbit(generator, noise):
    """No slope and a falling score on all sides, by central differences over 1e-3 rad; none of 4,000 random
    orientations scores higher."""
    quaternion = random_orientations(100, generator)
    vector = embed(quaternion) + noise * torch.randn(100, DIMENSION, generator=generator, dtype=torch.float64)
    result = decode(vector, 1)
    unit = torch.nn.functional.normalize(vector, dim=1)
    for axis in torch.cat((torch.eye(3), torch.ones(1, 3) / 3**0.5)).double():
        turns = [rotation_vector_to_quaternion(sign * 1e-3 * axis) for sign in (1, -1)]
        ahead, behind = (
            (embed(quaternion_multiply(turn, result.quaternion[:, 0])) * unit).sum(1) for turn in turns
        )
        assert float((ahead - behind).abs().max()) / 2e-3 < 1e-5
        assert bool((ahead + behind < 2 * result.score[:, 0]).all())
    others = unit @ embed(random_orientations(4000, generator)).T
    assert bool((others.amax(1) <= result.score[:, 0]).all())


def test_small_turns_are_read_from_the_vector(generator):
    """To first order: errors of the square of the turn."""
    quaternion = random_orientations(20, generator)
    turn = 1e-3 * torch.randn(20, 3, generator=generator, dtype=torch.float64)
    moved = quaternion_multiply(rotation_vector_to_quaternion(turn), quaternion)
    np.testing.assert_allclose(small_turn(embed(moved), quaternion), turn, atol=3e-5)


def test_decoding_does_not_depend_on_the_batch(generator):
    vectors = torch.randn(40, DIMENSION, generator=generator)
    batch = decode(vectors)
    alone = decode(vectors[7:8])
    np.testing.assert_allclose(batch.quaternion[7:8], alone.quaternion, atol=1e-9)
    np.testing.assert_allclose(batch.score[7:8], alone.score, atol=1e-9)
