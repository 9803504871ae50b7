"""A network that has been trained, a little."""

import pytest

from icobench.network.training import train
from tests.network.tiny import EXPERIMENT, TINY


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A short run without interruption: folder and result."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train(TINY, EXPERIMENT, folder, seed=3)
