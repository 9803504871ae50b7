"""A tuned recipe is judged by new trainings, seed by seed on the same images, not by the search's value."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from icobench.network.recipe import Recipe
from icobench.storage import toml_text

REPORTS = str(Path(__file__).parents[2] / "reports")
SEEDS = (101, 102, 103)
TINY = Recipe(steps=1, batch=4, images="clean", network={"widths": [4, 4, 8], "hidden": 8})


@pytest.fixture(scope="module")
def tuned_network():
    sys.path.insert(0, REPORTS)
    try:
        import tuned_network

        yield tuned_network
    finally:
        sys.path.remove(REPORTS)


@pytest.fixture
def search(tmp_path) -> Path:
    """A folder of a search that cost something and saw its best trial at half of the shipped error."""
    rows = {
        "front": [{"named": None, "objectives": [0.5]}], "named": [{"named": "shipped", "objectives": [1.0]}],
        "search": {"trials": 9, "seconds": 70.0, "core_seconds": 60.0, "simulations": 5000},
        "states": {"complete": 5, "pruned": 4},
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(rows))
    (tmp_path / "search.json").write_text(json.dumps({"identity": {"task": {"recipe": TINY.to_dict()}}}))
    best = {**TINY.to_dict(), "learning_rate": 0.01}
    (tmp_path / "best.toml").write_text(
        toml_text({name: value for name, value in best.items() if value is not None})
    )
    (tmp_path / "trainings").mkdir()
    return tmp_path


def store(folder, factors, settings=(("steps", 300), ("learning_rate", 0.003))):
    """Trainings whose tuned errors are those of the shipped recipe times a factor, in every image."""
    errors = np.random.default_rng(0).lognormal(size=50)
    for seed, factor in zip(SEEDS, factors, strict=False):
        for name, scale in (("shipped", 1.0), ("tuned", factor)):
            recipe = {"steps": 300, "learning_rate": 0.001} if name == "shipped" else dict(settings)
            document = {
                "command": "", "created": "", "versions": {}, "machine": {}, "device": "cpu", "commit": "",
                "seed": seed, "name": name, "test_set": "clean", "test_seed": 1, "settings": recipe,
                "training_core_seconds": 75.0,
                "errors": {
                    "disorientation_deg": (scale * errors).tolist(), "radius_error_nm": errors.tolist(),
                    "appendix_c_mean": (0.01 * errors).tolist(),
                },
            }  # fmt: skip
            (folder / "trainings" / f"{name}-seed{seed}.json").write_text(json.dumps(document))


def test_seeds_are_what_the_verdict_rests_on(tuned_network, search):
    """Fifty images a seed agree to the last digit; the seeds do not."""
    store(search, (0.8, 0.9, 1.25))
    result = tuned_network.compared(search)
    assert [pair["ratio"]["value"] for pair in result["seeds"]] == pytest.approx([0.8, 0.9, 1.25])
    assert all(pair["images"] == 50 for pair in result["seeds"])
    ratio = result["ratio"]
    assert (ratio["median"], ratio["least"], ratio["most"]) == pytest.approx((0.9, 0.8, 1.25))
    logs = np.log([0.8, 0.9, 1.25])
    half = 4.302653 * logs.std(ddof=1) / np.sqrt(3)  # Student's t of two degrees of freedom
    assert np.log([ratio["low"], ratio["high"]]) == pytest.approx([logs.mean() - half, logs.mean() + half])
    text = tuned_network.tuned_text(search)
    assert "3 seeds do not tell them apart" in text
    assert "a median of 0.500 degrees (the shipped recipe: 1.00)" in text
    assert "9 trials" in text
    assert "1.00 core-minutes" in text
    assert result["changes"] == {"learning_rate": [0.001, 0.003]}


@pytest.mark.parametrize(("factors", "word"), [((0.5, 0.52, 0.51), "better"), ((1.5, 1.52, 1.49), "worse")])
def test_what_all_seeds_agree_on(tuned_network, search, factors, word):
    store(search, factors)
    assert f"The tuned one is {word}" in tuned_network.tuned_text(search)


def test_what_is_missing_or_does_not_belong_together(tuned_network, search):
    assert "still owed" in tuned_network.tuned_text(search / "none")
    store(search, (0.8,))
    assert tuned_network.compared(search) == {}  # a seed has no scatter
    store(search, (0.8, 0.9))
    (search / "trainings" / "tuned-seed102.json").unlink()
    assert tuned_network.compared(search) == {}
    store(search, (0.8, 0.9))
    store(search, (0.8,), (("steps", 300), ("learning_rate", 0.1)))
    with pytest.raises(SystemExit, match="trainings of different recipes"):
        tuned_network.compared(search)


def test_both_recipes_are_trained_and_tested_alike(tuned_network, search):
    shipped, tuned = tuned_network.recipes(search)
    assert (shipped.learning_rate, tuned.learning_rate) == (TINY.learning_rate, 0.01)
    stored = []
    for name, recipe in (("shipped", shipped), ("tuned", tuned)):
        path = search / "trainings" / f"{name}-seed101.json"
        tuned_network.run(name, recipe, 101, 3, path, 0, "cpu")
        stored.append(json.loads(path.read_text()))
    for document in stored:
        assert document["seed"] == 101
        assert document["training_core_seconds"] > 0
        assert len(document["errors"]["disorientation_deg"]) == 3
        assert document["settings"]["network.hidden"] == 8
        assert document["settings"]["network.activation"] == "relu"  # which the recipe leaves open
    changes = [
        name for name in stored[0]["settings"] if stored[0]["settings"][name] != stored[1]["settings"][name]
    ]
    assert changes == ["learning_rate"]


def test_recipes_that_cannot_be_compared(tuned_network, search):
    best = search / "best.toml"
    best.write_text(best.read_text().replace("batch = 4", "batch = 8"))
    with pytest.raises(SystemExit, match="the search varied the batch"):
        tuned_network.recipes(search)
