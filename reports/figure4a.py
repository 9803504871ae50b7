"""The mean error of networks on the paper's images, as figure 4a of Stielow et al. 2020, and its tail.

    python reports/figure4a.py [--network NAME=FOLDER ...] [--out reports/figure4a.png]

Reads stored evaluations on the test set `paper`: of the published network where it was trained, of the same
in the weights that are shipped, and of the shipped `compact` networks, all on the same bodies. Errors are
those of appendix C: each of the five numbers over its allowed range, then their mean. A `.json` beside the
figure holds the numbers.
"""

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from icobench.reporting.figures import decade_labels, empty_figure, legend_below, styled
from icobench.reporting.statistics import bootstrap, error_quantile, median, success_interval
from icobench.storage import atomic_path, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STORED = {
    "published network, as trained": Path("reports/paper_network/full"),
    "published network, as shipped": Path("reports/evaluation_paper/paper-network"),
    "compact, shipped": Path("reports/evaluation_paper/network"),
}
"""Folders of evaluations by the names of their curves."""

FAR = 0.05
"""Mean errors beyond this are the tail: ten times the median, and far more than noise explains."""

EDGES_DEG = (0.0, 0.5, 1.0, 2.0, 4.0, 40.0)
"""Of the bins of the distance from the fundamental domain's boundary; none is farther than the last."""

RADII_NM = np.arange(30.0, 161.0, 10.0)
ERRORS = ("disorientation_deg", "radius_error_nm", "appendix_c_mean")


def bin_names() -> list[str]:
    """The bins of the distance in words."""
    inner = [f"{low:g} to {high:g}" for low, high in pairwise(EDGES_DEG[:-1])]
    return [*inner, f"over {EDGES_DEG[-2]:g}"]


def read_evaluation(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of a stored evaluation on the paper's images, and what evaluation.json says of it.

    That is the test set `paper`, or what the paper-scale report calls "paper test" of its set.
    """
    table = pd.read_parquet(folder / "evaluation.parquet")
    described = json.loads((folder / "evaluation.json").read_text())
    paper = table["test_set"].astype(str).isin(("paper", "paper test"))
    return table[paper].reset_index(drop=True), described


def far_by_distance(table: pd.DataFrame) -> list[dict[str, float]]:
    """For each bin of the distance: images, those beyond :data:`FAR`, their share, its interval of 95 %."""
    place = np.searchsorted(EDGES_DEG[1:-1], table["boundary_distance_deg"], side="left")
    far = (table["appendix_c_mean"] > FAR).to_numpy()
    rows = []
    for number in range(len(EDGES_DEG) - 1):
        images, beyond = int((place == number).sum()), int(far[place == number].sum())
        low, high = success_interval(beyond, images) if images else (np.nan, np.nan)
        share = beyond / images if images else np.nan
        rows.append({"images": images, "beyond": beyond, "share": share, "low": low, "high": high})
    return rows


def by_radius(table: pd.DataFrame) -> pd.DataFrame:
    """Median and 90 % quantile of both errors in steps of 10 nm: columns radius, error, 0.5 and 0.9."""
    place = np.clip(
        np.searchsorted(RADII_NM, table["true_radius_nm"], side="right") - 1, 0, len(RADII_NM) - 2
    )
    rows = [
        {"radius": RADII_NM[step] + 5, "error": error}
        | {part: float(error_quantile(table[error][place == step], part)) for part in (0.5, 0.9)}
        for error in ERRORS[:2]
        for step in np.unique(place)
    ]
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame, described: dict[str, Any]) -> dict[str, Any]:
    """What the page says of a curve."""
    mean = table["appendix_c_mean"].to_numpy(dtype=float)
    far = mean > FAR
    return {
        "images": len(table),
        "networks": [card["digest"] for card in described["networks"]],
        "device": described["machine"].get("gpu", described["device"]),
        **{
            error: {
                "median": bootstrap(table[error].to_numpy(dtype=float), median)._asdict(),
                **{
                    name: float(error_quantile(table[error], part))
                    for name, part in (("90", 0.9), ("99", 0.99))
                },
            }
            for error in ERRORS
        },
        "beyond": {"share": float(far.mean()), "interval": success_interval(int(far.sum()), len(far))},
        "by_distance": dict(zip(bin_names(), far_by_distance(table), strict=True)),
    }


@styled()
def draw(tables: dict[str, pd.DataFrame]) -> "Figure":
    """Histogram and tail above, errors against the radius below."""
    import seaborn

    figure = empty_figure(10.5, 7.6)
    (histogram, tail), *below = figure.subplots(2, 2)
    palette = seaborn.color_palette("colorblind")
    colours = dict(zip(tables, (palette[3], palette[1], palette[0]), strict=False))
    width = 0.8 / len(tables)
    for number, (name, table) in enumerate(tables.items()):
        colour, dashes = colours[name], "--" if number == 0 and len(tables) > 2 else "-"
        histogram.hist(
            100 * table["appendix_c_mean"], bins=np.geomspace(0.005, 60, 70), histtype="step", color=colour,
            linestyle=dashes, weights=np.full(len(table), 100 / len(table)), linewidth=1.5,
        )  # fmt: skip
        rows = pd.DataFrame(far_by_distance(table))
        places = np.arange(len(rows)) + (number - (len(tables) - 1) / 2) * width
        tail.bar(places, 100 * rows["share"], width, color=colour)
        ends = 100 * np.abs(rows[["low", "high"]].to_numpy().T - rows["share"].to_numpy())
        tail.errorbar(places, 100 * rows["share"], ends, fmt="none", color="0.2", capsize=2, linewidth=1)
        steps = by_radius(table)
        for axes, error in zip(below[0], ERRORS[:2], strict=True):
            line = steps[steps["error"] == error]
            axes.plot(line["radius"], line[0.5], "o", linestyle=dashes, color=colour, markersize=4)
            axes.plot(line["radius"], line[0.9], ":", color=colour)
        below[0][0].plot([], linestyle=dashes, color=colour, label=name)
    histogram.axvline(1.0, color="0.4", linewidth=1)
    histogram.axvline(100 * FAR, color="0.4", linewidth=1, linestyle=":")
    histogram.set(
        xscale="log", yscale="log", xlabel="mean error, appendix C (%)", ylabel="images in a bin (%)",
        title="All images (lines: 1 %, and 5 %, where the tail begins)",
    )  # fmt: skip
    decade_labels(histogram.xaxis)
    decade_labels(histogram.yaxis)
    counts = [row["images"] for row in far_by_distance(next(iter(tables.values())))]
    labels = [f"{name}\n({count:,})" for name, count in zip(bin_names(), counts, strict=True)]
    tail.set_xticks(range(len(EDGES_DEG) - 1), labels)
    tail.grid(visible=False, axis="x")
    tail.set(
        xlabel="degrees to the fundamental domain's boundary (images)", ylabel="images beyond 5 % (%)",
        title="The tail: where a quaternion jumps",
    )  # fmt: skip
    for axes, label in zip(below[0], ("disorientation (deg)", "radius error (nm)"), strict=True):
        axes.set(xlabel="radius R (nm)", ylabel=label, yscale="log")
        decade_labels(axes.yaxis)
    below[0][0].plot([], "-", color="0.3", marker="o", markersize=4, label="median")
    below[0][0].plot([], ":", color="0.3", label="90 % quantile")
    legend_below(figure, columns=5)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--network", action="append", help="NAME=FOLDER of a curve; the stored ones by default"
    )
    parser.add_argument("--out", type=Path, default=Path("reports/figure4a.png"))
    arguments = parser.parse_args()
    pairs = (pair.split("=", 1) for pair in arguments.network or [])
    folders = {name: Path(folder) for name, folder in pairs} or STORED
    read = {name: read_evaluation(folder) for name, folder in folders.items() if folder.is_dir()}
    for name in folders.keys() - read.keys():
        print(f"{folders[name]}: still owed")
    if not read:
        return
    tables = {name: table for name, (table, _) in read.items()}
    first = next(iter(tables.values()))["true_radius_nm"]
    common = {name: min(len(first), len(table)) for name, table in tables.items()}
    others = [
        name
        for name, table in tables.items()
        if not np.allclose(table["true_radius_nm"][: common[name]], first[: common[name]])
    ]
    if others:
        sys.exit(f"figure4a: {', '.join(others)}: other images than those of the first network")
    with atomic_path(arguments.out.resolve()) as temporary:
        draw(tables).savefig(temporary, format="png", dpi=150)
    described = {
        "command": "python reports/figure4a.py",
        "run": {
            "commits": [origin.get("commit") for _, origin in read.values()],
            **{name: next(reversed(read.values()))[1].get(name) for name in ("created", "machine", "seed")},
        },
        "networks": [card["digest"] for _, origin in read.values() for card in origin["networks"]],
        "beyond": FAR,
        "curves": {name: {"folder": str(folders[name]), **summary(*one)} for name, one in read.items()},
    }
    write_json(arguments.out.with_suffix(".json").resolve(), described)


if __name__ == "__main__":
    main()
