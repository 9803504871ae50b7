"""What mkdocs builds the site from beside docs/*.md; see mkdocs.yml.

Pages link to reports/, CHANGELOG.md and the like as they do on a file system; whatever they link to becomes
a part of the site. The reference of commands comes from their help, notebooks are executed.
"""

import inspect
import logging
import os
import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(\))")
FOREIGN = re.compile(
    r"<(?:script|img|iframe)[^>]* src=\S?https?:[^>]*>|<link[^>]*stylesheet[^>]*https?:[^>]*>"
)
NOTEBOOKS = ROOT / "docs" / "notebooks"
log = logging.getLogger("mkdocs.hooks")  # a warning ends a strict build


class Docstrings(griffe.Extension):
    """Reads the section Example as code, roles of Sphinx as code, and `a, b: text` as two parameters."""

    def on_object(self, *, obj, **_):
        if obj.docstring:
            text = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
            pair = re.compile(r"^( +)(\w+), (\w+): ", flags=re.MULTILINE)
            obj.docstring.value = pair.sub(r"\1\2: see `\3`.\n\1\3: ", text)


def in_repository(uri):
    """The path in the repository of a page of the site."""
    inside = (ROOT / "docs" / uri).exists() or not (ROOT / uri).exists()
    return join("docs", uri) if inside else uri


def targets(text, path):
    """Links of a page at this path: as they stand, and as paths in the repository."""
    for _, link, _, _ in LINK.findall(text):
        yield link, normpath(join(dirname(path), link))


def on_files(files, config):
    """Adds what pages link to outside of docs/, pages of commands, and notebooks."""
    files.append(File.generated(config, "commands.md", content=commands_page()))
    for notebook in sorted(NOTEBOOKS.glob("*.py")):
        files.remove(files.get_file_from_path(f"notebooks/{notebook.name}"))
        for name, content in notebook_pages(notebook).items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    waiting = [file for file in files.documentation_pages() if file.abs_src_path] + [
        file for file in (add(config, files, "CHANGELOG.md"),) if file
    ]
    while waiting:
        page = waiting.pop()
        for _, path in targets(Path(page.abs_src_path).read_text(), in_repository(page.src_uri)):
            added = None if path.startswith(("docs/", "..")) else add(config, files, path)
            if added and path.endswith(".md"):
                waiting.append(added)
    return files


def add(config, files, path):
    """A file of the repository as one of the site; None if it is missing or already there."""
    if files.get_file_from_path(path) or not (ROOT / path).is_file():
        return None
    file = File.generated(config, path, abs_src_path=str(ROOT / path))
    files.append(file)
    return file


def on_page_markdown(markdown, page, config, files):
    """Points links at the places that files have on the site."""
    uri = page.file.src_uri
    if uri == "api.md":
        check_api(markdown)

    def moved(match):
        path = normpath(join(dirname(in_repository(uri)), match[2]))
        place = relpath(path.removeprefix("docs/"), dirname(uri) or ".")
        return f"{match[1]}{place}{match[3] or ''}{match[4]}"

    return markdown if uri.startswith("notebooks/") else LINK.sub(moved, markdown)


def on_post_page(output, page, config):
    """Warns of whatever a reader's browser would fetch from elsewhere."""
    for found in FOREIGN.findall(output):
        log.warning("%s loads from the network: %s", page.file.src_uri, found)
    return output


def check_api(markdown):
    """Warns of public names that the page lacks or that have no docstring."""
    import icobench

    for name in icobench.__all__:
        home = icobench._HOMES.get(name)
        if home is None:
            continue
        if f"::: icobench.{home}.{name}\n" not in markdown:
            log.warning("docs/api.md lacks icobench.%s", name)
        value = getattr(icobench, name)
        members = {name: value} | {
            f"{name}.{key}": member
            for key, member in (vars(value) if inspect.isclass(value) else {}).items()
            if not key.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
        }
        for full, member in members.items():
            if not inspect.getdoc(member):
                log.warning("icobench.%s has no docstring", full)


def commands_page():
    """The reference of the command line, by the help of each command."""
    from typer import Context
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from icobench.cli import app

    command = get_command(app)
    return get_docs_for_click(obj=command, ctx=Context(command), name="icobench", title="Command line")


def notebook_pages(path):
    """The executed notebook as Markdown, with its figures, by file name."""
    import jupytext
    from nbclient import NotebookClient
    from nbconvert import MarkdownExporter

    notebook = jupytext.read(path)
    if os.environ.get("ICOBENCH_NOTEBOOKS") != "0":  # 0: their text alone, in a second
        NotebookClient(notebook, kernel_name="python3", timeout=600).execute(cwd=str(ROOT))
    resources = {"output_files_dir": path.stem}
    text, resources = MarkdownExporter().from_notebook_node(notebook, resources)
    text = text.replace('<table border="1" class="dataframe">', "<table>")  # as the theme draws tables
    return {f"{path.stem}.md": text, **resources["outputs"]}
