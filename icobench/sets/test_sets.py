"""Test sets by name: from images made by the fits' own model to images made by other physics.

Reconstructing images with the simulator that made them (the "inverse crime", Colton and Kress, Inverse
Acoustic and Electromagnetic Scattering Theory, 1992) measures only noise and search. The other sets add what
a real experiment adds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

from icobench.errors import InputError
from icobench.geometry.shapes import SHAPES
from icobench.images.detector import DETECTORS, Detector
from icobench.images.formats import IMAGE_SUFFIXES
from icobench.sets.patterns import PAPER_BACKGROUND, PatternOptions, changed
from icobench.simulator.experiment import Experiment

__all__ = ["ENTRY_POINTS", "TEST_SETS", "TestSet", "available_test_sets", "find_icosahedra", "find_test_set"]

ENTRY_POINTS = "icobench.test_sets"
"""Group of entry points by which other packages offer a :class:`TestSet`."""


@dataclass(frozen=True)
class TestSet:
    """How test images are made.

    Attributes:
        name: as on the command line.
        summary: one line for help and reports.
        detector: what records them.
        method: simulator that makes them.
        kind, augmentation, background: as for :class:`~icobench.sets.patterns.PatternOptions`.
        path: a file of images to be used unchanged, instead of simulated ones.
        known: values of the experiment that are the set's own, and that methods know.
        calibrated, shapes, radius_range_nm: as for :class:`~icobench.sets.patterns.PatternOptions`.

    Example:
        >>> icobench.test_sets()["counting"].detector.photons
        100000.0
    """

    __test__ = False  # not a test case, whatever pytest thinks of its name

    name: str
    summary: str
    detector: Detector = DETECTORS["clean"]
    method: str = "exact"
    kind: str = "counts"
    augmentation: str = ""
    background: float = 0.0
    path: Path | None = None
    known: tuple[tuple[str, Any], ...] = ()
    calibrated: bool = False
    shapes: tuple[str, ...] = ()
    radius_range_nm: tuple[float, float] = PatternOptions.radius_range_nm

    def believed(self, experiment: Experiment) -> Experiment:
        """What methods believe about the set's images, given a run's experiment."""
        return replace(experiment, **dict(self.known))

    def options(
        self, images: int, photons: float | None = None, hole_degrees: float | None = None
    ) -> PatternOptions:
        """Settings for so many images, with other photons and another hole where these are given.

        Raises:
            InputError: photons for a set without noise, or anything for a file.
        """
        if self.path is not None and (photons, hole_degrees) != (None, None):
            raise InputError(f"{self.path}: its images are taken as they are; photons and hole cannot be set")
        if photons is not None and self.detector.photons == 0:
            raise InputError(f"the test set {self.name} has no noise; photons cannot be set")
        detector = changed(self.detector, photons=photons, hole_degrees=hole_degrees)
        return PatternOptions(
            images, self.kind, detector, self.radius_range_nm, background=self.background,
            method=self.method, augmentation=self.augmentation, calibrated=self.calibrated,
            shapes=self.shapes,
        )  # fmt: skip


COUNTING, MCP = DETECTORS["counting"], DETECTORS["mcp"]

SILVER = 0.8903 + 0.0794j
"""Refractive index of silver at 13.5 nm (:func:`~icobench.simulator.material.refractive_index`)."""

TEST_SETS = {
    test_set.name: test_set
    for test_set in (
        TestSet(
            "paper", "8-bit log images over six decades with background noise, as Stielow et al. 2020",
            kind="log", background=PAPER_BACKGROUND,
        ),
        TestSet("clean", "noise-free intensities from the fitters' own model", DETECTORS["clean"]),
        TestSet("counting", "1e5 photons and a 3 degree hole, the fitters' own model", COUNTING),
        TestSet(
            "experiment", "also a cropped detector with noise, gains, dead pixels, an unknown beam position",
            DETECTORS["experiment"],
        ),
        TestSet("voxels", "as counting, made by the paper's algorithm on voxels", COUNTING, "sliced"),
        TestSet(
            "propagated", "1e6 photons of silver in a polarised beam: refraction and multiple scattering",
            replace(COUNTING, photons=1e6), "propagated",
            known=(("refractive_index", SILVER), ("polarization", 0.0)),
        ),
        TestSet("mcp", "a microchannel plate, of whose efficiency and response methods know nothing", MCP),
        TestSet(
            "mcp-known", "the same with its response undone and its efficiency known", MCP,
            known=(("efficiency", MCP.efficiency),), calibrated=True,
        ),
        TestSet(
            "realistic", "log images, distorted in eight ways as detectors distort them", DETECTORS["clean"],
            kind="log", augmentation="realistic",
        ),
        TestSet(
            "bodies", "as counting: all bodies of the catalogue, volumes of icosahedra of 50 to 95 nm",
            COUNTING, shapes=tuple(SHAPES), radius_range_nm=(50.0, 95.0),
        ),
    )
}  # fmt: skip


def available_test_sets(extra: Mapping[str, TestSet] = MappingProxyType({})) -> dict[str, TestSet]:
    """All test sets by name: those of this package, ``extra`` ones and those that other packages offer.

    Raises:
        InputError: an entry point that is no test set.
    """
    test_sets = {**TEST_SETS, **extra}
    for point in entry_points(group=ENTRY_POINTS):
        try:
            offered = point.load()
        except Exception as error:  # another package's import may raise anything
            raise InputError(f"entry point {point.name}: {type(error).__name__}: {error}") from error
        if not isinstance(offered, TestSet):
            raise InputError(f"entry point {point.name}: expected an icobench TestSet")
        test_sets.setdefault(offered.name, offered)
    return test_sets


def find_test_set(name: str, extra: Mapping[str, TestSet] = MappingProxyType({})) -> TestSet:
    """The test set with this name, ``extra`` ones included, or that of the images in the file of this name.

    Raises:
        InputError: there is none.
    """
    at_hand = {**extra, **TEST_SETS}
    if name in at_hand:
        return at_hand[name]
    path = Path(name)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        return TestSet(path.stem, f"the images of {path.name}", path=path)
    test_sets = available_test_sets(extra)
    if name not in test_sets:
        raise InputError(
            f"unknown test set {name!r}; choose from {', '.join(test_sets)}, or give a file of images"
        )
    return test_sets[name]


def find_icosahedra(name: str) -> TestSet:
    """The test set with this name, for those who judge by the symmetry of the icosahedron.

    Raises:
        InputError: there is none, or it shows other bodies.
    """
    test_set = find_test_set(name)
    if test_set.shapes:
        raise InputError(f"the test set {name} shows other bodies than icosahedra; icobench compare takes it")
    return test_set
