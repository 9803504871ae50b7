"""A user's own file as test set, with and without truth."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from icobench.errors import InputError
from icobench.geometry.orientation import disorientation
from icobench.sets.own_images import FIT_SIN_THETA, read_own_images
from icobench.sets.test_sets import find_test_set
from icobench.simulator.experiment import Experiment

DATA = Path(__file__).parents[1] / "data"
PATTERNS, TRUTH = DATA / "pymsft_patterns.cxi", DATA / "pymsft_patterns_truth.csv"


def test_truth_from_a_table():
    patterns = read_own_images(PATTERNS, Experiment(), truth=TRUTH)
    table = pd.read_csv(TRUTH)
    assert patterns.kind == "counts"
    assert patterns.experiment == Experiment()
    assert patterns.numbers.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(patterns.radius_nm, table["radius_nm"])
    turns = torch.tensor(table[["q_w", "q_x", "q_y", "q_z"]].to_numpy())
    assert (disorientation(patterns.quaternion, turns) < 1e-5).all()
    assert not patterns.mask[:, Experiment().sin_theta() > FIT_SIN_THETA + 1e-6].any()


def test_rows_by_index_and_missing_ones(tmp_path):
    table = pd.read_csv(TRUTH)
    table.iloc[[3, 1]].to_csv(tmp_path / "some.csv", index=False)
    patterns = read_own_images(PATTERNS, Experiment(), truth=tmp_path / "some.csv")
    assert torch.isnan(patterns.radius_nm).tolist() == [True, False, True, False]
    assert float(patterns.radius_nm[3]) == table["radius_nm"][3]
    assert len(read_own_images(PATTERNS, Experiment(), images=2)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no column radius_nm"),
        ("radius_nm,q_w,q_x,q_y,q_z\n50,1,0,0,0\n", "1 rows for 4 images"),
        ("index,radius_nm,q_w,q_x,q_y,q_z\n0,50,1,0,0,0\n0,50,1,0,0,0\n", "occurs twice"),
        ("index,radius_nm,q_w,q_x,q_y,q_z\n0,-50,1,0,0,0\n", "not positive"),
        ("index,radius_nm,q_w,q_x,q_y,q_z\n0,wide,1,0,0,0\n", "wrong values"),
        ("", "not a readable table"),
    ],
)
def test_truth_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_own_images(PATTERNS, Experiment(), truth=tmp_path / "truth.csv")


def test_files_and_names(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        find_test_set("nowhere.cxi")
    with pytest.raises(InputError, match="taken as they are"):
        find_test_set(str(PATTERNS)).options(4, photons=1e4)
    np.save(tmp_path / "dark.npy", np.zeros((1, 128, 128), np.int32))
    with pytest.raises(InputError, match="empty"):
        read_own_images(tmp_path / "dark.npy", Experiment())
