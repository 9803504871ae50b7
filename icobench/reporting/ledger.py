"""The ledger: what a method costs before the first image and for each one, and when another gets cheaper."""

import math
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from icobench.reporting.page import sentences
from icobench.reporting.statistics import Interval, resampled
from icobench.reporting.tables import Table, number

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "CURRENCIES", "PUBLISHED", "Account", "account", "accounts_of", "break_even", "break_even_table",
    "ledger_table", "published_text", "seconds_per_simulation",
]  # fmt: skip

CURRENCIES = ("seconds", "simulations")
"""A machine's time, and simulated images; training counts with both."""

NOT_WORSE = 0.02
"""A method is as accurate as another if it solves at most so much smaller a share of the images, with 95 %
confidence."""

PUBLISHED = {"network": (31_000.0, 0.0), "simplex": (0.0, 10_000.0)}
"""Simulations before the first image and for each one, as Stielow et al. 2020 count them."""


@dataclass(frozen=True)
class Account:
    """Costs of one method.

    Attributes:
        fixed_seconds, fixed_simulations: before the first image: training set, training, dictionary.
        seconds, evaluations: (N,) of each image.
        seconds_per_simulation: of this machine, to convert.
    """

    method: str
    fixed_seconds: float
    fixed_simulations: float
    seconds: np.ndarray
    evaluations: np.ndarray
    seconds_per_simulation: float


def seconds_per_simulation(results: "DataFrame") -> float:
    """Of the machine that made the results: time over evaluations of the method that simulated most.

    NaN if none simulated.
    """
    sums = results.groupby("method")[["seconds", "evaluations"]].sum()
    most = sums.sort_values("evaluations").iloc[-1]
    return float(most["seconds"] / most["evaluations"]) if most["evaluations"] > 0 else math.nan


def account(method: str, results: "DataFrame", run: dict[str, Any], per_simulation: float) -> Account:
    """What a method cost in a run; ``run`` is the content of ``run.json``.

    The run's card of the method says whether it needs networks or a dictionary, their cards what they cost.
    """
    answers = results[results["method"] == method].sort_values("image")
    # The cards of older runs do not say what a method needs; its name does.
    needs = {"needs_network": "network" in method, "needs_dictionary": "dictionary" in method}
    card = {**needs, **((run.get("methods") or {}).get(method) or {})}
    networks = (run.get("networks") or [run.get("network")]) if card.get("needs_network") else []
    if "networks" in card:  # older runs had the same networks for all methods
        networks = [network for network in networks if network["digest"] in card["networks"]]
    costs: list[Any] = [card.get("search")]
    for network in filter(None, networks):
        costs += [{unit: network.get(f"training_{unit}") for unit in CURRENCIES}, network.get("search")]
    if card.get("needs_dictionary"):
        costs.append(run.get("dictionary"))
    time, simulations = (sum(float(cost[unit] or 0) for cost in costs if cost) for unit in CURRENCIES)
    seconds, evaluations = (answers[name].to_numpy(dtype=float) for name in ("seconds", "evaluations"))
    return Account(method, time, simulations, seconds, evaluations, per_simulation)


def accounts_of(results: "DataFrame", run: dict[str, Any]) -> list[Account]:
    """The account of every method of a run, in order of appearance."""
    per_simulation = seconds_per_simulation(results)
    return [account(str(name), results, run, per_simulation) for name in dict.fromkeys(results["method"])]


def ledger_table(accounts: list[Account]) -> Table:
    """Costs before the first image and for each, in simulations, seconds, and seconds as simulations."""
    headers = [
        ("method", ""), ("before: simulations", ""), ("before: time", "s"), ("that time", "simulations"),
        ("each: simulations", ""), ("each: time", "s"), ("that time", "simulations"),
    ]  # fmt: skip
    rows = []
    for costs in accounts:
        seconds = costs.fixed_seconds, costs.seconds.mean()
        before, each = ((time, time / costs.seconds_per_simulation) for time in seconds)
        numbers = costs.fixed_simulations, *before, costs.evaluations.mean(), *each
        rows.append([costs.method, *map(number, numbers)])
    return headers, rows


class BreakEven(NamedTuple):
    """From how many images on a method is cheaper than another: 0 if from the start, infinite if never.

    ``as_accurate`` says whether it solves as many images.
    """

    images: Interval
    as_accurate: bool

    @property
    def text(self) -> str:
        """The number of images with its interval."""
        value, *ends = ("never" if math.isinf(count) else f"{math.ceil(count):,}" for count in self.images)
        return value if value == "never" else f"{value} ({' to '.join(ends)})"


def _crossing(fixed: float, saved: np.ndarray) -> np.ndarray:
    """Images until the savings on each repay the cost before: fixed / saved, 0 or infinity at the ends."""
    with np.errstate(divide="ignore", invalid="ignore"):
        images = fixed / saved
    return np.where(saved > 0, np.maximum(images, 0.0), 0.0 if fixed < 0 else np.inf)


def break_even(
    first: Account, second: Account, currency: str, solved: tuple[np.ndarray, np.ndarray] | None = None
) -> BreakEven:
    """Number of images from which ``first`` is cheaper, with a paired bootstrap interval of 95 %.

    It is 0 where the first method costs less before the first image and more for each: it is then cheaper
    from the start, although only up to a number of images.

    Args:
        first, second: accounts over the same images.
        currency: one of :data:`CURRENCIES`.
        solved: (N,) bool of both methods, to judge the accuracy; taken as equal if not given.
    """
    saved = second.seconds - first.seconds
    fixed = first.fixed_seconds - second.fixed_seconds
    if currency == "simulations":
        saved = second.evaluations - first.evaluations
        fixed = first.fixed_simulations - second.fixed_simulations
    index = resampled(len(saved))
    value = float(_crossing(fixed, saved.mean(keepdims=True))[0])
    images = Interval.of_draws(value, _crossing(fixed, saved[index].mean(1)))
    if solved is None:
        return BreakEven(images, True)
    behind = solved[1].astype(float) - solved[0].astype(float)
    return BreakEven(images, bool(np.quantile(behind[index].mean(1), 0.975) <= NOT_WORSE))


def break_even_table(results: "DataFrame", accounts: list[Account]) -> Table:
    """From how many images on a method is cheaper than one that needs less before the first image."""
    headers = [
        ("method", ""), ("cheaper than", ""), ("by time from", "images"), ("by simulations from", "images"),
        ("solves as many", ""),
    ]  # fmt: skip
    solved = results.pivot(index="image", columns="method", values="success").fillna(False).astype(bool)
    # A method that failed half-way is not on the same images.
    complete = [costs for costs in accounts if len(costs.seconds) == len(solved)]
    rows = []
    for first, second in permutations(complete, 2):
        if first.fixed_seconds > second.fixed_seconds:
            both = solved[first.method].to_numpy(), solved[second.method].to_numpy()
            by_time, by_simulations = (break_even(first, second, currency, both) for currency in CURRENCIES)
            accurate = "yes" if by_time.as_accurate else "no"
            rows.append([first.method, second.method, by_time.text, by_simulations.text, accurate])
    return headers, rows


def published_text(accounts: list[Account]) -> str:
    """The paper's break-even, recomputed from this run."""
    by_name = {costs.method: costs for costs in accounts}
    return sentences(
        "published",
        before=PUBLISHED["network"][0],
        each=PUBLISHED["simplex"][1],
        network=by_name.get("network"),
        simplex=by_name.get("simplex"),
    )
