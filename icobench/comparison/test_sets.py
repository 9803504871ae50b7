"""Test sets by name: a ladder from the fitters' own model to images that know nothing of it.

Reconstructing images with the simulator that made them (the "inverse crime", Colton and Kress, Inverse
Acoustic and Electromagnetic Scattering Theory, 1992) measures noise and search alone. Every rung adds what
a real experiment adds.
"""

from dataclasses import dataclass, replace

from icobench.datasets.patterns import PatternOptions
from icobench.errors import InputError
from icobench.images.detector import DETECTORS, Detector

__all__ = ["TEST_SETS", "TestSet", "find_test_set"]


@dataclass(frozen=True)
class TestSet:
    """How test images are made.

    Attributes:
        name: as on the command line.
        summary: one line for help and reports.
        detector: what records them.
        method: simulator that makes them.
    """

    __test__ = False  # not a test case, whatever pytest thinks of its name

    name: str
    summary: str
    detector: Detector
    method: str = "exact"

    def options(
        self, images: int, photons: float | None = None, hole_degrees: float | None = None
    ) -> PatternOptions:
        """Settings for :func:`~icobench.datasets.patterns.generate_patterns`.

        Args:
            images: how many.
            photons, hole_degrees: instead of the set's own.

        Raises:
            InputError: photons for a set without noise.
        """
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


def find_test_set(name: str) -> TestSet:
    """The test set with this name.

    Raises:
        InputError: there is none.
    """
    if name not in TEST_SETS:
        raise InputError(f"unknown test set {name!r}; choose from {', '.join(TEST_SETS)}")
    return TEST_SETS[name]
