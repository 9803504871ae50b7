"""Where results come from: the commit, and whether its code was changed."""

import subprocess

import pytest

from icobench import provenance


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A git tree with a package, a script and a result."""
    for name in ("icobench/provenance.py", "reports/script.py", "reports/result.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("1\n")
    commands = ("init", "add .", "-c user.name=a -c user.email=a@b commit -m first")
    for command in commands:
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "icobench" / "provenance.py"))
    return tmp_path


def commit():
    return provenance._commit()


def test_changed_code_marks_the_commit_and_a_new_result_does_not(tree):
    clean = commit()
    assert len(clean) == 40
    (tree / "reports" / "result.json").write_text("2\n")
    assert commit() == clean
    (tree / "reports" / "script.py").write_text("2\n")
    assert commit() == clean + "+"
    assert provenance.short_commit(clean + "+") == clean[:7] + "+"
