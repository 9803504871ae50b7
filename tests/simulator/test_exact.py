"""The closed-form simulator against published fields, the oracle, formulas and symmetries."""

import math
from dataclasses import replace
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation
from test_oracle import cube_face_on

from icobench.geometry.convex import ConvexBody, icosahedron
from icobench.geometry.orientation import equivalents, random_orientations
from icobench.geometry.rotations import quaternion_multiply, rotate_about_beam
from icobench.geometry.shapes import SHAPES, shape, sphere
from icobench.simulator import closed_form as oracle
from icobench.simulator.experiment import Experiment, FlatDetector
from icobench.simulator.simulator import Simulator

CLOSED_FORM = Path(__file__).parents[1] / "data" / "closed_form.npz"
DEFAULT = Experiment().refractive_index
SILVER = 0.89 + 0.0859j
DTYPES = [torch.float32, torch.float64]

# Relative L2 error of a field, over all cases below, degenerate ones included.
TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-9}

BODY = icosahedron()
AXES = np.vstack((np.eye(3), -np.eye(3)))
NO_SYMMETRY = np.array([[1.0, 0, 0, 0]])


def relative(found, expected):
    """Relative L2 distance; NaN if there is one."""
    return float(np.linalg.norm(np.asarray(found) - np.asarray(expected)) / np.linalg.norm(expected))


def onto_beam(axis, turn=0.0):
    """Quaternion (w, x, y, z) that brings a body axis onto +z, then turns about it."""
    align, _ = Rotation.align_vectors([[0.0, 0.0, 1.0]], [np.asarray(axis, dtype=float)])
    return (Rotation.from_rotvec([0, 0, turn]) * align).as_quat(scalar_first=True)


def compare_with_oracle(simulator, radius, quaternion):
    """Relative error on 16 x 16 pixels, the beam included."""
    experiment = simulator.experiment
    stride = experiment.pixels // 16
    chosen = torch.zeros(experiment.pixels, experiment.pixels, dtype=torch.bool)
    chosen[::stride, ::stride] = True
    chosen &= experiment.valid()
    kx, ky = (side[chosen].numpy() * experiment.wave_number for side in experiment.transverse())
    quaternion = np.asarray(quaternion, dtype=float)
    body = simulator.body
    expected = oracle.field(
        body.normals, body.offsets, radius, quaternion, experiment.refractive_index, kx, ky
    )
    field = simulator.field(torch.tensor([radius]), torch.tensor(quaternion)[None])
    return relative(field[0][chosen], expected)


@pytest.mark.parametrize(("dtype", "pixels"), [(torch.float32, 128), (torch.float64, 64)])
def test_closed_form_fields(dtype, pixels):
    """All pixels in float32; half the pixels a side, for the time it takes, in float64."""
    data = np.load(CLOSED_FORM)
    stride = 128 // pixels
    errors = []
    for i in range(6):
        experiment = Experiment(refractive_index=complex(data["refractive_index"][i]), pixels=pixels)
        simulator = Simulator(experiment, dtype=dtype)
        field = simulator.field(
            torch.tensor(data["radius_nm"][i : i + 1]), torch.tensor(data["quaternion"][i : i + 1])
        )
        assert field.dtype == (torch.complex64 if dtype == torch.float32 else torch.complex128)
        assert (field[0][~experiment.valid()] == 0).all()
        errors.append(relative(field[0], data["field"][i, ::stride, ::stride]))
    assert max(errors) < TOLERANCE[dtype]
    assert np.median(errors) < (1e-5 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", [DEFAULT, SILVER, 1.0], ids=["absorbing", "silver", "vacuum"])
def test_symmetry_axes_along_the_beam(index, dtype):
    """Projected edges coincide and facets stand along the beam: everything degenerate at once."""
    simulator = Simulator(Experiment(refractive_index=index, pixels=32), dtype=dtype)
    two, three, five = (0, 0, 1), BODY.normals[0], BODY.vertices[0]
    for quaternion in (
        (1, 0, 0, 0), onto_beam((0, 1, 0)), onto_beam(two, 0.3), onto_beam(three, 1.1), onto_beam(five, 0.7),
    ):  # fmt: skip
        assert compare_with_oracle(simulator, 58.0, quaternion) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", [DEFAULT, 1.0], ids=["absorbing", "vacuum"])
def test_facets_nearly_along_the_beam(index, dtype, rng):
    """Facets tilted out of the beam by less than any tolerance up to a degree."""
    simulator = Simulator(Experiment(refractive_index=index, pixels=32), dtype=dtype)
    for tilt in (1e-12, 1e-9, 3e-7, 1e-5, 1e-3):
        vector = rng.normal(size=3)
        vector *= tilt / np.linalg.norm(vector)
        tilted = Rotation.from_rotvec(vector) * Rotation.from_rotvec([0, 0, 0.2])
        error = compare_with_oracle(simulator, 62.0, tilted.as_quat(scalar_first=True))
        assert error < TOLERANCE[dtype], tilt


DAILY = ("cube", "octahedron", "truncated-octahedron", "cuboctahedron", "dodecahedron", "tetrahedron")
"""The form factors of all bodies are checked daily in ``tests/geometry/test_shapes.py``."""

OTHER_BODIES = [
    *(
        pytest.param(shape(name), marks=[] if name in DAILY else pytest.mark.slow)
        for name in SHAPES
        if name not in ("icosahedron", "sphere")
    ),
    pytest.param(replace(sphere(40), round=False), marks=pytest.mark.slow),
    ConvexBody.from_halfspaces("plate", AXES, np.tile((1.0, 0.7, 0.1), 2), NO_SYMMETRY),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("body", OTHER_BODIES, ids=lambda body: body.name)
def test_other_bodies(body, dtype):
    simulator = Simulator(Experiment(pixels=32), dtype=dtype, body=body)
    edge_on = Rotation.from_rotvec([math.pi / 4, 0, 0]).as_quat(scalar_first=True)
    generic = Rotation.random(random_state=5).as_quat(scalar_first=True)
    for quaternion in ((1, 0, 0, 0), edge_on, onto_beam((1, 1, 1)), generic):
        assert compare_with_oracle(simulator, 60.0, quaternion) < TOLERANCE[dtype]


@pytest.mark.parametrize("index", [DEFAULT, 1.0])
def test_cube_face_on(index):
    experiment = Experiment(refractive_index=index, pixels=64)
    simulator = Simulator(experiment, dtype=torch.float64, body=shape("cube"))
    field = simulator.field(torch.tensor([75.0]), torch.tensor([[1.0, 0, 0, 0]]))[0]
    valid = experiment.valid()
    k = experiment.sines().numpy() * experiment.wave_number
    ky, kx = (side[valid] for side in np.meshgrid(k, k, indexing="ij"))
    assert relative(field[valid], cube_face_on(75.0, index, kx, ky)) < TOLERANCE[torch.float64]


def test_form_factor_by_quadrature(generator):
    """Without contrast (n = 1) the field is the body's Fourier transform: 20 tetrahedra, Gauss points."""
    experiment = Experiment(refractive_index=1.0, pixels=16)
    simulator = Simulator(experiment, dtype=torch.float64)
    radius, quaternion = 20.0, random_orientations(1, generator)
    field = simulator.field(torch.tensor([radius]), quaternion)[0][experiment.valid()]

    vertices = Rotation.from_quat(quaternion[0].numpy(), scalar_first=True).apply(BODY.vertices) * radius
    facets = vertices[ConvexHull(vertices).simplices]
    node, weight = np.polynomial.legendre.leggauss(10)
    node, weight = (node + 1) / 2, weight / 2
    a, b, c = np.meshgrid(node, node, node, indexing="ij")
    # r = a [v0 + b (v1 - v0) + b c (v2 - v1)] has the Jacobian a^2 b |det v|.
    shape = np.stack((a * (1 - b), a * b * (1 - c), a * b * c), -1).reshape(-1, 3)
    weights = (weight[:, None, None] * weight[:, None] * weight * a**2 * b).ravel()
    points = (shape @ facets).reshape(-1, 3)
    weights = np.outer(np.abs(np.linalg.det(facets)), weights).ravel()
    k, sines = experiment.wave_number, experiment.sines().numpy()
    ky, kx = (k * side[experiment.valid()] for side in np.meshgrid(sines, sines, indexing="ij"))
    waves = np.stack((kx, ky, np.sqrt(k**2 - kx**2 - ky**2) - k))
    # k R = 9 waves' radians over a tetrahedron: ten points a side are exact to 1e-9.
    assert relative(field, weights @ np.exp(-1j * points @ waves)) < 2e-9


def test_forward_field_is_the_volume(simulator, generator):
    """q = 0 and n = 1: the volume 2.5361507 R^3, at every orientation."""
    radius = torch.tensor([30.0, 55.0])
    vacuum = simulator.with_refractive_index(1.0)
    forward = vacuum.field(radius, random_orientations(2, generator))[:, 32, 32]
    np.testing.assert_allclose(forward.real, 2.5361507 * radius**3, rtol=1e-4)
    assert float(forward.imag.abs().max()) < 1e-4 * float(forward.real.min())


def test_forward_field_of_a_black_body_is_its_shadow(generator):
    """Strong absorption: F(0) = integral of [1 - exp(-a l)] / a over the shadow, a = k Im n."""
    quaternion = random_orientations(1, generator)
    simulator = Simulator(Experiment(refractive_index=1 + 10j, pixels=32), dtype=torch.float64)
    forward = complex(simulator.field(torch.tensor([60.0]), quaternion)[0, 16, 16])
    rotation = Rotation.from_quat(quaternion[0].numpy(), scalar_first=True)
    shadow = ConvexHull(rotation.apply(BODY.vertices)[:, :2] * 60.0).volume
    rate = simulator.experiment.wave_number * 10
    assert forward.imag == pytest.approx(0, abs=1e-6 * shadow / rate)
    # Rays thinner than a few 1/a = 0.2 nm pass only near the rim of the 60 nm shadow.
    assert forward.real == pytest.approx(shadow / rate, rel=1e-2)


def test_equivalent_orientations_look_the_same(precise, generator):
    same = equivalents(random_orientations(1, generator))[0, ::12]
    fields = precise.field(torch.full((5,), 60.0), same)
    for other in fields[1:]:
        assert relative(other, fields[0]) < 1e-9


def test_turning_the_body_turns_the_image(precise, generator):
    """A turn by 90 degrees from x to y takes pixel (k_x, k_y) to (-k_y, k_x)."""
    quaternion = random_orientations(1, generator)
    turned = rotate_about_beam(quaternion, torch.tensor(math.pi / 2, dtype=torch.float64))
    first, second = precise.field(torch.full((2,), 60.0), torch.cat((quaternion, turned)))
    step = torch.arange(-31, 32)
    ky, kx = torch.meshgrid(step, step, indexing="ij")
    assert relative(second[32 + kx, 32 - ky], first[32 + ky, 32 + kx]) < TOLERANCE[torch.float64]


def test_what_remains_of_friedels_law(precise, generator):
    """A centrosymmetric body without contrast has a real field; yet -q is not on the Ewald sphere."""
    quaternion = torch.cat((random_orientations(1, generator), torch.tensor([[1.0, 0, 0, 0]])))
    radius = torch.full((2,), 60.0)
    field = precise.with_refractive_index(1.0).field(radius, quaternion)
    assert relative(field.real, field) < TOLERANCE[torch.float64]
    # A two-fold axis along the beam makes the image even, absorption or not ...
    generic, even = precise.intensity(radius, quaternion)[:, 1:, 1:]
    assert relative(even.flip(0, 1), even) < TOLERANCE[torch.float64]
    # ... nothing else does: wide-angle images hold the depth.
    away = torch.ones(63, 63, dtype=torch.bool)
    away[21:42, 21:42] = False
    assert relative(generic.flip(0, 1)[away], generic[away]) > 0.1


def test_result_is_independent_of_the_batch(simulator, generator):
    """Bit for bit; radii of several buckets, repeated and shuffled."""
    radius = torch.tensor([40.0, 75.0, 41.0, 60.0, 31.0])
    quaternion = random_orientations(5, generator)
    together = simulator.field(radius, quaternion)
    for i in (0, 2, 3):
        alone = simulator.field(radius[i : i + 1], quaternion[i : i + 1])[0]
        assert torch.equal(together[i], alone)
    order = torch.tensor([4, 2, 0, 3, 1, 2])
    shuffled = simulator.field(radius[order], quaternion[order])
    assert torch.equal(shuffled, together[order])


@pytest.mark.parametrize(("sine", "stride", "whole", "last"), [(0.5, 2, 1, 15), (0.7, 10, 7, 3)])
def test_smaller_detectors_agree_with_the_whole(precise, generator, sine, stride, whole, last):
    """Step ``stride * m`` on the small grid is step ``whole * m`` on the large one."""
    radius, quaternion = torch.tensor([60.0]), random_orientations(1, generator)
    smaller = Simulator(Experiment(sin_theta_max=sine, pixels=64), dtype=torch.float64)
    small, large = (simulator.field(radius, quaternion)[0] for simulator in (smaller, precise))
    m = torch.arange(-last, last + 1)
    found = small[32 + stride * m][:, 32 + stride * m]
    assert relative(found, large[32 + whole * m][:, 32 + whole * m]) < TOLERANCE[torch.float64]


def test_coarser_detector_agrees_with_the_fine(precise, generator):
    radius, quaternion = torch.tensor([60.0]), random_orientations(1, generator)
    coarse = Simulator(Experiment(pixels=32), dtype=torch.float64).field(radius, quaternion)
    assert relative(coarse, precise.field(radius, quaternion)[:, ::2, ::2]) < TOLERANCE[torch.float64]


def test_wavelength_only_sets_the_scale(precise, generator):
    """Twice the wavelength and twice the radius: the same pattern, eight times the field."""
    radius, quaternion = torch.tensor([60.0]), random_orientations(1, generator)
    longer = Simulator(Experiment(wavelength_nm=27.0, pixels=64), dtype=torch.float64)
    assert relative(longer.field(2 * radius, quaternion) / 8, precise.field(radius, quaternion)) < 1e-9


def test_unnormalised_quaternions_mean_the_same(simulator, generator):
    radius, quaternion = torch.tensor([50.0]), random_orientations(1, generator)
    expected = simulator.field(radius, quaternion)
    assert relative(simulator.field(radius, -3 * quaternion), expected) < 1e-6


def test_dark_pixels_of_the_log_image():
    """Pixel by pixel over six decades: RMS error of the log image (the target of the brief is 1e-3)."""
    data = np.load(CLOSED_FORM)
    for i in range(6):
        experiment = Experiment(refractive_index=complex(data["refractive_index"][i]))
        body = torch.tensor(data["radius_nm"][i : i + 1]), torch.tensor(data["quaternion"][i : i + 1])
        found = Simulator(experiment).field(*body)[0].numpy()
        valid = experiment.valid().numpy()
        top = np.abs(data["field"][i]).max() ** 2
        images = [np.maximum(np.abs(f[valid]) ** 2 / top, 1e-6) for f in (found, data["field"][i])]
        assert np.sqrt(np.mean((np.log10(images[0] / images[1]) / 6) ** 2)) < 1e-4


def test_small_and_large_bodies_at_the_edges_of_the_range(generator):
    for radius in (5.0, 160.0):
        for index in (DEFAULT, SILVER, 1.0):
            experiment = Experiment(refractive_index=index, pixels=64)
            quaternion = random_orientations(1, generator)[0]
            for dtype in DTYPES:
                simulator = Simulator(experiment, dtype=dtype)
                assert compare_with_oracle(simulator, radius, quaternion) < TOLERANCE[dtype]


def test_very_strong_absorption_stays_finite(generator):
    """Thickness differences of hundreds of decay lengths within one edge."""
    experiment = Experiment(refractive_index=1 + 2j, pixels=32)
    quaternion = random_orientations(1, generator)[0]
    for dtype in DTYPES:
        error = compare_with_oracle(Simulator(experiment, dtype=dtype), 160.0, quaternion)
        assert error < TOLERANCE[dtype]


@pytest.mark.parametrize("sine", [0.1, 0.3, 0.5, 0.75])
def test_parts_of_the_half_space(sine, generator):
    """Few nodes on a small range of angles: their round-off must not be magnified."""
    experiment = Experiment(sin_theta_max=sine, pixels=32)
    for radius in (20.0, 80.0, 160.0):
        quaternion = random_orientations(1, generator)[0]
        for dtype in DTYPES:
            error = compare_with_oracle(Simulator(experiment, dtype=dtype), radius, quaternion)
            assert error < TOLERANCE[dtype]


DETECTORS = [
    FlatDetector(50.0, 0.6),
    FlatDetector(20.0, 1.0, (20.3, 40.9)),
    FlatDetector(500.0, 0.5, (-10.0, 32.0)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("detector", DETECTORS)
def test_flat_detectors(detector, dtype, generator):
    simulator = Simulator(Experiment(detector=detector, pixels=64), dtype=dtype)
    for radius in (20.0, 90.0, 150.0):
        quaternion = random_orientations(1, generator)[0]
        assert compare_with_oracle(simulator, radius, quaternion) < TOLERANCE[dtype]


def test_sphere_of_facets_tends_to_the_born_sphere():
    """n = 1: 4 pi R^3 j_1(q R) / (q R) of the sphere with the same volume; error falls with the facets."""
    experiment = Experiment(refractive_index=1.0, pixels=32)
    valid = experiment.valid().numpy()
    q = 2 * experiment.wave_number * np.sin(np.arccos(experiment.cos_theta().numpy()) / 2)
    errors = []
    for facets in (30, 60, 120):
        body = replace(sphere(facets), round=False)
        field = Simulator(experiment, dtype=torch.float64, body=body).field(
            torch.tensor([60.0]), torch.tensor([[1.0, 0.2, 0.3, 0.1]])
        )[0]
        radius = 60.0 * (3 * body.volume / (4 * math.pi)) ** (1 / 3)
        x = np.maximum(q * radius, 1e-3)
        born = 4 * math.pi * radius**3 * (np.sin(x) - x * np.cos(x)) / x**3
        errors.append(relative(field[valid], born[valid]))
    assert errors[2] < 0.01
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
@hypothesis.given(
    quaternion=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(x * x for x in q) > 0.01),
    radius=st.floats(5, 80),
    turn=st.floats(-math.pi, math.pi),
    member=st.integers(0, 59),
)
def test_symmetries_of_any_body(quaternion, radius, turn, member):
    """Equivalent orientations; R and wavelength scaled together; float32 near float64; alone or not."""
    q = torch.tensor([quaternion], dtype=torch.float64)
    q = rotate_about_beam(q / q.norm(), torch.tensor(turn, dtype=torch.float64))
    same = quaternion_multiply(q, torch.tensor(BODY.group[member : member + 1]))
    radii = torch.tensor([radius, radius], dtype=torch.float64)
    precise = Simulator(Experiment(pixels=32), dtype=torch.float64)
    first, second = precise.field(radii, torch.cat((q, same)))
    assert relative(second, first) < 1e-9
    longer = Simulator(Experiment(wavelength_nm=27.0, pixels=32), dtype=torch.float64)
    assert relative(longer.field(2 * radii[:1], q)[0], 8 * first) < 1e-9
    single = Simulator(Experiment(pixels=32))
    both = single.field(radii, torch.cat((q, same)))
    assert relative(both[0], first) < 5e-5
    assert torch.equal(single.field(radii[1:], same)[0], both[1])


@pytest.mark.parametrize("radius", [500.0, 1e6])
def test_bodies_larger_than_the_grid_are_refused(radius, simulator):
    with pytest.raises(ValueError, match="radius_nm"):
        simulator.field(torch.tensor([radius]), torch.tensor([[1.0, 0, 0, 0]]))


@pytest.mark.parametrize("sine", [1.0, 0.7])
def test_whole_pixels_of_the_beam_s_offset_move_the_pattern(generator, sine):
    radius, quaternion = torch.tensor([40.0, 150.0]), random_orientations(2, generator)
    moved = Experiment(sin_theta_max=sine, centre_offset=(3, -5))
    found = Simulator(moved).field(radius, quaternion)[:, :-5, 3:]
    expected = Simulator(Experiment(sin_theta_max=sine)).field(radius, quaternion)
    expected = torch.roll(expected, (-5, 3), (1, 2))[:, :-5, 3:] * moved.valid()[:-5, 3:]
    assert float((found - expected).norm() / expected.norm()) < 2e-6


def test_a_fraction_of_a_pixel_agrees_with_the_oracle_s_grid(generator):
    """Every second pixel of a grid twice as fine, whose odd pixels are half pixels off."""
    radius, quaternion = torch.tensor([80.0]), random_orientations(1, generator)
    fine = Simulator(Experiment(pixels=256), dtype=torch.float64).field(radius, quaternion)[:, 1::2, ::2]
    half = Experiment(centre_offset=(0.0, -0.5))
    found = Simulator(half, dtype=torch.float64).field(radius, quaternion)
    assert float((found - fine).norm() / fine.norm()) < 1e-9
