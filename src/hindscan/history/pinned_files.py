"""The files of a Parquet pin while they are read: where each lies, and that it is the one that was pinned.

Keeps promise 2 for Parquet. A file is looked at before it is read and again afterwards, so that another one under its name fails the reading by that name. Where a
bucket keeps versions (`object_versions`), what was overwritten or deleted is read from the version that was pinned.

::

    slices -> PinnedFiles -> place of each;   what was read -> check
"""

from __future__ import annotations

from collections.abc import Sequence

from hindscan import files
from hindscan.errors import ReadIncomplete, SourceChanged
from hindscan.history.parquet_files import Files
from hindscan.history.snapshot import ParquetSlice
from hindscan.object_versions import version_of

__all__ = ["PinnedFiles"]


class PinnedFiles:
    """Files of some slices.

    Parameters
    ----------
    root : Place
        Where their paths begin.
    opened : Files
        What is open of them; those that are others now are forgotten there.
    slices : sequence of ParquetSlice
        What is read.

    Raises
    ------
    hindscan.errors.SourceChanged
        A file is no longer the one that was pinned, and no version of it is kept.
    """

    def __init__(self, root: files.Place, opened: Files, slices: Sequence[ParquetSlice]) -> None:
        self._root = root
        self._opened = opened
        #: By path: slices of one file agree about it.
        self._slices = {s.path: s for s in slices}
        #: Files that are read as they were, from the versions their bucket keeps.
        self._older: dict[str, files.Place] = {}
        changed = self._changed()
        self._older |= {s.path: place for s, _ in changed if (place := self._version(s)) is not None}
        self._refuse([(s, now) for s, now in changed if s.path not in self._older])

    def place(self, s: ParquetSlice) -> files.Place:
        """Give the place that a slice is read from."""
        return self._older.get(s.path) or self._root / s.path

    def check(self) -> None:
        """Look at the files again.

        Raises
        ------
        hindscan.errors.SourceChanged
            One is no longer the one that was pinned.
        hindscan.errors.ReadIncomplete
            Files have changed, and their pinned versions are kept: another attempt reads them.
        """
        self._refuse(self._changed())

    def _changed(self) -> list[tuple[ParquetSlice, str]]:
        """Find files that are no longer those that were pinned, each by one slice of it, and what is there now."""
        changed = []
        for s in self._slices.values():
            if s.path in self._older:
                continue
            try:
                found = files.look(self._root, s.path)
            except SourceChanged:
                if not s.version:
                    raise
                changed.append((s, "it has gone"))
                continue
            if (found.size, found.identity) != (s.size, s.identity):
                self._opened.forget(self._root / s.path)
                changed.append((s, f"found {found.size} bytes, {found.identity}"))
        return changed

    def _version(self, s: ParquetSlice) -> files.Place | None:
        """Give the place of the pinned version of a file; None where its bucket kept none, or no longer."""
        at = version_of(self._root / s.path, s.version) if s.version else None
        return at if at is not None and at.filesystem.get_file_info(at.path).size == s.size else None

    def _refuse(self, changed: Sequence[tuple[ParquetSlice, str]]) -> None:
        if not changed:
            return
        listed = [f"{s.path}: pinned with {s.size} bytes, {s.identity}; {now}" for s, now in changed]
        shown = "\n  ".join(listed[:20])
        if all(self._version(s) is not None for s, _ in changed):
            raise ReadIncomplete(
                f"While reading Parquet: files must stay what they were pinned as while they are read; {len(changed)} changed:\n  {shown}\n"
                "Their bucket keeps the pinned versions, which are read when the slice is tried again.",
                paths=listed,
            )
        more = (
            " Where a bucket keeps the versions that were pinned, the extra `versions` reads them."
            if any(s.version for s, _ in changed)
            else ""
        )
        raise SourceChanged(
            f"While reading Parquet: files must be those that were pinned; {len(changed)} changed:\n  {shown}\n"
            f"Run again to pin the files as they are now.{more}",
            paths=listed,
        )
