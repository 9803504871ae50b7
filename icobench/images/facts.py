"""What a file states about its experiment, and what comes of it and of what the user says.

A radius scales with the wavelength, so no fit can notice a wrong one: what a file states is used, and a user
who says something else is asked which of them is right.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from icobench.errors import InputError
from icobench.simulator.experiment import Experiment, FlatDetector
from icobench.simulator.material import refractive_index

__all__ = [
    "OF_IMAGES",
    "Fact",
    "Facts",
    "Setup",
    "describe",
    "experiment_facts",
    "own_facts",
    "same",
    "settle",
]


AGREEMENT = 1e-3
"""Relative difference within which two numbers are the same."""

CENTRE_AGREEMENT = 0.02
"""Pixels within which two centres are the same."""


@dataclass(frozen=True)
class Fact:
    """One value that is known about images.

    Attributes:
        value: in the unit of its name; None where it was stated in a way that cannot be used.
        origin: where it comes from, for messages.
        by_frame: (N,) values where the frames differ; ``value`` is their median then.
        problem: why a value cannot be used, empty if it can.
    """

    value: Any
    origin: str
    by_frame: np.ndarray | None = None
    problem: str = ""


Facts = dict[str, Fact]
"""By name: a field of :class:`~icobench.simulator.experiment.Experiment`; ``distance_mm``, ``pixel_mm`` and
``centre`` of a flat detector, whose ``distance_mm`` of None means an orthographic grid; ``kind``,
``decades``, ``saturation``, ``transpose``, ``flip`` and ``gain`` of the images."""

DETECTOR = ("distance_mm", "pixel_mm", "centre")
OF_IMAGES = ("kind", "decades", "saturation", "transpose", "flip", "gain")
"""Facts that say how a file is read."""

PHYSICS = tuple(field.name for field in fields(Experiment) if field.name not in ("detector", "pixels"))

STANDARD = Experiment()
ALWAYS_SAID = ("wavelength_nm", "refractive_index", "sin_theta_max")
"""Values of an experiment that are said also where they are the usual ones."""

WORDS = {
    "wavelength_nm": "wavelength", "distance_mm": "detector distance", "pixel_mm": "pixel size",
    "centre": "beam centre", "sin_theta_max": "sin(theta) at the edge", "refractive_index":
    "refractive index", "solid_angle_factor": "solid angle factor", "centre_offset": "beam offset",
    "pixel_average": "average over pixels", "polarization": "polarisation", "efficiency": "efficiency",
}  # fmt: skip
SUFFIXES = {"wavelength_nm": " nm", "distance_mm": " mm", "pixel_mm": " mm"}


def describe(name: str, value: Any) -> str:
    """A value in words, such as "wavelength 13.5 nm"."""
    word = WORDS.get(name, name)
    if value is None:
        return "an orthographic grid" if name == "distance_mm" else f"no {word}"
    if isinstance(value, bool):
        return f"{word} {'on' if value else 'off'}"
    if name == "efficiency":
        return f"efficiency of {len(value)} angles"
    if isinstance(value, tuple):
        text = ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
    else:
        text = f"{value:.6g}" if isinstance(value, float | complex) else str(value)
    return f"{word} {text}{SUFFIXES.get(name, '')}"


def same(name: str, first: Any, second: Any) -> bool:
    """Whether two values of a fact agree, numbers to 0.1 % and centres to 0.02 pixels."""
    if isinstance(first, bool | str) or isinstance(second, bool | str) or None in (first, second):
        return first == second
    one, other = np.atleast_1d(first), np.atleast_1d(second)
    if one.shape != other.shape:
        return False
    size = np.maximum(np.abs(one), np.abs(other)) if name != "centre" else CENTRE_AGREEMENT / AGREEMENT
    return bool((np.abs(one - other) <= AGREEMENT * size).all())


@dataclass(frozen=True)
class Setup:
    """What images are reconstructed with, and where each value comes from.

    Attributes:
        experiment: physics, and the range of angles of an orthographic grid.
        detector: the flat detector that took the frames, None for an orthographic grid.
        centre: (x, y) of the beam in pixels of an orthographic frame, None for its middle.
        facts: all values that were not assumed.
        overridden: what the file stated and the user did not believe, in words.
        unused: what the file states and is not enough to be used, in words.
    """

    experiment: Experiment
    detector: FlatDetector | None
    centre: tuple[float, float] | None
    facts: Facts
    overridden: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Where the values come from: a line for each origin, then what is assumed, then what was
        overridden."""
        by_origin: dict[str, list[str]] = {}
        for name, fact in self.facts.items():
            if name in ALWAYS_SAID or fact.value != getattr(STANDARD, name, None):
                by_origin.setdefault(fact.origin, []).append(describe(name, fact.value))
        lines = [f"from {origin}: {', '.join(texts)}" for origin, texts in by_origin.items()]
        assumed = [
            describe(name, getattr(self.experiment, name))
            for name in ("wavelength_nm", "refractive_index")
            if name not in self.facts
        ]
        if self.detector is None and not {"sin_theta_max", "distance_mm"} & self.facts.keys():
            assumed.append(
                f"an orthographic grid with {describe('sin_theta_max', self.experiment.sin_theta_max)}"
            )
        if assumed:
            lines.append(f"assumed, as nothing says otherwise: {', '.join(assumed)}")
        lines += [f"overridden: the file states {text}" for text in self.overridden]
        return lines + [f"not used: {text}" for text in self.unused]


def settle(
    stated: Facts,
    given: Mapping[str, Any],
    override: bool = False,
    who: str = "the command line",
    counts: bool = True,
) -> Setup:
    """What a file states and what a user gives, brought together.

    Args:
        stated: by the file.
        given: by the user, under the same names; ``material`` is looked up at the wavelength that results.
        override: take the user's value where the file states another one.
        who: gave these values, for messages.
        counts: whether the images hold photon counts, which a flat detector counts in its pixels' solid angle
            unless that was corrected.

    Raises:
        InputError: a contradiction, or values that make no sense or are not complete.

    Example:
        >>> setup = settle({"wavelength_nm": Fact(20.0, "a.h5")}, {"sin_theta_max": 0.7})
        >>> setup.experiment.wavelength_nm, setup.experiment.sin_theta_max
        (20.0, 0.7)
    """
    stated, given, conflicts = dict(stated), dict(given), []
    distance = stated.get("distance_mm")
    if "sin_theta_max" in given and "distance_mm" not in given and distance and distance.value is not None:
        grid = describe("sin_theta_max", given["sin_theta_max"])
        conflicts.append(f"a flat detector ({distance.origin}), not an orthographic grid with {grid}")
        stated = {
            name: fact for name, fact in stated.items() if name not in (*DETECTOR, "solid_angle_factor")
        }
    for name, value in given.items():
        fact = stated.get(name)
        if fact is not None and not fact.problem and not same(name, fact.value, value):
            conflicts.append(f"{describe(name, fact.value)} ({fact.origin}), not {describe(name, value)}")
            if name == "distance_mm" and fact.value is None:
                for other in ("sin_theta_max", "solid_angle_factor"):
                    stated.pop(other, None)
    if "material" in given and "refractive_index" in stated:
        fact = stated.pop("refractive_index")
        conflicts.append(
            f"{describe('refractive_index', fact.value)} ({fact.origin}), not {given['material']}"
        )
    if conflicts and not override:
        raise InputError(
            f"the file states {'; '.join(conflicts)}; leave that out, or say --override if the file is wrong"
        )
    facts = {name: fact for name, fact in stated.items() if name not in given}
    facts |= {
        # The file's own value, which may have more digits and differ from frame to frame.
        name: stated[name]
        if name in stated and not stated[name].problem and same(name, stated[name].value, value)
        else Fact(value, who)
        for name, value in given.items()
        if name != "material"
    }
    for name, fact in facts.items():
        if fact.problem:
            option = {"wavelength_nm": "--wavelength", "centre": "--centre"}.get(
                name, f"--{name.replace('_', '-')}"
            )
            raise InputError(f"{fact.origin}: {fact.problem}; give {option}")
    unused = []
    for name, other in (("distance_mm", "pixel_mm"), ("pixel_mm", "distance_mm")):
        if name in facts and name not in given and other not in facts and facts[name].value is not None:
            fact = facts.pop(name)
            unused.append(f"{describe(name, fact.value)} ({fact.origin}), as no {WORDS[other]} is known")
    values = {name: fact.value for name, fact in facts.items()}
    detector, centre = _detector(values)
    changes = {name: values[name] for name in PHYSICS if name in values}
    if detector is not None:
        changes.setdefault("solid_angle_factor", counts)
        changes.pop("centre_offset", None)
        changes.pop("pixel_average", None)
    try:
        experiment = replace(Experiment(), **changes)
        if "material" in given:
            index = refractive_index(given["material"], experiment.wavelength_nm)
            facts["refractive_index"] = Fact(index, f"{who}, {given['material']}")
            experiment = replace(experiment, refractive_index=index)
    except ValueError as error:
        raise InputError(str(error)) from error
    return Setup(experiment, detector, centre, facts, tuple(conflicts), tuple(unused))


def _detector(values: Mapping[str, Any]) -> tuple[FlatDetector | None, tuple[float, float] | None]:
    """The flat detector that values describe, or the centre of an orthographic grid."""
    distance, pixel, centre = (values.get(name) for name in DETECTOR)
    if distance is None and pixel is None:
        return None, centre
    if distance is None or pixel is None:
        missing, option = ("pixel size", "--pixel-mm") if pixel is None else ("distance", "--distance-mm")
        raise InputError(
            f"a flat detector needs --distance-mm and --pixel-mm; its {missing} is missing ({option})"
        )
    try:
        return FlatDetector(distance, pixel, centre), None
    except ValueError as error:
        raise InputError(str(error)) from error


def experiment_facts(experiment: Experiment, origin: str) -> Facts:
    """What an experiment says, as facts."""
    values: dict[str, Any] = {name: getattr(experiment, name) for name in PHYSICS} | {"distance_mm": None}
    if (detector := experiment.detector) is not None:
        values |= {"distance_mm": detector.distance_mm, "pixel_mm": detector.pixel_mm}
        values["centre"] = detector.centre or (experiment.pixels / 2, experiment.pixels / 2)
        del values["sin_theta_max"]
    elif experiment.centre_offset != (0.0, 0.0):
        values["centre"] = tuple(experiment.pixels / 2 + offset for offset in experiment.centre_offset)
    del values["centre_offset"]
    if not experiment.efficiency:  # a detector that sees everything is no statement about it
        del values["efficiency"]
    return {name: Fact(value, origin) for name, value in values.items()}


def own_facts(attributes: Mapping[str, Any], origin: str) -> Facts:
    """What a file of this package states in the attributes of its group ``/icobench``."""
    facts: Facts = {}
    if "experiment" in attributes:
        facts = experiment_facts(Experiment.from_dict(json.loads(attributes["experiment"])), origin)
    if "kind" in attributes:
        facts["kind"] = Fact(str(attributes["kind"]), origin)
        if facts["kind"].value == "log":
            settings = json.loads(attributes.get("settings", "{}")).get("options", {})
            facts["decades"] = Fact(float(settings.get("decades", 6.0)), origin)
    return facts
