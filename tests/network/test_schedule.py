"""The plateau rule on made-up losses, and in a training that is stopped and resumed."""

from dataclasses import replace

import pytest

from icobench.errors import InputError
from icobench.network.optimisers import FALL, FALLS, Schedule
from icobench.network.recipe import Recipe
from icobench.network.training import train
from icobench.simulator.experiment import Experiment

RECIPE = Recipe(
    steps=1000, batch=8, variants=8, network={"widths": [4, 4, 8], "hidden": 8}, radius_nm=(28.0, 32.0),
    patience=2, validate_steps=10, loss="log",
)  # fmt: skip


def test_recipe_chooses():
    cycle, plateau = Schedule(replace(RECIPE, patience=None)), Schedule(RECIPE)
    assert plateau.learning_rate(999) == RECIPE.learning_rate > 50 * cycle.learning_rate(999)
    assert cycle.settling(999) and not plateau.settling(999)
    cycle.observe(10, lambda: pytest.fail("one cycle needs no validation"))
    with pytest.raises(InputError):
        Recipe.from_dict({"steps": 10, "patience": 0})


def observe(rule, loss):
    """A validation after ten steps."""
    rule.observe(10, lambda: loss)


def test_rate_falls_when_the_loss_does_not():
    rule = Schedule(RECIPE)
    peak = RECIPE.learning_rate
    assert [rule.learning_rate(step) for step in (0, 4, 9, 500)] == pytest.approx(
        [0.1 * peak, 0.5 * peak, peak, peak]
    )
    observed = []
    for step in range(1, 31):
        Schedule(RECIPE).observe(step, lambda step=step: observed.append(step) or 1.0)
    assert observed == [10, 20, 30]
    for loss in (1.0, -0.5, -0.505, -2.0):  # logarithms; one that hardly improves is waited for
        observe(rule, loss)
    assert rule.learning_rate(500) == peak
    for fall in range(1, FALLS + 1):
        observe(rule, -2.0)
        observe(rule, -2.005)
        assert rule.learning_rate(500) == pytest.approx(peak * FALL**fall)
        assert rule.settling(500) == (fall == FALLS)
        assert not rule.finished(500)
    again = replace(rule)
    for schedule in (rule, again):
        observe(schedule, -2.0)
        assert not schedule.finished(500)
        observe(schedule, -2.0)
        assert schedule.finished(500)
    assert Schedule(RECIPE).finished(1000)  # the ceiling


@pytest.mark.parametrize("loss", ["mse", "square"])
def test_squares_improve_by_a_share(loss):
    rule = Schedule(replace(RECIPE, loss=loss, patience=1))
    for loss in (1e-3, 0.98e-3, 0.9e-3):
        observe(rule, loss)
    assert rule.falls == 0
    observe(rule, 0.895e-3)
    assert rule.falls == 1


def test_training_ends_on_its_plateau_and_resumes(tmp_path, monkeypatch):
    """Nothing is good enough here: 1 + 4 x 1 validations, one after each step."""
    monkeypatch.setattr("icobench.network.optimisers.PROGRESS", 1e9)
    recipe = replace(RECIPE, steps=6, patience=1, validate_steps=1)
    uninterrupted = train(recipe, Experiment(), tmp_path / "whole", seed=1)
    assert uninterrupted.finished and uninterrupted.steps == 1 + FALLS + 1
    part = train(recipe, Experiment(), tmp_path / "part", seed=1, max_minutes=0.0)
    assert not part.finished and part.steps == 1
    part = train(recipe, Experiment(), tmp_path / "part", seed=1)
    assert part.steps == uninterrupted.steps
    weights = (run.network.state_dict() for run in (uninterrupted, part))
    assert all((a == b).all() for a, b in zip(*(state.values() for state in weights), strict=True))
