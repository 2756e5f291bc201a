"""What an archive holds, as values: files of a partition's offsets, and what was proven when they were read from the topic.

Keeps the stitched half of promises 1 and 2. An archive is a list of files, each with all the rows of offsets `[start, end)` of one partition in the order of
their offsets. A pin carries the files it may read, so that whatever is archived later changes nothing for a run that was pinned before. Each file says
from which readings of the topic it was made, with the proof of each: that is what ties its rows to the log when the log is gone.

Stands before `snapshot`, whose pins hold these values, and `archive`, which keeps them in the archive's manifest.
"""

from __future__ import annotations

from typing import Final

import msgspec
import pyarrow as pa

from hindscan.data import Proof

__all__ = ["OFFSET", "POSITIONS", "TIMESTAMP", "ArchivePin", "ArchivedFile", "ArchivedRead"]

#: Columns that an archived row has besides its own: where it stood in its partition, and the record's own time.
OFFSET: Final = "_offset"
TIMESTAMP: Final = "_timestamp"
POSITIONS: Final = (
    pa.field(OFFSET, pa.int64(), nullable=False),
    pa.field(TIMESTAMP, pa.timestamp("ms", "UTC"), nullable=False),
)


class ArchivedRead(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of offsets `[start, end)`, whole, and what it proved."""

    start: int
    end: int
    proof: Proof
    #: Column whose times the proof tells; `_timestamp`: the records' own. Empty: not known.
    time: str = ""


class ArchivedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file: all rows of offsets `[start, end)` of one partition."""

    #: Relative to the archive's folder, with forward slashes.
    path: str
    size: int
    #: ``mtime_ns:...`` or ``etag:...``.
    identity: str
    partition: int
    start: int
    end: int
    rows: int
    row_groups: int
    #: Uncompressed, as the footer has it.
    bytes: int
    #: Of the file's bytes; empty where hindscan did not write it.
    digest: str = ""
    #: Readings it was made from: adjoining, `[start, end)` in all.
    reads: tuple[ArchivedRead, ...]
    #: Offsets of the records that did not decode and were set aside.
    set_aside: tuple[int, ...] = ()


class ArchivePin(msgspec.Struct, frozen=True, kw_only=True):
    """Which files of an archive a stitched history may read."""

    #: Folder or URL as declared, without secrets.
    root: str
    #: "hindscan" or "connect".
    layout: str
    #: Of the manifest; empty where there is none.
    digest: str
    #: By partition and start; adjoining within a partition.
    files: tuple[ArchivedFile, ...]
    #: Column that holds the offsets; None: row n of a file has offset start + n.
    offset: str | None = OFFSET

    def end(self, partition: int, start: int) -> int:
        """Give where the archive of a partition ends and the topic goes on; `start` if nothing of it is archived."""
        return max((file.end for file in self.files if file.partition == partition), default=start)
