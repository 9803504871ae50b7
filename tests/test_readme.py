"""Every command in the README exists as written, and its Python runs."""

import re
import shlex
from pathlib import Path

import pytest

from icobench.commands.options import METHOD_NAMES, TEST_SET_NAMES
from icobench.methods import METHODS
from icobench.sets.test_sets import TEST_SETS

README = (Path(__file__).parents[1] / "README.md").read_text()
MAKEFILE = (Path(__file__).parents[1] / "Makefile").read_text()


def console_lines() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_help_and_readme_name_all_methods_and_test_sets():
    assert TEST_SET_NAMES.split(", ") == list(TEST_SETS)
    single, _, pairs = METHOD_NAMES.partition("; ")
    assert pairs == "dictionary, network or paper-network, + simplex, lm or mle"
    starts = ("dictionary", "network", "paper-network")
    pairs = [f"{start}+{fit}" for start in starts for fit in ("simplex", "lm", "mle")]
    assert {*single.split(", "), *pairs} == set(METHODS)
    assert f"--test-sets {','.join(TEST_SETS)}" in README
    assert all(f"`{name}`" in README for name in single.split(", "))


@pytest.mark.parametrize("line", console_lines())
def test_command_parses(line):
    from typer.main import get_command

    from icobench.cli import app

    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", MAKEFILE, re.MULTILINE)
        return
    if words[0] == ".venv/bin/asv":
        commands = pytest.importorskip("asv.commands", reason="asv is not installed (pip install .[test])")
        commands.make_argparser()[0].parse_args(words[1:])
        return
    assert words[0] == ".venv/bin/icobench"
    command, context, rest = get_command(app), None, words[1:]
    # Walk down to the command itself and let it parse its options, without running it.
    while hasattr(command, "commands"):
        name, rest = rest[0], rest[1:]
        command = command.commands[name]
    context = command.make_context(words[1], list(rest), resilient_parsing=False)
    assert context.params


@pytest.mark.parametrize("page", ["README.md", "docs/paper.md"])
def test_files_that_pages_name_are_there(page):
    root = Path(__file__).parents[1]
    text = (root / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:images|network)/\w+\.py|reports/\w+\.py)", text)
    assert links or named
    assert all((root / page).parent.joinpath(link).exists() for link in links)
    assert all((root / name).exists() or (root / "icobench" / name).exists() for name in named)


def test_python_runs():
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), {})


def test_fast_commands_run(tmp_path, monkeypatch):
    """Those that take seconds; compare, reconstruct and train have tests of their own."""
    from icobench import cli

    monkeypatch.chdir(tmp_path)
    for line in console_lines():
        words = shlex.split(line)
        if len(words) > 1 and words[1] == "simulate":
            monkeypatch.setattr("sys.argv", ["icobench", *words[1:]])
            with pytest.raises(SystemExit) as stop:
                cli.main()
            assert stop.value.code in (0, None)
