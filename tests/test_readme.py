"""Every command in the README and on the pages exists as written, and their Python runs."""

import re
import shlex
from pathlib import Path

import pytest

from icobench.commands.options import METHOD_NAMES, TEST_SET_NAMES
from icobench.methods import METHODS
from icobench.sets.test_sets import TEST_SETS

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
MAKEFILE = (ROOT / "Makefile").read_text()


def blocks(language: str) -> list[str]:
    return [
        block for text in TEXTS.values() for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    ]


def console_lines() -> list[str]:
    lines = [line for block in blocks("console") for line in block.splitlines() if line.strip()]
    return list(dict.fromkeys(line.split("#")[0].strip() for line in lines))


def test_help_and_pages_name_all_methods_and_test_sets():
    assert TEST_SET_NAMES.split(", ") == list(TEST_SETS)
    single, _, pairs = METHOD_NAMES.partition("; ")
    assert pairs == "dictionary, network or paper-network, + simplex, lm or mle"
    starts = ("dictionary", "network", "paper-network")
    pairs = [f"{start}+{fit}" for start in starts for fit in ("simplex", "lm", "mle")]
    assert {*single.split(", "), *pairs} == set(METHODS)
    assert f"--test-sets {','.join(TEST_SETS)}" in TEXTS["docs/comparisons.md"]
    assert all(f"`{name}`" in TEXTS["docs/methods.md"] for name in single.split(", "))


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 200


def test_every_status_is_explained():
    from icobench.answer import AMBIGUOUS, FAILED, NOT_CONVERGED, OK, OUTSIDE, POOR, RESCUED, UNTRAINED

    for status in (OK, RESCUED, POOR, AMBIGUOUS, NOT_CONVERGED, UNTRAINED, OUTSIDE, FAILED):
        assert f"| `{status}" in TEXTS["docs/status.md"]


@pytest.mark.parametrize("line", console_lines())
def test_command_parses(line):
    from typer.main import get_command

    from icobench.cli import app

    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", MAKEFILE, re.MULTILINE)
        return
    if words[0] == "asv":
        commands = pytest.importorskip("asv.commands", reason="asv is not installed (pip install .[test])")
        commands.make_argparser()[0].parse_args(words[1:])
        return
    assert words[0] == "icobench"
    command, context, rest = get_command(app), None, words[1:]
    # Walk down to the command itself and let it parse its options, without running it.
    while hasattr(command, "commands"):
        name, rest = rest[0], rest[1:]
        command = command.commands[name]
    context = command.make_context(words[1], list(rest), resilient_parsing=False)
    assert context.params


@pytest.mark.parametrize("page", TEXTS)
def test_files_that_pages_name_are_there(page):
    text = TEXTS[page]
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:images|network|reports|icobench|docs)/[\w/-]+\.\w+)`", text)
    assert all((ROOT / page).parent.joinpath(link).exists() for link in links)
    assert all((ROOT / name).exists() or (ROOT / "icobench" / name).exists() for name in named)


def test_all_public_names_are_on_the_page_of_the_reference():
    import icobench

    listed = re.findall(r"^::: icobench\.(\S+)$", TEXTS["docs/api.md"], re.MULTILINE)
    assert sorted(listed) == sorted(f"{home}.{name}" for name, home in icobench._HOMES.items())


@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs(block):
    exec(compile(block, "a page", "exec"), {})


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
