"""The SQL engine: DuckDB with one thread, UTC, and no way to any file, network or extension.

Keeps the reading half of promises 8, 10 and 12: one thread in a fixed order gives the same rows at every run, what a statement holds beyond its room in memory goes to
the disk, and a statement reaches nothing but the tables it is given. Foundation: knows nothing of what is asked.

::

    database -> a cursor for each query, in its caller's thread
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from hindscan.room import ENGINE_FOLDER, ENGINE_MEMORY

if TYPE_CHECKING:
    import duckdb

__all__ = ["Values", "database", "failed_while_running", "plain", "quoted", "stabilities"]


class Values(dict[str, object]):
    """Bound values as part of a key: the same if they are of the same types and read the same."""

    def __str__(self) -> str:
        return repr(sorted((name, type(value).__name__, repr(value)) for name, value in self.items()))

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(str(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Values) and str(self) == str(other)


def quoted(identifier: str) -> str:
    """Write a name so that SQL reads it as one."""
    return '"' + identifier.replace('"', '""') + '"'


def plain(value: object) -> object:
    """Make a Python value of a numpy or Arrow scalar, as they come out of jobs' own calculations."""
    for convert in ("as_py", "item"):
        if hasattr(value, convert):
            return getattr(value, convert)()
    return value


def failed_while_running(fault: Exception) -> bool:
    """Tell whether the engine failed over rows, and not over the text of a statement."""
    if type(fault).__module__.partition(".")[0] not in {"duckdb", "_duckdb"}:
        return False
    import duckdb

    return not isinstance(fault, duckdb.ParserException | duckdb.BinderException | duckdb.CatalogException)


@functools.cache
def stabilities(process: int) -> Mapping[str, frozenset[str]]:
    """Tell of each scalar function, by name, what its forms depend on: on their arguments alone (``CONSISTENT``), or on more."""
    with closing(database(process, planning=True).cursor()) as cursor:
        rows = cursor.execute(
            "SELECT function_name, list(DISTINCT stability) FROM duckdb_functions() "
            "WHERE function_type = 'scalar' AND stability IS NOT NULL GROUP BY function_name"
        ).fetchall()
    return {str(name): frozenset(found) for name, found in rows}


@functools.cache
def database(process: int, *, planning: bool = False) -> duckdb.DuckDBPyConnection:
    """Open the engine, once per process (a fork must not share it); queries run on cursors, each in its caller's thread."""
    import duckdb

    memory = os.environ.get(ENGINE_MEMORY)
    folder = Path(os.environ.get(ENGINE_FOLDER, tempfile.gettempdir()))
    connection = duckdb.connect(
        ":memory:",
        config={
            **({"memory_limit": f"{memory}B"} if memory else {}),
            "threads": 1,
            "preserve_insertion_order": True,
            "enable_external_access": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "temp_directory": str(folder / f"hindscan-duckdb-{process}"),
        },
    )
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    # Else a name that is no table is looked up among the caller's Python variables.
    connection.execute("SET GLOBAL python_enable_replacements = false")
    if planning:
        names = [row[0] for row in connection.execute("SELECT name FROM duckdb_optimizers()").fetchall()]
        others = ",".join(name for name in names if name != "unused_columns")
        connection.execute(f"SET GLOBAL disabled_optimizers = '{others}'")
    connection.execute("SET GLOBAL lock_configuration = true")
    return connection
