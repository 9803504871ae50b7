"""The HTML report of a comparison: one file that needs no other. Its structure and words are in templates."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icobench.reporting.error_bars import abstention, abstention_cells, error_bar_cells, error_bars
from icobench.reporting.examples import examples
from icobench.reporting.figures import (
    plot_break_even,
    plot_errors,
    plot_rejection,
    plot_targets_reached,
    svg,
)
from icobench.reporting.findings import overview, reading, training_cost, verdict
from icobench.reporting.ledger import (
    PUBLISHED_SECONDS,
    accounts_of,
    break_even_table,
    ledger_notes,
    ledger_table,
    published_text,
)
from icobench.reporting.page import data_uri, render, sentences, text, write_file
from icobench.reporting.pictures import RESIDUAL_SIGMAS, colours_of_scales
from icobench.reporting.run_folder import RunFolder, read_runs
from icobench.reporting.shapes import body_text, confusion_table, geometry_table, shape_table
from icobench.reporting.tables import (
    HEADERS,
    Headers,
    Table,
    agreement_table,
    efficiency_table,
    interval_table,
    number,
    paired_table,
    running_time_table,
    summary_cells,
    summary_table,
)

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["provenance_facts", "write_report"]

WORST = 3
"""Images per method in the table of the worst."""


def _worst(results: "DataFrame") -> Table:
    headers: Headers = [
        ("method", ""), ("image", ""), ("true radius", "nm"), ("disorientation", "deg"),
        ("own estimate", "deg"), ("bound", "deg"), ("radius error", "nm"), ("simulations", ""),
        ("status", ""),
    ]  # fmt: skip
    columns = [
        "true_radius_nm", "disorientation_deg", "orientation_std_deg", "bound_orientation_deg",
        "radius_error_nm", "evaluations",
    ]  # fmt: skip
    shapes: list[str] = []
    if "body" in results:  # instead of the columns of the truth's size and of the costs
        shapes = ["body", "true_body"]
        headers[2:3], headers[-2:-1] = [("body", ""), ("true body", "")], []
        columns = columns[1:-1]
    order = {"ascending": False, "na_position": "first", "kind": "stable"}
    rows = [
        [str(method), row["name"], *map(body_text, row[shapes]), *map(number, row[columns]), row["status"]]
        for method, answers in results.groupby("method", sort=False)
        for _, row in answers.sort_values("disorientation_deg", **order).head(WORST).iterrows()
    ]
    return headers, rows


def _contents(name: str, run: RunFolder) -> dict[str, Any]:
    """What the template shows of a run; its figures, and how honest each method is, go beside the results."""
    results, curves = run.results, run.curves
    shapes = {}
    if run.has_shapes and run.truth_known:
        by_method = {str(method): rows for method, rows in results.groupby("method", sort=False)}
        shapes = {
            "all": shape_table(results),
            "by_method": {
                method: (confusion_table(rows), geometry_table(rows)) for method, rows in by_method.items()
            },
        }
    summary, accounts = summary_table(results), accounts_of(results, run.run)
    contents = {
        "run": run,
        "examples": examples(run),
        "shapes": shapes,
        "images": sentences("images", run=run, radii=results["true_radius_nm"]),
        "training": training_cost(run.network, summary),
        "ledger": ledger_table(accounts),
        "ledger_notes": ledger_notes(accounts),
    }
    if not run.truth_known:
        return {**contents, "agreement": agreement_table(results)}
    marks = {"here": accounts[0].pace} if accounts[0].pace else {}
    surface = plot_break_even(results, accounts, {**marks, "the paper": PUBLISHED_SECONDS})
    figures = {
        "errors_figure": ("error_against_evaluations.svg", svg(plot_errors(results, curves))),
        "targets_figure": ("targets_reached.svg", svg(plot_targets_reached(results, curves))),
    }
    if surface:
        figures["surface_figure"] = "break_even.svg", svg(surface)
    bars, abstained = error_bars(results), abstention(results)
    files = [
        *figures.values(),
        *(
            (f"{kind}.csv", table.to_csv(index=False).encode())
            for kind, table in (("error_bars", bars), ("abstention", abstained))
        ),
    ]
    for file, content in files:
        write_file(run.folder / (f"{name}_{file}" if run.seeds > 1 else file), content)
    return {
        **contents,
        "surface_figure": None,
        **{name: data_uri(content, "svg+xml") for name, (_, content) in figures.items()},
        "reading": reading(summary, results),
        "summary": (HEADERS, summary_cells(summary)),
        "intervals": interval_table(results),
        "error_bars": error_bar_cells(bars),
        "abstention": abstention_cells(abstained),
        "running_times": running_time_table(results, curves),
        "worst": _worst(results),
        "worst_count": WORST,
        "break_evens": break_even_table(results, accounts),
        "published": published_text(accounts),
        "tests": paired_table(results),
        "efficiency": efficiency_table(results),
    }


def _rejection(folder: Path, runs: dict[str, RunFolder]) -> str | None:
    """The figure of all test sets of known truth, also written into the folder; None if there are none."""
    known = {name or run.test_set: run.results for name, run in runs.items() if run.truth_known}
    if not known:
        return None
    content = svg(plot_rejection(known))
    write_file(folder / "rejection.svg", content)
    return data_uri(content, "svg+xml")


def provenance_facts(run: dict[str, Any]) -> dict[str, Any]:
    """What is needed to run it again, from ``run.json``."""
    values = {name: run.get(name) for name in ("command", "created", "seed", "device", "commit")}
    for group in ("machine", "versions"):
        values[group] = ", ".join(f"{name} {text(value)}" for name, value in (run.get(group) or {}).items())
    return {**values, "experiment": run["experiment"]}


def write_report(folder: Path | str) -> Path:
    """Write ``report.html`` into the folder of a comparison; figures (SVG) and tables (CSV) beside each run.

    Those of pooled seeds, and the figure of rejection, lie beside the report.

    Every run must hold ``results.parquet``, ``curves.parquet`` and ``run.json`` as ``icobench compare``
    leaves them, and ``test_set.h5`` unless its images can be made anew. The reconstructions that are shown
    are simulated anew.

    Returns:
        Path of the report.

    Raises:
        InputError: a file is missing, damaged or cannot be written.
    """
    folder = Path(folder)
    runs = read_runs(folder)
    first = next(iter(runs.values()))
    preset = first.settings.get("preset")
    commits = dict.fromkeys(str(run.run["commit"]) for run in runs.values() if run.run.get("commit"))
    page = render(
        "report.html.j2",
        title=f"Comparison of reconstructions{f' ({preset})' if preset else ''}",
        folder=folder.resolve().name,
        first=first,
        verdict=verdict({name or run.test_set: run for name, run in runs.items()}),
        overview=overview(runs) if len(runs) > 1 else None,
        rejection=_rejection(folder, runs),
        runs={name: _contents(name, run) for name, run in runs.items()},
        residual_sigmas=RESIDUAL_SIGMAS,
        **colours_of_scales(),
        page_command=f"icobench report {shlex.quote(str(folder))}",
        provenance=provenance_facts({**first.run, "commit": ", ".join(commits)}),
    )
    path = folder / "report.html"
    write_file(path, page.encode())
    return path
