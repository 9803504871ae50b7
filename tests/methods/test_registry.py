"""Users' own methods."""

from importlib.metadata import EntryPoint

import pytest

from icobench.errors import InputError
from icobench.methods import METHODS, available_methods, find_method, registry
from icobench.methods.plugin_file import add_file
from icobench.sets import test_sets
from icobench.sets.test_sets import TEST_SETS, available_test_sets, find_test_set

OWN = """
from icobench.methods import METHODS, Method

def run(problem, progress):
    return METHODS["network"].function(problem, progress)

SIMPLEX = METHODS["simplex"]  # used, not defined
OWN = Method("{name}", "somebody's idea", run, options={{"steps": 3}})
"""


@pytest.fixture(autouse=True)
def _restored():
    kept = dict(METHODS), dict(TEST_SETS)
    yield
    for known, before in zip((METHODS, TEST_SETS), kept, strict=True):
        known.clear()
        known.update(before)


def written(tmp_path, text):
    path = tmp_path / "own.py"
    path.write_text(text)
    return path


def test_a_file_adds_its_methods(tmp_path):
    assert add_file(written(tmp_path, OWN.format(name="own"))) == ["own"]
    method = find_method("own")
    assert method.settings == {"version": 1, "options": {"steps": 3}}
    assert "own" in available_methods()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x = 1", "defines no icobench Method and no TestSet"),
        (OWN.format(name="simplex"), "there is a method simplex already"),
        (OWN.format(name="a/b"), "is no name for a method"),
        ("def (", "SyntaxError"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, message):
    before = dict(registry.METHODS)
    with pytest.raises(InputError, match=message):
        add_file(written(tmp_path, text))
    assert before == registry.METHODS
    with pytest.raises(InputError, match="no such file"):
        add_file(tmp_path / "missing.py")


def test_a_file_adds_test_sets(tmp_path):
    text = """
from dataclasses import replace
from icobench.sets.test_sets import TEST_SETS, TestSet
FAINT = TestSet("{name}", "few photons", replace(TEST_SETS["counting"].detector, photons=1e3))
"""
    assert add_file(written(tmp_path, text.format(name="faint"))) == ["faint"]
    assert find_test_set("faint").options(5).detector.photons == 1e3
    with pytest.raises(InputError, match="there is a test set counting already"):
        add_file(written(tmp_path, text.format(name="counting")))


def test_other_packages_offer_test_sets(monkeypatch):
    offered = [EntryPoint("own", "icobench.sets.test_sets:COUNTING", test_sets.ENTRY_POINTS)]
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
