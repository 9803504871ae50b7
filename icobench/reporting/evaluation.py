"""An evaluation of networks: statistics over its images, as a table and on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from icobench.answer import solved
from icobench.errors import InputError
from icobench.provenance import provenance
from icobench.reporting.page import render, write_file
from icobench.reporting.statistics import error_quantile, rms_over_bound
from icobench.reporting.tables import number
from icobench.simulator.experiment import Experiment
from icobench.storage import atomic_path, write_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Evaluated", "evaluation_table", "pace_text", "summarise", "typical", "write_evaluation"]

ERRORS = {
    "disorientation_deg": ("disorientation, deg", 1.0, "bound_orientation_deg"),
    "radius_error_nm": ("radius error, nm", 1.0, "bound_radius_nm"),
    "appendix_c_mean": ("appendix C mean, %", 100.0, ""),
    "appendix_c_max": ("appendix C max, %", 100.0, ""),
}
"""Label, factor and column of the bound of each error."""

QUANTILES = {"median": 0.5, "90": 0.9, "99": 0.99}


@dataclass
class Evaluated:
    """Networks on one test set.

    Attributes:
        name: of the test set.
        table: one row per image: truth, errors, predicted spreads and, for photon counts, the Cramer-Rao
            bounds.
        seconds: of the prediction of all images.
        networks: digests of the networks that answered.
    """

    name: str
    table: "pd.DataFrame"
    seconds: float
    networks: str


def summarise(evaluated: Evaluated) -> dict[str, Any]:
    """Quantiles of every error, success rate, calibration and, where known, the ratio to the bound.

    The ratio is root mean square error over root mean square bound, with its interval of 95 % over images.
    Coverage is the share of radii within one predicted standard deviation (0.68 if the spreads are
    right) and of orientations within the predicted root mean square angle (0.61).
    """
    table = evaluated.table
    turn, size = table["disorientation_deg"], table["radius_error_nm"]
    summary: dict[str, Any] = {"images": len(table), "networks": evaluated.networks}
    for column in ERRORS:
        errors = table[column].to_numpy(dtype=float)
        summary[column] = {name: float(error_quantile(errors, part)) for name, part in QUANTILES.items()}
    summary["success_rate"] = float(solved(turn, size).mean())
    summary["second_hypothesis_nearer"] = float((table["second_disorientation_deg"] < turn).mean())
    if table["radius_std_nm"].notna().all():
        summary["coverage_radius"] = float((size <= table["radius_std_nm"]).mean())
        summary["coverage_orientation"] = float((turn <= table["orientation_std_deg"]).mean())
    for error, (_, _, bound) in ERRORS.items():
        if bound in table and (ratio := rms_over_bound(table, error, bound)):
            summary[f"{bound}_median"] = float(table[bound].median())
            summary[f"{error}_over_bound_rms"] = ratio.value
            summary[f"{error}_over_bound_rms_interval"] = [ratio.low, ratio.high]
    summary["seconds_per_image"] = evaluated.seconds / len(table)
    return summary


def typical(timed: Any) -> Any:
    """The median of a stored time's rounds; older evaluations have a number, that of the best round."""
    return timed["median"] if isinstance(timed, dict) else timed


def pace_text(timed: Any) -> str:
    """A stored time with its lowest and highest round; see :func:`typical`."""
    if isinstance(timed, dict):
        return f"{number(timed['median'])} ({number(timed['low'])} to {number(timed['high'])})"
    return f"{number(timed)} (the best round)"


def evaluation_table(evaluated: Sequence[Evaluated], pace: dict[str, Any]) -> str:
    """Markdown: median, 90 % and 99 % quantile of every error and test set, then the rest in words.

    ``pace`` has the time of one image and the images a second, see ``icobench.runs.evaluation.speed``.
    """
    summaries = {item.name: summarise(item) for item in evaluated}
    values = {"summaries": summaries, "errors": ERRORS, "pace": pace, "pace_text": pace_text}
    return render("evaluation.md.j2", **values).rstrip()


def write_evaluation(
    folder: Path,
    evaluated: Sequence[Evaluated],
    pace: dict[str, Any],
    cards: list[dict[str, Any]],
    experiment: Experiment,
    seed: int,
    device: torch.device,
) -> None:
    """Write evaluation.json (summaries, origin), evaluation.md (table) and evaluation.parquet (every image).

    ``cards`` are those of the networks; experiment, seed and device say where the results come from.

    Raises:
        InputError: the folder cannot be made.
    """
    import pandas as pd

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from error
    origin = provenance(seed, device, experiment)
    description = {**origin, "speed": pace, "networks": cards}
    description["sets"] = {item.name: summarise(item) for item in evaluated}
    write_json(folder / "evaluation.json", description)
    machine = origin["machine"]["processor"]
    where = f"`{origin['command']}`, commit {origin['commit']}, {machine}, seed {seed}."
    write_file(folder / "evaluation.md", f"{evaluation_table(evaluated, pace)}\n\n{where}\n".encode())
    table = pd.concat([item.table.assign(test_set=item.name) for item in evaluated], ignore_index=True)
    numbers = table.select_dtypes("number").astype("float32")
    numbers["test_set"] = table["test_set"].astype("category")
    with atomic_path(folder / "evaluation.parquet") as temporary:
        numbers.to_parquet(temporary)
