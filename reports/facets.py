"""Facets that are free: how well their distances are found.

    python reports/facets.py --images 20      # measures anew
    python reports/facets.py                  # writes the page of what is stored

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

from icobench.fitting.facets import fit_facets, free_body
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

PATH = HERE / "facets.json"


def one(number: int) -> dict[str, Any]:
    """An image, its fit, and how far that is from the truth."""
    regular, simulator = icosahedron(), Simulator(Experiment())
    draws = random_generator(SEED, Purpose.SIMULATE, number)
    generator = torch_generator(SEED, Purpose.SIMULATE, number)
    size = draws.uniform(*RADII_NM)
    moves = draws.uniform(*MOVED, len(regular.normals)) * draws.choice([-1, 1], len(regular.normals))
    distance, turn = size * (regular.offsets + moves), random_quaternions(1, generator)
    body, radius = free_body("moved", regular.normals, distance)
    mask = usable_pixels(simulator.experiment, HOLE_DEG) & (simulator.experiment.sin_theta() <= FIT_SIN_THETA)
    intensity = simulator.with_body(body).intensity(torch.tensor([radius]), turn)
    counts = photon_counts(intensity, mask, PHOTONS, generator) * mask
    images = ImageSet(counts, mask[None], "counts", simulator.experiment)
    start = METHODS["dictionary+lm"].run(Problem(images, simulator))
    begin = time.process_time()
    fit = fit_facets(
        objective_for(images, simulator), 0, regular, float(start.radius_nm[0]), start.quaternion[0]
    )
    spent = time.process_time() - begin
    fitted, true = (quaternion_to_matrix(q.double())[0].numpy() for q in (fit.quaternion[None], turn))
    normals, cosines = fit.normals @ fitted.T, (fit.normals @ fitted.T) @ (regular.normals @ true.T).T
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
        "facets": [
            {
                "error": float(error[facet]), "std": float(fit.distance_std_nm[facet] / size),
                "removal": float(fit.removal[facet]), "visible": bool(fit.visible[facet]),
                "moved": float(moves[there[facet]]), "towards_detector": float(normals[facet, 2]),
            }
            for facet in range(len(gap))
        ],
    }  # fmt: skip


def page(found: dict[str, Any]) -> str:
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
        "# Free facets\n", " ".join((__doc__ or "").split("\n\n")[2].split()) + "\n",
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
    images = parser.parse_args().images
    if images:
        prepare_kernel(torch.device("cpu"))
        origin = provenance(SEED, torch.device("cpu"), Experiment())
        origin["command"] = f"python reports/facets.py --images {images}"
        partial = PATH.with_suffix(".partial")
        rows = json.loads(partial.read_text()) if partial.is_file() else []
        for number in range(len(rows), images):
            rows.append(one(number))
            write_json(partial, rows)
            print(number, f"{rows[-1]['objective']:.3f}", flush=True)
        write_json(PATH, {"origin": origin, "rows": rows})
        partial.unlink(missing_ok=True)
    with atomic_path(PATH.with_suffix(".md")) as temporary:
        temporary.write_text(page(json.loads(PATH.read_text())))


if __name__ == "__main__":
    main()
