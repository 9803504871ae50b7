"""Fits on a GPU that is pretended: the CPU's results, few launches, and hardly a wait."""

import pytest

MOST = {"step": (110, 1), "iteration": (180, 2), "match": (380, 4)}
"""Operators that start work on the GPU, beside the simulations, and waits of the processor for it: of a step
of all fits by Levenberg-Marquardt, of an iteration of all simplices, and of a match with stored patterns."""


def test_fits_keep_a_gpu_busy_however_many_images():
    pretended = pytest.importorskip("benchmarks.pretend_gpu", exc_type=ImportError)  # needs a recent torch
    few, many = pretended.apart(pretended.fits_on_a_gpu, (2, 5), 64)
    for name, (operators, waits) in MOST.items():
        assert few[name].same and many[name].same
        assert many[name].operators <= operators and many[name].waits <= waits, many
    assert all(many[name].operators == few[name].operators for name in ("step", "match"))
