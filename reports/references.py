"""Ten reference posteriors: images, truth and samples of the exact posterior, to measure others against.

    python reports/references.py    # ten minutes on one core; replaces what is stored

The rule: the middles of five equal bands of the radii that networks learn from (28 to 164 nm), each with
the photons of two test sets (1e5, counting, and 1e6, propagated), a hole of 3 degrees, orientations by the
seed. The samples are those of adaptive importance sampling from the truth and its near twin
(`icobench.fitting.posterior`), of which each is kept with a probability proportional to its weight: what is
kept are independent draws of equal weight. Metropolis chains say whether both agree; classifiers that try to
tell both apart (C2ST; Lopez-Paz and Oquab, ICLR 2017) are right in half of the cases if they do.
`references/posteriors.npz` has the images and the samples, `references/references.json` the rest. Other
references need another version and new results in `amortised.json`."""

import hashlib
import math
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from posterior import summary, turns_from, walk

from icobench.answer import Hypotheses
from icobench.fitting.objectives import objective_for
from icobench.fitting.posterior import sample_posterior
from icobench.geometry.orientation import random_orientations
from icobench.geometry.rotations import rotate_about_beam
from icobench.images.image_set import ImageSet
from icobench.images.pixels import usable_pixels
from icobench.provenance import provenance
from icobench.seeds import Purpose, random_generator, seed_word, torch_generator
from icobench.sets.simulate import simulate
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from icobench.storage import atomic_path, write_json

__all__ = ["HOLE_DEGREES", "References", "c2st", "coordinates", "read_references"]

VERSION, SEED = 1, 51
BANDS, RADII, PHOTONS, HOLE_DEGREES = 5, (28.0, 164.0), (1e5, 1e6), 3.0
DRAWS, KEPT = 6000, 1000
EVERY = 9
"""Steps of a chain of which one is compared: the others are too much like it."""

FOLDS, HIDDEN, EPOCHS, BATCH, LEARNING_RATE = 5, 40, 100, 100, 3e-3
FOLDER = Path(__file__).resolve().parent / "references"


class References(NamedTuple):
    """N images with S samples each; photons and samples are float64.

    Attributes:
        images: photon counts, with masks and truth.
        photons: (N,) expected.
        radius_nm: (N, S).
        quaternion: (N, S, 4).
    """

    images: ImageSet
    photons: torch.Tensor
    radius_nm: torch.Tensor
    quaternion: torch.Tensor


def read_references() -> References:
    """The stored ones."""
    with np.load(FOLDER / "posteriors.npz") as stored:
        values = {name: torch.as_tensor(stored[name].astype(float)) for name in stored.files}
    experiment = Experiment()
    counts, mask = values["counts"].float(), usable_pixels(experiment, HOLE_DEGREES)
    truth = values["true_radius_nm"], values["true_quaternion"]
    images = ImageSet(counts, mask.expand(counts.shape), "counts", experiment, *truth)
    return References(images, values["photons"], values["radius_nm"], values["quaternion"])


def coordinates(radius_nm: torch.Tensor, quaternion: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """(S, 4): turns in degrees from an orientation (4,), and radii (S,) in nm."""
    return torch.cat((turns_from(quaternion, centre), radius_nm[:, None]), 1)


def c2st(first: torch.Tensor, second: torch.Tensor, seed: int = 0, epochs: int = EPOCHS) -> float:
    """Share of samples (S, D) of two kinds, as many of each, that a classifier assigns correctly.

    A perceptron with two hidden layers, by five-fold cross-validation; numbers are divided by the standard
    deviations of the first kind. All folds are trained at once.
    """
    values = torch.cat((first, second)).float()
    values = (values - first.mean(0).float()) / (first.std(0).float() + 1e-12)
    kinds = torch.arange(2).repeat_interleave(len(first)).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_word(seed, Purpose.BOOTSTRAP, 1))
        order = torch.randperm(len(values))
        parts = order[: len(order) // FOLDS * FOLDS].view(FOLDS, -1)
        rest = torch.stack(
            [torch.cat([part for n, part in enumerate(parts) if n != fold]) for fold in range(FOLDS)]
        )
        sizes = [values.shape[1], HIDDEN, HIDDEN, 1]
        weights = []
        for inputs, outputs in pairwise(sizes):
            weights.append(torch.randn(FOLDS, inputs, outputs) * math.sqrt(2 / inputs))
            weights.append(torch.zeros(FOLDS, 1, outputs))
        for weight in weights:
            weight.requires_grad_()

        def logits(x: torch.Tensor) -> torch.Tensor:
            for place in range(0, len(weights), 2):
                x = (x if place == 0 else x.relu()) @ weights[place] + weights[place + 1]
            return x[..., 0]

        optimiser = torch.optim.Adam(weights, LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
        for _ in range(epochs):
            for batch in torch.randperm(rest.shape[1]).split(BATCH):
                rows = rest[:, batch]
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits(values[rows]), kinds[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            schedule.step()
        with torch.no_grad():
            return float(((logits(values[parts]) > 0) == (kinds[parts] > 0.5)).float().mean())


def make(
    number: int, radius_nm: float, photons: float
) -> tuple[ImageSet, torch.Tensor, torch.Tensor, dict[str, Any]]:
    """An image, its samples (S,) and (S, 4), and what a chain says of these."""
    turn = random_orientations(1, torch_generator(SEED, Purpose.SIMULATE, number))
    truth = simulate([radius_nm], turn, photons, HOLE_DEGREES, seed=SEED + number)
    objective = objective_for(truth, Simulator(Experiment()))
    twin = rotate_about_beam(turn, torch.full((1,), math.pi, dtype=torch.float64))
    radii = truth.radius_nm[:, None].repeat(1, 2)
    starts = Hypotheses(radii, torch.stack((turn, twin), 1), torch.zeros_like(radii))
    found = sample_posterior(objective, starts, DRAWS, SEED, torch.tensor([number]))
    radius, turns, weight = found.radius_nm[0], found.quaternion[0], found.weight[0]
    chance = torch.rand(
        DRAWS, generator=torch_generator(SEED, Purpose.BOOTSTRAP, number), dtype=torch.float64
    )
    kept = (chance < weight / weight.max()).nonzero()[:, 0]
    if len(kept) < KEPT:
        raise SystemExit(f"image {number}: {len(kept)} of {DRAWS} draws were kept, {KEPT} are needed")
    kept = kept[
        torch.randperm(len(kept), generator=torch_generator(SEED, Purpose.BOOTSTRAP, number, 1))[:KEPT]
    ]
    even = torch.full((KEPT,), 1 / KEPT, dtype=torch.float64)
    ours = summary(truth, radius[kept], turns[kept], even)
    walked, turned = walk(objective, truth, ours["std"], random_generator(SEED, Purpose.STARTS, number))
    thinned = (walked[::EVERY].flatten()[:KEPT], turned[::EVERY].flatten(0, 1)[:KEPT])
    centre, steps = truth.quaternion[0], walked.flatten()
    by_chain = summary(
        truth, steps, turned.flatten(0, 1), torch.full((len(steps),), 1 / len(steps), dtype=torch.float64)
    )
    facts = {
        "radius_nm": radius_nm, "photons": photons, "effective": float(found.effective[0]),
        "pareto_k": float(found.pareto_k[0]), "samples": ours, "chain": by_chain,
        "c2st_chain": c2st(coordinates(radius[kept], turns[kept], centre), coordinates(*thinned, centre)),
    }  # fmt: skip
    print(facts, flush=True)
    return truth, radius[kept], turns[kept], facts


def main() -> None:
    origin = provenance(SEED, torch.device("cpu"), Experiment())
    origin["command"] = "python reports/references.py"
    width = (RADII[1] - RADII[0]) / BANDS
    cases = [(RADII[0] + (band + 0.5) * width, photons) for band in range(BANDS) for photons in PHOTONS]
    made = [make(number, *case) for number, case in enumerate(cases)]
    arrays = {
        "counts": torch.cat([one[0].images for one in made]).numpy().astype(np.uint32),
        "true_radius_nm": torch.cat([one[0].radius_nm for one in made]).numpy(),
        "true_quaternion": torch.cat([one[0].quaternion for one in made]).numpy(),
        "photons": np.array([photons for _, photons in cases]),
        "radius_nm": torch.stack([one[1] for one in made]).numpy().astype(np.float32),
        "quaternion": torch.stack([one[2] for one in made]).numpy().astype(np.float32),
    }
    FOLDER.mkdir(exist_ok=True)
    with atomic_path(FOLDER / "posteriors.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    digest = hashlib.sha256((FOLDER / "posteriors.npz").read_bytes()).hexdigest()[:16]
    facts = {"version": VERSION, "digest": digest, "origin": origin, "posteriors": [one[3] for one in made]}
    write_json(FOLDER / "references.json", facts)


if __name__ == "__main__":
    main()
