"""Answers against the truth: tidy tables of errors, courses of fits, and the physical limit."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from icobench.answer import Answer, Progress, solved
from icobench.fitting.least_squares import cramer_rao
from icobench.fitting.objectives import objective_for
from icobench.geometry.orientation import appendix_c_errors, disorientation
from icobench.geometry.shapes import SHAPES, shape, shape_of
from icobench.images.image_set import ImageSet
from icobench.simulator.simulator import Simulator

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["bounds_at_truth", "course", "errors", "facets", "fitted_bodies", "score"]

ICOSAHEDRON = "icosahedron"

ERRORS = ("disorientation_deg", "radius_error_nm", "appendix_c_mean", "appendix_c_max")

CHUNK = 64
"""Images whose bounds are computed together."""


def errors(
    radius_nm: Tensor, quaternion: Tensor, truth: ImageSet, shape: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The errors of N answers, (N,) float64 each.

    Args:
        radius_nm: (N,).
        quaternion: (N, 4).
        truth: N images.
        shape: N names of shapes that the answers say, if they are not all icosahedra.

    Returns:
        disorientation_deg, radius_error_nm, appendix_c_mean and appendix_c_max: of the equivalent orientation
        nearest to the truth, as in appendix C of Stielow et al. 2020. An answer that names another shape than
        the true one has no errors (NaN); that of appendix C is of icosahedra alone.
    """
    radius, turn = radius_nm.double(), quaternion.double()
    if shape or truth.bodies is not None:
        return _errors_of_shapes(radius, turn, truth, shape or [ICOSAHEDRON] * len(truth))
    mean, largest = appendix_c_errors(radius, turn, truth.radius_nm, truth.quaternion)
    return {
        "disorientation_deg": disorientation(turn, truth.quaternion),
        "radius_error_nm": (radius_nm - truth.radius_nm).abs().double(),
        "appendix_c_mean": mean,
        "appendix_c_max": largest,
    }


def _true_bodies(truth: ImageSet) -> list[str]:
    return truth.bodies or [ICOSAHEDRON] * len(truth)


def _errors_of_shapes(
    radius: Tensor, turn: Tensor, truth: ImageSet, said: Sequence[str]
) -> dict[str, Tensor]:
    """The errors of answers that name a shape, each by the group of its own body."""
    found = {name: torch.full_like(radius, torch.nan) for name in ERRORS}
    named = [shape_of(name)[0].name for name in _true_bodies(truth)]
    for name in dict.fromkeys(named):
        pairs = zip(named, said, strict=True)
        rows = torch.tensor([true == name == other for true, other in pairs]).nonzero()[:, 0]
        body = SHAPES[name].body()
        found[ERRORS[0]][rows] = disorientation(turn[rows], truth.quaternion[rows], body)
        found[ERRORS[1]][rows] = (radius[rows] - truth.radius_nm[rows]).abs()
    return found


def bounds_at_truth(
    images: ImageSet, simulator: Simulator, progress: Progress = lambda share: None
) -> tuple[Tensor, Tensor]:
    """Cramer-Rao bounds of radius (nm) and orientation (degrees) at the truth, (N,) float64 each.

    NaN without photon noise, for images without a truth, and for bodies with a parameter of their own.
    """
    radius, turn = (torch.full((len(images),), torch.nan, dtype=torch.float64) for _ in range(2))
    known, bodies = torch.isfinite(images.radius_nm), _true_bodies(images)
    kinds = [name for name in dict.fromkeys(bodies) if not shape_of(name)[0].parameter]
    for name in kinds if images.kind == "counts" else ():
        rows = (known & torch.tensor([other == name for other in bodies])).nonzero()[:, 0]
        body = simulator if images.bodies is None else simulator.with_body(SHAPES[name].body())
        for part in rows.split(CHUNK) if len(rows) else ():
            subset = images.subset(part)
            objective = objective_for(subset, body)
            radius[part], turn[part] = cramer_rao(objective, subset.radius_nm, subset.quaternion)
            progress(float(part[-1] + 1) / len(images))
        if body.body.round:
            turn[rows] = torch.nan
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

    miss = errors(answer.radius_nm, answer.quaternion, truth, answer.shape)
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
    if answer.shape or truth.bodies is not None:
        columns.update(_shape_columns(answer, truth))
    return pd.DataFrame(columns)


def fitted_bodies(answer: Answer) -> list[str]:
    """The names of the fitted bodies, those of families with the parameter."""
    names = []
    for row, name in enumerate(answer.shape or [ICOSAHEDRON] * len(answer)):
        value = answer.nuisance.get(SHAPES[name].parameter)
        names.append(name if value is None else f"{name}={value[row]:.9g}")
    return names


def _shape_columns(answer: Answer, truth: ImageSet) -> dict[str, Any]:
    """The true body if it is known, the fitted one, and the error of a sphere's radius of equal volume."""
    bodies: dict[str, Any] = {"true_body": _true_bodies(truth), "body": fitted_bodies(answer)}
    true, fitted = (
        torch.tensor([shape(name).equivalent_radius for name in names]) for names in bodies.values()
    )
    unknown = torch.isnan(truth.radius_nm).tolist()
    bodies["true_body"] = [
        None if lacking else name for name, lacking in zip(bodies["true_body"], unknown, strict=True)
    ]
    for row, number in enumerate(answer.index.tolist()):
        if number in answer.bodies:  # free facets
            fitted[row] = answer.bodies[number].body.equivalent_radius
    size_error = (answer.radius_nm.double() * fitted - truth.radius_nm * true).abs()
    return {**bodies, "size_error_nm": size_error.numpy()}


def _components(prefix: str, quaternion: Tensor) -> dict[str, Any]:
    return {f"{prefix}_{axis}": quaternion[:, i].double().numpy() for i, axis in enumerate("wxyz")}


def course(answer: Answer, method: str, truth: ImageSet) -> "pd.DataFrame":
    """Course of the fits: one row per image and step; of an answer without a trace the end alone."""
    import pandas as pd

    trace = answer.trace
    steps = list(zip(trace.evaluations, trace.radius_nm, trace.quaternion, trace.objective, strict=True))
    steps = steps or [(answer.evaluations, answer.radius_nm, answer.quaternion, answer.objective)]
    frames = [
        pd.DataFrame(
            {
                "method": method,
                "image": truth.numbers.numpy(),
                "step": step,
                "evaluations": spent.numpy(),
                **{
                    name: values.numpy()
                    for name, values in errors(radius, quaternion, truth, answer.shape).items()
                },
                "objective": value.double().numpy(),
            }
        )
        for step, (spent, radius, quaternion, value) in enumerate(steps)
    ]
    return pd.concat(frames, ignore_index=True)


def facets(answer: Answer, method: str) -> "pd.DataFrame":
    """The facets of bodies that have free ones: a row for each."""
    import pandas as pd

    rows = [
        pd.DataFrame({"method": method, "image": number, **fit.columns()})
        for number, fit in answer.bodies.items()
    ]
    return pd.concat(rows, ignore_index=True)
