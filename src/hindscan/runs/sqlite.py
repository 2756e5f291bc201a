"""SQLite as a store: what is acknowledged is on the disk, and writers wait for their turn.

Underlies promises 4 and 6. Write-ahead log and `synchronous=FULL`: what is acknowledged survives a power cut, as far as the disk is honest. Every writing
transaction begins with BEGIN IMMEDIATE: it waits at the start, where a deferred one would fail in the middle with "database is locked". What is asked of the
driver past SQLAlchemy (`statement`) fails with the same errors as all the rest.

::

    open_engine(url, root) -> engine -> store.Store; flushed, begin -> each of its transactions
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy import exc

from hindscan.errors import ConfigError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["as_sqlalchemy", "begin", "driver_of", "flushed", "open_engine"]

#: How long a writer waits for its turn in SQLite. The lock is not fair: under load a second dispatcher may wait long, and waiting loses
#: nothing, while giving up makes its consumer stop.
BUSY_SECONDS: Final = 60


def open_engine(url: sa.URL, root: Path) -> sa.Engine:
    """Make an engine of a store in a file; the file's folder is made, the file when it is first connected to.

    Raises
    ------
    hindscan.errors.ConfigError
        The URL names no file.
    hindscan.errors.StoreUnavailable
        The folder cannot be made.
    """
    if not url.database or url.database == ":memory:":
        raise ConfigError(
            "While opening the store: a store must outlive its process, so it is a file; found an SQLite URL without one. "
            "Set [store].url to sqlite:///PATH."
        )
    path = root / url.database
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise StoreUnavailable(
            f"While opening the store: the folder {path.parent} must exist or be made; {fault.strerror or fault}. "
            "Check its rights, or set [store].url.",
            path=str(path),
        ) from fault
    engine = sa.create_engine(
        url.set(database=str(path)), connect_args={"timeout": BUSY_SECONDS}, pool_size=4, max_overflow=60
    )
    sa.event.listen(engine, "connect", _prepare)
    sa.event.listen(engine, "begin", begin)
    return engine


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own idea of when a transaction begins is switched off; `begin` says it.
    connection.isolation_level = None
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        _use_write_ahead_log(connection)
    # FULL: a commit returns when it is on disk. NORMAL would lose acknowledged events in a power cut.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA cache_size=-32000")
    # A checkpoint for each 16 MB of log instead of 4: in a storm of events the same pages are written once, not four times.
    connection.execute("PRAGMA wal_autocheckpoint=4000")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    # Two processes that create one store meet here, and this statement alone does not wait by the busy handler in every SQLite: so the
    # lock is waited for by a transaction first.
    for _ in range(100):
        try:
            if connection.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",):
                return
        except sqlite3.OperationalError as fault:
            if fault.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    raise sqlite3.OperationalError("the write-ahead log cannot be switched on")


def begin(connection: sa.Connection) -> None:
    """Begin a transaction: one that writes waits here for its turn."""
    writes = connection.get_execution_options().get("hindscan_write", False)
    begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
    with as_sqlalchemy(connection, begin):
        driver_of(connection).execute(begin)


@contextlib.contextmanager
def flushed(connection: sa.Connection, durable: bool) -> Iterator[None]:
    """Leave out, where it need not be durable and this is SQLite, the flush of the log at the commit; it cannot be said inside a transaction."""
    if durable or connection.dialect.name != "sqlite":
        yield
        return
    driver = driver_of(connection)
    (before,) = driver.execute("PRAGMA synchronous").fetchone()
    # 1 is NORMAL: no flush at a commit.
    driver.execute(f"PRAGMA synchronous={min(int(before), 1)}")
    try:
        yield
    finally:
        driver.execute(f"PRAGMA synchronous={before}")


@contextlib.contextmanager
def as_sqlalchemy(connection: sa.Connection, text: str) -> Iterator[None]:
    """Turn what SQLite's driver raises into what SQLAlchemy makes of it: what is asked past it fails like all the rest."""
    try:
        yield
    except sqlite3.Error as fault:
        raise exc.DBAPIError.instance(text, None, fault, sqlite3.Error, dialect=connection.dialect) from fault


def driver_of(connection: sa.Connection) -> sqlite3.Connection:
    """Give the driver's own connection."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver
