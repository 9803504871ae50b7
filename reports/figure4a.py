"""Histograms of the mean and maximum error on 5,000 images, as figure 4a of Stielow et al. 2020.

    python reports/figure4a.py [--evaluations FOLDER,...] [--out reports/figure4a.png]

Reads what `icobench evaluate --out FOLDER` stored, if nothing else is said that of the shipped networks and,
where there is one, of the published network. Errors are those of appendix C: each of the five numbers
over its allowed range, then mean and maximum of the five. Below, the error against the radius.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from icobench.storage import atomic_path

COLUMNS = (("appendix_c_mean", "mean of the five errors (%)"), ("appendix_c_max", "largest of the five (%)"))

STORED = Path("reports/evaluation"), Path("reports/evaluation_paper_small")


def _called(card: dict[str, Any]) -> str:
    """A network's name; one that was trained on a fixed set says how far."""
    pool = card["recipe"]["pool"]
    return card["architecture"] + (f" ({pool:,} images, {card['steps']:,} steps)" if pool else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", default=",".join(str(one) for one in STORED if one.is_dir()))
    parser.add_argument("--out", type=Path, default=Path("reports/figure4a.png"))
    arguments = parser.parse_args()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots(2, 2)
    edges = np.logspace(-2.5, 2, 64)
    for folder in map(Path, arguments.evaluations.split(",")):
        table = pd.read_parquet(folder / "evaluation.parquet")
        cards = json.loads((folder / "evaluation.json").read_text())["networks"]
        who = "/".join(sorted({_called(card) for card in cards}))
        for name, own in table.groupby("test_set", observed=True):
            label = f"{who}, {name}"
            for axis, (column, title) in zip(axes[0], COLUMNS, strict=True):
                axis.hist(100 * own[column], edges, histtype="step", label=label)
                axis.set(xscale="log", xlabel=title, ylabel="images")
            place = np.digitize(own["true_radius_nm"], np.arange(30, 161, 10)) - 1
            middle = 35 + 10 * np.arange(13)
            for axis, column in zip(axes[1], ("disorientation_deg", "radius_error_nm"), strict=True):
                medians = own[column].groupby(place).median().reindex(range(13))
                (line,) = axis.plot(middle, medians, marker="o", label=label)
                bound = column.replace("disorientation", "bound_orientation").replace(
                    "radius_error", "bound_radius"
                )
                if own.get(bound, pd.Series(dtype=float)).notna().any():
                    limit = own[bound].groupby(place).median().reindex(range(13))
                    axis.plot(middle, limit, "--", color=line.get_color(), label="Cramer-Rao bound, counting")
    for axis, label in zip(axes[1], ("disorientation (deg)", "radius error (nm)"), strict=True):
        axis.set(xlabel="radius R (nm)", ylabel=f"median {label}", yscale="log")
        axis.grid(alpha=0.3)
    # The curves' labels; the histograms share their colours.
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    with atomic_path(arguments.out.resolve()) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


if __name__ == "__main__":
    main()
