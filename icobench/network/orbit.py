"""The degree-6 orbit embedding of icosahedral orientations, and its decoder.

The lowest harmonics (after l = 0) that the icosahedral group leaves invariant have degree 6. The sum of the
13 real l = 6 spherical harmonics over the six five-fold axes of the rotated body is the same for all 60
equivalent orientations and different for all others: a smooth embedding of SO(3) / I with the same metric in
every direction, sqrt(14) per radian for the unit-norm vector. Unlike quaternions, it has no jumps at the
faces of the fundamental domain, so that a network can regress it.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import sph_harm_y
from torch import Tensor

from icobench.devices import by_device, has_triton
from icobench.geometry.convex import icosahedron
from icobench.geometry.orientation import to_fundamental_domain
from icobench.geometry.rotations import quaternion_multiply, quaternion_to_matrix, random_quaternions

__all__ = ["DIMENSION", "decode", "embed", "small_turn"]

DEGREE = 6
DIMENSION = 2 * DEGREE + 1
METRIC = 14.0
"""Squared speed of the unit-norm embedding per radian: l (l + 1) / 3."""

CODEBOOK_SIZE = 1500
ITERATIONS = 25

LAST_STEP = 1e-3
"""Radians; after a Newton step this small the error is about its square."""

LONGEST_STEP = 0.1
"""Radians; a longer Newton step may leave the hill of its maximum, which is 0.3 wide."""

CHUNK, GPU_CHUNK = 256, 8192
"""Vectors at a time on a CPU and on a GPU, which bounds the temporaries."""

CANDIDATES = 200
"""Codes that are searched for local maxima, best first; lower maxima are not worth a hypothesis."""

SAME_HILL = 0.99
"""Orbit points with a larger scalar product are closer than about 2 degrees: the same maximum."""


LIBRARY = torch.library.Library("icobench", "FRAGMENT")
LIBRARY.define("climb(Tensor quaternion, Tensor unit) -> Tensor")
"""An operator, so that a GPU's kernel takes the place of hundreds of small ones."""

UNITS = torch.eye(4, dtype=torch.float64)
TANGENT = quaternion_multiply(UNITS[1:, None], UNITS).reshape(12, 4)
"""The products of i, j, k with a quaternion, from the products of their components."""


def _harmonics(directions: np.ndarray) -> np.ndarray:
    """Real orthonormal spherical harmonics of degree 6, (N, 3) -> (N, 13), order m = -6..6."""
    polar = np.arccos(np.clip(directions[:, 2:], -1, 1))
    azimuth = np.arctan2(directions[:, 1:2], directions[:, :1])
    orders = np.arange(-DEGREE, DEGREE + 1)
    values = sph_harm_y(DEGREE, np.abs(orders), polar, azimuth)
    return np.where(orders == 0, 1, math.sqrt(2)) * np.where(orders < 0, values.imag, values.real)


def _random_directions(seed: int, count: int) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@lru_cache(maxsize=8)
def _polynomials(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The harmonics as polynomials: the six five-fold axes (6, 3), exponents of x, y, z (28, 3), and
    coefficients (28, 13) that include the scale to unit norm."""
    vertices = icosahedron().vertices
    axes = vertices[[i for i, v in enumerate(vertices) if tuple(v) > tuple(-v)]]
    exponents = np.array([(a, b, DEGREE - a - b) for a in range(DEGREE + 1) for b in range(DEGREE + 1 - a)])
    points = _random_directions(6, 400)
    powers = np.prod(points[:, None, :] ** exponents, axis=-1)
    coefficients = np.linalg.lstsq(powers, _harmonics(points), rcond=None)[0]
    coefficients[np.abs(coefficients) < 1e-10] = 0.0
    scale = 1 / float(np.linalg.norm(_harmonics(axes).sum(0)))
    tables = axes, exponents, scale * coefficients
    return tuple(torch.as_tensor(table, device=device) for table in tables)  # type: ignore[return-value]


@lru_cache(maxsize=8)
def _embedding_tables(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """From the products q_i q_j to x, y, z of the six rotated five-fold axes (16, 18); places (3, 28) of the
    powers of x, y, z among 7 each; coefficients (28, 13)."""
    axes, exponents, coefficients = _polynomials(torch.device("cpu"))
    # M(q) is a quadratic form: its values at the units and at sums of two of them determine it.
    single, double = quaternion_to_matrix(UNITS), quaternion_to_matrix(UNITS[:, None] + UNITS)
    turned = axes @ ((double - single[:, None] - single) / 2).mT
    places = exponents.T + torch.tensor([[0], [DEGREE + 1], [2 * (DEGREE + 1)]])
    return turned.reshape(16, 18).to(device, dtype), places.to(device), coefficients.to(device, dtype)


@lru_cache(maxsize=1)
def _generators() -> np.ndarray:
    """(3, 13, 13): d/dt embed(exp(t e_i) q) = G_i embed(q), rotation about the lab axes."""
    points, step = _random_directions(7, 200), 1e-4
    matrices = []
    for axis in np.eye(3):
        first = np.cross(axis, points)
        second = np.cross(axis, first)
        ahead, behind = (
            _harmonics(points + np.sin(angle) * first + (1 - np.cos(angle)) * second)
            for angle in (step, -step)
        )
        slope = (ahead - behind) / (2 * step)
        matrix = np.linalg.lstsq(_harmonics(points), slope, rcond=None)[0].T
        matrices.append((matrix - matrix.T) / 2)
    return np.stack(matrices)


@lru_cache(maxsize=8)
def _generator_tables(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.as_tensor(_generators(), dtype=dtype, device=device)


def embed(quaternion: Tensor) -> Tensor:
    """Unit-norm orbit vectors, (..., 4) -> (..., 13), orders m = -6..6, the same for all equivalents of q."""
    turned, places, coefficients = _embedding_tables(quaternion.dtype, quaternion.device)
    products = quaternion.unsqueeze(-1) * quaternion.unsqueeze(-2)
    rotated = (products.flatten(-2) @ turned).unflatten(-1, (6, 3))
    squared = rotated * rotated
    cubed = squared * rotated
    powers = (torch.ones_like(rotated), rotated, squared, cubed, squared * squared, cubed * squared,
              cubed * cubed)  # fmt: skip
    table = torch.stack(powers, -1).flatten(-2)  # (..., 6 axes, 21)
    monomials = table[..., places[0]] * table[..., places[1]] * table[..., places[2]]
    return monomials.sum(-2) @ coefficients


@lru_cache(maxsize=8)
def _codebook(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Orientations spread over the fundamental domain (N, 4), their vectors (N, 13) in float32, the 16 next
    to each.

    Farthest-point thinning of random orientations: no two are closer than about 4 degrees.
    """
    candidates = random_quaternions(12 * CODEBOOK_SIZE, torch.Generator().manual_seed(60))
    vectors = embed(candidates)
    chosen = torch.zeros(CODEBOOK_SIZE, dtype=torch.long)
    distance = torch.full((len(candidates),), torch.inf, dtype=torch.float64)
    for i in range(1, CODEBOOK_SIZE):
        distance = torch.minimum(distance, 1 - vectors @ vectors[chosen[i - 1]])
        chosen[i] = distance.argmax()
    codes = vectors[chosen]
    neighbours = (codes @ codes.T).topk(17, dim=1).indices[:, 1:]
    orientations = to_fundamental_domain(candidates[chosen])
    return orientations.to(device), codes.float().to(device), neighbours.to(device)


class Decoded(NamedTuple):
    """Orientations (B, K, 4) in the fundamental domain, best first, and their scores (B, K).

    The score is the cosine between the predicted vector and the orbit point.
    """

    quaternion: Tensor
    score: Tensor


@lru_cache(maxsize=8)
def _derivatives(device: torch.device) -> Tensor:
    """(13, 169): takes a vector u to 13 vectors, whose products with embed(q) are values and derivatives.

    They belong to f(w) = u . embed(exp(w) q) at w = 0, with w a rotation vector in the laboratory: three
    slopes, the value itself, and nine curvatures (the symmetric part of G_i G_j).
    """
    generators = _generators()
    second = np.einsum("iab,jbc->ijac", generators, generators)
    second = (second + second.transpose(1, 0, 2, 3)) / 2
    operators = np.concatenate((generators, np.eye(DIMENSION)[None], second.reshape(9, DIMENSION, DIMENSION)))
    return torch.as_tensor(operators.transpose(1, 2, 0).reshape(DIMENSION, -1), device=device)


def decode(vector: Tensor, hypotheses: int = 2) -> Decoded:
    """Nearest points on the orbit to vectors (B, 13) of any norm: the K best local maxima of the score.

    The codes that score higher than all codes around them are the starts. Newton steps refine them, or
    Gauss-Newton steps with the embedding's constant metric where the score is not concave. Where there are
    fewer maxima than hypotheses, the last hypotheses repeat the best one with a score of -1.
    """
    chunk = by_device(vector.device, CHUNK, GPU_CHUNK)
    pieces = [_decode(piece, hypotheses) for piece in vector.split(chunk)]
    if len(pieces) == 1:
        return pieces[0]
    return Decoded(*(torch.cat(part) for part in zip(*pieces, strict=True)))


def _decode(vector: Tensor, hypotheses: int) -> Decoded:
    codes, code_vectors, neighbours = _codebook(vector.device)
    unit = torch.nn.functional.normalize(vector.double(), dim=-1)
    # Single precision is enough to choose starts.
    scores = unit.float() @ code_vectors.T
    best = scores.topk(CANDIDATES, dim=1, sorted=False)
    around = neighbours.index_select(0, best.indices.flatten()).view(len(scores), -1)
    around = scores.gather(1, around).unflatten(1, (CANDIDATES, -1)).amax(-1)
    starts = best.values.masked_fill(best.values < around, -torch.inf).topk(hypotheses, dim=1)
    missing = torch.isinf(starts.values)
    places = torch.where(missing, starts.indices[:, :1], starts.indices)
    quaternion = torch.ops.icobench.climb(codes[best.indices.gather(1, places)], unit)
    points = embed(quaternion)
    score = (points @ unit.unsqueeze(-1)).squeeze(-1).masked_fill(missing, -1.0)
    order = score.argsort(dim=1, descending=True, stable=True)
    quaternion, points = (
        torch.take_along_dim(values, order.unsqueeze(-1), 1) for values in (quaternion, points)
    )
    # Two starts may have led to the same maximum.
    same = (points @ points.mT > SAME_HILL).tril(-1).any(-1)
    return Decoded(to_fundamental_domain(quaternion), score.gather(1, order).masked_fill(same, -1.0))


@torch.library.impl(LIBRARY, "climb", "CPU")
def _climb(quaternion: Tensor, unit: Tensor) -> Tensor:
    """Maxima of the product of embed(q) with unit vectors (B, 13), from nearby orientations (B, K, 4)."""
    derivatives = (unit @ _derivatives(unit.device)).unflatten(1, (DIMENSION, -1))
    tangent = TANGENT.to(unit.device)
    moving = torch.ones_like(quaternion[..., :1], dtype=torch.bool)
    for _ in range(ITERATIONS):
        slope, height, curvature = (embed(quaternion) @ derivatives).split((3, 1, 9), -1)
        factor, fault = torch.linalg.cholesky_ex(-curvature.unflatten(-1, (3, 3)))
        newton = torch.cholesky_solve(slope.unsqueeze(-1), factor).squeeze(-1)
        length = newton.norm(dim=-1, keepdim=True)
        reliable = (fault == 0).unsqueeze(-1) & (length < LONGEST_STEP)
        # The metric's share of the curvature falls with the height.
        turn = torch.where(reliable, newton, slope / (METRIC * height.clamp_min(0.4)))
        # Along the tangent and back to the sphere: a turn by 2 atan(t / 2) instead of t.
        along = torch.where(moving, turn / 2, 0.0).unsqueeze(-1) * quaternion.unsqueeze(-2)
        quaternion = quaternion + along.flatten(-2) @ tangent
        quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
        # Each stops by its own step, so that no result depends on the others in the batch.
        moving = moving & ~(reliable & (length < LAST_STEP))
        if not moving.any():
            break
    return quaternion


@torch.library.impl(LIBRARY, "climb", "CUDA")
def _climb_on_gpu(quaternion: Tensor, unit: Tensor) -> Tensor:
    """The same in a few launches, where there is Triton."""
    if not has_triton():
        return _climb(quaternion, unit)
    from icobench.network.climb_kernel import climb

    axes, exponents, coefficients = _polynomials(unit.device)
    derivatives = (unit @ _derivatives(unit.device)).unflatten(1, (DIMENSION, -1))
    settings = ITERATIONS, METRIC, LONGEST_STEP, LAST_STEP
    return climb(quaternion, axes, exponents, coefficients @ derivatives, *settings)


def small_turn(vector: Tensor, quaternion: Tensor) -> Tensor:
    """Rotation vectors (B, 3) in radians about the lab axes that take orientations (B, 4) to vectors (B, 13).

    To first order in the turn: the vector's component along the orbit, divided by the metric.
    """
    generators = _generator_tables(vector.dtype, vector.device)
    along = torch.einsum("dij,bj->bdi", generators, embed(quaternion).to(vector.dtype))
    return torch.einsum("bdi,bi->bd", along, vector) / METRIC
