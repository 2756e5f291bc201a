"""The store: where everything that must survive is written, in transactions that either happened or did not.

Underlies promises 4 and 6. A `Store` is an engine with two kinds of transaction, `read` and `write`, and a clock; what is said inside them
is in the modules by noun: `ledger` (events, decisions, quarantine), `register` (runs), `leases` (who works on what), `snapshots`, `codes`,
`log` (facts), `positions`. Workers never see the store.

SQLite (the default) is prepared by `sqlite`. PostgreSQL: READ COMMITTED; what must not overlap takes its turn by a name, so that two dispatchers cannot wait
for each other in a circle.

::

    open_store(url, root) -> Store -> with store.write() as connection: ... -> committed

Points of failure: `store.created` (tables are there), `store.committed` (after any writing transaction).
"""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import sqlalchemy as sa
from sqlalchemy import exc

from hindscan import times
from hindscan.errors import ConfigError, StoreUnavailable
from hindscan.faults import point
from hindscan.runs import sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = ["DEFAULT_URL", "Store", "blames_a_row", "open_store"]

#: Beside the artefacts of the project.
DEFAULT_URL: Final = "sqlite:///.hindscan/hindscan.db"


class Store:
    """An open store. A context manager; safe to share between threads, never between processes."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], int]) -> None:
        self._engine = engine
        self._clock = clock
        #: Where it is, without its password.
        self.url = engine.url.render_as_string(hide_password=True)

    @property
    def shared(self) -> bool:
        """Whether it can lose its last transactions while those who work under them live on: it is on a machine of its own."""
        return self._engine.dialect.name == "postgresql"

    def now(self) -> int:
        """Tell the time by the store's clock, microseconds since the epoch."""
        return self._clock()

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection whose statements see one state of the store.

        Raises
        ------
        hindscan.errors.StoreUnavailable
            The database cannot be reached or does not answer.
        """
        with _translated(self.url), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self, turn: str = "", *, durable: bool = True) -> Iterator[sa.Connection]:
        """Give a connection whose statements happen together when the block ends, or not at all if it raises.

        Parameters
        ----------
        turn : str
            Transactions of one turn go one after another in PostgreSQL too (in SQLite all do): where a decision looks at rows that another
            such transaction may be about to change, and where the order of `seq` must be the order of commits.
        durable : bool
            False: it survives the death of this process, but perhaps not that of the machine; that costs a fiftieth. The next durable one makes it durable, too.

        Raises
        ------
        hindscan.errors.StoreUnavailable
            The database cannot be reached, is full, or did not give way in time; nothing was written.
        """
        with _translated(self.url), self._engine.connect() as plain:
            connection = plain.execution_options(hindscan_write=True)
            with sqlite.flushed(connection, durable), connection.begin():
                if not durable and connection.dialect.name == "postgresql":
                    connection.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
                if turn and connection.dialect.name == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(zlib.crc32(turn.encode()))))
                yield connection
        point("store.committed")

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_store(url: str = DEFAULT_URL, root: str | Path = ".", clock: Callable[[], int] = times.now) -> Store:
    """Open a store; make its tables if there are none, bring them up to date if they are older.

    An up-to-date SQLite store opens in a few milliseconds: Alembic is loaded only where there is something to migrate.

    Parameters
    ----------
    url : str
        ``sqlite:///PATH`` (relative to `root`) or ``postgresql+psycopg://...``.
    root : str or Path
        Folder of the project.
    clock : callable
        Microseconds since the epoch.

    Raises
    ------
    hindscan.errors.ConfigError
        The URL is not of a store that hindscan can use.
    hindscan.errors.StoreTooNew
        A newer hindscan wrote it.
    hindscan.errors.StoreUnavailable
        The database cannot be opened.
    """
    from hindscan.runs.migration import bring_up_to_date

    store = Store(_engine(url, Path(root)), clock)
    try:
        bring_up_to_date(store)
    except BaseException:
        store.close()
        raise
    return store


def _engine(url: str, root: Path) -> sa.Engine:
    asked = "While opening the store: [store].url must be sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME"
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError:
        # The text may hold a password, so it is not repeated.
        raise ConfigError(f"{asked}; what is set is not a URL. Correct it in hindscan.toml.") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return sqlite.open_engine(parsed, root)
    if backend == "postgresql":
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        try:
            # A connection that the server closed meanwhile is noticed before it is used, not in the middle of a transaction.
            return sa.create_engine(parsed, pool_pre_ping=True, isolation_level="READ COMMITTED", max_overflow=32)
        except (ModuleNotFoundError, exc.NoSuchModuleError) as fault:
            raise ConfigError(
                f"{asked}; the driver of {parsed.drivername} is not installed ({fault}). Install hindscan[postgres]."
            ) from fault
    raise ConfigError(f"{asked}; found {parsed.drivername}. Correct it in hindscan.toml.", driver=parsed.drivername)


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn what the database says of itself into hindscan's error; what it says of a row goes through."""
    try:
        yield
    except (exc.DatabaseError, exc.InterfaceError, exc.TimeoutError) as fault:
        if blames_a_row(fault):
            raise
        reason = str(getattr(fault, "orig", None) or fault).strip()
        raise StoreUnavailable(
            f"While using the store {url}: the database must answer and have room; it said: {reason}. "
            "Nothing of this transaction was written; check the database, its disk and its rights.",
            store=url,
        ) from fault


def blames_a_row(fault: Exception) -> bool:
    """Tell whether a failure is due to the values of a row: it would fail again, and without that row the others would not."""
    if isinstance(fault, exc.DBAPIError):
        # SQLSTATE 54: a limit of the program, such as a key too long for an index, which PostgreSQL counts as operational.
        if str(getattr(fault.orig, "sqlstate", None) or "").startswith("54"):
            return True
        if isinstance(fault, exc.InterfaceError | exc.ProgrammingError):
            return "bind" in str(fault.orig) or "adapt" in str(fault.orig)
        return isinstance(fault, exc.DataError | exc.IntegrityError)
    return isinstance(fault, exc.StatementError | ValueError | TypeError | OverflowError)
