"""What a plan that was carried out gives: one finished table, or the parts of a table that is split by key, merged to one in the order of its keys.

Keeps promises 8, 9 and 10. Every part is verified, one at a time, before the first row of any is given; then they are merged batch by batch, so that a large result
is published that no process has held whole. A small one is held when it is verified, and is one table at once, so that nothing of it is read twice.

::

    Executed.results -> outcome -> runs.results.publish
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa

from hindscan.runs.partials import Partials
from hindscan.runs.parts import merge
from hindscan.tasks.bench import one_table

__all__ = ["Merged", "outcome"]

#: Bytes of rows up to which parts that are merged are held as one table.
SMALL_BYTES: Final = 64_000_000


class Merged:
    """Finished parts as one table, sorted by key.

    Parameters
    ----------
    partials : Partials
        Where the parts are.
    keys : sequence of str
        Under which they are stored.
    by : sequence of str
        Key columns.

    Raises
    ------
    hindscan.errors.CorruptPartial
        A part is damaged.
    hindscan.errors.BadPartial
        Parts differ in their columns.
    """

    def __init__(self, partials: Partials, keys: Sequence[str], by: Sequence[str]) -> None:
        self._partials, self._keys, self._by = partials, tuple(keys), tuple(by)
        schemas, self.num_rows, self.nbytes = [], 0, 0
        self._held: list[pa.Table] = []
        for key in keys:
            part = partials.read(key)
            schemas.append(part.schema)
            self.num_rows += part.num_rows
            self.nbytes += part.nbytes
            self._held.append(part)
            if not self.is_small:
                self._held.clear()
        self.schema = one_table([schema.empty_table() for schema in schemas], keys).schema

    @property
    def is_small(self) -> bool:
        """Whether it can be one table at once."""
        return self.nbytes <= SMALL_BYTES

    def tables(self) -> Iterator[pa.Table]:
        """Give the rows, in tables of some thousands."""
        stored = [functools.partial(self._partials.batches, key) for key in self._keys]
        held = [functools.partial(_batches, part) for part in self._held]
        return merge(self.schema, self._by, held if self.is_small else stored)

    def table(self) -> pa.Table:
        """Give all rows at once, where they are few."""
        return pa.concat_tables([self.schema.empty_table(), *self.tables()])


def outcome(partials: Partials, keys: Sequence[str], by: Sequence[str]) -> pa.Table | Merged:
    """Give what is published: the finished table, or its parts where the job is split by key, as one table where they are small."""
    if by:
        merged = Merged(partials, keys, by)
        return merged.table() if merged.is_small else merged
    (key,) = keys
    return partials.read(key)


def _batches(table: pa.Table, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    return iter((table if columns is None else table.select(list(columns))).to_batches())
