"""Fits simulate by the thousand: with the compiled kernel where there is a compiler."""

import pytest


@pytest.fixture(autouse=True)
def _compiled(monkeypatch):
    monkeypatch.setenv("ICOBENCH_COMPILE", "auto")
