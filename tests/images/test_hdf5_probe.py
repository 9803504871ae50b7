"""A file that crashes HDF5, or keeps it busy for ever, is refused in one line."""

import os
import signal
import time

import pytest

from icobench.errors import InputError
from icobench.images import hdf5_probe
from icobench.images.hdf5_probe import check_survival


def test_crashes_and_hangs_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    path.write_bytes(b"x")
    monkeypatch.setattr(hdf5_probe, "LONGEST", 0.2)
    with pytest.raises(InputError, match=r"a\.h5: not a readable HDF5 file.*reading it crashes"):
        check_survival(path, "crash", lambda: os.kill(os.getpid(), signal.SIGSEGV))
    with pytest.raises(InputError, match="does not end within"):
        check_survival(path, "hang", lambda: time.sleep(60))
    check_survival(path, "error", lambda: 1 / 0)  # this process finds it, too
    check_survival(path, "good", lambda: None)


def test_the_same_file_is_tried_once(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    path.write_bytes(b"x")
    check_survival(path, "good", lambda: None)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("tried again"))
    check_survival(path, "good", lambda: None)
