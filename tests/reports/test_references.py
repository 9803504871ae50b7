"""The classifier two-sample test, and the reference posteriors as they are stored."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch

from icobench.geometry.orientation import disorientation

REPORTS = Path(__file__).parents[2] / "reports"


@pytest.fixture(scope="module")
def references():
    sys.path.insert(0, str(REPORTS))
    try:
        import references

        yield references
    finally:
        sys.path.remove(str(REPORTS))


def test_a_classifier_tells_only_different_samples_apart(references, generator):
    """Half of the samples for the same distribution; the best rule's share for two shifted normal ones."""
    first, second = torch.randn(2, 400, 4, generator=generator)
    assert references.c2st(first, second, epochs=25) == pytest.approx(0.5, abs=0.06)
    assert references.c2st(first, second + 8, epochs=25) > 0.99
    shift = torch.tensor([2.0, 0, 0, 0])
    best = float(torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(1.0)))
    assert references.c2st(first, second + shift, epochs=25) == pytest.approx(best, abs=0.06)


def test_references_are_whole_and_hold_their_truth(references):
    facts = json.loads((REPORTS / "references" / "references.json").read_text())
    stored = (REPORTS / "references" / "posteriors.npz").read_bytes()
    assert hashlib.sha256(stored).hexdigest()[:16] == facts["digest"]
    assert len(stored) < 2**20
    found = references.read_references()
    images = found.images
    assert found.radius_nm.shape == (10, references.KEPT)
    miss = (found.radius_nm.mean(1) - images.radius_nm).abs() / found.radius_nm.std(1)
    angle = disorientation(found.quaternion, images.quaternion[:, None])
    nearest, rms = angle.amin(1), angle.square().mean(1).sqrt()
    assert (miss < 4).all()
    assert (nearest < rms).all()
    assert all(one["pareto_k"] < 0.7 and one["effective"] > 1000 for one in facts["posteriors"])
    assert all(0.45 < one["c2st_chain"] < 0.55 for one in facts["posteriors"])
