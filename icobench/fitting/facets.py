"""Bodies whose facets have distances (and directions) of their own: unequal, truncated, Wulff-like particles.

A fit starts from a regular body that roughly explains an image. The distance of facet f is ``s o_f + d_f``:
a common size s times the regular body's distance, and a deviation with a normal prior around 0 of width
``spread`` s. The most likely deviations are found by Levenberg-Marquardt, on small scattering angles first:
at large ones a facet that is off by some nanometres moves fringes by more than one. Which facets keep a
deviation is then decided by the evidence: in the quadratic form of the log likelihood around the fit the
integral over the deviations is known (Laplace; MacKay, Neural Comput. 4, 415, 1992), and facets are freed one
by one for as long as it grows.

Moving a body does not change the intensity, so that the distances are those for the origin that needs the
smallest deviations. Derivatives by distances are exact (:mod:`~icobench.simulator.facet_slopes`), those by
directions central differences of simulated bodies.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.spatial import HalfspaceIntersection, QhullError
from torch import Tensor

from icobench.answer import Progress
from icobench.errors import InputError
from icobench.fitting.objective import Objective
from icobench.geometry.convex import ConvexBody
from icobench.geometry.rotations import quaternion_normalize, turned
from icobench.simulator.simulator import Simulator

__all__ = ["FACETS", "FacetOptions", "FreeBody", "fit_facets", "free_body"]

FACETS = ("fixed", "distances", "directions")
"""What of the facets may be free; the last word stands for both."""

STAGES = (0.25, 0.4, 0.65, 1.0)
"""Sines of the largest scattering angle of the pixels that a fit sees, in turn."""

STEP_NM, STEP_RAD = 0.1, 0.002
"""To either side of a difference."""

EVALUATIONS = 16
"""Charged for the derivatives by rotation, 4, and by all distances (measured: 6 to 14), beside two images for
every tilt."""

VISIBLE = 10.0
"""Change of the deviance, summed over pixels, from which a facet that is taken away is noticed."""


@dataclass(frozen=True)
class FacetOptions:
    """Settings.

    Attributes:
        spread: prior standard deviation of a distance, over the size.
        directions: whether the facets' directions are free, too.
        tilt_deg: prior standard deviation of a direction, about either axis.
        iterations: most steps at every stage.
    """

    spread: float = 0.1
    directions: bool = False
    tilt_deg: float = 3.0
    iterations: int = 8


@dataclass(frozen=True)
class FreeBody:
    """A fitted body, in the frame of the regular one that it started from.

    Attributes:
        body: its half-spaces that carry facets, circumradius 1.
        radius_nm, radius_std_nm: the circumradius, and its standard deviation while all facets are free.
        quaternion: (4,) orientation.
        orientation_std_deg: root mean square angle.
        normals: (F, 3) directions of all facets of the regular body.
        distance_nm: (F,) of the planes from the origin.
        distance_std_nm: (F,) standard deviations while all facets are free, without shifts of the body.
        free: (F,) whether the evidence is for a deviation.
        removal: (F,) by how much the deviance, summed over pixels, grows without the facet; 0 for planes that
            carry none.
        value: of the objective.
        poor: whether noise does not explain what is left.
        evidence: logarithm of the evidence over that of the regular body.
        evaluations: simulated images.
    """

    body: ConvexBody
    radius_nm: float
    radius_std_nm: float
    quaternion: Tensor
    orientation_std_deg: float
    normals: np.ndarray
    distance_nm: np.ndarray
    distance_std_nm: np.ndarray
    free: np.ndarray
    removal: np.ndarray
    value: float
    poor: bool
    evidence: float
    evaluations: int

    @property
    def visible(self) -> np.ndarray:
        """(F,) whether the image would show it if the facet were not there."""
        return self.removal > VISIBLE

    def columns(self) -> dict[str, np.ndarray]:
        """A table with a row for each facet: its number, normal, distance, and what is known of it."""
        return {
            "facet": np.arange(len(self.normals)),
            **{f"normal_{axis}": self.normals[:, place] for place, axis in enumerate("xyz")},
            "distance_nm": self.distance_nm, "distance_std_nm": self.distance_std_nm, "free": self.free,
            "removal": self.removal, "visible": self.visible,
        }  # fmt: skip


def free_body(name: str, normals: np.ndarray, distance_nm: np.ndarray) -> tuple[ConvexBody, float]:
    """The body inside planes and its circumradius in nm; planes that carry no facet are left out.

    Args:
        normals: (F, 3) unit normals.
        distance_nm: (F,) distances from the origin, positive.

    Raises:
        ValueError: the planes do not bound a body around the origin.

    Example:
        >>> from icobench.geometry.shapes import shape
        >>> cube = shape("cube")
        >>> body, radius = free_body("box", cube.normals, 30.0 * np.array([1, 1, 1, 1, 1, 4.0]))
        >>> len(body.normals), round(radius, 1)
        (6, 127.3)
    """
    carries = _carries(name, normals, distance_nm)
    identity = np.array([[1.0, 0.0, 0.0, 0.0]])
    body = ConvexBody.from_halfspaces(name, normals[carries], distance_nm[carries], identity)
    return body, float(distance_nm[carries][0] / body.offsets[0])


def _carries(name: str, normals: np.ndarray, distance_nm: np.ndarray) -> np.ndarray:
    """(F,) which planes carry a facet; errors and arguments of :func:`free_body`."""
    if not (distance_nm > 0).all():
        raise ValueError(f"{name}: the origin must lie inside every half-space")
    with np.errstate(divide="ignore", invalid="ignore"):
        corners = HalfspaceIntersection(np.c_[normals, -distance_nm], np.zeros(3)).intersections
    if not np.isfinite(corners).all():
        raise ValueError(f"{name}: the half-spaces do not bound a body")
    return (np.abs(normals @ corners.T - distance_nm[:, None]) < 1e-7 * distance_nm.max()).sum(1) >= 3


@dataclass
class _State:
    """Where a fit is: size in nm, deviations (F,) in nm, tilts (F, 2) in radians, orientation (4,)."""

    size: float
    deviation: np.ndarray
    tilt: np.ndarray
    quaternion: Tensor


@dataclass
class _Fit:
    """A fit of one image of an objective."""

    objective: Objective
    image: int
    regular: ConvexBody
    options: FacetOptions
    frames: np.ndarray = field(init=False)
    noise: float = 1.0
    """Variance of the residuals, which weighs the prior; found before each stage if it is not known."""

    def __post_init__(self) -> None:
        self.index = torch.tensor([self.image], device=self.objective.simulator.device)
        # Two directions across every normal.
        helper = np.eye(3)[np.abs(self.regular.normals).argmin(1)]
        first = np.cross(self.regular.normals, helper)
        first /= np.linalg.norm(first, axis=1, keepdims=True)
        self.frames = np.stack((first, np.cross(self.regular.normals, first)), 1)

    def planes(self, state: _State) -> tuple[np.ndarray, np.ndarray]:
        """Normals (F, 3) and distances (F,) in nm."""
        normals = self.regular.normals + (state.tilt[..., None] * self.frames).sum(1)
        normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        return normals, state.size * self.regular.offsets + state.deviation

    def simulator(self, state: _State) -> tuple[Simulator, float]:
        body, radius = free_body(self.regular.name, *self.planes(state))
        return self.objective.simulator.simulator.with_body(body), radius

    def intensity(self, state: _State) -> Tensor:
        """(1, H, W), counted."""
        simulator, radius = self.simulator(state)
        self.objective.simulator.charge(self.index.cpu())
        return simulator.intensity(torch.tensor([radius]), state.quaternion[None])

    def moved(self, state: _State, step: np.ndarray, free: np.ndarray) -> _State:
        """A state after a step in rotation (3), size (1), the free deviations and the free tilts."""
        deviation, tilt = state.deviation.copy(), state.tilt.copy()
        count = int(free.sum())
        deviation[free] += step[4 : 4 + count]
        if self.options.directions:
            tilt[free] += step[4 + count : 4 + 3 * count].reshape(-1, 2)
        turn = torch.as_tensor(step[:3], dtype=torch.float64)
        return _State(state.size + step[3], deviation, tilt, turned(state.quaternion[None], turn[None])[0])

    def by_distances(self, simulator: Simulator, radius: float, state: _State) -> Tensor:
        """Derivatives (F, H, W) of the intensity by the distances of all planes."""
        slopes = simulator.facet_slopes(torch.tensor([radius]), state.quaternion[None])[0]
        carries = torch.as_tensor(_carries(self.regular.name, *self.planes(state)), device=slopes.device)
        every = slopes.new_zeros(len(carries), *slopes.shape[1:])
        every[carries] = slopes
        return every

    def by_tilts(self, state: _State, free: np.ndarray) -> Iterator[Tensor]:
        """Derivatives (1, H, W) of the intensity by the free tilts, one at a time: central differences."""
        for facet in np.flatnonzero(free) if self.options.directions else ():
            for axis in (0, 1):
                tilts = [state.tilt.copy(), state.tilt.copy()]
                for tilt, sign in zip(tilts, (1.0, -1.0), strict=True):
                    tilt[facet, axis] += sign * STEP_RAD
                ahead, behind = (self.intensity(replace(state, tilt=tilt)) for tilt in tilts)
                yield (ahead - behind) / (2 * STEP_RAD)

    def normal_equations(
        self, objective: Objective, state: _State, free: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Normal matrix (T, T) and gradient (T,) of the pixels that ``objective`` sees; the scale is last."""
        simulator, radius = self.simulator(state)
        objective.simulator.charge(self.index.cpu(), EVALUATIONS)
        intensity, slopes = simulator.intensity_jacobian(torch.tensor([radius]), state.quaternion[None])
        by_distances = self.by_distances(simulator, radius, state)
        by_size = torch.einsum("f,fhw->hw", by_distances.new_tensor(self.regular.offsets), by_distances)
        columns = [slopes[0, :3], by_size[None], by_distances[torch.as_tensor(free)]]
        columns += [*self.by_tilts(state, free), intensity]
        residuals, weight = objective.residuals(self.index, intensity)
        table = (torch.cat(columns) * weight).flatten(1).double()
        return (table @ table.T).cpu().numpy(), (table @ residuals.flatten().double()).cpu().numpy()

    def prior(self, state: _State, free: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Precisions (T,) of the prior, its gradient (T,), and half the sum of squares."""
        count = int(free.sum())
        precision = np.zeros(5 + count * (3 if self.options.directions else 1))
        gradient = np.zeros_like(precision)
        precision[4 : 4 + count] = (self.options.spread * state.size) ** -2
        gradient[4 : 4 + count] = precision[4 : 4 + count] * state.deviation[free]
        total = (precision[4 : 4 + count] * state.deviation[free] ** 2).sum()
        if self.options.directions:
            rows = slice(4 + count, 4 + 3 * count)
            precision[rows] = math.radians(self.options.tilt_deg) ** -2
            gradient[rows] = precision[rows] * state.tilt[free].ravel()
            total += (precision[rows] * state.tilt[free].ravel() ** 2).sum()
        return precision, gradient, 0.5 * float(total)

    def cost(self, objective: Objective, state: _State, free: np.ndarray) -> float:
        """Half the sum of squared residuals and of the prior; infinite where planes bound no body."""
        try:
            value = objective.compare(self.index, self.intensity(state))
        except (ValueError, QhullError):
            return math.inf
        half = 0.5 * float(value[0]) * float(objective.usable[self.image])
        return half + self.noise * self.prior(state, free)[2] if math.isfinite(half) else math.inf

    def optimise(self, objective: Objective, state: _State, free: np.ndarray) -> _State:
        """Levenberg-Marquardt on the most probable state."""
        if not objective.noise_known:
            residuals, _ = objective.residuals(self.index, self.intensity(state))
            self.noise = float(residuals.double().square().sum() / objective.usable[self.image])
        cost, damping = self.cost(objective, state, free), 1e-2
        matrix, gradient = self.normal_equations(objective, state, free)
        stale = False
        for _ in range(2 * self.options.iterations):
            precision, pull = (self.noise * part for part in self.prior(state, free)[:2])
            if stale:
                matrix, gradient = self.normal_equations(objective, state, free)
                stale = False
            whole, slope = matrix + np.diag(precision), gradient + pull
            diagonal = np.maximum(whole.diagonal(), 1e-12 * whole.diagonal().max())
            step = -np.linalg.solve(whole + damping * np.diag(diagonal), slope)
            # No further than the differences tell: a few nanometres and degrees.
            step *= min(1.0, 4.0 / np.abs(step[3:-1]).max(), math.radians(4) / np.abs(step[:3]).max())
            trial = self.moved(state, step[:-1], free)
            other = self.cost(objective, trial, free)
            if other < cost:
                small = cost - other < 1e-6 * cost + 0.05 * self.noise
                state, cost, damping, stale = trial, other, max(damping / 5, 1e-7), True
                if small:
                    break
            else:
                damping *= 5
                if damping > 1e4:
                    break
        return state


def _seen(objective: Objective, sine: float) -> Objective:
    """The same objective of the pixels up to a scattering angle."""
    if sine >= 1:
        return objective
    near = (objective.simulator.experiment.sin_theta() <= sine).to(objective.mask.device)
    return replace(objective, mask=objective.mask & near)


def _evidence(hessian: np.ndarray, pull: np.ndarray, variance: np.ndarray, groups: list[np.ndarray]) -> float:
    """Log evidence, over that without any, of the deviations in ``groups`` of rows."""
    if not groups:
        return 0.0
    rows = np.concatenate(groups)
    inner = hessian[np.ix_(rows, rows)]
    scale = np.sqrt(variance[rows])
    whitened = np.eye(len(rows)) + scale[:, None] * inner * scale
    inside = scale * pull[rows]
    return 0.5 * float(inside @ np.linalg.solve(whitened, inside) - np.linalg.slogdet(whitened)[1])


def _chosen(
    hessian: np.ndarray, pull: np.ndarray, variance: np.ndarray, rows_of: list[np.ndarray]
) -> tuple[np.ndarray, float]:
    """Facets that the evidence frees, (F,) bool, and its logarithm."""
    free, best = np.zeros(len(rows_of), dtype=bool), 0.0
    while not free.all():
        trials = {
            facet: _evidence(
                hessian, pull, variance, [rows_of[other] for other in np.flatnonzero(free)] + [rows_of[facet]]
            )
            for facet in np.flatnonzero(~free)
        }
        facet = max(trials, key=lambda one: trials[one])
        if trials[facet] <= best:
            break
        free[facet], best = True, trials[facet]
    return free, best


def fit_facets(
    objective: Objective,
    image: int,
    regular: ConvexBody,
    radius_nm: float,
    quaternion: Tensor,
    options: FacetOptions | None = None,
    progress: Progress = lambda share: None,
) -> FreeBody:
    """Fit the facets of one image's body.

    Args:
        objective: images, masks and counting simulator; the simulator's own body does not matter.
        image: index of the image.
        regular: body from which the facets may deviate.
        radius_nm, quaternion: (), (4,): the regular body's fit to the image.
        options: settings.
        progress: called with the finished share.

    Raises:
        InputError: the regular body is a sphere, which has no facets.
    """
    if regular.round:
        raise InputError("a sphere has no facets to free")
    options = options or FacetOptions()
    fit = _Fit(objective, image, regular, options)
    before = int(objective.simulator.evaluations[image])
    count = len(regular.normals)
    every = np.ones(count, dtype=bool)
    state = _State(
        float(radius_nm),
        np.zeros(count),
        np.zeros((count, 2)),
        quaternion_normalize(quaternion.double().cpu()),
    )
    for number, sine in enumerate(STAGES):
        coarse = objective.coarse() if sine < 1 else None
        state = fit.optimise(_seen(coarse or objective, sine), state, every)
        progress(0.15 + 0.15 * number)

    # The quadratic form of the likelihood in the deviations alone: rotation, size and scale integrated out.
    matrix, gradient = fit.normal_equations(objective, state, every)
    matrix, gradient = matrix / fit.noise, gradient / fit.noise
    deviations = np.arange(4, len(matrix) - 1)
    others = np.array([0, 1, 2, 3, len(matrix) - 1])
    carried = np.linalg.pinv(matrix[np.ix_(others, others)], rcond=1e-12, hermitian=True)
    carried = matrix[np.ix_(deviations, others)] @ carried
    hessian = matrix[np.ix_(deviations, deviations)] - carried @ matrix[np.ix_(others, deviations)]
    slope = gradient[deviations] - carried @ gradient[others]
    here = np.concatenate((state.deviation, state.tilt.ravel() if options.directions else ()))
    variance = 1 / fit.prior(state, every)[0][deviations]
    rows_of = [
        np.array([facet, count + 2 * facet, count + 2 * facet + 1] if options.directions else [facet])
        for facet in range(count)
    ]
    free, evidence = _chosen(hessian, hessian @ here - slope, variance, rows_of)
    covariance = _distance_covariance(fit, matrix, fit.prior(state, every)[0])
    state.deviation[~free], state.tilt[~free] = 0.0, 0.0
    state = fit.optimise(objective, state, free)
    progress(0.9)
    return _result(fit, state, free, evidence, covariance, before)


def _covariance(whole: np.ndarray) -> np.ndarray:
    """The inverse of a positive matrix of parameters in different units."""
    size = np.sqrt(np.maximum(whole.diagonal(), 1e-300))
    return np.linalg.pinv(whole / size / size[:, None], hermitian=True) / size / size[:, None]


def _distance_covariance(fit: _Fit, matrix: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Covariance (F, F) of the distances while all facets are free: the choice of those that stay
    free must not make it smaller. Shifts of the whole body, which the image cannot show, are left out."""
    covariance = _covariance(matrix + np.diag(precision))
    normals, count = fit.regular.normals, len(fit.regular.normals)
    carry = np.zeros((count, len(matrix)))
    carry[:, 3] = fit.regular.offsets
    carry[:, 4 : 4 + count] = np.eye(count)
    carry -= normals @ np.linalg.pinv(normals) @ carry
    return carry @ covariance @ carry.T


def _radius_slopes(name: str, normals: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Derivatives (F,) of the circumradius by the distances."""
    steps = STEP_NM * np.eye(len(distance))
    ends = [[free_body(name, normals, distance + sign * step)[1] for sign in (1, -1)] for step in steps]
    return np.diff(np.array(ends))[:, 0] / (-2 * STEP_NM)


def _result(
    fit: _Fit, state: _State, free: np.ndarray, evidence: float, distances: np.ndarray, before: int
) -> FreeBody:
    objective, regular = fit.objective, fit.regular
    normals, distance = fit.planes(state)
    body, radius = free_body(regular.name, normals, distance)
    matrix, _ = fit.normal_equations(objective, state, free)
    precision = fit.prior(state, free)[0]
    covariance = _covariance(matrix / fit.noise + np.diag(precision))
    usable = float(objective.usable[fit.image])
    value = float(objective.compare(fit.index, fit.intensity(state))[0])
    removal = np.zeros(len(distance))
    for facet in range(len(distance)):
        try:
            without, wider = free_body(regular.name, np.delete(normals, facet, 0), np.delete(distance, facet))
            simulator = objective.simulator.simulator.with_body(without)
            objective.simulator.charge(fit.index.cpu())
            intensity = simulator.intensity(torch.tensor([wider]), state.quaternion[None])
            removal[facet] = (float(objective.compare(fit.index, intensity)[0]) - value) * usable / fit.noise
        except (ValueError, QhullError):  # the others bound no body, or a larger one than the grid holds
            removal[facet] = math.inf
    fitted = torch.tensor([value], dtype=torch.float64)
    poor = objective.misfit_of(fit.index, fit.intensity(state), fitted, len(matrix)).poor
    slopes = _radius_slopes(regular.name, normals, distance)
    return FreeBody(
        body, radius, float(np.sqrt(max(slopes @ distances @ slopes, 0))), state.quaternion,
        math.degrees(np.sqrt(np.trace(covariance[:3, :3]))), normals, distance,
        np.sqrt(np.maximum(distances.diagonal(), 0)), free, removal, value, bool(poor[0]), evidence,
        int(objective.simulator.evaluations[fit.image]) - before,
    )  # fmt: skip
