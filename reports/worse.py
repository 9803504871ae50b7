"""What got worse by honest counting: the same results by the rule of before, and by that of now."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from stored import evaluation_rows, stored, value_at

from icobench.network.checkpoint import training_core_seconds
from icobench.reporting.break_even import Account, break_even
from icobench.reporting.findings import best_fitting_method
from icobench.reporting.ledger import accounts_of
from icobench.reporting.statistics import Interval, as_accurate, efficiency, resampled, success_interval
from icobench.reporting.tables import interval_text, number, summary_table

if TYPE_CHECKING:
    from icobench.reporting.run_folder import RunFolder

__all__ = ["Worse", "what_got_worse"]

BOUNDED = {
    "orientation": ("disorientation_deg", "bound_orientation_deg"),
    "radius": ("radius_error_nm", "bound_radius_nm"),
}
FORMER_MARGIN = 1.1
"""Medians within this factor used to be called as accurate."""


class Worse(NamedTuple):
    """A number by the former rule and by today's, and why it changed."""

    what: str
    before: str
    now: str
    why: str


def _accuracy() -> Iterator[Worse]:
    clean, paper, published = (
        100 * evaluation_rows(folder, test_set).get("appendix_c_mean", []).median()
        if len(evaluation_rows(folder, test_set))
        else None
        for folder, test_set in (
            ("evaluation", "clean"),
            ("evaluation_paper/network", "paper"),
            ("paper_network/full", "paper"),
        )
    )
    if clean and paper:
        yield Worse(
            "mean error of figure 4a, `compact`",
            f"{number(clean)} %",
            f"{number(paper)} %",
            "judged on noise-free images; the paper's have 8 bits and a background",
        )
    if clean and published:
        yield Worse(
            "mean error of figure 4a, the paper's network",
            f"{number(clean)} %",
            f"{number(published)} %",
            "another network's error stood for it; the published network is trained now",
        )


def _bounds(made: dict[str, Any]) -> Iterator[Worse]:
    counting = evaluation_rows("evaluation", "counting")
    for name, (error, bound) in BOUNDED.items() if len(counting) else ():
        medians = counting[error].median() / counting[bound].median()
        squares = (counting[error].pow(2).mean() / counting[bound].pow(2).mean()) ** 0.5
        if squares > medians:
            yield Worse(
                f"the network's error over the photon limit, {name}, 1e5 photons",
                number(medians),
                number(squares),
                "median over median; an efficient fit scores 0.77 by it, not 1",
            )
    results = value_at(made, "photon_numbers", "results") or {}
    if results:
        most = max(results, key=float)
        yield Worse(
            f"the network's error over the photon limit, radius, {float(most):,.0f} photons",
            "in no table",
            number(results[most]["radius_error_nm_over_bound_rms"]),
            "only 1e5 photons were shown",
        )


def _by_images(first: Account, second: Account) -> Interval:
    """Break-even as it was: every image's time taken as independent."""
    saved = second.seconds - first.seconds
    fixed = first.fixed_cost(first.pace) - second.fixed_cost(second.pace)
    draws = sorted(
        (fixed / mean if mean > 0 else float("inf")) for mean in saved[resampled(len(saved))].mean(1)
    )
    value = fixed / saved.mean() if saved.mean() > 0 else float("inf")
    return Interval(value, draws[round(0.025 * (len(draws) - 1))], draws[round(0.975 * (len(draws) - 1))])


def _costs(runs: "dict[str, RunFolder]", made: dict[str, Any]) -> Iterator[Worse]:
    for card in stored("evaluation/evaluation.json").get("networks", []):
        cores = training_core_seconds(card)
        if cores > card["training_seconds"]:
            yield Worse(
                f"training of `{card['architecture']}` for {card['recipe']['images']} images",
                f"{number(card['training_seconds'])} s",
                f"{number(cores)} core-s",
                "time on the clock of two cores",
            )
    simplex = value_at(made, "figure4b", "methods", "simplex", "simulations")
    for name in ("network", "paper-network"):
        row = value_at(made, "figure4b", "methods", name)
        if simplex and row:
            yield Worse(
                f"images to break-even, {name} against the simplex",
                number(row["simulated_before"] / simplex),
                f"{number(row['before']['paper'] / simplex)} at 2.5 s a simulation, "
                f"{number(row['before']['here'] / simplex)} at the time of one here",
                "the paper counts the time of training as simulations; this was left out",
            )
    if run := runs.get("counting"):
        accounts = {costs.method: costs for costs in accounts_of(run.results, run.run)}
        if {"network+lm", "dictionary+lm"} <= set(accounts):
            first, second = accounts["network+lm"], accounts["dictionary+lm"]
            yield Worse(
                "images to break-even, network+lm against dictionary+lm, by time, counting",
                interval_text(_by_images(first, second)),
                break_even(first, second, "seconds").text,
                "images of a block share a time and runs differ: blocks and runs are resampled now",
            )


def _times() -> Iterator[Worse]:
    for name in ("one_image_ms", "log_one_image_ms"):
        rounds = value_at(stored("evaluation/evaluation.json"), "speed", name)
        if isinstance(rounds, dict):
            yield Worse(
                f"one {'log image' if name.startswith('log') else 'image of counts'} with the networks",
                f"{number(rounds['low'])} ms",
                f"{number(rounds['median'])} ms",
                "the best round, not the median",
            )


def _comparison(runs: "dict[str, RunFolder]", made: dict[str, Any]) -> Iterator[Worse]:
    for name, run in runs.items():
        table = summary_table(run.results)
        best = table.loc[table["success_rate"].idxmax()]
        if best["success_rate"] < 0.9:
            yield Worse(
                f"most images solved on {name}",
                "not in the comparison",
                f"{100 * best['success_rate']:.1f} % ({best['method']})",
                "the hard test sets were left out",
            )
    if run := runs.get("counting"):
        table = summary_table(run.results)
        best = table.set_index("method").loc[best_fitting_method(table)]
        least = success_interval(round(best["success_rate"] * best["images"]), best["images"])[0]
        limit = FORMER_MARGIN * best["disorientation_median_deg"]
        others = table[table["method"] != best.name]
        former = others[(others["success_rate"] >= least) & (others["disorientation_median_deg"] <= limit)][
            "method"
        ]
        shown = [
            method for method in others["method"] if as_accurate(run.results, method, str(best.name)).shown
        ]
        yield Worse(
            f"called as accurate as {best.name} on counting",
            ", ".join(former) or "none",
            ", ".join(shown) or "none",
            "overlap of intervals and medians; equivalence within 10 % is tested now, and can fail",
        )
        fits = run.results[run.results["method"] == "dictionary+lm"]
        if len(fits) and run.seeds > 1:
            first, pooled = (
                efficiency(rows, "disorientation_deg", "bound_orientation_deg")
                for rows in (fits[fits["seed"] == fits["seed"].min()], fits)
            )
            if first and pooled:
                yield Worse(
                    "efficiency of dictionary+lm, orientation, counting",
                    interval_text(first),
                    interval_text(pooled),
                    f"one set of images; {run.seeds} of other bodies are pooled now",
                )
    for row in value_at(made, "figure4b", "ratios") or []:
        if row["error"] == "appendix_c_mean" and not row["same"]:
            yield Worse(
                f"mean error of {row['first']} over the simplex's, {row['test_set']} images",
                "the same level",
                interval_text(Interval(**row["median"])),
                "read off overlapping bands; tested on paired images now",
            )


def what_got_worse(runs: "dict[str, RunFolder]", made: dict[str, Any]) -> list[Worse]:
    """All of it that stored results allow.

    Args:
        runs: of the comparison, by test set.
        made: the JSON files beside the figures, by name.
    """
    return [*_accuracy(), *_bounds(made), *_costs(runs, made), *_times(), *_comparison(runs, made)]
