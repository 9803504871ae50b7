"""From measurements to a verdict. No measuring here."""

import math
from dataclasses import dataclass, field

__all__ = ["Case", "Comparison", "regressions", "report"]

Case = tuple[str, int]
"""Name of a benchmark, and number of its combination of parameters."""


@dataclass
class Comparison:
    """What was measured of one case; times in seconds, memory in bytes, whatever is tracked; lower is better.

    Attributes:
        label: the benchmark with its parameters.
        base, head: the best of every round; NaN where left out, None where it failed.
        repeats: ratios of independent repetitions after a suspicion.
    """

    label: str
    base: list[float | None] = field(default_factory=list)
    head: list[float | None] = field(default_factory=list)
    repeats: list[float] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        """Fails at the head, though not at the base."""
        return None in self.head and None not in self.base

    @property
    def comparable(self) -> bool:
        """Whether both sides gave numbers."""
        values = self.base + self.head
        return bool(values) and all(value is not None and math.isfinite(value) for value in values)

    @property
    def ratio(self) -> float:
        """Head over base: of the best of all rounds, as noise only ever adds."""
        base, head = min(filter(_known, self.base)), min(filter(_known, self.head))  # type: ignore[type-var]
        if base == head:
            return 1.0
        return head / base if base > 0 else math.inf  # type: ignore[operator]

    def regressed(self, factor: float) -> bool:
        """Beyond the factor at first and in every repetition, of which there was at least one."""
        return bool(self.repeats) and min(self.ratio, *self.repeats) > factor


def _known(value: float | None) -> bool:
    return value is not None


def regressions(cases: dict[Case, Comparison], factor: float) -> list[Case]:
    """The cases that got worse, the worst first."""
    found = [case for case, own in cases.items() if own.comparable and own.regressed(factor)]
    return sorted(found, key=lambda case: -min(cases[case].ratio, *cases[case].repeats))


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else f"{value:.3g}"


def report(cases: dict[Case, Comparison], factor: float) -> list[str]:
    """The verdict in lines, the regressions last."""
    compared = [own for own in cases.values() if own.comparable]
    worse = [cases[case] for case in regressions(cases, factor)]
    lines = []
    failing = [own for own in cases.values() if None in own.base + own.head and not own.broken]
    for own in failing:
        lines.append(f"not compared: {own.label} fails at the base")
    for own in compared:
        if own.ratio < 1 / factor:
            lines.append(f"better, not repeated: {own.label}, {_number(own.ratio)} times the base")
    for own in compared:
        if own.repeats and own not in worse:
            ratios = ", ".join(_number(ratio) for ratio in (own.ratio, *own.repeats))
            lines.append(f"a suspicion that did not repeat: {own.label}, {ratios} times the base")
    for own in cases.values():
        if own.broken:
            lines.append(f"BROKEN: {own.label} fails at the head")
    for own in worse:
        ratios = ", ".join(_number(ratio) for ratio in (own.ratio, *own.repeats))
        lines.append(f"REGRESSION: {own.label}, {ratios} times the base")
    lines.append(f"{len(compared)} compared, {len(worse)} beyond {factor:g} times the base and repeated")
    return lines
