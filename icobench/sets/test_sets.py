"""Test sets by name: a ladder from the fitters' own model to images that know nothing of it.

Reconstructing images with the simulator that made them (the "inverse crime", Colton and Kress, Inverse
Acoustic and Electromagnetic Scattering Theory, 1992) measures noise and search alone. Every rung adds what
a real experiment adds.
"""

from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path

from icobench.errors import InputError
from icobench.images.detector import DETECTORS, Detector
from icobench.sets.own_images import is_image_file
from icobench.sets.patterns import PatternOptions

__all__ = ["ENTRY_POINTS", "TEST_SETS", "TestSet", "available_test_sets", "find_test_set"]

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
        path: a file of images that are reconstructed as they are, instead.
    """

    __test__ = False  # not a test case, whatever pytest thinks of its name

    name: str
    summary: str
    detector: Detector = DETECTORS["clean"]
    method: str = "exact"
    path: Path | None = None

    def options(
        self, images: int, photons: float | None = None, hole_degrees: float | None = None
    ) -> PatternOptions:
        """Settings for :func:`~icobench.sets.patterns.generate_patterns`.

        Args:
            images: how many.
            photons, hole_degrees: instead of the set's own.

        Raises:
            InputError: photons for a set without noise, or anything for a file.
        """
        if self.path is not None and not photons is hole_degrees is None:
            raise InputError(f"{self.path}: its images are taken as they are; photons and hole cannot be set")
        detector = self.detector
        if photons is not None:
            if detector.photons == 0:
                raise InputError(f"the test set {self.name} has no noise; photons cannot be set")
            detector = replace(detector, photons=photons)
        if hole_degrees is not None:
            detector = replace(detector, hole_degrees=hole_degrees)
        return PatternOptions(images, detector=detector, method=self.method)


COUNTING = DETECTORS["counting"]

TEST_SETS = {
    one.name: one
    for one in (
        TestSet("clean", "noise-free intensities from the fitters' own model", DETECTORS["clean"]),
        TestSet("counting", "1e5 photons and a 3 degree hole, the fitters' own model", COUNTING),
        TestSet(
            "experiment", "also a cropped detector with noise, gains, dead pixels, an unknown beam position",
            DETECTORS["experiment"],
        ),
        TestSet("voxels", "as counting, made by the paper's algorithm on voxels", COUNTING, "sliced"),
        TestSet(
            "propagated", "as counting, made by split-step propagation: multiple scattering", COUNTING,
            "propagated",
        ),
    )
}  # fmt: skip


def available_test_sets() -> dict[str, TestSet]:
    """All test sets by name, those that other packages offer included.

    Raises:
        InputError: an entry point that is no test set.
    """
    known = dict(TEST_SETS)
    for point in entry_points(group=ENTRY_POINTS):
        try:
            offered = point.load()
        except Exception as error:  # another package's import may raise anything
            raise InputError(f"entry point {point.name}: {type(error).__name__}: {error}") from error
        if not isinstance(offered, TestSet):
            raise InputError(f"entry point {point.name}: expected an icobench TestSet")
        known.setdefault(offered.name, offered)
    return known


def find_test_set(name: str) -> TestSet:
    """The test set with this name, or of the images in the file of this name.

    Raises:
        InputError: there is none.
    """
    if name in TEST_SETS:
        return TEST_SETS[name]
    if is_image_file(name):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        return TestSet(path.stem, f"the images of {path.name}", path=path)
    known = available_test_sets()
    if name not in known:
        raise InputError(
            f"unknown test set {name!r}; choose from {', '.join(known)}, or give a file of images"
        )
    return known[name]
