"""Search spaces are data; the paper's settings and ours are in them."""

from dataclasses import replace

import optuna
import pytest

from icobench.errors import InputError
from icobench.fitting.simplex import SimplexOptions
from icobench.network.architectures import build_network
from icobench.network.recipe import RECIPES
from icobench.runs.search_space import read_space
from icobench.runs.search_tasks import NetworkTask, simplex_options
from icobench.simulator.experiment import Experiment


def test_search_spaces_are_data(tmp_path):
    for kind in ("simplex", "network"):
        space = read_space(kind)
        assert list(space.enqueue) == ["paper", "ours"]
        for multi in (False, True):
            for values in space.first(multi).values():
                chosen = space.suggest(optuna.trial.FixedTrial(values), multi)  # raises if one is missing
                assert chosen.keys() == values.keys()
    cases = {
        "[parameters.a]\ntype = 'int'\nlow = 3\nhigh = 1": "must be ordered",
        "[parameters.a]\ntype = 'float'\nlow = 0\nhigh = 1\nlog = true": "positive for log",
        "[parameters.a]\ntype = 'text'": "type must be one of",
        "[parameters.a]\ntype = 'categorical'": "no choices",
        "[enqueue.x]\na = 1": "no parameters",
        "[parameters.a]\ntype = 'int'\nlow = 1\nhigh = 2\n[enqueue.x]\nb = 1": "which is no parameter",
        "parameters = ": "not a TOML file",
        "[parameters.a]\ntype = 'int'\nlow = 0.5\nhigh = 1": "must be whole numbers",
        "[parameters.a]\ntype = 'categorical'\nchoices = [1, 1]": "there twice",
        "[parameters.a]\ntype = 'categorical'\nchoices = [1]\nwhen = 'b'": "a: when must name a",
        "[parameters.a]\ntype = 'categorical'\nchoices = ['x']\n"
        "[parameters.b]\ntype = 'int'\nlow = 1\nhigh = 2\nwhen = 'a=y'": "'a=y' is met by no value of a",
        "[parameters.a]\ntype = 'int'\nlow = 1\nhigh = 2\n[enqueue.x]\na = 3": "x: a = 3 is not among",
        "[parameters.a]\ntype = 'categorical'\nchoices = [0, 1]\n[enqueue.x]\na = 2": "x: a = 2 is not",
        "[parameters.a]\ntype = 'int'\nlow = 1\nhigh = 2": "space.toml: a: no parameter of the simplex",
        "[parameters.rounds]\ntype = 'categorical'\nchoices = [0]": "space.toml: starts: missing",
        "[parameters.starts]\ntype = 'int'\nlow = 0\nhigh = 9": "starts: values must lie in 1",
    }
    for text, message in cases.items():
        path = tmp_path / "space.toml"
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_space("simplex", path)
    with pytest.raises(InputError, match=r"learning_rates: a recipe has none"):
        path.write_text("[parameters.learning_rates]\ntype = 'float'\nlow = 1\nhigh = 2")
        read_space("network", path)


def test_the_papers_settings_are_the_papers():
    values = {**read_space("simplex").enqueue["paper"]}
    options = simplex_options(values, 1)
    preset = SimplexOptions()
    assert options == {
        "starts": 50, "rounds": (), "iterations": 50, "rotation_deg": preset.rotation_deg,
        "radius_nm": preset.radius_nm, "angle_tolerance_deg": 0.0,
    }  # fmt: skip
    race = simplex_options({**values, "rounds": 2, "keep": 0.2, "budget": 1500}, 1)
    assert race["rounds"] == ((10, 10), (50, 2))
    assert race["iterations"] == 250
    task = NetworkTask(2, RECIPES["compact"], 0, Experiment())
    network = read_space("network")
    ours = network.suggest(optuna.trial.FixedTrial(network.first()["ours"]))
    preset = build_network("compact", RECIPES["compact"].network).options
    varied = {name: preset[name] for name in ("widths", "hidden", "blocks", "periods_nm", "activation")}
    assert task.varied(ours) == replace(RECIPES["compact"], network=varied)
    paper = task.varied(network.suggest(optuna.trial.FixedTrial(network.first()["paper"])))
    assert (paper.architecture, paper.loss, paper.network) == ("paper", "mse", {})
    assert paper.steps * paper.batch == task.recipe.steps * task.recipe.batch
