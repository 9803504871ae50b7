"""CMA-ES, the control: a well-kept global optimiser that knows nothing of the problem."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icobench.answer import Answer, Progress, Trace
from icobench.errors import InputError
from icobench.fitting.objectives import Objective
from icobench.fitting.simplex import SimplexOptions, random_starts
from icobench.geometry.orientation import to_fundamental_domain
from icobench.geometry.rotations import turned
from icobench.seeds import Purpose, seed_word

__all__ = ["CmaOptions", "cma_es"]


@dataclass(frozen=True)
class CmaOptions:
    """Settings.

    Attributes:
        population: evaluations per generation; larger ones search more widely.
        generations: most generations of a run.
        restarts: runs per image, each from another random start; the best end is taken.
        rotation_rad, radius_nm: first standard deviations.
        radius_range_nm, margin_nm: range of random starts, and by how much fits may leave it.
    """

    population: int = 24
    generations: int = 50
    restarts: int = 2
    rotation_rad: float = 0.4
    radius_nm: float = 35.0
    radius_range_nm: tuple[float, float] = (30.0, 160.0)
    margin_nm: float = 10.0


def cma_es(
    objective: Objective,
    options: CmaOptions,
    seed: int,
    numbers: Tensor | None = None,
    progress: Progress = lambda share: None,
) -> Answer:
    """Covariance matrix adaptation (Hansen, arXiv:1604.00772; package ``cma``), all images side by side.

    The package does the search, with one object for an image; the simulations of a generation are one batch.
    Arguments as for :func:`~icobench.fitting.simplex.monte_carlo_simplex`. Without the package
    :class:`InputError` is raised.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of plotting, when matplotlib is missing
            import cma
    except ImportError as error:
        raise InputError("CMA-ES needs the package cma: pip install cma") from error
    device = objective.simulator.device
    count = len(objective.images)
    numbers = torch.arange(count) if numbers is None else numbers
    starts = SimplexOptions(starts=options.restarts, radius_range_nm=options.radius_range_nm)
    radius, anchor = random_starts(count, starts, seed, numbers)
    # The package works in units of the first standard deviations.
    scale = np.array([options.rotation_rad] * 3 + [options.radius_nm])
    low, high = options.radius_range_nm
    smallest, largest = max(1.0, low - options.margin_nm), high + options.margin_nm
    limits = np.array([[-np.pi] * 3 + [smallest], [np.pi] * 3 + [largest]]) / scale
    best_value = torch.full((count,), torch.inf, dtype=torch.float64)
    best_radius, best_turn = radius[:, 0].clone(), anchor[:, 0].clone()
    finished = torch.zeros(count, dtype=torch.bool)
    trace = Trace()
    for restart in range(options.restarts):
        searches = []
        for row, number in enumerate(numbers.tolist()):
            begin = np.array([0.0, 0.0, 0.0, float(radius[row, restart]) / options.radius_nm])
            word = seed_word(seed, Purpose.CMA_ES, number, restart)
            settings = {
                "popsize": options.population, "seed": word % (2**31 - 1) + 1, "bounds": limits.tolist(),
                "verbose": -9, "maxiter": options.generations,
            }  # fmt: skip
            searches.append(cma.CMAEvolutionStrategy(begin, 1.0, settings))
        for generation in range(options.generations):
            rows = [row for row, search in enumerate(searches) if not search.stop()]
            if not rows:
                break
            candidates = {row: searches[row].ask() for row in rows}
            points = torch.as_tensor(np.concatenate([candidates[row] for row in rows]) * scale, device=device)
            image = torch.tensor(rows).repeat_interleave(options.population)
            quaternion = turned(anchor[image, restart].to(points), points[:, :3])
            value = objective.value(image.to(device), points[:, 3], quaternion).double().cpu()
            value = value.nan_to_num(nan=torch.inf).unflatten(0, (len(rows), -1))
            for row, values in zip(rows, value, strict=True):
                # The package sorts by value and wants numbers, however bad.
                searches[row].tell(candidates[row], values.clamp_max(1e30).tolist())
            lowest, place = value.min(1)
            image = torch.tensor(rows)
            better = lowest < best_value[image]
            chosen, at = image[better], (torch.arange(len(rows)) * options.population + place)[better]
            best_value[chosen] = lowest[better]
            best_radius[chosen] = points[at.to(device), 3].cpu()
            best_turn[chosen] = quaternion[at.to(device)].cpu()
            trace.add(objective.simulator.evaluations, best_radius, best_turn, best_value)
            progress((restart + (generation + 1) / options.generations) / options.restarts)
        finished |= torch.tensor([bool(set(search.stop()) - {"maxiter"}) for search in searches])
    return Answer(
        best_radius, to_fundamental_domain(best_turn, objective.simulator.body), best_value,
        objective.simulator.evaluations, finished & best_value.isfinite(), trace=trace,
    )  # fmt: skip
