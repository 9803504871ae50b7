"""CMA-ES, the control."""

from icobench.fitting.cma_es import CmaOptions, cma_es
from icobench.methods.base import Method, Outcome, Problem, Progress, multi_start

__all__ = ["CMA_ES"]

OPTIONS = CmaOptions()


def _run(problem: Problem, progress: Progress) -> Outcome:
    objective = problem.objective()
    return multi_start(objective, cma_es(objective, OPTIONS, problem.seed, problem.numbers, progress))


CMA_ES = Method(
    "cma-es", "covariance matrix adaptation from two random starts, the control", _run, options=OPTIONS
)
