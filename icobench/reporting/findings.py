"""What the numbers of comparisons say, in plain sentences.

Throughout, ``table`` is the summary of a run, see :func:`icobench.reporting.tables.summary_table`, and
``results`` has one row per image and method.
"""

from typing import TYPE_CHECKING, Any

from icobench.network.checkpoint import training_core_seconds
from icobench.reporting.error_bars import LEVELS, QUANTITIES, TRUSTED, coverage
from icobench.reporting.ledger import accounts_of, break_even
from icobench.reporting.page import sentences
from icobench.reporting.run_folder import RunFolder
from icobench.reporting.statistics import (
    SIGNIFICANT,
    as_accurate,
    differences,
    holm,
    rms_over_bound,
    success_interval,
)
from icobench.reporting.tables import Table, number, summary_table

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["best_fitting_method", "overview", "reading", "training_cost", "verdict"]

MAIN_ORDER = ("counting", "experiment", "voxels", "propagated", "paper", "clean")
"""Test sets in the order of their weight: the verdict is about the first of them."""

ENOUGH = 0.9
"""All methods fail on a test set if none solves so large a share of the images."""

BOUNDED = ("disorientation_deg", "bound_orientation_deg"), ("radius_error_nm", "bound_radius_nm")
"""Each error and its Cramer-Rao bound."""


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


def _as_accurate(table: "DataFrame", results: "DataFrame", best: str) -> "DataFrame":
    """The rows of a method and of those that are shown to be as accurate, by tests that Holm corrects."""
    others = [method for method in table["method"] if method != best]
    p = dict(zip(others, holm([as_accurate(results, other, best).p for other in others]), strict=True))
    return table[[method == best or p[method] <= SIGNIFICANT for method in table["method"]]]


def _over_bounds(results: "DataFrame", method: str) -> list[Any] | None:
    """Root mean square errors of a method over those of the bound; None without bound."""
    answers = results[results["method"] == method]
    ratios = [rms_over_bound(answers, *columns) for columns in BOUNDED]
    return ratios if all(ratios) else None


def reading(table: "DataFrame", results: "DataFrame") -> str:
    """One paragraph: which method solves most, at what cost, how near the limit, and what is cheaper."""
    ranked = _with_intervals(table).sort_values("evaluations_mean", kind="stable")
    leaders = list(ranked[ranked["success_rate"] == ranked["success_rate"].max()].itertuples(index=False))
    lead = leaders[0]
    equals = _as_accurate(ranked, results, lead.method)
    cheaper = equals[equals["evaluations_mean"] < lead.evaluations_mean]
    return sentences(
        "reading",
        images=results["image"].nunique(),
        methods=len(table),
        leaders=leaders,
        ratios=_over_bounds(results, lead.method),
        cheaper=next(cheaper.itertuples(index=False), None),
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
    on_gpu, core_hours = str(card.get("device")).startswith("cuda"), training_core_seconds(card) / 3600
    words = sentences("training", **costs, on_gpu=on_gpu, core_hours=core_hours, untrained=best)
    return words or "The network's card does not say what its training cost."


def _failing(tables: dict[str, "DataFrame"]) -> str:
    """Where all methods fail, and how often the best of them succeeds there."""
    best = {name: table.loc[table["success_rate"].idxmax()] for name, table in tables.items()}
    failing = {name: row for name, row in best.items() if row["success_rate"] < ENOUGH}
    return sentences("failing", rows=failing, enough=ENOUGH, sets=len(tables))


def _accuracy(table: "DataFrame", results: "DataFrame", name: str) -> list[str]:
    """The best method of a run, and the cheapest one that is shown to be as accurate."""
    best = _rows(table)[best_fitting_method(table)]
    equals = _as_accurate(table, results, best.method)
    others = [method for method in equals["method"] if method != best.method]
    cheapest = next(equals.sort_values("seconds_mean", kind="stable").itertuples(index=False))
    return [
        sentences("most_accurate", name=name, best=best, equals=others),
        sentences("cheapest", best=best, row=cheapest),
    ]


def _training(run: RunFolder) -> list[str]:
    """Whether a trained hybrid ever repays its training against the cheapest untrained method."""
    accounts = sorted(accounts_of(run.results, run.run), key=lambda costs: costs.seconds.mean())
    trained = [costs for costs in accounts if "network+" in costs.method]
    untrained = [costs for costs in accounts if "network" not in costs.method]
    if not trained or not untrained:
        return []
    names = {"trained": trained[0].method, "untrained": untrained[0].method}
    images = break_even(trained[0], untrained[0], "seconds").text
    return [sentences("training_repaid", **names, images=images)]


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
    """A few lines: where all methods fail, the best, the cheapest, networks alone, training, other test sets.

    Where no truth is known, a line for each run says which method fits best.

    Args:
        runs: by name, as in the folder of the comparison.
    """
    tables = {
        name: _with_intervals(summary_table(run.results)) for name, run in runs.items() if run.truth_known
    }
    if not tables:
        return [_without_truth(name, run) for name, run in runs.items()]
    lines = [_failing(tables)]
    main = min(tables, key=lambda name: (*MAIN_ORDER, name).index(name))
    run, table = runs[main], tables.pop(main)
    lines += _accuracy(table, run.results, main)
    for name in ("network", "paper-network"):
        if network := _rows(table).get(name):
            lines.append(sentences("network_alone", row=network, ratios=_over_bounds(run.results, name)))
    lines += _training(run)
    best = best_fitting_method(table)
    elsewhere = {name: _rows(other)[best] for name, other in tables.items() if best in set(other["method"])}
    return [*lines, sentences("elsewhere", rows=elsewhere)] if elsewhere else lines


def overview(runs: dict[str, RunFolder]) -> Table:
    """Every method on every test set: solved images, errors, honesty of the error bars, abstention."""
    headers = [
        ("test set", ""), ("method", ""), ("images", ""), ("solved", "%, 95 %"),
        ("disorientation", "deg, median"), ("radius error", "nm, median"),
        ("orientation in its 68 % interval", "%"), ("radius in its 68 % interval", "%"), ("abstains", "%"),
    ]  # fmt: skip
    rows = []
    for name, run in runs.items():
        table = _with_intervals(summary_table(run.results))
        for row in table.itertuples(index=False):
            answers = run.results[run.results["method"] == row.method]
            shares = ["truth unknown", *["-"] * 4]
            if run.truth_known:
                told = [coverage(answers, quantity, LEVELS[0]) for quantity in QUANTITIES]
                rates = 100 * row.success_rate, 100 * row.success_low, 100 * row.success_high
                shares = [
                    "{:.1f} ({:.0f} to {:.0f})".format(*rates),
                    number(row.disorientation_median_deg), number(row.radius_median_nm),
                    *(f"{100 * covered / images:.0f}" if images else "-" for images, covered in told),
                ]  # fmt: skip
            abstains = 100 * (1 - answers["status"].isin(TRUSTED).mean())
            rows.append([name, row.method, str(row.images), *shares, f"{abstains:.1f}"])
    return headers, rows
