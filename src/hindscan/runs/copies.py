"""Results where others look for them: a copy of a published result in a named folder or below an S3 prefix.

Keeps promises 4 and 9 there, too. A result is copied after it was published among the artefacts, before its run is said to have succeeded: a copy that fails is
tried again with the run. The copy is named after the run, so that a retry, or an owner that lost its claim, finds it and changes nothing. In a folder it is
renamed to its place in one step; an object store has no such step, and there the manifest comes last: what has no manifest is no result. ``latest.json`` names the
newest run that was copied, and never steps back to an older one.

::

    results/JOB/RUN -> copy_result -> PLACE/RUN/{result.parquet, snapshot.parquet, ..., manifest.json}, then PLACE/latest.json
    forget_copy -> neither of them

Points of failure: `copies.written` (whole but for what makes it visible), `copies.published` (there, `latest.json` is not yet).
"""

from __future__ import annotations

import errno
import secrets
import shutil
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from hindscan import files, writing
from hindscan.errors import CorruptData, ServiceUnavailable
from hindscan.faults import point
from hindscan.history.lake_target import Rows, TableTarget
from hindscan.runs.results import read_manifest, sweep_attempts

__all__ = ["LATEST", "copy_result", "copy_rows", "forget_copy", "has_copy"]

#: Names the newest copy: ``{"run": ..., "result": "RUN/result.parquet", "manifest": "RUN/manifest.json"}``.
LATEST: Final = "latest.json"
_MANIFEST: Final = "manifest.json"
#: Folder of what is not yet a copy, out of sight of whoever lists data.
_ATTEMPTS: Final = ".attempts"
#: Bytes of a file that are held while it is sent.
_CHUNK: Final = 8 << 20


class _Latest(msgspec.Struct, frozen=True):
    run: str
    result: str
    manifest: str


def copy_result(result: Path, to: files.Place) -> bool:
    """Copy a published result to where it is wanted, once.

    Parameters
    ----------
    result : Path
        Folder of the result.
    to : Place
        Folder or prefix that copies of this job's results lie in.

    Returns
    -------
    bool
        False if the copy was there already.

    Raises
    ------
    hindscan.errors.ServiceUnavailable
        The place cannot be written to.
    """
    run = read_manifest(result).run
    try:
        new = not files.exists(to / run / _MANIFEST)
        if new:
            (_copy_at_once if to.is_local else _copy_in_order)(result, to, run)
            point("copies.published")
        _advance(to, run)
    except (OSError, pa.ArrowException) as fault:
        raise ServiceUnavailable(
            f"While publishing run {run} to {to}: its files must be written there; {fault}. The result is kept in {result}. "
            f"Check the place in [copies], and `hindscan retry {run}`.",
            run=run,
            path=str(to),
        ) from fault
    return new


def copy_rows(result: Path, to: TableTarget) -> bool:
    """Write the rows of a published result into a table, once.

    Parameters
    ----------
    result : Path
        Folder of the result. Its table is held in memory.
    to : TableTarget
        The table.

    Returns
    -------
    bool
        False if they were there already.
    """
    manifest = read_manifest(result)
    table = pq.read_table(result / "result.parquet")
    return to.add(Rows(job=manifest.job, run=manifest.run, digest=manifest.result.digest, table=table))


def has_copy(to: files.Place, run: str) -> bool:
    """Tell whether anything of a run's result lies at a place."""
    return to.filesystem.get_file_info((to / run).path).type is not pafs.FileType.NotFound or files.exists(
        to / run / _MANIFEST
    )


def forget_copy(to: files.Place, run: str) -> None:
    """Delete the copy of a run's result, begun ones too, and ``latest.json`` where it names it; repeating it changes nothing.

    Raises
    ------
    hindscan.errors.ServiceUnavailable
        The place cannot be written to.
    """
    try:
        if has_copy(to, run):
            to.filesystem.delete_dir((to / run).path)
        if to.is_local:
            for attempt in (Path(to.path) / _ATTEMPTS).glob(f"{run}-*"):
                shutil.rmtree(attempt, ignore_errors=True)
        at = to / LATEST
        if files.exists(at) and msgspec.json.decode(files.read_bytes(at)).get("run") == run:
            files.delete(at)
    except (OSError, pa.ArrowException) as fault:
        raise ServiceUnavailable(
            f"While forgetting the copy of run {run} in {to}: it must be deleted there; {fault}. Check the place in [copies], and repeat.",
            run=run,
            path=str(to),
        ) from fault


def _copy_at_once(result: Path, to: files.Place, run: str) -> None:
    folder = Path(to.path)
    attempts = folder / _ATTEMPTS
    sweep_attempts(attempts)
    attempt = attempts / f"{run}-{secrets.token_hex(8)}"
    try:
        for source in sorted(result.iterdir()):
            writing.write_atomic(files.local(str(attempt / source.name)), source.read_bytes())
        point("copies.written")
        try:
            attempt.rename(folder / run)
        except OSError as fault:
            # Another owner was faster: its copy is the same.
            if fault.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    finally:
        shutil.rmtree(attempt, ignore_errors=True)
    writing.sync_folder(folder)


def _copy_in_order(result: Path, to: files.Place, run: str) -> None:
    for source in sorted(result.iterdir(), key=lambda path: (path.name == _MANIFEST, path.name)):
        if source.name == _MANIFEST:
            point("copies.written")
        with source.open("rb") as stream, to.filesystem.open_output_stream((to / run / source.name).path) as out:
            while chunk := stream.read(_CHUNK):
                out.write(chunk)


def _advance(to: files.Place, run: str) -> None:
    at = to / LATEST
    if files.exists(at):
        try:
            newest = msgspec.json.decode(files.read_bytes(at), type=_Latest).run
        except msgspec.MsgspecError as fault:
            raise CorruptData(
                f"While publishing run {run} to {to}: {LATEST} must be as hindscan wrote it; {fault}. Delete it.",
                path=str(at),
            ) from fault
        # Ids of runs sort as the times they were opened at.
        if newest >= run:
            return
    said = _Latest(run=run, result=f"{run}/result.parquet", manifest=f"{run}/{_MANIFEST}")
    writing.write_atomic(at, msgspec.json.encode(said))
