"""The HTML report of a comparison: one file that needs no other."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icobench.errors import InputError
from icobench.reporting.agreement import agreement_table
from icobench.reporting.examples import examples
from icobench.reporting.figures import plot_errors, plot_targets_reached, svg
from icobench.reporting.findings import overview, reading, training_cost, verdict
from icobench.reporting.ledger import accounts_of, break_even_table, break_evens, ledger_table, published_text
from icobench.reporting.page import bullets, document, facts, heading, paragraph, svg_figure, table, text
from icobench.reporting.run_folder import RunFolder, read_runs
from icobench.reporting.tables import (
    HEADERS,
    Headers,
    efficiency_table,
    interval_table,
    number,
    paired_table,
    running_time_table,
    summary_cells,
    summary_table,
)
from icobench.storage import atomic_path

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["provenance_facts", "write_file", "write_report"]

WORST = 3
"""Images per method in the table of the worst."""

ERRORS_FIGURE, TARGETS_FIGURE = "error_against_evaluations.svg", "targets_reached.svg"

SUMMARY_NOTE = (
    "Errors as median / 90 % quantile over images; an image without an answer counts as infinitely wrong. "
    "The disorientation is the smallest angle over the 60 orientations that look alike. Appendix C is the "
    "paper's measure: mean and largest of five component errors, each over its allowed range, after "
    "taking the equivalent orientation nearest to the truth. Times are those of this machine, with images "
    "worked on in batches."
)
INTERVALS_NOTE = (
    "Intervals of 95 %: Wilson's for the share of solved images, the bootstrap over images for the others. "
    "The images are a sample; all methods had the same one."
)
ERRORS_CAPTION = (
    "Lines: median over images, each image's last value carried forward, from where every image has a "
    "first value; bands: 10 to 90 % of the images. Markers with bars: methods without a course, at 0 "
    "where they simulate nothing. Dashed: median Cramér-Rao bound, which limits the root mean square "
    "error of an unbiased method; a median error may lie below it. A network's training is not counted."
)
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
    "Mean squared Cramér-Rao bound over mean squared error, with the bootstrap interval of 95 %: a method "
    "with 1 uses all the information in the photons."
)
WORST_NOTE = (
    f"The {WORST} images of each method with the largest disorientation. A good method gives a warning: its "
    "own estimate of the standard deviation, or its status, sets these images apart from the others."
)
AGREEMENT_NOTE = (
    "The truth of these images is not known, so there are no errors. Each method is compared with the answer "
    "that has the lowest objective of all methods for the same image: how many of its answers agree with it "
    "(within 1 degree and 1 nm), and by how much they differ, median / 90 % quantile. Agreement is no proof: "
    "where the model is wrong, all methods may be wrong together."
)
SIMULATOR_NOTE = (
    "Where images and reconstructions come from the same simulator, the errors are those of noise and "
    "search alone; a real experiment adds what the model leaves out."
)
AGAIN_NOTE = (
    "The first command makes the same images and reconstructs what is missing in the folder; the second "
    "makes this page from the folder. The same seed and versions give the same results; times depend on the "
    "machine."
)


def _accuracy(run: RunFolder, summary: "DataFrame", figures: dict[str, bytes]) -> list[str]:
    return [
        paragraph(reading(summary, run.results)),
        heading("Summary"),
        table(HEADERS, summary_cells(summary)),
        paragraph(SUMMARY_NOTE, "note"),
        heading("How sure these figures are", 3),
        table(*interval_table(run.results)),
        paragraph(INTERVALS_NOTE, "note"),
        heading("Accuracy against simulations"),
        svg_figure(figures[ERRORS_FIGURE], "Errors against simulated images, per method", ERRORS_CAPTION),
        heading("Targets reached"),
        svg_figure(
            figures[TARGETS_FIGURE], "Image-target pairs solved against costs, per method", TARGETS_CAPTION
        ),
        table(*running_time_table(run.results, run.curves)),
        paragraph(RUNNING_TIME_NOTE, "note"),
    ]


def _images_text(run: RunFolder) -> str:
    """Where the test images come from, in sentences."""
    experiment, index = run.experiment, run.experiment.refractive_index
    grid = (
        f"at a wavelength of {experiment.wavelength_nm:g} nm and a refractive index of {index.real:g} + "
        f"{index.imag:.4g}i, on {experiment.pixels} x {experiment.pixels} pixels up to sin(theta) = "
        f"{experiment.sin_theta_max:g} at the middle of the detector's edge"
    )
    if source := run.run.get("source"):
        truth = "its truth is known" if run.truth_known else "its truth is not known"
        return f"{run.count} images of {source}; {truth}. They are reconstructed {grid}."
    radii = run.results["true_radius_nm"]
    sentences = [
        f"{run.count} simulated diffraction images of icosahedra with circumradii from {radii.min():.1f} to "
        f"{radii.max():.1f} nm in random orientations, {grid}."
    ]
    photons, hole = run.settings.get("photons"), run.settings.get("hole_degrees")
    if run.kind == "log":
        sentences.append("They are stored as 8-bit log images.")
    elif run.kind == "intensity":
        sentences.append("They are noise-free intensities.")
    elif isinstance(photons, int | float):
        sentences.append(f"Poisson counts with {photons:,.0f} photons expected on the usable pixels of each.")
    if isinstance(hole, int | float) and hole > 0:
        sentences.append(f"A central hole of {hole:g} degrees is masked.")
    return " ".join((*sentences, SIMULATOR_NOTE))


def _worst(results: "DataFrame") -> str:
    headers: Headers = [
        ("method", ""), ("image", ""), ("true radius", "nm"), ("disorientation", "deg"),
        ("own estimate", "deg"), ("bound", "deg"), ("radius error", "nm"), ("simulations", ""),
        ("status", ""),
    ]  # fmt: skip
    columns = [
        "true_radius_nm", "disorientation_deg", "orientation_std_deg", "bound_orientation_deg",
        "radius_error_nm", "evaluations",
    ]  # fmt: skip
    rows = []
    for method, answers in results.groupby("method", sort=False):
        ranked = answers.sort_values(
            "disorientation_deg", ascending=False, na_position="first", kind="stable"
        )
        for _, row in ranked.head(WORST).iterrows():
            rows.append([str(method), str(row["image"]), *map(number, row[columns]), row["status"]])
    return table(headers, rows)


def _costs(run: RunFolder, summary: "DataFrame") -> list[str]:
    """Ledger, break-even points, paired tests and efficiency."""
    accounts = accounts_of(run.results, run.run)
    parts = [
        heading("What it costs"),
        paragraph(training_cost(run.network, summary)),
        table(*ledger_table(accounts)),
        paragraph(LEDGER_NOTE, "note"),
    ]
    if not run.truth_known:
        return parts
    optional = (
        (
            "When the cost before the first image is repaid", BREAK_EVEN_NOTE,
            break_even_table(break_evens(run.results, accounts)),
        ),
        ("Which differences are real", TESTS_NOTE, paired_table(run.results)),
        ("Efficiency", EFFICIENCY_NOTE, efficiency_table(run.results)),
    )  # fmt: skip
    for place, (title, note, (headers, rows)) in enumerate(optional):
        if rows:
            parts += [heading(title), table(headers, rows), paragraph(note, "note")]
        if place == 0:
            parts.append(paragraph(published_text(accounts)))
    return parts


def _sections(run: RunFolder, figures: dict[str, bytes]) -> list[str]:
    """Everything about one run; ``figures`` are SVG files by name."""
    summary = summary_table(run.results)
    if run.truth_known:
        parts = _accuracy(run, summary, figures)
    else:
        parts = [heading("Summary"), table(*agreement_table(run.results)), paragraph(AGREEMENT_NOTE, "note")]
    parts += [heading("Images and reconstructions"), examples(run)]
    parts += [heading("The test images"), paragraph(_images_text(run)), facts(run.settings)]
    if run.truth_known:
        parts += [heading("Worst images"), paragraph(WORST_NOTE, "note"), _worst(run.results)]
    return parts + _costs(run, summary)


def provenance_facts(run: dict[str, Any]) -> dict[str, Any]:
    """What is needed to run it again, from ``run.json``."""
    values = {name: run.get(name) for name in ("command", "created", "seed", "device", "commit")}
    for group in ("machine", "versions"):
        values[group] = ", ".join(f"{name} {text(value)}" for name, value in (run.get(group) or {}).items())
    return {**values, "experiment": run["experiment"]}


def write_file(path: Path, content: bytes) -> None:
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
    """Write ``report.html`` into the folder of a comparison, and figures as SVG beside each run.

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
    title = f"Comparison of reconstructions{f' ({preset})' if preset else ''}"
    parts = [
        heading(title, 1),
        paragraph(f"icobench, {text(first.run.get('created'))}, {folder.resolve().name}", "soft"),
        bullets(verdict({name or run.test_set: run for name, run in runs.items()})),
    ]
    if len(runs) > 1:
        parts += [heading("All test sets"), table(*overview(runs))]
    for name, run in runs.items():
        if name:
            parts.append(heading(name, 1, "run"))
        figures: dict[str, bytes] = {}
        if run.truth_known:
            figures[ERRORS_FIGURE] = svg(plot_errors(run.results, run.curves))
            figures[TARGETS_FIGURE] = svg(plot_targets_reached(run.results, run.curves))
        for file, content in figures.items():
            write_file(run.folder / file, content)
        parts += _sections(run, figures)
    page_command = f"icobench report {shlex.quote(str(folder))}"
    parts += [
        heading("How to run it again"),
        facts({"images and fits": first.run.get("command"), "this page": page_command}),
        paragraph(AGAIN_NOTE, "note"),
        heading("Provenance"),
        facts(provenance_facts(first.run)),
    ]
    path = folder / "report.html"
    write_file(path, document(title, parts).encode())
    return path
