"""Pinned Parquet files as a worker has them open: each is opened once for its headers, and its footer is read once, however many slices the file has.

Serves promise 2 at the price of one reading: what a footer says cannot change while the file has the size and identity it was pinned with, and these are
looked at before and after every slice. What is kept is kept under them; a file that is found to be another is forgotten, so that nothing read from it in
between is used again.

A reader holds one `Files`; it travels to workers empty.

::

    ParquetReader -> Files.open(place, size, identity) -> OpenFile: fragment, metadata -> ParquetSource
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hindscan.files import Place

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

__all__ = ["Files", "OpenFile"]

#: Files kept open: more than threads of one process work at, and than one broadcast table usually has.
FILES_MOST: Final = 32


@dataclass(kw_only=True, slots=True)
class OpenFile:
    """One file; its footer is read when first asked for."""

    place: Place
    #: Makes the whole file's fragment, which has not read its footer yet.
    make: Callable[[], ds.ParquetFileFragment] = field(repr=False)
    _fragment: ds.ParquetFileFragment | None = field(default=None, repr=False)
    _stream: pa.NativeFile | None = field(default=None, repr=False)

    @property
    def fragment(self) -> ds.ParquetFileFragment:
        """The whole file, as a fragment that knows its footer.

        Raises
        ------
        pyarrow.ArrowException or OSError
            The file is gone, or no whole Parquet file.
        """
        if self._fragment is None:
            made = self.make()
            made.ensure_complete_metadata()
            self._fragment = made
        return self._fragment

    @property
    def metadata(self) -> pq.FileMetaData:
        """What the footer says, as Arrow has it. Raises as `fragment`."""
        return self.fragment.metadata

    def read_at(self, begin: int, size: int) -> bytes:
        """Read some bytes, at most as many as there are. Threads may read at once. Raises as `fragment`."""
        stream: Any = self._stream  # the stubs of `read_at` do not know where
        if stream is None:
            stream = self._stream = self.place.filesystem.open_input_file(self.place.path)
        return bytes(stream.read_at(size, begin))


class Files:
    """The files one reader has open, the last used ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, int, str], OpenFile] = OrderedDict()

    def __reduce__(self) -> tuple[type[Files], tuple[()]]:
        return Files, ()

    def open(self, place: Place, size: int, identity: str, make: Callable[[], ds.ParquetFileFragment]) -> OpenFile:
        """Give a file that was just seen with this size and identity."""
        key = place.path, size, identity
        with self._lock:
            found = self._open.get(key)
            if found is None:
                found = self._open[key] = OpenFile(place=place, make=make)
                while len(self._open) > FILES_MOST:
                    self._open.popitem(last=False)
            self._open.move_to_end(key)
            return found

    def forget(self, place: Place) -> None:
        """Keep nothing of a file that was found to be another."""
        with self._lock:
            for key in [key for key in self._open if key[0] == place.path]:
                del self._open[key]
