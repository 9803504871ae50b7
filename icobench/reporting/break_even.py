"""From how many images on one method costs less than another, also if simulations took another time.

Time is in core-seconds, of all processor cores together, or in seconds of the GPU that a run used. It is that
of simulations and other time: at c seconds a simulation, n images cost

    fixed_simulations * c + fixed_other_seconds + n * (evaluations * c + other_seconds)
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from icobench.reporting.statistics import FEWEST, MARGIN, RESAMPLES, Interval, as_accurate
from icobench.reporting.tables import number
from icobench.seeds import Purpose, random_generator

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "CURRENCIES", "EXCHANGE", "Account", "BreakEven", "break_even", "break_even_curve", "complete",
    "not_worse", "time_text", "trained_and_competitors",
]  # fmt: skip

CURRENCIES = ("seconds", "simulations")
"""Time, simulations included; and simulations alone, as if all other time were free."""

EXCHANGE = 1.0
"""Core-seconds that a second of a GPU counts for where both are added: it is taken as one of the machine that
simulates, as the paper takes its hours of training."""

COMPETITORS = ("simplex", "dictionary+lm")
"""The paper's opponent of the network, and the strongest method without training."""


@dataclass(frozen=True)
class Account:
    """Costs of one method. Seconds are core-seconds, or those of the GPU if the run used one.

    Attributes:
        fixed_seconds, fixed_simulations: before the first image: training set, training, search, dictionary.
        seconds, evaluations: (N,) of each image.
        seconds_per_simulation: of this machine; NaN if nothing simulated.
        fixed_other_seconds: of fixed_seconds what is not simulation; by default what the pace leaves.
        other_seconds: (N,) likewise of each image. Single ones may be negative; their mean counts as 0 then.
        foreign_seconds: before the first image on the other kind of processor: of a GPU where images cost
            core-seconds. They count at :data:`EXCHANGE`.
        on_gpu: whether seconds are those of a GPU.
        trained: whether a network is needed.
        runs, blocks: (N,) numbers. Images of a block share their time; by default each is alone, in one run.
    """

    method: str
    fixed_seconds: float
    fixed_simulations: float
    seconds: np.ndarray
    evaluations: np.ndarray
    seconds_per_simulation: float
    fixed_other_seconds: float = None  # type: ignore[assignment]
    other_seconds: np.ndarray = None  # type: ignore[assignment]
    foreign_seconds: float = 0.0
    on_gpu: bool = False
    trained: bool = False
    runs: np.ndarray = None  # type: ignore[assignment]
    blocks: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        images = len(self.seconds)
        defaults: dict[str, Any] = {
            "fixed_other_seconds": max(0.0, self.fixed_seconds - self.fixed_simulations * self.pace),
            "other_seconds": self.seconds - self.evaluations * self.pace,
            "runs": np.zeros(images, dtype=int), "blocks": np.arange(images),
        }  # fmt: skip
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @property
    def pace(self) -> float:
        """Seconds of a simulation on this machine, 0 if that is not known."""
        return 0.0 if math.isnan(self.seconds_per_simulation) else self.seconds_per_simulation

    def fixed_cost(self, cost: Any) -> Any:
        """Seconds before the first image if a simulation takes ``cost`` seconds, a number or (C,)."""
        rate = 1 / EXCHANGE if self.on_gpu else EXCHANGE
        return self.fixed_simulations * cost + self.fixed_other_seconds + rate * self.foreign_seconds


def complete(accounts: list[Account]) -> list[Account]:
    """Those over all images: a method that failed half-way is not on the same images as the others."""
    most = max(accounts, key=lambda costs: len(costs.seconds))
    return [costs for costs in accounts if np.array_equal(costs.blocks, most.blocks)]


def trained_and_competitors(accounts: list[Account]) -> tuple[list[Account], list[Account]]:
    """The methods with a network, and those of :data:`COMPETITORS` that took part, over all images."""
    by_name = {costs.method: costs for costs in complete(accounts)}
    trained = [costs for costs in by_name.values() if costs.trained]
    return trained, [by_name[name] for name in COMPETITORS if name in by_name]


def not_worse(results: "DataFrame", first: str, second: str) -> bool:
    """Whether both mean errors of the first method are shown to be at most 10 % larger than the second's.

    One of the two one-sided tests of :func:`~icobench.reporting.statistics.as_accurate`, at 5 %.
    """
    tests = as_accurate(results, first, second).errors.values()
    solves = results.loc[results["method"] == first, "success"].any()
    return bool(solves) and all(test.images >= FEWEST and test.ratio.high < MARGIN for test in tests)


@lru_cache(maxsize=4)
def _drawn_blocks(runs: tuple[int, ...]) -> np.ndarray:
    """How often each block, given its run, is drawn: (R, B). Runs are drawn, and in each of them blocks."""
    random = random_generator(0, Purpose.BOOTSTRAP)
    members = [np.flatnonzero(np.equal(runs, run)) for run in sorted(set(runs))]
    counts = np.zeros((RESAMPLES, len(runs)))
    for _ in members:
        drawn = random.integers(len(members), size=RESAMPLES)
        for run, blocks in enumerate(members):
            rows = np.flatnonzero(drawn == run)
            picked = blocks[random.integers(len(blocks), size=(len(rows), len(blocks)))]
            np.add.at(counts, (rows[:, None], picked), 1)
    return counts


class _Means(NamedTuple):
    """Of K quantities: over all images, (1, K), over bootstrap draws, (R, K), over each run, (runs, K)."""

    value: np.ndarray
    draws: np.ndarray
    runs: np.ndarray

    @classmethod
    def of(cls, costs: Account, values: np.ndarray) -> "_Means":
        """Of (N, K) values, by the runs and blocks of an account."""
        _, first, block = np.unique(costs.blocks, return_index=True, return_inverse=True)
        runs = costs.runs[first]
        sums = np.zeros((len(first), values.shape[1] + 1))
        np.add.at(sums, block, np.column_stack((values, np.ones(len(values)))))
        by_run = np.equal.outer(np.unique(runs), runs).astype(float)
        weights = np.ones((1, len(runs))), _drawn_blocks(tuple(runs.tolist())), by_run
        return cls(*(totals[:, :-1] / totals[:, -1:] for totals in (counts @ sums for counts in weights)))

    def interval(self, place: int = 0) -> Interval:
        """Of one quantity. It has no width where there is a single block."""
        return Interval.of_draws(self.value[0, place], self.draws[:, place])


def _spread_text(interval: Interval, runs: tuple[float, ...], show: Any) -> str:
    """A value with its interval; the lowest and the highest of several runs if one is outside of it."""
    if len(runs) > 1 and not interval.low <= min(runs) <= max(runs) <= interval.high:
        lowest, highest = show(min(runs)), show(max(runs))
        return lowest if lowest == highest else f"{lowest} to {highest} in {len(runs)} runs"
    value, low, high = map(show, interval)
    return value if value == low == high else f"{value} ({low} to {high})"


def time_text(costs: Account) -> str:
    """Mean time of an image with its interval, or the range of the runs."""
    means = _Means.of(costs, costs.seconds[:, None])
    return _spread_text(means.interval(), tuple(means.runs[:, 0]), number)


class BreakEven(NamedTuple):
    """From how many images on a method is cheaper than another: 0 if from the start, infinite if never.

    ``runs`` has the number of each run alone.
    """

    images: Interval
    runs: tuple[float, ...]

    @property
    def text(self) -> str:
        """The number of images with its interval, or their range where runs disagree by more than that."""
        return _spread_text(*self, lambda count: "never" if math.isinf(count) else f"{math.ceil(count):,}")


def _crossings(first: Account, second: Account, currency: str, cost: np.ndarray | None = None) -> _Means:
    """Break-even by simulations, by the time measured, or by that at (C,) seconds a simulation."""
    by_image = {"runs": None, "blocks": None} if currency == "simulations" else {}
    columns = [np.stack((own.evaluations, own.seconds, own.other_seconds), 1) for own in (first, second)]
    means = _Means.of(replace(first, **by_image), np.hstack(columns))  # type: ignore[arg-type]

    def fixed(own: Account) -> Any:
        return own.fixed_simulations if by_image else own.fixed_cost(own.pace if cost is None else cost)

    def each(mean: np.ndarray) -> np.ndarray:
        evaluations, seconds, other = mean.T[..., None]
        if by_image or cost is None:
            return evaluations if by_image else seconds
        return evaluations * cost + np.maximum(other, 0.0)

    def crossings(mean: np.ndarray) -> np.ndarray:
        before, saved = fixed(first) - fixed(second), each(mean[:, 3:]) - each(mean[:, :3])
        with np.errstate(divide="ignore", invalid="ignore"):
            images = np.maximum(before / saved, 0.0)
        return np.where(saved > 0, images, np.where(np.less(before, 0), 0.0, np.inf))

    return _Means(*map(crossings, means))


def break_even_curve(first: Account, second: Account, cost: Any) -> np.ndarray:
    """Number of images from which ``first`` is cheaper, against what one simulation costs.

    With dear simulations it tends to the ratio of simulations, ``break_even(..., "simulations")``, with cheap
    ones to the ratio of other times, its value at 0.

    Args:
        first, second: accounts over the same images.
        cost: (C,) seconds of one simulation.

    Returns:
        (3, C) images, and the ends of their interval of 95 %: 0 if from the start, infinite if never.
    """
    crossings = _crossings(first, second, "seconds", np.asarray(cost, dtype=float))
    return np.array([crossings.interval(place) for place in range(len(cost))]).T


def break_even(
    first: Account, second: Account, currency: str = "seconds", cost: float | None = None
) -> BreakEven:
    """Number of images from which ``first`` is cheaper, with a paired bootstrap interval of 95 %.

    Images of a block share their time, and the machine's pace differs from run to run: runs are resampled,
    and blocks within them. Simulations differ from image to image: images are resampled.

    It is 0 where the first method costs less before the first image and more for each: it is then cheaper
    from the start, although only up to a number of images.

    Args:
        first, second: accounts over the same images.
        currency: one of :data:`CURRENCIES`.
        cost: seconds of one simulation, if other than measured.
    """
    crossings = _crossings(first, second, currency, None if cost is None else np.array([cost]))
    return BreakEven(crossings.interval(), tuple(crossings.runs[:, 0].tolist()))
