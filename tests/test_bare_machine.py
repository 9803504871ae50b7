"""The first ten minutes from a wheel that was built from an sdist, outside of the tree, on bare machines."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
NOWHERE = "/dev/null/none"
"""A folder that nobody can make, root included."""

LINES = (
    "simulate p.h5 --radius 80 --quaternion 1,0,0,0 --photons 1e5 --hole 3",
    "reconstruct p.h5 --preview p.png",
    "show p.h5",
    "compare --images 1 --methods network,network+lm --run run --workers 2",
)

pytestmark = pytest.mark.slow


def tracked() -> list[str]:
    """Files of the tree."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The package as a wheel installs it, read-only."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("build")
    for name in tracked():
        if name.startswith("icobench/") or "/" not in name:
            target = folder / "tree" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)

    def build(kind: str, tree: Path) -> Path:
        command = [sys.executable, "-c", BUILD.format(kind), str(folder)]
        subprocess.run(command, cwd=tree, capture_output=True, check=True)
        return next(folder.glob("*.tar.gz" if kind == "sdist" else "*.whl"))

    with tarfile.open(build("sdist", folder / "tree")) as archive:
        archive.extractall(folder, filter="data")
    tree = next(path for path in folder.glob("icobench-*") if path.is_dir())
    with zipfile.ZipFile(build("wheel", tree)) as archive:
        archive.extractall(folder / "site")
    for path in (folder / "site").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder / "site"


def test_the_wheel_has_weights_sources_templates_and_the_mark_of_types(site):
    wanted = {name for name in tracked() if name.startswith("icobench/") and (ROOT / name).exists()}
    packed = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    assert {name for name in packed if name.startswith("icobench/") and "__pycache__" not in name} == wanted


MACHINES = {
    "read-only site-packages": ({}, ""),
    "no home": ({"HOME": NOWHERE, "ICOBENCH_COMPILE": "1"}, "the kernel is not kept for the next time"),
    "no compiler": ({"PATH": NOWHERE, "ICOBENCH_COMPILE": "1"}, "the simulator runs uncompiled"),
    "no folder for temporary files": ({"TMPDIR": NOWHERE}, ""),
}


@pytest.mark.parametrize("name", MACHINES)
def test_the_first_ten_minutes(site, tmp_path, name):
    changes, words = MACHINES[name]
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir(), work.mkdir()
    kept = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    before = {path for path in site.rglob("*") if "__pycache__" not in str(path)}
    said = ""
    for line in LINES:
        done = subprocess.run(
            [sys.executable, "-m", "icobench.cli", *line.split()], cwd=work, env=kept | changes,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said += done.stdout + done.stderr
    assert "Traceback" not in said and "atplotlib" not in said
    assert words in said
    table = pd.read_csv(work / "result.csv")
    assert table["status"].tolist() == ["ok"] and abs(table["radius_nm"][0] - 80) < 0.5
    for path in ("p.png", "show.html", "run/report.html"):
        assert (work / path).stat().st_size > 1000
    assert {path for path in site.rglob("*") if "__pycache__" not in str(path)} == before
