"""Which body is it? A race of shapes, and fits of shapes with a parameter of their own.

The stored patterns of all bodies are compared with the image, a family's at some values of its parameter. The
best starts race by a few Levenberg-Marquardt steps, in which the families' parameters are fitted along. The
shapes that are left are fitted by the method that was asked for, and ranked by the likelihood with Schwarz's
penalty for parameters (BIC; Ann. Stat. 6, 461, 1978).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from icobench.answer import (
    AMBIGUOUS,
    NOT_CONVERGED,
    OK,
    OUTSIDE,
    POOR,
    RESCUED,
    UNKNOWN,
    Answer,
    Hypotheses,
    Progress,
)
from icobench.errors import InputError
from icobench.fitting.dictionary import DictionaryOptions, dictionary_for
from icobench.fitting.facets import FacetOptions, fit_facets
from icobench.fitting.least_squares import LevenbergMarquardtOptions, levenberg_marquardt
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import objective_for
from icobench.geometry.convex import ConvexBody, icosahedron
from icobench.geometry.shapes import SHAPES, Shape, shape_of
from icobench.methods.base import Method, Problem
from icobench.simulator.simulator import Simulator
from icobench.stopwatch import Stopwatch

__all__ = [
    "AUTO", "EQUIVALENT", "FREE", "ChosenShape", "Fit", "chosen_shape", "fit_shapes", "free_facets", "freed",
    "race_dictionaries", "raced", "with_shape_columns",
]  # fmt: skip

Fit = Callable[[Problem, Progress], Answer]

AUTO = "-auto"
"""At the end of a method's name: the race of all bodies, which the method of the first name ends."""

FREE = "-facets"
"""Likewise: free facets at the end."""

EQUIVALENT = "volume_equivalent_radius_nm"
"""Column: the radius of the sphere that has the body's volume."""

GRID = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of a family's range at which patterns are stored."""

FAMILY_SHARE = 0.5
"""Patterns of each of these bodies over those of a body that is alone. All are as dense in orientation as the
icosahedron's: more for a smaller rotation group."""

PER_BODY = 3
"""Stored patterns of each body that may start."""

FEW_BODIES = 8
"""More bodies than this leave no tables in memory, 50 MB each."""

STARTERS, FIRST_STEPS = 16, 2
"""Starts of an image, and the steps that each takes with the parameter held."""

RUNNERS, SECOND_STEPS = 5, 4
"""Shapes of an image that go on, and the steps that each takes with the parameter free."""

FINALISTS = 3
"""Shapes of an image that are fitted to the end."""

HOPELESS = 2000.0
"""Twice the log likelihood by which a shape that lacks more after the steps is not fitted to the end; the
odds against it are those it has by then."""

LEAST_ODDS = 100.0
"""Below these odds for the best shape the answer is ambiguous."""

GOOD = (OK, RESCUED, NOT_CONVERGED)
"""What a better reason for doubt replaces."""


@dataclass
class _Entrants:
    """Fits under way: one row for each, of image ``image`` with a shape.

    Attributes:
        image: (M,) indices of the problem's images.
        shape: (M,) places in the list of shapes.
        share: (M,) of the parameter's range; 0 without one.
        radius_nm, quaternion: (M,) and (M, 4).
        value: (M,) of the objective, or the negative score of a stored pattern: lower is better.
    """

    image: Tensor
    shape: Tensor
    share: Tensor
    radius_nm: Tensor
    quaternion: Tensor
    value: Tensor

    def take(self, rows: Tensor) -> "_Entrants":
        return _Entrants(*(getattr(self, name)[rows] for name in vars(self)))

    def best(self, count: int, images: int, once: bool) -> "_Entrants":
        """The ``count`` best rows of every image, best first; of every shape one if ``once``."""
        order = self.value.nan_to_num(nan=math.inf).argsort(stable=True)
        kept, seen = [], [set[int]() for _ in range(images)]
        taken = [0] * images
        for row, image, shape in zip(
            order.tolist(), self.image[order].tolist(), self.shape[order].tolist(), strict=True
        ):
            if taken[image] < count and not (once and shape in seen[image]):
                kept.append(row)
                seen[image].add(shape)
                taken[image] += 1
        return self.take(torch.tensor(kept, dtype=torch.long))


def _join(parts: Sequence[_Entrants]) -> _Entrants:
    return _Entrants(*(torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])))


class _Race:
    """A race of shapes for the images of a problem."""

    def __init__(self, problem: Problem, shapes: Sequence[Shape], size: int) -> None:
        self.problem, self.shapes, self.size = problem, shapes, size
        self.straight = problem.simulator.with_method("exact")
        self.count = len(problem.images)
        self.evaluations = torch.zeros(self.count, dtype=torch.long)

    def stored(self, progress: Progress) -> _Entrants:
        """The nearest stored patterns of all bodies."""
        images, parts = self.problem.images, []
        bodies = _stored_bodies(self.shapes, self.size)
        device = self.straight.device
        mask = images.mask.to(device) & self.straight.valid
        pixels = torch.where(mask, images.images.to(device, torch.float32), 0.0)
        for number, (place, share, body, size) in enumerate(bodies):
            dictionary = dictionary_for(self.straight.with_body(body), DictionaryOptions(size))
            near = dictionary.match(pixels, mask, images.kind, self.straight.experiment, PER_BODY, body)
            if len(bodies) > FEW_BODIES:
                dictionary.forget()
            rows = near.radius_nm.numel()
            image = torch.arange(self.count).repeat_interleave(near.radius_nm.shape[1])
            parts.append(
                _Entrants(
                    image, torch.full((rows,), place), torch.full((rows,), share, dtype=torch.float64),
                    near.radius_nm.flatten(), near.quaternion.flatten(0, 1), -near.score.flatten(),
                )
            )  # fmt: skip
            progress((number + 1) / len(bodies))
        return _join(parts)

    def run(self, entrants: _Entrants, steps: int, free: bool) -> _Entrants:
        """All of them after some steps; with ``free`` parameters, or at the stored bodies."""
        options, parts = LevenbergMarquardtOptions(iterations=steps), []
        keys = torch.stack((entrants.shape.double(), entrants.share if not free else 0 * entrants.share), 1)
        for key in torch.unique(keys, dim=0):
            rows = (keys == key).all(1).nonzero()[:, 0]
            some, shape = entrants.take(rows), self.shapes[int(key[0])]
            fitted = free and bool(shape.parameter)
            body = shape.body() if free else shape.at(float(key[1]))
            names = (*self.problem.nuisance, "shape") if fitted else self.problem.nuisance
            objective = objective_for(self.problem.images, self.straight.with_body(body), names)
            nuisance = Nuisance.start(names, len(rows), self.straight.experiment).with_share(some.share)
            fit = levenberg_marquardt(
                objective, some.radius_nm, some.quaternion, options, some.image, nuisance=nuisance
            )
            self.evaluations += objective.simulator.evaluations
            share = fit.nuisance.get("shape", some.share)
            parts.append(
                _Entrants(some.image, some.shape, share, fit.radius_nm, fit.quaternion, fit.objective)
            )
        return _join(parts)


@dataclass(frozen=True)
class ChosenShape:
    """What was asked for.

    Attributes:
        shapes: one, or several that race.
        value: of the parameter of one, where it was given.
    """

    shapes: tuple[Shape, ...]
    value: float | None

    @property
    def plain(self) -> bool:
        """Whether it is the icosahedron, of which tables say nothing."""
        return [shape.name for shape in self.shapes] == ["icosahedron"]

    @property
    def races(self) -> bool:
        """Whether several bodies are tried."""
        return len(self.shapes) > 1 or bool(self.shapes[0].parameter and self.value is None)

    @property
    def body(self) -> ConvexBody:
        """The body that is fitted; of several the icosahedron."""
        return SHAPES["icosahedron"].body() if len(self.shapes) > 1 else self.shapes[0].body(self.value)

    def check(
        self, method: Method, nuisance: Sequence[str], fit_centre: bool, fit_response: bool, posterior: bool
    ) -> None:
        """Refuse what other shapes than the icosahedron cannot do.

        Raises:
            InputError: they cannot.
        """
        if method.chooses_shape or getattr(method.function, "func", None) is _freed:
            first = method.name.removesuffix(FREE).removesuffix(AUTO)
            raise InputError(
                f"{method.name} is for comparisons; here {first} has the options --shape auto and --facets"
            )
        if "shape" in nuisance:
            raise InputError("the parameter of a shape is fitted along by its name alone: --shape NAME")
        if self.plain:
            return
        if method.needs_network:
            raise InputError(f"{method.name}: networks know icosahedra only; dictionary+lm fits other shapes")
        if self.races:
            _check(method, self.shapes)
            for asked, what in ((fit_centre, "beam"), (fit_response, "response"), (posterior, "posterior")):
                if asked:
                    raise InputError(f"the {what} is found with one body: give --shape NAME, or NAME=VALUE")
        if any(shape.body().round for shape in self.shapes) and ("centre" in nuisance or fit_centre):
            raise InputError("the centre cannot be fitted with a sphere among the shapes")

    def fitting(self, method: Method) -> Fit:
        """How a method fits what was asked for."""
        if self.plain:
            return method.run
        if self.races:
            return partial(fit_shapes, method, self.shapes)
        return lambda problem, progress: with_shape_columns(
            method.run(problem, progress), self.shapes[0], self.value
        )


def chosen_shape(text: str) -> ChosenShape:
    """The shapes in a text: a name, NAME=VALUE, several names separated by commas, or "auto" for all.

    Raises:
        InputError: an unknown name, or a value out of range.

    Example:
        >>> from icobench.methods.shapes import chosen_shape
        >>> chosen_shape("cube").body.name, len(chosen_shape("auto").shapes)
        ('cube', 17)
    """
    names = list(SHAPES) if text == "auto" else [name.strip() for name in text.split(",")]
    try:
        pairs = [shape_of(name) for name in names]
        for shape, value in pairs:
            shape.body(value)
    except ValueError as error:
        raise InputError(f"{error}; or auto" if "unknown" in str(error) else str(error)) from error
    if len(pairs) > 1 and any(value is not None for _, value in pairs):
        raise InputError("shapes that race have no values: their parameters are fitted along")
    return ChosenShape(tuple(dict.fromkeys(shape for shape, _ in pairs)), pairs[0][1])


def fit_shapes(
    method: Method, shapes: Sequence[Shape], problem: Problem, progress: Progress = lambda share: None
) -> Answer:
    """Fit every image with the shape that explains it best.

    Args:
        method: of the last fits, one that starts from stored patterns and, for families, can fit nuisance
            parameters along.
        shapes: that race.
        problem: images and the simulator, whose body does not matter.
        progress: called with the finished share.

    Returns:
        the answer, with ``shape`` and, of several shapes, ``runner_up`` and the column ``shape_odds``. Its
        status is "unknown" where no shape explains the image, and "ambiguous" where two do.

    Raises:
        InputError: a method that cannot.
    """
    _check(method, shapes)
    watch = Stopwatch(problem.simulator.device)
    method = method.with_options(rescue=False)
    race = _Race(problem, shapes, method.options.dictionary)
    images = race.count
    entrants = race.stored(lambda share: progress(0.2 * share)).best(STARTERS, images, False)
    entrants = race.run(entrants, FIRST_STEPS, False).best(RUNNERS, images, True)
    progress(0.4)
    entrants = race.run(entrants, SECOND_STEPS, True)
    progress(0.5)
    answer = _finish(race, method, entrants, lambda share: progress(0.5 + 0.5 * share))
    for name, spent in zip(("seconds", "core_seconds"), watch.read(), strict=True):
        setattr(answer, name, torch.full((images,), spent / max(1, images), dtype=torch.float64))
    return answer


def raced(method: Method) -> Method:
    """The method that finds out which body of the catalogue an image shows, and fits it by this one.

    Raises:
        InputError: a method that cannot do that.

    Example:
        >>> from icobench.methods.shapes import raced
        >>> raced(icobench.methods()["dictionary+lm"]).name
        'dictionary+lm-auto'
    """
    _check(method, tuple(SHAPES.values()))
    if method.physics:
        first = method.name.removesuffix("-propagated")
        raise InputError(f"write {first}{AUTO}-propagated: the race is by straight rays")
    return replace(
        method, name=method.name + AUTO, summary=f"the race of all bodies, then {method.summary}",
        function=partial(_race, method), chooses_shape=True,
    )  # fmt: skip


def _race(method: Method, problem: Problem, options: Any, progress: Progress) -> Answer:
    return fit_shapes(replace(method, options=options), tuple(SHAPES.values()), problem, progress)


def freed(method: Method) -> Method:
    """The method whose answers have facets at distances of their own, see :mod:`~icobench.fitting.facets`.

    Raises:
        InputError: a method that fits propagated waves.
    """
    if method.physics:
        raise InputError(f"{method.name}{FREE}: free facets are fitted by straight rays")
    return replace(
        method, name=method.name + FREE, summary=f"{method.summary}; then free facets",
        function=partial(_freed, method),
    )  # fmt: skip


def _freed(method: Method, problem: Problem, options: Any, progress: Progress) -> Answer:
    if problem.simulator.method == "propagated":
        raise InputError("free facets are fitted by straight rays")
    answer = replace(method, options=options).run(problem, lambda share: progress(share / 2))
    free_facets(answer, problem, FacetOptions(), lambda share: progress((1 + share) / 2))
    return answer


def free_facets(
    answer: Answer, problem: Problem, options: FacetOptions, progress: Progress = lambda share: None
) -> None:
    """Fit the facets of all images' bodies, and take what was found for the answer; spheres have none."""
    objective, watch = objective_for(problem.images, problem.simulator), Stopwatch(problem.simulator.device)
    columns = {
        name: torch.zeros(len(answer), dtype=torch.float64) for name in ("free_facets", "log_evidence")
    }
    for row in range(len(answer)):
        regular = problem.simulator.body
        if answer.shape:
            entry = SHAPES[answer.shape[row]]
            value = answer.nuisance[entry.parameter][row] if entry.parameter else None
            regular = entry.body(None if value is None else float(value))
        if regular.round or not torch.isfinite(answer.radius_nm[row]):
            continue
        fit = fit_facets(
            objective, row, regular, float(answer.radius_nm[row]), answer.quaternion[row], options
        )
        answer.bodies[int(answer.index[row])] = fit
        answer.radius_nm[row], answer.radius_std_nm[row] = fit.radius_nm, fit.radius_std_nm
        answer.quaternion[row], answer.orientation_std_deg[row] = fit.quaternion, fit.orientation_std_deg
        answer.objective[row] = fit.value
        answer.evaluations[row] += fit.evaluations
        answer.status[row] = POOR if fit.poor else OK
        columns["free_facets"][row], columns["log_evidence"][row] = int(fit.free.sum()), fit.evidence
        progress((row + 1) / len(answer))
    answer.nuisance |= columns
    for name, spent in zip(("seconds", "core_seconds"), watch.read(), strict=True):
        getattr(answer, name).add_(spent / max(1, len(answer)))


def race_dictionaries(simulator: Simulator, method: Method) -> dict[str, Any]:
    """Make the dictionaries of a race that are not there yet; the cost of all of them, as on a card."""
    total: dict[str, Any] = {"simulations": 0, "seconds": 0.0, "core_seconds": 0.0}
    for _, _, body, size in _stored_bodies(tuple(SHAPES.values()), method.options.dictionary):
        card = dictionary_for(simulator.with_body(body), DictionaryOptions(size)).card
        total = {name: value + card[name] for name, value in total.items()}
    return total | {"device": str(simulator.device)}


def _stored_bodies(shapes: Sequence[Shape], size: int) -> list[tuple[int, float, ConvexBody, int]]:
    """The bodies with stored patterns: place of the shape, share of its range, body, number of patterns."""
    bodies = []
    for place, shape in enumerate(shapes):
        for share in GRID if shape.parameter else (0.0,):
            body = shape.at(share)
            density = len(icosahedron().group) / len(body.group) if not body.round else 1.0
            patterns = round(size * density * (FAMILY_SHARE if shape.parameter else 1.0))
            bodies.append((place, share, body, patterns))
    return bodies


def _check(method: Method, shapes: Sequence[Shape]) -> None:
    if method.needs_network or not method.needs_dictionary:
        raise InputError(
            f"{method.name} cannot choose a shape or fit its parameter; dictionary+lm and +mle can"
        )
    if not method.fits_nuisance and (family := next((one for one in shapes if one.parameter), None)):
        raise InputError(
            f"{method.name} cannot fit the {family.parameter.replace('_', ' ')} of a {family.name} along; "
            f"dictionary+lm and +mle can, or give {family.name}={family.default:.3g}"
        )


def _finish(race: _Race, method: Method, entrants: _Entrants, progress: Progress) -> Answer:
    """Fits to the end of the shapes that are left, and the verdict for every image."""
    problem, images, shapes = race.problem, race.count, race.shapes
    objective, every = objective_for(problem.images, race.straight), torch.arange(race.count)
    propagated = problem.simulator.method == "propagated"
    values = torch.full((images, len(shapes)), math.inf, dtype=torch.float64)
    values[entrants.image, entrants.shape] = entrants.value.nan_to_num(nan=math.inf)
    gap = objective.likelihood_gap(values.amin(1)[entrants.image], entrants.value, entrants.image)
    # Straight rays do not say by how much a shape lacks with propagated waves.
    left = torch.ones_like(gap, dtype=torch.bool) if propagated else ~(gap > HOPELESS)
    finalists = entrants.take(left.nonzero()[:, 0]).best(FINALISTS, images, True)
    if propagated:
        values[:] = math.inf
    fits: dict[int, tuple[Tensor, Answer]] = {}
    for place in torch.unique(finalists.shape).tolist():
        some = finalists.take((finalists.shape == place).nonzero()[:, 0])
        some = some.take(some.image.argsort())
        fit = method.run(_started(problem, some, shapes[place]))
        values[some.image, place] = fit.objective.nan_to_num(nan=math.inf)
        race.evaluations[some.image] += fit.evaluations
        fits[place] = some.image, with_shape_columns(fit, shapes[place])
        progress(len(fits) / len(shapes))
    extra = torch.tensor([float(bool(shape.parameter)) for shape in shapes], dtype=torch.float64)
    lowest = values.amin(1, keepdim=True)
    lack = torch.stack(
        [objective.likelihood_gap(lowest[:, 0], column, every) for column in values.unbind(1)], 1
    )
    lack = lack.nan_to_num(nan=math.inf) + extra * objective.usable.cpu().double().log()[:, None]
    in_final = torch.zeros_like(lack, dtype=torch.bool)
    in_final[finalists.image, finalists.shape] = True
    winner = torch.where(in_final, lack, math.inf).argmin(1)
    parts = []
    for place, (image, fit) in fits.items():
        rows = (winner[image] == place).nonzero()[:, 0]
        if len(rows):
            parts.append(fit.take(rows))
    answer = Answer.join(parts)
    answer.evaluations = race.evaluations.clone()
    if len(shapes) > 1:
        others = lack.scatter(1, winner[:, None], math.inf)
        second = others.argmin(1)
        odds = ((others.amin(1) - lack.gather(1, winner[:, None])[:, 0]) / 2).clamp(-700, 700).exp()
        answer.nuisance["shape_odds"] = odds
        answer.runner_up = [shapes[place].name for place in second.tolist()]
        answer.status = [
            UNKNOWN if word == POOR else AMBIGUOUS if word in GOOD and number < LEAST_ODDS else word
            for word, number in zip(answer.status, odds.tolist(), strict=True)
        ]
    return answer


def _started(problem: Problem, entrants: _Entrants, shape: Shape) -> Problem:
    """The problem of the entrants' images, one each, with their shape and from where they are."""
    names = (*problem.nuisance, "shape") if shape.parameter else problem.nuisance
    starts = Hypotheses(
        entrants.radius_nm[:, None],
        entrants.quaternion[:, None],
        torch.zeros_like(entrants.radius_nm)[:, None],
    )
    mask = None if problem.network_mask is None else problem.network_mask[entrants.image]
    return replace(
        problem, images=problem.images.subset(entrants.image), nuisance=names, network_mask=mask,
        simulator=problem.simulator.with_body(shape.body()), starts=starts, share=entrants.share,
    )  # fmt: skip


def with_shape_columns(answer: Answer, shape: Shape, value: float | None = None) -> Answer:
    """The answer of fits with a shape as users read it: the shape's name, its parameter, the size of a sphere
    of equal volume.

    Args:
        answer: of the fits, whose nuisance parameter ``shape`` is the parameter as a share of its range.
        shape: that was fitted.
        value: of its parameter, where it was given.
    """
    count = len(answer)
    bodies = [shape.body(value)] * count
    if "shape" in answer.nuisance:
        share, spread = (answer.nuisance.pop(name) for name in ("shape", "shape_std"))
        width = shape.high - shape.low
        answer.nuisance[shape.parameter] = shape.low + width * share
        answer.nuisance[f"{shape.parameter}_std"] = width * spread
        bodies = [shape.at(one) for one in share.tolist()]
        ended = ((share <= 0) | (share >= 1)).tolist()
        answer.status = [
            OUTSIDE if end and word in GOOD else word for end, word in zip(ended, answer.status, strict=True)
        ]
    size = torch.tensor([body.equivalent_radius for body in bodies], dtype=torch.float64)
    if shape.body(value).round:
        answer.orientation_std_deg = torch.full_like(size, torch.nan)
    elif shape.parameter and value is not None:
        answer.nuisance[shape.parameter] = torch.full((count,), value, dtype=torch.float64)
    answer.nuisance[EQUIVALENT] = answer.radius_nm * size
    answer.shape = [shape.name] * count
    return answer
