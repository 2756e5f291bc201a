"""A history as a whole, for jobs that are Dask code: collections with one partition for each slice.

Keeps promises 2, 8 and 10. A job with ``whole=True`` is called once, in a worker process, and its collections are computed there by Dask's threads. Every partition is
read by the history's own reader, one slice at a time, and proven; slices that no collection read are proven, too, before the result is stored. Dask's graph
fixes in which order partitions are put together, so threads change no bit.

::

    readers + slices -> Whole -> the user's function -> collection -> computed -> table -> proofs of all slices -> partial
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, Final

import msgspec
import pyarrow as pa

from hindscan.data import Proof
from hindscan.errors import UsageError
from hindscan.history.snapshot import Reader, Slice

__all__ = ["THREADS", "Whole", "computed"]

#: Partitions that are read and computed beside each other.
THREADS: Final = 4


class Whole:
    """A pinned history as a whole: nothing is read before a collection is computed, and then slice by slice.

    Parameters
    ----------
    name : str
        Of the function's parameter.
    reader : Reader
        Of the history's pin.
    slices : sequence of Slice
        All of it.
    """

    def __init__(self, name: str, reader: Reader, slices: Sequence[Slice]) -> None:
        self._name = name
        self._reader = reader
        self._slices = tuple(slices)
        self._lock = threading.Lock()
        self._proofs: dict[int, Proof] = {}
        with closing(reader.open(())) as source:
            self._schema = source.schema

    def __repr__(self) -> str:
        columns = ", ".join(f"{field.name}: {field.type}" for field in self._schema)
        return f"Whole({self._name}: {columns}; {len(self._slices)} slices)"

    @property
    def schema(self) -> pa.Schema:
        """Columns and their types."""
        return self._schema

    def dask(self, columns: Sequence[str] | None = None) -> Any:
        """Give a Dask data frame, one partition for each slice. Needs pandas.

        Parameters
        ----------
        columns : sequence of str, optional
            The columns to read, in this order. Default: all.
        """
        import dask.dataframe as dd

        names = self._columns(columns)
        meta = self._empty(names).to_pandas()
        if not self._slices:
            return dd.from_pandas(meta, npartitions=1)  # type: ignore[no-untyped-call]  # Dask has no annotations
        reading = _Reading(self, names)
        return dd.from_map(reading, list(range(len(self._slices))), meta=meta)  # type: ignore[no-untyped-call]

    def bag(self, columns: Sequence[str] | None = None) -> Any:
        """Give a Dask bag of rows as dicts, one partition for each slice; see `dask` for the columns."""
        import dask.bag as db

        rows = [one.to_pylist() for one in self.delayed(columns)]
        return db.from_delayed(rows) if rows else db.from_sequence([], npartitions=1)  # type: ignore[no-untyped-call]

    def delayed(self, columns: Sequence[str] | None = None) -> list[Any]:
        """Give a delayed Arrow table for each slice, in the order of the history; see `dask` for the columns."""
        import dask

        names = self._columns(columns)
        # Not pure: Dask would make a name of all that a reader holds.
        read = dask.delayed(self.table, pure=False)  # type: ignore[attr-defined]
        return [read(position, names) for position in range(len(self._slices))]

    def proofs(self) -> list[Proof]:
        """Give the proof of every slice; those that nothing has read are proven now."""
        for s in self._slices:
            if s.position not in self._proofs:
                with closing(self._reader.open((s,))) as source:
                    self._keep(s, source.proofs())
        return [self._proofs[s.position] for s in self._slices]

    def _columns(self, columns: Sequence[str] | None) -> list[str]:
        names = list(self._schema.names if columns is None else columns)
        absent = [name for name in names if name not in self._schema.names]
        if absent:
            raise UsageError(
                f"While reading {self._name!r}: columns of the history are required; {absent} are none of {self._schema.names}. Name others.",
                columns=absent,
            )
        return names

    def _empty(self, names: Sequence[str]) -> pa.Table:
        return pa.schema([self._schema.field(name) for name in names]).empty_table()

    def table(self, position: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read one slice as an Arrow table, by its place in the history, and prove it."""
        s, names = self._slices[position], self._columns(columns)
        with closing(self._reader.open((s,))) as source:
            try:
                table = source.dataset(names).to_table(columns=names, use_threads=False)
            except (pa.ArrowException, OSError):
                source.diagnose()  # raises what is wrong with the data, where it is the data
                raise
            # Before anything is computed of it: the rows are what was pinned, or the job fails here.
            self._keep(s, source.proofs())
        return table

    def _keep(self, s: Slice, proofs: Sequence[Proof]) -> None:
        with self._lock:
            self._proofs[s.position] = msgspec.structs.replace(proofs[0], slice=s.position)


class _Reading:
    """Reads one partition of a data frame. Known to Dask by a name of its own instead of all that it holds.

    Parameters
    ----------
    whole : Whole
        The history.
    columns : list of str
        The columns to read.
    """

    def __init__(self, whole: Whole, columns: list[str]) -> None:
        self._whole = whole
        self._columns = columns
        self._token = uuid.uuid4().hex

    def __dask_tokenize__(self) -> str:
        return self._token

    def __call__(self, position: int, columns: list[str] | None = None) -> Any:
        """Read a slice; Dask gives `columns` where it finds that fewer are needed."""
        return self._whole.table(position, self._columns if columns is None else columns).to_pandas()


def computed(make: Callable[[], object]) -> object:
    """Call a function and compute what it returns, collections inside a dict or a list, too, by threads of this process.

    Returns
    -------
    object
        What a step may return: series, arrays, bags and single values have become tables.
    """
    import dask

    with _threads():
        (value,) = dask.compute(make())  # type: ignore[attr-defined, no-untyped-call]
    return _as_returned(value)


def _as_returned(value: Any) -> object:
    """Make a table of what only Dask gives; all else is as any step's."""
    library, kind = type(value).__module__.partition(".")[0], type(value).__name__
    if library == "pandas" and kind == "Series":
        return value.to_frame(value.name if value.name is not None else "value")
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return pa.Table.from_pylist(value)
    if isinstance(value, list | int | float | str) or (library == "numpy" and kind != "dtype"):
        return {"value": value}
    return value


@contextmanager
def _threads() -> Iterator[None]:
    """Have Dask compute by threads of this process, whatever cluster it would find."""
    import dask

    with ThreadPoolExecutor(THREADS) as pool, dask.config.set(scheduler="threads", pool=pool):
        yield
