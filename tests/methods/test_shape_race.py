"""Fits of other bodies than the icosahedron: their parameters, and the race of shapes."""

import json
from dataclasses import replace

import pytest
import torch

from icobench.answer import Answer, Hypotheses
from icobench.api import compare
from icobench.errors import InputError
from icobench.fitting.counter import JACOBIAN_COST, CountingSimulator
from icobench.fitting.nuisance import Nuisance
from icobench.geometry.orientation import disorientation
from icobench.geometry.shapes import SHAPES, shape
from icobench.images.detector import DETECTORS
from icobench.methods import METHODS, Problem, find_method, shapes
from icobench.methods.shapes import chosen_shape, fit_shapes, raced, with_shape_columns
from icobench.reporting.ledger import account
from icobench.sets.simulate import simulate
from icobench.sets.test_sets import TestSet
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

TURN = (0.8, 0.3, -0.4, 0.33)
LM = METHODS["dictionary+lm"].with_options(dictionary=500)


def images(*names, radius=55.0, photons=1e5):
    """One image of each body, without the pixels that ``reconstruct`` leaves out."""
    parts = [simulate(radius, TURN, photons, 3.0, shape=name) for name in names]
    fitted = parts[0].experiment.sin_theta() <= 0.8
    joined = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("images", "mask", "radius_nm", "quaternion")
    }
    joined |= {"mask": joined["mask"] & fitted, "bodies": list(names)}
    return replace(parts[0], numbers=torch.arange(len(parts)), **joined)


def test_derivative_by_a_shapes_parameter():
    """Against a wider difference, of bodies made by hand; two images are charged for it."""
    experiment = Experiment(pixels=64)
    counter = CountingSimulator(Simulator(experiment, body=shape("hexagonal-prism")), 1)
    nuisance = Nuisance.start(("shape", "centre"), 1, experiment).with_share(torch.tensor([0.2]))
    arguments = torch.tensor([0]), torch.tensor([50.0]), torch.tensor([TURN])
    intensity, slopes = counter.intensity_jacobian(*arguments, ("centre",), nuisance)
    assert int(counter.evaluations[0]) == JACOBIAN_COST + 4
    assert slopes.shape[1] == 4 + 2 + 1
    at, high, low = (
        Simulator(experiment, body=shape(f"hexagonal-prism={value}")).intensity(*arguments[1:])
        for value in (1.0, 1.05, 0.95)
    )
    torch.testing.assert_close(intensity, at, rtol=1e-4, atol=1e-5 * float(at.max()))
    assert float((slopes[:, -1] - (high - low) / 0.04).norm() / slopes[:, -1].norm()) < 0.02


def test_a_parameter_is_fitted_along_and_has_an_error_bar():
    some = images("hexagonal-prism=1.3")
    near = Hypotheses(torch.tensor([[54.0]]), torch.tensor([[TURN]]), torch.zeros(1, 1))
    simulator = Simulator(body=shape("hexagonal-prism"))
    problem = Problem(some, simulator, nuisance=("shape",), starts=near, share=torch.tensor([0.25]))
    answer = with_shape_columns(LM.with_options(rescue=False).run(problem), SHAPES["hexagonal-prism"])
    assert answer.status == ["ok"]
    assert answer.shape == ["hexagonal-prism"]
    error, bar = answer.nuisance["aspect_ratio"] - 1.3, answer.nuisance["aspect_ratio_std"]
    assert 0 < float(bar) < 0.02
    assert float(error.abs()) < 5 * float(bar)
    body = shape("hexagonal-prism=1.3")
    assert float(disorientation(answer.quaternion, some.quaternion, body)) < 1
    ratio = float(answer.nuisance["volume_equivalent_radius_nm"] / answer.radius_nm)
    assert ratio == pytest.approx((3 * body.volume / (4 * torch.pi)) ** (1 / 3), rel=0.02)


@pytest.mark.slow
def test_a_family_is_found_among_others():
    some = images("hexagonal-prism=1.3", "truncated-cube=0.5")
    shapes = [SHAPES[name] for name in ("hexagonal-prism", "truncated-cube", "cube")]
    answer = fit_shapes(LM, shapes, Problem(some, Simulator()))
    assert answer.status == ["ok", "ok"]
    assert answer.shape == ["hexagonal-prism", "truncated-cube"]
    assert float((answer.nuisance["aspect_ratio"][0] - 1.3).abs()) < 0.02
    assert float((answer.nuisance["truncation"][1] - 0.5).abs()) < 0.02


@pytest.mark.slow
def test_a_parameter_is_fitted_along_with_propagated_waves():
    """Silver, whose fits by straight rays are a degree and more off."""
    silver = Experiment(refractive_index=0.89 + 0.0859j, physics="propagated")
    some = simulate(45.0, TURN, 1e6, 3.0, silver, shape="hexagonal-prism=0.9")
    some = replace(some, mask=some.mask & (silver.sin_theta() <= 0.8))
    answer = fit_shapes(LM, [SHAPES["hexagonal-prism"]], Problem(some, Simulator(silver)))
    assert answer.status == ["ok"]
    error, bar = answer.nuisance["aspect_ratio"] - 0.9, answer.nuisance["aspect_ratio_std"]
    assert float(error.abs()) < 4 * float(bar) < 0.01
    body = shape("hexagonal-prism=0.9")
    assert float(disorientation(answer.quaternion, some.quaternion, body)) < 0.4


def test_shapes_race():
    """The right one wins; where it is not among them the shape is unknown; rows are independent."""
    some = images("cube", "octahedron", "sphere")
    shapes = [SHAPES[name] for name in ("cube", "sphere")]
    answer = fit_shapes(LM, shapes, Problem(some, Simulator()))
    assert answer.status == ["ok", "unknown", "ok"]
    assert (answer.shape[0], answer.shape[2]) == ("cube", "sphere")
    assert (answer.runner_up[0], answer.runner_up[2]) == ("sphere", "cube")
    assert float(answer.nuisance["shape_odds"][[0, 2]].min()) > 1e6
    assert (answer.radius_nm[[0, 2]] - 55).abs().max() < 0.3
    assert answer.orientation_std_deg.isnan().tolist()[2]
    assert (answer.evaluations > 20).all()
    alone = fit_shapes(LM, shapes, Problem(some.subset(torch.tensor([0])), Simulator()))
    assert float(alone.radius_nm[0]) == pytest.approx(float(answer.radius_nm[0]), abs=1e-3)
    frame = answer.to_frame()
    assert {"shape", "runner_up", "shape_odds", "volume_equivalent_radius_nm"} <= set(frame.columns)


def test_a_parameter_at_the_end_of_its_range_is_no_measurement():
    answer = Answer(torch.tensor([60.0, 60.0]), torch.eye(4)[:2])
    answer.nuisance = {"shape": torch.tensor([1.0, 0.5]), "shape_std": torch.tensor([0.1, 0.1])}
    answer = with_shape_columns(answer, SHAPES["hexagonal-prism"])
    assert answer.status == ["outside-range", "ok"]
    assert answer.nuisance["aspect_ratio"].tolist() == [3.0, 1.75]
    assert answer.nuisance["aspect_ratio_std"].tolist() == pytest.approx([0.25, 0.25])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("egg", "unknown shape 'egg', choose from icosahedron, .*; or auto"),
        ("cube=2", "the cube has no parameter"),
        ("cube,hexagonal-prism=2", "shapes that race have no values"),
        ("hexagonal-plate=3", "must lie in 0.1 to 0.5"),
    ],
)
def test_shapes_that_do_not_exist(text, message):
    with pytest.raises(InputError, match=message):
        chosen_shape(text)


def test_what_other_shapes_cannot_do():
    auto, prism, sphere = chosen_shape("auto"), chosen_shape("hexagonal-prism"), chosen_shape("sphere")
    lm = METHODS["dictionary+lm"]
    for chosen, arguments, message in (
        (auto, (METHODS["network+lm"], (), False, False, False), "networks know icosahedra only"),
        (auto, (METHODS["simplex"], (), False, False, False), "simplex cannot choose a shape"),
        (prism, (METHODS["dictionary+simplex"], (), False, False, False), "give hexagonal-prism=1"),
        (auto, (lm, (), True, False, False), "the beam is found with one body"),
        (prism, (lm, (), False, False, True), "the posterior is found with one body"),
        (sphere, (lm, ("centre",), False, False, False), "cannot be fitted with a sphere"),
        (sphere, (lm, ("shape",), False, False, False), "by its name alone"),
    ):
        with pytest.raises(InputError, match=message):
            chosen.check(*arguments)


def test_endings_of_names():
    """A race and free facets as methods of comparisons."""
    race = find_method("dictionary+lm-auto")
    assert race.chooses_shape
    assert race.card["chooses_shape"]
    assert race.options == METHODS["dictionary+lm"].options
    assert find_method("dictionary+lm-auto-propagated").physics == "propagated"
    assert find_method("dictionary+lm-auto-facets").summary.endswith("; then free facets")
    for name, message in (
        ("network+lm-auto", "network.lm cannot choose a shape"),
        ("simplex-auto", "simplex cannot choose a shape"),
        ("dictionary+simplex-auto", "cannot fit the aspect ratio"),
        ("dictionary+lm-propagated-auto", "write dictionary.lm-auto-propagated"),
        ("simplex-propagated-facets", "by straight rays"),
        ("mine-auto-facets", "unknown method 'mine-auto-facets'"),
    ):
        with pytest.raises(InputError, match=message):
            find_method(name)
    for method in (race, find_method("simplex-facets")):
        with pytest.raises(InputError, match=r"is for comparisons; here .* has the options --shape auto"):
            chosen_shape("icosahedron").check(method, (), False, False, False)


def test_a_race_in_a_comparison(monkeypatch, tmp_path):
    """The right bodies are named, and the ledger knows the dictionaries of both."""
    names = ("cube", "sphere")
    monkeypatch.setattr(shapes, "SHAPES", {name: SHAPES[name] for name in names})
    some = TestSet("some", "two bodies", DETECTORS["counting"], shapes=names, radius_range_nm=(50, 55))
    result = compare([raced(LM)], [some], images=2, workers=1, folder=tmp_path / "run", device="cpu")
    assert result.failures == {}
    assert result.results["body"].tolist() == ["cube", "sphere"]
    assert result.results["success"].all()
    # Nothing is computed, and nothing forgotten.
    compare([raced(LM)], [some], images=2, workers=1, folder=tmp_path / "run", device="cpu")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["dictionary"]["simulations"] > 900
    made, method = run["methods"]["dictionary+lm-auto"]["dictionary"], "dictionary+lm-auto"
    assert made["simulations"] > 1000  # 500 for 60 rotations are 1,250 for 24
    costs = account(method, result.results, run, 1e-3)
    assert costs.fixed_simulations == made["simulations"]
