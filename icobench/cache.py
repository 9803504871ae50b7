"""Where things that are made once are kept between processes."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """``icobench`` in ``$ICOBENCH_CACHE``, ``$XDG_CACHE_HOME`` or ~/.cache; may not exist yet.

    Who has no home folder, as some users of containers, gets a name that cannot be made: nothing is kept.
    """
    root = os.environ.get("ICOBENCH_CACHE") or os.environ.get("XDG_CACHE_HOME")
    if not root and (home := os.path.expanduser("~")) != "~":
        root = os.path.join(home, ".cache")
    return Path(root or os.devnull) / "icobench"
