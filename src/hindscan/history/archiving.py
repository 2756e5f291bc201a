"""Writing a topic to its archive: up to an exact offset of each partition, only what is new.

Keeps promises 1, 2 and 9 for what is kept when retention deletes the log. Offsets are read as a run would read them, complete or failed, decoded with all
columns, and written in files that end at the same absolute multiples of `slice_rows` as slices do. The order of side effects makes a kill harmless at any moment: new
files under names that never were, then the manifest in one step, then the files that the new manifest replaced are removed. Before that step the old archive
is whole, after it the new one; what a killed archiver left is in no manifest, and the next one removes it.

One archiver works on a folder at a time: locally by a lock that dies with its process; on an object store, which has no locks, the manifest is compared again
right before it is replaced, files of another are left alone for a day, and names never meet, so that the loser stops with an error and nothing is harmed.

::

    pin -> [archived end, target) in pieces -> files -> manifest -> replaced files removed
"""

from __future__ import annotations

import dataclasses
import fcntl
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa
import xxhash

from hindscan import files, writing
from hindscan.data import Proof
from hindscan.errors import Conflict, CorruptData, UsageError
from hindscan.faults import point
from hindscan.history.archive import Archive, ArchivedRange, changed_files, read_archive, write_archive
from hindscan.history.archived import OFFSET, POSITIONS, TIMESTAMP, ArchivedFile, ArchivedRead
from hindscan.history.archived_reader import ArchivedRows, ArchiveReader
from hindscan.history.columns import schema_from_text, schema_to_text
from hindscan.history.footer import read_footer
from hindscan.history.kafka_reader import KafkaReader
from hindscan.history.record import KEPT
from hindscan.history.snapshot import KafkaPin, KafkaSlice, Window
from hindscan.history.stitched import StitchedHistory

__all__ = ["Archived", "archive"]

#: Rows of a row group: a reader of a part of a file reads whole ones.
ROW_GROUP_ROWS: Final = 131_072
#: Files written before the manifest names them: a killed archiver has at most these to do again.
PUBLISH_FILES: Final = 64
#: On an object store what no manifest names is left alone for so long: another archiver may be about to name it.
SWEEP_SECONDS: Final = 86_400

#: Names of files that are an archiver's: nothing else in the folder is ever removed.
_OWN: Final = re.compile(r"partition-\d{5,}/\d{20}-\d{20}-[0-9a-f]{8}\.parquet")
_LOCK: Final = ".archive.lock"

#: One offset for every partition, or one for each of some.
Until = int | Mapping[int, int]


class Archived(msgspec.Struct, frozen=True, kw_only=True):
    """What an archiver did."""

    #: The archive as it is now.
    archive: Archive
    #: Offsets that were not archived before, by partition.
    added: dict[int, int]
    #: Files that are new, that were replaced by longer ones, and that a killed archiver had left.
    written: int
    replaced: int
    swept: int


def archive(
    history: StitchedHistory,
    *,
    slice_rows: int,
    until: Until | None = None,
    told: Callable[[ArchivedFile], None] | None = None,
) -> Archived:
    """Archive what is new in a topic.

    Parameters
    ----------
    history : StitchedHistory
        The topic and where its archive lies.
    slice_rows : int
        Of the history: files end at multiples of it.
    until : int or mapping of int to int, optional
        Where the archive is to end: one offset for all partitions, or one for each of some, whose others are left as they are. Default: where the topic ends
        for a reader of its isolation level.
    told : callable, optional
        Called with each file when it is written.

    Raises
    ------
    Conflict
        Another archiver is at work in this folder.
    UsageError
        The topic does not reach to `until`; the archive is one of Kafka Connect; the topic cannot prove what it is.
    DataLost
        The topic begins after the archive ends.
    BadRecord
        A record does not decode.
    HistoryError
        The archive is damaged or of another topic.
    """
    if history.archive.layout != "hindscan":
        raise UsageError(
            f"While archiving history {history.name}: the archive must be one that hindscan writes; it is declared as one of Kafka Connect. "
            "Name another folder as `archive` to write one."
        )
    place = history.archive.place
    with _locked(place):
        known = _taken_up(place, read_archive(place))
        history = _kept_whole(history, known[0] if known is not None else None)
        swept = _sweep(place, known[0] if known is not None else None)
        pin = history.pin_with(known, Window(), begins=True)
        _check(history, pin)
        targets = _targets(history, pin, until)
        return _Archiver(history, pin, known, slice_rows, told).run(targets, swept)


class _Archiver:
    """One archiver's work on one archive."""

    def __init__(
        self,
        history: StitchedHistory,
        pin: KafkaPin,
        known: tuple[Archive, str] | None,
        slice_rows: int,
        told: Callable[[ArchivedFile], None] | None,
    ) -> None:
        assert pin.archive is not None
        self._place = history.archive.place
        self._name = history.name
        self._pin = pin
        self._slice_rows = slice_rows
        self._told = told
        self._schema = schema_from_text(pin.schema)
        self._time = pin.time or TIMESTAMP
        self._topic: KafkaReader = history.topic.reader(pin)
        self._archived = ArchiveReader(place=self._place, pin=pin.archive, schema=self._schema)
        self._archive = known[0] if known is not None else None
        self._digest = known[1] if known is not None else ""
        ranges = self._archive.partitions if self._archive is not None else ()
        #: Files and covered range of each partition; those of other partitions are kept as they are.
        self._files: dict[int, list[ArchivedFile]] = {one.partition: [] for one in ranges}
        for file in self._archive.files if self._archive is not None else ():
            self._files[file.partition].append(file)
        self._starts = {one.partition: one.start for one in ranges}
        self._replaced: list[ArchivedFile] = []
        self._unpublished = 0
        self._counts = {"written": 0, "replaced": 0}

    def run(self, targets: Mapping[int, int], swept: int) -> Archived:
        added = {}
        for one in self._pin.partitions:
            if one.partition not in targets:
                continue
            new = one.partition not in self._starts
            start = self._starts.setdefault(one.partition, one.start)
            own = self._files.setdefault(one.partition, [])
            begin = own[-1].end if own else start
            for first, last in _pieces(begin, targets[one.partition], self._slice_rows):
                self._extend(one.partition, own, first, last)
            added[one.partition] = max(0, targets[one.partition] - begin)
            self._unpublished += new
        if self._unpublished or self._archive is None:
            self._archive = self._publish()
        return Archived(archive=self._archive, added=added, swept=swept, **self._counts)

    def _extend(self, partition: int, own: list[ArchivedFile], start: int, end: int) -> None:
        """Append offsets `[start, end)`: to the last file, if it ends within the slice that they are of."""
        last = own[-1] if own else None
        if (
            last is not None
            and last.end % self._slice_rows
            and last.start // self._slice_rows == start // self._slice_rows
        ):
            own[-1] = self._write(partition, last.start, end, last)
            self._replaced.append(last)
            self._counts["replaced"] += 1
        else:
            own.append(self._write(partition, start, end, None))
        self._counts["written"] += 1
        self._unpublished += 1
        if self._unpublished >= PUBLISH_FILES:
            self._archive = self._publish()

    def _write(self, partition: int, start: int, end: int, longer_than: ArchivedFile | None) -> ArchivedFile:
        tables: list[pa.Table] = []
        reads: list[ArchivedRead] = []
        aside: list[int] = []
        if longer_than is not None:
            tables.append(self._old(longer_than))
            reads += longer_than.reads
            aside += longer_than.set_aside
        begin = longer_than.end if longer_than is not None else start
        table, proof, set_aside = self._new(partition, begin, end)
        whole = pa.concat_tables([*tables, table])
        path = f"partition-{partition:05d}/{start:020d}-{end:020d}-{secrets.token_hex(4)}.parquet"
        writing.write_parquet_atomic(self._place / path, whole, row_group_rows=ROW_GROUP_ROWS)
        point("archive.written")
        found, footer = files.look(self._place, path), read_footer(self._place / path, path, None)
        file = ArchivedFile(
            path=path,
            size=found.size,
            identity=found.identity,
            partition=partition,
            start=start,
            end=end,
            rows=whole.num_rows,
            row_groups=len(footer.row_groups),
            bytes=sum(group.bytes for group in footer.row_groups),
            digest=_digest(self._place, path),
            reads=(*reads, ArchivedRead(start=begin, end=end, proof=proof, time=self._time)),
            set_aside=(*aside, *set_aside),
        )
        if self._told is not None:
            self._told(file)
        return file

    def _old(self, file: ArchivedFile) -> pa.Table:
        """Read a file that is to become longer, verified: the topic may have no more of it."""
        schema = self._stored()
        columns = ArchivedRows(self._archived, file.partition, file.start, file.end).columns(schema.names)
        return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)

    def _new(self, partition: int, start: int, end: int) -> tuple[pa.Table, Proof, Sequence[int]]:
        """Read offsets from the topic, with their places and the proof that it was all of them."""
        s = KafkaSlice(position=0, partition=partition, start=start, end=end, rows=end - start, bytes=0)
        with self._topic.open([s]) as source:
            [table] = source.tables(self._stored().names)
            [proof] = source.proofs()
            [set_aside] = source.set_aside()
        return table, proof, set_aside

    def _stored(self) -> pa.Schema:
        return pa.schema([*self._schema, *POSITIONS])

    def _publish(self) -> Archive:
        """Put the manifest in its place, and remove what it replaced."""
        now = read_archive(self._place)
        if (now[1] if now is not None else "") != self._digest:
            raise _busy(self._name, self._place, "it has replaced the manifest since this one began")
        pin = self._pin
        whole = Archive(
            cluster_id=pin.cluster_id,
            topic=pin.topic,
            topic_id=pin.topic_id,
            isolation=pin.isolation,
            format=pin.format,
            on_bad_record=pin.on_bad_record,
            schema=schema_to_text(pa.schema(list(self._schema)[: len(self._schema) - len(pin.record)])),
            record=pin.record,
            columns={field.name: f"{field.type}{'' if field.nullable else ' not null'}" for field in self._schema},
            partitions=tuple(
                _range(partition, self._starts[partition], own) for partition, own in sorted(self._files.items())
            ),
            files=tuple(file for _, own in sorted(self._files.items()) for file in own),
        )
        self._digest = write_archive(self._place, whole)
        point("archive.published")
        for file in self._replaced:
            files.delete(self._place / file.path)
            point("archive.removed")
        self._replaced, self._unpublished = [], 0
        return whole


def _kept_whole(history: StitchedHistory, known: Archive | None) -> StitchedHistory:
    """Have keys and headers read as they are archived, which need not be as this history shows them; offset and time always are."""
    record = history.topic.record if known is None else known.record
    kept = tuple(name for name in record if name in KEPT)
    return dataclasses.replace(history, topic=dataclasses.replace(history.topic, record=kept))


def _range(partition: int, start: int, own: Sequence[ArchivedFile]) -> ArchivedRange:
    proofs = [read.proof for file in own for read in file.reads]
    return ArchivedRange(
        partition=partition,
        start=start,
        end=own[-1].end if own else start,
        rows=sum(file.rows for file in own),
        invisible=sum(proof.invisible or 0 for proof in proofs),
        set_aside=sum(len(file.set_aside) for file in own),
    )


def _pieces(start: int, end: int, slice_rows: int) -> Iterator[tuple[int, int]]:
    """Cut offsets at the absolute multiples at which slices are cut."""
    while start < end:
        stop = min(end, (start // slice_rows + 1) * slice_rows)
        yield start, stop
        start = stop


def _check(history: StitchedHistory, pin: KafkaPin) -> None:
    if pin.unverified:
        raise UsageError(
            f"While archiving history {history.name}: the topic must have an id that tells it from another of its name; the broker inside the "
            "client has none. Archive from a real Kafka."
        )
    taken = [name for name in (OFFSET, TIMESTAMP) if name in schema_from_text(pin.schema).names]
    if taken:
        raise UsageError(
            f"While archiving history {history.name}: an archive adds the columns {OFFSET} and {TIMESTAMP}; the records have {' and '.join(taken)}. "
            "Declare `columns` without them."
        )


def _targets(history: StitchedHistory, pin: KafkaPin, until: Until | None) -> dict[int, int]:
    """Decide where the archive of each partition is to end."""
    ends = {one.partition: one.end for one in pin.partitions}
    if until is None:
        return ends
    wanted = dict.fromkeys(ends, until) if isinstance(until, int) else dict(until)
    faults = []
    for partition, offset in sorted(wanted.items()):
        one = next((known for known in pin.partitions if known.partition == partition), None)
        if one is None:
            faults.append(f"there is no partition {partition}; there are {sorted(ends)}")
        elif not one.start <= offset <= one.end:
            faults.append(f"offset {offset} of partition {partition} is not in [{one.start}, {one.end}]")
    if faults:
        raise UsageError(
            f"While archiving history {history.name}: the topic {pin.topic!r} must reach exactly to the offsets that are asked for; {'; '.join(faults)}. "
            "Ask for offsets up to the end, or for none to archive all there is.",
            faults=faults,
        )
    return wanted


def _taken_up(place: files.Place, known: tuple[Archive, str] | None) -> tuple[Archive, str] | None:
    """Take up the files of an archive that was copied: others by name and time, the same by their digests."""
    if known is None:
        return None
    archive, _ = known
    faults = changed_files(place, archive)
    if not faults:
        return known
    there = {file.path: file.size for file in files.find(place)}
    wrong = [
        faults[file.path]
        for file in archive.files
        if file.path in faults and not (there.get(file.path) == file.size and _digest(place, file.path) == file.digest)
    ]
    if wrong:
        raise CorruptData(
            f"While archiving into {place}: the files that are archived must be those that were written; {len(wrong)} are not: {'; '.join(wrong[:20])}. "
            "Restore them from a copy, or archive into another folder.",
            paths=wrong,
        )
    now = tuple(
        msgspec.structs.replace(file, identity=files.look(place, file.path).identity) if file.path in faults else file
        for file in archive.files
    )
    copied = msgspec.structs.replace(archive, files=now)
    digest = write_archive(place, copied)
    point("archive.published")
    return copied, digest


def _digest(place: files.Place, path: str) -> str:
    return xxhash.xxh3_128(files.read_bytes(place / path)).hexdigest()


def _sweep(place: files.Place, known: Archive | None) -> int:
    """Remove what a killed archiver left: files of its own that no manifest names."""
    if not files.exists(place):
        return 0
    kept = {file.path for file in known.files} if known is not None else set()
    swept = 0
    for file in files.find(place):
        if file.path in kept or not _OWN.fullmatch(file.path):
            continue
        if not place.is_local and time.time() - int(file.identity.removeprefix("mtime_ns:")) / 1e9 < SWEEP_SECONDS:
            continue
        files.delete(place / file.path)
        swept += 1
        point("archive.swept")
    if place.is_local:
        for half in Path(place.path).glob("partition-*/.*.tmp"):
            half.unlink(missing_ok=True)
            swept += 1
    return swept


@contextmanager
def _locked(place: files.Place) -> Iterator[None]:
    """Keep other archivers of this machine out; the lock ends with this process, however it ends."""
    if not place.is_local:
        yield
        return
    folder = Path(place.path)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy("", place, "it holds the lock") from None
        yield


def _busy(name: str, place: files.Place, found: str) -> Conflict:
    whose = f"history {name}" if name else "a topic"
    return Conflict(
        f"While archiving {whose} into {place}: one archiver works on an archive at a time; another is at work: {found}. Nothing was changed; run again when "
        "it has ended.",
        path=str(place),
    )
