"""A comparison computed again from its ``run.json`` alone."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from icobench.errors import InputError
from icobench.methods import METHODS
from icobench.runs.comparison import Comparison, compute_comparison
from icobench.runs.record import read_record
from icobench.runs.settings import ComparisonSettings
from icobench.simulator.experiment import Experiment

DATA = Path(__file__).parents[1] / "data" / "pymsft_patterns.cxi"

FILE = """
from dataclasses import replace
from icobench.methods import METHODS

MINE = replace(METHODS["dictionary+lm"], name="mine", summary="for tests").with_options(candidates=1)
"""


def computed(comparison: Comparison) -> pd.DataFrame:
    """The results but for the times, which are the machine's."""
    compute_comparison(comparison)
    return comparison.collect().drop(columns=["seconds", "core_seconds"])


def again(path: Path, folder: Path, changes=None, files=(), **more) -> tuple[Comparison, list[str]]:
    """What ``compare --from`` makes, and what it says."""
    record = read_record(path)
    settings, catalogue = record.chosen(changes or {}, files)
    made = Comparison(
        folder, settings, record.experiment, record.seed, model=record.weights(None), catalogue=catalogue,
        stated=record.stated, **more,
    )  # fmt: skip
    return made, record.check(made, changes or {})


def changed(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.slow
def test_several_runs_with_a_file_of_methods(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    settings = ComparisonSettings(
        "test", 2, test_sets=("clean", "counting"), methods=("network", "dictionary+lm", "mine"), seeds=2
    )
    catalogue = settings.catalogue((tmp_path / "mine.py",))
    first = Comparison(tmp_path / "first", settings, Experiment(), 3, catalogue=catalogue)
    results = computed(first)
    second, said = again(tmp_path / "first" / "campaign.json", tmp_path / "second")
    assert said == []
    pd.testing.assert_frame_equal(results, computed(second))
    # One of the runs alone, with its own seed.
    one = tmp_path / "first" / "counting-4" / "run.json"
    third, said = again(one, tmp_path / "third")
    assert said == []
    wanted = results[results["run"] == "counting-4"].drop(columns=["run", "test_set"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(wanted, computed(third))
    (tmp_path / "mine.py").write_text(FILE + "\n")
    with pytest.raises(InputError, match=r"needs the file of methods .*mine.py, which has changed since"):
        read_record(one).chosen({})
    (tmp_path / "mine.py").rename(tmp_path / "moved.py")
    with pytest.raises(InputError, match=r"needs the file of methods .*mine.py, which is not here; give --m"):
        read_record(one).chosen({})
    read_record(one).chosen({}, (tmp_path / "moved.py",))


def test_options_given_from_python_are_restored(tmp_path):
    settings = ComparisonSettings("python", 2, methods=("simplex",))
    quick = METHODS["simplex"].with_options(starts=2, rounds=((3, 1),))
    first = Comparison(tmp_path / "first", settings, Experiment(), 3)
    object.__setattr__(first, "catalogue", type(first.catalogue)(methods=(quick,)))
    results = computed(first)
    second, _ = again(tmp_path / "first" / "run.json", tmp_path / "second")
    assert second.methods[0].options == quick.options
    pd.testing.assert_frame_equal(results, computed(second))


def test_own_images(tmp_path, monkeypatch):
    path = tmp_path / "mine.cxi"
    shutil.copy(DATA, path)
    experiment = Experiment(solid_angle_factor=True)
    settings = ComparisonSettings("test", 2, test_sets=(str(path),), methods=("dictionary+lm",))
    stated = ("solid_angle_factor",)
    results = computed(Comparison(tmp_path / "first", settings, experiment, 3, stated=stated))
    record = tmp_path / "first" / "run.json"
    second, said = again(record, tmp_path / "second")
    assert said == []
    pd.testing.assert_frame_equal(results, computed(second))
    path.rename(tmp_path / "moved.cxi")
    with pytest.raises(InputError, match=r"needs the images .*mine.cxi, which is not here; give --test-sets"):
        read_record(record).chosen({})
    _, said = again(record, tmp_path / "third", {"test_sets": (str(tmp_path / "moved.cxi"),)})
    assert said == ["the images or their truth are not the recorded ones"]  # another name


def test_other_networks_are_refused_and_other_versions_said(tmp_path):
    settings = ComparisonSettings("test", 1, methods=("network",))
    Comparison(tmp_path / "run", settings, Experiment(), 3).open()
    record = tmp_path / "run" / "run.json"
    changed(record, lambda run: run["versions"].update(torch="2.0"))
    _, (line,) = again(record, tmp_path / "again")
    assert line.startswith("recorded with torch 2.0; here torch ")
    changed(record, lambda run: run["methods"]["network"].update(networks=["0123456789ab"]))
    with pytest.raises(InputError, match="network needs the network 0123456789ab, which is not here"):
        again(record, tmp_path / "again")
    changed(record, lambda run: run["given"].update(model="gone.safetensors"))
    with pytest.raises(InputError, match=r"needs the weights gone.safetensors, which are not here"):
        again(record, tmp_path / "again")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run["settings"].update(methods=["gone"]), "needs the method gone, which is not here"),
        (lambda run: run.update(test_set="gone"), "needs the test set gone, which is not here"),
        (lambda run: run.pop("identity"), "not the run.json of a comparison"),
        (lambda run: run.update(methods=3), "not the run.json of a comparison"),
        (lambda run: run["identity"]["settings"].update(images=-1), "images must be a positive"),
        (lambda run: run["methods"]["simplex"]["options"].update(colour=1), "simplex has no option 'colour'"),
    ],
)
def test_wrong_records_are_refused_in_one_line(tmp_path, change, message):
    settings = ComparisonSettings("test", 1, methods=("simplex",))
    Comparison(tmp_path / "run", settings, Experiment(), 3).open()
    path = tmp_path / "run" / "run.json"
    changed(path, change)
    with pytest.raises(InputError, match=message) as caught:
        read_record(path).chosen({})
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
