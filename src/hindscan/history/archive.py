"""The archive of a topic: a folder of Parquet files, and the manifest that says which of them count.

Keeps the stored half of promises 1, 2 and 9 for archives. `_archive.json` is the only thing that readers trust: it names topic and topic id, how values were
decoded, and every file with its offsets. It is replaced in one step after the files it names are there, so that whoever reads sees the archive
before or after an archiver's work, never in between; a file that it does not name is nobody's, whatever its name says. What the manifest claims is checked
when it is read: the files of a partition adjoin and are exactly the range that is said to be covered.

::

    archiving -> files, then _archive.json -> read_archive -> stitched -> KafkaPin.archive
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from hindscan import files, writing
from hindscan.errors import CorruptData, SourceChanged, UsageError
from hindscan.history.archived import ArchivedFile

__all__ = [
    "LAYOUTS",
    "MANIFEST",
    "Archive",
    "ArchivePlace",
    "ArchivedRange",
    "archive_from_toml",
    "changed_files",
    "listed_only",
    "read_archive",
    "write_archive",
]

#: Hidden from every listing of data, here and in the engines that leave out names with a leading underscore.
MANIFEST: Final = "_archive.json"
#: What can lie in an archive's folder: what `hindscan archive` writes, or what Kafka Connect's S3 sink does.
LAYOUTS: Final = ("hindscan", "connect")
#: Version of the manifest. A reader refuses a newer one.
VERSION: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchivePlace:
    """Where an archive lies, as declared and resolved, and how it is laid out."""

    location: str
    place: files.Place
    layout: str = "hindscan"
    #: Column of the offsets in files that Kafka Connect wrote, if it was told to add one.
    offset: str | None = None


class ArchivedRange(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive covers of one partition: `[start, end)`, and how much of it are rows."""

    partition: int
    start: int
    end: int
    rows: int = 0
    #: Offsets that no reader sees: markers of transactions, aborted and compacted records.
    invisible: int = 0
    #: Records that did not decode.
    set_aside: int = 0


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of an archive."""

    #: Version of this document.
    archive: int = VERSION
    cluster_id: str
    topic: str
    topic_id: str
    isolation: str
    format: str
    on_bad_record: str
    #: Base64 of the Arrow IPC schema of the decoded rows; and the same in words, for people.
    schema: str
    columns: dict[str, str]
    #: What of the records themselves is kept beside offset and time: key, headers.
    record: tuple[str, ...] = ()
    partitions: tuple[ArchivedRange, ...]
    #: By partition and start.
    files: tuple[ArchivedFile, ...]

    def range(self, partition: int) -> ArchivedRange | None:
        """Give what is covered of a partition; None if it was not there when the archive was written."""
        return next((one for one in self.partitions if one.partition == partition), None)


def archive_from_toml(setting: object, root: str | Path) -> tuple[ArchivePlace | None, list[tuple[str, str]]]:
    """Read the `archive` setting of a history.

    Parameters
    ----------
    setting : str or mapping
        A folder or URL, or ``{ path = ..., layout = ..., offset = ... }``.
    root : path
        What a relative path is relative to.

    Returns
    -------
    place, faults
        None, and every fault as (field, text), where it is not valid.
    """
    table: Mapping[str, Any] = setting if isinstance(setting, Mapping) else {"path": setting}
    faults = [
        (f"archive.{key}", "there is no such setting; there are path, layout, offset")
        for key in table
        if key not in ("path", "layout", "offset")
    ]
    location, layout, offset = table.get("path"), table.get("layout", "hindscan"), table.get("offset")
    if not isinstance(location, str) or not location:
        faults.append(("archive", f"must be a folder or URL, found {location!r}"))
    if layout not in LAYOUTS:
        faults.append(("archive.layout", f"must be one of {', '.join(LAYOUTS)}, found {layout!r}"))
    if offset is not None and (layout != "connect" or not isinstance(offset, str) or not offset):
        faults.append(
            ("archive.offset", f'must name the column of the offsets, with layout = "connect"; found {offset!r}')
        )
    if faults or not isinstance(location, str):
        return None, faults
    try:
        place = files.place(location, root)
    except UsageError as fault:
        return None, [("archive", str(fault))]
    return ArchivePlace(location=location, place=place, layout=layout, offset=offset), []


def read_archive(place: files.Place) -> tuple[Archive, str] | None:
    """Read the manifest of an archive.

    Returns
    -------
    tuple of Archive and str, or None
        With the digest of the manifest. None: nothing has been archived here yet.

    Raises
    ------
    CorruptData
        The manifest is damaged, or contradicts itself.
    """
    at = place / MANIFEST
    if not files.exists(at):
        return None
    content = files.read_bytes(at)
    try:
        archive = msgspec.json.decode(content, type=Archive)
    except msgspec.MsgspecError as fault:
        raise CorruptData(
            f"While reading the manifest of the archive in {place}: a document of hindscan is required; {fault}. Restore {MANIFEST} "
            "from a copy, or archive into another folder.",
            path=str(at),
        ) from fault
    faults = list(_faults(archive))
    if faults:
        raise CorruptData(
            f"While reading the manifest of the archive in {place}: it must cover what it says without gap or overlap; {'; '.join(faults[:20])}. "
            f"Restore {MANIFEST} from a copy, or archive into another folder.",
            path=str(at),
            faults=faults,
        )
    return archive, hashlib.sha256(content).hexdigest()


def _faults(archive: Archive) -> Iterator[str]:
    if archive.archive > VERSION:
        yield f"it is of version {archive.archive}, and this hindscan knows {VERSION}"
    for one in archive.partitions:
        own = [file for file in archive.files if file.partition == one.partition]
        begins, ends = [file.start for file in own] + [one.end], [one.start] + [file.end for file in own]
        if begins != ends or any(file.start >= file.end for file in own):
            yield f"partition {one.partition} covers [{one.start}, {one.end}), its files {[(f.start, f.end) for f in own][:20]}"
    stray = {file.partition for file in archive.files} - {one.partition for one in archive.partitions}
    if stray:
        yield f"it has files of partitions {sorted(stray)}, which it does not cover"


def write_archive(place: files.Place, archive: Archive) -> str:
    """Replace the manifest in one step, and give its digest."""
    content = msgspec.json.format(msgspec.json.encode(archive), indent=1) + b"\n"
    writing.write_atomic(place / MANIFEST, content)
    return hashlib.sha256(content).hexdigest()


def changed_files(place: files.Place, archive: Archive) -> dict[str, str]:
    """Find the files of an archive that do not lie there as they were written: path, and what is wrong. One listing; no file is opened."""
    found = {file.path: file for file in files.find(place)} if archive.files else {}
    faults = {}
    for file in archive.files:
        there = found.get(file.path)
        if there is None:
            faults[file.path] = f"{file.path} has gone"
        elif there.size != file.size or (place.is_local and there.identity != file.identity):
            # An object store's listing has no etags; whoever reads the file looks at its own.
            faults[file.path] = (
                f"{file.path} was {file.size} bytes, {file.identity}; it is {there.size} bytes, {there.identity}"
            )
    return faults


def listed_only(where: files.Place, found: Sequence[files.FoundFile]) -> list[files.FoundFile]:
    """Leave out what lies in an archive's folder and is not in its manifest; any other folder's files all count.

    An archiver that was killed leaves a file whose rows others have too: read as plain Parquet they would count twice.

    Parameters
    ----------
    where : Place
        Folder, file or glob that was listed.
    found : sequence of FoundFile
        What was found.

    Raises
    ------
    SourceChanged
        The folder was listed, and lacks a file that the manifest names.
    """
    root = files.listing_root(where)
    known = read_archive(root)
    if known is None:
        return list(found)
    paths = {file.path for file in known[0].files}
    listed = [file for file in found if file.path in paths]
    if len(listed) < len(paths) and where == root:
        gone = sorted(paths - {file.path for file in listed})
        raise SourceChanged(
            f"While listing the archive in {where}: all files that its manifest names must be there; {len(gone)} are not: {', '.join(gone[:20])}. "
            "Run again if an archiver was at work just now; else restore them from a copy.",
            paths=gone,
        )
    return listed
