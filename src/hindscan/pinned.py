"""A history, pinned on its own: to look at, to keep in a file, to read again and compare.

Keeps promises 1 and 2 outside of runs. `Pinned` is what `hindscan snapshot -o FILE` stores: the pin, how it is cut, and, once it was read, the proof of every slice.
Reading it again gives the same rows or tells by name what is not the same: `differences` compares slice by slice. The snapshot.parquet
of a run says the same of what the run read, and is taken as well.

::

    History.pin -> Pinned -> read_slice, read_slice, ... -> Pinned with proofs -> FILE -> differences
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from hindscan import times, writing
from hindscan.data import Proof
from hindscan.errors import HistoryError, UsageError
from hindscan.history.bounds import micros_of
from hindscan.history.columns import schema_from_text
from hindscan.history.equality import digest_of
from hindscan.history.kafka_window import check_lateness
from hindscan.history.lake import LakeHistory
from hindscan.history.parquet import ParquetHistory
from hindscan.history.snapshot import (
    History,
    KafkaPin,
    KafkaSlice,
    ParquetPin,
    ParquetSlice,
    Pin,
    Reader,
    Slice,
    Window,
)
from hindscan.plans.cut import cut

if TYPE_CHECKING:
    from hindscan.config import Project

__all__ = [
    "Difference",
    "Pinned",
    "SliceRead",
    "differences",
    "load_pinned",
    "pin_history",
    "read_pinned",
    "read_slice",
    "save_pinned",
    "schema_of",
    "where_of",
]

#: Version of the document; a field is only ever added.
VERSION: Final = 1


class SliceRead(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One slice as it was read."""

    slice: KafkaSlice | ParquetSlice
    proof: Proof
    #: Rows inside the bounds; None: not counted (a run counts what its function was given before the bounds).
    rows: int | None = None
    #: Least and greatest event time of the rows, microseconds since the epoch, where they have a time column.
    least_time: int | None = None
    greatest_time: int | None = None
    #: Digest of the rows, for files: their identity says nothing of their bytes.
    content: str = ""


class Pinned(msgspec.Struct, frozen=True, kw_only=True):
    """A pinned history, and what was read of it."""

    hindscan_snapshot: int = VERSION
    #: Name in the project file.
    history: str
    #: Microseconds since the epoch.
    pinned_at: int
    window: Window
    slice_rows: int
    pin: KafkaPin | ParquetPin
    #: In the order of the slices; empty: it was not read yet.
    read: tuple[SliceRead, ...] = ()

    @property
    def slices(self) -> tuple[KafkaSlice | ParquetSlice, ...]:
        """The pieces it is read in: those that were read, else as the pin is cut."""
        if self.read:
            return tuple(one.slice for one in self.read)
        return tuple(s for s in cut(self.pin, self.slice_rows) if isinstance(s, KafkaSlice | ParquetSlice))


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One slice that is not what it was."""

    #: Partition and offsets, or file and row groups.
    slice: str
    #: What differs, or the error that came of reading it.
    what: str
    error: str = ""


def pin_history(project: Project, name: str, window: Window) -> Pinned:
    """Pin a history; reads metadata only.

    Raises
    ------
    hindscan.errors.HistoryError
        The source is missing or changes while it is pinned.
    hindscan.errors.UsageError
        The window does not fit the history.
    """
    pin = project.history(name).pin(window)
    assert isinstance(pin, KafkaPin | ParquetPin), "only simulations draw, and no history is declared as draws"
    return Pinned(history=name, pinned_at=times.now(), window=window, slice_rows=project.slice_rows(name), pin=pin)


def schema_of(pin: KafkaPin | ParquetPin) -> pa.Schema:
    """Give the columns of a pin."""
    return schema_from_text(pin.schema)


def where_of(pin: KafkaPin | ParquetPin, s: Slice) -> str:
    """Say where a slice lies."""
    match pin, s:
        case KafkaPin(), KafkaSlice():
            return f"offsets [{s.start}, {s.end}) of {pin.topic}[{s.partition}]"
        case ParquetPin(), ParquetSlice():
            return f"row groups [{s.first}, {s.last}) of {s.path}"
    raise TypeError(f"{s!r} is no slice of {pin!r}")


def read_slice(reader: Reader, pin: KafkaPin | ParquetPin, s: KafkaSlice | ParquetSlice) -> SliceRead:
    """Read one slice whole, for its proof.

    Of a topic only the time column is decoded (the first if there is none); of files every page is read.

    Raises
    ------
    hindscan.errors.HistoryError
        It is not what was pinned.
    """
    schema = schema_of(pin)
    columns = ([pin.time] if pin.time else schema.names[:1]) if isinstance(pin, KafkaPin) else schema.names
    with closing(reader.open([s])) as source:
        try:
            table = source.dataset(columns).to_table(columns=columns, use_threads=False)
        except (pa.ArrowException, OSError):
            source.diagnose()
            raise
        (proof,) = source.proofs()
    least, greatest = _extremes(table, pin, s, proof)
    return SliceRead(
        slice=s,
        proof=proof,
        rows=table.num_rows,
        least_time=least,
        greatest_time=greatest,
        content=_content(table) if isinstance(pin, ParquetPin) else "",
    )


def _content(table: pa.Table) -> str:
    from hindscan.runs.digest import table_digest

    return table_digest(table)


def _extremes(
    table: pa.Table, pin: KafkaPin | ParquetPin, s: KafkaSlice | ParquetSlice, proof: Proof
) -> tuple[int | None, int | None]:
    if pin.time is None:
        # The records' own times are no column; those of the proof are of all records, also of those outside of the bounds.
        inside = s.since is None and s.before is None
        return (proof.least_time, proof.greatest_time) if inside else (None, None)
    found = pc.min_max(table[pin.time])
    ends = [
        micros_of(pa.array([found[name].as_py()], table[pin.time].type))
        for name in ("min", "max")
        if found[name].is_valid
    ]
    return (int(ends[0][0]), int(ends[1][0])) if ends else (None, None)


def read_pinned(reader: Reader, pinned: Pinned) -> Pinned:
    """Read all of it, slice after slice, and keep the proofs.

    Raises
    ------
    hindscan.errors.HistoryError
        It is not what was pinned, or not complete.
    """
    pin = pinned.pin
    read = tuple(read_slice(reader, pin, s) for s in pinned.slices)
    if isinstance(pin, KafkaPin):
        check_lateness([(one.slice, one.proof) for one in read], lateness=pin.lateness, topic=pin.topic)
    return msgspec.structs.replace(pinned, read=read)


def differences(reader: Reader, pinned: Pinned) -> Iterator[tuple[SliceRead | None, Difference | None]]:
    """Read every slice again and compare with the stored proofs; one answer for each slice, in their order.

    A slice that was never read has nothing to compare with: it only must be readable whole. A service that cannot be reached is no difference, and is raised.
    """
    before = pinned.read or (None,) * len(pinned.slices)
    for s, was in zip(pinned.slices, before, strict=True):
        where = where_of(pinned.pin, s)
        try:
            now = read_slice(reader, pinned.pin, s)
        except HistoryError as fault:
            yield None, Difference(slice=where, what=str(fault), error=type(fault).__name__)
            continue
        what = "" if was is None else _what_differs(was, now)
        yield now, Difference(slice=where, what=what) if what else None


def _what_differs(was: SliceRead, now: SliceRead) -> str:
    if not was.proof.digest:
        return ""
    if was.proof.digest == now.proof.digest and (not was.content or was.content == now.content):
        return ""
    if was.proof.records != now.proof.records or was.proof.invisible != now.proof.invisible:
        return (
            f"{was.proof.records} records and {was.proof.invisible or 0} offsets without one were read, "
            f"now {now.proof.records} and {now.proof.invisible or 0}"
        )
    return f"the same number of records ({now.proof.records}), but other content"


def save_pinned(pinned: Pinned, file: Path) -> None:
    """Write it to a file, whole or not at all."""
    document = msgspec.json.encode(pinned, order="deterministic")
    writing.write_atomic(file, msgspec.json.format(document, indent=1) + b"\n")


def load_pinned(project: Project, file: Path, history: str | None = None) -> Pinned:
    """Read what `save_pinned` wrote, or the snapshot.parquet of a run's result.

    Parameters
    ----------
    project : Project
        Its histories are what a run's snapshot can be of.
    file : Path
        The file.
    history : str, optional
        Which history it must be of. Default: the one it names; a run's snapshot names none.

    Raises
    ------
    hindscan.errors.UsageError
        It is neither, or of another history.
    """
    try:
        content = file.read_bytes()
        if content.startswith(b"PAR1"):
            if history is None:
                raise UsageError(f"Reading {file}: the snapshot of a run names no history; say which one is meant.")
            return _of_run(project, file, history)
        found = msgspec.json.decode(content, type=Pinned)
        if found.hindscan_snapshot > VERSION:
            raise UsageError(
                f"Reading {file}: version {VERSION} of snapshots can be read; it has {found.hindscan_snapshot}. Use the hindscan that wrote it."
            )
    except OSError as fault:
        raise UsageError(f"Reading a snapshot: {file} must be a file that can be read; {fault.strerror}.") from fault
    except msgspec.MsgspecError as fault:
        raise UsageError(
            f"Reading {file}: it must be what `hindscan snapshot -o FILE` wrote, or the snapshot.parquet of a run; {fault}."
        ) from fault
    if history is not None and found.history != history:
        raise UsageError(f"Reading {file}: it must be a snapshot of history {history}; it is one of {found.history}.")
    return found


def _of_run(project: Project, file: Path, history: str) -> Pinned:
    import pyarrow.parquet as pq

    from hindscan.runs.slices import read_snapshot

    snapshot = read_snapshot(file.parent)
    rows = [row for row in pq.read_table(file).to_pylist() if row["kind"] != "draws"]
    of = project.history(history)
    pins = [pin for pin in snapshot.pins.values() if _is_of(pin, of) and _holds(pin, rows)]
    if len(pins) != 1:
        raise UsageError(
            f"Reading {file}: one of its tables must be of history {history}, read slice by slice; {len(pins)} are."
        )
    (pin,) = pins
    assert isinstance(pin, KafkaPin | ParquetPin)
    return Pinned(
        history=history,
        pinned_at=snapshot.pinned_at,
        window=snapshot.window,
        slice_rows=project.slice_rows(history),
        pin=pin,
        read=tuple(_read_of_run(row, pin) for row in rows),
    )


def _is_of(pin: Pin, of: History) -> bool:
    """Tell whether a pin can be of a declared history."""
    if isinstance(pin, KafkaPin):
        # The client library is loaded only where a topic was read.
        from hindscan.history.kafka import KafkaHistory

        return isinstance(of, KafkaHistory) and (of.cluster, of.topic) == (pin.cluster, pin.topic)
    return isinstance(pin, ParquetPin) and isinstance(of, LakeHistory | ParquetHistory) and of.root == pin.root


def _holds(pin: Pin, rows: Sequence[dict[str, Any]]) -> bool:
    """Tell whether the slices of a run can be of a pin."""
    if isinstance(pin, ParquetPin):
        files_of_pin = {(file.path, file.size, file.identity) for file in pin.files}
        return {(row["path"], row["size"], row["identity"]) for row in rows} <= files_of_pin
    return all(row["kind"] == "kafka" for row in rows)


def _read_of_run(row: dict[str, Any], pin: KafkaPin | ParquetPin) -> SliceRead:
    bounds = {name: None if row[name] is None else times.from_datetime(row[name]) for name in ("since", "before")}
    common = {"position": row["position"], "rows": row["rows"], "bytes": row["bytes"], **bounds}
    piece: KafkaSlice | ParquetSlice
    if isinstance(pin, KafkaPin):
        piece = KafkaSlice(partition=row["partition"], start=row["start"], end=row["end"], **common)
    else:
        file = next(file for file in pin.files if file.path == row["path"])
        place = {name: row[name] for name in ("path", "size", "identity", "first", "last")}
        piece = ParquetSlice(
            partition_values=file.partition_values,
            deleted=file.deleted(row["first"], row["last"]),
            version=file.version,
            equality_deletes=digest_of(pin.deletes_of(file)),
            **place,
            **common,
        )
    proof = Proof(
        slice=row["position"],
        records=row["records"] or 0,
        invisible=row["invisible"],
        digest=row["read_digest"] or "",
    )
    return SliceRead(slice=piece, proof=proof)
