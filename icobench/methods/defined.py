"""Methods that a preset defines: simplices with settings of one's own, such as a search found."""

from dataclasses import replace
from typing import Any

from icobench.errors import InputError
from icobench.fitting.race import RaceOptions, simplex_race
from icobench.fitting.simplex import SimplexOptions
from icobench.methods.base import Method, Outcome, Problem, Progress, multi_start
from icobench.methods.registry import ALLOWED, METHODS

__all__ = ["define_methods"]

KEYS = {"starts", "rounds", "iterations", "rotation_deg", "radius_nm", "angle_tolerance_deg", "search"}


def _method(name: str, values: dict[str, Any], where: str) -> Method:
    if not isinstance(values, dict) or not {"starts", "iterations"} <= set(values):
        raise InputError(f"{where}: define.{name} needs starts and iterations")
    if unknown := set(values) - KEYS:
        raise InputError(
            f"{where}: define.{name} has {sorted(unknown)[0]!r}; known are {', '.join(sorted(KEYS))}"
        )
    try:
        rounds = tuple((int(steps), int(left)) for steps, left in values.get("rounds", []))
        own: dict[str, Any] = {
            key: float(values[key])
            for key in ("rotation_deg", "radius_nm", "angle_tolerance_deg")
            if key in values
        }
        simplex = replace(
            SimplexOptions(starts=int(values["starts"]), iterations=int(values["iterations"])), **own
        )
        options = RaceOptions(simplex, rounds, int(values["iterations"]))
        positive = [options.iterations, simplex.starts, *(one for pair in rounds for one in pair)]
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: define.{name}: {error}") from error
    if min(positive) < 1:
        raise InputError(f"{where}: define.{name}: numbers of starts, rounds and iterations must be positive")

    def run(problem: Problem, progress: Progress) -> Outcome:
        objective = problem.objective()
        return multi_start(
            objective, simplex_race(objective, options, problem.seed, problem.numbers, progress)
        )

    going_on = "".join(f", {left} after {steps} more iterations" for steps, left in rounds)
    summary = f"{simplex.starts} random starts{going_on}, {options.iterations} iterations at the end"
    return Method(name, summary, run, options=options, search=values.get("search"))


def define_methods(defined: Any, where: str) -> None:
    """Register what a preset's tables ``[define.NAME]`` say.

    Args:
        defined: the tables by name: starts, iterations (of those left at the end), and if wanted rounds
            (pairs: iterations of a round, simplices that go on), rotation_deg, radius_nm (edges of the first
            simplices), angle_tolerance_deg, and search, what finding them has cost.
        where: the file, for messages.

    Raises:
        InputError: not such tables, or a name that is taken.
    """
    if not isinstance(defined, dict):
        raise InputError(f"{where}: define must hold tables, [define.NAME]")
    for name, values in defined.items():
        if not name or set(name) - ALLOWED:
            raise InputError(f"{where}: {name!r} is no name for a method; use letters, digits, +, - and _")
        method = _method(name, values, where)
        known = METHODS.get(name)
        if known is not None and known.settings != method.settings:
            raise InputError(f"{where}: there is a method {name} already")
        METHODS[name] = method
