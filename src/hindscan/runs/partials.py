"""Partials: what was computed for one slice or one node of a tree, stored under its content key.

Keeps promises 6, 7 and 9. A partial appears whole under its key or not at all; whoever computes the same key writes the same content, so writers
need no lock and the last one may win. Its proof and the digest of its content lie in the file itself. What is read is verified against that
digest: a damaged partial is removed and reported as `CorruptPartial`, which counts as absent, so it is computed again and never used. Files are Arrow
IPC with lz4 buffers, mapped when read; nothing in them is code.

::

    task -> write(key, table, proof) -> partials/KK/KEY.arrow -> read(key), read_meta(key);   exists(keys) -> plan

Points of failure: `partials.writing` (nothing is visible yet), `partials.written` (the partial is there, nobody was told).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa
import xxhash

from hindscan import files
from hindscan.data import Proof
from hindscan.errors import BadPartial, ConfigError, CorruptPartial
from hindscan.faults import point
from hindscan.runs.digest import table_digest

__all__ = ["Meta", "Partials", "local_folder"]

#: Up to so many keys are looked up one by one; beyond, listing the folders is faster.
_FEW_KEYS: Final = 256
#: More batches than this are put together where they are smaller than that on average: thousands of partials may be concatenated.
_FEW_BATCHES: Final = 16
_BATCH_BYTES: Final = 65_536
_KEY: Final = re.compile(r"[0-9a-z]{8,128}")
_META: Final = b"hindscan"
_CHECK: Final = b"hindscan.check"
_DAMAGE: Final = (
    pa.ArrowException,
    msgspec.MsgspecError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    MemoryError,
    OverflowError,
)


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What a partial says of itself."""

    #: `runs.digest.table_digest` of the table.
    digest: str
    rows: int
    proof: Proof | None = None
    #: What the writer added.
    metadata: dict[str, str] = {}


_meta = msgspec.json.Decoder(Meta)


def local_folder(root: str | os.PathLike[str]) -> Path:
    """Give the artefacts' folder as a path.

    Raises
    ------
    hindscan.errors.ConfigError
        It is a URL: this version keeps artefacts in a file system only.
    """
    text = os.fspath(root)
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "file":
        raise ConfigError(
            f"While opening the artefacts: [store].artefacts must be a folder in this version; found a {scheme}:// URL. "
            "Object stores are not supported yet: name a folder that all workers see.",
            scheme=scheme,
        )
    return Path(rest if separator else text).absolute()


@dataclass(frozen=True, slots=True)
class Partials:
    """The partials of one project. A value: it goes to workers as it is.

    Parameters
    ----------
    root : str or path
        Folder of the artefacts; on several hosts one that all of them see.

    Raises
    ------
    hindscan.errors.ConfigError
        It is not a folder in a file system.
    """

    root: str | os.PathLike[str]
    folder: Path = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", local_folder(self.root) / "partials")

    def path(self, key: str) -> Path:
        """Give the file of a key."""
        return Path(self._name(key))

    def _name(self, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise ValueError(f"a partial's key is 8 to 128 lower-case letters and digits; found {key!r}")
        return f"{self.folder}/{key[:2]}/{key}.arrow"

    def write(
        self, key: str, table: pa.Table, proof: Proof | None = None, metadata: dict[str, str] | None = None
    ) -> tuple[str, int]:
        """Store a partial.

        Parameters
        ----------
        key : str
            Its content key.
        table : pa.Table
            What the step returned. Metadata of its schema is not kept: it is not content.
        proof : Proof, optional
            What was seen while the slice was read.
        metadata : dict, optional
            More to keep with it.

        Returns
        -------
        (str, int)
            Digest of the content, and the file's size in bytes.

        Raises
        ------
        hindscan.errors.BadPartial
            A column is of a type that no result can have.
        """
        path = self.path(key)
        table = _in_fewer_batches(table)
        try:
            digest = table_digest(table)
        except (TypeError, pa.ArrowNotImplementedError) as fault:
            raise BadPartial(
                f"While storing partial {key}: its columns must be of types that a result can have; {fault}. "
                "Return numbers, texts, times, or lists and structs of them.",
                key=key,
            ) from fault
        meta = Meta(digest=digest, rows=table.num_rows, proof=proof, metadata=metadata or {})
        document = msgspec.json.encode(meta)
        check = xxhash.xxh3_64_hexdigest(document).encode()
        stored = table.replace_schema_metadata({_META: document, _CHECK: check})
        point("partials.writing")
        # Not flushed to the disk, which would cost more than small slices do: after a loss of power a torn partial is found and made again.
        files.write_table_atomic(files.local(str(path)), stored, compression="lz4", durable=False)
        point("partials.written")
        return meta.digest, path.stat().st_size

    def read(self, key: str) -> pa.Table:
        """Read a partial and verify it.

        Raises
        ------
        hindscan.errors.CorruptPartial
            It is not there or is damaged; a damaged one is removed, so that it is computed again.
        """
        path = self.path(key)
        # Held open: a damaged file is removed only if it is still the one that was read.
        with _Opened(path, key) as handle:
            try:
                table = files.read_table(files.local(str(path)))
                meta = _meta_of(table.schema)
                # Damaged offsets would lead the digest out of the buffers.
                table.validate(full=True)
                found = table_digest(table)
                if found != meta.digest or table.num_rows != meta.rows:
                    raise ValueError(f"its content has digest {found} and should have {meta.digest}")
            except _DAMAGE as fault:
                raise _damaged(path, key, handle, fault) from fault
        return table.replace_schema_metadata(None)

    def read_meta(self, key: str) -> Meta:
        """Read what a partial says of itself, without its content.

        Raises
        ------
        hindscan.errors.CorruptPartial
            It is not there, or this part of it is damaged.
        """
        path = self.path(key)
        with _Opened(path, key) as handle:
            try:
                with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
                    return _meta_of(reader.schema)
            except _DAMAGE as fault:
                raise _damaged(path, key, handle, fault) from fault

    def read_proof(self, key: str) -> Proof | None:
        """Read the proof of a partial; None if it has none (a node of a tree).

        Raises
        ------
        hindscan.errors.CorruptPartial
            It is not there, or this part of it is damaged.
        """
        return self.read_meta(key).proof

    def find_proof(self, key: str) -> Proof | None:
        """Read the proof of a partial; None where there is no partial, none with a proof, or a damaged one."""
        try:
            return self.read_proof(key)
        except CorruptPartial:
            return None

    def has(self, key: str) -> bool:
        """Tell whether a partial is stored."""
        # Asked for every slice of a plan: a Path would cost more than the question.
        return os.path.isfile(self._name(key))  # noqa: PTH113

    def exists(self, keys: Iterable[str]) -> frozenset[str]:
        """Give those of many keys that are stored."""
        wanted = frozenset(keys)
        if len(wanted) <= _FEW_KEYS:
            return frozenset(key for key in wanted if self.has(key))
        there: set[str] = set()
        for shelf in {key[:2] for key in wanted}:
            try:
                names = os.listdir(self.folder / shelf)  # noqa: PTH208 - a Path for each of 100,000 names costs half a second
            except FileNotFoundError:
                continue
            there.update(name.removesuffix(".arrow") for name in names)
        return wanted & there

    def link(self, key: str, other: str) -> None:
        """Store a partial that is there under another key too, unless that one has its own."""
        path = self.path(other)
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.link(self.path(key), path)

    def remove(self, key: str) -> None:
        """Remove a partial if it is there."""
        self.path(key).unlink(missing_ok=True)


def _in_fewer_batches(table: pa.Table) -> pa.Table:
    """Put the rows of many small chunks together: a batch in a file costs half a kilobyte and some microseconds of whoever reads it, however few its rows."""
    chunks = max((column.num_chunks for column in table.columns), default=0)
    small = chunks > _FEW_BATCHES and table.nbytes < chunks * _BATCH_BYTES
    return table.combine_chunks() if small else table


class _Opened:
    """The file of a partial, held open."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key

    def __enter__(self) -> int:
        try:
            self._handle = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise CorruptPartial(
                f"While reading partial {self._key}: it must be in {self._path.parent}; it is not there. It is computed again by a retry.",
                key=self._key,
            ) from None
        return self._handle

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)


def _meta_of(schema: pa.Schema) -> Meta:
    written = schema.metadata or {}
    document = written[_META]
    if xxhash.xxh3_64_hexdigest(document).encode() != written[_CHECK]:
        raise ValueError("its proof and digest are damaged")
    return _meta.decode(document)


def _damaged(path: Path, key: str, handle: int, fault: BaseException) -> CorruptPartial:
    try:
        now, then = path.stat(), os.fstat(handle)
        if (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino):
            path.unlink()
    except FileNotFoundError:
        pass  # Somebody else has found it damaged too.
    return CorruptPartial(
        f"While reading partial {key}: its content must be what was stored; {type(fault).__name__}: {fault}. "
        "The file was removed and is computed again by a retry; if it happens again, check the disk.",
        key=key,
    )
