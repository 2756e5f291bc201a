"""A history of which the older part is archived: Parquet up to an exact offset of each partition, the topic from there.

Keeps promises 1 to 3 across the seam. A pin says for every partition which offsets are read, and lists the archive's files; where the archive ends
the topic goes on, at the very next offset, and what neither has is an error by name: a gap is never skipped, an overlap never read twice (the archive has it).
The archive must be of this very topic, by its id, decoded in the way that is declared.

Slices, keys and bounds are those of the topic, so that how much is archived changes no bit of any result, and retention may take from the topic what the archive has.

::

    read_archive + KafkaHistory.pin -> stitch each partition -> KafkaPin with archive;  StitchedReader.open(slices) -> Source
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from hindscan.errors import DataLost, SchemaMismatch, SourceChanged, UsageError
from hindscan.history.archive import Archive, ArchivedRange, ArchivePlace, changed_files, read_archive
from hindscan.history.archived import OFFSET, TIMESTAMP, ArchivePin
from hindscan.history.archived_reader import ArchivedTimes, ArchiveReader
from hindscan.history.columns import described, schema_from_text
from hindscan.history.kafka import PIN_ATTEMPTS, KafkaHistory, gone_caveats, lasting_caveats
from hindscan.history.kafka_reader import KafkaReader
from hindscan.history.kafka_window import cut_at_offsets
from hindscan.history.parquet import shown_root
from hindscan.history.record import KEPT
from hindscan.history.snapshot import KafkaPin, PartitionPin, Pin, Window
from hindscan.history.stitched_reader import StitchedReader

__all__ = ["StitchedHistory"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StitchedHistory:
    """A topic and its archive under a name.

    Parameters
    ----------
    topic : KafkaHistory
        The topic, and how it is decoded.
    archive : ArchivePlace
        Where its archive lies.
    """

    topic: KafkaHistory
    archive: ArchivePlace

    @property
    def name(self) -> str:
        """Name in the project file."""
        return self.topic.name

    def refuse(self, window: Window) -> None:
        """Refuse nothing, as a topic: which offsets there are, and whether the archive has keys, is seen when both are pinned."""

    def pin(self, window: Window) -> KafkaPin:
        """Resolve the offsets of archive and topic.

        Raises
        ------
        DataLost
            Offsets between the archive and the topic are in neither, or nothing is archived and the topic has lost its beginning; or offsets are asked for before both.
        UsageError
            Offsets are asked for beyond the end of the topic; or keys, and the archive has none.
        SourceChanged
            The archive is of another topic, or one of its files is not the one that was written, or gone.
        SourceMissing
            No such topic or partition.
        SchemaMismatch
            The archive was decoded in another way than is declared.
        BrokerUnavailable
            No broker answered.
        """
        if self.archive.layout == "connect":
            from hindscan.history.connect import connect_archive

            self._check_keys(window, ())
            pin = self.topic.pin(_of_all_offsets(window))
            found, ranges, caveats = connect_archive(self.archive, self.topic, pin)
            return self.topic.cut_in_time(self._stitched(pin, window, found, ranges, caveats=caveats), None)
        known = read_archive(self.archive.place)
        for _ in range(PIN_ATTEMPTS):
            try:
                return self.pin_with(known, window)
            except SourceChanged:
                # An archiver replaces the manifest and removes what it replaced: what was read of the one may meet the files of the other.
                before, known = known, read_archive(self.archive.place)
                if known == before:
                    raise
        return self.pin_with(known, window)

    def pin_with(self, known: tuple[Archive, str] | None, window: Window, *, begins: bool = False) -> KafkaPin:
        """Pin with this manifest of the archive; `begins`: what is not archived yet may begin where the topic does."""
        archive, digest = known or (None, "")
        topic = self.topic
        if archive is None:
            # All is the topic's, its first records in the window too, which show the columns.
            pin = topic.pin(window)
        else:
            self._check_keys(window, archive.record)
            topic = self._as_archived(archive)
            pin = topic.pin(_of_all_offsets(window))
            self._check_topic(archive, pin, window)
            self._check_files(archive)
        found = ArchivePin(
            root=shown_root(self.archive.location),
            layout="hindscan",
            digest=digest,
            files=() if archive is None else archive.files,
            offset=OFFSET,
        )
        ranges = () if archive is None else archive.partitions
        whole = self._stitched(pin, None if archive is None else window, found, ranges, begins=begins)
        return topic.cut_in_time(whole, ArchivedTimes(self._archive_reader(whole), pin.time or TIMESTAMP))

    def reader(self, pin: Pin) -> StitchedReader | KafkaReader:
        """Give what workers need to read this pin."""
        assert isinstance(pin, KafkaPin)
        topic = self.topic.reader(pin)
        if pin.archive is None:
            # It was pinned before the history had an archive.
            return topic
        return StitchedReader(topic=topic, archive=self._archive_reader(pin))

    def _archive_reader(self, pin: KafkaPin) -> ArchiveReader:
        assert pin.archive is not None
        schema = schema_from_text(pin.schema)
        return ArchiveReader(place=self.archive.place, pin=pin.archive, schema=schema, record=pin.record, keys=pin.keys)

    def _as_archived(self, archive: Archive) -> KafkaHistory:
        """Give the topic with the archive's schema, if it is declared as the archive was decoded."""
        topic, schema = self.topic, schema_from_text(archive.schema)
        pairs = {
            "format": (archive.format, topic.format),
            "isolation": (archive.isolation, topic.isolation),
            "on_bad_record": (archive.on_bad_record, topic.on_bad_record),
            "columns": (described(schema), described(schema if topic.columns is None else topic.columns)),
        }
        faults = [f"{name}: archived {was}, declared {now}" for name, (was, now) in pairs.items() if was != now]
        faults += [
            f"record: {name} was not archived" for name in topic.record if name in KEPT and name not in archive.record
        ]
        if faults:
            raise SchemaMismatch(
                f"While pinning history {self.name}: its archive in {self.archive.location} must be decoded as is declared, so that no row depends on where it lies; "
                f"{'; '.join(faults)}. Correct [history.{self.name}], or archive the topic anew into another folder.",
                history=self.name,
                faults=faults,
            )
        return replace(topic, columns=schema)

    def _check_keys(self, window: Window, record: Sequence[str]) -> None:
        """Refuse keys that are asked of an archive without any; `record`: what it keeps of the records themselves."""
        if not window.keys or "key" in record:
            return
        raise UsageError(
            f"While pinning history {self.name}: keys choose records by their keys, which the archive in {self.archive.location} must have kept; it has none. "
            f'Archive the topic anew into another folder with `record = ["key"]` in [history.{self.name}], or filter by a column in the job.',
            history=self.name,
            asked=["keys"],
        )

    def _check_topic(self, archive: Archive, pin: KafkaPin, window: Window) -> None:
        if archive.topic_id != pin.topic_id:
            raise SourceChanged(
                f"While pinning history {self.name}: its archive in {self.archive.location} must be of the topic {self.topic.topic!r} that is there, with id "
                f"{pin.topic_id}; it is of one with id {archive.topic_id}, which was deleted and created again, or lies in another cluster. Name another folder as "
                "`archive` for the new topic; the old archive stays readable as a Parquet history.",
                topic=self.topic.topic,
                archived=archive.topic_id,
                found=pin.topic_id,
            )
        absent = {one.partition for one in archive.partitions} - {one.partition for one in pin.partitions}
        if absent and self.topic.partitions is None and not (window.partitions or window.offsets):
            raise SourceChanged(
                f"While pinning history {self.name}: the topic {self.topic.topic!r} must have all partitions that are archived; it has not "
                f"{sorted(absent)}. Look at the cluster: a topic never loses partitions.",
                topic=self.topic.topic,
            )

    def _check_files(self, archive: Archive) -> None:
        """Look at the files: all must lie there as they were written. One listing."""
        faults = changed_files(self.archive.place, archive)
        if faults:
            raise SourceChanged(
                f"While pinning history {self.name}: the files of the archive in {self.archive.location} must be those that were written; {len(faults)} are not:\n  "
                + "\n  ".join(list(faults.values())[:20])
                + f"\nIf the archive was copied, `hindscan archive {self.name}` compares the files with their digests and takes them up; else restore them from a copy.",
                history=self.name,
                paths=list(faults),
            )

    def _stitched(
        self,
        pin: KafkaPin,
        window: Window | None,
        found: ArchivePin,
        ranges: Sequence[ArchivedRange],
        *,
        begins: bool = False,
        caveats: Sequence[str] = (),
    ) -> KafkaPin:
        """Put archive and topic together; `window`: what of both is asked for by offsets or an event, None if the topic's pin has been cut so."""
        known = {one.partition: one for one in ranges}
        gaps = [
            fault
            for one in pin.partitions
            for fault in _gaps(one, known.get(one.partition), begins=begins, where=self.archive.location)
        ]
        if gaps:
            raise DataLost(
                f"While pinning history {self.name}: every offset must be in the archive in {self.archive.location} or in the topic {self.topic.topic!r}; "
                f"{'; '.join(gaps)}. Archive what is there into another folder, if what is missing cannot be brought back.",
                history=self.name,
                topic=self.topic.topic,
                gaps=gaps,
            )
        partitions = tuple(_joined(one, known.get(one.partition)) for one in pin.partitions)
        if window is not None:
            # As of the topic alone: first what was asked for, which may be of the archive, then what the event had behind it.
            cut = cut_at_offsets(partitions, window, history=self.name)
            partitions = tuple(self.topic.cut_at_event(cut, window, pin.topic_id))
        total = sum(one.end - one.start for one in partitions)
        ends = {one.partition: one.end for one in ranges}
        live = sum(max(0, one.end - max(one.start, ends.get(one.partition, one.start))) for one in partitions)
        lasting = (
            lasting_caveats(pin.cleanup_policy, pin.retention_ms, kept=self.topic.kept is not None) if not live else []
        )
        lasting += gone_caveats(pin.partitions)
        own = [
            f"{total - live:,} of {total:,} offsets are read from the archive {found.root}, repeatable as long as its files stay"
        ]
        return msgspec.structs.replace(
            pin,
            partitions=partitions,
            archive=found,
            schema_from="the archive" if found.digest and self.topic.columns is None else pin.schema_from,
            retention_ms=pin.retention_ms if live else None,
            caveats=(
                *(caveat for caveat in pin.caveats if caveat not in lasting),
                *own,
                *gone_caveats(partitions),
                *caveats,
            ),
        )


def _of_all_offsets(window: Window) -> Window:
    """Give a window without what is cut when the archive is known too."""
    numbers = window.partitions or tuple(sorted({at.partition for at in window.offsets}))
    return msgspec.structs.replace(window, offsets=(), partitions=numbers, position=None)


def _joined(live: PartitionPin, archived: ArchivedRange | None) -> PartitionPin:
    """Put what is archived of a partition before what the topic has."""
    if archived is None:
        return live
    return msgspec.structs.replace(live, start=archived.start, end=max(archived.end, live.end))


def _gaps(live: PartitionPin, archived: ArchivedRange | None, *, begins: bool, where: str) -> Iterator[str]:
    number = live.partition
    if archived is None:
        if live.log_start > 0 and not begins:
            yield (
                f"nothing of partition {number} is archived, and the topic begins at offset {live.log_start}: [0, {live.log_start}) is in neither "
                "(`hindscan archive` begins the archive where the topic does)"
            )
        return
    if live.log_start < archived.start:
        yield (
            f"the archive of partition {number} begins at {archived.start}, and the topic has [{live.log_start}, {archived.start}) before it: what is before an archive "
            "is not read"
        )
    if live.log_start > archived.end:
        yield (
            f"of partition {number}, [{archived.end}, {live.log_start}) is in neither: the archive ends at {archived.end}, the topic begins at {live.log_start}"
        )
    if live.high_watermark < archived.end:
        yield (
            f"of partition {number} the archive in {where} ends at {archived.end}, beyond the end of the topic at {live.high_watermark}: the log was truncated"
        )
