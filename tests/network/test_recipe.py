"""Recipes with numbers that make no sense."""

import math

import pytest

from icobench.errors import InputError
from icobench.network.recipe import Recipe, read_recipe


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("learning_rate", (0.0, -1e-3, math.nan, math.inf)),
        ("average", (1.0, -0.1)),
        ("settle_share", (1.5, math.nan)),
        ("whole_share", (-0.1,)),
        ("default_index_share", (1.1,)),
        ("warm_share", (2.0,)),
        ("radius_nm", ((160.0, 30.0), (-5.0, 30.0), (math.nan, math.nan), (30.0,), 30.0)),
        ("photons", ((0.0, 1e5), (1e6, 1e5))),
        ("hole_degrees", ((3.0, 1.0), (0.0, 95.0))),
        ("sine", ((1.0, 0.5), (0.5, 1.5))),
        ("refraction", ((0.1, 0.0), (0.0, 1.0))),
        ("absorption", ((0.1, 0.0), (-0.1, 0.0))),
        ("steps", (1.5,)),
        ("pool", (2.5,)),
        ("batch", (32.0,)),
    ],
)
def test_recipe_names_the_number_that_makes_no_sense(name, values):
    for value in values:
        with pytest.raises(InputError, match=f"not a recipe: {name} must be"):
            Recipe.from_dict({"steps": 1, name: list(value) if isinstance(value, tuple) else value})


def test_batch_of_nothing_in_a_file(tmp_path):
    (tmp_path / "my.toml").write_text("steps = 3\nbatch = 0\n")
    with pytest.raises(InputError, match=r"my\.toml: not a recipe: .*batch a multiple of variants"):
        read_recipe(tmp_path / "my.toml")
    (tmp_path / "my.toml").write_text('steps = 3\nlearning_rate = "fast"\n')
    with pytest.raises(InputError, match=r"my\.toml: not a recipe"):
        read_recipe(tmp_path / "my.toml")
