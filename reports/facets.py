"""Facets that are free: how well their distances are found.

    python reports/facets.py --images 20                  # measures anew
    python reports/facets.py --images 6 --directions      # facets whose directions are free, too
    python reports/facets.py                              # writes the page of what is stored

Icosahedra whose facets are moved in or out by 3 to 10 % of the circumradius, every facet by its own amount;
1e6 photons, hole of 3 degrees, sizes 50 to 100 nm, random orientations. Each is first fitted as a regular
icosahedron by `dictionary+lm`, and then with free distances. Errors are those of the planes, after the shift
of the whole body that the image cannot show. Stopped, the same command goes on.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from stored import HERE, text_table

from icobench.fitting.facets import FacetOptions, fit_facets, free_body
from icobench.fitting.objectives import objective_for
from icobench.geometry.convex import icosahedron
from icobench.geometry.rotations import quaternion_to_matrix, random_quaternions
from icobench.images.image_set import ImageSet
from icobench.images.pixels import photon_counts, usable_pixels
from icobench.methods import METHODS, Problem
from icobench.provenance import provenance, short_commit
from icobench.seeds import Purpose, random_generator, torch_generator
from icobench.sets.own_images import FIT_SIN_THETA
from icobench.simulator.compiled import prepare_kernel
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import atomic_path, write_json

SEED, PHOTONS, HOLE_DEG, RADII_NM, MOVED = 27_400, 1e6, 3.0, (50.0, 100.0), (0.03, 0.10)
WANTED = 0.01
"""Largest error of a visible facet's distance, over the circumradius."""

TILT_DEG = 1.5
"""Standard deviation of a facet's direction about either axis, where directions are measured."""

PATH = HERE / "facets.json"


def tilted(normals: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """Normals (F, 3), each turned by its own small angles."""
    moved = normals + np.radians(TILT_DEG) * draws.standard_normal(normals.shape)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def one(number: int, directions: bool = False) -> dict[str, Any]:
    """An image, its fit, and how far that is from the truth."""
    regular, simulator = icosahedron(), Simulator(Experiment())
    draws = random_generator(SEED, Purpose.SIMULATE, number)
    generator = torch_generator(SEED, Purpose.SIMULATE, number)
    size = draws.uniform(*RADII_NM)
    moves = draws.uniform(*MOVED, len(regular.normals)) * draws.choice([-1, 1], len(regular.normals))
    distance, turn = size * (regular.offsets + moves), random_quaternions(1, generator)
    directed = tilted(regular.normals, draws) if directions else regular.normals
    body, radius = free_body("moved", directed, distance)
    mask = usable_pixels(simulator.experiment, HOLE_DEG) & (simulator.experiment.sin_theta() <= FIT_SIN_THETA)
    intensity = simulator.with_body(body).intensity(torch.tensor([radius]), turn)
    counts = photon_counts(intensity, mask, PHOTONS, generator) * mask
    images = ImageSet(counts, mask[None], "counts", simulator.experiment)
    start = METHODS["dictionary+lm"].run(Problem(images, simulator))
    known = objective_for(images, simulator), 0, regular, float(start.radius_nm[0]), start.quaternion[0]
    distances_alone = fit_facets(*known) if directions else None
    begin = time.process_time()
    fit = fit_facets(*known, FacetOptions(directions=directions))
    spent = time.process_time() - begin
    fitted, true = (quaternion_to_matrix(q.double())[0].numpy() for q in (fit.quaternion[None], turn))
    normals, cosines = fit.normals @ fitted.T, (fit.normals @ fitted.T) @ (directed @ true.T).T
    there = cosines.argmax(1)
    gap = fit.distance_nm - distance[there]
    weight = 1 / np.maximum(fit.distance_std_nm, 1e-3)
    shift = np.linalg.lstsq(normals * weight[:, None], gap * weight, rcond=None)[0]
    error = (gap - normals @ shift) / size
    return {
        "number": number, "size_nm": size, "regular_objective": float(start.objective[0]),
        "objective": fit.value, "poor": fit.poor, "free": int(fit.free.sum()), "evidence": fit.evidence,
        "same_facets": len(set(there.tolist())) == len(there) and float(cosines.max(1).min()) > 0.95,
        "core_seconds": spent, "evaluations": fit.evaluations,
        "distances_alone": None if distances_alone is None else distances_alone.value,
        "facets": [
            {
                "error": float(error[facet]), "std": float(fit.distance_std_nm[facet] / size),
                "removal": float(fit.removal[facet]), "visible": bool(fit.visible[facet]),
                "angle_deg": float(np.degrees(np.arccos(min(cosines[facet].max(), 1.0)))),
                "moved": float(moves[there[facet]]), "towards_detector": float(normals[facet, 2]),
            }
            for facet in range(len(gap))
        ],
    }  # fmt: skip


def page(found: dict[str, Any]) -> str:
    """The page of what is stored, of free directions too where they are measured."""
    text = "# Free facets\n\n" + " ".join((__doc__ or "").split("\n\n")[2].split()) + "\n\n" + section(found)
    if directions := found.get("directions"):
        text += (
            f"\n## Directions\n\nSmall scale. The facets' directions are off as well, by {TILT_DEG:g} "
            "degrees (standard deviation about either axis), and are fitted along.\n\n" + section(directions)
        )
        rows = directions["rows"]
        seen = [facet for row in rows if row["same_facets"] for facet in row["facets"] if facet["visible"]]
        angles, alone = [facet["angle_deg"] for facet in seen], [row["distances_alone"] for row in rows]
        text += (
            f"\nWith free distances alone the deviance of a pixel is {np.median(alone):.2f} (median). The "
            f"directions of visible facets are off by {np.median(angles):.2f} degrees (median; 90 % quantile "
            f"{np.quantile(angles, 0.9):.2f}); those of the regular body are by about "
            f"{1.177 * TILT_DEG:.1f}.\n"
        )
    return text


def section(found: dict[str, Any]) -> str:
    """The tables of one measurement."""
    rows, origin = found["rows"], found["origin"]
    facets = [facet for row in rows if row["same_facets"] for facet in row["facets"]]
    seen = np.array([facet["visible"] for facet in facets])
    error, spread = (np.abs([facet[name] for facet in facets]) for name in ("error", "std"))
    firm = seen & (spread < WANTED / 2)
    height = np.array([facet["towards_detector"] for facet in facets])

    def share(values: np.ndarray, chosen: np.ndarray) -> str:
        some = values[chosen]
        return f"{100 * np.mean(some <= WANTED):.1f} %" if len(some) else "-"

    def middle(values: np.ndarray, chosen: np.ndarray) -> str:
        return f"{100 * np.sqrt(np.mean(values[chosen] ** 2)):.2f} %" if chosen.any() else "-"

    groups = [
        ("all", np.ones_like(seen)),
        ("visible: the deviance grows by more than 10 without it", seen),
        ("visible, and its own error bar below 0.5 %", firm),
        ("not visible", ~seen),
        ("within 18 degrees of the beam", np.abs(height) > 0.95),
        ("the others", np.abs(height) <= 0.95),
    ]
    lines = [
        f"{len(rows)} images, made by `{origin['command']}` at commit {short_commit(origin['commit'])} on "
        f"{origin['machine']['processor']}, {origin['machine']['cores']} cores, seed {SEED}.\n",
        text_table(
            ["facets", "number", "rms error, of R", f"within {100 * WANTED:g} %"],
            [[name, str(int(chosen.sum())), middle(error, chosen), share(error, chosen)]
             for name, chosen in groups],
        ),
        "",
    ]  # fmt: skip
    good = [row for row in rows if not row["poor"]]
    lines += [
        f"The deviance of a pixel is {np.median([row['regular_objective'] for row in rows]):.1f} (median) "
        "with the regular body and "
        f"{np.median([row['objective'] for row in rows]):.3f} with free facets; "
        f"{len(good)} of {len(rows)} fits explain their image. The evidence frees "
        f"{np.mean([row['free'] for row in rows]):.1f} of 20 facets: a common size and a shift of the body "
        "carry the others. "
        f"{np.median([row['core_seconds'] for row in rows]):.1f} core-seconds and "
        f"{np.median([row['evaluations'] for row in rows]):.0f} simulated images a fit (medians)."
    ]
    inside = np.mean(error[seen] <= 2 * spread[seen]) if seen.any() else np.nan
    lines.append(f"\n{100 * inside:.0f} % of the visible facets lie within two of their own error bars.")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=0, help="measure so many; 0 writes the page alone")
    parser.add_argument("--directions", action="store_true", help="measure with free directions")
    arguments = parser.parse_args()
    images, directions = arguments.images, arguments.directions
    if images:
        prepare_kernel(torch.device("cpu"))
        origin = provenance(SEED, torch.device("cpu"), Experiment())
        origin["command"] = f"python reports/facets.py --images {images}{' --directions' * directions}"
        partial = PATH.with_suffix(".directions" * directions + ".partial")
        rows = json.loads(partial.read_text()) if partial.is_file() else []
        for number in range(len(rows), images):
            rows.append(one(number, directions))
            write_json(partial, rows)
            print(number, f"{rows[-1]['objective']:.3f}", flush=True)
        measured = {"origin": origin, "rows": rows}
        before = json.loads(PATH.read_text()) if PATH.is_file() else {}
        kept = {name: before[name] for name in ("directions",) if name in before}
        write_json(PATH, {**before, "directions": measured} if directions else {**measured, **kept})
        partial.unlink(missing_ok=True)
    with atomic_path(PATH.with_suffix(".md")) as temporary:
        temporary.write_text(page(json.loads(PATH.read_text())))


if __name__ == "__main__":
    main()
