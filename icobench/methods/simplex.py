"""Simplices from random starts: the paper's Monte Carlo simplex, and a race of which the best few go on."""

from icobench.answer import Answer, Progress
from icobench.fitting.least_squares import with_error_bars
from icobench.fitting.simplex import SimplexOptions, monte_carlo_simplex
from icobench.fitting.warm_start import judged
from icobench.methods.base import Method, Problem

__all__ = ["SIMPLEX", "SIMPLEX_RACE"]


def _run(problem: Problem, options: SimplexOptions, progress: Progress) -> Answer:
    objective = problem.objective()
    fit = monte_carlo_simplex(objective, options, problem.seed, problem.images.numbers, progress)
    return with_error_bars(objective, judged(objective, fit))


SIMPLEX = Method(
    "simplex", "50 random starts x 50 Nelder-Mead iterations, best taken", _run, SimplexOptions()
)

SIMPLEX_RACE = Method(
    "simplex-race", "60 random starts, the best few of which go on", _run,
    SimplexOptions(
        starts=60, iterations=90, angle_tolerance_deg=0.02, rounds=((6, 20), (10, 6), (15, 2))
    ),
    version=2,
)  # fmt: skip
