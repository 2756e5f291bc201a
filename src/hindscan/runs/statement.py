"""Statements that are asked again and again: compiled once, then given to the driver as text.

Writing and reading a small row takes SQLAlchemy ten times as long as SQLite; a storm of events, claims and renewals is made of small rows. A `Statement` is
written with SQLAlchemy Core, as all others are, and compiled once for each database; `insert_many` does the same for rows of a table. Transactions are the
caller's (`store`), and so are errors: they are SQLAlchemy's, whichever way was taken.

::

    Statement(build) -> run, rows, first, records, many in a transaction of Store
"""

from __future__ import annotations

import functools
import itertools
import operator
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.sql.compiler import SQLCompiler

from hindscan.runs.sqlite import as_sqlalchemy, driver_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import sqlalchemy as sa

    #: Puts values by name in the order of a statement.
    _Order = Callable[[Mapping[str, object]], tuple[object, ...]]

__all__ = ["Statement", "insert_many", "insert_new", "insert_of", "keys_in_parts"]

#: Rows whose keys go into one SELECT: SQLite takes 32,766 values in a statement, and no key here has more than three.
KEYS_PER_SELECT: Final = 2_000


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
            with as_sqlalchemy(connection, text):
                cursor = driver_of(connection).execute(text, order(given))
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
    with as_sqlalchemy(connection, text):
        return driver_of(connection).executemany(text, values).rowcount


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
