"""The manifest of a result: what was asked, what was read, what came out, by which code and at what price.

Keeps promise 9's document: under 64 kB, one JSON object for each result, and all of them one table without any server:
`SELECT * FROM '.hindscan/results/*/*/manifest.json'` in DuckDB. That promise shapes the file. DuckDB takes the columns from the first 32 manifests; a field
that is null there is lost in all others, one that looks like a date there must look like one everywhere, a number may not turn into a text. So every field
is always there and has one type. What differs from job to job (parameters) and what people name freely (the event) are JSON texts in the file, one
arrow away in SQL (`parameters->>'year'`), and mappings in Python. Times are UTC, `YYYY-MM-DD HH:MM:SS.ffffff`, a TIMESTAMP in SQL; where there is none, a bound
that is open is the year 1 or 9999.

::

    Manifest -> encode_manifest -> manifest.json -> decode_manifest -> Manifest
"""

from __future__ import annotations

import hashlib
import sys
from datetime import datetime
from functools import cache
from importlib import metadata
from typing import Any, Final

import msgspec

from hindscan import times
from hindscan.history.snapshot import DrawPin, KafkaPin, ParquetPin, Snapshot

__all__ = [
    "Manifest",
    "PinSummary",
    "ResultFile",
    "SliceCounts",
    "Usage",
    "decode_manifest",
    "encode_manifest",
    "redacted",
    "summary_of",
    "versions",
    "with_versions",
]

#: Promise 9. What is over it is left out and named by its digest; the store has it whole.
MOST_BYTES: Final = 64_000
#: Stand for an open bound: the least and the greatest time a TIMESTAMP and a Python datetime both have.
_EARLIEST: Final = times.from_text("0001-01-01")
_LATEST: Final = times.from_text("9999-12-31T23:59:59.999999")
#: Fields that are times, with what an absent one is written as.
_TIMES: Final = {
    "as_of": _LATEST,
    "since": _EARLIEST,
    "until": _LATEST,
    "pinned_at": _EARLIEST,
    "started_at": _EARLIEST,
    "finished_at": _EARLIEST,
    "repeatable_until": _LATEST,
}
_TEXTS: Final = ("parameters", "event", "chosen", "coverage", "simulation")
_LIBRARIES: Final = ("dask", "distributed", "duckdb", "msgspec", "numpy", "pandas", "polars", "pyarrow", "scipy")


class ResultFile(msgspec.Struct, frozen=True, kw_only=True):
    """The published table."""

    #: Relative to the folder of the artefacts.
    path: str = ""
    rows: int = 0
    bytes: int = 0
    #: `runs.digest.table_digest`: of the content, not of the file.
    digest: str = ""
    #: Name and type of each, as Arrow writes them: ``price: int64``. (Not as names alone: a column can be called 2018-01-01.)
    columns: tuple[str, ...] = ()


class SliceCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How much was done."""

    total: int = 0
    reused: int = 0
    computed: int = 0
    #: Failed for good, which was tolerated: nothing of them is in the result.
    failed: int = 0


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What it took, measured on the workers; of the slices computed now."""

    cpu_seconds: float = 0.0
    #: Bytes read, as the proofs say.
    bytes: int = 0
    rows: int = 0
    #: Slices that had to be tried again.
    retried: int = 0


class PinSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One table of the snapshot in few words; all of it is in snapshot.parquet."""

    table: str
    #: "parquet", "kafka", "stitched" or "draws".
    kind: str
    #: Root of the data set, or topic; of a stitched history both.
    source: str = ""
    #: Topic id: a recreated topic has another.
    source_id: str = ""
    #: Files, or partitions.
    parts: int = 0
    #: Rows by the files' footers, offsets, or draws.
    rows: int = 0
    time_column: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one result. Times are microseconds since the epoch; None is an open bound."""

    #: Version of this document; a field is only ever added.
    manifest: int = 1
    hindscan: str = ""
    run: str
    attempt: int = 1
    job: str
    parameters: dict[str, Any] = {}
    #: Context attributes of the event that asked for it; empty if none did.
    #: Of a sweep: names of the swept parameters, whose values are columns of the result, and number of points; else empty and 0.
    swept: tuple[str, ...] = ()
    points: int = 0
    event: dict[str, Any] = {}
    event_digest: str = ""
    trigger: str = ""
    requested_by: str = ""
    #: The run this one repeats.
    parent: str = ""
    as_of: int | None = None
    since: int | None = None
    until: int | None = None
    #: What was asked for of a topic: offsets, partitions, keys; all empty if nothing in particular was.
    chosen: dict[str, Any] = {}
    pinned_at: int | None = None
    #: A text, because a seed may have more digits than SQL's integers; empty if nothing is random.
    seed: str = ""
    draws: int = 0
    #: Of a simulation: generator, block size and sampling, why it stopped, and the draws and seconds that ten times the precision would take.
    simulation: dict[str, Any] = {}
    #: Digest of the code bundle.
    code: str = ""
    python: str = ""
    #: Of the libraries a result can depend on; empty where one is not installed.
    versions: dict[str, str] = {}
    started_at: int | None = None
    finished_at: int | None = None
    seconds: float = 0.0
    usage: Usage = Usage()
    slices: SliceCounts = SliceCounts()
    #: Slices that failed were left out: the result covers `coverage`, not the whole snapshot.
    incomplete: bool = False
    #: Of an incomplete result: slices and rows, done and in all, also by partition or file; empty for a whole one.
    coverage: dict[str, Any] = {}
    #: Records that could not be decoded and were set aside.
    set_aside: int = 0
    #: Until when the same result can be computed again; None: as long as its files stay.
    repeatable_until: int | None = None
    #: What limits that, in words.
    caveats: tuple[str, ...] = ()
    #: Why what was read is not proven ("mock"); empty if it is.
    unverified: str = ""
    snapshot: tuple[PinSummary, ...] = ()
    #: Digest of the snapshot's JSON.
    snapshot_digest: str = ""
    result: ResultFile = ResultFile()
    #: Charts beside the table.
    charts: tuple[str, ...] = ()
    #: What the run was asked for and what came of it was deleted on request; only this document is left.
    forgotten: bool = False


@cache
def versions() -> dict[str, str]:
    """Give the versions of the libraries that a result can depend on."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


@cache
def _own_version() -> str:
    # It is read from a file each time that it is asked for.
    return metadata.version("hindscan")


def with_versions(manifest: Manifest) -> Manifest:
    """Fill in the versions of hindscan, Python and libraries in this process."""
    python = ".".join(map(str, sys.version_info[:3]))
    return msgspec.structs.replace(manifest, hindscan=_own_version(), python=python, versions=versions())


def redacted(manifest: Manifest) -> Manifest:
    """Take out all that the event said, and what could be guessed from a digest."""
    bare = Manifest(run=manifest.run, job=manifest.job)
    gone = ("parameters", "event", "event_digest", "chosen", "coverage", "seed", "snapshot_digest", "result", "charts")
    return msgspec.structs.replace(manifest, **{name: getattr(bare, name) for name in gone}, forgotten=True)


def summary_of(snapshot: Snapshot) -> tuple[PinSummary, ...]:
    """Say in few words what a snapshot pins, table by table."""
    return tuple(_summary(table, pin) for table, pin in sorted(snapshot.pins.items()))


def _summary(table: str, pin: ParquetPin | KafkaPin | DrawPin) -> PinSummary:
    match pin:
        case ParquetPin():
            rows = sum(group.kept_rows for file in pin.files for group in file.row_groups)
            return PinSummary(
                table=table,
                kind="parquet",
                source=pin.root,
                source_id=pin.version,
                parts=len(pin.files),
                rows=rows,
                time_column=pin.time or "",
            )
        case KafkaPin():
            return PinSummary(
                table=table,
                kind="kafka" if pin.archive is None else "stitched",
                source=f"{'' if pin.archive is None else f'{pin.archive.root} + '}{pin.cluster}:{pin.topic}",
                source_id=pin.topic_id,
                parts=len(pin.partitions),
                rows=sum(part.end - part.start for part in pin.partitions),
                time_column=pin.time or "",
            )
        case DrawPin():
            return PinSummary(table=table, kind="draws", parts=1, rows=pin.draws)


def encode_manifest(manifest: Manifest) -> bytes:
    """Write a manifest, in at most 64 kB."""
    document = msgspec.to_builtins(manifest)
    for name, absent in _TIMES.items():
        document[name] = _time_text(absent if document[name] is None else document[name])
    for name in _TEXTS:
        document[name] = msgspec.json.encode(document[name], order="deterministic").decode()
    # A whole number of seconds given as an int must not make the column one of integers.
    document["seconds"] = float(document["seconds"])
    document["usage"]["cpu_seconds"] = float(document["usage"]["cpu_seconds"])
    for shorten in (_without_columns, _without_texts, _without_caveats):
        if len(_encoded(document)) > MOST_BYTES:
            shorten(document)
    return _encoded(document)


def _encoded(document: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _without_columns(document: dict[str, Any]) -> None:
    columns = document["result"]["columns"]
    if len(columns) > 100:
        document["result"]["columns"] = columns[:100]


def _without_texts(document: dict[str, Any]) -> None:
    for name in _TEXTS:
        text = document[name]
        if len(text) > 4_000:
            digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
            document[name] = msgspec.json.encode({"omitted_bytes": len(text.encode()), "digest": digest}).decode()


def _without_caveats(document: dict[str, Any]) -> None:
    document["caveats"] = [caveat[:200] for caveat in document["caveats"][:50]]
    document["snapshot"] = document["snapshot"][:50]


def decode_manifest(content: bytes) -> Manifest:
    """Read a manifest.

    Raises
    ------
    msgspec.MsgspecError
        It is none.
    """
    document = msgspec.json.decode(content, type=dict[str, Any])
    for name, absent in _TIMES.items():
        if name in document:
            time = times.from_datetime(datetime.fromisoformat(document[name]))
            document[name] = None if time == absent else time
    for name in _TEXTS:
        if name in document:
            document[name] = msgspec.json.decode(document[name])
    return msgspec.convert(document, Manifest)


def _time_text(micros: int) -> str:
    # Always with microseconds: DuckDB takes one format for a column.
    return times.to_datetime(micros).strftime("%Y-%m-%d %H:%M:%S.%f").rjust(26, "0")
