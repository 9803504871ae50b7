"""The notebooks of the site run as they stand."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "notebook", sorted((ROOT / "docs" / "notebooks").glob("*.py")), ids=lambda path: path.stem
)
def test_notebook_runs(notebook, monkeypatch, tmp_path):
    jupytext = pytest.importorskip("jupytext", reason="needs pip install .[docs]")
    nbclient = pytest.importorskip("nbclient", reason="needs pip install .[docs]")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "reports").symlink_to(ROOT / "reports")
    client = nbclient.NotebookClient(jupytext.read(notebook), kernel_name="python3", timeout=600)
    client.execute(cwd=str(tmp_path))  # an error in a cell is raised
