"""What the numbers of comparisons say, in plain sentences.

Throughout, ``table`` is the summary of a run, see :func:`icobench.reporting.tables.summary_table`, and
``results`` has one row per image and method.
"""

import math
from typing import TYPE_CHECKING, Any

from icobench.reporting.agreement import differences
from icobench.reporting.ledger import accounts_of, break_even
from icobench.reporting.run_folder import RunFolder
from icobench.reporting.statistics import success_interval
from icobench.reporting.tables import Table, number, summary_table

if TYPE_CHECKING:
    from pandas import DataFrame, Series

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


def _success_interval(row: "Series") -> tuple[float, float]:
    images = int(row["images"])
    return success_interval(round(row["success_rate"] * images), images)


def _medians(row: "Series") -> str:
    """Median errors of a method."""
    return f"{number(row['disorientation_median_deg'])} degrees and {number(row['radius_median_nm'])} nm"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _per_cent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction in (0, 1) else f"{100 * fraction:.1f} %"


def _cost(row: "Series") -> str:
    spent = row["evaluations_mean"]
    amount = {0: "no simulated image", 1: "1 simulated image"}.get(spent, f"{number(spent)} simulated images")
    return f"{amount} and {number(row['seconds_mean'])} s per image"


def reading(table: "DataFrame", results: "DataFrame") -> str:
    """One paragraph: who succeeds most often, at what cost, how near the limit, and what is cheaper."""
    images, methods = results["image"].nunique(), len(table)
    top = table["success_rate"].max()
    leaders = table[table["success_rate"] == top].sort_values("evaluations_mean", kind="stable")
    lead = leaders.iloc[0]
    low, high = _success_interval(lead)
    interval = f"95 % interval {100 * low:.0f} to {100 * high:.0f} %"
    sentences = [
        f"{images} test image{'s' if images != 1 else ''} of known truth, "
        f"{methods} method{'s' if methods != 1 else ''}. "
        "An image counts as solved within 1 degree and 1 nm."
    ]
    if top == 0:
        sentences.append("No method solved any image.")
    elif len(leaders) > 1:
        sentences.append(
            f"{_listed(list(leaders['method']))} share the highest success rate, {_per_cent(top)} "
            f"({interval}); {lead['method']} simulates least among them, with {_cost(lead)}."
        )
    elif methods > 1:
        sentences.append(
            f"{lead['method']} solved most: {_per_cent(top)} of its images ({interval}), with {_cost(lead)}."
        )
    else:
        sentences.append(
            f"{lead['method']} solved {_per_cent(top)} of them ({interval}), with {_cost(lead)}."
        )
    limit = ". Without noise there is no physical limit."
    bounds = results.drop_duplicates("image")
    if bounds["bound_orientation_deg"].notna().any():
        angle, radius = (
            number(bounds[f"bound_{name}"].median()) for name in ("orientation_deg", "radius_nm")
        )
        limit = f"; the median Cramér-Rao bound of these images is {angle} degrees and {radius} nm."
    sentences.append(f"Its median errors are {_medians(lead)}{limit}")
    cheaper = table[(table["success_rate"] >= low) & (table["evaluations_mean"] < lead["evaluations_mean"])]
    named = {lead["method"]}
    if len(cheaper) and top > 0:
        row = cheaper.sort_values("evaluations_mean", kind="stable").iloc[0]
        named.add(row["method"])
        rate = _per_cent(row["success_rate"])
        sentences.append(f"{row['method']} solved {rate}, within that interval, with {_cost(row)}.")
    fastest = table.sort_values("seconds_mean", kind="stable").iloc[0]
    if fastest["method"] not in named:
        sentences.append(
            f"The fastest was {fastest['method']}, with {_cost(fastest)}; "
            f"it solved {_per_cent(fastest['success_rate'])}."
        )
    return " ".join(sentences)


def _duration(seconds: float) -> str:
    for unit, size in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds)} seconds"


def training_cost(card: dict[str, Any] | None, table: "DataFrame") -> str:
    """What the network cost before the first image, as far as its card tells.

    Args:
        card: the network's card, None where no network took part.
        table: see above.
    """
    if card is None:
        return "No network took part."
    parameters, simulations, seconds = (
        float(card[name]) if isinstance(card.get(name), int | float) else None
        for name in ("parameters", "training_simulations", "training_seconds")
    )
    sentences = []
    if parameters is not None:
        sentences.append(f"The network has {parameters:,.0f} parameters.")
    if simulations is not None:
        sentences.append(f"Its training took {simulations:,.0f} simulated images.")
    if seconds is not None:
        sentences.append(f"Training ran for {_duration(seconds)}.")
    untrained = table[(table["evaluations_mean"] > 0) & ~table["method"].str.contains("network")]
    if simulations is not None and len(untrained):
        name = best_fitting_method(untrained)
        spent = float(untrained.set_index("method")["evaluations_mean"][name])
        sentences.append(
            f"As many simulations would fit {number(simulations / spent)} images with "
            f"{name}, which needs no network. None of this is in the table's cost per image."
        )
    return " ".join(sentences) or "The network's card does not say what its training cost."


def _solved(row: "Series") -> str:
    low, high = _success_interval(row)
    rate, images = 100 * row["success_rate"], int(row["images"])
    return f"{rate:.1f} % of {images} images ({100 * low:.0f} to {100 * high:.0f})"


def _accuracy(table: "DataFrame", name: str) -> list[str]:
    """The best method of a run, and the cheapest one that cannot be told from it by rate and median."""
    best = best_fitting_method(table)
    rows = table.set_index("method")
    row = rows.loc[best]
    alike = rows[
        (rows["success_rate"] >= _success_interval(row)[0])
        & (rows["disorientation_median_deg"] <= ALIKE * row["disorientation_median_deg"])
    ]
    others = ", ".join(method for method in alike.index if method != best)
    beside = f"; as accurate, medians within {100 * ALIKE - 100:.0f} %: {others}" if others else ""
    lines = [
        f"Most accurate on {name}: {best} solves {_solved(row)} within 1 degree and 1 nm, median errors "
        f"{_medians(row)}, for {number(row['evaluations_mean'])} simulations and "
        f"{number(row['seconds_mean'])} s an image{beside}."
    ]
    cheapest = alike.sort_values("seconds_mean", kind="stable").iloc[0]
    if cheapest.name == best:
        return [*lines, f"Nothing cheaper is as accurate as {best}."]
    return [
        *lines,
        f"Cheapest with the same accuracy: {cheapest.name}, {number(cheapest['evaluations_mean'])} "
        f"simulations and {number(cheapest['seconds_mean'])} s an image, {_solved(cheapest)} solved.",
    ]


def _network(run: RunFolder, table: "DataFrame") -> list[str]:
    rows = table.set_index("method")
    if "network" not in rows.index:
        return []
    row = rows.loc["network"]
    angle = row["disorientation_median_deg"]
    bound = run.results.drop_duplicates("image")["bound_orientation_deg"].median()
    beside = f", {number(angle / bound)} times the photon limit" if bound > 0 else ""
    return [
        f"The network alone needs no simulation and {number(1e3 * row['seconds_mean'])} ms an image: median "
        f"{number(angle)} degrees{beside}, {_solved(row)} solved."
    ]


def _training(run: RunFolder) -> list[str]:
    """Whether a trained hybrid ever repays its training against the cheapest untrained method."""
    accounts = sorted(accounts_of(run.results, run.run), key=lambda costs: costs.seconds.mean())
    trained = [costs for costs in accounts if "network+" in costs.method]
    untrained = [costs for costs in accounts if "network" not in costs.method]
    if not trained or not untrained:
        return []
    images = break_even(trained[0], untrained[0], "seconds").images.value
    repaid = f"after {images:,.0f} images by time."
    if math.isinf(images):
        repaid = "never by time: the method without a network is as fast for each image."
    return [f"Training is repaid, {trained[0].method} against {untrained[0].method}, {repaid}"]


def _elsewhere(tables: dict[str, "DataFrame"], main: str) -> list[str]:
    """What the best method's error becomes on the other test sets."""
    best = best_fitting_method(tables[main])
    others = {name: table.set_index("method") for name, table in tables.items() if name != main}
    parts = [f"{name} {_medians(rows.loc[best])}" for name, rows in others.items() if best in rows.index]
    return [f"The same method elsewhere, median errors: {'; '.join(parts)}."] if parts else []


def _without_truth(name: str, run: RunFolder) -> str:
    """Which method fits images of unknown truth best, the cheapest of several, and where others agree."""
    compared = differences(run.results).dropna(subset="angle_deg")
    if not len(compared):
        return f"Nothing is known of {name}: no truth, and no method has an objective."
    images = compared["image"].nunique()
    by_method = compared.groupby("method", sort=False)
    agreeing, cost = by_method["agrees"].sum(), by_method["evaluations"].mean()
    lead = min(agreeing.index, key=lambda method: (-agreeing[method], cost[method]))
    others = [f"{method} on {count}" for method, count in agreeing.items() if method != lead]
    beside = f", {', '.join(others)}" if others else ""
    fine = int(run.results[run.results["method"] == lead]["status"].str.startswith("ok").sum())
    return (
        f"The truth of {name} is not known. {lead} has the answer with the lowest objective, within 1 degree "
        f"and 1 nm, on {agreeing[lead]} of {images} images{beside}; it calls {fine} of its fits ok."
    )


def verdict(runs: dict[str, RunFolder]) -> list[str]:
    """At most five lines: the best, the cheapest, the network alone, its training, other test sets.

    Where no truth is known, a line for each run says which method fits best.

    Args:
        runs: by name, as in the folder of the comparison.
    """

    def weight(name: str) -> int:
        test_set = name if name in MAIN_ORDER else name.rsplit("-", 1)[0]  # runs of several seeds end in them
        return MAIN_ORDER.index(test_set) if test_set in MAIN_ORDER else len(MAIN_ORDER)

    truth = {name: run for name, run in runs.items() if run.truth_known}
    if not truth:
        return [_without_truth(name, run) for name, run in runs.items()]
    main = min(truth, key=weight)
    tables = {name: summary_table(run.results) for name, run in truth.items()}
    return [
        *_accuracy(tables[main], main), *_network(truth[main], tables[main]), *_training(truth[main]),
        *_elsewhere(tables, main),
    ]  # fmt: skip


def overview(runs: dict[str, RunFolder]) -> Table:
    """Every method's share of solved images and median errors on every test set."""
    tables = {name: summary_table(run.results).set_index("method") for name, run in runs.items()}

    def cell(name: str, method: str) -> str:
        if not runs[name].truth_known:
            return "truth unknown"
        if method not in tables[name].index:
            return "-"
        row = tables[name].loc[method]
        errors = number(row["disorientation_median_deg"]), number(row["radius_median_nm"])
        return ", ".join((f"{100 * row['success_rate']:.1f}", *errors))

    methods = dict.fromkeys(method for table in tables.values() for method in table.index)
    headers = [("method", ""), *((name, "solved %, deg, nm") for name in runs)]
    return headers, [[str(method), *(cell(name, method) for name in runs)] for method in methods]
