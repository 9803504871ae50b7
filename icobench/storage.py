"""Files that are written whole or not at all, and folders of pieces of work.

Work that takes long is divided into pieces. Each finished piece is one file in a run folder, so that work may
be stopped at any time, continued by the same command, and shared by several processes or machines.
"""

import json
import os
import re
import tomllib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from icobench.errors import InputError

__all__ = [
    "WHOLE", "PieceStore", "Shard", "atomic_path", "check_output", "differences", "holds_others",
    "parse_shard", "plain", "put_in_place", "read_json", "read_toml", "share", "toml_text", "write_json",
]  # fmt: skip

Piece = TypeVar("Piece")

Shard = tuple[int, int]
"""Number and total of shards, counted from 1."""

LARGEST_TEXT = 1 << 22
"""Bytes of a TOML file; those of the package have some hundred."""

WHOLE: Shard = (1, 1)
"""The one shard of work that is not divided."""


def put_in_place(source: Path, target: Path) -> None:
    """Rename a file so that after a power cut the name is that of the old file or of the whole new one."""
    _to_disk(source)
    os.replace(source, target)
    with suppress(OSError):  # not every file system takes it of a folder
        _to_disk(target.parent)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, on disk and renamed to it on success, removed on failure.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    # A process number would not do: machines that share a folder have processes of the same number.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path.parent}: not writable")
    try:
        yield temporary
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: Path) -> None:
    """Refuse a file that cannot be written, without writing it.

    Raises:
        InputError: no such folder, one that cannot be written, a folder of that name, a name too long.
    """
    # Permissions do not tell everything: a file system may be read-only, or not take such a name.
    try:
        if not path.name or path.is_dir():
            raise InputError(f"{path}: is a folder, not a file to write")
        folder = path.resolve().parent
        if not folder.is_dir():
            raise InputError(f"{path.parent}: no such folder")
        trial = folder / f".{path.name}.{uuid.uuid4().hex[:12]}.tmp"
        trial.touch()
        trial.unlink()
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be written ({reason})") from error


def write_json(path: Path, values: Any, indent: int | None = 1) -> None:
    """Write values as JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=indent) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The dictionary in a JSON file.

    Raises:
        InputError: the file is missing or damaged, or holds no dictionary.
    """
    path = Path(path)
    if not path.is_file():  # a pipe would be waited for
        raise InputError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise InputError(f"{path}: damaged; remove it and run the command again")
    return values


def read_toml(path: Path | str) -> dict[str, Any]:
    """The values in a TOML file.

    Raises:
        InputError: the file is missing, or is not TOML.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise InputError(f"{path}: not a file")
        if path.exists() and path.stat().st_size > LARGEST_TEXT:
            raise InputError(f"{path}: larger than {LARGEST_TEXT:,} bytes")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # text that is no UTF-8, numbers of thousands of digits
        raise InputError(f"{path}: not a TOML file ({error})") from error


def _toml_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    # TOML knows inf and nan, JSON does not.
    return repr(value) if isinstance(value, float) else json.dumps(value)


def toml_text(values: dict[str, Any], path: tuple[str, ...] = ()) -> str:
    """Booleans, numbers, strings, lists of these, and tables as TOML; None, which TOML lacks, is left out.

    Args:
        values: what to write.
        path: names of the tables that contain the values.
    """
    keys = {name: name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name) for name in values}
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    lines = [
        f"{keys[name]} = {_toml_value(value)}\n"
        for name, value in values.items()
        if value is not None and name not in tables
    ]
    if lines and path:
        lines.insert(0, f"\n[{'.'.join(path)}]\n")
    return "".join(lines) + "".join(toml_text(table, (*path, keys[name])) for name, table in tables.items())


def holds_others(folder: Path, *allowed: str) -> bool:
    """Whether a folder has files that are neither ``allowed``, nor hidden, nor a cluster's state.

    Several processes may open a new run folder at once, so what the others have just made does not count.
    """
    return folder.is_dir() and any(
        path.name not in (*allowed, "cluster") and not path.name.startswith(".") for path in folder.iterdir()
    )


def parse_shard(text: str) -> Shard:
    """Number and total of ``i/n``, counted from 1.

    Raises:
        InputError: not two numbers, or there is no such shard.
    """
    try:
        number, total = (int(part) for part in text.split("/"))
    except ValueError as error:
        raise InputError(f"--shard must be i/n such as 2/8, got {text!r}") from error
    if not 1 <= number <= total:
        raise InputError(f"shard {text}: shards are counted from 1 to their number")
    return number, total


def share(pieces: Sequence[Piece], shard: Shard) -> list[Piece]:
    """Every n-th piece: neighbouring pieces cost about the same, and so do the shards then."""
    number, total = shard
    return list(pieces[number - 1 :: total])


def differences(stored: Any, wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """The entries in which two dictionaries differ, such as "recipe.batch 32, not 64"."""
    stored = stored if isinstance(stored, dict) else {}
    names = [*wanted, *(name for name in stored if name not in wanted)]
    changes = []
    for name in names:
        old, new = stored.get(name, "unknown"), wanted.get(name, "unknown")
        if isinstance(old, dict) and isinstance(new, dict):
            changes += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            changes.append(f"{prefix}{name} {old}, not {new}")
    return changes


def plain(value: Any) -> Any:
    """A value as JSON has it; files with their size and time, so that another file of the name is another."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, str | Path) and str(value) and Path(value).is_file():
        state = Path(value).stat()
        return [str(Path(value).resolve()), state.st_size, state.st_mtime_ns]
    return value if isinstance(value, bool | int | float | None) else str(value)


class PieceStore:
    """A run folder: a description that says whose it is, and a file for each finished piece.

    Making a store reads and writes nothing. :meth:`check` refuses a folder that holds something else,
    :meth:`open` makes the folder and writes the description.

    Args:
        folder: of the run.
        identity: all that the pieces depend on; plain values. A folder with another identity is refused.
        description: name of the file that holds the identity.
        parts: name of the folder of the pieces, inside ``folder``.
        what: what the folder holds, for messages.
        way: how a user gets another folder, for messages.
        allowed: further names that may stand in the folder before there is a description.

    Example:
        >>> import tempfile
        >>> store = PieceStore(Path(tempfile.mkdtemp()) / "run", {"seed": 0})
        >>> store.open()
        >>> with store.writing("first.txt") as path:
        ...     _ = path.write_text("done")
        >>> store.has("first.txt"), store.has("second.txt")
        (True, False)
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        description: str = "run.json",
        parts: str = "parts",
        what: str = "a run",
        way: str = "choose another --run",
        allowed: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder)
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self.description, self.parts = self.folder / description, self.folder / parts
        self.what, self.way, self.allowed = what, way, tuple(allowed)

    def check(self) -> None:
        """Refuse a folder that holds something else; nothing is written.

        Raises:
            InputError: the folder is a file, is not empty, or has pieces of another identity.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder}: is a file, not a run folder")
        if not self.description.exists():
            if holds_others(self.folder, self.description.name, self.parts.name, *self.allowed):
                raise InputError(f"{self.folder}: not empty and not {self.what}; {self.way}")
            return
        stored = read_json(self.description).get("identity")
        if not isinstance(stored, dict):
            raise InputError(f"{self.description}: damaged; remove it and run the command again")
        if stored != self.identity:
            other = "; ".join(differences(stored, self.identity))
            raise InputError(f"{self.folder}: holds {self.what} with other settings; {self.way} ({other})")

    def open(self, description: dict[str, Any] | None = None) -> None:
        """Make the folder, or continue in it.

        Args:
            description: what to note beside the identity, such as where the results come from.

        Raises:
            InputError: as for :meth:`check`, or the folder cannot be made.
        """
        self.check()
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
            self.describe(description or {})
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be made ({error.strerror})") from error

    def describe(self, description: dict[str, Any]) -> None:
        """Write the description anew."""
        write_json(self.description, {**description, "identity": self.identity})

    def path(self, name: str) -> Path:
        """Where the piece with this name is stored."""
        return self.parts / name

    def has(self, name: str) -> bool:
        """Whether a piece is stored."""
        return self.path(name).exists()

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A temporary name for a piece, which becomes the piece at the end."""
        with atomic_path(self.path(name)) as temporary:
            yield temporary
