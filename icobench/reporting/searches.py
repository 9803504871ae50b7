"""Figures of a search, drawn by Optuna on Matplotlib."""

import logging
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icobench.storage import atomic_path

if TYPE_CHECKING:
    import optuna

__all__ = ["write_search_figures"]


def _save(axes: Any, path: Path) -> None:
    from matplotlib import pyplot

    panels = np.ravel(axes)
    figure = panels[0].figure
    figure.set_size_inches(max(7.0, 2.6 * len(panels)), 4.5)
    for panel in panels:
        panel.tick_params(axis="x", which="both", labelsize=8, rotation=60 if len(panels) > 1 else 0)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight", facecolor="white")
    pyplot.close(figure)


def write_search_figures(folder: Path, study: "optuna.Study", names: list[str]) -> list[str]:
    """Write history, importance (PED-ANOVA), slices and, for two objectives, the Pareto front.

    ``study`` has at least one complete trial, ``names`` are those of the objectives. Returns the names of the
    files; a figure that needs more trials than there are is left out.
    """
    import matplotlib
    import optuna

    matplotlib.use("Agg")
    # Choices such as 16 and 32 are categories here, about which matplotlib would write a line each.
    logging.getLogger("matplotlib.category").setLevel(logging.WARNING)
    from optuna.visualization import matplotlib as drawn

    written = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        charts: dict[str, Any] = {
            "history": drawn.plot_optimization_history,
            "importance": partial(drawn.plot_param_importances, evaluator=evaluator),
            "slice": drawn.plot_slice,
        }
        for place, name in enumerate(names):
            single = len(names) == 1
            target = None if single else (lambda trial, place=place: trial.values[place])
            for kind, draw in charts.items():
                file = f"{kind}.png" if single else f"{kind}-{place + 1}.png"
                try:
                    _save(draw(study, target=target, target_name=name), folder / file)
                except (ValueError, RuntimeError, ZeroDivisionError):
                    continue  # too few trials, or all of one value
                written.append(file)
        if len(names) == 2:
            _save(drawn.plot_pareto_front(study, target_names=names), folder / "pareto.png")
            written.append("pareto.png")
    return written
