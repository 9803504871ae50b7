"""CMA-ES, the control."""

from icobench.answer import Answer, Progress
from icobench.fitting.cma_es import CmaOptions, cma_es
from icobench.fitting.least_squares import with_error_bars
from icobench.fitting.warm_start import judged
from icobench.methods.base import Method, Problem

__all__ = ["CMA_ES"]


def _run(problem: Problem, options: CmaOptions, progress: Progress) -> Answer:
    objective = problem.objective()
    fit = cma_es(objective, options, problem.seed, problem.images.numbers, progress)
    return with_error_bars(objective, judged(objective, fit))


CMA_ES = Method(
    "cma-es", "covariance matrix adaptation from two random starts, the control", _run, CmaOptions()
)
