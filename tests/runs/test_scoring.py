"""Scores of answers that name a body."""

import math
from functools import partial

import pytest
import torch

from icobench.answer import Answer
from icobench.geometry.rotations import quaternion_multiply
from icobench.images.image_set import ImageSet
from icobench.runs.scoring import bounds_at_truth, course, score
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

BODIES = ["cube", "octahedron", "sphere", "hexagonal-prism=1.5", "icosahedron"]
TURN = torch.nn.functional.normalize(torch.tensor([0.8, 0.3, -0.4, 0.33], dtype=torch.float64), dim=0)


def truth(count=5):
    pixels = torch.ones(count, 32, 32)
    return ImageSet(
        pixels, pixels > 0, "counts", Experiment(pixels=32), torch.full((count,), 60.0, dtype=torch.float64),
        TURN.expand(count, 4), bodies=BODIES[:count],
    )  # fmt: skip


def about_z(degrees):
    half = math.radians(degrees) / 2
    return torch.tensor([math.cos(half), 0.0, 0.0, math.sin(half)], dtype=torch.float64)


def scored(answer, images):
    nothing = torch.full((len(images),), torch.nan)
    return score(answer, "mine", images, (nothing, nothing))


def test_the_right_body_is_judged_by_its_own_group_and_another_one_by_its_size_alone():
    # Body frames turned about z: 92 degrees are 2 for a cube, 62 are 2 for a hexagonal prism.
    turns = [quaternion_multiply(TURN, about_z(angle)) for angle in (92, 2, 40, 62, 2)]
    answer = Answer(
        torch.tensor([60.5, 60.0, 60.2, 61.0, 60.0]), torch.stack(turns),
        shape=["cube", "cube", "sphere", "hexagonal-prism", "cube"],
        nuisance={"aspect_ratio": torch.tensor([math.nan, math.nan, math.nan, 1.6, math.nan])},
    )  # fmt: skip
    rows = scored(answer, truth())
    assert rows["body"].tolist() == ["cube", "cube", "sphere", "hexagonal-prism=1.60000002", "cube"]
    assert rows["true_body"].tolist() == BODIES
    nan, near = math.nan, partial(pytest.approx, nan_ok=True, abs=1e-5)
    assert rows["disorientation_deg"].tolist() == near([2, nan, 0, 2, nan])
    assert rows["radius_error_nm"].tolist() == near([0.5, nan, 0.2, 1, nan])
    assert rows["success"].tolist() == [False, False, True, False, False]
    assert rows["appendix_c_mean"].isna().all()
    # A sphere's size is its radius; those of cube and octahedron are the roots of their volumes.
    cube, octahedron = 8 / 3**1.5, 4 / 3
    size = 60 * (3 / (4 * math.pi)) ** (1 / 3) * abs(cube ** (1 / 3) - octahedron ** (1 / 3))
    assert rows["size_error_nm"][[1, 2]].tolist() == pytest.approx([size, 0.2], rel=1e-4)
    assert course(answer, "mine", truth())["disorientation_deg"].notna().sum() == 3  # the end alone


def test_who_knows_no_other_body_says_icosahedron():
    images = truth()
    rows = scored(Answer(images.radius_nm, images.quaternion), images)
    assert set(rows["body"]) == {"icosahedron"}
    assert rows["success"].tolist() == [False] * 4 + [True]
    assert rows["size_error_nm"].tolist()[4] == 0
    images.bodies = None
    assert "body" not in scored(Answer(images.radius_nm, images.quaternion), images)
    named = scored(Answer(images.radius_nm, images.quaternion, shape=["cube"] * 5), images)
    assert not named["success"].any()


def test_bounds_are_those_of_the_true_body():
    images = truth()
    images.images = images.images * 1e3
    radius, turn = bounds_at_truth(images, Simulator(images.experiment))
    assert torch.isfinite(radius).tolist() == [True, True, True, False, True]
    assert torch.isfinite(turn).tolist() == [True, True, False, False, True]
    alone = images.subset(torch.tensor([4]))
    alone.bodies = None
    expected = bounds_at_truth(alone, Simulator(images.experiment))
    assert (float(radius[4]), float(turn[4])) == pytest.approx([float(one) for one in expected], rel=1e-4)
    assert float(radius[0]) != pytest.approx(float(radius[4]), rel=0.01)
