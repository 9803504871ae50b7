"""Everything that was stored, as one page of Markdown."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from icobench.provenance import short_commit
from icobench.storage import atomic_path
from paper_scale.claims import claims
from paper_scale.figures import sweep_points
from paper_scale.ledger import value
from paper_scale.scales import Scale
from paper_scale.stage import stored_pieces
from paper_scale.tables import number, table

__all__ = ["report"]

OWED = "**The run at the paper's scale on a GPU is still owed**: no GPU could be had when this was made. "

SMALL = (
    "What follows is the same script at a small scale on a CPU; it shows that every stage works, not what "
    "the methods can do. Networks were trained for minutes or less."
)


def _head(folder: Path, scale: Scale, stages: Sequence[str], owed: bool) -> Iterator[str]:
    yield "# The published experiment, whole\n"
    pieces = {name: stored_pieces(folder, name) for name in stages}
    origins = [piece["origin"] for stage in pieces.values() for piece in stage.values()]
    gpus = sorted({origin["machine"]["gpu"] for origin in origins if "gpu" in origin["machine"]})
    if not (scale.name == "paper" and gpus):
        yield (OWED if owed else "") + SMALL + "\n"
    minutes = {name: sum(piece["seconds"] for piece in stage.values()) / 60 for name, stage in pieces.items()}
    machines = sorted({origin["machine"]["processor"] for origin in origins} | set(gpus))
    seeds = sorted({origin["seed"] for origin in origins})
    cores = sorted({str(origin["machine"]["cores"]) for origin in origins})
    commits = sorted({short_commit(origin["commit"]) for origin in origins})
    yield (
        f"Scale: **{scale.name}**. `python reports/paper_scale.py --scale {scale.name}` on "
        f"{', '.join(machines)} ({'/'.join(cores)} cores), commit {', '.join(commits)}, "
        f"seed {', '.join(map(str, seeds))}. Minutes: "
        + ", ".join(f"{name} {spent:.1f}" for name, spent in minutes.items() if spent)
        + f"; {sum(minutes.values()):.1f} in all. Times on a shared machine are noisy.\n"
    )
    open_pieces = [
        f"{name}/{title} ({piece['result'].get('error', 'unfinished')})"
        for name, stage in pieces.items()
        for title, piece in stage.items()
        if piece["state"] != "done"
    ]
    if open_pieces:
        yield f"Not finished: {'; '.join(open_pieces)}.\n"


def _claims(folder: Path, scale: Scale) -> Iterator[str]:
    yield "## Claim by claim\n"
    yield (
        "Ratio: by how much ours is better, where a lower number is; else ours over the paper's; none where "
        "this scale is not the paper's. Stielow et al., Mach. Learn.: Sci. Technol. 1, 045007 (2020).\n"
    )
    rows = [
        (one.what, f"{number(one.paper)} {one.unit}", f"{number(one.ours)} {one.unit}", one.ratio, one.note)
        for one in claims(folder, scale)
    ]
    yield table(["claim", "the paper", "ours", "ratio", "remark"], rows) + "\n"


def _correctness(folder: Path) -> Iterator[str]:
    yield "## Simulators on this device\n"
    rows = []
    for name in ("field float32", "field float64", "field sliced", "field propagated"):
        found = value(folder, "simulators", name) or {}
        for against, words in (("closed_form", "closed form"), ("cpu", "CPU"), ("float64", "float64")):
            if against in found:
                rows.append((name, words, found[against]["median"], found[against]["worst"]))
    found = value(folder, "simulators", "derivatives") or {}
    for against, words in (("differences", "differences, float64"), ("float32", "float32 and float64")):
        for name, errors in found.get(against, {}).items():
            rows.append((f"derivative by {name}", words, errors["median"], errors["worst"]))
    fits = value(folder, "simulators", "fits") or {}
    for name, words in (("apart_deg", "CPU, deg"), ("apart_nm", "CPU, nm"), ("error_deg", "truth, deg"),
                        ("error_nm", "truth, nm")):  # fmt: skip
        if name in fits:
            rows.append(("Levenberg-Marquardt", words, fits[name]["median"], fits[name]["worst"]))
    yield table(["what", "against", "median", "worst"], rows) + "\n"
    yield "Relative L2 errors, but for fits. The sliced method's error is its voxels'.\n"


def _speeds(folder: Path, scale: Scale) -> Iterator[str]:
    ceilings = value(folder, "simulators", "ceilings")
    if ceilings:
        yield (
            f"Ceilings measured here: copy {ceilings['bytes_per_second'] / 1e9:,.1f} GB/s, matrix product "
            f"{ceilings['operations_per_second'] / 1e12:,.3g} Tflop/s in float32.\n"
        )
    rows = []
    for name in (*(f"speed exact {batch}" for batch in scale.batches), "speed sliced", "speed propagated"):
        found = value(folder, "simulators", name)
        if found:
            share = f"{100 * found['share_of_ceiling']:.1f}"
            cells = (
                found["images_per_second"],
                found["jacobians_per_second"],
                share,
                found.get("peak_memory_MiB"),
            )
            rows.append((name.removeprefix("speed "), found["batch"], *cells))
    headers = ["method", "batch", "images/s", "with derivatives/s", "% of ceiling", "MiB"]
    yield table([headers[0], *headers[1:]], rows) + "\n"
    yield (
        "Share of the ceiling: the least time for the counted operations or for the least traffic, whichever "
        "is longer, over the time taken.\n"
    )


def _networks(folder: Path, scale: Scale) -> Iterator[str]:
    yield "## Networks\n"
    rows = []
    sizes = [("larger-network", size.replace(" ", "")) for size, _ in scale.sizes]
    for stage, name in (("paper-network", "paper"), ("compact-network", "compact"), *sizes):
        trained = value(folder, stage, f"training {name}", unfinished=True)
        found = value(folder, stage, f"evaluation {name}", "clean", unfinished=True)
        if trained and found:
            turn, size = found["disorientation_deg"], found["radius_error_nm"]
            rows.append(
                (name, trained["parameters"] / 1e6, trained["training_seconds"] / 60, trained["images_seen"],
                 turn["median"], turn["99"], size["median"], 100 * found["appendix_c_mean"]["median"])
            )  # fmt: skip
    headers = ["network", "M parameters", "minutes", "images seen", "deg", "deg, 99 %", "nm", "appendix C, %"]
    yield table(headers, rows) + "\n"
    yield f"Clean test images, {scale.evaluation_images:,} fresh ones; medians.\n"
    best = value(folder, "larger-network", "largest that pays off")
    exported = value(folder, "larger-network", "export")
    if best and exported:
        kind = "half precision" if exported["half"] else "float32"
        error = exported.get("clean", {}).get("disorientation_deg", {}).get("median")
        kept = "" if exported["kept"] else "; weights of this scale are not kept"
        yield (
            f"Largest that pays off (at most {best['pays_off']:g} times the error of the next smaller one, "
            f"same minutes): {best['name']}; exported in {exported['MiB']:.1f} MiB, {kind}, "
            f"{number(error)} deg as exported{kept}.\n"
        )
    yield "![Histograms of the errors](FOLDER/figure4a.png)\n"


def _fits(folder: Path, scale: Scale) -> Iterator[str]:
    yield "## Fits\n"
    rows = []
    energy = value(folder, "ledger", "energy") or {}
    for stage, names in (
        ("simplex", ("simplex", "simplex-race")),
        ("hybrids", ("network", "network+simplex", "network+lm", "network+mle", "dictionary+simplex",
                     "dictionary+lm")),
    ):  # fmt: skip
        for name in names:
            found = value(folder, stage, name)
            if found:
                turn, size = found["disorientation_deg"], found["radius_error_nm"]
                rows.append(
                    (name, found["images"], 100 * found["success_rate"], turn["median"], turn["90"],
                     size["median"], found["evaluations"], found["seconds"],
                     energy.get(f"{name}, per image"))
                )  # fmt: skip
    headers = ["method", "images", "success %", "deg", "deg, 90 %", "nm", "simulations", "s", "J"]
    yield table(headers, rows) + "\n"
    digests = ", ".join(str(card.get("digest")) for card in value(folder, "hybrids", "networks") or [])
    yield f"Noise-free images. Seconds and joules are per image. Networks of the hybrids: {digests or '-'}.\n"
    rows = []
    for size in scale.dictionaries:
        found = value(folder, "dictionaries", f"{size}")
        if found:
            rows.append(
                (found["patterns"], found["simulation_seconds"], 1000 * found["match_seconds_per_image"],
                 found["nearest"]["median_deg"], found["nearest"]["median_nm"],
                 100 * found["nearest"]["any_within_5deg_5nm"], 100 * found["explained"],
                 found["evaluations"])
            )  # fmt: skip
    headers = ["patterns", "s to make", "ms to match", "nearest: deg", "nm", "one of four near %", "fitted %",
               "simulations"]  # fmt: skip
    yield table(headers, rows) + "\n"
    yield "Near: within 5 degrees and 5 nm. Fitted: explained by Levenberg-Marquardt from the best four.\n"


def _sweep(folder: Path, scale: Scale) -> Iterator[str]:
    yield "## Size of the training set\n"
    rows = []
    for size, found in sweep_points(folder).items():
        turns = sorted(one["disorientation_deg"]["median"] for one in found)
        radii = sorted(one["radius_error_nm"]["median"] for one in found)
        rows.append(
            (size, len(found), np.median(turns), turns[0], turns[-1], np.median(radii), radii[0], radii[-1])
        )
    yield table(["training images", "seeds", "deg", "best", "worst", "nm", "best", "worst"], rows) + "\n"
    yield (
        "Compact network, clean images, the same number of steps for all, each trained for about "
        f"{60 * scale.sweep_minutes:.0f} s; medians over test images.\n"
    )
    yield "![Errors against simulations](FOLDER/figure4b.png)\n"


def _ledger(folder: Path) -> Iterator[str]:
    yield "## Costs\n"
    costs = value(folder, "ledger", "costs") or {"accounts": {}, "break_even": []}
    rows = [
        (name, one["fixed_seconds"], one["fixed_simulations"], one["seconds"], one["simulations"])
        for name, one in costs["accounts"].items()
    ]
    headers = ["method", "s before", "simulations before", "s an image", "simulations an image"]
    yield table(headers, rows) + "\n"
    rows = [
        (one["first"], one["second"], one["currency"], one["images"],
         f"{number(one['low'])} to {number(one['high'])}",
         {True: "yes", False: "no", None: "not compared"}[one["as_accurate"]])
        for one in costs["break_even"]
    ]  # fmt: skip
    headers = ["cheaper", "than", "in", "from so many images", "95 %", "as accurate"]
    yield table(headers, rows) + "\n"
    energy = {name: joules for name, joules in (value(folder, "ledger", "energy") or {}).items() if joules}
    if energy:
        whole = ", ".join(f"{name} {number(joules)} J" for name, joules in energy.items())
        yield f"Energy of the GPU, from its driver's power readings: {whole}.\n"
    else:
        yield "Energy: none reported; it takes a GPU whose driver tells its power.\n"


def report(folder: Path, scale: Scale, stages: Sequence[str], path: Path, owed: bool = True) -> None:
    """Write the page; figures are linked from its own folder.

    Args:
        folder: of the results.
        scale: at which they were made.
        stages: names, in order.
        path: of the page.
        owed: whether nothing has been run at the paper's scale.
    """
    parts = [
        *_head(folder, scale, stages, owed), *_claims(folder, scale), *_correctness(folder),
        *_speeds(folder, scale), *_networks(folder, scale), *_fits(folder, scale), *_sweep(folder, scale),
        *_ledger(folder),
    ]  # fmt: skip
    there = Path(os.path.relpath(folder, path.parent))
    text = "\n".join(parts)
    for figure in ("figure4a.png", "figure4b.png"):
        text = text.replace(f"(FOLDER/{figure})", f"({(there / figure).as_posix()})")
    with atomic_path(path.resolve()) as temporary:
        temporary.write_text(text)
