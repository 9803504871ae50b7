"""What accuracy costs: the ledger, break-even points, paired tests and efficiency of one run, as tables."""

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from icobench.reporting.intervals import interval_text
from icobench.reporting.ledger import (
    CURRENCIES,
    PUBLISHED,
    Account,
    BreakEven,
    account,
    break_even,
    seconds_per_simulation,
)
from icobench.reporting.running_time import expected_running_time, first_hits
from icobench.reporting.statistics import Interval, efficiency, paired_tests
from icobench.reporting.tables import number

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "Table",
    "accounts_of",
    "break_even_table",
    "break_evens",
    "efficiency_table",
    "ledger_table",
    "paired_table",
    "published_text",
    "running_time_table",
]  # fmt: skip

SHOWN_TARGETS = ((3.0, 3.0), (1.0, 1.0), (0.3, 0.3), (0.1, 0.1))

Table = tuple[list[tuple[str, str]], list[list[str]]]
"""Headers with units, and rows of text."""


def accounts_of(results: "DataFrame", run: dict[str, Any]) -> list[Account]:
    """The account of every method of a run, in order of appearance."""
    per_simulation = seconds_per_simulation(results)
    methods = dict.fromkeys(results["method"])
    return [account(str(method), results, run, per_simulation) for method in methods]


def ledger_table(accounts: list[Account]) -> Table:
    """Costs before the first image and for each, in simulations, seconds, and seconds as simulations."""
    headers = [
        ("method", ""), ("before: simulations", ""), ("before: time", "s"), ("that time", "simulations"),
        ("each: simulations", ""), ("each: time", "s"), ("that time", "simulations"),
    ]  # fmt: skip
    rows = []
    for one in accounts:
        values = (
            one.fixed_simulations, one.fixed_seconds, one.fixed_equivalent, float(one.evaluations.mean()),
            float(one.seconds.mean()), one.each_equivalent,
        )  # fmt: skip
        rows.append([one.method, *map(number, values)])
    return headers, rows


def break_evens(results: "DataFrame", accounts: list[Account], seed: int = 0) -> list[BreakEven]:
    """Of every method that needs something before the first image against each that needs less, both ways."""
    solved = results.pivot(index="image", columns="method", values="success").fillna(False).astype(bool)
    found = []
    for first in accounts:
        for second in accounts:
            if first.fixed_seconds <= second.fixed_seconds:
                continue
            pair = solved[first.method].to_numpy(), solved[second.method].to_numpy()
            if not len(first.seconds) == len(second.seconds) == len(solved):
                continue  # a method that failed half-way is not on the same images
            found += [break_even(first, second, currency, pair, seed) for currency in CURRENCIES]
    return found


def _images(one: BreakEven) -> str:
    if math.isinf(one.images.value):
        return "never"
    ends = ("never" if math.isinf(end) else f"{math.ceil(end):,}" for end in one.images[1:])
    return f"{math.ceil(one.images.value):,} ({' to '.join(ends)})"


def break_even_table(found: list[BreakEven]) -> Table:
    """From how many images on the first method is cheaper, by either currency."""
    headers = [
        ("method", ""), ("cheaper than", ""), ("by time from", "images"), ("by simulations from", "images"),
        ("solves as many", ""),
    ]  # fmt: skip
    rows = []
    for by_time, by_simulations in zip(found[::2], found[1::2], strict=True):
        rows.append(
            [
                by_time.first, by_time.second, _images(by_time), _images(by_simulations),
                "yes" if by_time.as_accurate else "no",
            ]
        )  # fmt: skip
    return headers, rows


def published_text(accounts: list[Account]) -> str:
    """The paper's break-even, recomputed from this run."""
    known = {one.method: one for one in accounts}
    before, _ = PUBLISHED["network"]
    _, each = PUBLISHED["simplex"]
    text = [
        f"The paper counts {before:,.0f} simulations for the network before the first image and {each:,.0f} "
        f"for each image of the simplex: break-even at {before / each:.1f} images."
    ]
    if {"network", "simplex"} <= set(known):
        ours, spent = known["network"].fixed_simulations, float(known["simplex"].evaluations.mean())
        text.append(
            f"Measured here: {ours:,.0f} and {spent:,.0f}, break-even at {ours / spent:.1f} images by "
            f"simulations and {known['network'].fixed_seconds / known['simplex'].seconds.mean():.0f} by time."
        )
    return " ".join(text)


def paired_table(results: "DataFrame", seed: int = 0) -> Table:
    """Neighbours in the order of their median errors, tested against each other."""
    headers = [
        ("method", ""), ("against", ""), ("images", ""), ("error ratio", "median, 95 %"), ("p", "Holm"),
    ]  # fmt: skip
    medians = results.assign(error=results["disorientation_deg"].fillna(np.inf))
    order = medians.groupby("method", sort=False)["error"].median().sort_values(kind="stable").index
    found = paired_tests(results, list(pairwise(order)), "disorientation_deg", seed)
    rows = [
        [
            row.first, row.second, str(row.images),
            interval_text(Interval(row.ratio, row.ratio_low, row.ratio_high)),
            f"{row.p_holm:.2g}",
        ]
        for row in found.itertuples()
    ]  # fmt: skip
    return headers, rows


def running_time_table(results: "DataFrame", curves: "DataFrame") -> Table:
    """Expected simulations to a target if a method is repeated until one run meets it."""
    headers = [("method", ""), *((f"{angle:g} deg, {radius:g} nm", "") for angle, radius in SHOWN_TARGETS)]
    rows = []
    for method in dict.fromkeys(results["method"]):
        hits, total = first_hits(curves, results, method, SHOWN_TARGETS)
        rows.append([str(method), *map(number, expected_running_time(hits, total))])
    return headers, rows


def efficiency_table(results: "DataFrame", seed: int = 0) -> Table:
    """How much of what the photons tell a method uses; empty without a bound."""
    headers = [("method", ""), ("orientation", "95 %"), ("radius", "95 %")]
    found = efficiency(results, seed)
    rows = []
    for method, own in found.groupby("method", sort=False):
        cells = {
            row.quantity: interval_text(Interval(row.efficiency, row.low, row.high))
            for row in own.itertuples()
        }
        rows.append([str(method), cells.get("orientation", "-"), cells.get("radius", "-")])
    return headers, rows
