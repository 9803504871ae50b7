"""A made-up run, and its report."""

import shutil

import pytest

from icobench.reporting.report import write_report
from tests.reporting.made_runs import made_run


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def finished(inputs, tmp_path_factory):
    return write_report(shutil.copytree(inputs, tmp_path_factory.mktemp("run") / "finished"))


@pytest.fixture
def run_folder(inputs, tmp_path):
    return shutil.copytree(inputs, tmp_path / "run")
