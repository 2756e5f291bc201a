"""A broadcast table on a worker: read once, however many slices look at it.

Keeps promises 2 and 10. The columns that steps ask for are read when they are first asked for, proven, and kept in memory in the order of the table; columns nobody
looks at are never read. What is kept is bounded by `max_table_bytes` of the plan.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hindscan.data import Proof
from hindscan.history.snapshot import Reader, Slice

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from hindscan.query import Where

__all__ = ["BroadcastTable"]


class BroadcastTable:
    """A `Source` over a whole table that keeps the columns it has read.

    Parameters
    ----------
    reader : Reader
        Of the table's pin.
    slices : sequence of Slice
        The whole pin.
    """

    def __init__(self, reader: Reader, slices: Sequence[Slice]) -> None:
        self._reader = reader
        self._slices = tuple(slices)
        self._lock = threading.Lock()
        self._columns: dict[str, pa.ChunkedArray[Any]] = {}
        self._proofs: list[Proof] = []
        with closing(reader.open(self._slices)) as source:
            self._schema = source.schema

    @property
    def schema(self) -> pa.Schema:
        """Columns, in order."""
        return self._schema

    def dataset(self, columns: Sequence[str] | None = None, where: Where | None = None) -> ds.Dataset:  # noqa: ARG002
        """Give the rows, all of them: the next query may want others. Reads what has not been read before."""
        wanted = list(self._schema.names if columns is None else columns)
        with self._lock:
            missing = [name for name in dict.fromkeys(wanted) if name not in self._columns]
            if missing or not self._columns:
                self._read(missing or self._schema.names[:1])
            arrays = [self._columns[name] for name in wanted]
        import pyarrow.dataset as ds

        return ds.dataset(pa.table(arrays, schema=pa.schema([self._schema.field(name) for name in wanted])))

    def _read(self, names: list[str]) -> None:
        with closing(self._reader.open(self._slices)) as source:
            try:
                table = source.dataset(names).to_table(columns=names, use_threads=False)
            except Exception:
                source.diagnose()  # raises what is wrong with the data, where it is the data
                raise
            # Nothing unproven is kept: the rows are what was pinned, or the task fails here.
            self._proofs = source.proofs()
        self._columns.update(zip(names, table.columns, strict=True))

    def diagnose(self) -> None:
        """Return: what is kept has been proven."""

    def proofs(self) -> list[Proof]:
        """Give the proofs of the last reading."""
        return self._proofs

    def close(self) -> None:
        """Keep everything for the next slice."""
