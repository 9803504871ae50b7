"""Answers against the truth: tidy tables of errors, courses of fits, and the physical limit."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from icobench.answer import Answer, Progress, solved
from icobench.fitting.least_squares import cramer_rao
from icobench.fitting.objectives import objective_for
from icobench.geometry.orientation import appendix_c_errors, disorientation
from icobench.images.image_set import ImageSet
from icobench.simulator.simulator import Simulator

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["bounds_at_truth", "course", "errors", "score"]

CHUNK = 64
"""Images whose bounds are computed together."""


def errors(radius_nm: Tensor, quaternion: Tensor, truth: ImageSet) -> dict[str, Tensor]:
    """The errors of N answers, (N,) float64 each.

    Args:
        radius_nm: (N,).
        quaternion: (N, 4).
        truth: N images.

    Returns:
        disorientation_deg, radius_error_nm, appendix_c_mean and appendix_c_max: of the equivalent orientation
        nearest to the truth, as in appendix C of Stielow et al. 2020.
    """
    radius, turn = radius_nm.double(), quaternion.double()
    mean, largest = appendix_c_errors(radius, turn, truth.radius_nm, truth.quaternion)
    return {
        "disorientation_deg": disorientation(turn, truth.quaternion),
        "radius_error_nm": (radius_nm - truth.radius_nm).abs().double(),
        "appendix_c_mean": mean,
        "appendix_c_max": largest,
    }


def bounds_at_truth(
    images: ImageSet, simulator: Simulator, progress: Progress = lambda share: None
) -> tuple[Tensor, Tensor]:
    """Cramer-Rao bounds of radius (nm) and orientation (degrees) at the truth, (N,) float64 each.

    NaN without photon noise, and for images without a truth.
    """
    radius, turn = (torch.full((len(images),), torch.nan, dtype=torch.float64) for _ in range(2))
    rows = torch.isfinite(images.radius_nm).nonzero()[:, 0]
    if images.kind == "counts" and len(rows):
        for part in rows.split(CHUNK):
            subset = images.subset(part)
            objective = objective_for(subset, simulator)
            radius[part], turn[part] = cramer_rao(objective, subset.radius_nm, subset.quaternion)
            progress(float(part[-1] + 1) / len(images))
    return radius, turn


def score(
    answer: Answer, method: str, truth: ImageSet, bounds: tuple[Tensor, Tensor], workers: int = 1
) -> "pd.DataFrame":
    """Tidy rows of one block, one per image.

    Args:
        answer: of the method.
        method: its name.
        truth: the block's images.
        bounds: from :func:`bounds_at_truth`.
        workers: processes that shared the machine; seconds are those of the whole machine.
    """
    import pandas as pd

    miss = errors(answer.radius_nm, answer.quaternion, truth)
    columns: dict[str, Any] = {"image": truth.numbers.numpy(), "method": method}
    columns["true_radius_nm"] = truth.radius_nm.numpy()
    columns.update(_components("true_q", truth.quaternion))
    columns["radius_nm"] = answer.radius_nm.double().numpy()
    columns.update(_components("q", answer.quaternion))
    columns.update({name: values.numpy() for name, values in miss.items()})
    columns.update(
        success=solved(miss["disorientation_deg"], miss["radius_error_nm"]).numpy(),
        objective=answer.objective.double().numpy(),
        evaluations=answer.evaluations.numpy(),
        seconds=(answer.seconds / workers).numpy(),
        core_seconds=answer.core_seconds.numpy(),
        radius_std_nm=answer.radius_std_nm.double().numpy(),
        orientation_std_deg=answer.orientation_std_deg.double().numpy(),
        bound_radius_nm=bounds[0].numpy(),
        bound_orientation_deg=bounds[1].numpy(),
        status=answer.status,
    )
    return pd.DataFrame(columns)


def _components(prefix: str, quaternion: Tensor) -> dict[str, Any]:
    return {f"{prefix}_{axis}": quaternion[:, i].double().numpy() for i, axis in enumerate("wxyz")}


def course(answer: Answer, method: str, truth: ImageSet) -> "pd.DataFrame":
    """Course of the fits: one row per image and step; empty for an answer without a trace."""
    import pandas as pd

    trace = answer.trace
    steps = zip(trace.evaluations, trace.radius_nm, trace.quaternion, trace.objective, strict=True)
    frames = [
        pd.DataFrame(
            {
                "method": method,
                "image": truth.numbers.numpy(),
                "step": step,
                "evaluations": spent.numpy(),
                **{name: values.numpy() for name, values in errors(radius, quaternion, truth).items()},
                "objective": value.double().numpy(),
            }
        )
        for step, (spent, radius, quaternion, value) in enumerate(steps)
    ]
    return pd.concat(frames, ignore_index=True)
