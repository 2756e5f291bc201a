"""The store: where everything that must survive is written, in transactions that either happened or did not.

Underlies promises 4 and 6. A `Store` is an engine with two kinds of transaction, `read` and `write`, and a clock; what is said inside them
is in the modules by noun: `ledger` (events, decisions, quarantine), `register` (runs), `leases` (who works on what), `snapshots`, `codes`,
`log` (facts), `positions`. Workers never see the store.

SQLite (the default): write-ahead log, `synchronous=FULL` (what is acknowledged survives a power cut, as far as the disk is honest), and every
writing transaction begins with BEGIN IMMEDIATE: it waits for its turn at the start, where a deferred one would fail in the middle with
"database is locked". PostgreSQL: READ COMMITTED; what must not overlap takes its turn by a name, so that two dispatchers cannot wait for each other in a circle.

::

    open_store(url, root) -> Store -> with store.write() as connection: ... -> committed

Points of failure: `store.created` (tables are there), `store.committed` (after any writing transaction).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import sqlite3
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.sql.compiler import SQLCompiler

from hindscan import times
from hindscan.errors import ConfigError, StoreUnavailable
from hindscan.faults import point

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    #: Puts values by name in the order of a statement.
    _Order = Callable[[Mapping[str, object]], tuple[object, ...]]

__all__ = [
    "DEFAULT_URL",
    "Statement",
    "Store",
    "blames_a_row",
    "insert_many",
    "insert_new",
    "insert_of",
    "keys_in_parts",
    "open_store",
]

#: Beside the artefacts of the project.
DEFAULT_URL: Final = "sqlite:///.hindscan/hindscan.db"
#: How long a writer waits for its turn in SQLite. The lock is not fair: under load a second dispatcher may wait long, and waiting loses
#: nothing, while giving up makes its consumer stop.
BUSY_SECONDS: Final = 60
#: Rows whose keys go into one SELECT: SQLite takes 32,766 values in a statement, and no key here has more than three.
KEYS_PER_SELECT: Final = 2_000


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
            with _durably(connection, durable), connection.begin():
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
        return _sqlite(parsed, root)
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


def _sqlite(url: sa.URL, root: Path) -> sa.Engine:
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
    sa.event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own idea of when a transaction begins is switched off; `_begin` says it.
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


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("hindscan_write", False)
    begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
    with _as_sqlalchemy(connection, begin):
        _driver(connection).execute(begin)


@contextlib.contextmanager
def _durably(connection: sa.Connection, durable: bool) -> Iterator[None]:
    """Leave out, in SQLite, the flush of the log at the next commit; it cannot be said inside a transaction."""
    if durable or connection.dialect.name != "sqlite":
        yield
        return
    driver = _driver(connection)
    (before,) = driver.execute("PRAGMA synchronous").fetchone()
    # 1 is NORMAL: no flush at a commit.
    driver.execute(f"PRAGMA synchronous={min(int(before), 1)}")
    try:
        yield
    finally:
        driver.execute(f"PRAGMA synchronous={before}")


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


class Statement:
    """A statement that is asked again and again: built and compiled once for each database, then given to the driver as text with its values.

    SQLAlchemy's building of a small statement, finding it among those it has compiled, and its results take ten times as long as SQLite does to answer it. For
    columns of numbers, texts and bytes, which drivers take and give as they are.

    Parameters
    ----------
    build : callable
        Makes the statement for a connection; what changes from one execution to the next is a `bindparam`.
    """

    def __init__(self, build: Callable[[sa.Connection], sa.Select[Any] | sa.UpdateBase]) -> None:
        self._build = build
        self._compiled: dict[str, tuple[str, dict[str, Any], _Order | None]] = {}

    def run(self, connection: sa.Connection, **values: object) -> int:
        """Execute it; give the number of rows it wrote."""
        return self._execute(connection, values)[2]

    def rows(self, connection: sa.Connection, **values: object) -> list[tuple[Any, ...]]:
        """Execute it; give the rows it finds or returns."""
        return self._execute(connection, values)[1]

    def first(self, connection: sa.Connection, **values: object) -> tuple[Any, ...] | None:
        """Execute it; give the first row, or None."""
        return next(iter(self._execute(connection, values)[1]), None)

    def records(self, connection: sa.Connection, **values: object) -> list[dict[str, Any]]:
        """Execute it; give the rows by the names of their columns."""
        names, rows, _ = self._execute(connection, values)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def many(self, connection: sa.Connection, rows: Iterable[dict[str, Any]]) -> None:
        """Execute it once for each of these rows of values; there must be one."""
        text, constants, order = self._in(connection)
        given: list[Any] = [constants | row if order is None else order(constants | row) for row in rows]
        _execute_many(connection, text, given)

    def _execute(
        self, connection: sa.Connection, values: Mapping[str, object]
    ) -> tuple[Sequence[str], list[tuple[Any, ...]], int]:
        """Give names of columns, rows, and the number of rows written."""
        text, constants, order = self._in(connection)
        given = constants | dict(values)
        if order is not None and connection.dialect.name == "sqlite":
            if not connection.in_transaction():
                connection.begin()
            with _as_sqlalchemy(connection, text):
                cursor = _driver(connection).execute(text, order(given))
            rows = cursor.fetchall() if cursor.description else []
            return [column[0] for column in cursor.description or ()], rows, cursor.rowcount
        result = connection.exec_driver_sql(text, given if order is None else order(given))
        return (list(result.keys()), [*map(tuple, result)], 0) if result.returns_rows else ((), [], result.rowcount)

    def _in(self, connection: sa.Connection) -> tuple[str, dict[str, Any], _Order | None]:
        name = connection.dialect.name
        if name not in self._compiled:
            compiled = self._build(connection).compile(dialect=connection.dialect)
            self._compiled[name] = (str(compiled), dict(compiled.params), _order_of(compiled))
        return self._compiled[name]


def _execute_many(connection: sa.Connection, text: str, values: list[Any]) -> int:
    if connection.dialect.name != "sqlite" or not connection.in_transaction():
        return connection.exec_driver_sql(text, values).rowcount
    with _as_sqlalchemy(connection, text):
        return _driver(connection).executemany(text, values).rowcount


@contextlib.contextmanager
def _as_sqlalchemy(connection: sa.Connection, text: str) -> Iterator[None]:
    """Turn what SQLite's driver raises into what SQLAlchemy makes of it: what is asked past it fails like all the rest."""
    try:
        yield
    except sqlite3.Error as fault:
        raise exc.DBAPIError.instance(text, None, fault, sqlite3.Error, dialect=connection.dialect) from fault


def _driver(connection: sa.Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def insert_of(connection: sa.Connection) -> Any:
    """Give the database's own INSERT, which knows what to do where a key is there; the other database's dialect is not loaded, which takes a while."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert
    from sqlalchemy.dialects import postgresql

    return postgresql.insert


def insert_new(
    connection: sa.Connection, table: sa.Table, values: Mapping[str, object], returning: Sequence[sa.Column[Any]]
) -> sa.Row[Any] | None:
    """Insert one row unless one with its key is there; give `returning` of it, or None if it was there."""
    make = insert_of(connection)
    return connection.execute(make(table).values(values).on_conflict_do_nothing().returning(*returning)).first()


def insert_many(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, object]]) -> int:
    """Insert rows, leaving out those whose key is there already; give the number inserted.

    All rows have the same columns. The statement is compiled once for all of them and the driver gets the values as they are: SQLAlchemy's
    per-row processing costs more than SQLite's work, and these are the rows of an event storm.
    """
    if not rows:
        return 0
    statement, order = _insert_statement(table, tuple(rows[0]), connection.dialect)
    values: list[Any] = [dict(row) for row in rows] if order is None else [order(row) for row in rows]
    return _execute_many(connection, statement, values)


@functools.lru_cache(maxsize=64)
def _insert_statement(table: sa.Table, columns: tuple[str, ...], dialect: sa.Dialect) -> tuple[str, _Order | None]:
    """Compile an INSERT that leaves out what is there; with what puts a row's values in its order, if it takes them by position."""
    if dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
    compiled = insert(table).on_conflict_do_nothing().compile(dialect=dialect, column_keys=list(columns))
    return str(compiled), _order_of(compiled)


def _order_of(compiled: sa.Compiled) -> _Order | None:
    """Give what puts the values of a compiled statement in its order; None if the driver takes them by name."""
    assert isinstance(compiled, SQLCompiler)
    if not compiled.positional:
        return None
    names = compiled.positiontup or ()
    if len(names) > 1:
        return operator.itemgetter(*names)
    return lambda values: tuple(values[name] for name in names)


def keys_in_parts(keys: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Cut keys into lists that one SELECT can take."""
    rest = iter(keys)
    while part := list(itertools.islice(rest, KEYS_PER_SELECT)):
        yield part
