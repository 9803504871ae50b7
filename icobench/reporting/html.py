"""The HTML report of a comparison: one file that needs nothing else."""

import base64
import io
import json
import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icobench.errors import InputError
from icobench.images.counts import expected_counts
from icobench.images.files import atomic_path
from icobench.reporting.economy import (
    accounts_of,
    break_even_table,
    break_evens,
    efficiency_table,
    ledger_table,
    paired_table,
    published_text,
    running_time_table,
)
from icobench.reporting.figures import GALLERY_COLUMNS, error_against_evaluations, gallery, targets_reached
from icobench.reporting.findings import best_fitting_method, reading, training_cost
from icobench.reporting.run_folder import RunFolder, read_runs
from icobench.reporting.tables import HEADERS, number, summary_cells, summary_table
from icobench.reporting.verdict import overview, verdict
from icobench.simulator.simulator import Simulator

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["write_report"]

WORST = 3
"""Images per method in the table of the worst."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0; --page: #ffffff;
  --card: #f5f7f9; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1; --line: #39424c;
  --page: #14181c; --card: #1d2329; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
p, figcaption { max-width: 52rem; }
.soft, figcaption, .note { color: var(--soft); font-size: .9rem; }
.reading { border-left: 4px solid var(--accent); background: var(--card); padding: .8rem 1.1rem;
  max-width: none; }
.verdict { padding-left: 2.2rem; }
.verdict li { margin: .3rem 0; }
h1.run { margin-top: 3.5rem; padding-top: 1rem; border-top: 3px solid var(--accent); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
thead th { vertical-align: bottom; border-bottom-width: 2px; white-space: normal; }
th small { display: block; font-weight: normal; color: var(--soft); }
td:first-child, th:first-child { text-align: left; }
.facts td, .facts th { text-align: left; white-space: normal; vertical-align: top;
  overflow-wrap: anywhere; }
.facts th { font-weight: 600; white-space: nowrap; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line);
  border-radius: 4px; }
"""

TABLE_NOTE = (
    "Errors as median / 90 % quantile over images; an image without an answer counts as infinitely wrong. "
    "The disorientation is the smallest angle over the 60 orientations that look alike. Appendix C is the "
    "paper's measure: mean and largest of five component errors, each over its allowed range, after "
    "taking the equivalent orientation nearest to the truth. Times are those of this machine, with images "
    "worked on in batches."
)
ERRORS_ALTERNATIVE = "Errors of orientation and of radius against simulated images, per method"
ERRORS_CAPTION = (
    "Lines: median over images, each image's last value carried forward, from where every image has a "
    "first value; bands: 10 to 90 % of the images. Markers with bars: methods without a course, at 0 "
    "where they simulate nothing. Dashed: median Cramér-Rao bound, which limits the root mean square "
    "error of an unbiased method; a median error may lie below it. A network's training is not counted."
)
GALLERY_CAPTION = (
    "{method}, the most successful method that fits (of all, where none does): from its best image (left) "
    "to its worst (right) by orientation. Reconstructions are simulated anew without noise and scaled to "
    "the target's sum over usable pixels; masked pixels are grey. Speckle in the difference is photon "
    "noise, structure is error."
)
TARGETS_ALTERNATIVE = "Share of image-target pairs solved against simulations and seconds, per method"
TARGETS_CAPTION = (
    "A pair of an image and a target (10, 3, 1, 0.3, 0.1 degrees with 3, 1, 0.3, 0.1 nm) is solved when a "
    "method's estimate first meets the target. Methods that simulate nothing stand at the left end. With "
    "photon noise no method can meet the finest targets on every image."
)
RUNNING_TIME_NOTE = (
    "Expected simulations to a target if a method were repeated until one run meets it: all simulations "
    "spent over the number of images that met it."
)
LEDGER_NOTE = (
    "Before: training set, training and dictionary, once. A method that may ask the dictionary is charged "
    "with it. Time as simulations: what this machine simulates in that time, by the pace of the method that "
    "simulated most."
)
BREAK_EVEN_NOTE = (
    "Number of images from which the first method's whole cost is below the second's, with the bootstrap "
    "interval of 95 %. It solves as many if its share of solved images is at most 2 points lower, with "
    "95 % confidence."
)
TESTS_NOTE = (
    "Neighbours by median disorientation: ratio of their errors on the same image, median and bootstrap "
    "interval, and Wilcoxon's signed-rank test on its logarithm with Holm's correction."
)
EFFICIENCY_NOTE = (
    "Mean squared Cramér-Rao bound over mean squared error, with the bootstrap interval of 95 %: 1 uses all "
    "that the photons tell."
)
WORST_NOTE = (
    f"The {WORST} images of each method with the largest disorientation. A good method warns: its own "
    "estimate of the standard deviation, or its status, should tell them from the rest."
)


def _png(figure: "Figure") -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=140)
    return stream.getvalue()


def _store(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        try:
            temporary.write_bytes(content)
        except OSError as error:
            raise InputError(f"{path}: could not be written ({error})") from error


def _picked(own: "DataFrame") -> "DataFrame":
    """Up to six images that were answered, spread evenly from the best to the worst angle."""
    answer = own[["radius_nm", "q_w", "q_x", "q_y", "q_z"]].to_numpy(dtype=float)
    usable = np.isfinite(answer).all(1) & (answer[:, 0] > 0) & (np.abs(answer[:, 1:]).sum(1) > 0)
    ranked = own[usable].sort_values("disorientation_deg", kind="stable")
    if not len(ranked):
        return ranked
    places = np.linspace(0, len(ranked) - 1, min(GALLERY_COLUMNS, len(ranked)))
    return ranked.iloc[np.unique(places.round().astype(int))]


def _gallery(run: RunFolder, method: str) -> "Figure | None":
    """Targets and re-simulated reconstructions of one method, None where it answered nothing."""
    import torch

    rows = _picked(run.results[run.results["method"] == method])
    if not len(rows):
        return None
    index = rows["image"].to_numpy()
    targets = torch.from_numpy(run.intensity[index]).double()
    masks = torch.from_numpy(run.mask[index])
    targets = targets * masks
    simulator = Simulator(run.experiment)
    with torch.no_grad():
        intensity = simulator.intensity(
            torch.tensor(rows["radius_nm"].to_numpy(), dtype=torch.float64),
            torch.tensor(rows[["q_w", "q_x", "q_y", "q_z"]].to_numpy(), dtype=torch.float64),
        ).double()
    fitted = expected_counts(intensity, masks, targets.sum((-2, -1)))
    # Counts end at one photon; below, a target knows nothing.
    brightest = float(targets.amax())
    decades = min(max(math.log10(brightest), 1.0), 6.0) if run.kind == "counts" else 6.0
    titles = [
        f"{method}, image {row.image}\nR = {row.true_radius_nm:.1f} nm, off by\n"
        f"{number(row.disorientation_deg)}°, {number(row.radius_error_nm)} nm"
        for row in rows.itertuples()
    ]
    return gallery(targets, fitted, masks, titles, decades)


def _text(value: Any) -> str:
    if value is None or value == "":
        return "not recorded"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(headers: list[tuple[str, str]], rows: list[list[str]]) -> str:
    head = "".join(
        f'<th scope="col">{escape(name)}{f"<small>{escape(unit)}</small>" if unit else ""}</th>'
        for name, unit in headers
    )
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    head = f"<thead><tr>{head}</tr></thead>"
    return f'<div class="wide"><table>\n{head}\n<tbody>\n{body}</tbody></table></div>\n'


def _facts(facts: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(_text(value))}</td></tr>\n'
        for name, value in facts.items()
    )
    return f'<table class="facts">\n{rows}</table>\n'


def _figure(png: bytes, alternative: str, caption: str) -> str:
    encoded = base64.b64encode(png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{encoded}" alt="{escape(alternative)}">\n'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def _paragraph(text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{escape(text)}</p>\n"


def _worst(results: "DataFrame") -> str:
    headers = [
        ("method", ""), ("image", ""), ("true radius", "nm"), ("disorientation", "deg"),
        ("own estimate", "deg"), ("bound", "deg"), ("radius error", "nm"), ("simulations", ""),
        ("status", ""),
    ]  # fmt: skip
    rows = []
    for method, own in results.groupby("method", sort=False):
        worst = own.sort_values(
            "disorientation_deg", ascending=False, na_position="first", kind="stable"
        ).head(WORST)
        for row in worst.itertuples():
            values = (
                row.true_radius_nm, row.disorientation_deg, row.orientation_std_deg,
                row.bound_orientation_deg, row.radius_error_nm, row.evaluations,
            )  # fmt: skip
            rows.append([str(method), str(row.image), *map(number, values), row.status])
    return _table(headers, rows)


def _images_text(run: RunFolder) -> str:
    """How the test images were made, in sentences."""
    own, settings = run.experiment, run.settings
    radii = run.results["true_radius_nm"]
    index = own.refractive_index
    text = [
        f"{len(run.intensity)} simulated diffraction images of icosahedra with circumradii from "
        f"{radii.min():.1f} to {radii.max():.1f} nm in random orientations, at a wavelength of "
        f"{own.wavelength_nm:g} nm and a refractive index of {index.real:g} + {index.imag:.4g}i, "
        f"on {own.pixels} x {own.pixels} pixels up to sin(theta) = {own.sin_theta_max:g} at the middle "
        "of the detector's edge."
    ]
    photons, hole = settings.get("photons"), settings.get("hole_degrees")
    if run.kind == "log":
        text.append("They are stored as 8-bit log images.")
    elif run.kind == "intensity":
        text.append("They are noise-free intensities.")
    elif isinstance(photons, (int, float)):
        text.append(f"Poisson counts with {photons:,.0f} photons expected on the usable pixels of each.")
    if isinstance(hole, (int, float)) and hole > 0:
        text.append(f"A central hole of {hole:g} degrees is masked.")
    text.append(
        "Where images and reconstructions come from the same simulator, the errors are those of noise and "
        "search alone; a real experiment adds what the model leaves out."
    )
    return " ".join(text)


def _examples(png: bytes | None, method: str) -> str:
    if png is None:
        return _paragraph(f"{method} gave no answer that could be simulated.")
    alternative = f"Target, reconstruction and difference for images reconstructed by {method}"
    return _figure(png, alternative, GALLERY_CAPTION.format(method=method))


def _sections(run: RunFolder) -> list[str]:
    """Everything about one run; its figures are also written beside it."""
    table = summary_table(run.results)
    method = best_fitting_method(table)
    errors = _png(error_against_evaluations(run.results, run.curves))
    shown = _gallery(run, method)
    examples = _png(shown) if shown is not None else None
    _store(run.folder / "error_against_evaluations.png", errors)
    if examples is not None:
        _store(run.folder / "gallery.png", examples)
    else:
        (run.folder / "gallery.png").unlink(missing_ok=True)  # Of an earlier report.
    return [
        _paragraph(reading(table, run.results), "reading"),
        "<h2>Summary</h2>\n",
        _table(list(HEADERS), summary_cells(table)),
        _paragraph(TABLE_NOTE, "note"),
        "<h2>Accuracy against simulations</h2>\n",
        _figure(errors, ERRORS_ALTERNATIVE, ERRORS_CAPTION),
        "<h2>Targets reached</h2>\n",
        _figure(_png(targets_reached(run.results, run.curves)), TARGETS_ALTERNATIVE, TARGETS_CAPTION),
        _table(*running_time_table(run.results, run.curves)),
        _paragraph(RUNNING_TIME_NOTE, "note"),
        "<h2>Images and reconstructions</h2>\n",
        _examples(examples, method),
        "<h2>How the test images were made</h2>\n",
        _paragraph(_images_text(run)),
        _facts(run.settings),
        "<h2>Worst images</h2>\n",
        _paragraph(WORST_NOTE, "note"),
        _worst(run.results),
        *_costs(run, table),
    ]


def _page(folder: Path, runs: dict[str, RunFolder]) -> str:
    first = next(iter(runs.values()))
    preset = first.settings.get("preset")
    title = f"Comparison of reconstructions{f' ({preset})' if preset else ''}"
    created = _text(first.run.get("created"))
    parts = [
        f"<h1>{escape(title)}</h1>\n",
        _paragraph(f"icobench, {created}, {folder.resolve().name}", "soft"),
    ]
    if len(runs) > 1:
        lines = "".join(f"<li>{escape(line)}</li>\n" for line in verdict(runs))
        parts += [
            f'<ul class="reading verdict">\n{lines}</ul>\n',
            "<h2>All test sets</h2>\n",
            _table(*overview(runs)),
        ]
    for name, run in runs.items():
        if name:
            parts.append(f'<h1 class="run">{escape(name)}</h1>\n')
        parts += _sections(run)
    parts += ["<h2>Provenance</h2>\n", _facts(_provenance(first.run))]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{''.join(parts)}</body>\n</html>\n"
    )


def _costs(run: RunFolder, table: "DataFrame") -> list[str]:
    """Ledger, break-even points, paired tests and efficiency."""
    accounts = accounts_of(run.results, run.run)
    parts = [
        "<h2>What it costs</h2>\n",
        _paragraph(training_cost(run.network, table)),
        _table(*ledger_table(accounts)),
        _paragraph(LEDGER_NOTE, "note"),
    ]
    if found := break_evens(run.results, accounts):
        parts += [
            "<h2>When the cost before the first image is repaid</h2>\n",
            _table(*break_even_table(found)),
            _paragraph(BREAK_EVEN_NOTE, "note"),
        ]
    parts.append(_paragraph(published_text(accounts)))
    headers, rows = paired_table(run.results)
    if rows:
        parts += ["<h2>Which differences are real</h2>\n", _table(headers, rows)]
        parts.append(_paragraph(TESTS_NOTE, "note"))
    headers, rows = efficiency_table(run.results)
    if rows:
        parts += ["<h2>Efficiency</h2>\n", _table(headers, rows), _paragraph(EFFICIENCY_NOTE, "note")]
    return parts


def _provenance(run: dict[str, Any]) -> dict[str, Any]:
    facts = {name: run.get(name) for name in ("command", "created", "seed", "device", "commit")}
    for group in ("machine", "versions"):
        found = run.get(group) or {}
        facts[group] = ", ".join(f"{name} {_text(value)}" for name, value in found.items())
    facts["experiment"] = run["experiment"]
    return facts


def write_report(folder: Path | str) -> Path:
    """Write ``report.html`` into the folder of a run or a campaign, and two PNG files for each run.

    Every run must hold ``results.parquet``, ``curves.parquet``, ``test_set.h5`` and ``run.json`` as
    ``icobench compare`` leaves them. The images of ``gallery.png`` are simulated anew.

    Returns:
        Path of the report.

    Raises:
        InputError: a file is missing, damaged or cannot be written.
    """
    folder = Path(folder)
    runs = read_runs(folder)
    path = folder / "report.html"
    _store(path, _page(folder, runs).encode())
    return path
