"""A broadcast table on a worker: read once, however many slices look at it.

Keeps promises 2, 7 and 10. The columns that steps ask for are read when they are first asked for, proven, and kept in memory in the order of the table; columns nobody
looks at are never read. The proof is stored beside the partials where a plan may ask whether the bounds of the table cut off anything. What is kept is bounded by
`max_table_bytes` of the plan, and half of that for the rows that the last condition of a statement has left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hindscan.data import Proof
from hindscan.history.snapshot import Reader, Slice

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from hindscan.condition import Where

__all__ = ["BroadcastTable", "whole_proof"]


class BroadcastTable:
    """A `Source` over a whole table that keeps the columns it has read.

    Parameters
    ----------
    reader : Reader
        Of the table's pin.
    slices : sequence of Slice
        The whole pin.
    proven : callable
        Takes the proof of the whole table whenever it was read.
    """

    def __init__(
        self, reader: Reader, slices: Sequence[Slice], proven: Callable[[Proof], None] = lambda _: None
    ) -> None:
        self._reader = reader
        self._slices = tuple(slices)
        self._proven = proven
        self._lock = threading.Lock()
        self._filtering = threading.Lock()
        #: The rows that the last condition left, under the condition and the columns.
        self._last: tuple[tuple[str, tuple[str, ...]], pa.Table] | None = None
        self._columns: dict[str, pa.ChunkedArray[Any]] = {}
        self._proofs: list[Proof] = []
        with closing(reader.open(self._slices)) as source:
            self._schema = source.schema

    @property
    def schema(self) -> pa.Schema:
        """Columns, in order."""
        return self._schema

    def dataset(self, columns: Sequence[str] | None = None, where: Where | None = None) -> ds.Dataset:
        """Give the rows; reads what has not been read before. The rows that the last condition has left are kept, so that slices do not filter one after another."""
        import pyarrow.dataset as ds

        wanted = list(self._schema.names if columns is None else columns)
        if where is None:
            return ds.dataset(self._table(wanted))
        key = where.key, tuple(wanted)
        with self._filtering:
            if self._last is None or self._last[0] != key:
                rows = self._table(list(dict.fromkeys([*wanted, *where.columns])))
                left = rows.filter(pa.array(where.keeps(rows)))
                # Little is won where most rows are left, and they would be in memory twice.
                self._last = key, (left if 2 * left.num_rows <= rows.num_rows else rows).select(wanted)
            return ds.dataset(self._last[1])

    def _table(self, wanted: list[str]) -> pa.Table:
        with self._lock:
            missing = [name for name in dict.fromkeys(wanted) if name not in self._columns]
            if missing or not self._columns:
                self._read(missing or self._schema.names[:1])
            arrays = [self._columns[name] for name in wanted]
        return pa.table(arrays, schema=pa.schema([self._schema.field(name) for name in wanted]))

    def _read(self, names: list[str]) -> None:
        with closing(self._reader.open(self._slices)) as source:
            try:
                table = source.dataset(names).to_table(columns=names, use_threads=False)
            except Exception:
                source.diagnose()  # raises what is wrong with the data, where it is the data
                raise
            # Nothing unproven is kept: the rows are what was pinned, or the task fails here.
            self._proofs = source.proofs()
        self._proven(whole_proof(self._proofs))
        self._columns.update(zip(names, table.columns, strict=True))

    def diagnose(self) -> None:
        """Return: what is kept has been proven."""

    def proofs(self) -> list[Proof]:
        """Give the proofs of the last reading."""
        return self._proofs

    def close(self) -> None:
        """Keep everything for the next slice."""


def whole_proof(proofs: Sequence[Proof]) -> Proof:
    """Make one proof of those of all slices of a table: of its times only what is known of every row."""
    with_rows = [proof for proof in proofs if proof.records]
    greatest = [proof.greatest_time for proof in with_rows if proof.greatest_time is not None]
    disorder = [proof.disorder for proof in with_rows if proof.disorder is not None]
    return Proof(
        slice=0,
        records=sum(proof.records for proof in proofs),
        bytes=sum(proof.bytes for proof in proofs),
        greatest_time=max(greatest) if greatest and len(greatest) == len(with_rows) else None,
        disorder=max(disorder, default=0) if len(disorder) == len(with_rows) else None,
    )
