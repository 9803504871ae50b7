"""Histograms of the mean and maximum error on 5,000 images, as figure 4a of Stielow et al. 2020.

    python reports/figure4a.py [--evaluations FOLDER,...] [--out reports/figure4a.png]

Reads what `icobench evaluate --out FOLDER` stored, if nothing else is said that of the shipped networks and,
where there is one, of the published network. Errors are those of appendix C: each of the five numbers
over its allowed range, then mean and maximum of the five. Below, the error against the radius.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from icobench.reporting.figures import decade_labels, empty_figure, legend_below, styled
from icobench.storage import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERRORS = {"appendix_c_mean": "mean of the five errors (%)", "appendix_c_max": "largest of the five (%)"}
RADIAL = {
    "disorientation_deg": ("bound_orientation_deg", "median disorientation (deg)"),
    "radius_error_nm": ("bound_radius_nm", "median radius error (nm)"),
}
"""Errors drawn against the radius: column of the bound, label."""

STORED = Path("reports/evaluation"), Path("reports/evaluation_paper_small")


def called(card: dict[str, Any]) -> str:
    """A network's name; that of one trained on a fixed set says how far."""
    pool = card["recipe"]["pool"]
    return card["architecture"] + (f" ({pool:,} images, {card['steps']:,} steps)" if pool else "")


def read_evaluation(folder: Path) -> pd.DataFrame:
    """A stored evaluation with a name for each network and test set, errors of appendix C in %."""
    table = pd.read_parquet(folder / "evaluation.parquet")
    cards = json.loads((folder / "evaluation.json").read_text())["networks"]
    names = "/".join(sorted({called(card) for card in cards}))
    table["curve"] = [f"{names}, {test_set}" for test_set in table["test_set"]]
    table[list(ERRORS)] *= 100
    return table


@styled()
def draw(table: pd.DataFrame) -> "Figure":
    """Histograms above, medians in steps of 10 nm of the radius below."""
    import seaborn

    figure = empty_figure(9, 6.5)
    axes = figure.subplots(2, 2)
    table = table.assign(radius=35 + 10 * ((table["true_radius_nm"] - 30) // 10).clip(0, 12))
    table = table.sort_values("curve", kind="stable")
    colours = dict(zip(table["curve"].unique(), seaborn.color_palette("colorblind"), strict=False))
    shared: dict[str, Any] = {"hue": "curve", "palette": colours}
    for panel, (column, label) in zip(axes[0], ERRORS.items(), strict=True):
        seaborn.histplot(
            table, x=column, bins=63, binrange=(-2.5, 2), log_scale=True, element="step", fill=False,
            legend=False, ax=panel, **shared,
        )  # fmt: skip
        panel.set(xlabel=label, ylabel="images")
        decade_labels(panel.xaxis)
    lines: dict[str, Any] = {**shared, "x": "radius", "estimator": "median", "errorbar": None}
    for panel, (column, (bound, label)) in zip(axes[1], RADIAL.items(), strict=True):
        seaborn.lineplot(table, y=column, marker="o", ax=panel, **lines)
        bounded = table.dropna(subset=bound) if bound in table else table[:0]
        if len(bounded):
            seaborn.lineplot(bounded, y=bound, linestyle="--", legend=False, ax=panel, **lines)
            panel.plot([], "--", color="0.3", label="Cramér-Rao bound (median)")
        panel.set(xlabel="radius R (nm)", ylabel=label, yscale="log")
        decade_labels(panel.yaxis)
    legend_below(figure, columns=3)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", default=",".join(str(path) for path in STORED if path.is_dir()))
    parser.add_argument("--out", type=Path, default=Path("reports/figure4a.png"))
    arguments = parser.parse_args()
    folders = [Path(folder) for folder in arguments.evaluations.split(",")]
    table = pd.concat([read_evaluation(folder) for folder in folders], ignore_index=True)
    with atomic_path(arguments.out.resolve()) as temporary:
        draw(table).savefig(temporary, format="png", dpi=150)


if __name__ == "__main__":
    main()
