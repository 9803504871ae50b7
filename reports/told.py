"""What each method says where it was told something wrong: the error, the status, and whether the user was
told.

    python reports/told.py --measure   # some minutes on one core
    python reports/told.py             # the page from what is stored

Sixteen images (1e5 photons, hole of 3 degrees, radii 40 to 150 nm) are reconstructed with one belief wrong at
a time, as bare arrays, which state nothing. An image counts as misled where its radius or orientation is off
by more than three error bars, or by 0.1 nm and 1 degree where there is no bar. The user was told if the
status is none of `ok` and `ok-race`, the image failed, or the command refused. Results are in `told.json`,
the page is `told.md`."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stored import text_table

from icobench.answer import OK, RESCUED, Answer
from icobench.errors import InputError
from icobench.geometry.orientation import disorientation, random_orientations
from icobench.images.image_set import ImageSet
from icobench.images.pixels import log_image
from icobench.images.reading import Reading
from icobench.provenance import provenance, short_commit
from icobench.runs.reconstruct import reconstruct
from icobench.seeds import Purpose, torch_generator
from icobench.sets.simulate import simulate
from icobench.simulator.experiment import Experiment
from icobench.storage import atomic_path, write_json

SEED, IMAGES = 31, 16
METHODS = ("network", "network+lm", "dictionary+lm")
BARS, LEAST_NM, LEAST_DEG = 3.0, 0.1, 1.0
HERE = Path(__file__).resolve().parent

Call = tuple[Any, Any, dict[str, Any]]
"""Images, masks and further arguments of a reconstruction."""


def moved(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.roll((2, -1), (1, 2))


CASES: dict[str, Callable[[ImageSet], Call]] = {
    "nothing wrong": lambda s: (s.images, s.mask, {}),
    "wavelength 1 % off": lambda s: (s.images, s.mask, {"experiment": {"wavelength_nm": 13.365}}),
    "centre 2 pixels off": lambda s: (moved(s.images), moved(s.mask), {}),
    "beam stop of 6 degrees taken for one of 3": lambda s: (stopped(s), s.mask, {}),
    "gain 3": lambda s: (3 * s.images, s.mask, {}),
    "gain 3, said to be 1": lambda s: (3 * s.images, s.mask, {"reading": Reading("counts", gain=1.0)}),
    "mirrored": lambda s: (mirrored(s.images), mirrored(s.mask), {}),
    "transposed": lambda s: (s.images.mT, s.mask.mT, {}),
    "rotated by 90 degrees": lambda s: (mirrored(s.images.mT), mirrored(s.mask.mT), {}),
    "mask inverted": lambda s: (s.images, ~s.mask, {}),
    "intensities given as log images": lambda s: (
        s.images / s.images.amax((1, 2), keepdim=True),
        s.mask,
        {"kind": "log"},
    ),
    "log images given as counts": lambda s: (log_image(s.images), s.mask, {"kind": "counts"}),
    "square roots given as counts": lambda s: (s.images.sqrt(), s.mask, {"kind": "counts"}),
    "material of silver, not said": lambda s: (silver(s), s.mask, {}),
    "a sphere": lambda s: (sphere(s), s.mask, {}),
}
"""What is wrong, and how the images are then reconstructed."""


UNSEEN = ("wavelength 1 % off", "mirrored", "transposed", "rotated by 90 degrees")
"""What no image shows: another body explains it as well."""


def mirrored(pixels: torch.Tensor) -> torch.Tensor:
    """Mirrored about the beam at pixel 64."""
    return pixels.flip(2).roll(1, 2)


def stopped(images: ImageSet) -> torch.Tensor:
    sine = Experiment().sin_theta()
    return images.images * (sine > np.sin(np.radians(6.0)))


def silver(images: ImageSet) -> torch.Tensor:
    experiment = Experiment(refractive_index=0.89 + 0.0859j, physics="propagated")
    made = simulate(images.radius_nm, images.quaternion, 1e5, 3.0, experiment, seed=SEED)
    return made.images


def sphere(images: ImageSet) -> torch.Tensor:
    return simulate(images.radius_nm, images.quaternion, 1e5, 3.0, shape="sphere", seed=SEED).images


def images() -> ImageSet:
    generator = torch_generator(SEED, Purpose.SIMULATE)
    radii = 40 + 110 * torch.rand(IMAGES, generator=generator, dtype=torch.float64)
    return simulate(radii, random_orientations(IMAGES, generator), 1e5, 3.0, seed=SEED)


def judged(answer: Answer, truth: ImageSet) -> dict[str, Any]:
    """Errors, statuses, and how many misled images were told of."""
    nm = (answer.radius_nm - truth.radius_nm).abs()
    angle = disorientation(answer.quaternion, truth.quaternion)
    over_nm = nm > (BARS * answer.radius_std_nm).nan_to_num(LEAST_NM).clamp_min(LEAST_NM)
    over_deg = angle > (BARS * answer.orientation_std_deg).nan_to_num(LEAST_DEG).clamp_min(LEAST_DEG)
    quiet = torch.tensor([word in (OK, RESCUED) for word in answer.status])
    failed = ~answer.radius_nm.isfinite()
    misled = over_nm | over_deg | failed
    return {
        "median_nm": float(nm.nanmedian()),
        "median_deg": float(angle.nanmedian()),
        "misled": int(misled.sum()),
        "told": int((misled & ~quiet).sum()),
        "statuses": {word: answer.status.count(word) for word in set(answer.status)},
        "notes": answer.notes,
    }


def measure() -> dict[str, Any]:
    truth, results = images(), []
    for case, call in CASES.items():
        pixels, mask, more = call(truth)
        for method in METHODS:
            options = {"kind": "counts"} if "reading" not in more else {}
            try:
                answer = reconstruct(pixels, mask, method=method, seed=SEED, device="cpu", **(options | more))
                result = judged(answer, truth)
            except InputError as error:
                result = {"refused": str(error), "misled": IMAGES, "told": IMAGES}
            results.append({"case": case, "method": method, **result})
            print(case, method, result.get("statuses", result.get("refused")), flush=True)
    origin = provenance(SEED, torch.device("cpu"), Experiment())
    origin["command"] = "python reports/told.py --measure"
    return {"origin": origin, "images": IMAGES, "results": results}


def page(values: dict[str, Any]) -> str:
    rows = []
    for row in values["results"]:
        if "refused" in row:
            said, errors = f"refused: {row['refused'][:90]}", ("-", "-")
        else:
            said = ", ".join(f"{word} {count}" for word, count in sorted(row["statuses"].items()))
            errors = f"{row['median_deg']:.2f}", f"{row['median_nm']:.2f}"
        told = f"{row['told']} of {row['misled']}" if row["misled"] else "none misled"
        rows.append((row["case"], row["method"], *errors, said, told))
    seen = [row for row in values["results"] if row["case"] not in UNSEEN or "refused" in row]
    told, misled = (sum(row[name] for row in seen) for name in ("told", "misled"))
    titles = "wrong", "method", "median (deg)", "median (nm)", "statuses", "told"
    origin = values["origin"]
    words = [
        f"{values['images']} images of 1e5 photons as bare arrays, one belief wrong at a time (small scale).",
        "An image is misled where it is off by more than three error bars, or has no answer; it was told if",
        "its status is not `ok` or `ok-race`.",
    ]
    after = [
        f"Where an image can show what is wrong, {told} of {misled} misled images were told of.",
        "A wrong wavelength scales the radius alone, and a mirrored, transposed or rotated image is that of",
        "another orientation: no fit can notice. Files that state their wavelength and axes are protected;",
        "see `docs/own_images.md`.",
    ]
    made = f"`{origin['command']}`, commit {short_commit(origin['commit'])}, seed {origin['seed']}."
    parts = ["# Who is told when something is wrong", " ".join(words), text_table(titles, rows)]
    return "\n\n".join([*parts, " ".join(after), made]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--measure", action="store_true")
    if parser.parse_args().measure:
        write_json(HERE / "told.json", measure())
    text = page(json.loads((HERE / "told.json").read_text()))
    with atomic_path(HERE / "told.md") as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    main()
