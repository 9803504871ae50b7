"""Two or more runs beside each other: two machines, two commits, two presets."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icobench.errors import InputError
from icobench.reporting.html import store
from icobench.reporting.intervals import interval_text
from icobench.reporting.page import Headers, document, facts, heading, lines, paragraph, table, text
from icobench.reporting.run_folder import RunFolder, read_runs
from icobench.reporting.sections import provenance_facts
from icobench.reporting.statistics import bootstrap
from icobench.reporting.tables import number, summary_table
from icobench.reporting.verdict import verdict

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["same_images", "side_by_side_table", "write_side_by_side"]

SHOWN = (
    ("success_rate", "solved", "%", 100.0),
    ("disorientation_median_deg", "disorientation", "deg, median", 1.0),
    ("radius_median_nm", "radius error", "nm, median", 1.0),
    ("evaluations_mean", "simulations", "per image", 1.0),
    ("seconds_mean", "time", "s per image", 1.0),
)
"""Column of the summary, how it is called, its unit and a factor."""

NOTE = (
    "Ratios to {first}, below 1 is better: error is the median over images of the ratio of the "
    "disorientations on the same image, with the bootstrap interval of 95 %, given only where both runs "
    "reconstructed the same images; time is the ratio of the means."
)


def same_images(first: RunFolder, second: RunFolder) -> bool:
    """Whether two runs reconstructed the same images: same experiment, settings and seed, or same file."""
    return bool(
        first.run.get("identity")
        and first.run["identity"] == second.run.get("identity")
        and first.count == second.count
    )


def _ratios(first: RunFolder, second: RunFolder, method: str, seed: int = 0) -> tuple[str, str]:
    """Second over first: errors where the images are the same, and times."""
    own, other = (
        run.results[run.results["method"] == method].set_index("image").sort_index()
        for run in (first, second)
    )
    shared = own.index.intersection(other.index)
    error = "-"
    if same_images(first, second) and first.truth_known and len(shared):
        ratio = (other.loc[shared, "disorientation_deg"] / own.loc[shared, "disorientation_deg"]).dropna()
        if len(ratio):
            error = interval_text(bootstrap(ratio.to_numpy(), partial(np.median, axis=-1), seed))
    time = other["seconds"].mean() / own["seconds"].mean()
    return error, number(time)


def side_by_side_table(runs: dict[str, RunFolder]) -> tuple[Headers, list[list[str]]]:
    """A row for each method and run, the runs of one method below each other.

    Args:
        runs: by label, all of one test set; ratios are taken to the first that has the method.
    """
    headers: Headers = [("method", ""), ("run", ""), ("images", "")]
    headers += [(name, unit) for _, name, unit, _ in SHOWN] + [("error", "ratio"), ("time", "ratio")]
    tables = {label: summary_table(run.results).set_index("method") for label, run in runs.items()}
    rows = []
    for method in dict.fromkeys(name for own in tables.values() for name in own.index):
        base: RunFolder | None = None
        for label, own in tables.items():
            if method not in own.index:
                continue
            found: DataFrame = own.loc[method]
            cells = [number(factor * float(found[column])) for column, _, _, factor in SHOWN]
            ratios = ("1", "1") if base is None else _ratios(base, runs[label], method)
            base = base or runs[label]
            rows.append([str(method), label, str(int(found["images"])), *cells, *ratios])
    return headers, rows


def _labels(folders: Sequence[Path]) -> list[str]:
    """Names of the folders, with as much of the way to them as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(own[-depth:]) for own in parts]
        if len(set(labels)) == len(labels):
            return labels
    raise InputError("the same run is named twice")


def _differences(runs: dict[str, RunFolder]) -> tuple[Headers, list[list[str]]]:
    """What the runs' descriptions say differently."""
    known: dict[str, dict[str, Any]] = {}
    for label, run in runs.items():
        flat: dict[str, Any] = {}
        for name, value in {**provenance_facts(run.run), "settings": run.settings}.items():
            group = run.run.get(name)
            if isinstance(group, dict):
                flat |= {f"{name}: {own}": text(inner) for own, inner in group.items()}
            else:
                flat[name] = text(value)
        known[label] = flat
    names = dict.fromkeys(name for flat in known.values() for name in flat)
    rows = []
    for name in names:
        values = [flat.get(name, "-") for flat in known.values()]
        if len(set(values)) > 1:
            rows.append([name, *values])
    return [("", ""), *((label, "") for label in runs)], rows


def write_side_by_side(folders: Sequence[Path | str], path: Path | str) -> Path:
    """Write one page that holds several runs against each other, test set by test set.

    Args:
        folders: of ``icobench compare``; ratios are taken to the first.
        path: HTML file to write.

    Raises:
        InputError: a folder that is none, the same one twice, no test set in common, or no way to write.
    """
    paths = [Path(folder) for folder in folders]
    path = Path(path)
    labels = _labels(paths)
    every = {
        label: {name or run.test_set: run for name, run in read_runs(folder).items()}
        for label, folder in zip(labels, paths, strict=True)
    }
    first = labels[0]
    names = [name for name in every[first] if any(name in every[label] for label in labels[1:])]
    if not names:
        raise InputError(f"the runs have no test set in common with {paths[0]}: {', '.join(every[first])}")
    title = f"Runs side by side: {', '.join(labels)}"
    parts = [heading(title, 1)]
    for label, runs in every.items():
        parts += [heading(label, 3), lines(verdict(runs))]
    for name in names:
        runs = {label: own[name] for label, own in every.items() if name in own}
        parts += [
            heading(name),
            table(*side_by_side_table(runs)),
            paragraph(NOTE.format(first=first), "note"),
        ]
        if not all(same_images(runs[first], run) for run in runs.values()):
            parts.append(paragraph("The images are not the same: compare with care.", "note"))
    headers, rows = _differences({label: next(iter(own.values())) for label, own in every.items()})
    parts += [heading("What is different"), table(headers, rows) if rows else paragraph("Nothing.")]
    parts += [
        heading("Runs"),
        facts({label: str(folder) for label, folder in zip(labels, paths, strict=True)}),
    ]
    store(path, document(title, parts).encode())
    return path
