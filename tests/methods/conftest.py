"""Fits simulate by the thousand: compiled from the first image on, where there is a compiler."""

import pytest


@pytest.fixture(autouse=True)
def _compiled(monkeypatch):
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")
