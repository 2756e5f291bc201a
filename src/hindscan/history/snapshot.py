"""The values a run's data is made of: pins, the snapshot, slices.

Keeps promise 1 (pinned): every symbolic bound is resolved once, by `History.pin`, into a `Pin`; the pins of one run are its
`Snapshot`, an immutable document that goes through JSON unchanged. `plans.cut` turns a pin into slices whose bounds depend only on
the data and `slice_rows`; where the work is done a `Reader` opens slices as a `data.Source`, which gives a `data.Proof` for each
(promise 2). Histories, plans and readers meet only in these values.

Ranges are half-open. In these values times are integers, microseconds since the epoch, so that equal bounds make equal keys.

::

    History.pin(Window) -> Pin -> cut -> Slice, Slice, ... -> Reader.open([Slice]) -> Source -> Proof
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from hindscan.data import Source
from hindscan.history.archived import ArchivePin
from hindscan.kafka.registry import RegisteredSchema

__all__ = [
    "Coding",
    "DrawPin",
    "DrawSlice",
    "EqualityDeletes",
    "FilePin",
    "History",
    "KafkaPin",
    "KafkaSlice",
    "KeyColumn",
    "OffsetRange",
    "ParquetPin",
    "ParquetSlice",
    "PartitionPin",
    "Pin",
    "Position",
    "Reader",
    "RowGroup",
    "Slice",
    "Snapshot",
    "Window",
]


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """Where an event stands in its topic: its run sees nothing at or after it in that partition."""

    cluster: str
    topic: str
    topic_id: str
    partition: int
    offset: int


class OffsetRange(msgspec.Struct, frozen=True, kw_only=True):
    """Offsets `[start, end)` of one partition; None is where the log begins or ends."""

    partition: int
    start: int | None = None
    end: int | None = None


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What part of a history is asked for, before anything is resolved; None is open."""

    #: Rows with time < as_of, everywhere (promise 3).
    as_of: int | None = None
    since: int | None = None
    until: int | None = None
    #: Position of the triggering event, where it came from Kafka.
    position: Position | None = None
    #: Of a topic: these offsets and no others, sorted by partition; empty: all.
    offsets: tuple[OffsetRange, ...] = ()
    #: Of a topic: the only partitions; empty: all.
    partitions: tuple[int, ...] = ()
    #: Of a topic: only records with one of these keys; empty: all.
    keys: tuple[bytes, ...] = ()


class RowGroup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One row group as the file's footer describes it."""

    rows: int
    #: Uncompressed, as the footer has it, but at least what the rows take in memory.
    bytes: int
    least_time: int | None = None
    greatest_time: int | None = None
    #: How many of its rows the table has deleted, and which, as `deletes` writes them.
    deleted_rows: int = 0
    deleted: str = ""

    @property
    def kept_rows(self) -> int:
        """Rows that count."""
        return self.rows - self.deleted_rows


class KeyColumn(msgspec.Struct, frozen=True, kw_only=True):
    """A column of a lake table that rows are told equal by."""

    #: What data files know it by.
    id: int
    #: What it is called, or was at last; inside of structs ``place.city``.
    name: str
    #: All it has been called, for files that carry no ids.
    names: tuple[str, ...]


class EqualityDeletes(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a lake table whose rows delete the rows of older data files that are equal to them."""

    path: str
    size: int
    identity: str
    columns: tuple[KeyColumn, ...]


class FilePin(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file and what identifies its content."""

    #: Relative to the data set's root, with forward slashes: moving a project invalidates nothing.
    path: str
    size: int
    #: ``mtime_ns:...`` or ``etag:...``.
    identity: str
    row_groups: tuple[RowGroup, ...]
    #: Values of the hive partitions the file lies in; they are columns too.
    partition_values: dict[str, str | None] = {}
    #: Id of the object's version, where its bucket keeps several; it tells where the content is, never what it is, and is part of no key.
    version: str = ""
    #: Which of the pin's `equality_deletes` may delete rows of it, as ranges `[first, last)`.
    equality_deletes: tuple[tuple[int, int], ...] = ()

    def deleted(self, first: int, last: int) -> tuple[str, ...]:
        """Give the deleted rows of row groups `[first, last)`; empty where there are none."""
        found = tuple(group.deleted for group in self.row_groups[first:last])
        return found if any(found) else ()


class ParquetPin(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="parquet"):
    """Which files of a Parquet data set a run reads, and what of them."""

    #: Folder or URL the files' paths are relative to.
    root: str
    files: tuple[FilePin, ...]
    #: Base64 of the Arrow IPC schema, hive partition columns last.
    schema: str
    #: Event-time column.
    time: str | None = None
    #: Bounds of the window that apply to this history (as_of is left out where the history says ``as_of = "ignore"``).
    since: int | None = None
    before: int | None = None
    #: Page checksums are verified while reading.
    verify: bool = True
    #: Files may differ from the schema: what they lack is null, and what is narrower is widened.
    widens: bool = False
    #: New names of columns by the names that some files have.
    rename: dict[str, str] = {}
    #: Files whose rows delete rows that are equal to them.
    equality_deletes: tuple[EqualityDeletes, ...] = ()
    #: Which snapshot of which table the files are, in words; empty: they were listed. Never part of a key.
    version: str = ""
    #: Why the run is not repeatable for ever, in words; empty: as long as the files stay.
    caveats: tuple[str, ...] = ()

    def deletes_of(self, file: FilePin) -> tuple[EqualityDeletes, ...]:
        """Give the files whose rows may delete rows of one of its files."""
        return tuple(one for first, last in file.equality_deletes for one in self.equality_deletes[first:last])


class PartitionPin(msgspec.Struct, frozen=True, kw_only=True):
    """The pinned offsets of one partition: `[start, end)`."""

    partition: int
    start: int
    end: int
    #: Log start, high watermark and leader epoch when pinned.
    log_start: int
    high_watermark: int
    leader_epoch: int | None = None
    #: From this offset on no record is before the pin's `since`, up to that one none is at or after its `before`: slices there carry
    #: no bound. None: not known of any.
    since_holds_from: int | None = None
    before_holds_to: int | None = None


class Coding(msgspec.Struct, frozen=True, kw_only=True):
    """The schemas that a topic's records were written with and are read as, where they follow any (avro, protobuf, jsonschema)."""

    #: Name of the registry in the project file; None: records are bare, and written with `reader`.
    registry: str | None
    #: What every record is read as.
    reader: RegisteredSchema
    #: Schemas by id, as far as the pinned sample showed them; others are asked of the registry when a record names them.
    known: tuple[tuple[int, RegisteredSchema], ...] = ()
    #: Full name of the Protobuf message.
    message: str | None = None


class KafkaPin(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="kafka"):
    """Which offsets of a topic a run reads, and how they are decoded."""

    #: Name of the cluster in the project file; its settings and secrets are never part of a pin.
    cluster: str
    cluster_id: str
    topic: str
    topic_id: str
    isolation: str
    partitions: tuple[PartitionPin, ...]
    format: str
    #: Base64 of the Arrow IPC schema of the decoded rows.
    schema: str
    #: "declared", "inferred from a pinned sample", or which schema of which registry or file.
    schema_from: str
    coding: Coding | None = None
    #: What of the records themselves are columns: key, headers, timestamp, offset, partition.
    record: tuple[str, ...] = ()
    time: str | None = None
    since: int | None = None
    before: int | None = None
    on_bad_record: str = "fail"
    cleanup_policy: str | None = None
    retention_ms: int | None = None
    #: Mean bytes of a record in the sample, for the plan's estimates.
    record_bytes: float = 0.0
    #: Only records with one of these keys, sorted; empty: all.
    keys: tuple[bytes, ...] = ()
    #: How far out of order records may be, in microseconds, where offsets were left out because of it; None: nothing rests on it.
    lateness: int | None = None
    #: Partitions the topic had, pinned or not.
    partition_count: int = 0
    #: Reason why offsets and ids prove nothing ("mock"); None on a real broker.
    unverified: str | None = None
    caveats: tuple[str, ...] = ()
    #: What is read from Parquet instead; None: everything comes from the topic. Never part of a key.
    archive: ArchivePin | None = None


class DrawPin(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="draws"):
    """The draws `[0, draws)` of a simulation: streams are keyed by (seed, block)."""

    draws: int
    seed: int
    block_size: int
    #: Name of the generator, and how its numbers are made points (JSON of `jobs.sampling`); None: they are taken as they come.
    generator: str = "PCG64DXSM"
    sampling: dict[str, object] | None = None


Pin = ParquetPin | KafkaPin | DrawPin


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly which data a run reads: one pin for each of its tables, by the name the function's parameter has."""

    pins: dict[str, Pin]
    window: Window
    #: Microseconds since the epoch.
    pinned_at: int


class ParquetSlice(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="parquet"):
    """Row groups `[first, last)` of one file."""

    position: int
    path: str
    size: int
    identity: str
    first: int
    last: int
    rows: int
    bytes: int
    #: Set only where the slice's statistics do not show that every row is inside (promise 7).
    since: int | None = None
    before: int | None = None
    partition_values: dict[str, str | None] = {}
    #: Of each row group the rows that do not count, as `deletes` writes them; empty where all do.
    deleted: tuple[str, ...] = ()
    #: Id of the file's version in its bucket; empty: it has none.
    version: str = ""
    #: Digest of the files that may delete more of them, as `equality` makes it; empty: there is none. `rows` counts as if they did not.
    equality_deletes: str = ""


class KafkaSlice(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="kafka"):
    """Offsets `[start, end)` of one partition; rows and bytes are estimates."""

    position: int
    partition: int
    start: int
    end: int
    rows: int
    bytes: int
    since: int | None = None
    before: int | None = None


class DrawSlice(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="draws"):
    """Draws `[start, end)`: whole blocks but for the last."""

    position: int
    start: int
    end: int

    @property
    def rows(self) -> int:
        """Number of draws."""
        return self.end - self.start

    @property
    def bytes(self) -> int:
        """Nothing is read."""
        return 0


Slice = ParquetSlice | KafkaSlice | DrawSlice


class Reader(Protocol):
    """All that a worker needs to open slices of one pin, as one picklable value (it may hold secrets and is never stored)."""

    def open(self, slices: Sequence[Slice]) -> Source:
        """Open slices as one table, rows in the order of the slices."""
        ...

    def identity(self) -> dict[str, object]:
        """Tell what of reading a key must cover: decoding schema and options, never where the data lies."""
        ...


class History(Protocol):
    """A named data set that can be pinned."""

    @property
    def name(self) -> str:
        """Name in the project file."""
        ...

    def refuse(self, window: Window) -> None:
        """Refuse what no history of this kind has, whatever is in it; looks at nothing."""
        ...

    def pin(self, window: Window) -> Pin:
        """Resolve every bound once. Reads metadata only (a topic without a declared schema: one pinned sample)."""
        ...

    def reader(self, pin: Pin) -> Reader:
        """Give what workers need to read this pin."""
        ...
