"""The ledger: what a method costs before the first image and for each one, and when another gets cheaper."""

import math
from itertools import permutations
from typing import TYPE_CHECKING, Any, NamedTuple

from icobench.network.checkpoint import training_stages
from icobench.reporting.break_even import (
    CURRENCIES,
    EXCHANGE,
    Account,
    break_even,
    break_even_curve,
    complete,
    not_worse,
    time_text,
)
from icobench.reporting.page import sentences
from icobench.reporting.tables import Table, number

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "CURRENCIES", "PUBLISHED", "PUBLISHED_SECONDS", "Account", "account", "accounts_of", "break_even",
    "break_even_curve", "break_even_table", "ledger_notes", "ledger_table", "published_text",
]  # fmt: skip

PUBLISHED = {"network": (31_000.0, 0.0), "simplex": (0.0, 10_000.0)}
"""Simulations before the first image and for each one, as Stielow et al. 2020 count them: 25,058 images
and 4 hours of training, at :data:`PUBLISHED_SECONDS` a simulation."""

PUBLISHED_SECONDS = 2.5


def _with_core_seconds(results: "DataFrame") -> "DataFrame":
    return results if "core_seconds" in results else results.assign(core_seconds=results["seconds"])


def _on_gpu(card: dict[str, Any]) -> bool:
    """Whether a run or a training used a GPU."""
    return str(card.get("device")).startswith("cuda")


def _quickest(results: "DataFrame") -> tuple[str, float]:
    """The method with the least time for each simulation, and that time; NaN if none simulated."""
    sums = results.groupby("method")[["core_seconds", "evaluations"]].sum()
    paces = sums["core_seconds"] / sums["evaluations"].where(sums["evaluations"] > 0)
    return (str(paces.idxmin()), float(paces.min())) if paces.notna().any() else ("", math.nan)


def _blocks(results: "DataFrame") -> "DataFrame":
    """By image, in order: its run and its block, numbered from 0, and how slow the machine was in that block.

    In tables that do not name blocks each image is alone. Slowness is the quickest method's time for a
    simulation over its mean.
    """
    import pandas as pd

    images = results.drop_duplicates("image").set_index("image").sort_index()
    labels = {"run": images.get("run", 0), "block": images.get("block", images.index)}
    table = pd.DataFrame(labels, images.index)
    table["run"] = table["run"].factorize()[0]
    table["block"] = table.groupby(["run", "block"]).ngroup()
    quickest, pace = _quickest(results)
    answers = results[results["method"] == quickest].set_index("image")
    sums = answers[["core_seconds", "evaluations"]].groupby(table["block"]).transform("sum")
    return table.assign(slowness=sums["core_seconds"] / sums["evaluations"] / pace).fillna(1.0)


class _Cost(NamedTuple):
    """Before the first image: seconds, simulations; whether of a GPU, and whether they hold simulations."""

    seconds: float
    simulations: float
    gpu: bool = False
    timed: bool = True


def _dictionary_cost(run: dict[str, Any], own: dict[str, Any] | None = None) -> _Cost:
    """Of the run's dictionary, or of those that a method has of its own."""
    card, machine = own or run.get("dictionary") or {}, run.get("machine") or {}
    # Older cards have the time on the clock.
    seconds = card.get("core_seconds", card.get("seconds", 0.0) * machine.get("threads", 1))
    return _Cost(seconds, card.get("simulations", 0), _on_gpu(card))


def account(method: str, results: "DataFrame", run: dict[str, Any], per_simulation: float) -> Account:
    """What a method cost in a run; ``run`` is the content of ``run.json``.

    The run's card of the method says whether it needs networks or a dictionary, their cards what they cost.
    """
    results = _with_core_seconds(results)
    answers = results[results["method"] == method].sort_values("image")
    # The cards of older runs do not say what a method needs; its name does.
    needs = {"needs_network": "network" in method, "needs_dictionary": "dictionary" in method}
    card = {**needs, **((run.get("methods") or {}).get(method) or {})}
    networks = (run.get("networks") or [run.get("network")]) if card.get("needs_network") else []
    if "networks" in card:  # older runs had the same networks for all methods
        networks = [network for network in networks if network["digest"] in card["networks"]]
    networks = list(filter(None, networks))
    searches = filter(None, (named.get("search") for named in (card, *networks)))
    # Trials of older searches had one thread.
    costs = [_Cost(cost.get("core_seconds", cost["seconds"]), cost["simulations"]) for cost in searches]
    for network in networks:
        costs += [_Cost(*stage) for stage in training_stages(network)]
    if card.get("needs_dictionary"):
        costs.append(_dictionary_cost(run, card.get("dictionary")))
    on_gpu, pace = _on_gpu(run), 0.0 if math.isnan(per_simulation) else per_simulation
    own = [cost for cost in costs if cost.gpu == on_gpu]
    other = (max(0.0, cost.seconds - cost.timed * cost.simulations * pace) for cost in own)
    blocks = _blocks(results).loc[answers["image"]]
    seconds, evaluations = (answers[name].to_numpy(dtype=float) for name in ("core_seconds", "evaluations"))
    return Account(
        method, sum(cost.seconds for cost in own), sum(cost.simulations for cost in costs), seconds,
        evaluations, per_simulation, on_gpu=on_gpu, trained=bool(card.get("needs_network")),
        fixed_other_seconds=sum(other),
        foreign_seconds=sum(cost.seconds for cost in costs if cost.gpu != on_gpu),
        # The machine's pace drifts: a block is judged by the time of a simulation in the same block.
        other_seconds=seconds - evaluations * pace * blocks["slowness"].to_numpy(),
        runs=blocks["run"].to_numpy(), blocks=blocks["block"].to_numpy(),
    )  # fmt: skip


def accounts_of(results: "DataFrame", run: dict[str, Any]) -> list[Account]:
    """The account of every method of a run, in order of appearance."""
    results = _with_core_seconds(results)
    paces = [_quickest(results)[1]]
    if (made := _dictionary_cost(run)).simulations and made.gpu == _on_gpu(run):
        paces.append(made.seconds / made.simulations)
    per_simulation = min(paces, key=lambda pace: math.inf if math.isnan(pace) else pace)
    return [account(str(name), results, run, per_simulation) for name in dict.fromkeys(results["method"])]


def ledger_table(accounts: list[Account]) -> Table:
    """Costs before the first image and for each: simulations, time, and both as simulations."""
    on_gpu = any(costs.on_gpu for costs in accounts)
    unit, other = ("GPU-s", "core-s") if on_gpu else ("core-s", "GPU-s")
    foreign = [("before: other time", other)] if any(costs.foreign_seconds for costs in accounts) else []
    headers = [
        ("method", ""), ("before: simulations", ""), ("before: time", unit), *foreign,
        ("before: all as", "simulations"), ("each: simulations", ""), ("each: time", unit),
        ("each: all as", "simulations"),
    ]  # fmt: skip
    rows = []
    for costs in accounts:
        evaluations, pace = costs.evaluations.mean(), costs.seconds_per_simulation
        before = [costs.fixed_simulations, costs.fixed_seconds]
        before += [costs.foreign_seconds] if foreign else []
        each = evaluations + max(0.0, costs.other_seconds.mean()) / pace
        cells = [*map(number, [*before, costs.fixed_cost(pace) / pace, evaluations])]
        rows.append([costs.method, *cells, time_text(costs), number(each)])
    return headers, rows


def break_even_table(results: "DataFrame", accounts: list[Account]) -> Table:
    """From how many images on a method is cheaper than one that needs less before the first image."""
    headers = [
        ("method", ""), ("cheaper than", ""), ("by time from", "images"), ("by simulations from", "images"),
        ("at least as accurate", ""),
    ]  # fmt: skip
    rows = []
    for first, second in permutations(complete(accounts), 2):
        if first.fixed_cost(first.pace) > second.fixed_cost(second.pace):
            texts = [break_even(first, second, currency).text for currency in CURRENCIES]
            accurate = "yes" if not_worse(results, first.method, second.method) else "not shown"
            rows.append([first.method, second.method, *texts, accurate])
    return headers, rows


def ledger_notes(accounts: list[Account]) -> str:
    """What the ledger's time is, how a GPU's counts, and what is not charged."""
    return sentences(
        "ledger_notes",
        on_gpu=any(costs.on_gpu for costs in accounts),
        foreign=any(costs.foreign_seconds for costs in accounts),
        trained=any(costs.trained for costs in accounts),
        exchange=EXCHANGE,
    )


def published_text(accounts: list[Account]) -> str:
    """The paper's break-even, and the same count for a network here: the paper's if it took part."""
    by_name = {costs.method: costs for costs in accounts}
    network, simplex = by_name.get("paper-network") or by_name.get("network"), by_name.get("simplex")
    measured: dict[str, Any] = {}
    if network and simplex and len(complete([network, simplex])) == 2 and network.pace:
        by_time, by_simulations = (break_even(network, simplex, currency).text for currency in CURRENCIES)
        measured = {
            "method": network.method, "images": network.fixed_simulations, "pace": network.pace,
            "time": network.fixed_cost(0.0) / network.pace, "spent": simplex.evaluations.mean(),
            "by_time": by_time, "by_simulations": by_simulations, "foreign": network.foreign_seconds,
        }  # fmt: skip
    before, each = PUBLISHED["network"][0], PUBLISHED["simplex"][1]
    return sentences("published", before=before, each=each, seconds=PUBLISHED_SECONDS, measured=measured)
