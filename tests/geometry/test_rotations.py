"""Quaternion functions against scipy.spatial.transform.Rotation."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.transform import Rotation

from icobench.geometry.rotations import (
    matrix_to_quaternion,
    quaternion_angle,
    quaternion_conjugate,
    quaternion_multiply,
    quaternion_normalize,
    quaternion_to_matrix,
    quaternion_to_rotation_vector,
    random_quaternions,
    rotate_about_beam,
    rotation_vector_to_quaternion,
)

# A few units in the last place, times the handful of operations in each function.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}
DTYPES = [torch.float32, torch.float64]


def scipy_rotation(quaternion):
    """Of a list of quaternions: SciPy knows further dimensions only from 1.17 on."""
    return Rotation.from_quat(np.asarray(quaternion, dtype=float).reshape(-1, 4), scalar_first=True)


@pytest.fixture
def pair(generator):
    """Two (5, 7, 4) stacks: leading dimensions are arbitrary."""
    return random_quaternions(70, generator).reshape(2, 5, 7, 4).unbind(0)


def close(found, expected, dtype, scale=1.0):
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=scale * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_multiply(pair, dtype):
    left, right = (side.to(dtype) for side in pair)
    expected = (scipy_rotation(left) * scipy_rotation(right)).as_matrix().reshape(5, 7, 3, 3)
    close(quaternion_to_matrix(quaternion_multiply(left, right)), expected, dtype)
    # One quaternion broadcasts against many.
    expected = (scipy_rotation(left[0, 0]) * scipy_rotation(right)).as_matrix().reshape(5, 7, 3, 3)
    close(quaternion_to_matrix(quaternion_multiply(left[0, 0], right)), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_matrix_and_conjugate(pair, dtype):
    quaternion = pair[0].to(dtype)
    matrix = scipy_rotation(quaternion).as_matrix().reshape(5, 7, 3, 3)
    close(quaternion_to_matrix(quaternion), matrix, dtype)
    close(quaternion_to_matrix(quaternion_conjugate(quaternion)), matrix.swapaxes(-1, -2), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_quaternion_of_every_kind_of_matrix(pair, dtype):
    """Random ones, half turns about any axis, and turns where each component in turn is the largest."""
    half = torch.nn.functional.normalize(pair[1][..., 1:].reshape(-1, 3), dim=1)
    half_turns = torch.cat((torch.zeros(len(half), 1), half), 1)
    axes = torch.nn.functional.normalize(torch.eye(4, dtype=torch.float64) + 1e-3, dim=1)
    for quaternion in (pair[0], half_turns, torch.eye(4, dtype=torch.float64), axes):
        matrix = quaternion_to_matrix(quaternion)
        found = matrix_to_quaternion(matrix.to(dtype))
        assert (found[..., 0] >= 0).all()
        close(quaternion_to_matrix(found), matrix.to(dtype), dtype)


def test_gradients_are_those_of_roma(pair):
    """Another library's functions, differentiated by the same autograd; scalar last there."""
    roma = pytest.importorskip("roma")

    def last(quaternion):
        return torch.roll(quaternion, -1, dims=-1)

    quaternion = pair[0][0]
    matrix = roma.unitquat_to_rotmat(last(quaternion))
    cases = (
        (quaternion_to_matrix, lambda q: roma.unitquat_to_rotmat(last(q)), quaternion),
        (lambda m: quaternion_to_matrix(matrix_to_quaternion(m)),
         lambda m: roma.unitquat_to_rotmat(roma.rotmat_to_unitquat(m)), matrix),
    )  # fmt: skip
    # Only tangents of the rotations themselves are the same whatever the formula.
    turns = torch.eye(3, dtype=torch.float64) * 1e-9
    for function, other, at in cases:
        for turn in turns:
            moved = quaternion_multiply(rotation_vector_to_quaternion(turn), quaternion)
            step = moved - quaternion if at is quaternion else quaternion_to_matrix(moved) - matrix
            slopes = [torch.func.jvp(f, (at,), (step / 1e-9,))[1] for f in (function, other)]
            np.testing.assert_allclose(*slopes, atol=1e-6)


def test_matrix_is_active():
    """A quarter turn about z takes x to y."""
    quarter = torch.tensor([math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)])
    turned = quaternion_to_matrix(quarter) @ torch.tensor([1.0, 0.0, 0.0])
    np.testing.assert_allclose(turned, [0, 1, 0], atol=1e-6)


def test_normalize_chooses_the_sign():
    unit = quaternion_normalize(torch.tensor([[-3.0, 0.0, 4.0, 0.0], [0.0, -2.0, 0.0, 0.0]]))
    np.testing.assert_allclose(unit, [[0.6, 0, -0.8, 0], [0, -1, 0, 0]], atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotation_vectors(pair, dtype):
    vector = torch.as_tensor(scipy_rotation(pair[0].reshape(-1, 4)).as_rotvec())
    quaternion = rotation_vector_to_quaternion(vector.to(dtype))
    close(quaternion_to_matrix(quaternion), Rotation.from_rotvec(vector.numpy()).as_matrix(), dtype)
    for sign in (1, -1):
        close(quaternion_to_rotation_vector(sign * quaternion), vector, dtype)
    assert not quaternion_to_rotation_vector(torch.tensor([1.0, 0, 0, 0], dtype=dtype)).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-12, 1e-8, 0.99e-4, 1.01e-4, 1e-3])
def test_small_rotations_keep_their_relative_precision(dtype, size):
    """Across the switch from the series to sine and cosine at 1e-4."""
    vector = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3 * size
    quaternion = rotation_vector_to_quaternion(vector.to(dtype))
    expected = Rotation.from_rotvec(vector.numpy()).as_quat(scalar_first=True)
    precision = 4 * torch.finfo(dtype).eps
    np.testing.assert_allclose(quaternion, expected, rtol=precision)
    np.testing.assert_allclose(quaternion_angle(quaternion), size, rtol=precision)


def test_exponential_map_is_differentiable_at_zero():
    zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.functional.jacobian(rotation_vector_to_quaternion, zero)
    expected = np.vstack((np.zeros(3), np.eye(3) / 2))
    np.testing.assert_allclose(slope, expected, atol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
def test_angle(pair, dtype):
    quaternion = pair[0].to(dtype)
    magnitude = scipy_rotation(quaternion).magnitude().reshape(quaternion.shape[:-1])
    close(quaternion_angle(quaternion), magnitude, dtype, scale=4)
    close(quaternion_angle(-quaternion), magnitude, dtype, scale=4)


def test_rotate_about_beam(pair):
    quaternion = pair[0]
    angle = torch.linspace(-4, 4, 7, dtype=torch.float64)
    turn = Rotation.from_rotvec(np.outer(angle, (0, 0, 1)))
    for row in range(5):
        expected = (turn * scipy_rotation(quaternion[row])).as_matrix()
        close(quaternion_to_matrix(rotate_about_beam(quaternion, angle)[row]), expected, torch.float64)


def test_random_quaternions_are_haar(generator):
    """Three statistics with known distribution; 1 % is the chance to fail for a wrong seed."""
    quaternion = random_quaternions(4000, generator)
    np.testing.assert_allclose(quaternion.norm(dim=1), 1, atol=1e-14)
    assert (quaternion[:, 0] >= 0).all()
    rotation = scipy_rotation(quaternion)
    angle = rotation.magnitude()  # density (1 - cos t) / pi
    assert stats.kstest(angle, lambda t: (t - np.sin(t)) / np.pi).pvalue > 0.01
    for i, j in ((0, 1), (0, 2), (0, 3), (1, 2)):  # pairs of squares on the 3-sphere are uniform
        pair = quaternion[:, i].square() + quaternion[:, j].square()
        assert stats.kstest(pair.numpy(), "uniform").pvalue > 0.01
    # Any fixed vector goes to every direction alike.
    for height in rotation.apply([0.36, 0.48, 0.8]).T:
        assert stats.kstest(height, stats.uniform(-1, 2).cdf).pvalue > 0.01
