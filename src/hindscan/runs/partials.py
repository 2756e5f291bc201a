"""Partials: what was computed for one slice or one node of a tree, stored under its content key.

Keeps promises 6, 7 and 9. A partial appears whole under its key or not at all; whoever computes the same key writes the same content, so writers
need no lock and the last one may win. Its proof and the digest of its content lie in the file itself. What is read is verified against that
digest: a damaged partial is removed and reported as `CorruptPartial`, which counts as absent, so it is computed again and never used. Files are Arrow
IPC, mapped when read; nothing in them is code. Texts are compressed with lz4; numbers lie as they are, as halving them takes seven times as long as writing them.

::

    task -> write(key, table, proof) -> partials/KK/KEY.arrow -> read(key), read_meta(key);   exists(keys) -> plan

Points of failure: `partials.writing` (nothing is visible yet), `partials.written` (the partial is there, nobody was told).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec
import pyarrow as pa
import xxhash

from hindscan import files, writing
from hindscan.data import Proof
from hindscan.errors import BadPartial, ConfigError, CorruptPartial, ServiceUnavailable
from hindscan.faults import point
from hindscan.runs.digest import table_digest

__all__ = ["PROOFS", "Meta", "PartMeta", "Partials", "local_folder", "proof_of", "proofs_of"]

#: Up to so many keys are looked up one by one; beyond, listing the folders is faster.
_FEW_KEYS: Final = 256
#: More batches than this are put together where they are smaller than that on average: thousands of partials may be concatenated.
_FEW_BATCHES: Final = 16
_BATCH_BYTES: Final = 65_536
#: Bytes of a file that is read whole, whatever of it is asked for.
_SMALL_BYTES: Final = 65_536
_Said = TypeVar("_Said")
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


class PartMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Where one part of a split partial lies."""

    digest: str
    rows: int
    #: Record batches `[first, last)` of the file.
    first: int
    last: int


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What a partial says of itself."""

    #: `runs.digest.table_digest` of the table.
    digest: str
    rows: int
    proof: Proof | None = None
    #: What the writer added.
    metadata: dict[str, str] = {}
    #: Of one that is split by key: its parts, in the order in which they lie in the file.
    parts: tuple[PartMeta, ...] = ()


_meta = msgspec.json.Decoder(Meta)

#: Metadata of a partial that was made of several slices at once: their proofs, as JSON.
PROOFS = "hindscan.proofs"


def proof_of(meta: Meta, position: int) -> Proof | None:
    """Give the proof of a slice, from the partial it is in alone or together with others."""
    return proofs_of(meta).get(position, meta.proof)


def proofs_of(meta: Meta) -> dict[int, Proof]:
    """Give the proofs of a partial that was made of several slices at once, by their positions; none of any other."""
    if PROOFS not in meta.metadata:
        return {}
    proofs = msgspec.json.decode(meta.metadata[PROOFS], type=list[Proof])
    return {proof.slice: proof for proof in proofs}


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
        hindscan.errors.ServiceUnavailable
            The folder cannot be written to, or has no room.
        """
        meta = Meta(digest=_digest(key, table), rows=table.num_rows, proof=proof, metadata=metadata or {})
        return self._write(key, _in_fewer_batches(table), meta)

    def write_parts(self, key: str, parts: Sequence[pa.Table], proof: Proof | None = None) -> tuple[str, int]:
        """Store a partial split by key, so that each part can be read without the others; see `write`.

        Parameters
        ----------
        key : str
            Its content key.
        parts : sequence of pa.Table
            All of one schema; may be empty tables.
        proof : Proof, optional
            What was seen while the slice was read.
        """
        schema = parts[0].schema.remove_metadata()
        batches: list[pa.RecordBatch] = []
        metas = []
        for part in parts:
            own = part.replace_schema_metadata(None).combine_chunks().to_batches() if part.num_rows else []
            first = len(batches)
            batches += own
            metas.append(PartMeta(digest=_digest(key, part), rows=part.num_rows, first=first, last=len(batches)))
        table = pa.Table.from_batches(batches, schema)
        meta = Meta(digest=_digest(key, table), rows=table.num_rows, proof=proof, parts=tuple(metas))
        return self._write(key, table, meta)

    def _write(self, key: str, table: pa.Table, meta: Meta) -> tuple[str, int]:
        document = msgspec.json.encode(meta)
        check = xxhash.xxh3_64_hexdigest(document).encode()
        stored = table.replace_schema_metadata({_META: document, _CHECK: check})
        point("partials.writing")
        try:
            # Not flushed to the disk, which would cost more than small slices do: after a loss of power a torn partial is found and made again.
            size = writing.write_table_atomic(
                files.local(self._name(key)), stored, compression=_compression(stored.schema), durable=False
            )
        except OSError as fault:
            raise ServiceUnavailable(
                f"While storing a partial in {self.folder}: the folder of [store].artefacts must take it; {fault.strerror or fault}. What was stored "
                "is kept. Make room there, or mend its rights, and retry the run.",
                path=str(self.folder),
            ) from fault
        point("partials.written")
        return meta.digest, size

    def read(self, key: str) -> pa.Table:
        """Read a partial and verify it.

        Raises
        ------
        hindscan.errors.CorruptPartial
            It is not there or is damaged; a damaged one is removed, so that it is computed again.
        """
        path = self._name(key)
        # Held open: a damaged file is removed only if it is still the one that was read.
        with _Opened(path, key) as handle:
            try:
                with _opened_file(path, handle) as reader:
                    table = reader.read_all()
                meta = _meta_of(table.schema)
                # Damaged offsets would lead the digest out of the buffers.
                table.validate(full=True)
                found = table_digest(table)
                if found != meta.digest or table.num_rows != meta.rows:
                    raise ValueError(f"its content has digest {found} and should have {meta.digest}")
            except _DAMAGE as fault:
                raise _damaged(path, key, handle, fault) from fault
        return table.replace_schema_metadata(None)

    def read_part(self, key: str, part: int) -> pa.Table:
        """Read one part of a split partial and verify it; nothing of the others is read.

        Raises
        ------
        hindscan.errors.CorruptPartial
            As `read`.
        """
        path = self._name(key)
        with _Opened(path, key) as handle:
            try:
                with _opened_file(path, handle) as reader:
                    said = _meta_of(reader.schema).parts[part]
                    batches = [reader.get_batch(number) for number in range(said.first, said.last)]
                    table = pa.Table.from_batches(batches, reader.schema).replace_schema_metadata(None)
                table.validate(full=True)
                found = table_digest(table)
                if found != said.digest or table.num_rows != said.rows:
                    raise ValueError(f"part {part} has digest {found} and should have {said.digest}")
            except (*_DAMAGE, IndexError) as fault:
                raise _damaged(path, key, handle, fault) from fault
        return table

    def batches(self, key: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Read a partial batch by batch, without holding it whole and without verifying it: `read` it once before.

        Parameters
        ----------
        key : str
            Its content key.
        columns : sequence of str, optional
            Those to read, in this order. Default: all.
        """
        with pa.memory_map(str(self.path(key))) as source, pa.ipc.open_file(source) as reader:
            names = reader.schema.names
        wanted = None if columns is None else [names.index(name) for name in columns]
        options = pa.ipc.IpcReadOptions(included_fields=wanted)
        with pa.memory_map(str(self.path(key))) as source, pa.ipc.open_file(source, options=options) as reader:
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number).replace_schema_metadata(None)
                yield batch if columns is None else batch.select(list(columns))

    def read_meta(self, key: str) -> Meta:
        """Read what a partial says of itself, without its content.

        Raises
        ------
        hindscan.errors.CorruptPartial
            It is not there, or this part of it is damaged.
        """
        return self._of_schema(key, _meta_of)

    def read_schema(self, key: str) -> pa.Schema:
        """Read what columns a partial has, without its content.

        Raises
        ------
        hindscan.errors.CorruptPartial
            It is not there, or this part of it is damaged.
        """
        return self._of_schema(key, pa.Schema.remove_metadata)

    def _of_schema(self, key: str, what: Callable[[pa.Schema], _Said]) -> _Said:
        path = self._name(key)
        with _Opened(path, key) as handle:
            try:
                with _opened_file(path, handle) as reader:
                    return what(reader.schema)
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


def _compression(schema: pa.Schema) -> Literal["lz4"] | None:
    """Choose how a partial's buffers are compressed: not at all where all columns are of one width."""
    return None if all(pa.types.is_primitive(kind) for kind in schema.types) else "lz4"


def _in_fewer_batches(table: pa.Table) -> pa.Table:
    """Put the rows of many small chunks together: a batch in a file costs half a kilobyte and some microseconds of whoever reads it, however few its rows."""
    chunks = max((column.num_chunks for column in table.columns), default=0)
    small = chunks > _FEW_BATCHES and table.nbytes < chunks * _BATCH_BYTES
    return table.combine_chunks() if small else table


class _Opened:
    """The file of a partial, held open."""

    def __init__(self, path: str, key: str) -> None:
        self._path, self._key = path, key

    def __enter__(self) -> int:
        try:
            self._handle = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise CorruptPartial(
                f"While reading partial {self._key}: it must be in {Path(self._path).parent}; it is not there. It is computed again by a retry.",
                key=self._key,
            ) from None
        return self._handle

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)


def _opened_file(path: str, handle: int) -> pa.RecordBatchFileReader:
    """Open a partial for reading: a small one is taken in with one call, since mapping it takes ten; of a large one only what is asked for is touched."""
    size = os.fstat(handle).st_size
    source = pa.BufferReader(os.pread(handle, size, 0)) if size <= _SMALL_BYTES else pa.memory_map(path)
    # A pool of one thread would only be waited for.
    return pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(use_threads=pa.cpu_count() > 1))


def _digest(key: str, table: pa.Table) -> str:
    try:
        return table_digest(table)
    except (TypeError, pa.ArrowNotImplementedError) as fault:
        raise BadPartial(
            f"While storing partial {key}: its columns must be of types that a result can have; {fault}. "
            "Return numbers, texts, times, or lists and structs of them.",
            key=key,
        ) from fault


def _meta_of(schema: pa.Schema) -> Meta:
    written = schema.metadata or {}
    document = written[_META]
    if xxhash.xxh3_64_hexdigest(document).encode() != written[_CHECK]:
        raise ValueError("its proof and digest are damaged")
    return _meta.decode(document)


def _damaged(path: str, key: str, handle: int, fault: BaseException) -> CorruptPartial:
    try:
        now, then = Path(path).stat(), os.fstat(handle)
        if (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino):
            Path(path).unlink()
    except FileNotFoundError:
        pass  # Somebody else has found it damaged too.
    return CorruptPartial(
        f"While reading partial {key}: its content must be what was stored; {type(fault).__name__}: {fault}. "
        "The file was removed and is computed again by a retry; if it happens again, check the disk.",
        key=key,
    )
