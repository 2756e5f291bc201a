"""Poisoned histories: what they hold from a time on is something else, and there is more of it.

What a run as of T may see is the same in them, to the byte; everything at or after T is not. Parquet files on this machine are poisoned as copies, in a shadow of
the project: a folder that looks like the project's root, with links to what is not poisoned. A job that opens files of its own by a path relative to
the project so opens poisoned ones. Topics and object stores are poisoned as they are read: their rows are taken without the bound of the run, changed,
and only then bounded.

Copies keep their row groups, and rows are added in groups of their own: so history is cut as before, and sums are summed in the same order.

::

    Project, T -> cast_shadow -> Shadow(project over copies) ;  readers, T -> poison_readers -> readers that poison
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hindscan import files
from hindscan.history.archived import TIMESTAMP
from hindscan.history.bounds import Bounds, keeps
from hindscan.history.int96 import INT96_UNIT
from hindscan.history.parquet import SUFFIXES, ParquetHistory
from hindscan.history.snapshot import Reader, Slice

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from hindscan.condition import Where
    from hindscan.config import Project
    from hindscan.data import Proof, Source

__all__ = ["PoisonedReader", "PoisonedSource", "Poisoning", "Shadow", "cast_shadow", "poison", "poison_readers"]

#: Rows that are added to a history at most.
ADDED_ROWS: Final = 1_000
#: Folder of a shadow with the copies of what lies outside the project.
_OUTSIDE: Final = "outside-of-the-project"
_TEXT: Final = "poisoned"
#: Microseconds from 1970 to the year 2200: later than anything that is told of.
_LATE: Final = 7_258_118_400_000_000


class Poisoning(msgspec.Struct, frozen=True, kw_only=True):
    """What is done to rows."""

    #: T, microseconds since the epoch.
    at: int
    #: The only history; None: all.
    history: str | None = None
    #: The only column whose values are changed; None: all but the time column.
    column: str | None = None
    #: Values are changed.
    changes: bool = True
    #: Rows are added.
    adds: bool = True

    def touches(self, history: str) -> bool:
        """Tell whether a history is poisoned."""
        return self.history is None or self.history == history


@dataclass(frozen=True, kw_only=True, slots=True)
class Shadow:
    """A project over poisoned copies."""

    project: Project
    #: Rows changed and added by history.
    rows: dict[str, tuple[int, int]]
    #: Files of which there is a poisoned copy: nothing has a reason to open them.
    originals: tuple[Path, ...]


def cast_shadow(project: Project, poisoning: Poisoning, folder: Path) -> Shadow:
    """Copy all local Parquet histories of a project, poisoned, into a folder that looks like its root.

    Parameters
    ----------
    project : Project
        All its histories are poisoned, the job's or not: a job can open what it wants.
    poisoning : Poisoning
        What is done to them.
    folder : Path
        An empty folder.
    """
    tables = dict(project.history_tables)
    copies: dict[str, Path] = {}
    rows: dict[str, tuple[int, int]] = {}
    originals: dict[Path, Path] = {}
    for name, history in project.histories.items():
        if not isinstance(history, ParquetHistory) or not history.place.is_local:
            continue
        root = Path(files.listing_root(history.place).path)
        inside = root.resolve().is_relative_to(project.root.resolve())
        new = folder / (root.resolve().relative_to(project.root.resolve()) if inside else Path(_OUTSIDE) / name)
        if not inside or Path(history.location).is_absolute():
            tables[name] = {
                **tables[name],
                "parquet": str(new) + history.place.path[len(str(root)) :],
            }
        found = [file.path for file in files.find(history.place, SUFFIXES)]
        changed = added = 0
        for path in found:
            original, copy = root / path, new / path
            more = poisoning.adds and path == found[-1]
            counted = None
            if poisoning.touches(name) and original not in originals:
                counted = _poison_file(original, copy, history, poisoning, adds=more)
            if counted is not None:
                originals[original] = copy
                changed, added = changed + counted[0], added + counted[1]
            elif not copy.exists():
                copies[str(copy)] = original
        if changed or added:
            rows[name] = (changed, added)
    for copy_path, original in copies.items():
        if not Path(copy_path).exists():
            Path(copy_path).parent.mkdir(parents=True, exist_ok=True)
            Path(copy_path).symlink_to(original.resolve())
    _link_the_rest(project, folder)
    shadow = msgspec.structs.replace(project, root=folder, file=folder / project.file.name, history_tables=tables)
    return Shadow(project=shadow, rows=rows, originals=tuple(originals))


def _link_the_rest(project: Project, folder: Path) -> None:
    """Link what is beside the copies, so that only what is poisoned is different; never what hindscan itself keeps."""
    kept = project.artefacts.resolve()

    def link(original: Path, shadow: Path) -> None:
        for entry in original.iterdir():
            if entry.resolve() == kept:
                continue
            there = shadow / entry.name
            if not there.exists():
                there.symlink_to(entry.resolve())
            elif there.is_dir() and not there.is_symlink() and entry.is_dir():
                link(entry, there)

    link(project.root, folder)


def _poison_file(
    original: Path, copy: Path, history: ParquetHistory, poisoning: Poisoning, *, adds: bool
) -> tuple[int, int] | None:
    """Write a poisoned copy; give how many rows were changed and added, or None where nothing is to be."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(original, coerce_int96_timestamp_unit=INT96_UNIT) as file:
        names = file.schema_arrow.names
        time = next((n for n in names if history.rename.get(n, n) == history.time), None)
        late = 0
        if poisoning.changes and time is not None:
            late = sum(
                int(_late(file.read_row_group(i, columns=[time])[time], poisoning.at).sum())
                for i in range(file.num_row_groups)
            )
        if not late and not adds:
            return None
        copy.parent.mkdir(parents=True, exist_ok=True)
        added = 0
        with pq.ParquetWriter(copy, file.schema_arrow, write_page_checksum=True) as writer:
            for i in range(file.num_row_groups):
                table = file.read_row_group(i)
                if late and time is not None:
                    table = poison(table, _late(table[time], poisoning.at), time=time, column=poisoning.column)
                writer.write_table(table, row_group_size=max(1, table.num_rows))
            if adds and file.num_row_groups:
                more = _more(file.read_row_group(0), time, poisoning)
                added = more.num_rows
                writer.write_table(more, row_group_size=max(1, added))
    return late, added


def _more(table: pa.Table, time: str | None, poisoning: Poisoning) -> pa.Table:
    """Make rows that come at T and after it out of rows that are there."""
    some = table.slice(0, ADDED_ROWS)
    made = poison(some, np.ones(some.num_rows, bool), time=time)
    if time is None:
        return made
    kind = made.schema.field(time).type
    steps = poisoning.at + np.arange(made.num_rows, dtype=np.int64)
    # Rounded up to the column's unit: never before T.
    if pa.types.is_date32(kind):
        values = pa.array(-(-steps // 86_400_000_000), pa.int32()).cast(kind)
    else:
        unit = {"s": 1_000_000, "ms": 1000, "us": 1}.get(kind.unit)
        values = pa.array(steps * 1000 if unit is None else -(-steps // unit), pa.int64()).cast(kind)
    return made.set_column(made.schema.get_field_index(time), made.schema.field(time), values)


def _late(times: pa.ChunkedArray[Any], at: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Mark what is at or after T, by the rule that readers cut by; a row without a time is."""
    import pyarrow.dataset as ds

    after = keeps("time", times.type, Bounds(since=at))
    assert after is not None
    marked = ds.dataset(pa.table({"time": cast(Any, times)})).to_table(columns={"late": after}).column("late")
    values = cast(Any, pc.fill_null(cast(Any, marked), True))
    return np.asarray(values.combine_chunks().to_numpy(zero_copy_only=False), np.bool_)


def poison(
    table: pa.Table, late: np.ndarray[Any, np.dtype[np.bool_]], *, time: str | None, column: str | None = None
) -> pa.Table:
    """Change the values of some rows to extreme ones, or to none where the type has no such.

    Parameters
    ----------
    table : pa.Table
        Rows.
    late : np.ndarray
        Which of them, `(rows,)`.
    time : str, optional
        The column that stays: when a row was is what makes it late.
    column : str, optional
        The only column to change. Default: all but `time`.
    """
    if not late.any():
        return table
    mask = pa.array(late)
    for index, field in enumerate(table.schema):
        if field.name == time or column not in (None, field.name):
            continue
        values: Any = table.column(index).combine_chunks()
        if isinstance(values, pa.ChunkedArray):
            values = pa.concat_arrays(values.chunks)
        other = _other(values, field.type)
        if other is None:
            # Rows keep what they have or take what the row before them has: all that can be said of any type.
            where = np.where(late, np.roll(np.arange(len(late)), 1), np.arange(len(late)))
            table = table.set_column(index, field, values.take(pa.array(where)))
        else:
            table = table.set_column(index, field, pc.if_else(mask, other, values))
    return table


def _other(values: Any, kind: Any) -> pa.Array[Any] | None:
    """Give other values of a type, none of them likely in any history; None: there is no way to."""
    n = len(values)
    numbers = np.arange(n)
    if pa.types.is_boolean(kind):
        flipped: pa.Array[Any] = cast(Any, pc.fill_null(cast(Any, pc.invert(values)), True))
        return flipped
    if pa.types.is_integer(kind):
        bits = kind.bit_width
        most = (1 << (bits - 2)) - 1
        extreme = most - numbers % max(1, most // 2)
        if pa.types.is_signed_integer(kind):
            extreme = np.where(numbers % 3 == 2, -extreme, extreme)
        return pa.array(extreme).cast(kind)
    if pa.types.is_floating(kind):
        return pa.array(np.where(numbers % 3 == 2, -6e4, 6e4) * (1 + numbers % 7 / 1e3)).cast(kind, safe=False)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.array([f"{_TEXT} {i}" for i in range(n)], kind)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pa.array([f"{_TEXT} {i}".encode() for i in range(n)], kind)
    if pa.types.is_timestamp(kind):
        return pa.array([_LATE] * n, pa.timestamp("us")).cast(pa.timestamp(kind.unit)).cast(pa.int64()).cast(kind)
    if pa.types.is_date32(kind):
        return pa.array([_LATE // 86_400_000_000] * n, pa.int32()).cast(kind)
    return None


def poison_readers(project: Project, names: Mapping[str, str], readers: Mapping[str, Reader], poisoning: Poisoning) -> dict[str, Reader]:  # fmt: skip
    """Let the readers of what no shadow has poison what they read.

    Parameters
    ----------
    project : Project
        Where the histories are declared.
    names : mapping
        Name of the history that each table of the job reads.
    readers : mapping
        By name of the table.
    poisoning : Poisoning
        What is done to rows.
    """
    made: dict[str, Reader] = dict(readers)
    for table, name in names.items():
        history = project.histories[name]
        if poisoning.touches(name) and not (isinstance(history, ParquetHistory) and history.place.is_local):
            made[table] = PoisonedReader(reader=readers[table], time=getattr(history, "time", None), how=poisoning)
    return made


class PoisonedReader(msgspec.Struct, frozen=True, kw_only=True):
    """A reader whose rows are poisoned after decoding and before the bound of the run."""

    reader: Reader
    #: The time column; None: the time of the record.
    time: str | None
    how: Poisoning

    def open(self, slices: Sequence[Slice]) -> PoisonedSource:
        """Open slices as one table."""
        return PoisonedSource(self, slices)

    def identity(self) -> dict[str, object]:
        """Tell what the reader inside tells, and that these are not its rows: workers keep tables by it."""
        return {**self.reader.identity(), "poisoned": msgspec.to_builtins(self.how)}


class PoisonedSource:
    """Slices as one table, poisoned. A context manager."""

    def __init__(self, reader: PoisonedReader, slices: Sequence[Slice]) -> None:
        self._reader = reader
        self._before = [getattr(s, "before", None) for s in slices]
        self._opened = [
            reader.reader.open([msgspec.structs.replace(s, before=None) if hasattr(s, "before") else s]) for s in slices
        ]
        self._nothing: Source | None = None if slices else reader.reader.open(())

    def __enter__(self) -> PoisonedSource:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    @property
    def schema(self) -> pa.Schema:
        """Columns, in order."""
        return next(self._all()).schema

    def dataset(self, columns: Sequence[str] | None = None, where: Where | None = None) -> ds.Dataset:  # noqa: ARG002
        """Give the rows; all of them, as the query filters for itself."""
        import pyarrow.dataset as ds

        wanted = list(self.schema.names if columns is None else columns) or self.schema.names[:1]
        empty = pa.schema([self.schema.field(name) for name in wanted]).empty_table()
        parts = [self._part(s, b, wanted) for s, b in zip(self._opened, self._before, strict=True)]
        return ds.dataset(pa.concat_tables([empty, *parts]))

    def _part(self, source: Source, before: int | None, wanted: Sequence[str]) -> pa.Table:
        how, time = self._reader.how, self._reader.time or TIMESTAMP
        taken = list(dict.fromkeys([*wanted, time]))
        # The time of a record is no column of the history, and only the source of a topic has it.
        of_record = time not in self.schema.names
        parts = cast(Any, source).tables(taken) if of_record else [source.dataset(taken).to_table(columns=taken)]
        table = pa.concat_tables(parts)
        if how.changes:
            table = poison(table, _late(table[time], how.at), time=time, column=how.column)
        if how.adds:
            table = pa.concat_tables([table, _more(table, time, how)])
        bound = keeps(time, table.schema.field(time).type, Bounds(before=before))
        return (table if bound is None else table.filter(bound)).select(list(wanted))

    def diagnose(self) -> None:
        """Say what is wrong with the stored data, as the source inside does."""
        for source in self._all():
            source.diagnose()

    def proofs(self) -> list[Proof]:
        """Verify what was read."""
        return [proof for source in self._opened for proof in source.proofs()]

    def close(self) -> None:
        """Let go of connections and files."""
        for source in self._all():
            source.close()

    def _all(self) -> Iterator[Source]:
        yield from self._opened
        if self._nothing is not None:
            yield self._nothing
