"""Methods and test sets of users and of other packages."""

import pickle
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest

from icobench.errors import InputError
from icobench.methods import METHODS, Catalogue, available_methods, registry
from icobench.sets import test_sets
from icobench.sets.test_sets import TEST_SETS, available_test_sets, find_test_set

FILE = """
from dataclasses import replace
from icobench.methods import METHODS, Method

SIMPLEX = METHODS["simplex"]  # used, not defined
OWN = replace(SIMPLEX.with_options(starts=3), name="{name}", summary="somebody's idea")
"""


def written(tmp_path, text):
    path = tmp_path / "own.py"
    path.write_text(text)
    return path


def test_a_file_adds_its_methods_to_a_catalogue_alone(tmp_path):
    catalogue = Catalogue((written(tmp_path, FILE.format(name="own")),))
    assert catalogue.method("own").options.starts == 3
    assert set(catalogue.available_methods()) == {*METHODS, "own"}
    assert "own" not in available_methods()
    there = pickle.loads(pickle.dumps(catalogue))
    assert there.method("own").digest == catalogue.method("own").digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x = 1", "defines no icobench Method and no TestSet"),
        (FILE.format(name="simplex"), "there is a method simplex already"),
        (FILE.format(name="a/b"), "is no name for a method"),
        ("def (", "SyntaxError"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        Catalogue((written(tmp_path, text),)).available_methods()
    with pytest.raises(InputError, match="no such file"):
        Catalogue((tmp_path / "missing.py",)).method("own")


def test_a_file_adds_test_sets(tmp_path):
    text = """
from dataclasses import replace
from icobench.sets.test_sets import TEST_SETS, TestSet
FAINT = TestSet("{name}", "few photons", replace(TEST_SETS["counting"].detector, photons=1e3))
"""
    catalogue = Catalogue((written(tmp_path, text.format(name="faint")),))
    assert catalogue.test_set("faint").options(5).detector.photons == 1e3
    assert set(catalogue.available_test_sets()) == {*TEST_SETS, "faint"}
    with pytest.raises(InputError, match="there is a test set counting already"):
        Catalogue((written(tmp_path, text.format(name="counting")),)).test_set("counting")


def test_methods_and_test_sets_may_be_objects():
    method = replace(METHODS["simplex"].with_options(starts=7), name="seven")
    faint = replace(TEST_SETS["counting"], name="faint")
    catalogue = Catalogue(methods=(method,), test_sets=(faint,))
    assert catalogue.method("seven") is method
    assert catalogue.test_set("faint") is faint


def test_other_packages_offer_test_sets(monkeypatch):
    offered = [EntryPoint("own", "icobench.methods:find_method", test_sets.ENTRY_POINTS)]
    monkeypatch.setattr(test_sets, "entry_points", lambda group: offered)
    with pytest.raises(InputError, match="entry point own: expected an icobench TestSet"):
        available_test_sets()
    with pytest.raises(InputError, match="unknown test set"):
        monkeypatch.setattr(test_sets, "entry_points", lambda group: [])
        find_test_set("mine")


def test_other_packages_offer_methods(monkeypatch):
    offered = [EntryPoint("own", "icobench.methods:find_method", registry.ENTRY_POINTS)]
    monkeypatch.setattr(registry, "entry_points", lambda group: offered)
    with pytest.raises(InputError, match="expected an icobench Method, got function"):
        available_methods()
    offered[:] = [EntryPoint("own", "not_there:own", registry.ENTRY_POINTS)]
    with pytest.raises(InputError, match="entry point own: ModuleNotFoundError"):
        available_methods()
    offered[:] = [EntryPoint("own", "icobench.methods.network:NETWORK", registry.ENTRY_POINTS)]
    assert available_methods()["network"] is METHODS["network"]


DEFINED = {"starts": 4, "iterations": 6, "rounds": [[2, 3]], "rotation_deg": 5.0}


def test_a_definition_is_a_simplex_with_settings_of_ones_own():
    method = registry.defined_method("own", {**DEFINED, "search": {"seconds": 1, "simulations": 2}})
    assert (method.options.starts, method.options.iterations, method.options.rounds) == (4, 6, ((2, 3),))
    assert (method.options.rotation_deg, method.options.angle_tolerance_deg) == (5.0, 0.0)
    assert method.summary == "4 random starts, 3 after 2 more iterations, 6 iterations at the end"
    assert method.search == {"seconds": 1, "simulations": 2}


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("a b", DEFINED, "is no name for a method"),
        ("simplex", DEFINED, "there is a method simplex already"),
        ("own", {"starts": 3}, "needs starts and iterations"),
        ("own", 3, "needs starts and iterations"),
        ("own", {**DEFINED, "speed": 3}, "has 'speed'; known are"),
        ("own", {**DEFINED, "starts": "many"}, "define.own: "),
        ("own", {**DEFINED, "rounds": [[0, 1]]}, "must be positive"),
    ],
)
def test_definitions_that_cannot_be_used(name, values, message):
    with pytest.raises(InputError, match=message):
        registry.defined_method(name, values)
