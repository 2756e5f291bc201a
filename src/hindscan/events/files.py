"""Files that arrive: one event for each version of each complete file (promise 4).

A file counts when it is complete: its size and time are the same as at the look before, and if it is Parquet, its footer can be read, which is the last thing to be
written. A version is path, size and time of change; written again, the file is another event. What was there when a trigger began is a stored list, made before
the first look.

::

    Place -> versions -> those that are new, twice the same -> complete -> Event
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from typing import Any, Final
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from hindscan import times
from hindscan.errors import SourceChanged
from hindscan.events.attributes import disallowed_character
from hindscan.events.event import Event
from hindscan.files import FoundFile, Place, find, listing_root, look

__all__ = ["Arrivals", "arrival", "changed_at", "event_source", "version_id", "versions"]

_PARQUET: Final = ".parquet"
_MTIME: Final = "mtime_ns:"

_LOG = logging.getLogger("hindscan.events.files")


def versions(place: Place) -> list[FoundFile]:
    """List what is there: the Parquet files in and below a folder, or what a glob names, markers such as `_SUCCESS` included. A folder that is not there is empty."""
    return find(place, (_PARQUET,), arriving=True)


def version_id(file: FoundFile) -> str:
    """Name one version of one file."""
    return f"{_attribute(file.path)}@{file.identity.removeprefix(_MTIME)}-{file.size}"


class Arrivals:
    """What arrives at one place, from look to look.

    Parameters
    ----------
    place : Place
        A folder or glob.
    text : str
        The same as it is declared: what events call it, on every machine.
    known : Collection[str]
        Versions that are not new: those that were there at the start, and those that are recorded.
    """

    def __init__(self, place: Place, text: str, known: Collection[str]) -> None:
        self._place, self._text = place, text
        self._known = set(known)
        self._before: set[str] = set()
        self._told: set[str] = set()

    def look(self) -> list[Event]:
        """Look once; give the events of what is complete and new, in order of the paths. They are given again until `recorded`."""
        found = {version_id(file): file for file in versions(self._place)}
        fresh = [name for name in found if name not in self._known]
        steady = [name for name in fresh if name in self._before]
        self._before = set(fresh)
        root = listing_root(self._place)
        return [event for name in steady if (event := self._event(root, name, found[name])) is not None]

    def recorded(self, events: Collection[Event]) -> None:
        """Take note that these are recorded."""
        self._known.update(event.id for event in events)

    def _event(self, root: Place, name: str, file: FoundFile) -> Event | None:
        try:
            return arrival(root, self._text, file)
        except ValueError as fault:
            if name not in self._told:
                self._told.add(name)
                _LOG.warning("%s is not taken yet: %s", root / file.path, fault)
            return None


def arrival(root: Place, text: str, file: FoundFile) -> Event | None:
    """Make the event of a file that was listed; None if it is gone or another version by now.

    Parameters
    ----------
    root : Place
        Where the listing began.
    text : str
        The place as it is declared.
    file : FoundFile
        What was listed.

    Raises
    ------
    ValueError
        It is not complete, or it cannot be read.
    """
    data: dict[str, Any] = {"path": f"{_folder(text)}/{file.path}", "name": file.path, "size": file.size}
    try:
        before = look(root, file.path)
        if file.path.endswith(_PARQUET):
            data |= _read_footer(root, file)
        after = look(root, file.path)
    except SourceChanged:
        return None  # gone meanwhile
    except (pa.ArrowException, OSError) as fault:
        raise ValueError(f"it cannot be read as a whole file: {fault}") from None
    if before != after or after.size != file.size:
        return None
    scheme, _, etag = after.identity.partition(":")
    if scheme == "etag":
        data["etag"] = etag
    return Event(
        id=version_id(file),
        source=event_source(text),
        type="hindscan.file",
        subject=_attribute(file.path),
        time=times.to_datetime(changed_at(file)),
        data=data,
    )


def _read_footer(root: Place, file: FoundFile) -> dict[str, int]:
    with root.filesystem.open_input_file((root / file.path).path) as stream:
        footer = pq.read_metadata(stream)
    return {"rows": footer.num_rows, "row_groups": footer.num_row_groups}


def event_source(text: str) -> str:
    """Give the source that events of a declared place have."""
    return f"files:{quote(text, safe='/:*')}"


def changed_at(file: FoundFile) -> int:
    """Tell when a listed file was last changed, microseconds since the epoch."""
    return int(file.identity.removeprefix(_MTIME)) // 1000


def _attribute(path: str) -> str:
    """Write a path as an attribute can have it: nobody is kept from naming a file with a line feed."""
    return path if disallowed_character(path) is None else quote(path)


def _folder(text: str) -> str:
    """Give what stands before a glob."""
    return "/".join(_fixed(text.split("/"))) or "."


def _fixed(parts: list[str]) -> Iterator[str]:
    for part in parts:
        if any(sign in part for sign in "*?["):
            return
        yield part
