"""Two or more runs beside each other: two machines, two commits, two presets."""

from collections.abc import Sequence
from pathlib import Path

from icobench.errors import InputError
from icobench.reporting.findings import verdict
from icobench.reporting.page import render, text, write_file
from icobench.reporting.report import provenance_facts
from icobench.reporting.run_folder import RunFolder, read_runs
from icobench.reporting.statistics import log_ratios, median_ratio
from icobench.reporting.tables import Headers, Table, interval_text, number, summary_table

__all__ = ["same_images", "side_by_side_table", "write_side_by_side"]

SHOWN = (
    ("success_rate", "solved", "%", 100.0),
    ("disorientation_median_deg", "disorientation", "deg, median", 1.0),
    ("radius_median_nm", "radius error", "nm, median", 1.0),
    ("evaluations_mean", "simulations", "per image", 1.0),
    ("seconds_mean", "time", "s per image", 1.0),
)
"""Column of the summary, its title, unit and a factor."""


def same_images(first: RunFolder, second: RunFolder) -> bool:
    """Whether two runs reconstructed the same images: same experiment, settings and seed, or same file."""
    identity = first.run.get("identity")
    return bool(identity) and identity == second.run.get("identity") and first.count == second.count


def _ratios(first: RunFolder, second: RunFolder, method: str) -> tuple[str, str]:
    """Second over first: errors where the images are the same, and times."""
    base, other = (
        run.results[run.results["method"] == method].set_index("image").sort_index()
        for run in (first, second)
    )
    error = "-"
    if same_images(first, second):
        base, other = base.align(other, axis=0)
        change = log_ratios(*(table["disorientation_deg"].to_numpy(dtype=float) for table in (other, base)))
        error = interval_text(median_ratio(change))
    return error, number(other["seconds"].mean() / base["seconds"].mean())


def side_by_side_table(runs: dict[str, RunFolder]) -> Table:
    """A row for each method and run, the runs of one method below each other.

    Args:
        runs: by label, all of one test set; ratios are taken to the first that has the method.
    """
    headers: Headers = [("method", ""), ("run", ""), ("images", "")]
    headers += [(name, unit) for _, name, unit, _ in SHOWN] + [("error", "ratio"), ("time", "ratio")]
    tables = {label: summary_table(run.results).set_index("method") for label, run in runs.items()}
    rows = []
    for method in dict.fromkeys(name for summary in tables.values() for name in summary.index):
        having = [label for label, summary in tables.items() if method in summary.index]
        for label in having:
            row = tables[label].loc[method]
            cells = [number(factor * float(row[column])) for column, _, _, factor in SHOWN]
            first = label == having[0]
            ratios = ("1", "1") if first else _ratios(runs[having[0]], runs[label], method)
            rows.append([str(method), label, str(int(row["images"])), *cells, *ratios])
    return headers, rows


def _labels(folders: Sequence[Path]) -> list[str]:
    """Names of the folders, with as many of their parents as are needed to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(path[-depth:]) for path in parts]
        if len(set(labels)) == len(labels):
            return labels
    raise InputError("the same run is named twice")


def _flat(run: RunFolder) -> dict[str, str]:
    """A run's description, groups such as the machine entry by entry."""
    flat: dict[str, str] = {}
    for name, value in {**provenance_facts(run.run), "settings": run.settings}.items():
        group = run.run.get(name)
        if isinstance(group, dict):
            flat |= {f"{name}: {key}": text(entry) for key, entry in group.items()}
        else:
            flat[name] = text(value)
    return flat


def _differences(runs: dict[str, RunFolder]) -> Table:
    """Where the runs' descriptions differ."""
    import pandas as pd

    described = pd.DataFrame({label: _flat(run) for label, run in runs.items()}).fillna("-")
    rows = described[described.nunique(axis=1) > 1].reset_index().to_numpy().tolist()
    return [("", ""), *((label, "") for label in runs)], rows


def write_side_by_side(folders: Sequence[Path | str], path: Path | str) -> Path:
    """Write one page that shows several runs beside each other, test set by test set.

    Args:
        folders: of ``icobench compare``; ratios are taken to the first.
        path: HTML file to write.

    Raises:
        InputError: a folder that is none, the same one twice, no test set in common, or a file that cannot be
            written.
    """
    paths, path = [Path(folder) for folder in folders], Path(path)
    by_label = {
        label: {name or run.test_set: run for name, run in read_runs(folder).items()}
        for label, folder in zip(_labels(paths), paths, strict=True)
    }
    first, *others = by_label
    names = [name for name in by_label[first] if any(name in by_label[label] for label in others)]
    if not names:
        raise InputError(f"the runs have no test set in common with {paths[0]}: {', '.join(by_label[first])}")
    test_sets = {}
    for name in names:
        runs = {label: sets[name] for label, sets in by_label.items() if name in sets}
        same = all(same_images(runs[first], run) for run in runs.values())
        test_sets[name] = {"table": side_by_side_table(runs), "same_images": same}
    page = render(
        "side_by_side.html.j2",
        title=f"Runs side by side: {', '.join(by_label)}",
        verdicts={label: verdict(sets) for label, sets in by_label.items()},
        first=first,
        test_sets=test_sets,
        differences=_differences({label: next(iter(sets.values())) for label, sets in by_label.items()}),
        folders=dict(zip(by_label, map(str, paths), strict=True)),
    )
    write_file(path, page.encode())
    return path
