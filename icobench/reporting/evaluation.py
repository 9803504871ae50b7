"""An evaluation of networks as a table and on disk."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from icobench.errors import InputError
from icobench.provenance import provenance
from icobench.runs.evaluation import Evaluated, summarise
from icobench.simulator.experiment import Experiment
from icobench.storage import atomic_path

__all__ = ["evaluation_table", "write_evaluation"]

ROWS = (
    ("disorientation_deg", "disorientation, deg", 1.0),
    ("radius_error_nm", "radius error, nm", 1.0),
    ("appendix_c_mean", "appendix C mean, %", 100.0),
    ("appendix_c_max", "appendix C max, %", 100.0),
)


def evaluation_table(evaluated: Sequence[Evaluated], pace: dict[str, float]) -> str:
    """Markdown: median, 90 % and 99 % quantile of every error and test set, then the rest in words."""
    lines = ["| test set | error | median | 90 % | 99 % | median / bound |", "|---|---|---|---|---|---|"]
    notes = []
    for one in evaluated:
        summary = summarise(one)
        for column, label, factor in ROWS:
            values = [f"{factor * summary[column][key]:.3g}" for key in ("median", "90", "99")]
            ratio = summary.get(f"{column}_over_bound_median")
            bound = "" if ratio is None else f"{ratio:.2f}"
            lines.append(f"| {one.name} | {label} | {' | '.join(values)} | {bound} |")
        text = f"{one.name}: {100 * summary['success_rate']:.1f} % within 1 deg and 1 nm"
        if "coverage_radius" in summary:
            text += (
                f"; {100 * summary['coverage_radius']:.0f} % of radii within the predicted deviation (68 "
                f"expected), {100 * summary['coverage_orientation']:.0f} % of orientations within the "
                "predicted root mean square angle (61)"
            )
        notes.append(
            text + f"; second hypothesis nearer in {100 * summary['second_hypothesis_nearer']:.2f} %."
        )
    for prefix, what in (("", "image of counts"), ("log_", "log image")):
        if f"{prefix}one_image_ms" in pace:
            notes.append(
                f"One {what} takes {pace[f'{prefix}one_image_ms']:.1f} ms; batches run at "
                f"{pace[f'{prefix}images_per_second']:.0f} images/s."
            )
    return "\n".join([*lines, "", *notes])


def write_evaluation(
    folder: Path,
    evaluated: Sequence[Evaluated],
    pace: dict[str, float],
    cards: list[dict[str, Any]],
    experiment: Experiment,
    seed: int,
    device: torch.device,
) -> None:
    """Write evaluation.json (summaries, origin), evaluation.md (table) and evaluation.parquet (every image).

    Raises:
        InputError: the folder cannot be made.
    """
    import pandas as pd

    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from error
    origin = provenance(seed, device, experiment)
    document = {
        **origin, "speed": pace, "sets": {one.name: summarise(one) for one in evaluated}, "networks": cards,
    }  # fmt: skip
    table = pd.concat([one.table.assign(test_set=one.name) for one in evaluated], ignore_index=True)
    numbers = table.select_dtypes("number").astype("float32")
    numbers["test_set"] = table["test_set"].astype("category")
    with atomic_path(Path(folder) / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n")
    with atomic_path(Path(folder) / "evaluation.md") as temporary:
        machine = origin["machine"]["processor"]
        where = f"`{origin['command']}`, commit {origin['commit']}, {machine}, seed {seed}."
        temporary.write_text(f"{evaluation_table(evaluated, pace)}\n\n{where}\n")
    with atomic_path(Path(folder) / "evaluation.parquet") as temporary:
        numbers.to_parquet(temporary)
