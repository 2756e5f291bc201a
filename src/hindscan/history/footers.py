"""The footers of a data set's files, each read once: what an unchanged file's footer said is kept from one pin to the next, and from one process to the next.

Keeps promise 10 for the time a plan takes: of a folder with thousands of files only those are opened that are new. Keeps promise 1 as it was: a footer is found again
under the file's path, size and identity alone, so that a changed file is read anew. What is kept is one file for each history below the artefacts, as large as
the listing it was last read for (footers of files that are gone are dropped), and replaced whole: of two processes that pin at once the later one's stays, and
either's is right. A kept file that is damaged, of another version or of another Arrow is as if it were not there.

::

    FoundFile, FoundFile, ... -> Footers.read (memory, kept file, then the files themselves, in parallel) -> Footer, Footer, ...
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa

from hindscan import files, writing
from hindscan.errors import HistoryError
from hindscan.history.columns import schema_from_text, schema_to_text
from hindscan.history.footer import Footer, read_footer
from hindscan.history.snapshot import RowGroup

__all__ = ["Footers"]

#: Footers read at once: enough to hide the latency of an object store.
THREADS: Final = 16
#: Meaning of what is kept. Raised when a footer is understood in another way.
VERSION: Final = 2
#: Fewer new footers than this are read again rather than kept: writing costs more than reading them.
WORTH_KEEPING: Final = 8

_Key = tuple[str, int, str]


class _KeptFooter(msgspec.Struct, frozen=True, array_like=True):
    path: str
    size: int
    identity: str
    #: Index of its schema: most files have the same.
    schema: int
    row_groups: tuple[RowGroup, ...]
    may_be_null: tuple[str, ...]
    null_times: int


class _Kept(msgspec.Struct, frozen=True):
    version: int
    arrow: str
    schemas: list[str]
    footers: list[_KeptFooter]


class Footers:
    """Footers of the files of one history.

    Parameters
    ----------
    time : str, optional
        The time column, whose statistics are wanted.
    rename : mapping of str to str
        New names of columns by their old ones.
    kept : Path, optional
        Folder in which they are kept from one process to the next. Default: they are not.
    name : str
        What tells this history from others in that folder.
    """

    def __init__(
        self, *, time: str | None, rename: Mapping[str, str] | None = None, kept: Path | None = None, name: str = ""
    ) -> None:
        self._time = time
        self._rename = dict(rename or {})
        said = repr((name, time, sorted(self._rename.items())))
        self._file = kept and kept / f"{hashlib.blake2b(said.encode(), digest_size=16).hexdigest()}.msgpack"
        self._known: dict[_Key, Footer] = {}
        self._kept_is_read = False

    def read(self, root: files.Place, listed: Sequence[files.FoundFile]) -> list[tuple[files.FoundFile, Footer]]:
        """Give the footer of each listed file, and the file with its identity.

        Raises
        ------
        SourceChanged
            A file has gone since it was listed.
        CorruptData
            A file is broken or cut short.
        SchemaMismatch
            A file has a renamed column under both names.
        """
        if not self._kept_is_read:
            self._known |= self._read_kept()
            self._kept_is_read = True

        def one(file: files.FoundFile) -> tuple[files.FoundFile, Footer, bool] | HistoryError:
            try:
                file = files.identified(root, file)
                known = self._known.get((file.path, file.size, file.identity))
                if known is not None:
                    return file, known, False
                return file, read_footer(root / file.path, file.path, self._time, self._rename), True
            except HistoryError as fault:
                return fault

        if root.is_local and all((file.path, file.size, file.identity) in self._known for file in listed):
            return [(file, self._known[file.path, file.size, file.identity]) for file in listed]
        with ThreadPoolExecutor(min(THREADS, len(listed))) as pool:
            results = list(pool.map(one, listed))
        faults = [result for result in results if isinstance(result, HistoryError)]
        if faults:
            raise _all_of(faults)
        found = [result for result in results if not isinstance(result, HistoryError)]
        self._known = {(file.path, file.size, file.identity): footer for file, footer, _ in found}
        if sum(new for _, _, new in found) >= WORTH_KEEPING:
            self._keep()
        return [(file, footer) for file, footer, _ in found]

    def _read_kept(self) -> dict[_Key, Footer]:
        if self._file is None:
            return {}
        try:
            kept = msgspec.msgpack.decode(self._file.read_bytes(), type=_Kept)
        except (OSError, msgspec.DecodeError):
            return {}
        if (kept.version, kept.arrow) != (VERSION, pa.__version__):
            return {}
        return dict(_footers_of(kept))

    def _keep(self) -> None:
        if self._file is None:
            return
        numbers: dict[str, int] = {}
        kept = [
            _KeptFooter(
                *key,
                numbers.setdefault(schema_to_text(footer.schema), len(numbers)),
                footer.row_groups,
                tuple(sorted(footer.may_be_null)),
                footer.null_times,
            )
            for key, footer in self._known.items()
        ]
        document = _Kept(version=VERSION, arrow=pa.__version__, schemas=list(numbers), footers=kept)
        try:
            writing.write_atomic(self._file, msgspec.msgpack.encode(document))
        except OSError:
            # A full disk or a folder that may not be written to only costs time: a plan must not fail for it.
            return


def _footers_of(kept: _Kept) -> Iterator[tuple[_Key, Footer]]:
    schemas = [schema_from_text(text) for text in kept.schemas]
    for one in kept.footers:
        yield (
            (one.path, one.size, one.identity),
            Footer(
                schema=schemas[one.schema],
                row_groups=one.row_groups,
                may_be_null=frozenset(one.may_be_null),
                null_times=one.null_times,
            ),
        )


def _all_of(faults: Sequence[HistoryError]) -> HistoryError:
    if len(faults) == 1:
        return faults[0]
    return type(faults[0])("\n".join(str(fault) for fault in faults[:20]), faults=[str(fault) for fault in faults])
