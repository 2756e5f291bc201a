"""Files that are whole or not there.

Keeps the storage half of promises 6 and 9. Whatever is written here appears whole under its name or not at all: locally as a hidden temporary file that is flushed to the
disk and renamed, with the folder flushed after it; on an object store as one upload, which has the same effect. A temporary file left by a killed process is hidden
and never listed. Foundation, beside `files`.
"""

from __future__ import annotations

import io
import os
import posixpath
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from hindscan.files import Place, place

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["sync_folder", "write_atomic", "write_parquet_atomic", "write_parquet_stream", "write_table_atomic"]

#: A table below this takes a block of the disk or two, however it is compressed.
_SMALL_BYTES = 4096
#: A table below this is put together in memory, and written in one piece.
_BUFFERED_BYTES = 1 << 20


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flush a local folder, so that a rename or a new name in it outlives a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _atomically(at: Place, *, durable: bool = True, named: bool = True) -> Iterator[io.BufferedWriter | pa.NativeFile]:
    if not at.is_local:
        buffer = pa.BufferOutputStream()
        yield buffer
        # One write of what is complete: closing a stream after a failure half-way would publish the half.
        content = buffer.getvalue()
        with at.filesystem.open_output_stream(at.path) as stream:
            stream.write(content)
        return
    # Strings: for a small file a few Paths would cost more than the writing.
    folder = posixpath.dirname(at.path) or "."
    half = f"{folder}/.{at.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    created = _created(half, folder, durable=durable and named)
    try:
        with created:
            yield created
            created.flush()
            if durable:
                os.fsync(created.fileno())
        os.replace(half, at.path)  # noqa: PTH105
    except BaseException:
        Path(half).unlink(missing_ok=True)
        raise
    if durable and named:
        sync_folder(folder)


def _created(half: str, folder: str, *, durable: bool) -> io.BufferedWriter:
    """Create a file, and the folders it is in where they are missing."""
    try:
        return open(half, "xb")  # noqa: PTH123 -- closed by whoever writes
    except FileNotFoundError:
        _make_folder(Path(folder), durable=durable)
        return open(half, "xb")  # noqa: PTH123


def _make_folder(folder: Path, *, durable: bool) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent, durable=True)  # others may keep there what must last
        folder.mkdir(exist_ok=True)
        if durable:
            # A new folder is a new name in its parent: without this the file could outlive a loss of power and its folder not.
            sync_folder(folder.parent)


def write_atomic(where: Place | str | os.PathLike[str], content: bytes | str, *, named: bool = True) -> None:
    """Write a whole file; folders are made. Text is written as UTF-8.

    Parameters
    ----------
    named : bool
        False: its content is flushed, its name is when the caller flushes the folder (`sync_folder`), once for several files.
    """
    with _atomically(place(where), named=named) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def write_table_atomic(
    where: Place | str | os.PathLike[str],
    table: pa.Table,
    *,
    compression: Literal["lz4", "zstd"] | None = None,
    durable: bool = True,
) -> int:
    """Write a table as an Arrow IPC file.

    Parameters
    ----------
    where : Place, str or path
        Folders are made.
    table : pa.Table
        What to write.
    compression : {"lz4", "zstd"}, optional
        Of the buffers, unless the table is so small that nothing would be gained. Default: none.
    durable : bool
        Wait until it outlives a loss of power, some 10 ms. False is for what is verified when it is read and can be made again: the process may be
        killed at any time all the same, and the file is there whole or not at all.

    Returns
    -------
    int
        Bytes of the file.
    """
    # A pool of one thread would only be waited for.
    options = pa.ipc.IpcWriteOptions(
        compression=None if table.nbytes < _SMALL_BYTES else compression, use_threads=pa.cpu_count() > 1
    )
    with _atomically(place(where), durable=durable) as stream:
        if table.nbytes < _BUFFERED_BYTES:
            # Through a file of Python's Arrow writes ten pieces, and takes the interpreter's lock for each.
            buffer = pa.BufferOutputStream()
            _write_ipc(buffer, table, options)
            stream.write(buffer.getvalue())
        else:
            _write_ipc(stream, table, options)
        return int(stream.tell())


def _write_ipc(sink: Any, table: pa.Table, options: pa.ipc.IpcWriteOptions) -> None:
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)


def write_parquet_atomic(
    where: Place | str | os.PathLike[str], table: pa.Table, *, row_group_rows: int = 1_000_000, named: bool = True
) -> None:
    """Write a table as Parquet with page checksums, without which a flipped byte is read as data; `named` as in `write_atomic`."""
    write_parquet_stream(where, table.schema, [table], row_group_rows=row_group_rows, named=named)


def write_parquet_stream(
    where: Place | str | os.PathLike[str],
    schema: pa.Schema,
    tables: Iterable[pa.Table],
    *,
    row_group_rows: int = 1_000_000,
    named: bool = True,
) -> None:
    """Write tables one after another as one Parquet file, as `write_parquet_atomic`; what is held is one row group, and each begins with a table."""
    import pyarrow.parquet as pq

    # Whole numbers and times as the differences they have from each other: a third of the time that dictionaries of them take, and smaller.
    leaves = {path: kind for field in schema for path, kind in _leaves(field.name, field.type)}
    numbers = [path for path, kind in leaves.items() if _is_whole(kind)]
    encoded: dict[str, Any] = {
        "use_dictionary": [path for path in leaves if path not in numbers],
        "column_encoding": dict.fromkeys(numbers, "DELTA_BINARY_PACKED"),
    }
    with (
        _atomically(place(where), named=named) as stream,
        pq.ParquetWriter(
            stream, schema, compression="zstd", write_page_checksum=True, store_schema=True, **encoded
        ) as writer,
    ):
        held: list[pa.Table] = []
        for table in tables:
            if held and sum(t.num_rows for t in held) + table.num_rows > row_group_rows:
                writer.write_table(pa.concat_tables(held), row_group_size=row_group_rows)
                held = []
            held.append(table)
        if held:
            writer.write_table(pa.concat_tables(held), row_group_size=row_group_rows)


def _leaves(path: str, kind: Any) -> Iterator[tuple[str, pa.DataType]]:
    """Give what lies in a column, by the paths that Parquet has for it."""
    types = pa.types
    if types.is_struct(kind):
        inside = [(f"{path}.{field.name}", field.type) for field in kind]
    elif types.is_map(kind):
        inside = [(f"{path}.key_value.key", kind.key_type), (f"{path}.key_value.value", kind.item_type)]
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inside = [(f"{path}.list.element", kind.value_type)]
    else:
        yield path, kind
        return
    for below, of in inside:
        yield from _leaves(below, of)


def _is_whole(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_timestamp(kind)
        or types.is_date(kind)
        or types.is_time(kind)
        or types.is_duration(kind)
    )
