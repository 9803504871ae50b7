"""Figure 4b of the paper: errors against simulations, of fits and of networks trained on so many images."""

from pathlib import Path
from typing import Any

import numpy as np

from icobench.storage import atomic_path
from paper_scale.fits import table_of
from paper_scale.stage import scale_of, stored_pieces

__all__ = ["figure_4b", "sweep_points"]

COURSES = (("simplex", "C0"), ("simplex-race", "C1"))
COLUMNS = (("disorientation_deg", "disorientation (deg)"), ("radius_error_nm", "radius error (nm)"))


def sweep_points(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """Finished points of the sweep by number of training images."""
    points: dict[int, list[dict[str, Any]]] = {}
    for piece in stored_pieces(folder, "sweep").values():
        if piece["state"] == "done" and "training_images" in piece["result"]:
            points.setdefault(piece["result"]["training_images"], []).append(piece["result"])
    return dict(sorted(points.items()))


def figure_4b(folder: Path) -> str:
    """Draw what there is; the name of the file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    points = sweep_points(folder)
    for axis, (column, label) in zip(figure.subplots(1, 2), COLUMNS, strict=True):
        for method, colour in COURSES:
            course = table_of(folder, "simplex", method, "curves")
            if course is None:
                continue
            steps = course.groupby("step")
            spent, errors = steps["evaluations"].mean(), steps[column]
            axis.plot(spent, errors.median(), color=colour, label=f"{method}, median and 5 to 95 %")
            axis.fill_between(
                spent, errors.quantile(0.05), errors.quantile(0.95), color=colour, alpha=0.2, lw=0
            )
        if points:
            middle = [np.median([row[column]["median"] for row in rows]) for rows in points.values()]
            axis.plot(list(points), middle, "s--", color="C3", label="network, by its training images")
            for size, rows in points.items():
                axis.plot(
                    [size] * len(rows), [row[column]["median"] for row in rows], ".", color="C3", alpha=0.5
                )
        axis.set(xscale="log", yscale="log", xlabel="simulated images", ylabel=label)
        axis.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    figure.suptitle(
        f"Error against simulations, {scale_of(folder)} scale (fits: for each image; network: in all)"
    )
    with atomic_path((folder / "figure4b.png").resolve()) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return "figure4b.png"
