"""Users' own methods."""

from importlib.metadata import EntryPoint

import pytest

from icobench.comparison.methods import METHODS, available_methods, find_method, registry
from icobench.errors import InputError

OWN = """
from icobench.comparison.methods import METHODS, Method

def run(problem, progress):
    return METHODS["network"].function(problem, progress)

SIMPLEX = METHODS["simplex"]  # used, not defined
OWN = Method("{name}", "somebody's idea", run, options={{"steps": 3}})
"""


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    monkeypatch.setattr(registry, "METHODS", dict(METHODS))


def written(tmp_path, text):
    path = tmp_path / "own.py"
    path.write_text(text)
    return path


def test_a_file_adds_its_methods(tmp_path):
    assert registry.add_method_file(written(tmp_path, OWN.format(name="own"))) == ["own"]
    method = find_method("own")
    assert method.settings == {"version": 1, "options": {"steps": 3}}
    assert "own" in available_methods()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x = 1", "defines no icobench Method"),
        (OWN.format(name="simplex"), "there is a method simplex already"),
        (OWN.format(name="a/b"), "is no name for a method"),
        ("def (", "SyntaxError"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, message):
    before = dict(registry.METHODS)
    with pytest.raises(InputError, match=message):
        registry.add_method_file(written(tmp_path, text))
    assert before == registry.METHODS
    with pytest.raises(InputError, match="no such file"):
        registry.add_method_file(tmp_path / "missing.py")


def test_other_packages_offer_methods(monkeypatch):
    offered = [EntryPoint("own", "icobench.comparison.methods:find_method", registry.ENTRY_POINTS)]
    monkeypatch.setattr(registry, "entry_points", lambda group: offered)
    with pytest.raises(InputError, match="expected an icobench Method, got function"):
        available_methods()
    offered[:] = [EntryPoint("own", "not_there:own", registry.ENTRY_POINTS)]
    with pytest.raises(InputError, match="entry point own: ModuleNotFoundError"):
        available_methods()
    offered[:] = [EntryPoint("own", "icobench.comparison.methods.network:NETWORK", registry.ENTRY_POINTS)]
    assert available_methods()["network"] is METHODS["network"]
