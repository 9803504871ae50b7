"""Where things that are made once are kept between processes."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """``icobench`` in ``$ICOBENCH_CACHE``, ``$XDG_CACHE_HOME`` or ~/.cache; may not exist yet."""
    root = os.environ.get("ICOBENCH_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "icobench"
