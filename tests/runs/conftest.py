"""Workers of a pool import this folder's modules; simulations are compiled where there is a compiler."""

import pytest


@pytest.fixture(autouse=True)
def _compiled(monkeypatch):
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")
