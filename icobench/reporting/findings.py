"""What the numbers of comparisons say, in plain sentences.

Throughout, ``table`` is the summary of a run, see :func:`icobench.reporting.tables.summary_table`, and
``results`` has one row per image and method.
"""

import math
from typing import TYPE_CHECKING, Any

from icobench.reporting.ledger import accounts_of, break_even
from icobench.reporting.page import sentences
from icobench.reporting.run_folder import RunFolder
from icobench.reporting.statistics import differences, success_interval
from icobench.reporting.tables import Table, number, summary_table

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["best_fitting_method", "overview", "reading", "training_cost", "verdict"]

MAIN_ORDER = ("counting", "experiment", "voxels", "propagated", "clean")
"""Test sets in the order of their weight: the verdict is about the first of them."""

ALIKE = 1.1
"""Median errors within this factor of the best one are not called worse."""


def best_fitting_method(table: "DataFrame") -> str:
    """The method that simulates and succeeds most often; ties go to the smaller median angle.

    The best of all methods if none simulates.
    """
    fitted = table[(table["evaluations_mean"] > 0) & (table["method"] != "network")]
    ranked = (fitted if len(fitted) else table).sort_values(
        ["success_rate", "disorientation_median_deg"], ascending=[False, True], kind="stable"
    )
    return str(ranked["method"].iloc[0])


def _with_intervals(table: "DataFrame") -> "DataFrame":
    """The summary with the 95 % intervals of the success rates."""
    pairs = zip(table["success_rate"], table["images"], strict=True)
    low, high = zip(*(success_interval(round(rate * images), images) for rate, images in pairs), strict=True)
    return table.assign(success_low=low, success_high=high)


def _rows(table: "DataFrame") -> dict[str, Any]:
    """Rows by method, with the columns as attributes."""
    return {row.method: row for row in table.itertuples(index=False)}


def reading(table: "DataFrame", results: "DataFrame") -> str:
    """One paragraph: which method solves most, at what cost, how near the limit, and what is cheaper."""
    ranked = _with_intervals(table).sort_values("evaluations_mean", kind="stable")
    leaders = list(ranked[ranked["success_rate"] == ranked["success_rate"].max()].itertuples(index=False))
    lead = leaders[0]
    cheaper = ranked[
        (ranked["success_rate"] >= lead.success_low) & (ranked["evaluations_mean"] < lead.evaluations_mean)
    ]
    bounds = results.drop_duplicates("image")[["bound_orientation_deg", "bound_radius_nm"]]
    return sentences(
        "reading",
        images=results["image"].nunique(),
        methods=len(table),
        leaders=leaders,
        bounds=bounds.median().tolist() if bounds["bound_orientation_deg"].notna().any() else None,
        cheaper=next(cheaper.itertuples(index=False), None) if lead.success_rate > 0 else None,
        fastest=next(table.sort_values("seconds_mean", kind="stable").itertuples(index=False)),
    )


def training_cost(card: dict[str, Any] | None, table: "DataFrame") -> str:
    """What the network cost before the first image, as far as its card tells.

    Args:
        card: the network's card, None where no network took part.
        table: see above.
    """
    if card is None:
        return "No network took part."
    untrained = table[(table["evaluations_mean"] > 0) & ~table["method"].str.contains("network")]
    best = _rows(untrained)[best_fitting_method(untrained)] if len(untrained) else None
    seconds, simulations = card.get("training_seconds"), card.get("training_simulations")
    costs = {"parameters": card.get("parameters"), "seconds": seconds, "simulations": simulations}
    words = sentences("training", **costs, untrained=best)
    return words or "The network's card does not say what its training cost."


def _accuracy(table: "DataFrame", name: str) -> list[str]:
    """The best method of a run, and the cheapest one that cannot be told from it by rate and median."""
    best = _rows(table)[best_fitting_method(table)]
    alike = table[
        (table["success_rate"] >= best.success_low)
        & (table["disorientation_median_deg"] <= ALIKE * best.disorientation_median_deg)
    ]
    others = [method for method in alike["method"] if method != best.method]
    cheapest = next(alike.sort_values("seconds_mean", kind="stable").itertuples(index=False))
    return [
        sentences("most_accurate", name=name, best=best, alike=others, margin=100 * ALIKE - 100),
        sentences("cheapest", best=best, row=cheapest),
    ]


def _training(run: RunFolder) -> list[str]:
    """Whether a trained hybrid ever repays its training against the cheapest untrained method."""
    accounts = sorted(accounts_of(run.results, run.run), key=lambda costs: costs.seconds.mean())
    trained = [costs for costs in accounts if "network+" in costs.method]
    untrained = [costs for costs in accounts if "network" not in costs.method]
    if not trained or not untrained:
        return []
    images = break_even(trained[0], untrained[0], "seconds").images.value
    names = {"trained": trained[0].method, "untrained": untrained[0].method}
    return [sentences("training_repaid", **names, images=images if math.isfinite(images) else None)]


def _without_truth(name: str, run: RunFolder) -> str:
    """Which method fits images of unknown truth best, the cheapest of several, and where others agree."""
    compared = differences(run.results).dropna(subset="angle_deg")
    if not len(compared):
        return f"Nothing is known of {name}: no truth, and no method has an objective."
    by_method = compared.groupby("method", sort=False)
    agreeing, cost = by_method["agrees"].sum().to_dict(), by_method["evaluations"].mean()
    lead = min(agreeing, key=lambda method: (-agreeing[method], cost[method]))
    ok = int(run.results[run.results["method"] == lead]["status"].str.startswith("ok").sum())
    images = compared["image"].nunique()
    return sentences("truth_unknown", name=name, images=images, lead=lead, agreeing=agreeing, ok=ok)


def verdict(runs: dict[str, RunFolder]) -> list[str]:
    """At most five lines: the best, the cheapest, the network alone, its training, other test sets.

    Where no truth is known, a line for each run says which method fits best.

    Args:
        runs: by name, as in the folder of the comparison.
    """

    def weight(name: str) -> int:
        test_set = name if name in MAIN_ORDER else name.rsplit("-", 1)[0]  # runs of several seeds end in them
        return MAIN_ORDER.index(test_set) if test_set in MAIN_ORDER else len(MAIN_ORDER)

    tables = {name: summary_table(run.results) for name, run in runs.items() if run.truth_known}
    if not tables:
        return [_without_truth(name, run) for name, run in runs.items()]
    main = min(tables, key=weight)
    run, table = runs[main], _with_intervals(tables.pop(main))
    lines = _accuracy(table, main)
    if network := _rows(table).get("network"):
        bound = run.results.drop_duplicates("image")["bound_orientation_deg"].median()
        lines.append(sentences("network_alone", row=network, bound=bound))
    lines += _training(run)
    best = best_fitting_method(table)
    elsewhere = {name: _rows(other)[best] for name, other in tables.items() if best in set(other["method"])}
    return [*lines, sentences("elsewhere", rows=elsewhere)] if elsewhere else lines


def overview(runs: dict[str, RunFolder]) -> Table:
    """Every method's share of solved images and median errors on every test set."""
    rows = {name: _rows(summary_table(run.results)) for name, run in runs.items()}

    def cell(name: str, method: str) -> str:
        if not runs[name].truth_known:
            return "truth unknown"
        if not (row := rows[name].get(method)):
            return "-"
        errors = f"{number(row.disorientation_median_deg)}, {number(row.radius_median_nm)}"
        return f"{100 * row.success_rate:.1f}, {errors}"

    methods = dict.fromkeys(method for by_method in rows.values() for method in by_method)
    headers = [("method", ""), *((name, "solved %, deg, nm") for name in runs)]
    return headers, [[method, *(cell(name, method) for name in runs)] for method in methods]
