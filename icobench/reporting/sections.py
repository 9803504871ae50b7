"""What a report says of one run, section by section."""

from typing import TYPE_CHECKING, Any

from icobench.reporting.agreement import agreement_table
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
from icobench.reporting.examples import examples
from icobench.reporting.figures import error_against_evaluations, targets_reached
from icobench.reporting.findings import reading, training_cost
from icobench.reporting.intervals import interval_table
from icobench.reporting.page import facts, heading, paragraph, svg, svg_figure, table, text
from icobench.reporting.run_folder import RunFolder
from icobench.reporting.tables import HEADERS, number, summary_cells, summary_table

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["provenance_facts", "run_figures", "run_sections"]

WORST = 3
"""Images per method in the table of the worst."""

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
ERRORS_ALTERNATIVE = "Errors of orientation and of radius against simulated images, per method"
ERRORS_CAPTION = (
    "Lines: median over images, each image's last value carried forward, from where every image has a "
    "first value; bands: 10 to 90 % of the images. Markers with bars: methods without a course, at 0 "
    "where they simulate nothing. Dashed: median Cramér-Rao bound, which limits the root mean square "
    "error of an unbiased method; a median error may lie below it. A network's training is not counted."
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
AGREEMENT_NOTE = (
    "The truth of these images is not known, so there are no errors. Each method is held against the answer "
    "with the lowest objective that any method found for the same image: how many of its answers are that "
    "one (within 1 degree and 1 nm), and by how much it differs, median / 90 % quantile. An agreement is no "
    "proof: all may be wrong together where the model is."
)


def run_figures(run: RunFolder) -> dict[str, bytes]:
    """The figures of a run as SVG by the name of their file; none where the truth is not known."""
    if not run.truth_known:
        return {}
    return {
        "error_against_evaluations.svg": svg(error_against_evaluations(run.results, run.curves)),
        "targets_reached.svg": svg(targets_reached(run.results, run.curves)),
    }


def run_sections(run: RunFolder, figures: dict[str, bytes]) -> list[str]:
    """Everything about one run.

    Args:
        run: its files.
        figures: from :func:`run_figures`.
    """
    summary = summary_table(run.results)
    if run.truth_known:
        parts = _accuracy(run, summary, figures)
    else:
        parts = [
            heading("Summary"), table(*agreement_table(run.results)), paragraph(AGREEMENT_NOTE, "note"),
        ]  # fmt: skip
    parts += [heading("Images and reconstructions"), examples(run)]
    parts += [heading("The test images"), paragraph(_images_text(run)), facts(run.settings)]
    if run.truth_known:
        parts += [heading("Worst images"), paragraph(WORST_NOTE, "note"), _worst(run.results)]
    return parts + _costs(run, summary)


def _accuracy(run: RunFolder, summary: "DataFrame", figures: dict[str, bytes]) -> list[str]:
    errors, targets = (figures[name] for name in ("error_against_evaluations.svg", "targets_reached.svg"))
    return [
        paragraph(reading(summary, run.results)),
        heading("Summary"),
        table(list(HEADERS), summary_cells(summary)),
        paragraph(SUMMARY_NOTE, "note"),
        heading("How sure these figures are", 3),
        table(*interval_table(run.results)),
        paragraph(INTERVALS_NOTE, "note"),
        heading("Accuracy against simulations"),
        svg_figure(errors, ERRORS_ALTERNATIVE, ERRORS_CAPTION),
        heading("Targets reached"),
        svg_figure(targets, TARGETS_ALTERNATIVE, TARGETS_CAPTION),
        table(*running_time_table(run.results, run.curves)),
        paragraph(RUNNING_TIME_NOTE, "note"),
    ]


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
    return table(headers, rows)


def _images_text(run: RunFolder) -> str:
    """Where the test images come from, in sentences."""
    own, settings = run.experiment, run.settings
    index = own.refractive_index
    grid = (
        f"at a wavelength of {own.wavelength_nm:g} nm and a refractive index of {index.real:g} + "
        f"{index.imag:.4g}i, on {own.pixels} x {own.pixels} pixels up to sin(theta) = {own.sin_theta_max:g} "
        "at the middle of the detector's edge"
    )
    images = run.count
    if source := run.run.get("source"):
        known = "its truth is known" if run.truth_known else "its truth is not known"
        return f"{images} images of {source}; {known}. They are reconstructed {grid}."
    radii = run.results["true_radius_nm"]
    words = [
        f"{images} simulated diffraction images of icosahedra with circumradii from {radii.min():.1f} to "
        f"{radii.max():.1f} nm in random orientations, {grid}."
    ]
    photons, hole = settings.get("photons"), settings.get("hole_degrees")
    if run.kind == "log":
        words.append("They are stored as 8-bit log images.")
    elif run.kind == "intensity":
        words.append("They are noise-free intensities.")
    elif isinstance(photons, (int, float)):
        words.append(f"Poisson counts with {photons:,.0f} photons expected on the usable pixels of each.")
    if isinstance(hole, (int, float)) and hole > 0:
        words.append(f"A central hole of {hole:g} degrees is masked.")
    words.append(
        "Where images and reconstructions come from the same simulator, the errors are those of noise and "
        "search alone; a real experiment adds what the model leaves out."
    )
    return " ".join(words)


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
    if found := break_evens(run.results, accounts):
        parts += [
            heading("When the cost before the first image is repaid"),
            table(*break_even_table(found)),
            paragraph(BREAK_EVEN_NOTE, "note"),
        ]
    parts.append(paragraph(published_text(accounts)))
    headers, rows = paired_table(run.results)
    if rows:
        parts += [heading("Which differences are real"), table(headers, rows)]
        parts.append(paragraph(TESTS_NOTE, "note"))
    headers, rows = efficiency_table(run.results)
    if rows:
        parts += [heading("Efficiency"), table(headers, rows), paragraph(EFFICIENCY_NOTE, "note")]
    return parts


def provenance_facts(run: dict[str, Any]) -> dict[str, Any]:
    """What is needed to run it again, from ``run.json``."""
    known = {name: run.get(name) for name in ("command", "created", "seed", "device", "commit")}
    for group in ("machine", "versions"):
        found = run.get(group) or {}
        known[group] = ", ".join(f"{name} {text(value)}" for name, value in found.items())
    known["experiment"] = run["experiment"]
    return known
