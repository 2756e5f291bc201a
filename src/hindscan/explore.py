"""Exploring a history from Python: a pinned history as a value to look at, query, sample, fan out and check.

The same rows whenever it is read (promise 1), and proven at every reading (promise 2): what could not be read as it was pinned is an error, never fewer rows. It is a
value: pickled or saved, and loaded in another process, it gives the same.

::

    hs.history(name).snapshot(...) -> PinnedHistory -> sql, sample, batches, pandas, Polars, Dask;  save, verify
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hindscan import times
from hindscan.errors import UsageError
from hindscan.history.snapshot import KafkaPin, KafkaSlice, ParquetPin, ParquetSlice, Reader, RowGroup, Slice
from hindscan.pinned import Difference, Pinned, SliceRead, differences, read_pinned, save_pinned, schema_of
from hindscan.words import html_table

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from hindscan.config import Project
    from hindscan.data import Data

__all__ = ["Count", "PinnedHistory", "Time", "Verified", "window_values"]

#: What a time may be given as.
Time = str | date | datetime
#: Slices a sample is spread over at most.
SAMPLED_SLICES: Final = 10
#: Offsets that are read of a slice for a sample before more are.
SAMPLED_OFFSETS: Final = 256


def window_values(
    *, as_of: Time | None, since: Time | None, until: Time | None, last: str | timedelta | None, **others: Any
) -> dict[str, Any]:
    """Convert the times of a window to what `history.window.make_window` takes; leave out what was not given.

    Raises
    ------
    hindscan.errors.UsageError
        One is no time, or no length of time.
    """
    found = {name: value for name, value in others.items() if value is not None}
    for name, given in {"as_of": as_of, "since": since, "until": until, "last": last}.items():
        try:
            match given:
                case None:
                    continue
                case timedelta() if name == "last":
                    found[name] = given // timedelta(microseconds=1)
                case str() if name == "last":
                    found[name] = times.duration(given)
                case str():
                    found[name] = times.from_text(given)
                case date() if name != "last":
                    found[name] = times.from_datetime(given)
                case _:
                    # A number would have to be guessed: a year, seconds, microseconds.
                    kinds = "a text or a timedelta" if name == "last" else "a text, a date or a datetime"
                    raise UsageError(f"Reading {name}: it must be {kinds}, found {given!r}.")
        except ValueError as error:
            raise UsageError(f"Reading {name}: it {error}.") from None
    return found


class Count(int):
    """A number of rows that says whether it is one: an estimate is from above.

    Examples
    --------
    >>> Count(1200, exact=False), Count(3, exact=True), Count(3, exact=True) + 1
    (at most 1,200, 3, 4)
    """

    #: Counted, or told by files whose every row is inside.
    exact: bool

    def __new__(cls, value: int, *, exact: bool) -> Count:
        """Make a count."""
        made = super().__new__(cls, value)
        made.exact = exact
        return made

    def __repr__(self) -> str:
        return f"{int(self):,}" if self.exact else f"at most {int(self):,}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_count, (int(self), self.exact))


def _count(value: int, exact: bool) -> Count:
    return Count(value, exact=exact)


class Verified(Sequence[Difference]):
    """How a second reading differs from the first, slice by slice; empty if it is the `same`."""

    def __init__(self, found: Sequence[Difference], *, slices: int, compared: int) -> None:
        self._found = tuple(found)
        #: Slices that were read again, and those there was a proof to compare with.
        self.slices, self.compared = slices, compared

    @property
    def same(self) -> bool:
        """Nothing differs."""
        return not self._found

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: Any) -> Any:
        return self._found[index]

    def __repr__(self) -> str:
        if self.same:
            return f"<the same: {self.slices} slices read, {self.compared} compared>"
        return "\n".join(f"DIFFERENT: {one.slice}: {one.what}" for one in self._found)


class PinnedHistory:
    """A history, pinned: the same rows whenever it is read. Made by `HistoryHandle.snapshot` and `load_snapshot`."""

    def __init__(self, project: Project, pinned: Pinned) -> None:
        self._project, self._pinned = project, pinned
        self.name = pinned.history

    # --- What it is -------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return (
            f"<snapshot of {self.name}: " + ", ".join(f"{name} {value}" for name, value in self._said().items()) + ">"
        )

    def _repr_html_(self) -> str:
        columns = ", ".join(f"{field.name}: {field.type}" for field in self.schema)
        notes = [("note", caveat) for caveat in self.caveats]
        return html_table([("snapshot of", self.name), *self._said().items(), *notes, ("columns", columns)])

    def _said(self) -> dict[str, str]:
        ends = self.times
        pin, window = self.pin, self._pinned.window
        parts = f"{len(pin.partitions)}" if isinstance(pin, KafkaPin) else f"{len(pin.files)}"
        asked = {
            name: times.to_text(value)
            for name in ("as_of", "since", "until")
            if (value := getattr(window, name)) is not None
        }
        said = {
            "partitions" if isinstance(pin, KafkaPin) else "files": parts,
            "rows": repr(self.rows),
            "slices": f"{len(self._pinned.slices)}",
            "bytes": f"{self.bytes:,}",
            **asked,
            "keys": f"{len(window.keys)}" if window.keys else "",
            "times": " to ".join(times.to_text(end) for end in ends or ()),
        }
        return {name: value for name, value in said.items() if value}

    @property
    def pin(self) -> KafkaPin | ParquetPin:
        """Exactly which data it is."""
        return self._pinned.pin

    @property
    def schema(self) -> pa.Schema:
        """Columns and their types; reads nothing."""
        return schema_of(self.pin)

    @property
    def rows(self) -> Count:
        """Rows it has: exact once it was read, or if files tell; else from above."""
        read = self._pinned.read
        if read and all(one.rows is not None for one in read):
            return Count(sum(one.rows or 0 for one in read), exact=True)
        slices = self._pinned.slices
        bounded = any(s.since is not None or s.before is not None for s in slices)
        tells = isinstance(self.pin, ParquetPin) and not self.pin.equality_deletes
        return Count(sum(s.rows for s in slices), exact=tells and not bounded)

    @property
    def bytes(self) -> int:
        """Uncompressed bytes, about; once a topic was read, of its values."""
        read = self._pinned.read
        if read and isinstance(self.pin, KafkaPin):
            return sum(one.proof.bytes for one in read)
        return sum(s.bytes for s in self._pinned.slices)

    @property
    def times(self) -> tuple[int, int] | None:
        """Least and greatest event time, microseconds since the epoch; None where nothing tells before it was read."""
        pin, read = self.pin, self._pinned.read
        parts: Sequence[SliceRead | RowGroup] = [one for one in read if one.rows]
        if not read and isinstance(pin, ParquetPin) and self.rows.exact:
            groups = {file.path: file.row_groups for file in pin.files}
            slices = [s for s in self._pinned.slices if isinstance(s, ParquetSlice)]
            parts = [group for s in slices for group in groups[s.path][s.first : s.last] if group.rows]
        least = [part.least_time for part in parts if part.least_time is not None]
        greatest = [part.greatest_time for part in parts if part.greatest_time is not None]
        if any(isinstance(part, RowGroup) and part.deleted for part in parts):
            # The rows at the ends may be those that are deleted.
            return None
        if not parts or not len(least) == len(greatest) == len(parts):
            return None
        return min(least), max(greatest)

    @property
    def caveats(self) -> tuple[str, ...]:
        """What limits for how long it can be read again, in words."""
        return self.pin.caveats

    # --- What is in it ----------------------------------------------------------------------------------------------

    def sql(self, query: str, /, **values: Any) -> pa.Table:
        """Query it in SQL; it is the table of its own name, and $name is bound."""
        with self._data(self._pinned.slices) as data:
            return data.sql(query, **values)

    def sample(self, n: int = 10) -> pa.Table:
        """Give some rows, the same each time: the first of slices that are spread evenly. Reads little more than that.

        Parameters
        ----------
        n : int
            How many; fewer only if there are not so many.

        Raises
        ------
        hindscan.errors.UsageError
            Fewer than none are asked for.
        """
        import pyarrow as pa

        if n < 0:
            raise UsageError(f"Sampling {self._pinned.history}: n must be at least 0, found {n}.")

        slices = self._pinned.slices
        spread = min(n, len(slices), SAMPLED_SLICES)
        first = [slices[i * len(slices) // spread] for i in range(spread)]
        found, count = [self.schema.empty_table()], 0
        for index, s in enumerate([*first, *(s for s in slices if s not in first)]):
            if count >= n:
                break
            wanted = -(-n // spread) if index < spread else n - count
            found.append(self._first_rows(s, wanted))
            count += found[-1].num_rows
        return pa.concat_tables(found).slice(0, n)

    def _first_rows(self, s: Slice, n: int) -> pa.Table:
        import pyarrow as pa

        if not isinstance(s, KafkaSlice):
            # Its first rows alone are proven by the file's identity.
            with self._data([s]) as data:
                return pa.Table.from_batches(islice(data.batches(rows=n), 1), self.schema)
        length = max(SAMPLED_OFFSETS, n)
        while True:
            part = msgspec.structs.replace(s, end=min(s.end, s.start + length))
            with self._data([part]) as data:
                table = data.arrow()
            if table.num_rows >= n or part.end == s.end:
                return table.slice(0, n)
            length *= 16

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Read it slice by slice, in batches: memory is bounded by a slice. Each slice is proven when its last batch was given.

        Parameters
        ----------
        columns : sequence of str, optional
            The columns to read, in this order. Default: all.
        """
        for s in self._pinned.slices:
            with self._data([s]) as data:
                yield from data.batches(columns)

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read it as Arrow; only the columns asked for."""
        with self._data(self._pinned.slices) as data:
            return data.arrow(columns)

    def to_pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read it as a pandas data frame; only the columns asked for."""
        frame: pd.DataFrame = self.to_arrow(columns).to_pandas()
        return frame

    def to_polars(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Read it as a Polars data frame; only the columns asked for."""
        with self._data(self._pinned.slices) as data:
            return data.polars(columns)

    def to_dask(self, columns: Sequence[str] | None = None) -> Any:
        """Give a Dask data frame with one partition for each slice, read on the workers when it is computed, and proven there.

        Needs pandas. The graph carries what it takes to read the history, secrets of a cluster among it: compute it on workers of your own.

        Parameters
        ----------
        columns : sequence of str, optional
            The columns to read, in this order. Default: all.
        """
        import dask.dataframe as dd
        import pyarrow as pa

        names = list(self.schema.names if columns is None else columns)
        meta = pa.schema([self.schema.field(name) for name in names]).empty_table().to_pandas()
        slices = self._pinned.slices
        if not slices:
            return dd.from_pandas(meta, npartitions=1)  # type: ignore[no-untyped-call]  # Dask has no annotations
        reading = {"reader": self._reader(), "name": self.name, "columns": names}
        return dd.from_map(_read_frame, list(slices), meta=meta, **reading)  # type: ignore[no-untyped-call]

    # --- Whether it is still there ----------------------------------------------------------------------------------

    def read(self) -> PinnedHistory:
        """Read all of it once for the proofs; gives the snapshot with them: its rows are exact then, and `verify` has what to compare with."""
        return PinnedHistory(self._project, read_pinned(self._reader(), self._pinned))

    def verify(self) -> Verified:
        """Read all of it again and compare with the proofs, slice by slice.

        Raises
        ------
        hindscan.errors.ServiceUnavailable
            A service cannot be reached, so nothing is known.
        """
        found = [difference for _, difference in differences(self._reader(), self._pinned)]
        return Verified(
            [one for one in found if one is not None],
            slices=len(found),
            compared=sum(bool(one.proof.digest) for one in self._pinned.read),
        )

    def save(self, file: str | os.PathLike[str]) -> Path:
        """Keep it in a file, with the proofs if it was read; `hs.load_snapshot` and `hindscan snapshot --verify` take it."""
        save_pinned(self._pinned, Path(file))
        return Path(file)

    def _reader(self) -> Reader:
        return self._project.history(self.name).reader(self.pin)

    @contextmanager
    def _data(self, slices: Sequence[Slice]) -> Iterator[Data]:
        with _opened(self._reader(), self.name, slices) as data:
            yield data


@contextmanager
def _opened(reader: Reader, name: str, slices: Sequence[Slice]) -> Iterator[Data]:
    """Open slices as one table, and prove at the end that what was read is what was pinned."""
    from hindscan.data import Data

    source = reader.open(slices)
    try:
        yield Data(name, {name: source})
        source.proofs()
    finally:
        source.close()


def _read_frame(s: Slice, *, reader: Reader, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """Read one slice on a worker."""
    with _opened(reader, name, [s]) as data:
        return data.pandas(columns)
