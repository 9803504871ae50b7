"""Which body is it? How often `reconstruct --shape auto` is right, body by body.

    python reports/bodies.py --images 50              # measures anew, so many images a body
    python reports/bodies.py                          # writes the page of what is stored
    # stopped, the first goes on

Photon counts, 1e5 photons, hole of 3 degrees, pixels up to sin(theta) 0.8; all orientations. Sizes by equal
volume: that of an icosahedron whose circumradius is uniform in 50 to 95 nm. Parameters are uniform in
their ranges.
"""

import argparse
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from stored import HERE, text_table

from icobench.geometry.convex import icosahedron
from icobench.geometry.orientation import disorientation
from icobench.geometry.rotations import random_quaternions
from icobench.geometry.shapes import SHAPES
from icobench.images.image_set import ImageSet
from icobench.images.pixels import photon_counts, usable_pixels
from icobench.methods import METHODS, Problem
from icobench.methods.shapes import EQUIVALENT, fit_shapes
from icobench.provenance import provenance, short_commit
from icobench.seeds import Purpose, torch_generator
from icobench.sets.own_images import FIT_SIN_THETA
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import atomic_path, write_json

SEED, PHOTONS, HOLE_DEG, RADII_NM = 27_000, 1e5, 3.0, (50.0, 95.0)
BLOCK, FULL = 32, 50
"""Images fitted together; images a body of the full scale."""

METHOD = "dictionary+lm"
TARGETS = {"right": 0.97, "icosahedra": 0.01, "seconds": 2.0}
"""Least share of right names, largest share of icosahedra called otherwise, most seconds on two cores."""

PATH = HERE / "bodies.json"


def images_of(name: str, count: int) -> tuple[ImageSet, list[Any]]:
    """Images of one shape, and the values of its parameter, None without one."""
    shape, experiment = SHAPES[name], Experiment()
    generator = torch_generator(SEED, Purpose.SIMULATE, list(SHAPES).index(name))
    size, place = torch.rand(2, count, generator=generator, dtype=torch.float64)
    turns = random_quaternions(count, generator)
    mask = usable_pixels(experiment, HOLE_DEG) & (experiment.sin_theta() <= FIT_SIN_THETA)
    values = [shape.low + (shape.high - shape.low) * x if shape.parameter else None for x in place.tolist()]
    radii, counts = [], []
    for row, value in enumerate(values):
        body = shape.body(value)
        radius = RADII_NM[0] + (RADII_NM[1] - RADII_NM[0]) * size[row]
        radii.append(radius * icosahedron().equivalent_radius / body.equivalent_radius)
        intensity = Simulator(experiment, body=body).intensity(radii[-1][None], turns[row : row + 1])
        counts.append(photon_counts(intensity, mask, PHOTONS, generator))
    pixels = torch.cat(counts) * mask
    return ImageSet(
        pixels, mask.expand(pixels.shape), "counts", experiment, torch.stack(radii), turns
    ), values


def all_images(count: int) -> tuple[ImageSet, list[tuple[str, Any]]]:
    """So many images of every shape in turn, with their shapes and the values of their parameters."""
    sets = [images_of(name, count) for name in SHAPES]
    order = torch.arange(len(sets) * count).unflatten(0, (len(sets), count)).T.flatten()
    joined = {
        field: torch.cat([getattr(images, field) for images, _ in sets])[order]
        for field in ("images", "mask", "radius_nm", "quaternion")
    }
    truth = [(name, value) for name, (_, values) in zip(SHAPES, sets, strict=True) for value in values]
    images = replace(sets[0][0], numbers=torch.arange(len(order)), **joined)
    return images, [truth[place] for place in order.tolist()]


def measure(images: ImageSet, truth: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    """A row for each image: truth, answer, costs."""
    answer = fit_shapes(METHODS[METHOD], tuple(SHAPES.values()), Problem(images, Simulator()))
    rows: list[dict[str, Any]] = []
    for row, (name, value) in enumerate(truth):
        right, found = answer.shape[row] == name, answer.nuisance.get(SHAPES[name].parameter)
        body = SHAPES[name].body()
        turn = float(disorientation(answer.quaternion[row], images.quaternion[row], body))
        rows.append({
            "truth": name, "value": value, "shape": answer.shape[row], "status": answer.status[row],
            "runner_up": answer.runner_up[row], "odds": float(answer.nuisance["shape_odds"][row]),
            "radius_nm": float(images.radius_nm[row]),
            "radius_error_nm": float(answer.radius_nm[row] - images.radius_nm[row]) if right else None,
            "disorientation_deg": turn if right and not body.round else None,
            "value_error": float(found[row]) - value if right and found is not None else None,
            "equivalent_nm": float(answer.nuisance[EQUIVALENT][row]),
            "core_seconds": float(answer.core_seconds[row]), "seconds": float(answer.seconds[row]),
            "evaluations": int(answer.evaluations[row]),
        })  # fmt: skip
    return rows


def page(found: dict[str, Any]) -> str:
    """The confusion matrix and what the targets say."""
    everything = found["rows"]
    table = {name: [row for row in everything if row["truth"] == name] for name in SHAPES}
    table = {name: rows for name, rows in table.items() if rows}
    total = len(everything)
    scale = "" if total >= FULL * len(SHAPES) else "Small scale: "
    origin, how = found["origin"], " ".join((__doc__ or "").split("\n\n")[2].split())
    lines = [
        "# Which body is it?\n",
        f"{scale}{found['images']} images a body, {total} in all. {how}\n",
        f"Made by `{origin['command']}` at commit {short_commit(origin['commit'])} on "
        f"{origin['machine']['processor']}, {origin['machine']['cores']} cores, seed {SEED}.\n",
    ]
    right = {name: np.mean([row["shape"] == name for row in rows]) for name, rows in table.items()}
    share = np.mean([row["shape"] == row["truth"] for row in everything])
    sure = [row for row in everything if row["status"] == "ok"]
    sure_right = np.mean([row["shape"] == row["truth"] for row in sure])
    cores = np.mean([row["core_seconds"] for row in everything])
    otherwise = f"{1 - right['icosahedron']:.1%}" if "icosahedron" in right else "owed"
    rows = [
        ["right body", f">= {TARGETS['right']:.0%}", f"{share:.1%}"],
        ["right body, of the rows that say ok", "", f"{sure_right:.1%} of {len(sure)}"],
        ["icosahedra called otherwise", f"<= {TARGETS['icosahedra']:.0%}", otherwise],
        ["core-seconds an image (2 s on two cores)", f"<= {2 * TARGETS['seconds']:g}", f"{cores:.2f}"],
    ]
    lines.append(text_table(["", "target", "measured"], rows))
    names = [name for name in SHAPES if name in table]
    lines.append("Rows: truth; columns, by number: answer. Last columns: what rows say of themselves.\n")
    header = ["", *(str(number + 1) for number in range(len(SHAPES))), "right", "ambiguous", "unknown"]
    body = []
    for name in names:
        rows = table[name]
        said, status = Counter(row["shape"] for row in rows), Counter(row["status"] for row in rows)
        cells = [str(said[other]) if said[other] else "" for other in SHAPES]
        number = list(SHAPES).index(name) + 1
        doubts = [f"{right[name]:.0%}", str(status["ambiguous"]), str(status["unknown"])]
        body.append([f"{number} {name}", *cells, *doubts])
    lines.append(text_table(header, body))
    lines.append("Errors where the body is right (median; 90 % quantile):\n")
    body = []
    for name in names:
        cells = [name]
        for key in ("radius_error_nm", "disorientation_deg", "value_error"):
            errors = np.abs([row[key] for row in table[name] if row[key] is not None])
            cells.append(f"{np.median(errors):.2g}; {np.quantile(errors, 0.9):.2g}" if len(errors) else "")
        body.append(cells)
    lines.append(text_table(["", "circumradius (nm)", "orientation (deg)", "parameter"], body))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--images", type=int, help="measure anew with so many images of each body")
    arguments = parser.parse_args()
    found = json.loads(PATH.read_text()) if PATH.is_file() else {}
    if arguments.images:
        prepare_kernel(torch.device("cpu"))
        origin = provenance(SEED, torch.device("cpu"), Experiment())
        origin["command"] = f"python reports/bodies.py --images {arguments.images}"
        same = found.get("images") == arguments.images and found["origin"]["commit"] == origin["commit"]
        found = {"origin": origin, "images": arguments.images, "rows": found["rows"] if same else []}
        images, truth = all_images(arguments.images)
        measure(images.subset(torch.arange(1)), truth[:1])  # dictionaries that are not there yet
        for part in torch.arange(len(truth))[len(found["rows"]) :].split(BLOCK):
            found["rows"] += measure(images.subset(part), [truth[place] for place in part.tolist()])
            write_json(PATH, found)
            right = sum(row["shape"] == row["truth"] for row in found["rows"])
            print(f"{right} of {len(found['rows'])} right", flush=True)
    if not found:
        print("bodies.json: still owed")
        return
    with atomic_path(HERE / "bodies.md") as temporary:
        temporary.write_text(page(found))


if __name__ == "__main__":
    main()
