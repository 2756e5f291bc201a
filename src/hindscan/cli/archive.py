"""The command `archive`: a topic's history to Parquet, up to an exact offset."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hindscan.cli.options import DEFAULTS, Options, pairs
from hindscan.cli.output import human_count, print_document, print_table
from hindscan.errors import UsageError

if TYPE_CHECKING:
    from hindscan.history.archived import ArchivedFile

__all__ = ["archive"]


def archive(
    history: str,
    /,
    *,
    until_offset: Annotated[list[str] | None, Parameter(name="--until-offset", negative="")] = None,
    options: Options = DEFAULTS,
) -> None:
    """Write what is new in a topic to the history's archive: Parquet, up to an exact offset of each partition.

    Parameters
    ----------
    history : str
        Name in the project file; it has a topic and an archive.
    until_offset : list of str
        PARTITION=OFFSET, any number of times: only these partitions, each up to its offset. Or one OFFSET for all. Default: all there is.
    """
    from hindscan.history.archiving import archive as write
    from hindscan.history.stitched import StitchedHistory

    project = options.load()
    declared = project.history(history)
    if not isinstance(declared, StitchedHistory):
        raise UsageError(
            f"Archiving history {history!r}: it must be a topic with a place for its archive; it has none. "
            f'Declare `topic = ...` and `archive = "FOLDER"` in [history.{history}].',
            history=history,
        )
    done = write(declared, slice_rows=project.slice_rows(history), until=_until(until_offset), told=_tell)
    partitions = [
        {"partition": one.partition, "start": one.start, "end": one.end, "added": done.added.get(one.partition, 0)}
        | {"rows": one.rows, "invisible": one.invisible, "set_aside": one.set_aside}
        for one in done.archive.partitions
    ]
    if options.json:
        print_document(
            {
                "history": history,
                "archive": declared.archive.location,
                "topic": done.archive.topic,
                "topic_id": done.archive.topic_id,
                "partitions": partitions,
                "rows": sum(one.rows for one in done.archive.partitions),
                "files": {"total": len(done.archive.files), "written": done.written, "replaced": done.replaced}
                | {"swept": done.swept},
            }
        )
        return
    print(f"{history}: topic {done.archive.topic} (id {done.archive.topic_id}) archived in {declared.archive.location}")
    print_table(tuple(partitions[0]) if partitions else ("partition",), [tuple(one.values()) for one in partitions])


def _tell(file: ArchivedFile) -> None:
    sys.stderr.write(
        f"partition {file.partition}: [{file.start}, {file.end}), {human_count(file.rows)} rows in {file.path}\n"
    )


def _until(typed: list[str] | None) -> int | dict[int, int] | None:
    """Read the offsets: one for all, or one for each partition that is named."""
    if not typed:
        return None
    if len(typed) == 1 and "=" not in typed[0]:
        return _number(typed[0])
    return {_number(partition): _number(offset) for partition, offset in pairs(typed, "--until-offset").items()}


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise UsageError(f"Reading --until-offset: partitions and offsets must be whole numbers, found {text!r}.")
    return int(text)
