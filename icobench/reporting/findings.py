"""What the numbers of a comparison say, in plain sentences."""

from typing import TYPE_CHECKING, Any

from icobench.reporting.quantiles import success_interval
from icobench.reporting.tables import number

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["best_fitting_method", "reading", "training_cost"]


def best_fitting_method(table: "DataFrame") -> str:
    """The method that simulates and succeeds most often; ties go to the smaller median angle.

    The best of all methods if none simulates.

    Args:
        table: from :func:`icobench.reporting.tables.summary_table`.
    """
    fitted = table[(table["evaluations_mean"] > 0) & (table["method"] != "network")]
    ranked = (fitted if len(fitted) else table).sort_values(
        ["success_rate", "disorientation_median_deg"], ascending=[False, True], kind="stable"
    )
    return str(ranked["method"].iloc[0])


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _per_cent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction in (0, 1) else f"{100 * fraction:.1f} %"


def _cost(row: "Series") -> str:
    spent = row["evaluations_mean"]
    simulated = {0: "no simulated image", 1: "1 simulated image"}.get(
        spent, f"{number(spent)} simulated images"
    )
    return f"{simulated} and {number(row['seconds_mean'])} s per image"


def _interval(row: "Series") -> str:
    images = int(row["images"])
    low, high = success_interval(round(row["success_rate"] * images), images)
    return f"95 % interval {100 * low:.0f} to {100 * high:.0f} %"


def reading(table: "DataFrame", results: "DataFrame") -> str:
    """One paragraph: who succeeds most often, at what cost, how near the limit, and what is cheaper.

    Args:
        table: from :func:`icobench.reporting.tables.summary_table`.
        results: one row per image and method.
    """
    images, methods = results["image"].nunique(), len(table)
    top = table["success_rate"].max()
    leaders = table[table["success_rate"] == top].sort_values("evaluations_mean", kind="stable")
    lead = leaders.iloc[0]
    text = [
        f"{images} test image{'s' if images != 1 else ''} of known truth, "
        f"{methods} method{'s' if methods != 1 else ''}. "
        "An image counts as solved within 1 degree and 1 nm."
    ]
    if top == 0:
        text.append("No method solved any image.")
    elif len(leaders) == 1 and methods > 1:
        text.append(
            f"{lead['method']} solved most: {_per_cent(top)} of its images ({_interval(lead)}), "
            f"with {_cost(lead)}."
        )
    elif methods == 1:
        text.append(
            f"{lead['method']} solved {_per_cent(top)} of them ({_interval(lead)}), with {_cost(lead)}."
        )
    else:
        text.append(
            f"{_listed(list(leaders['method']))} share the highest success rate, {_per_cent(top)} "
            f"({_interval(lead)}); {lead['method']} simulates least among them, with {_cost(lead)}."
        )
    bounds = results.drop_duplicates("image")
    errors = (
        f"Its median errors are {number(lead['disorientation_median_deg'])} degrees and "
        f"{number(lead['radius_median_nm'])} nm"
    )
    limit = ". Without noise there is no physical limit."
    if bounds["bound_orientation_deg"].notna().any():
        limit = (
            f"; the median Cramér-Rao bound of these images is "
            f"{number(bounds['bound_orientation_deg'].median())} degrees and "
            f"{number(bounds['bound_radius_nm'].median())} nm."
        )
    text.append(errors + limit)
    text += _others(table, lead)
    return " ".join(text)


def _others(table: "DataFrame", lead: "Series") -> list[str]:
    """The cheapest method that the images cannot tell from the leader, and the fastest of all."""
    text = []
    within = (
        table["success_rate"]
        >= success_interval(round(lead["success_rate"] * lead["images"]), int(lead["images"]))[0]
    )
    cheaper = table[within & (table["evaluations_mean"] < lead["evaluations_mean"])]
    named = {lead["method"]}
    if len(cheaper) and lead["success_rate"] > 0:
        row = cheaper.sort_values("evaluations_mean", kind="stable").iloc[0]
        named.add(row["method"])
        text.append(
            f"{row['method']} solved {_per_cent(row['success_rate'])}, within that interval, "
            f"with {_cost(row)}."
        )
    fastest = table.sort_values("seconds_mean", kind="stable").iloc[0]
    if fastest["method"] not in named:
        text.append(
            f"The fastest was {fastest['method']}, with {_cost(fastest)}; "
            f"it solved {_per_cent(fastest['success_rate'])}."
        )
    return text


def _duration(seconds: float) -> str:
    for unit, size in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds)} seconds"


def training_cost(card: dict[str, Any] | None, table: "DataFrame") -> str:
    """What the network cost before the first image, as far as its card tells.

    Args:
        card: the network's card, None where no network took part.
        table: from :func:`icobench.reporting.tables.summary_table`.
    """
    if card is None:
        return "No network took part."
    text = []
    known = {
        name: float(card[name])
        for name in ("parameters", "training_simulations", "training_seconds")
        if isinstance(card.get(name), (int, float)) and not isinstance(card[name], bool)
    }
    if "parameters" in known:
        text.append(f"The network has {known['parameters']:,.0f} parameters.")
    if "training_simulations" in known:
        text.append(f"Its training took {known['training_simulations']:,.0f} simulated images.")
    if "training_seconds" in known:
        text.append(f"Training ran for {_duration(known['training_seconds'])}.")
    alone = table[(table["evaluations_mean"] > 0) & ~table["method"].str.contains("network")]
    if "training_simulations" in known and len(alone):
        name = best_fitting_method(alone)
        spent = float(alone.set_index("method")["evaluations_mean"][name])
        text.append(
            f"As many simulations would fit {number(known['training_simulations'] / spent)} images with "
            f"{name}, which needs no network. None of this is in the table's cost per image."
        )
    return " ".join(text) if text else "The network's card does not say what its training cost."
