"""A race of simplices from random starts."""

from icobench.fitting.race import RaceOptions, simplex_race
from icobench.methods.base import Method, Outcome, Problem, Progress, multi_start

__all__ = ["SIMPLEX_RACE"]

OPTIONS = RaceOptions()


def _run(problem: Problem, progress: Progress) -> Outcome:
    objective = problem.objective()
    fit = simplex_race(objective, OPTIONS, problem.seed, problem.numbers, progress=progress)
    return multi_start(objective, fit)


SIMPLEX_RACE = Method("simplex-race", "60 random starts, the best few of which go on", _run, options=OPTIONS)
