"""Error against calculated images, as figure 4b of Stielow et al. 2020, and the claim that they draw from it.

    python reports/figure4b.py [--run reports/laptop] [--sweep reports/sweep_dataset]
        [--parts reports/paper_network] [--out reports/figure4b.svg]

All on the test set `paper`. A fit is drawn where one image has cost it so many simulations: the simplex as
its best vertex so far, the others at their end. What is spent before the first image is added in simulations,
as the paper does: the images of the training set, and the time of training over the time of one simulation,
at the paper's 2.5 s in the first panel and at that of `exact` on the machine that trained in the second. The
third panel tests whether "both methods eventually achieve the same level of accuracy". A `.json` beside the
figure holds the numbers.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from icobench.reporting.break_even import Account
from icobench.reporting.figures import decade_labels, empty_figure, legend_below, styled, svg
from icobench.reporting.ledger import PUBLISHED, PUBLISHED_SECONDS, accounts_of
from icobench.reporting.page import write_file
from icobench.reporting.run_folder import RunFolder, read_runs
from icobench.reporting.statistics import MARGIN, equivalence, error_quantile, paired_test
from icobench.reporting.sweeps import read_described, read_points
from icobench.storage import write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent

ERROR = "appendix_c_mean"
ERRORS = {"disorientation_deg": "disorientation", "radius_error_nm": "radius", ERROR: "mean error"}
COURSE_STEPS = 60

WITH_VALIDATION = 25_058 / 20_046
"""Images of the paper's set over those trained on: the rest validates, and the paper counts it."""

PAIRS = (("network", "simplex"), ("paper-network", "simplex"))
TESTED_ON = ("paper", "clean")

LOOKS = {
    "simplex-race": ("P", 5), "dictionary+lm": ("v", 2), "network+simplex": ("D", 9), "network+lm": ("^", 4),
    "paper-network+lm": ("s", 6), "network": ("o", 0),
}  # fmt: skip
"""Marker and place in the palette of the methods that are drawn as points."""

NAMED = {"network": "network (compact, as shipped)"}

PARTS_COLOUR, SWEEP_COLOUR = 3, 0


def quantiles(errors: Any) -> dict[str, float]:
    """Median and the ends of the band that holds 90 % of the images."""
    return {name: float(error_quantile(errors, part)) for name, part in
            (("low", 0.05), ("median", 0.5), ("high", 0.95))}  # fmt: skip


def course(fits: pd.DataFrame) -> list[dict[str, float]]:
    """Quantiles of the error of the best vertex so far against the simulations spent on an image.

    ``fits`` are the curves of one method. The latest step is carried forward.
    """
    spent = fits.groupby("image")["evaluations"]
    grid = np.unique(np.geomspace(spent.min().max(), spent.max().max(), COURSE_STEPS).round())
    images = fits["image"].unique()
    wanted = pd.DataFrame({"evaluations": np.repeat(grid, len(images)), "image": np.tile(images, len(grid))})
    ordered = fits.astype({"evaluations": float}).sort_values(["evaluations", "step"], kind="stable")
    carried = pd.merge_asof(wanted, ordered[["evaluations", "image", ERROR]], on="evaluations", by="image")
    return [
        {"simulations": float(simulations), **quantiles(errors[ERROR].to_numpy())}
        for simulations, errors in carried.groupby("evaluations")
    ]


def prices(run: RunFolder | None, accounts: list[Account]) -> dict[str, dict[str, float]]:
    """Seconds of one simulation by panel and processor."""
    gpu = json.loads((HERE / "gpu_facts.json").read_text())["exact"]["images_per_second"]
    both = {"paper": {"cpu": PUBLISHED_SECONDS, "gpu": PUBLISHED_SECONDS}}
    return both | ({"here": {"cpu": accounts[0].pace, "gpu": 1 / gpu}} if accounts else {})


def spent(images: float, cpu: float, gpu: float, each: dict[str, dict[str, float]]) -> dict[str, float]:
    """Simulations before the first image by panel: images, and what core-seconds and GPU-seconds buy."""
    return {name: images + cpu / price["cpu"] + gpu / price["gpu"] for name, price in each.items()}


def methods(run: RunFolder, accounts: list[Account], each: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What every method of a run costs and reaches."""
    rows = {}
    for costs in accounts:
        answers = run.results[run.results["method"] == costs.method]
        seconds = float(costs.fixed_other_seconds), float(costs.foreign_seconds)
        rows[costs.method] = {
            "images": len(answers), ERROR: quantiles(answers[ERROR].to_numpy()),
            "simulations": float(costs.evaluations.mean()),
            "simulated_before": float(costs.fixed_simulations),
            "core_seconds_before": seconds[0], "gpu_seconds_before": seconds[1],
            "before": spent(costs.fixed_simulations, *seconds, each),
        }  # fmt: skip
    return rows


def parts(folder: Path, each: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """The published network trained on parts of its set and on all of it, smallest first."""
    if not folder.is_dir():
        return []
    rows = []
    for name, trained in json.loads((folder / "summary.json").read_text())["points"].items():
        errors = pd.read_parquet(folder / name / "evaluation.parquet")[ERROR].to_numpy(dtype=float)
        images = round(WITH_VALIDATION * trained["images"])
        rows.append({
            "part": name, "training_images": trained["images"], "images": images, "steps": trained["steps"],
            "gpu_seconds": trained["training_seconds"], ERROR: quantiles(errors),
            "before": spent(images, 0.0, trained["training_seconds"], each),
        })  # fmt: skip
    return sorted(rows, key=lambda row: row["images"])


def rises(by_size: dict[int, list[float]]) -> list[dict[str, Any]]:
    """Where the seeds' median error does not fall from one size of the training set to the next."""
    steps = pairwise(sorted(by_size.items()))
    return [
        {"from": size, "to": larger, "seeds_overlap": min(errors) <= max(former)}
        for (size, former), (larger, errors) in steps
        if np.median(errors) >= np.median(former)
    ]


def sweep(folder: Path, each: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The compact network by the size of its training set: a row for each size and seed."""
    described = read_described(folder) if folder.is_dir() else {"identity": {"test_set": None}}
    if described["identity"]["test_set"] != "paper" or "here" not in each:
        print(f"{folder}: no sweep on the test set paper; still owed")
        return {}
    points = read_points(folder)
    if not len(points):
        return {}
    if "fixed_core_seconds" not in points:  # older sweeps: a point is trained by one thread
        points["fixed_core_seconds"] = points["fixed_seconds"]
    rows = []
    for (size, seed), answers in points.groupby(["point", "repetition"]):
        seconds = float(answers["fixed_core_seconds"].iloc[0])
        other = max(0.0, seconds - size * each["here"]["cpu"])
        rows.append({
            "images": int(size), "seed": int(seed), "core_seconds": seconds,
            ERROR: quantiles(answers[ERROR].to_numpy()), "before": spent(size, other, 0.0, each),
        })  # fmt: skip
    by_size: dict[int, list[float]] = {}
    for row in rows:
        by_size.setdefault(row["images"], []).append(row[ERROR]["median"])
    return {
        "recipe": described["identity"]["recipe"],
        "test_images": int(points["image"].max()) + 1, "points": rows, "rises": rises(by_size),
        "medians": {str(size): float(np.median(values)) for size, values in by_size.items()},
    }  # fmt: skip


def ratios(runs: dict[str, RunFolder]) -> list[dict[str, Any]]:
    """Paired ratios of the errors of networks and simplex, and whether they are equivalent."""
    rows = []
    for name in TESTED_ON:
        if name not in runs:
            continue
        results = runs[name].results
        for first, second in PAIRS:
            for error in ERRORS if {first, second} <= set(results["method"]) else ():
                images, ratio, p = paired_test(results, first, second, error)
                same = equivalence(results, first, second, error)
                rows.append({
                    "test_set": name, "first": first, "second": second, "error": error, "images": images,
                    "median": ratio._asdict(), "p_differ": p, "mean": same.ratio._asdict(), "p_same": same.p,
                    "same": bool(same.shown),
                })  # fmt: skip
    return rows


def gather(run: Path, sweep_folder: Path, parts_folder: Path) -> dict[str, Any]:
    """All numbers of the figure."""
    runs = read_runs(run) if run.is_dir() else {}
    paper = runs.get("paper")
    accounts = accounts_of(paper.results, paper.run) if paper else []
    each = prices(paper, accounts)
    described: dict[str, Any] = {
        "command": f"python reports/figure4b.py --run {run} --sweep {sweep_folder} --parts {parts_folder}",
        "seconds_of_a_simulation": each, "parts": parts(parts_folder, each),
        "sweep": sweep(sweep_folder, each), "ratios": ratios(runs), "margin": MARGIN,
    }  # fmt: skip
    if paper:
        described["run"] = {
            name: paper.run.get(name) for name in ("command", "commit", "created", "machine", "seed")
        }
        described["networks"] = [card["digest"] for card in paper.run.get("networks") or []]
        described["methods"] = methods(paper, accounts, each)
        simplex = paper.curves[paper.curves["method"] == "simplex"]
        if len(simplex) and ERROR in simplex:
            described["simplex"] = {"images": simplex["image"].nunique(), "course": course(simplex)}
    return described


def draw_panel(axes: "Axes", shown: dict[str, Any], panel: str) -> None:
    """Errors against simulations where a second costs what the panel says."""
    import seaborn

    palette = seaborn.color_palette("colorblind")
    if "simplex" in shown:
        line = pd.DataFrame(shown["simplex"]["course"])
        band = 100 * line["low"], 100 * line["high"]
        label = "simplex: 90 % of the images"
        axes.fill_between(line["simulations"], *band, color="0.85", linewidth=0, label=label)
        axes.plot(line["simulations"], 100 * line["median"], color="0.25", label="simplex 50 x 50: median")
    for name, row in shown.get("methods", {}).items():
        if name not in LOOKS:
            continue
        marker, place = LOOKS[name]
        look: dict[str, Any] = {"marker": marker, "color": palette[place], "markersize": 7}
        ends, error = (
            (row["simulations"], row["simulations"] + row["before"][panel]),
            100 * row[ERROR]["median"],
        )
        if row["simulations"] > 0 and row["before"][panel] > 0:
            axes.plot(ends, (error, error), color=palette[place], linewidth=0.8)
            axes.plot(ends[0], error, fillstyle="none", **look)
        axes.plot(ends[1], error, linestyle="", label=NAMED.get(name, name), **look)
    if shown["parts"]:
        line = [(row["before"][panel], 100 * row[ERROR]["median"]) for row in shown["parts"]]
        axes.plot(
            *zip(*line, strict=True),
            "s-",
            color=palette[PARTS_COLOUR],
            label="published network, parts of its set",
        )
    if shown["sweep"]:
        points = pd.DataFrame([
            {"images": row["images"], "x": row["before"][panel], "error": 100 * row[ERROR]["median"]}
            for row in shown["sweep"]["points"]
        ])  # fmt: skip
        colour, middle = palette[SWEEP_COLOUR], points.groupby("images").median()
        axes.plot(points["x"], points["error"], ".", color=colour, alpha=0.6)
        # Beside the time of training, sizes are hardly different.
        line = "-" if panel == "paper" else ""
        label = "compact, by its training set"
        axes.plot(middle["x"], middle["error"], linestyle=line, color=colour, marker="x", label=label)
    if panel == "paper":
        axes.plot(
            PUBLISHED["network"][0], 1.0, "*", color="k", markersize=11, label="the paper's network, at most"
        )
    axes.set(xscale="log", yscale="log", xlabel="calculated images", ylabel="mean error, appendix C (%)")
    decade_labels(axes.yaxis)


def draw_ratios(axes: "Axes", rows: list[dict[str, Any]], margin: float) -> None:
    """Ratios of errors with their intervals, beside the range in which they would be the same."""
    import seaborn

    colours = dict(zip(TESTED_ON, seaborn.color_palette("dark", 2), strict=True))
    axes.axvspan(1 / margin, margin, color="0.85", label="the same within 10 %")
    labels = []
    for place, row in enumerate(rows):
        ratio = row["median"]
        ends = [[ratio["value"] - ratio["low"]], [ratio["high"] - ratio["value"]]]
        axes.errorbar(ratio["value"], -place, xerr=ends, fmt="o", color=colours[row["test_set"]], capsize=3)
        labels.append(f"{row['first']}, {ERRORS[row['error']]}, {row['test_set']}")
    axes.set_yticks(range(0, -len(rows), -1), labels, fontsize=9)
    axes.set(xscale="log", xlabel="error / the simplex's error", title="The same level of accuracy?")
    decade_labels(axes.xaxis)


@styled()
def draw(shown: dict[str, Any]) -> "Figure":
    """Panels with the error against simulations, and with ratios."""
    figure = empty_figure(15, 6.2)
    titles = {"paper": f"A simulation takes {PUBLISHED_SECONDS:g} s, as in the paper",
              "here": "A simulation takes what `exact` takes here"}  # fmt: skip
    names = list(shown["seconds_of_a_simulation"])
    panels = figure.subplots(
        1, len(names) + 1, gridspec_kw={"width_ratios": [1] * len(names) + [0.6]}, squeeze=False
    )[0]
    for axes, name in zip(panels, names, strict=False):
        draw_panel(axes, shown, name)
        axes.set_title(titles[name], fontsize=11)
        axes.sharey(panels[0])
    draw_ratios(panels[-1], shown["ratios"], shown["margin"])
    legend_below(
        figure,
        (
            "simplex 50 x 50: median",
            "simplex: 90 % of the images",
            *(NAMED.get(name, name) for name in LOOKS),
        ),
        columns=5,
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("reports/laptop"))
    parser.add_argument("--sweep", type=Path, default=Path("reports/sweep_dataset"))
    parser.add_argument("--parts", type=Path, default=Path("reports/paper_network"))
    parser.add_argument("--out", type=Path, default=Path("reports/figure4b.svg"))
    arguments = parser.parse_args()
    shown = gather(arguments.run, arguments.sweep, arguments.parts)
    if "methods" not in shown:
        print(f"{arguments.run}: no test set of the paper's images; still owed")
        return
    write_file(arguments.out.resolve(), svg(draw(shown)))
    write_json(arguments.out.with_suffix(".json").resolve(), shown)


if __name__ == "__main__":
    main()
