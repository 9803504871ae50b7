"""Figures of a search, drawn by Optuna on Matplotlib."""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icobench.storage import atomic_path

if TYPE_CHECKING:
    import optuna

__all__ = ["write_search_figures"]


def _save(axes: Any, path: Path) -> None:
    import numpy as np
    from matplotlib import pyplot

    first = np.ravel(axes)[0]
    figure = first.figure
    panels = len(np.ravel(axes))
    figure.set_size_inches(max(7.0, 2.6 * panels), 4.5)
    for one in np.ravel(axes):
        one.tick_params(axis="x", which="both", labelsize=8, rotation=60 if panels > 1 else 0)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight", facecolor="white")
    pyplot.close(figure)


def write_search_figures(folder: Path, study: "optuna.Study", names: list[str]) -> list[str]:
    """Write history, importance (PED-ANOVA), slices and, for two objectives, the Pareto front.

    Args:
        folder: where to.
        study: with at least one complete trial.
        names: of the objectives.

    Returns:
        names of the files; a figure that needs more trials than there are is left out.
    """
    import matplotlib
    import optuna

    matplotlib.use("Agg")
    logging.getLogger("matplotlib.category").setLevel(
        logging.WARNING
    )  # choices such as 16, 32 are words here
    from optuna.visualization import matplotlib as drawn

    written = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        for number, name in enumerate(names):
            end = "" if len(names) == 1 else f"-{number + 1}"
            target = None if len(names) == 1 else (lambda trial, n=number: trial.values[n])
            named: dict[str, Any] = {"target": target, "target_name": name}
            charts: tuple[tuple[str, Any, dict[str, Any]], ...] = (
                ("history", drawn.plot_optimization_history, {}),
                ("importance", drawn.plot_param_importances, {"evaluator": evaluator}),
                ("slice", drawn.plot_slice, {}),
            )
            for kind, draw, more in charts:
                try:
                    _save(draw(study, **named, **more), folder / f"{kind}{end}.png")
                except (ValueError, RuntimeError, ZeroDivisionError):
                    continue  # too few trials, or all of one value
                written.append(f"{kind}{end}.png")
        if len(names) == 2:
            _save(drawn.plot_pareto_front(study, target_names=names), folder / "pareto.png")
            written.append("pareto.png")
    return written
