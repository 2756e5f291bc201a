"""Files wherever they lie.

Keeps the storage half of promises 1 and 2. A `Place` is a path on a file system (local, or an object store by URL); its identity (size with an
etag or a modification time) tells a changed file from the one that was pinned. What is hidden is never listed. How files are written, `writing` says.

Foundation: the only user of pyarrow.fs.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.fs as pafs

from hindscan.errors import AccessRefused, ServiceUnavailable, SourceChanged, SourceMissing, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ANSWER_SECONDS",
    "CONNECT_SECONDS",
    "FoundFile",
    "ParquetColumns",
    "Place",
    "StoreSettings",
    "delete",
    "exists",
    "find",
    "identified",
    "listing_root",
    "local",
    "look",
    "place",
    "read_bytes",
]

#: Properties of one object store, from the project file.
StoreSettings = Mapping[str, str | int | float | bool]
#: Seconds until a store that does not answer is given up, for a connection and for an answer.
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_MAGIC = re.compile(r"[*?\[]")
_LOCAL = pafs.LocalFileSystem()


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A file or folder: a file system and a path in it, with forward slashes and no slash at the end."""

    filesystem: pafs.FileSystem
    path: str
    #: How an object store is reached, where that is declared.
    store: StoreSettings | None = field(default=None, repr=False, compare=False)

    def __truediv__(self, name: str) -> Place:
        """Give the place of that name (which may have slashes) inside this one."""
        return Place(filesystem=self.filesystem, path=posixpath.join(self.path, name), store=self.store)

    def __str__(self) -> str:
        """Show the path, with the kind of file system where it is not the local one."""
        return self.path if self.is_local else f"{self.filesystem.type_name}://{self.path}"

    @property
    def is_local(self) -> bool:
        """Whether the operating system knows this path."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    @property
    def parent(self) -> Place:
        """The folder this place is in."""
        return Place(filesystem=self.filesystem, path=posixpath.dirname(self.path), store=self.store)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return posixpath.basename(self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFile:
    """One file of a listing."""

    #: Relative to the folder that was listed.
    path: str
    size: int
    identity: str
    #: Id of its version, where a bucket keeps versions and it was asked for.
    version: str = ""


def place(
    location: str | os.PathLike[str] | Place,
    root: str | os.PathLike[str] | None = None,
    stores: Mapping[str, StoreSettings] | None = None,
) -> Place:
    """Resolve a path or URL.

    Parameters
    ----------
    location : str or path
        A path, or a URL that pyarrow knows: ``s3://bucket/prefix``, ``gs://...``, ``file:///...``.
    root : path, optional
        What a relative path is relative to. Default: the working directory.
    stores : mapping, optional
        How ``s3://`` buckets are reached, by the bucket's name; ``default`` is for all others.

    Raises
    ------
    UsageError
        The URL is of no known kind.
    """
    if isinstance(location, Place):
        return location
    text = os.fspath(location)
    if not _URL.match(text):
        full = (Path(root or "") / Path(text).expanduser()).resolve()
        return Place(filesystem=pafs.LocalFileSystem(), path=full.as_posix())
    bucket = text.removeprefix("s3://").split("/", 1)[0] if text.startswith("s3://") else None
    settings = None if bucket is None else (stores or {}).get(bucket, (stores or {}).get("default"))
    if settings is not None:
        path = text.removeprefix("s3://").rstrip("/")
        return Place(filesystem=_object_store(settings), path=path, store=settings)
    try:
        filesystem, path = pafs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, ValueError, OSError) as fault:
        shown = _scrub(text)
        raise UsageError(
            f"While resolving {shown}: a path or a URL of a known file system is required; "
            f"{str(fault).replace(text, shown)}. Use a path, file://, s3:// or gs://.",
            location=shown,
        ) from None  # the cause's text holds the whole URL
    return Place(filesystem=filesystem, path=path.rstrip("/") or "/")


def local(path: str) -> Place:
    """Take an absolute path of this machine as it is: resolving one costs more than a small file does."""
    return Place(filesystem=_LOCAL, path=path)


def _object_store(settings: StoreSettings) -> pafs.FileSystem:
    scheme, separator, host = str(settings.get("endpoint", "")).rpartition("://")
    given: dict[str, Any] = {name: value for name, value in settings.items() if name != "endpoint"}
    if host:
        given |= {"endpoint_override": host, "scheme": scheme if separator else "https"}
    # Else Arrow asks the store for the bucket's region, and a store behind an endpoint has none.
    given.setdefault("region", "us-east-1")
    return pafs.S3FileSystem(connect_timeout=CONNECT_SECONDS, request_timeout=ANSWER_SECONDS, **given)


@contextmanager
def _reaching(at: Place) -> Iterator[None]:
    """Tell an object store that refuses, or does not answer, from one that has no such file."""
    try:
        yield
    except OSError as fault:
        text = str(fault)
        absent = isinstance(fault, FileNotFoundError | NotADirectoryError) or "NO_SUCH_BUCKET" in text
        if not absent and at.is_local:
            raise
        if not absent:
            raise _unreached(at, text) from fault
        raise SourceMissing(
            f"While listing {at}: a file or folder must be there; it is not. Check the path; a relative one is relative to the project file.",
            path=str(at),
        ) from fault


def _unreached(at: Place, text: str) -> AccessRefused | ServiceUnavailable:
    if re.search("ACCESS_DENIED|FORBIDDEN|INVALID_ACCESS_KEY|SIGNATURE|HTTP status 40[13]", text):
        return AccessRefused(
            f"While listing {at}: the right to list and to read is required; the store refused: {text}. "
            "Check the keys in [s3.default] or [s3.BUCKET], and what they may do.",
            path=str(at),
        )
    return ServiceUnavailable(
        f"While listing {at}: the object store must answer; {text}. Check `endpoint` and `region` in [s3.default] or [s3.BUCKET].",
        path=str(at),
    )


def _scrub(url: str) -> str:
    # A URL can carry an access key before the host and anything in its query; neither belongs in a message.
    return re.sub(r"//[^/@]*@", "//", url.split("?", 1)[0])


def identified(root: Place, file: FoundFile) -> FoundFile:
    """Name the content of a listed file as well as its file system can: an object store is asked for the etag, and for the version where it keeps several.

    Raises
    ------
    SourceChanged
        The file has gone since it was listed.
    """
    if root.is_local:
        return file
    try:
        with root.filesystem.open_input_file((root / file.path).path) as stream:
            # The stubs say that its keys are bytes; they are texts.
            metadata: Any = stream.metadata()
            etag, version = metadata.get("ETag"), metadata.get("VersionId", b"")
            size = stream.size()
    except FileNotFoundError as fault:
        raise _gone(file.path) from fault
    if not etag:
        return file
    identity = f"etag:{etag.decode().strip(chr(34))}"
    return FoundFile(path=file.path, size=size, identity=identity, version=version.decode())


def look(root: Place, path: str) -> FoundFile:
    """Find one file and its identity, as `find` and `identified` would.

    Raises
    ------
    SourceChanged
        It is not there.
    """
    if root.is_local:
        # Looked at twice for every slice. Arrow takes as long to answer as a small slice does to be computed.
        try:
            found = os.stat((root / path).path)  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            raise _gone(path) from None
        if not stat.S_ISREG(found.st_mode):
            raise _gone(path)
        return FoundFile(path=path, size=found.st_size, identity=f"mtime_ns:{found.st_mtime_ns}")
    info = root.filesystem.get_file_info((root / path).path)
    if info.type != pafs.FileType.File:
        raise _gone(path)
    return identified(root, FoundFile(path=path, size=info.size, identity=f"mtime_ns:{info.mtime_ns}"))


def _gone(path: str) -> SourceChanged:
    return SourceChanged(
        f"While reading {path}: the file must be there as it was listed; it has gone. Pin again.", path=path
    )


def exists(where: Place | str | os.PathLike[str]) -> bool:
    """Tell whether there is a file or folder."""
    at = place(where)
    return bool(at.filesystem.get_file_info(at.path).type != pafs.FileType.NotFound)


def find(
    where: Place | str | os.PathLike[str], suffixes: Sequence[str] = (), *, arriving: bool = False
) -> list[FoundFile]:
    """List files: one file, all in and under a folder, or those a glob names.

    Hidden files and folders (a name that begins with ``.`` or ``_``, unless it is a hive partition ``_name=value``) are left out, so
    that markers, checksums and half-written files are never data. The order is that of the paths with their numbers taken as
    numbers (``month=2`` before ``month=10``), so that what is added later mostly comes later.

    Parameters
    ----------
    where : Place, str or path
        A file, a folder, or either with ``*``, ``?``, ``[...]`` and ``**`` (any number of folders).
    suffixes : sequence of str
        Endings that count when a folder is listed. Default: all. A file or glob that names one itself is taken at its word.
    arriving : bool
        Files are waited for: a folder that is not there is empty, and a glob whose last part begins with ``_`` finds such files, which mark what is complete.

    Returns
    -------
    list of FoundFile
        Paths relative to `listing_root(where)`.

    Raises
    ------
    SourceMissing
        There is no such file or folder.
    """
    at = place(where)
    root = listing_root(at)
    if root.path == at.path:
        pattern = ""
        selector = pafs.FileSelector(root.path, recursive=True, allow_not_found=arriving)
        wanted = None
    else:
        pattern = at.path[len(root.path.rstrip("/")) + 1 :]
        recursive = "/" in pattern or "**" in pattern
        selector = pafs.FileSelector(root.path, recursive=recursive, allow_not_found=arriving)
        wanted = _glob(pattern) if _MAGIC.search(pattern) else re.compile(re.escape(pattern) + r"\Z")
    found = []
    with _reaching(at):
        infos = at.filesystem.get_file_info(selector)
    prefix = len(root.path.rstrip("/")) + 1
    markers = arriving and posixpath.basename(pattern).startswith("_")
    for info in infos:
        path = info.path[prefix:]
        shown = posixpath.dirname(path) if markers else path
        if info.type != pafs.FileType.File or any(_hidden(part) for part in shown.split("/")):
            continue
        if wanted is not None and not wanted.match(path):
            continue
        if wanted is None and suffixes and not path.endswith(tuple(suffixes)):
            continue
        found.append(FoundFile(path=path, size=info.size, identity=f"mtime_ns:{info.mtime_ns}"))
    return sorted(found, key=lambda file: _natural(file.path))


def listing_root(where: Place | str | os.PathLike[str]) -> Place:
    """Give the folder that `find` takes its paths relative to: the folder itself, a file's folder, or what is before a glob."""
    at = place(where)
    parts = at.path.split("/")
    for index, part in enumerate(parts):
        if _MAGIC.search(part) and not exists(at):
            return Place(filesystem=at.filesystem, path="/".join(parts[:index]) or "/", store=at.store)
    with _reaching(at):
        return at.parent if at.filesystem.get_file_info(at.path).type == pafs.FileType.File else at


def _hidden(part: str) -> bool:
    return part.startswith(".") or (part.startswith("_") and "=" not in part)


def _natural(path: str) -> list[tuple[str, int, str]]:
    # (text, number, digits) triples: comparable wherever they meet, and total because the digits as written are kept.
    return [(text, int(digits or -1), digits) for text, digits in re.findall(r"(\D*)(\d*)", path)]


def _glob(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\])", pattern)
    known = {"**/": r"(?:[^/]+/)*", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    out = []
    for part in parts:
        if part in known:
            out.append(known[part])
        elif part.startswith("[") and len(part) > 2:
            inside = part[1:-1].replace("\\", "\\\\")
            out.append("[" + ("^" + inside[1:] if inside.startswith("!") else inside) + "]")
        else:
            out.append(re.escape(part))
    return re.compile("".join(out) + r"\Z")


def read_bytes(where: Place | str | os.PathLike[str]) -> bytes:
    """Read a whole file."""
    at = place(where)
    with at.filesystem.open_input_stream(at.path, compression=None) as stream:
        return bytes(stream.readall())


def delete(where: Place | str | os.PathLike[str]) -> None:
    """Delete a file if it is there."""
    at = place(where)
    if at.filesystem.get_file_info(at.path).type == pafs.FileType.File:
        at.filesystem.delete_file(at.path)


class ParquetColumns:
    """A Parquet file as a table whose columns are read one at a time.

    Parameters
    ----------
    where : Place, str or path
        The file.
    """

    def __init__(self, where: Place | str | os.PathLike[str]) -> None:
        import pyarrow.parquet as pq

        at = place(where)
        self._file = pq.ParquetFile(at.path, filesystem=at.filesystem, page_checksum_verification=True)
        self.column_names: list[str] = self._file.schema_arrow.names
        self.num_columns: int = len(self.column_names)
        self.num_rows: int = self._file.metadata.num_rows

    @property
    def columns(self) -> Iterator[Any]:
        """Each column in its turn."""
        return (self._file.read(columns=[name]).column(name) for name in self.column_names)
