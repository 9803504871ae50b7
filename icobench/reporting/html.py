"""The HTML report of a comparison: one file that needs nothing else."""

import shlex
from pathlib import Path

from icobench.errors import InputError
from icobench.reporting.page import document, facts, heading, lines, paragraph, table, text
from icobench.reporting.run_folder import RunFolder, read_runs
from icobench.reporting.sections import provenance_facts, run_figures, run_sections
from icobench.reporting.verdict import overview, verdict
from icobench.storage import atomic_path

__all__ = ["store", "write_report"]

AGAIN_NOTE = (
    "The first command makes the same images and reconstructs what is missing in the folder; the second "
    "makes this page from the folder. Same seed and versions, same results; times are the machine's."
)


def store(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            temporary.write_bytes(content)
        except OSError as error:
            raise InputError(f"{path}: could not be written ({error})") from error


def write_report(folder: Path | str) -> Path:
    """Write ``report.html`` into the folder of a run or a campaign, and figures as SVG beside each run.

    Every run must hold ``results.parquet``, ``curves.parquet``, ``test_set.h5`` and ``run.json`` as
    ``icobench compare`` leaves them. The reconstructions that are shown are simulated anew.

    Returns:
        Path of the report.

    Raises:
        InputError: a file is missing, damaged or cannot be written.
    """
    folder = Path(folder)
    runs = read_runs(folder)
    path = folder / "report.html"
    store(path, _page(folder, runs).encode())
    return path


def _page(folder: Path, runs: dict[str, RunFolder]) -> str:
    first = next(iter(runs.values()))
    preset = first.settings.get("preset")
    title = f"Comparison of reconstructions{f' ({preset})' if preset else ''}"
    created = text(first.run.get("created"))
    named = {name or run.test_set: run for name, run in runs.items()}
    parts = [
        heading(title, 1),
        paragraph(f"icobench, {created}, {folder.resolve().name}", "soft"),
        lines(verdict(named)),
    ]
    if len(runs) > 1:
        parts += [heading("All test sets"), table(*overview(runs))]
    for name, run in runs.items():
        if name:
            parts.append(heading(name, 1, "run"))
        figures = run_figures(run)
        for own, content in figures.items():
            store(run.folder / own, content)
        parts += run_sections(run, figures)
    again = f"icobench report {shlex.quote(str(folder))}"
    parts += [
        heading("How to run it again"),
        facts({"images and fits": first.run.get("command"), "this page": again}),
        paragraph(AGAIN_NOTE, "note"),
        heading("Provenance"),
        facts(provenance_facts(first.run)),
    ]
    return document(title, parts)
