"""The ledger: what a method costs before the first image and for each one, and when another gets cheaper."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from icobench.reporting.statistics import Interval, resampled

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "CURRENCIES",
    "PUBLISHED",
    "Account",
    "BreakEven",
    "account",
    "break_even",
    "seconds_per_simulation",
]

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
        method: name.
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

    def fixed(self, currency: str) -> float:
        """Before the first image."""
        return self.fixed_seconds if currency == "seconds" else self.fixed_simulations

    def each(self, currency: str) -> np.ndarray:
        """(N,) of each image."""
        return self.seconds if currency == "seconds" else self.evaluations

    @property
    def fixed_equivalent(self) -> float:
        """Simulations that this machine could make in the fixed seconds."""
        return self.fixed_seconds / self.seconds_per_simulation

    @property
    def each_equivalent(self) -> float:
        """The same for an image, mean."""
        return float(self.seconds.mean()) / self.seconds_per_simulation


def seconds_per_simulation(results: "DataFrame") -> float:
    """Of the machine that made the results: from the method that simulated most, time over evaluations.

    NaN if none simulated.
    """
    sums = results.groupby("method")[["seconds", "evaluations"]].sum()
    most = sums.sort_values("evaluations").iloc[-1]
    return float(most["seconds"] / most["evaluations"]) if most["evaluations"] > 0 else math.nan


def account(method: str, results: "DataFrame", run: dict[str, Any], per_simulation: float) -> Account:
    """What a method cost in a run.

    Args:
        method: its name; whether it needs networks or a dictionary is in the run's card of it.
        results: one row per image and method.
        run: ``run.json``, whose cards of networks and dictionary say what those cost.
        per_simulation: from :func:`seconds_per_simulation`.
    """
    own = results[results["method"] == method].sort_values("image")
    # Runs from before the cards said it have the name alone.
    guessed = {"needs_network": "network" in method, "needs_dictionary": "dictionary" in method}
    card = {**guessed, **((run.get("methods") or {}).get(method) or {})}
    seconds = simulations = 0.0
    searches = [card.get("search")]
    if card.get("needs_network"):
        for network in run.get("networks") or ([run["network"]] if run.get("network") else []):
            seconds += float(network.get("training_seconds") or 0.0)
            simulations += float(network.get("training_simulations") or 0.0)
            searches.append(network.get("search"))
    if card.get("needs_dictionary") and run.get("dictionary"):
        seconds += float(run["dictionary"]["seconds"])
        simulations += float(run["dictionary"]["simulations"])
    for search in filter(None, searches):
        seconds += float(search["seconds"])
        simulations += float(search["simulations"])
    return Account(
        method, seconds, simulations, own["seconds"].to_numpy(dtype=float),
        own["evaluations"].to_numpy(dtype=float), per_simulation,
    )  # fmt: skip


@dataclass(frozen=True)
class BreakEven:
    """From how many images on the first method is cheaper than the second.

    Attributes:
        first, second: names.
        currency: one of :data:`CURRENCIES`.
        images: and its interval; 0 if the first is cheaper from the start, infinite if never.
        as_accurate: whether the first solves as many images.
    """

    first: str
    second: str
    currency: str
    images: Interval
    as_accurate: bool


def _crossing(fixed: float, saved: np.ndarray) -> np.ndarray:
    """Images until savings on each repay what was spent before: fixed / saved, 0 or infinity at the ends."""
    with np.errstate(divide="ignore", invalid="ignore"):
        images = fixed / saved
    return np.where(saved > 0, np.maximum(images, 0.0), 0.0 if fixed < 0 else np.inf)


def break_even(
    first: Account,
    second: Account,
    currency: str,
    solved: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
) -> BreakEven:
    """Number of images from which ``first`` is cheaper, with a paired bootstrap interval of 95 %.

    Where the first costs less before the first image and more for each, it is cheaper up to a number of
    images only; that is not a break-even, and 0 is said.

    Args:
        first, second: accounts over the same images.
        currency: "seconds" or "simulations".
        solved: (N,) bool of both methods, to judge the accuracy; taken as equal if not given.
        seed: of the bootstrap.
    """
    saved = second.each(currency) - first.each(currency)
    fixed = first.fixed(currency) - second.fixed(currency)
    index = resampled(len(saved), seed)
    drawn = np.sort(_crossing(fixed, saved[index].mean(1)))
    last = len(drawn) - 1
    images = Interval(
        float(_crossing(fixed, saved.mean(keepdims=True))[0]),
        float(drawn[round(0.025 * last)]),
        float(drawn[round(0.975 * last)]),
    )
    as_accurate = True
    if solved is not None:
        behind = solved[1].astype(float) - solved[0].astype(float)
        as_accurate = bool(np.quantile(behind[index].mean(1), 0.975) <= NOT_WORSE)
    return BreakEven(first.method, second.method, currency, images, as_accurate)
