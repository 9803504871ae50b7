"""The paper's Monte Carlo simplex."""

from icobench.fitting.simplex import SimplexOptions, monte_carlo_simplex
from icobench.methods.base import Method, Outcome, Problem, Progress, multi_start

__all__ = ["SIMPLEX", "simplex_method"]


def simplex_method(name: str, summary: str, options: SimplexOptions) -> Method:
    """A Monte Carlo simplex with other settings."""

    def run(problem: Problem, progress: Progress) -> Outcome:
        objective = problem.objective()
        fit = monte_carlo_simplex(objective, options, problem.seed, problem.numbers, progress)
        return multi_start(objective, fit)

    return Method(name, summary, run, options=options)


SIMPLEX = simplex_method(
    "simplex", "50 random starts x 50 Nelder-Mead iterations, best taken", SimplexOptions()
)
