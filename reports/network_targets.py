"""What the shipped networks were meant to reach, and what `icobench evaluate` found."""

from typing import Any, NamedTuple

from icobench.network.checkpoint import training_core_seconds
from icobench.reporting.evaluation import pace_text, typical
from icobench.reporting.tables import number

__all__ = ["targets_text"]


class Target(NamedTuple):
    """A limit for one value of an evaluation, and why it is missed where it is."""

    what: str
    path: tuple[str, ...]
    factor: float
    limit: float
    unit: str
    at_least: bool = False
    why: str = ""


SPEED_WHY = (
    "the 59 million multiplications are the smaller part of it: the polar grid, the decoders and many small "
    "operations of torch take the rest, and the machine's pace varies"
)


BRIGHT_WHY = "its error hardly falls beyond 1e6 photons, while the bound does"


def _sets(name: str, orientation: float, far: float, radius: float, mean: float) -> tuple[Target, ...]:
    def target(what: str, column: str, key: str, factor: float, limit: float, unit: str) -> Target:
        return Target(f"{name}: {what}", ("sets", name, column, key), factor, limit, unit)

    return (
        target("disorientation, median", "disorientation_deg", "median", 1, orientation, "deg"),
        target("disorientation, 99 %", "disorientation_deg", "99", 1, far, "deg"),
        target("radius, median", "radius_error_nm", "median", 1, radius, "nm"),
        target("appendix C mean, median", "appendix_c_mean", "median", 100, mean, "%"),
    )


TARGETS = (
    *_sets("clean", 0.10, 0.6, 0.10, 0.08),
    *_sets("realistic", 1.0, 8.0, 0.8, 0.8),
    Target(
        "counting: disorientation over the Cramer-Rao bound, RMS over RMS",
        ("sets", "counting", "disorientation_deg_over_bound_rms"), 1, 3.0, "",
    ),
    Target(
        "counting: radius over the Cramer-Rao bound, RMS over RMS",
        ("sets", "counting", "radius_error_nm_over_bound_rms"), 1, 3.0, "",
    ),
    *(
        Target(
            f"{photons} photons: {what} over the Cramer-Rao bound, RMS over RMS",
            ("photons", photons, f"{error}_over_bound_rms"), 1, 3.0, "", why=BRIGHT_WHY,
        )
        for photons in ("1e+06", "1e+07")
        for what, error in (("disorientation", "disorientation_deg"), ("radius", "radius_error_nm"))
    ),
    Target("one image of counts", ("speed", "one_image_ms"), 1, 5.0, "ms", why=SPEED_WHY),
    Target(
        "batches of counts", ("speed", "images_per_second"), 1, 1000.0, "images/s", at_least=True,
        why=SPEED_WHY,
    ),
)  # fmt: skip


PRESET_TARGETS = (
    Target("its core minutes", ("core_minutes",), 1, 60.0, ""),
    *_sets("clean", 0.25, 1.5, 0.25, 0.2),
)  # fmt: skip
"""After half an hour on two cores."""


def _core_minutes(evaluation: dict[str, Any]) -> float | None:
    """What the network for clean images took to train."""
    cards = [card for card in evaluation.get("networks", []) if card["recipe"]["images"] == "clean"]
    return min((training_core_seconds(card) / 60 for card in cards), default=None)


def _verdict(target: Target, value: float, measured: Any) -> str:
    """Whether a target is met; a best round of several does not tell."""
    if target.path[0] == "speed" and not isinstance(measured, dict):
        return "not judged"
    return "met" if (value >= target.limit if target.at_least else value <= target.limit) else "missed"


def targets_text(evaluation: dict[str, Any], photons: dict[str, Any]) -> str:
    """Markdown: every target, what was measured, and why it fell short where it did.

    Args:
        evaluation: the content of evaluation.json.
        photons: that of photon_numbers.json.
    """
    evaluation = {**evaluation, "photons": photons.get("results", {})}
    lines = ["| target | limit | measured | | why not |", "|---|---|---|---|---|"]
    asked = [(target.what, target) for target in TARGETS]
    if (minutes := _core_minutes(evaluation)) is not None:
        evaluation = {**evaluation, "core_minutes": minutes}
        asked += [(f"the preset's training, {one.what}", one) for one in PRESET_TARGETS]
    for what, target in asked:
        value: Any = evaluation
        for key in target.path:
            value = value.get(key, {}) if isinstance(value, dict) else {}
        stored, value = value, typical(value)
        if not isinstance(value, float | int):
            continue
        value *= target.factor
        shown = pace_text(stored) if target.path[0] == "speed" else number(value)
        verdict = _verdict(target, value, stored)
        sign = ">=" if target.at_least else "<="
        lines.append(
            f"| {what} | {sign} {number(target.limit)} {target.unit} | {shown} "
            f"{target.unit} | "
            f"{verdict} | {target.why if verdict == 'missed' else ''} |"
        )
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."
