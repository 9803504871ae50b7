"""Equivalent orientations, fundamental domain and error measures against naive versions."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.transform import Rotation

from icobench.geometry.convex import ConvexBody, icosahedron
from icobench.geometry.orientation import (
    appendix_c_errors,
    boundary_distance,
    component_spans,
    disorientation,
    equivalents,
    nearest_equivalent,
    random_orientations,
    to_fundamental_domain,
)
from icobench.geometry.rotations import (
    quaternion_angle,
    quaternion_multiply,
    random_quaternions,
    rotation_vector_to_quaternion,
)

GROUP = Rotation.create_group("I")
CORNER_DEG = 44.4775  # of the dodecahedral domain: 2 atan(tan(18 deg) / 0.7946545)


def about(axis, degrees):
    vector = torch.as_tensor(axis, dtype=torch.float64)
    return rotation_vector_to_quaternion(vector / vector.norm() * math.radians(degrees))


def test_equivalents_are_q_times_g(generator):
    quaternion = random_quaternions(3, generator)
    for one, many in zip(quaternion, equivalents(quaternion), strict=True):
        expected = (Rotation.from_quat(one.numpy(), scalar_first=True) * GROUP).as_quat(scalar_first=True)
        overlap = np.abs(many.numpy() @ expected.T)
        assert (np.sort(overlap.argmax(1)) == np.arange(60)).all()
        np.testing.assert_allclose(overlap.max(1), 1, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fundamental_domain_takes_the_smallest_rotation(generator, dtype):
    quaternion = random_quaternions(40, generator).to(dtype)
    found = to_fundamental_domain(quaternion)
    assert found.dtype == dtype
    for one, own in zip(quaternion, found, strict=True):
        rotation = Rotation.from_quat(one.numpy(), scalar_first=True)
        angles = (rotation * GROUP).magnitude()
        assert float(quaternion_angle(own)) == pytest.approx(angles.min(), abs=1e-6)
        own = Rotation.from_quat(own.numpy(), scalar_first=True)
        assert (own.inv() * rotation * GROUP).magnitude().min() < 1e-6


def test_fundamental_domain_is_idempotent(generator):
    inside = random_orientations(500, generator)
    np.testing.assert_allclose(to_fundamental_domain(inside), inside, atol=1e-15)


def test_largest_angle_of_the_domain(generator):
    """Reached on the three-fold axes, nowhere passed, and 36 degrees on the five-fold axes."""
    angles = torch.rad2deg(quaternion_angle(random_orientations(5000, generator)))
    assert float(angles.max()) < CORNER_DEG
    body = icosahedron()
    for axis, limit in ((body.normals[0], CORNER_DEG), (body.vertices[0], 36.0)):
        inside, outside = about(axis, limit - 0.01), about(axis, limit + 0.01)
        torch.testing.assert_close(to_fundamental_domain(inside), inside)
        assert float(quaternion_angle(to_fundamental_domain(outside))) < math.radians(limit)


def test_random_orientations_fill_the_domain_evenly(generator):
    """Below 36 degrees the domain is a full ball, where the Haar density is 60 (1 - cos t) / pi."""
    angles = quaternion_angle(random_orientations(4000, generator)).numpy()
    ball = math.pi / 5
    whole = ball - math.sin(ball)
    within = angles[angles < ball]
    assert stats.kstest(within, lambda t: (t - np.sin(t)) / whole).pvalue > 0.01
    assert stats.binomtest(len(within), len(angles), 60 * whole / math.pi).pvalue > 0.01


def test_disorientation_equals_the_double_loop(generator):
    first, second = random_quaternions(10, generator).reshape(2, 5, 4)
    found = disorientation(first, second)
    for one, two, angle in zip(first, second, found, strict=True):
        left = Rotation.from_quat(one.numpy(), scalar_first=True)
        right = Rotation.from_quat(two.numpy(), scalar_first=True) * GROUP
        naive = min((right.inv() * left * element).magnitude().min() for element in GROUP)
        assert float(angle) == pytest.approx(math.degrees(naive), abs=1e-9)


def test_disorientation_is_a_distance_between_orbits(generator):
    first, second, third = random_quaternions(90, generator).reshape(3, 30, 4)
    angle = disorientation(first, second)
    torch.testing.assert_close(disorientation(second, first), angle)
    torch.testing.assert_close(disorientation(-first, second), angle)
    torch.testing.assert_close(
        disorientation(equivalents(first), second.unsqueeze(1)), angle.unsqueeze(1).expand(-1, 60)
    )
    assert (angle <= disorientation(first, third) + disorientation(third, second) + 1e-9).all()
    # Turning both bodies in the laboratory changes nothing.
    torch.testing.assert_close(
        disorientation(quaternion_multiply(third, first), quaternion_multiply(third, second)), angle
    )


def test_disorientation_resolves_tiny_angles(generator):
    """Equivalent orientations differ by nothing, and 1e-6 degrees are seen as such."""
    quaternion = random_orientations(20, generator)
    assert float(disorientation(equivalents(quaternion), quaternion.unsqueeze(1)).max()) < 1e-12 * 180
    turned = quaternion_multiply(about((1, 2, -1), 1e-6), quaternion)
    np.testing.assert_allclose(disorientation(turned, quaternion), 1e-6, rtol=1e-6)


def test_other_bodies_use_their_own_group(generator):
    quarter = Rotation.create_group("O").as_quat(scalar_first=True)
    axes = np.vstack((np.eye(3), -np.eye(3)))
    cube = ConvexBody.from_halfspaces("cube", axes, np.ones(6), quarter)
    quaternion = random_orientations(20, generator, cube)
    turned = quaternion_multiply(quaternion, about((0, 0, 1), 90.0))
    assert float(disorientation(quaternion, turned, cube).max()) < 1e-10
    assert float(disorientation(quaternion, turned).min()) > 10


def test_distance_from_the_boundary(generator):
    """36 degrees from the middle of the domain; a turn as far along a five-fold axis brings a tie."""
    assert float(boundary_distance(torch.tensor([1.0, 0, 0, 0]).double())) == pytest.approx(36, abs=1e-9)
    axis = torch.as_tensor(icosahedron().vertices[0])
    axis = axis / axis.norm()
    for angle in (10.0, 35.0):
        turned = rotation_vector_to_quaternion(math.radians(angle) * axis)
        assert float(boundary_distance(turned)) == pytest.approx(36 - angle, abs=1e-6)
    quaternion = random_quaternions(20_000, generator)
    distance = boundary_distance(quaternion)
    np.testing.assert_allclose(
        distance[:50], boundary_distance(equivalents(quaternion[:50])[:, 30]), atol=1e-6
    )
    # A thin layer's volume over its thickness, from a layer twice as thin.
    thin, thick = (float((distance < limit).double().mean()) for limit in (0.5, 1.0))
    assert thick == pytest.approx(2 * thin, rel=0.15)
    # No smaller turn leaves the domain: the largest w keeps its place.
    inside = to_fundamental_domain(quaternion[:200])
    step = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator, dtype=torch.float64), dim=1)
    step = step * torch.deg2rad(0.999 * distance[:200, None])
    moved = quaternion_multiply(rotation_vector_to_quaternion(step), inside)
    np.testing.assert_allclose(moved, to_fundamental_domain(moved), atol=1e-12)


def test_nearest_equivalent(generator):
    quaternion, reference = random_quaternions(20, generator).reshape(2, 10, 4)
    nearest = nearest_equivalent(quaternion, reference)
    dots = (nearest * reference).sum(-1)
    assert (dots > 0).all()
    torch.testing.assert_close(2 * torch.acos(dots), torch.deg2rad(disorientation(quaternion, reference)))
    assert float(disorientation(nearest, quaternion).max()) < 1e-10


def test_component_spans_against_a_scan():
    """March outwards along many axes until another group element is nearer than the identity."""
    count = 100_000
    height = 1 - (2 * np.arange(count) + 1) / count
    turn = np.pi * (1 + 5**0.5) * np.arange(count)
    across = np.sqrt(1 - height**2)
    axes = np.stack((across * np.cos(turn), across * np.sin(turn), height), 1)
    element = GROUP.as_quat(scalar_first=True)
    element = element[np.abs(element[:, 0]) < 0.999]
    element *= np.where(element[:, :1] < 0, -1, 1)
    # cos h >= cos h g_0 + sin h |n . g|: the limit of tan h is the smallest (1 - g_0) / |n . g|.
    along = np.maximum(np.abs(axes @ element[:, 1:].T), 1e-12)
    half = np.arctan(((1 - element[:, 0]) / along).min(1))
    scanned = (1 - np.cos(half).min(), *(2 * np.abs(np.sin(half)[:, None] * axes).max(0)))
    # The scan's axes are 0.6 degrees apart, so it stays below the cusps by up to 1 %.
    for span, seen in zip(component_spans(), scanned, strict=True):
        assert seen <= span + 1e-12
        assert seen > 0.99 * span


def test_appendix_c_by_hand():
    """A prediction 10 degrees about x from the identity and 13 nm too large."""
    span_w, span_x = component_spans()[:2]
    radius = torch.tensor([73.0], dtype=torch.float64)
    components = [
        (1 - math.cos(math.radians(5))) / span_w, math.sin(math.radians(5)) / span_x, 0.0, 0.0, 0.1,
    ]  # fmt: skip
    predicted, truth = about((1, 0, 0), 10.0), about((1, 0, 0), 0.0)
    for element in (0, 17, 59):  # whichever equivalent the method reports
        mean, largest = appendix_c_errors(
            radius, equivalents(predicted)[None, element], radius - 13, equivalents(truth)[None, element - 3]
        )
        assert float(mean) == pytest.approx(sum(components) / 5, abs=1e-12)
        assert float(largest) == pytest.approx(max(components), abs=1e-12)


def test_appendix_c_is_zero_for_equivalents(generator):
    quaternion = random_quaternions(6, generator)
    radius = torch.full((6, 60), 80.0, dtype=torch.float64)
    errors = appendix_c_errors(radius, equivalents(quaternion), radius, quaternion.unsqueeze(1))
    assert float(torch.stack(errors).max()) < 1e-12
