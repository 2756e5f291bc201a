"""Commands to look at histories themselves: `snapshot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from hindscan.cli.options import DEFAULTS, WHOLE, Options, WindowOptions
from hindscan.cli.output import human_bytes, human_count, print_document, print_table, writing_to
from hindscan.errors import UsageError

if TYPE_CHECKING:
    from hindscan.config import Project
    from hindscan.explore import PinnedHistory
    from hindscan.pinned import Pinned

__all__ = ["snapshot"]

#: Files that are listed on a terminal; a document has them all.
FILES_SHOWN = 20


def snapshot(
    history: str,
    /,
    *,
    window: WindowOptions = WHOLE,
    read: Annotated[bool, Parameter(negative="")] = False,
    verify: Path | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    options: Options = DEFAULTS,
) -> int:
    """Pin a history and print what was pinned; reads metadata only, unless told to.

    Parameters
    ----------
    history : str
        Name in the project file.
    window : WindowOptions
        What part of it.
    read : bool
        Read all of it, for exact rows and times and for proofs that a later --verify compares with.
    verify : Path
        Read again what this file pins, slice by slice, and compare: a file of --output, the snapshot.parquet of a run, or a run's id.
    output : Path
        Store the snapshot in this file, after --verify with the proofs of the second reading.
    """
    from hindscan.explore import PinnedHistory
    from hindscan.history.window import make_window
    from hindscan.pinned import pin_history, read_pinned, save_pinned

    project = options.load()
    asked = window.values()
    if verify is not None:
        if asked or read:
            raise UsageError(
                "Verifying a snapshot: the file says what is read; leave out --read and the options of the window."
            )
        return _verify(project, history, verify, output, options)
    found = pin_history(project, history, make_window(**asked, doing=f"Pinning {history}"))
    if read:
        found = read_pinned(project.history(history).reader(found.pin), found)
    if output is not None:
        with writing_to(output):
            save_pinned(found, output)
    if options.json:
        print_document(_document(found, PinnedHistory(project, found)))
    else:
        _print(found, PinnedHistory(project, found))
    return 0


def _document(found: Pinned, handle: PinnedHistory) -> dict[str, Any]:
    import msgspec

    from hindscan import times

    ends = handle.times
    return {
        "history": found.history,
        "pinned_at": times.to_text(found.pinned_at),
        "rows": int(handle.rows),
        "rows_exact": handle.rows.exact,
        "bytes": handle.bytes,
        "slices": len(found.slices),
        "times": None if ends is None else [times.to_text(end) for end in ends],
        "columns": {field.name: str(field.type) for field in handle.schema},
        "caveats": list(handle.caveats),
        "pin": msgspec.to_builtins(found.pin),
        "proofs": [msgspec.to_builtins(one.proof) for one in found.read],
    }


def _print(found: Pinned, handle: PinnedHistory) -> None:
    from hindscan import times
    from hindscan.history.snapshot import KafkaPin

    pin = found.pin
    if isinstance(pin, KafkaPin):
        print(f"{found.history}: topic {pin.topic} (id {pin.topic_id}) on cluster {pin.cluster}, {pin.isolation}")
        print_table(
            ("partition", "start", "archived to", "end", "log start", "high watermark"),
            [
                (
                    p.partition,
                    p.start,
                    pin.archive and pin.archive.end(p.partition, p.start),
                    p.end,
                    p.log_start,
                    p.high_watermark,
                )
                for p in pin.partitions
            ],
        )
    else:
        print(f"{found.history}: {len(pin.files)} files in {pin.root}")
        print_table(
            ("file", "row groups", "rows", "bytes"),
            [
                (file.path, len(file.row_groups), sum(group.kept_rows for group in file.row_groups), file.size)
                for file in pin.files[:FILES_SHOWN]
            ],
        )
        if len(pin.files) > FILES_SHOWN:
            print(f"and {len(pin.files) - FILES_SHOWN} more")
    rows = human_count(int(handle.rows))
    print(
        f"{'' if handle.rows.exact else 'at most '}{rows} rows, {human_bytes(handle.bytes)} in {len(found.slices)} slices"
    )
    if handle.times is not None:
        print("times: " + " to ".join(times.to_text(end) for end in handle.times))
    print("columns: " + ", ".join(f"{field.name}: {field.type}" for field in handle.schema))
    for caveat in handle.caveats:
        print(f"note: {caveat}")


def _verify(project: Project, history: str, file: Path, output: Path | None, options: Options) -> int:
    import msgspec

    from hindscan.pinned import differences, load_pinned, save_pinned

    was = load_pinned(project, _file_of(project, file), history)
    answers = list(differences(project.history(history).reader(was.pin), was))
    different = [difference for _, difference in answers if difference is not None]
    compared = sum(bool(one.proof.digest) for one in was.read)
    if output is not None and not different:
        with writing_to(output):
            save_pinned(msgspec.structs.replace(was, read=tuple(now for now, _ in answers if now is not None)), output)
    if options.json:
        print_document(
            {
                "history": history,
                "same": not different,
                "slices": len(answers),
                "compared": compared,
                "differences": [msgspec.to_builtins(one) for one in different],
            }
        )
    else:
        for one in different:
            print(f"DIFFERENT: {one.slice}: {one.what}")
        if not different:
            print(f"the same: {len(answers)} slices read whole, {compared} compared with their proofs")
    return 1 if different else 0


def _file_of(project: Project, named: Path) -> Path:
    """Find the file: it itself, or the snapshot of the run of this id."""
    from hindscan.runs.register import get_run
    from hindscan.runs.store import open_store

    if named.exists() or len(named.parts) > 1 or named.suffix:
        return named
    with open_store(project.store_url, project.root) as store:
        found = get_run(store, str(named))
    if found.result is None:
        raise UsageError(f"Verifying what run {named} read: it must have succeeded; it is {found.state}.")
    return project.root / found.result / "snapshot.parquet"
