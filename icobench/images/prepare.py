"""From a file to images on a grid, with the experiment that they come from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from icobench.errors import InputError
from icobench.images.facts import OF_IMAGES, Setup, experiment_facts, settle
from icobench.images.geometry import Panels, parse_panels, read_geom
from icobench.images.image_set import KINDS, ImageSet
from icobench.images.image_source import DECADES, ImageSource
from icobench.images.reading import Reading
from icobench.images.resample import OWN_GRID, on_grid
from icobench.images.response import Response
from icobench.images.source import open_arrays, open_images
from icobench.simulator.experiment import Experiment, FlatDetector
from icobench.storage import plain

__all__ = ["Prepared", "prepare"]

FOUND = ("kind", "gain", "steps", "response")
"""What fits of the first images may have changed of a source."""


@dataclass
class Prepared:
    """Images on a grid, with the experiment that they are believed to come from.

    Attributes:
        source: as stored.
        grid: brought to the grid.
        experiment: of the grid.
        setup: where the values of the experiment come from.
        notes: what the user should know before any work, a line each.
        call: the arguments of :func:`prepare` where the images are a file; another process opens it by them.
    """

    source: ImageSource
    grid: ImageSource
    experiment: Experiment
    setup: Setup
    notes: list[str]
    call: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.source.files.close()

    @property
    def found(self) -> dict[str, Any]:
        """What fits of the first images have said of the source, as JSON has it; :meth:`take` takes it."""
        found = {name: getattr(self.source, name) for name in FOUND}
        if (response := self.source.response) is not None:
            ceiling = response.saturation if math.isfinite(response.saturation) else None
            found["response"] = [response.gamma, ceiling]
        return found

    def take(self, found: Mapping[str, Any]) -> Self:
        """Take what earlier fits of the same images have found.

        Raises:
            InputError: something that no fit finds.
        """
        values = {name: found[name] for name in FOUND if name in found}
        response, gain = values.get("response"), values.get("gain")
        try:
            sound = values.get("kind", self.source.kind) in KINDS and (gain is None or gain > 0)
            values["response"] = None if response is None else Response.of(*response)
        except TypeError:
            sound = False
        if not sound:
            raise InputError(f"{self.source.where}: no fit finds such values: {plain(dict(found))}")
        for name, value in values.items():
            setattr(self.source, name, value)
        self.grid.kind = self.source.kind
        return self

    def __reduce__(self) -> Any:
        if self.call is None:
            raise TypeError("only the images of a file can be opened by another process")
        return _opened_again, (self.call, self.found)


def _opened_again(call: dict[str, Any], found: dict[str, Any]) -> Prepared:
    """The images of a file in another process."""
    return prepare(**call).take(found)


def _given(experiment: Experiment | Mapping[str, Any] | None) -> dict[str, Any]:
    """What a caller states of the experiment, by name."""
    if experiment is None:
        return {}
    if not isinstance(experiment, Experiment):
        return dict(experiment)
    values = experiment_facts(experiment, "")
    return {
        name: fact.value for name, fact in values.items() if name != "distance_mm" or fact.value is not None
    }


def prepare(
    images: Any,
    mask: Any = None,
    kind: str = "auto",
    experiment: Experiment | Mapping[str, Any] | None = None,
    *,
    detector: FlatDetector | None = None,
    centre: tuple[float, float] | None = None,
    pixels: int | None = None,
    reading: Reading | None = None,
    geometry: Path | str | None = None,
    panels: str | None = None,
    polar: bool = False,
    override: bool = False,
    who: str = "the caller",
) -> Prepared:
    """Open images, settle what they come from, and bring them to a grid; arguments as for
    :func:`~icobench.runs.reconstruct.reconstruct`.

    Args:
        who: gave the experiment, for messages.
    """
    reading = replace(reading or Reading(kind), override=override)
    call = None
    if isinstance(images, str | Path):
        call = {
            "images": images, "experiment": experiment, "detector": detector, "centre": centre,
            "pixels": pixels, "reading": reading, "geometry": geometry, "panels": panels, "polar": polar,
            "override": override,
        }  # fmt: skip
    facts = {}
    if isinstance(images, ImageSource):
        source = images
    elif isinstance(images, str | Path):
        source = open_images(images, reading=reading)
    elif isinstance(images, ImageSet):
        source = open_arrays(images.images, images.mask, images.kind)
        if images.experiment is not None and experiment is None:
            facts = experiment_facts(images.experiment, "the set of images")
    else:
        source = open_arrays(images, mask, kind, reading)
    given = _given(experiment)
    if detector is not None:
        given |= {"distance_mm": detector.distance_mm, "pixel_mm": detector.pixel_mm}
        centre = detector.centre or centre
    if centre is not None:
        given["centre"] = (float(centre[0]), float(centre[1]))
    lying = None
    if geometry is not None:
        lying = read_geom(Path(geometry), source.modules)
        facts |= {name: fact for name, fact in lying.facts.items() if name != "gain"}
        if "gain" in lying.facts and source.gain is None:
            source.with_noise(lying.facts["gain"].value)
    elif panels is not None:
        lying = parse_panels(panels, source.stored_shape)
    facts = {name: fact for name, fact in (source.facts | facts).items() if name not in OF_IMAGES}
    setup = settle(facts, given, override, who, source.kind == "counts")
    if lying is not None:
        source.use_panels(lying)
    elif not polar and not isinstance(images, ImageSet):
        beam = setup.centre if setup.detector is None else setup.detector.centre
        source.leave_out_hole(*(beam or (source.stored_shape[1] / 2, source.stored_shape[0] / 2)))
    grid, placed = _placed(source, setup, pixels, lying, polar)
    notes = [*source.remarks, *setup.lines(), *(lying.remarks if lying is not None else ())]
    if source.decades_assumed:
        notes.append(f"log images are assumed to span {DECADES:g} decades; --decades says how many")
    return Prepared(source, grid, placed, setup, notes, call)


def _placed(
    source: ImageSource, setup: Setup, pixels: int | None, panels: Panels | None, polar: bool
) -> tuple[ImageSource, Experiment]:
    """Frames on a grid; the beam is where it is in turned images."""
    detector, centre, axes = setup.detector, setup.centre, source.axes
    turned = bool(axes.flip or axes.transpose)
    if panels is not None and turned:
        raise InputError("panels say themselves which way they lie; leave out --flip and --transpose")
    if source.modules is not None and panels is None:
        raise InputError(
            f"{source.where}: expected images of shape (N, H, W) or (H, W), got {source.modules[0]} parts of "
            "each; if these are a detector's modules, say where they lie by --geometry FILE.geom or --panels"
        )
    given = detector.centre if detector is not None else centre
    if turned and given is not None:
        # In pixels of the stored frames; one that is not given is the middle of the turned ones.
        where = axes.place(*given, source.stored_shape)
        detector = detector and replace(detector, centre=where)
        centre = where if detector is None else None
    own_grid = source.shape[0] == source.shape[1] <= OWN_GRID and source.shape[1] % 2 == 0
    if detector is None and centre is not None and pixels is None and own_grid:
        pixels = source.shape[1]
    corrected = detector is not None and source.kind != "log" and not setup.experiment.solid_angle_factor
    return on_grid(source, setup.experiment, detector, centre, pixels, panels, polar, corrected)
