"""What a job's function is given: pinned rows, read lazily, and the proof that they were read whole.

Keeps the reading half of promises 2, 8 and 12. A `Source` is one table as a worker opened it; `Data` is the view of it that the
user's function gets: `.sql`, `.arrow`, `.pandas`, `.polars`, `.batches`, each reading only the columns and rows asked for. SQL runs in a DuckDB
with one thread, UTC, and no way to any file, network or extension: only the tables of the step can be opened, and values are bound, never pasted.
Foundation: knows nothing of Kafka, Parquet or jobs; `history` implements `Source`.

::

    Reader.open(slices) -> Source -> Data -> the user's function -> table;  Source.proofs() -> Proof
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Protocol

import msgspec
import pyarrow as pa

from hindscan.condition import Where
from hindscan.engine import Values, database, failed_while_running, plain
from hindscan.errors import UsageError
from hindscan.query import Read, reads_of

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow.dataset as ds

__all__ = ["Data", "Proof", "Source", "TableSource"]

#: Rows of a batch if none are asked for: a few megabytes of a table of ten columns.
BATCH_ROWS = 131_072


class Proof(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What was seen while one slice was read: enough to say it was whole, and to compare a second reading."""

    #: Position of the slice in its plan.
    slice: int
    #: Rows delivered to the function's table (after set-aside records, before since, until and as_of).
    records: int
    bytes: int = 0
    #: Kafka only: offsets of the first and last delivered record; None if there was none.
    first_offset: int | None = None
    last_offset: int | None = None
    #: Kafka only: offsets in the range that no reader at this isolation level sees (markers, aborted, compacted). None where it is not known of a part of what
    #: was archived together.
    invisible: int | None = None
    #: Greatest event time read, microseconds since the epoch; lets a later run drop T from the key.
    greatest_time: int | None = None
    #: Kafka only: least event time, and latest record time, in microseconds.
    least_time: int | None = None
    latest_record_time: int | None = None
    #: Kafka only: the most that an event time was behind a record time before it, or ahead of its own, in microseconds. None: not known, because
    #: a record has no time.
    disorder: int | None = None
    #: Kafka only: partitions the topic had when all was read.
    partition_count: int | None = None
    #: 128-bit hash over what was read (Kafka: offset, time, value; Parquet: the file's identity).
    digest: str = ""
    #: Undecodable records set aside: position and reason, the first hundred; `set_aside` counts all.
    set_aside: int = 0
    bad_records: tuple[str, ...] = ()
    #: Kafka only: visible records without a value (deletions), which are no rows.
    tombstones: int = 0
    #: "mock" where the broker cannot prove what it says.
    unverified: str | None = None


class Source(Protocol):
    """One table of a step, opened where the work is done. A context manager: leaving it closes readers."""

    @property
    def schema(self) -> pa.Schema:
        """Columns, in order, whatever is read of them."""
        ...

    def dataset(self, columns: Sequence[str] | None = None, where: Where | None = None) -> ds.Dataset:
        """Give the rows, with the window's bounds already applied.

        Parameters
        ----------
        columns : sequence of str, optional
            The only columns that will be looked at: a decoder skips the others. The data set has at least these (a bound
            may need its own). Default: all.
        where : Where, optional
            Rows that do not fulfil it will not be looked at: they may be left out, and need not.
        """
        ...

    def diagnose(self) -> None:
        """Say what is wrong with the stored data, after an engine failed while reading it.

        Raises
        ------
        hindscan.errors.HistoryError
            What lies there is damaged or not what was pinned. Returns if the fault is not the data's.
        """
        ...

    def proofs(self) -> list[Proof]:
        """Verify what was read and say so, one proof per slice; reads what the function left unread of nothing.

        Raises
        ------
        hindscan.errors.HistoryError
            What was read is not what was pinned.
        """
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...


class TableSource:
    """A table in memory as a `Source`: partials for combine and finish, and rows for tests."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __enter__(self) -> TableSource:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    @property
    def schema(self) -> pa.Schema:
        """Columns, in order."""
        return self._table.schema

    def dataset(self, columns: Sequence[str] | None = None, where: Where | None = None) -> ds.Dataset:  # noqa: ARG002
        """Give the rows; all of them, as the query filters for itself."""
        # Imported here: it brings pandas with it where that is installed, and most processes that know `Source` open none.
        import pyarrow.dataset as ds

        return ds.dataset(self._table if columns is None else self._table.select(list(columns)))

    def diagnose(self) -> None:
        """Return: a table in memory has nothing behind it."""

    def proofs(self) -> list[Proof]:
        """Say how much there was."""
        return [Proof(slice=0, records=self._table.num_rows, bytes=self._table.nbytes)]

    def close(self) -> None:
        """Keep nothing open."""


class Data:
    """Rows of a pinned table, read when asked for and only as far as asked for.

    Rows come in the order of the history (offsets of a partition, rows of a file), the same at every reading.

    Parameters
    ----------
    name : str
        The table that `.arrow`, `.pandas`, `.polars` and `.batches` read.
    sources : mapping of str to Source
        All tables that SQL of this step can name, `name` among them.

    Examples
    --------
    >>> bids = Data("bids", {"bids": TableSource(pa.table({"bidder": [1, 2, 1], "price": [5, 7, 9]}))})
    >>> bids.sql(
    ...     "SELECT bidder, max(price) AS top FROM bids WHERE price > $least GROUP BY ALL ORDER BY bidder", least=5
    ... ).to_pylist()
    [{'bidder': 1, 'top': 9}, {'bidder': 2, 'top': 7}]
    """

    def __init__(self, name: str, sources: Mapping[str, Source]) -> None:
        if name not in sources:
            raise UsageError(
                f"While opening the table {name!r}: it must be among the tables of the step; they are {sorted(sources)}. Name one of them."
            )
        self._name = name
        self._sources = dict(sources)

    def __repr__(self) -> str:
        columns = ", ".join(f"{field.name}: {field.type}" for field in self.schema)
        return f"Data({self._name}: {columns})"

    @property
    def schema(self) -> pa.Schema:
        """Columns and their types; reads nothing."""
        return self._sources[self._name].schema

    def arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read all rows as an Arrow table.

        Parameters
        ----------
        columns : sequence of str, optional
            The columns to read, in this order. Default: all.
        """
        with self._reading([self._name]):
            return self._dataset(columns).to_table(columns=self._columns(columns))

    def pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read all rows as a pandas data frame; see `arrow`."""
        return self.arrow(columns).to_pandas()

    def polars(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Read all rows as a Polars data frame; see `arrow`."""
        import polars as pl

        frame = pl.from_arrow(self.arrow(columns))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def batches(self, columns: Sequence[str] | None = None, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Read row by row, so that memory is bounded by a batch where the history allows it.

        Parameters
        ----------
        columns : sequence of str, optional
            The columns to read, in this order. Default: all.
        rows : int
            Rows of each batch but the last.
        """
        if rows < 1:
            raise UsageError(
                f"While reading {self._name!r} in batches: at least 1 row each is required; {rows} was asked for."
            )
        with self._reading([self._name]):
            dataset = self._dataset(columns)
            held: list[pa.RecordBatch] = []
            count = 0
            schema = pa.schema([self.schema.field(name) for name in self._columns(columns)])
            for batch in dataset.to_batches(batch_size=rows, columns=schema.names):
                held.append(batch)
                count += batch.num_rows
                while count >= rows:
                    whole = pa.Table.from_batches(held, schema)
                    yield _one_batch(whole.slice(0, rows))
                    held = whole.slice(rows).to_batches()
                    count -= rows
            if count:
                yield _one_batch(pa.Table.from_batches(held, schema))

    def sql(self, query: str, /, **values: object) -> pa.Table:
        """Run one SELECT of DuckDB's dialect over the tables of this step.

        One thread, UTC, no files, network or extensions. Rows without ORDER BY come in the same order at every run, as long as the
        worker's memory holds what the statement does; what it does not hold goes by way of the disk. DuckDB sums
        integers to 128 bits, which become decimals here: cast to BIGINT what is to stay an integer.

        Parameters
        ----------
        query : str
            One statement that only reads: SELECT, WITH, FROM, VALUES. ``$name`` stands for a value.
        **values
            What the ``$name`` stand for; bound, never pasted.

        Raises
        ------
        UsageError
            The text is not one reading statement.
        duckdb.Error
            The statement is wrong, or fails on this data.
        """
        bound = {name: plain(value) for name, value in values.items()}
        reads = reads_of(query, bound, {name: source.schema for name, source in self._sources.items()})
        opened = {name: read for name, read in reads.items() if read.columns}
        with self._reading(list(opened)):
            rows = {
                name: _scanned(self._sources[name].dataset(read.columns, read.where)) for name, read in opened.items()
            }
            if rows and all(_is_left_nothing(table, opened[name].where) for name, table in rows.items()):
                # A condition that leaves a slice nothing leaves most slices nothing, and the engine would take longer over each than the reader.
                schemas = {name: source.schema.remove_metadata() for name, source in self._sources.items()}
                return _over_no_rows(query, Values(bound), tuple(schemas.items()))
            return _asked(query, bound, reads, rows)

    def _columns(self, columns: Sequence[str] | None) -> list[str]:
        return list(self.schema.names if columns is None else columns)

    def _dataset(self, columns: Sequence[str] | None) -> ds.Dataset:
        if columns is not None:
            absent = [name for name in columns if name not in self.schema.names]
            if absent:
                raise UsageError(
                    f"While reading {self._name!r}: columns of the table are required; {absent} are none of {self.schema.names}.",
                    columns=absent,
                )
        return self._sources[self._name].dataset(columns)

    @contextmanager
    def _reading(self, names: Sequence[str]) -> Iterator[None]:
        try:
            yield
        except Exception as fault:
            # An engine tells of a damaged file in its own words and class, so the source is asked first.
            if _can_come_from_data(fault):
                for name in names:
                    self._sources[name].diagnose()
            raise


def _asked(
    query: str, values: Mapping[str, object], reads: Mapping[str, Read], rows: Mapping[str, ds.Dataset | pa.Table]
) -> pa.Table:
    """Run a statement over tables of which only what it reads is there."""
    with closing(database(os.getpid()).cursor()) as cursor:
        for index, (name, read) in enumerate(reads.items()):
            if name in rows:
                cursor.register(f"__table_{index}", rows[name])
            cursor.execute(read.view(name, f"__table_{index}"))
        result: pa.Table = cursor.sql(query, params=dict(values) or None).to_arrow_table()
        return result


@functools.lru_cache(maxsize=256)
def _over_no_rows(query: str, values: Values, schemas: tuple[tuple[str, pa.Schema], ...]) -> pa.Table:
    """Run a statement over tables without rows: it gives the same whenever it is asked."""
    reads = reads_of(query, values, dict(schemas))
    empty = {name: schema.empty_table().select(reads[name].columns) for name, schema in schemas if reads[name].columns}
    return _asked(query, values, reads, empty)


def _is_left_nothing(rows: ds.Dataset | pa.Table, where: Where | None) -> bool:
    return where is not None and isinstance(rows, pa.Table) and not rows.num_rows


def _scanned(dataset: ds.Dataset) -> ds.Dataset | pa.Table:
    """Give what the engine scans: rows in memory as the table they are, which it filters itself; from a data set it would have them filtered by Arrow, slower."""
    import pyarrow.dataset as ds

    return dataset.to_table(use_threads=False) if isinstance(dataset, ds.InMemoryDataset) else dataset


def _can_come_from_data(fault: Exception) -> bool:
    return isinstance(fault, pa.ArrowException | OSError) or failed_while_running(fault)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    [batch] = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
    return batch
