"""Reading whole image stacks, and writing files whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from icobench.errors import InputError
from icobench.images.formats import DATA_PATH, HDF5_SUFFIXES, MASK_PATH
from icobench.images.source import ImageStack, open_images

__all__ = [
    "DATA_PATH",
    "HDF5_SUFFIXES",
    "MASK_PATH",
    "ImageStack",
    "atomic_path",
    "holds_others",
    "read_images",
]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it on success and removed on failure.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    # Machines that share a folder have processes of the same number.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path.parent}: not writable")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def holds_others(folder: Path, *own: str) -> bool:
    """Whether a folder has files that are neither ``own`` names, nor hidden, nor a cluster's state.

    Several processes may open a new run folder at once: what the others have just made is no stranger.
    """
    return folder.is_dir() and any(
        one.name not in (*own, "cluster") and not one.name.startswith(".") for one in folder.iterdir()
    )


def read_images(
    path: Path | str,
    kind: str = "auto",
    data_path: str | None = None,
    mask_path: str | None = None,
) -> ImageStack:
    """Read all images of a file, every one of which must be usable.

    Args:
        path, kind: as for :func:`~icobench.images.source.open_images`, which reads block by block.
        data_path, mask_path: its ``dataset`` and ``mask``.

    Raises:
        InputError: unreadable, wrongly shaped or impossible data; the message names file and image.
    """
    with open_images(path, kind, data_path, mask_path) as source:
        _, stack, problems = source.read(range(len(source)))
        for number, problem in sorted(problems.items()):
            raise InputError(f"{source.where}: image {number}: {problem}")
        for warning in source.warnings():
            raise InputError(warning)
    return stack
