"""The verdict of several runs: a few lines of plain words, made from the numbers."""

from typing import TYPE_CHECKING

from icobench.reporting.agreement import differences
from icobench.reporting.economy import accounts_of
from icobench.reporting.findings import best_fitting_method
from icobench.reporting.ledger import Account, break_even
from icobench.reporting.quantiles import success_interval
from icobench.reporting.run_folder import RunFolder
from icobench.reporting.tables import number, summary_table

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["overview", "verdict"]

NOISE_ORDER = ("counting", "experiment", "voxels", "propagated", "clean")
"""Which test set speaks for the methods first."""

ALIKE = 1.1
"""Median errors within this factor of the best one are not called worse."""


def _main(runs: dict[str, RunFolder]) -> str:
    """The run that the verdict is about: photon noise if there is one."""

    def place(name: str) -> int:
        kind = name.rsplit("-", 1)[0] if name not in NOISE_ORDER else name
        return NOISE_ORDER.index(kind) if kind in NOISE_ORDER else len(NOISE_ORDER)

    return min(runs, key=place)


def _solved(row: "Series") -> str:
    images = int(row["images"])
    low, high = success_interval(round(row["success_rate"] * images), images)
    return f"{100 * row['success_rate']:.1f} % of {images} images ({100 * low:.0f} to {100 * high:.0f})"


def _alike(table: "DataFrame", best: str) -> "DataFrame":
    """The methods that cannot be told from the best one by their rate and median, itself included."""
    rows = table.set_index("method")
    images = int(rows.loc[best, "images"])
    low, _ = success_interval(round(rows.loc[best, "success_rate"] * images), images)
    return rows[
        (rows["success_rate"] >= low)
        & (rows["disorientation_median_deg"] <= ALIKE * rows.loc[best, "disorientation_median_deg"])
    ]


def _best(table: "DataFrame", name: str) -> str:
    best = best_fitting_method(table)
    alike = _alike(table, best)
    row = alike.loc[best]
    others = [method for method in alike.index if method != best]
    beside = f"; as accurate, medians within {100 * ALIKE - 100:.0f} %: {', '.join(others)}" if others else ""
    return (
        f"Most accurate on {name}: {best} solves {_solved(row)} within 1 degree and 1 nm, median errors "
        f"{number(row['disorientation_median_deg'])} degrees and {number(row['radius_median_nm'])} nm, for "
        f"{number(row['evaluations_mean'])} simulations and {number(row['seconds_mean'])} s an image{beside}."
    )


def _cheapest(table: "DataFrame") -> str | None:
    """The cheapest method within the best one's interval, where that is another."""
    best = best_fitting_method(table)
    row = _alike(table, best).sort_values("seconds_mean", kind="stable").iloc[0]
    if row.name == best:
        return f"Nothing cheaper is as accurate as {best}."
    return (
        f"Cheapest with the same accuracy: {row.name}, {number(row['evaluations_mean'])} simulations and "
        f"{number(row['seconds_mean'])} s an image, {_solved(row)} solved."
    )


def _network(run: RunFolder, table: "DataFrame") -> str | None:
    rows = table.set_index("method")
    if "network" not in rows.index:
        return None
    row = rows.loc["network"]
    bound = run.results.drop_duplicates("image")["bound_orientation_deg"].median()
    beside = (
        f", {number(row['disorientation_median_deg'] / bound)} times the photon limit" if bound > 0 else ""
    )
    return (
        f"The network alone needs no simulation and {number(1e3 * row['seconds_mean'])} ms an image: median "
        f"{number(row['disorientation_median_deg'])} degrees{beside}, {_solved(row)} solved."
    )


def _training(accounts: dict[str, Account]) -> str | None:
    """Whether a trained hybrid ever repays its training against the cheapest untrained method."""
    trained = [one for name, one in accounts.items() if "network+" in name]
    free = [one for name, one in accounts.items() if "network" not in name]
    if not trained or not free:
        return None
    first = min(trained, key=lambda one: one.seconds.mean())
    second = min(free, key=lambda one: one.seconds.mean())
    found = break_even(first, second, "seconds").images
    text = f"Training is repaid, {first.method} against {second.method}, "
    if found.value == float("inf"):
        return text + "never by time: the method without a network is as fast for each image."
    return text + f"after {found.value:,.0f} images by time."


def _ladder(runs: dict[str, RunFolder], main: str) -> str | None:
    """What the best method's error becomes on the other test sets."""
    best = best_fitting_method(summary_table(runs[main].results))
    parts = []
    for name, run in runs.items():
        if not run.truth_known:
            continue
        rows = summary_table(run.results).set_index("method")
        if name != main and best in rows.index:
            row = rows.loc[best]
            parts.append(
                f"{name} {number(row['disorientation_median_deg'])} degrees and "
                f"{number(row['radius_median_nm'])} nm"
            )
    return f"The same method elsewhere, median errors: {'; '.join(parts)}." if parts else None


def _unknown(name: str, run: RunFolder) -> str:
    """Which method fits images of unknown truth best, the cheapest of several, and where others agree."""
    found = differences(run.results).dropna(subset="angle_deg")
    if not len(found):
        return f"Nothing is known of {name}: no truth, and no method has an objective."
    images = found["image"].nunique()
    share = ((found["angle_deg"] < 1) & (found["size_nm"] < 1)).groupby(found["method"], sort=False).sum()
    cost = found.groupby("method", sort=False)["evaluations"].mean()
    lead = min(share.index, key=lambda method: (-share[method], cost[method]))
    others = [f"{method} on {count}" for method, count in share.items() if method != lead]
    beside = f", {', '.join(others)}" if others else ""
    fine = int(run.results[run.results["method"] == lead]["status"].str.startswith("ok").sum())
    return (
        f"The truth of {name} is not known. {lead} has the answer with the lowest objective, within 1 degree "
        f"and 1 nm, on {share[lead]} of {images} images{beside}; it calls {fine} of its fits ok."
    )


def verdict(runs: dict[str, RunFolder]) -> list[str]:
    """At most five lines: the best, the cheapest, the network alone, its training, other test sets.

    Where no truth is known, a line for each run says which method fits best.

    Args:
        runs: by name, as the campaign's folder has them.
    """
    if not any(run.truth_known for run in runs.values()):
        return [_unknown(name, run) for name, run in runs.items()]
    runs = {name: run for name, run in runs.items() if run.truth_known}
    main = _main(runs)
    table = summary_table(runs[main].results)
    accounts = {one.method: one for one in accounts_of(runs[main].results, runs[main].run)}
    lines = [_best(table, main), _cheapest(table), _network(runs[main], table), _training(accounts)]
    return [line for line in (*lines, _ladder(runs, main)) if line]


def overview(runs: dict[str, RunFolder]) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Headers and rows: every method's share of solved images and median errors on every test set."""
    headers = [("method", "")] + [(name, "solved %, deg, nm") for name in runs]
    tables = {name: summary_table(run.results).set_index("method") for name, run in runs.items()}
    methods = dict.fromkeys(method for table in tables.values() for method in table.index)
    rows = []
    for method in methods:
        cells = [str(method)]
        for name, table in tables.items():
            if not runs[name].truth_known:
                cells.append("truth unknown")
                continue
            if method not in table.index:
                cells.append("-")
                continue
            row = table.loc[method]
            cells.append(
                f"{100 * row['success_rate']:.1f}, {number(row['disorientation_median_deg'])}, "
                f"{number(row['radius_median_nm'])}"
            )
        rows.append(cells)
    return headers, rows
