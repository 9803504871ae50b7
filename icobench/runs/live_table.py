"""The table of a source that is watched: rows that are stored for good every second, and survive a kill.

A session stores rows in pieces beside the table, and fits that came later in pieces of their own. At its
end, or at the beginning of the next one if it was killed, they are joined to the table, one after the other.
"""

import json
import shutil
import uuid
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icobench.errors import InputError
from icobench.images.frames import first_line
from icobench.images.live import NO_TRAIN, Intervals, Known
from icobench.storage import PieceStore, atomic_path, differences

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["LiveTable"]

KEY = b"icobench"
GROUP = 1 << 16
"""Rows of the table that are written at once."""

WAY = "choose another --out"


class LiveTable:
    """A parquet file, and the folder of pieces beside it.

    Args:
        out: the file.
        identity: what the rows depend on; a table of something else is refused.

    Attributes:
        path: the file.
        store: the folder.
        kept: rows of the file.
    """

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.path = Path(out)
        folder = self.path.with_name(self.path.stem + ".pieces")
        self.store = PieceStore(folder, identity, what="a watched source", way=WAY)
        self.kept = 0
        self._session, self._pieces, self._fits = "", 0, 0

    def open(self) -> Known:
        """Join what a killed session left, and begin a new one.

        Returns:
            the frames that have rows.

        Raises:
            InputError: a table or pieces of something else, or a file that cannot be written.
        """
        self._check()
        # A kill while it was removed leaves a part of a folder.
        for left in self.path.parent.glob(f".{self.store.folder.name}.*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        self.store.check()
        self._join()
        known = self._known()
        self._session = uuid.uuid4().hex
        self.store.open({"session": self._session})
        return known

    def store_rows(self, rows: "pd.DataFrame") -> None:
        """Store rows, whose index numbers the frames of the session."""
        with self.store.writing(f"rows-{self._pieces:07d}.parquet") as path:
            rows.rename_axis("row").reset_index().to_parquet(path, index=False)
        self._pieces += 1

    def store_fits(self, fits: "pd.DataFrame") -> None:
        """Store better values for some rows, which are stored or will be."""
        with self.store.writing(f"fits-{self._fits:07d}.parquet") as path:
            fits.rename_axis("row").reset_index().to_parquet(path, index=False)
        self._fits += 1

    def close(self) -> None:
        """Join the pieces of the session to the table."""
        self._join()

    # Joining

    def _described(self) -> dict[str, Any]:
        """What the file says of itself."""
        import pyarrow.parquet as pq

        try:
            metadata = pq.read_schema(self.path).metadata or {}
            return json.loads(metadata[KEY])
        except KeyError:
            raise InputError(f"{self.path}: not a table of icobench watch; {WAY}") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: damaged ({first_line(error)}); {WAY}") from error

    def _check(self) -> None:
        if not self.path.exists():
            return
        stored = self._described()["identity"]
        if stored != self.store.identity:
            other = "; ".join(differences(stored, self.store.identity))
            raise InputError(f"{self.path}: rows of another source, or by other settings; {WAY} ({other})")

    def _known(self) -> Known:
        """The frames of the file, by source."""
        import pyarrow.parquet as pq

        found: dict[str, list[np.ndarray]] = {}
        if self.path.exists():
            file = pq.ParquetFile(self.path)
            self.kept = file.metadata.num_rows
            for batch in file.iter_batches(GROUP, columns=["source", "train", "index"]):
                table = batch.to_pandas()
                table["number"] = table["train"].where(table["train"] != NO_TRAIN, table["index"])
                for source, rows in table.groupby("source", sort=False):
                    found.setdefault(str(source), []).append(np.unique(rows["number"].to_numpy()))
        return {source: Intervals(np.concatenate(numbers)) for source, numbers in found.items()}

    def _tables(self) -> "Iterator[pa.Table]":
        """The rows of the file, then those of the pieces with their fits in place."""
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.path.exists():
            for batch in pq.ParquetFile(self.path).iter_batches(GROUP):
                yield pa.Table.from_batches([batch])

        @lru_cache(maxsize=64)  # fits are stored soon after their rows
        def fits_in(path: Path) -> pd.DataFrame:
            return pd.read_parquet(path).set_index("row")

        fits = sorted(self.store.parts.glob("fits-*.parquet"))
        numbers = [pq.read_table(path, columns=["row"])["row"].to_numpy() for path in fits]
        rows_of = np.concatenate([np.zeros(0, np.int64), *numbers])
        piece_of = np.repeat(np.arange(len(fits)), [len(part) for part in numbers])
        for path in sorted(self.store.parts.glob("rows-*.parquet")):
            table = pd.read_parquet(path).set_index("row")
            here = (rows_of >= table.index[0]) & (rows_of <= table.index[-1])
            for place in np.unique(piece_of[here]):
                better = fits_in(fits[place])
                better = better[better.index.isin(table.index)]
                table.loc[better.index, better.columns] = better
            yield pa.Table.from_pandas(table, preserve_index=False)

    def _join(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        description = self.store.description
        if not description.exists():
            return
        session = json.loads(description.read_text()).get("session", "")
        stored = next(self.store.parts.glob("rows-*.parquet"), None) if self.store.parts.exists() else None
        if stored is not None and not (self.path.exists() and self._described()["session"] == session):
            schema = pq.read_schema(stored)
            schema = schema.remove(schema.get_field_index("row"))
            said = json.dumps({"identity": self.store.identity, "session": session})
            schema = schema.with_metadata({KEY: said.encode()})
            with atomic_path(self.path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
                held: list[pa.Table] = []
                for table in self._tables():
                    held.append(table.cast(schema))
                    if sum(map(len, held)) >= GROUP:
                        writer.write_table(pa.concat_tables(held))
                        held = []
                if held:
                    writer.write_table(pa.concat_tables(held))
        if self.path.exists():
            self.kept = pq.read_metadata(self.path).num_rows
        # First another name: a kill on the way leaves no half folder under this one.
        old = self.store.folder.with_name(f".{self.store.folder.name}.{uuid.uuid4().hex[:12]}.tmp")
        self.store.folder.rename(old)
        shutil.rmtree(old, ignore_errors=True)
