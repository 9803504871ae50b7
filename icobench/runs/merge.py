"""Bringing the shards of a sweep together that were computed in folders of their own."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icobench.errors import InputError
from icobench.storage import atomic_path
from icobench.runs.sweep import difference, read_described, read_point

__all__ = ["merge_sweeps"]


def merge_sweeps(out: Path, folders: Sequence[Path]) -> int:
    """Bring the points of several folders of one sweep together; all is checked before anything is written.

    Args:
        out: made; a folder that holds the same sweep is filled up.
        folders: one for each shard, in any order; the same point may be in two if it is the same.

    Returns:
        number of points.

    Raises:
        InputError: folders of different sweeps, different results of one point, or points missing.
    """
    out, folders = Path(out), [Path(folder) for folder in folders]
    described = [read_described(folder) for folder in folders]
    first = described[0]
    for folder, one in zip(folders, described, strict=True):
        if one["identity"] != first["identity"]:
            raise InputError(
                f"{folder}: another sweep than {folders[0]}"
                f" ({difference(one['identity'], first['identity'])})"
            )
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; choose another name")
    sources = list(folders)
    if out.exists() and any(out.iterdir()):
        if not (out / "sweep.json").exists():
            raise InputError(f"{out}: not empty and not a sweep; choose another name")
        there = read_described(out)
        if there["identity"] != first["identity"]:
            raise InputError(f"{out}: holds another sweep; choose another name")
        described.append(there)
        sources.insert(0, out)
    found = _points(sources, first["identity"])
    points = sorted({point for one in described for point in one["points"]})
    seeds = max(one["seeds"] for one in described)
    axis = first["identity"]["axis"]
    wanted = [f"{axis}-{point:08d}-seed{seed}.json" for point in points for seed in range(seeds)]
    missing = [name for name in wanted if name not in found]
    if missing:
        names = ", ".join(name.removesuffix(".json") for name in missing[:3])
        raise InputError(f"{out}: {len(missing)} of {len(wanted)} points are in no folder ({names}, ...)")
    try:
        (out / "points").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror})") from error
    with atomic_path(out / "sweep.json") as temporary:
        text = {**first, "points": points, "seeds": seeds, "shards": 1}
        temporary.write_text(json.dumps(text, indent=1) + "\n")
    for name, path in found.items():
        if path != out / "points" / name:
            with atomic_path(out / "points" / name) as temporary:
                shutil.copyfile(path, temporary)
    return len(wanted)


def _points(folders: Sequence[Path], identity: dict[str, Any]) -> dict[str, Path]:
    """The files of all points by name; of equal ones the first.

    Raises:
        InputError: a point is damaged, of another sweep, or has two results.
    """
    found: dict[str, tuple[Path, Any]] = {}
    for folder in folders:
        for path in sorted((folder / "points").glob("*.json")):
            result = _errors(read_point(path, identity)[0]["result"])
            other, theirs = found.setdefault(path.name, (path, result))
            if theirs != result:
                raise InputError(f"{path}: differs from {other}")
    return {name: path for name, (path, _) in found.items()}


def _errors(result: dict[str, Any]) -> dict[str, Any]:
    """What must not differ between two computations of one point: all but times."""
    return {name: value for name, value in result.items() if "seconds" not in name}
