"""What a statement will look at, found before anything is read.

Keeps the reading half of promises 8 and 12. A statement is planned over empty tables first: one that does anything but read is refused, and of each table the
columns it looks at are known, so that nothing else is decoded; so is the condition its rows must fulfil, where `condition` can cut one out. The statement itself stays as
it is and filters again, so that a source that leaves out nothing gives the same result. Foundation: knows nothing of histories or jobs.

::

    query, values, schemas -> reads_of -> {table: Read(columns, where)} -> Source.dataset(columns, where) -> run
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from hindscan.condition import Where, where_of
from hindscan.engine import Values, database, quoted
from hindscan.errors import UsageError

if TYPE_CHECKING:
    import duckdb

__all__ = ["Read", "reads_of"]


class Read(msgspec.Struct, frozen=True):
    """What a statement looks at of one table."""

    #: DuckDB type of every column by its name.
    types: dict[str, str]
    #: Those it looks at; empty: the statement does not read the table at all.
    columns: list[str]
    #: What its rows must fulfil, where that can be said of the table alone.
    where: Where | None = None

    def view(self, name: str, registered: str) -> str:
        """Give the statement that makes the table under its name, whole in its columns, from what was registered."""
        if not self.columns:
            # Never evaluated, if the plan was right; should it be wrong, the query must not see an empty table.
            said = f"error('the plan of this query said that it does not read {name.replace(chr(39), '')}')"
            chosen = [f"CAST({said} AS {kind}) AS {quoted(column)}" for column, kind in self.types.items()]
            return f"CREATE TEMP VIEW {quoted(name)} AS SELECT {', '.join(chosen)}"
        chosen = [
            quoted(column) if column in self.columns else f"CAST(NULL AS {kind}) AS {quoted(column)}"
            for column, kind in self.types.items()
        ]
        return f"CREATE TEMP VIEW {quoted(name)} AS SELECT {', '.join(chosen)} FROM {quoted(registered)}"


def reads_of(query: str, values: Mapping[str, object], schemas: Mapping[str, pa.Schema]) -> dict[str, Read]:
    """Find what a statement looks at of each table.

    Parameters
    ----------
    query : str
        One statement that only reads.
    values : mapping
        What the ``$name`` stand for.
    schemas : mapping
        Columns of the tables by name.

    Raises
    ------
    UsageError
        The text is not one reading statement.
    duckdb.Error
        The statement is wrong.
    """
    return _reads_of(query, Values(values), tuple((name, schema.remove_metadata()) for name, schema in schemas.items()))


@functools.lru_cache(maxsize=256)
def _reads_of(query: str, values: Values, schemas: tuple[tuple[str, pa.Schema], ...]) -> dict[str, Read]:
    # A job runs the same statement over every slice, so plans are kept.
    with closing(database(os.getpid(), planning=True).cursor()) as cursor:
        statements = cursor.extract_statements(query)
        kinds = [statement.type.name for statement in statements]
        if kinds != ["SELECT"]:
            raise UsageError(
                f"While running SQL: exactly one statement that reads (SELECT, WITH, FROM, VALUES) is required; "
                f"found {kinds or 'none'}. Give a PIVOT its values with IN; run several statements one by one."
            )
        types: dict[str, dict[str, str]] = {}
        for index, (name, schema) in enumerate(schemas):
            empty = schema.empty_table()
            cursor.register(f"__table_{index}", empty.rename_columns([f"t{index}c{at}" for at in range(len(schema))]))
            renamed = ", ".join(f"t{index}c{at} AS {quoted(column)}" for at, column in enumerate(schema.names))
            cursor.execute(f"CREATE TEMP VIEW {quoted(name)} AS SELECT {renamed} FROM __table_{index}")
            described = cursor.execute(f"DESCRIBE {quoted(name)}").fetchall()
            # The engine gives a name that it has already another one.
            types[name] = dict(zip(schema.names, (str(row[1]) for row in described), strict=True))
        columns = _columns_of(cursor, query, values, schemas)
        _refuse_alike(columns, schemas)
        conditions: dict[str, Where | None] = {}
        for name, schema in schemas:
            if columns[name]:

                def looked_at(text: str, bound: Mapping[str, object], name: str = name) -> list[str]:
                    return _columns_of(cursor, text, bound, schemas)[name]

                conditions[name] = where_of(cursor, query, name, values, schema, looked_at)
    return {name: Read(types[name], columns[name], conditions.get(name)) for name, _ in schemas}


def _refuse_alike(columns: Mapping[str, list[str]], schemas: tuple[tuple[str, pa.Schema], ...]) -> None:
    """Refuse columns that SQL cannot tell from others of their table, as it sees no difference between upper and lower case."""
    for table, schema in schemas:
        spelt = Counter(name.lower() for name in schema.names)
        alike = sorted({name.lower() for name in columns[table] if spelt[name.lower()] > 1})
        if alike:
            named = [name for name in schema.names if name.lower() in alike]
            raise UsageError(
                f"While running SQL: a column of {table} that is looked at must have a name of its own, whatever its case; found {named}. "
                "Give one of them another name (`rename` of a history in files), or read the table with `.arrow`.",
                columns=named,
            )


def _columns_of(
    cursor: duckdb.DuckDBPyConnection,
    query: str,
    values: Mapping[str, object],
    schemas: tuple[tuple[str, pa.Schema], ...],
) -> dict[str, list[str]]:
    """Find the columns a statement looks at, by planning it over empty tables.

    Only the pruning of unused columns is on: it follows from the statement alone, so that what is true of empty tables is true of the
    real ones. Columns have names that occur nowhere else, so that the plan's text is unambiguous.
    """
    explained = cursor.execute(f"EXPLAIN (FORMAT json) {query}", dict(values) or None).fetchall()
    looked_at: dict[tuple[int, int], None] = {}
    for node in _nodes(json.loads(explained[0][1])):
        projections = node.get("extra_info", {}).get("Projections", [])
        for projected in [projections] if isinstance(projections, str) else projections:
            # A field of a struct shows as t0c3.field.
            if node["name"].endswith("ARROW_SCAN") and (match := re.match(r"t(\d+)c(\d+)(?:\.|$)", projected)):
                looked_at[int(match[1]), int(match[2])] = None
    return {
        name: [schema.names[at] for table, at in sorted(looked_at) if table == index]
        for index, (name, schema) in enumerate(schemas)
    }


def _nodes(tree: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for node in tree:
        yield node
        yield from _nodes(node.get("children", []))
