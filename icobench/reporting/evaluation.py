"""An evaluation of networks: statistics over its images, as a table and on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from icobench.answer import solved
from icobench.errors import InputError
from icobench.provenance import provenance
from icobench.reporting.report import write_file
from icobench.simulator.experiment import Experiment
from icobench.storage import atomic_path, write_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EvaluatedSet", "evaluation_table", "summarise", "write_evaluation"]

ERRORS = {
    "disorientation_deg": ("disorientation, deg", 1.0, "bound_orientation_deg"),
    "radius_error_nm": ("radius error, nm", 1.0, "bound_radius_nm"),
    "appendix_c_mean": ("appendix C mean, %", 100.0, ""),
    "appendix_c_max": ("appendix C max, %", 100.0, ""),
}
"""Label, factor and column of the bound of each error."""

QUANTILES = {"median": 0.5, "90": 0.9, "99": 0.99}


class EvaluatedSet(Protocol):
    """What the evaluation of a test set must have: its name, a table with a row per image (errors, predicted
    spreads, for counts the Cramer-Rao bounds), the seconds of all predictions, the digest of the networks."""

    name: str
    table: "pd.DataFrame"
    seconds: float
    networks: str


def summarise(evaluated: EvaluatedSet) -> dict[str, Any]:
    """Quantiles of every error, success rate, calibration and, where known, the ratio to the bound.

    The ratios are median error over median bound, and root mean square error over root mean square bound.
    Coverage is the share of radii within one predicted standard deviation (0.68 if the spreads are
    right) and of orientations within the predicted root mean square angle (0.61).
    """
    table = evaluated.table
    turn, size = table["disorientation_deg"], table["radius_error_nm"]
    summary: dict[str, Any] = {"images": len(table), "networks": evaluated.networks}
    for column in ERRORS:
        summary[column] = {name: float(table[column].quantile(part)) for name, part in QUANTILES.items()}
    summary["success_rate"] = float(solved(turn, size).mean())
    summary["second_hypothesis_nearer"] = float((table["second_disorientation_deg"] < turn).mean())
    if table["radius_std_nm"].notna().all():
        summary["coverage_radius"] = float((size <= table["radius_std_nm"]).mean())
        summary["coverage_orientation"] = float((turn <= table["orientation_std_deg"]).mean())
    for error, (_, _, bound) in ERRORS.items():
        if bound in table:
            summary[f"{bound}_median"] = float(table[bound].median())
            summary[f"{error}_over_bound_median"] = float(table[error].median() / table[bound].median())
            mean_square = table[error].pow(2).mean() / table[bound].pow(2).mean()
            summary[f"{error}_over_bound_rms"] = float(mean_square**0.5)
    summary["seconds_per_image"] = evaluated.seconds / len(table)
    return summary


def _summaries(evaluated: Sequence[EvaluatedSet]) -> dict[str, dict[str, Any]]:
    return {item.name: summarise(item) for item in evaluated}


def evaluation_table(evaluated: Sequence[EvaluatedSet], pace: dict[str, float]) -> str:
    """Markdown: median, 90 % and 99 % quantile of every error and test set, then the rest in words.

    Args:
        evaluated: test sets.
        pace: time of one image and images a second, see ``icobench.runs.evaluation.speed``.
    """
    lines = ["| test set | error | median | 90 % | 99 % | median / bound |", "|---|---|---|---|---|---|"]
    notes = []
    for name, summary in _summaries(evaluated).items():
        for column, (label, factor, _) in ERRORS.items():
            values = [f"{factor * summary[column][key]:.3g}" for key in QUANTILES]
            ratio = summary.get(f"{column}_over_bound_median")
            bound = "" if ratio is None else f"{ratio:.2f}"
            lines.append(f"| {name} | {label} | {' | '.join(values)} | {bound} |")
        note = f"{name}: {100 * summary['success_rate']:.1f} % within 1 deg and 1 nm"
        if "coverage_radius" in summary:
            note += (
                f"; {100 * summary['coverage_radius']:.0f} % of radii within the predicted deviation (68 "
                f"expected), {100 * summary['coverage_orientation']:.0f} % of orientations within the "
                "predicted root mean square angle (61)"
            )
        second = 100 * summary["second_hypothesis_nearer"]
        notes.append(f"{note}; second hypothesis nearer in {second:.2f} %.")
    for prefix, what in (("", "image of counts"), ("log_", "log image")):
        if f"{prefix}one_image_ms" in pace:
            notes.append(
                f"One {what} takes {pace[f'{prefix}one_image_ms']:.1f} ms; batches run at "
                f"{pace[f'{prefix}images_per_second']:.0f} images/s."
            )
    return "\n".join([*lines, "", *notes])


def write_evaluation(
    folder: Path,
    evaluated: Sequence[EvaluatedSet],
    pace: dict[str, float],
    cards: list[dict[str, Any]],
    experiment: Experiment,
    seed: int,
    device: torch.device,
) -> None:
    """Write evaluation.json (summaries, origin), evaluation.md (table) and evaluation.parquet (every image).

    Args:
        folder: made if missing.
        evaluated, pace: as for :func:`evaluation_table`.
        cards: of the networks.
        experiment, seed, device: where the results come from.

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
    description = {**origin, "speed": pace, "sets": _summaries(evaluated), "networks": cards}
    write_json(folder / "evaluation.json", description)
    machine = origin["machine"]["processor"]
    where = f"`{origin['command']}`, commit {origin['commit']}, {machine}, seed {seed}."
    write_file(folder / "evaluation.md", f"{evaluation_table(evaluated, pace)}\n\n{where}\n".encode())
    table = pd.concat([item.table.assign(test_set=item.name) for item in evaluated], ignore_index=True)
    numbers = table.select_dtypes("number").astype("float32")
    numbers["test_set"] = table["test_set"].astype("category")
    with atomic_path(folder / "evaluation.parquet") as temporary:
        numbers.to_parquet(temporary)
