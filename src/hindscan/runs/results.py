"""Results: what a run publishes, all of it or nothing.

Keeps promises 4 and 9. Table, slices with their proofs, charts and last the manifest are written into a folder that nobody looks at, flushed, and
the folder is renamed to its place in one step. The name is taken by the first who renames: a second publication of the same run, by an owner that lost
its claim or after a crash between publishing and saying so, finds it and changes nothing. (The work is deterministic, so both would be the same.)
Folders of attempts that died are swept away after a day.

::

    finished table + SliceRecords + Manifest -> publish -> results/JOB/RUN/{result.parquet, snapshot.parquet, *.vl.json, manifest.json}

Points of failure: `results.table_written`, `results.snapshot_written`, `results.manifest_written` (whole, but nowhere to be seen),
`results.published` (there, nobody was told).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec
import pyarrow as pa

from hindscan import files, writing
from hindscan.errors import CorruptData, NotFound, ServiceUnavailable, UsageError
from hindscan.faults import point
from hindscan.history.snapshot import Snapshot
from hindscan.runs.digest import table_digest
from hindscan.runs.manifest import (
    Manifest,
    ResultFile,
    decode_manifest,
    encode_manifest,
    redacted,
    summary_of,
    with_versions,
)
from hindscan.runs.partials import local_folder
from hindscan.runs.slices import SliceRecord, write_slices

__all__ = [
    "Manifest",
    "Published",
    "Rows",
    "forget_result",
    "latest",
    "list_results",
    "publish",
    "read_manifest",
    "result_folder",
    "sweep_attempts",
]

#: A folder of an attempt is left alone for so long: its owner may be slow rather than dead.
_SWEEP_SECONDS: Final = 86_400
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Rows(Protocol):
    """A result that nobody holds whole: its rows come in tables, one after another."""

    schema: pa.Schema
    num_rows: int

    def tables(self) -> Iterator[pa.Table]:
        """Give the rows."""
        ...


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """A result that is in its place."""

    folder: Path
    manifest: Manifest
    #: False if somebody had published this run before; then the manifest is theirs.
    new: bool


def result_folder(root: str | os.PathLike[str], job: str, run: str) -> Path:
    """Give the folder of a run's result, whether it is there or not.

    Raises
    ------
    hindscan.errors.UsageError
        The names cannot be those of a job and a run.
    """
    faults = [f"{what} {name!r}" for what, name in (("job", job), ("run", run)) if not _NAME.fullmatch(name)]
    if faults:
        # A name with a slash or a leading dot would lead out of the folder of results, or out of sight.
        raise UsageError(
            f"While finding a result: names must be letters, digits, and _ . - after the first; found {' and '.join(faults)}."
        )
    return local_folder(root) / "results" / job / run


def publish(
    root: str | os.PathLike[str],
    *,
    table: pa.Table | Rows,
    manifest: Manifest,
    snapshot: Snapshot,
    slices: Iterable[SliceRecord],
    charts: Mapping[str, bytes] | None = None,
) -> Published:
    """Publish a run's result, once.

    The caller has made sure that its claim still holds. Versions, `result`, `snapshot`, `snapshot_digest` and `charts` of the manifest are filled in here.

    Parameters
    ----------
    root : str or path
        Folder of the artefacts.
    table : pa.Table or Rows
        The result; of a simulation and a scan alike.
    manifest : Manifest
        What is known of the run; names job and run.
    snapshot : Snapshot
        What was read; stored whole in snapshot.parquet.
    slices : iterable of SliceRecord
        One for each slice of each stage.
    charts : mapping, optional
        Content by file name, such as ``chart.vl.json``.

    Returns
    -------
    Published
        With the manifest that is in place.

    Raises
    ------
    hindscan.errors.ServiceUnavailable
        The folder cannot be written to, or has no room.
    """
    final = result_folder(root, manifest.job, manifest.run)
    if final.is_dir():
        return _there(final)
    attempts = local_folder(root) / "attempts"
    sweep_attempts(attempts)
    attempt = attempts / f"{manifest.run}-{secrets.token_hex(8)}"
    try:
        written = _write(attempt, final, table, manifest, snapshot, slices, charts or {})
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            attempt.rename(final)
        except OSError as fault:
            if fault.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            return _there(final)
    except OSError as fault:
        raise ServiceUnavailable(
            f"While publishing run {manifest.run}: the folder of [store].artefacts, {root}, must take its result; {fault.strerror or fault}. "
            "What was computed is kept. Make room there, or mend its rights, and retry the run.",
            run=manifest.run,
            path=str(root),
        ) from fault
    finally:
        shutil.rmtree(attempt, ignore_errors=True)
    for folder in (final.parent, final.parent.parent, final.parent.parent.parent):
        writing.sync_folder(folder)
    point("results.published")
    return Published(folder=final, manifest=written, new=True)


def _there(final: Path) -> Published:
    return Published(folder=final, manifest=read_manifest(final), new=False)


def sweep_attempts(attempts: Path) -> None:
    """Delete what attempts that died have left, when it is a day old; the folder is made."""
    attempts.mkdir(parents=True, exist_ok=True)
    for folder in attempts.iterdir():
        # Another process may sweep at the same time.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > _SWEEP_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _write(
    attempt: Path,
    final: Path,
    table: pa.Table | Rows,
    manifest: Manifest,
    snapshot: Snapshot,
    slices: Iterable[SliceRecord],
    charts: Mapping[str, bytes],
) -> Manifest:
    result = attempt / "result.parquet"
    if isinstance(table, pa.Table):
        writing.write_parquet_atomic(result, table, named=False)
        digest = table_digest(table)
    else:
        writing.write_parquet_stream(result, table.schema, table.tables(), named=False)
        digest = table_digest(files.ParquetColumns(result))
    point("results.table_written")
    snapshot_digest = write_slices(attempt, snapshot, slices)
    for name, content in charts.items():
        writing.write_atomic(attempt / name, content, named=False)
    point("results.snapshot_written")
    complete = msgspec.structs.replace(
        with_versions(manifest),
        snapshot=summary_of(snapshot),
        snapshot_digest=snapshot_digest,
        charts=tuple(sorted(charts)),
        result=ResultFile(
            path="/".join(("results", *final.parts[-2:], "result.parquet")),
            rows=table.num_rows,
            bytes=result.stat().st_size,
            digest=digest,
            columns=tuple(f"{field.name}: {field.type}" for field in table.schema),
        ),
    )
    writing.write_atomic(attempt / "manifest.json", encode_manifest(complete), named=False)
    # Nobody looks into the folder before it is renamed: one flush for the names of all files.
    writing.sync_folder(attempt)
    point("results.manifest_written")
    return complete


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of a result.

    Parameters
    ----------
    folder : path
        Of the result.

    Raises
    ------
    hindscan.errors.NotFound
        There is no result.
    hindscan.errors.CorruptData
        It is damaged.
    """
    path = Path(folder) / "manifest.json"
    try:
        return decode_manifest(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"While reading a result: its folder must have a manifest; there is none in {Path(folder)}. `hindscan runs` lists the runs."
        ) from None
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError) as fault:
        raise CorruptData(
            f"While reading {path}: a manifest must be as hindscan wrote it; {fault}. Restore the file, or run again."
        ) from fault


def forget_result(folder: str | os.PathLike[str]) -> None:
    """Delete a result but for its manifest, which is redacted first; repeating it changes nothing."""
    place = Path(folder)
    manifest = read_manifest(place)
    if not manifest.forgotten:
        writing.write_atomic(place / "manifest.json", encode_manifest(redacted(manifest)))
    for path in place.iterdir():
        if path.name != "manifest.json":
            path.unlink()
    writing.sync_folder(place)


def list_results(root: str | os.PathLike[str], job: str | None = None) -> list[Path]:
    """Give the folders of results, the newest run first."""
    results = local_folder(root) / "results"
    # Ids of runs sort as the times they were opened at.
    found = results.glob(f"{'*' if job is None else job}/*/manifest.json")
    return sorted((path.parent for path in found), key=lambda folder: folder.name, reverse=True)


def latest(root: str | os.PathLike[str], job: str) -> Path | None:
    """Give the folder of a job's newest result; None if there is none. One that was forgotten has only its manifest left."""
    result_folder(root, job, "any")
    return next((found for found in list_results(root, job) if (found / "result.parquet").is_file()), None)
