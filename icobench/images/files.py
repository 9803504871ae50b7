"""Reading whole image stacks."""

from pathlib import Path

from icobench.errors import InputError
from icobench.images.formats import DATA_PATH, HDF5_SUFFIXES, MASK_PATH
from icobench.images.source import ImageStack, open_images

__all__ = [
    "DATA_PATH",
    "HDF5_SUFFIXES",
    "MASK_PATH",
    "ImageStack",
    "read_images",
]


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
