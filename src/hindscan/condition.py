"""The condition on one table's rows, cut out of a statement.

Keeps the reading half of promise 8 at the price of what passes. Where a statement filters the rows of a table by a WHERE that speaks of that table alone, the condition
is cut out as a `Where`: a source may leave out files and row groups by what it implies, decode its columns of every row, and the others only of the rows that pass. What
is not surely understood is no condition; the statement itself filters again in any case. Foundation.

::

    statement -> where_of -> Where -> may_pass (statistics) | keeps (rows) | passing (a data set)
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import msgspec
import numpy as np
import pyarrow as pa

from hindscan.engine import Values, database, quoted, stabilities

if TYPE_CHECKING:
    import duckdb
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

__all__ = ["Where", "mappings_in", "where_of"]


Comparison = Literal["=", "<", "<=", ">", ">="]


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """A condition on the rows of one table: those for which it is not true need not be given."""

    #: Name of the table in the condition.
    table: str
    #: A statement that gives one column of truth values, a row for each row of the table.
    query: str
    #: What the ``$name`` in it stand for.
    values: dict[str, object]
    #: The columns it looks at.
    columns: list[str]
    #: Comparisons of a column with a value that all rows that pass fulfil: perhaps not all that the condition says, but what statistics can be asked.
    implied: tuple[tuple[str, Comparison, object], ...] = ()
    #: They say all of it.
    is_implied: bool = False
    #: A statement that gives the rows of the table that pass; None where the condition may fail on a value, so that it must be asked of every row.
    rows: str | None = None

    def may_pass(self, schema: pa.Schema) -> pc.Expression | None:
        """Give what all rows that pass fulfil in Arrow's terms, to leave out whatever has none of them; None: nothing is known.

        Parameters
        ----------
        schema : pyarrow.Schema
            Columns of the table.
        """
        import pyarrow.compute as pc

        kinds = {name: schema.field(name).type for name, _, _ in self.implied}
        # Statistics of fractions say nothing of values that are no number, which are greater than any to the engine.
        whole = [one for one in self.implied if not pa.types.is_floating(kinds[one[0]])]
        stored = [(name, how, _as_stored(value, kinds[name])) for name, how, value in whole]
        known = [(pc.field(name), how, scalar) for name, how, scalar in stored if scalar is not None]
        return cast("pc.Expression | None", _all_hold(known))

    def keeps(self, rows: pa.Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Tell which rows pass.

        Parameters
        ----------
        rows : pyarrow.Table
            With at least the columns the condition looks at.

        Returns
        -------
        numpy.ndarray
            One truth value a row; of unknown ones (null) it is false, as in SQL. Where the condition fails on a row all are kept: the row may be one of which the
            statement does not ask it, as it is outside of a window, or refused by another part of the condition that stands before.
        """
        kept = self.keeps_plainly(rows)
        if kept is None:
            kept = self._kept_by_engine(rows)
        return np.asarray(kept.fill_null(False).combine_chunks().to_numpy(zero_copy_only=False), bool)

    def keeps_plainly(self, rows: pa.Table) -> Any | None:
        """Tell which rows pass by comparing columns with values, which takes a tenth of the time of planning a statement.

        Parameters
        ----------
        rows : pyarrow.Table
            With at least the columns the condition looks at; texts may lie as dictionaries.

        Returns
        -------
        pyarrow.ChunkedArray or None
            One truth value a row, null where it is unknown. None where the condition says more, or the engine may see it otherwise.
        """
        if not self.is_implied:
            return None
        stored = []
        for name, how, value in self.implied:
            kind: Any = rows.schema.field(name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            scalar = None if _comparable(kind) is None else _as_stored(value, kind)
            if scalar is None:
                return None
            stored.append((rows.column(name), how, scalar))
        return _all_hold(stored)

    def _kept_by_engine(self, rows: pa.Table) -> Any:
        import duckdb

        with closing(database(os.getpid()).cursor()) as cursor:
            cursor.register(self.table, rows)
            try:
                return cursor.sql(self.query, params=self.values or None).to_arrow_table().column(0)
            except (duckdb.DataError, duckdb.InvalidInputException):
                return pa.chunked_array([pa.array(np.ones(rows.num_rows, np.bool_))])

    def passing(self, rows: ds.Dataset, column: str) -> np.ndarray[Any, Any]:
        """Give one column of the rows that pass, as statistics let the data set skip the others.

        Parameters
        ----------
        rows : pyarrow.dataset.Dataset
            With at least the columns the condition looks at, and `column`.
        column : str
            The one whose values are wanted, an integer without nulls.
        """
        with closing(database(os.getpid()).cursor()) as cursor:
            cursor.register(self.table, rows)
            found = cursor.sql(f"SELECT {quoted(column)} FROM ({self.rows})", params=self.values or None)
            return np.asarray(found.to_arrow_table().column(0).to_numpy())

    @property
    def key(self) -> str:
        """The condition as a text: the same only if the same rows pass."""
        return f"{self.query} {Values(self.values)}"


#: Kinds of expression that give the same for the same row, whenever and however often they are asked. Subqueries and windows look at other rows.
_PURE: Final = frozenset(
    {
        "COLUMN_REF",
        "CONSTANT",
        "PARAMETER",
        "COMPARISON",
        "CONJUNCTION",
        "OPERATOR",
        "BETWEEN",
        "CAST",
        "TYPE",
        "CASE",
        "FUNCTION",
    }
)
#: What a FROM may say of a table if it is to be nothing but the table.
_PLAIN_TABLE: Final = frozenset(
    {"type", "alias", "query_location", "query_location_length", "table_name", "qualified_name"}
)


def where_of(
    cursor: duckdb.DuckDBPyConnection,
    query: str,
    table: str,
    values: Mapping[str, object],
    schema: pa.Schema,
    looked_at: Callable[[str, Mapping[str, object]], Sequence[str]],
) -> Where | None:
    """Cut out the condition that the rows of a table must fulfil; None where there is none that can be said of it alone.

    Parameters
    ----------
    cursor : duckdb.DuckDBPyConnection
        One that plans, and has the table.
    query : str
        The statement.
    table : str
        The table's name.
    values : mapping
        What the ``$name`` in the statement stand for.
    schema : pyarrow.Schema
        The table's columns.
    looked_at : callable
        Gives the columns of the table that a statement with its values looks at; raises `duckdb.Error` where the statement is wrong.
    """
    options = "skip_null := true, skip_empty := true, skip_default := true"
    row = cursor.execute(f"SELECT json_serialize_sql(?, {options})", [query]).fetchone()
    said = json.loads(row[0]) if row else {"error": True}
    if said["error"]:  # not every statement has this form
        return None
    node = _select_from(said, table)
    if node is None:
        return None
    names = {name.lower(): name for name in schema.names}
    kinds = {field.name.lower(): field.type for field in schema}
    whole_condition = _terms(node.get("where_clause"))
    terms = [term for term in whole_condition if _is_of_row_alone(term)]
    if len(terms) < len(whole_condition):
        # The others may be what keeps these from failing over a row, so that only those remain that cannot.
        terms = [term for term in terms if _cannot_fail(term, kinds, values)]
    if not terms:
        return None
    condition = {"class": "CONJUNCTION", "type": "CONJUNCTION_AND", "children": terms} if len(terms) > 1 else terms[0]
    judged = _written(cursor, select_list=[condition], from_table=node["from_table"])
    text = f"SELECT CAST(kept AS BOOLEAN) FROM ({judged}) AS judged(kept)"
    named = {str(part["identifier"]) for part in mappings_in(condition) if part.get("class") == "PARAMETER"}
    bound = {name: values[name] for name in sorted(named)}
    import duckdb

    try:
        columns = looked_at(text, bound)
    except duckdb.Error:
        return None  # it speaks of something beside the table: a name that the SELECT list gives
    if not columns:
        return None
    implied_by = [list(_implied(term, names, bound)) for term in terms]
    is_implied = all(
        len(found) == (2 if term["type"] == "COMPARE_BETWEEN" else 1)
        for term, found in zip(terms, implied_by, strict=True)
    )
    rows = None
    if _cannot_fail(condition, kinds, bound):
        star = {"class": "STAR", "type": "STAR"}
        rows = _written(cursor, select_list=[star], from_table=node["from_table"], where_clause=condition)
    implied = tuple(found for each in implied_by for found in each)
    return Where(
        table=table,
        query=text,
        values=bound,
        columns=list(columns),
        implied=implied,
        is_implied=is_implied,
        rows=rows,
    )


def _written(cursor: duckdb.DuckDBPyConnection, **parts: object) -> str:
    """Write one SELECT of its parts."""
    bare = {"type": "SELECT_NODE", "cte_map": {"map": []}, **parts}
    bare |= {"aggregate_handling": "STANDARD_HANDLING", "modifiers": [], "group_expressions": [], "group_sets": []}
    whole = {"error": False, "statements": [{"node": bare, "named_param_map": []}]}
    made = cursor.execute("SELECT json_deserialize_sql(?)", [json.dumps(whole)]).fetchone()
    assert made is not None
    return str(made[0])


def _terms(condition: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Take a condition apart into what must all be true."""
    if condition is None:
        return []
    if condition.get("type") == "CONJUNCTION_AND":
        return [term for child in condition["children"] for term in _terms(child)]
    return [condition]


_MIRRORED: Final[Mapping[Comparison, Comparison]] = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_COMPARISONS: Final[Mapping[str, Comparison]] = {
    "COMPARE_EQUAL": "=",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}
#: Functions of `pyarrow.compute`.
_COMPARED: Final[Mapping[Comparison, str]] = {
    "=": "equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}
#: What holds where these do not.
_GREATER: Final[Mapping[Comparison, Comparison]] = {">": "<=", ">=": "<"}


def _all_hold(compared: Sequence[tuple[Any, Comparison, pa.Scalar[Any]]]) -> Any:
    """Tell of columns, or of expressions, where all comparisons with values hold; None: there is none."""
    import pyarrow.compute as pc

    found = None
    for column, how, scalar in compared:
        if pa.types.is_floating(scalar.type) and how in _GREATER:
            # What is no number is the greatest to the engine, and neither greater nor less to Arrow.
            one = pc.invert(_compared(column, getattr(pc, _COMPARED[_GREATER[how]]), scalar))
        else:
            one = _compared(column, getattr(pc, _COMPARED[how]), scalar)
        if found is not None:
            one = found & one if isinstance(found, pc.Expression) else pc.and_(found, one)
        found = one
    return found


def _compared(column: Any, compare: Callable[[Any, Any], Any], scalar: pa.Scalar[Any]) -> Any:
    """Compare a column, or an expression, with a value; of a dictionary its few texts are compared."""
    if not isinstance(column, pa.ChunkedArray) or not pa.types.is_dictionary(column.type):
        return compare(column, scalar)
    chunks: list[Any] = column.chunks
    return pa.chunked_array([_spread(compare(chunk.dictionary, scalar), chunk.indices) for chunk in chunks], pa.bool_())


def _spread(verdicts: Any, places: Any) -> Any:
    """Give the truth values of a dictionary's texts to the rows that have them."""
    import pyarrow.compute as pc

    true = pc.indices_nonzero(verdicts)
    # Mostly one text is asked for, and comparing places takes half as long as looking each of them up.
    alone = len(true) == 1 and not verdicts.null_count
    return pc.equal(places, true[0].cast(places.type)) if alone else pc.take(verdicts, places)


def _implied(
    term: dict[str, Any], names: Mapping[str, str], values: Mapping[str, object]
) -> Iterator[tuple[str, Comparison, object]]:
    """Find comparisons of a column with a value in one term; what is not surely understood is none."""
    if term["type"] in _COMPARISONS:
        sides = [(term["left"], term["right"], _COMPARISONS[term["type"]])]
        sides += [(term["right"], term["left"], _MIRRORED[_COMPARISONS[term["type"]]])]
    elif term["type"] == "COMPARE_BETWEEN":
        sides = [(term["input"], term["lower"], ">="), (term["input"], term["upper"], "<=")]
    else:
        return
    for column, value, comparison in sides:
        # A name of several parts may be a field of a struct.
        if column.get("class") != "COLUMN_REF" or len(column["column_names"]) != 1:
            continue
        name = names.get(column["column_names"][0].lower())
        if name is None:
            continue
        if value.get("class") == "PARAMETER":
            yield name, comparison, values[str(value["identifier"])]
        elif value.get("class") == "CONSTANT" and value["literal"].get("kind") == "INTEGER":
            yield name, comparison, int(value["literal"]["text"])
        elif value.get("class") == "CONSTANT" and value["literal"].get("kind") == "STRING":
            yield name, comparison, value["literal"].get("text", "")
        elif value.get("class") == "CONSTANT" and _FRACTION.fullmatch(str(value["literal"].get("text", ""))):
            yield name, comparison, float(value["literal"]["text"])


#: So many digits make the same double, whether they are read at once or as a decimal number first, as the engine does.
_FRACTION: Final = re.compile(r"-?(?=[\d.]{1,16}$)\d*\.\d*")
#: Up to here a double holds every integer.
_EXACT: Final = 1 << 53


def _as_stored(value: object, kind: pa.DataType) -> pa.Scalar[Any] | None:
    """Give a value as one of a column's type, if the engine compares the two as they are: no column is converted to compare it with a value of another kind."""
    same = (
        (type(value) is int and pa.types.is_integer(kind))
        or (type(value) is str and pa.types.is_string(kind))
        or (type(value) is float and pa.types.is_float64(kind) and not math.isnan(value))
        or (type(value) is int and pa.types.is_float64(kind) and -_EXACT <= value <= _EXACT)
        or (
            isinstance(value, datetime)
            and pa.types.is_timestamp(kind)
            and (value.tzinfo is not None) == (kind.tz is not None)
        )
    )
    if not same:
        return None
    try:
        if isinstance(value, datetime):
            return pa.scalar(value, pa.timestamp("us", "UTC" if value.tzinfo else None)).cast(kind)
        return pa.scalar(value, kind)
    except (pa.ArrowException, OverflowError):
        return None


def _select_from(said: dict[str, Any], table: str) -> dict[str, Any] | None:
    """Find the one SELECT straight from the table, if the statement names it nowhere else."""
    if any(part.get("type") == "TABLE_FUNCTION" and not _makes_rows(part) for part in mappings_in(said)):
        return None
    named = [
        part
        for part in mappings_in(said)
        if part.get("type") == "BASE_TABLE" and part.get("table_name", "").lower() == table.lower()
    ]
    shadowed = any(str(part.get("key", "")).lower() == table.lower() for part in mappings_in(said) if "value" in part)
    if len(named) != 1 or shadowed or set(named[0]) - _PLAIN_TABLE:
        return None
    found = [
        part for part in mappings_in(said) if part.get("from_table") is named[0] and part.get("type") == "SELECT_NODE"
    ]
    return found[0] if found and "sample" not in found[0] else None


def _makes_rows(called: Mapping[str, Any]) -> bool:
    """Tell whether a function in a FROM makes its rows of its arguments; others look tables up by a text: ``query_table('t')``."""
    return str(called["function"].get("function_name", "")).lower() in {"unnest", "range", "generate_series"}


def mappings_in(tree: object) -> Iterator[dict[str, Any]]:
    """Walk over all mappings of a document."""
    if isinstance(tree, dict):
        yield tree
        for part in tree.values():
            yield from mappings_in(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from mappings_in(part)


def _is_of_row_alone(condition: dict[str, Any]) -> bool:
    """Tell whether an expression depends on the row, and on nothing else."""
    if not any(part.get("class") == "COLUMN_REF" for part in mappings_in(condition)):
        return False
    if any(part["class"] not in _PURE for part in mappings_in(condition) if "class" in part):
        return False
    called = [str(part["function_name"]) for part in mappings_in(condition) if part.get("class") == "FUNCTION"]
    return _consistent(os.getpid()).issuperset(called)


@functools.cache
def _consistent(process: int) -> frozenset[str]:
    """Names of the functions whose every form gives the same for the same arguments."""
    return frozenset(name for name, found in stabilities(process).items() if found == {"CONSISTENT"})


#: What a column of a kind is compared with, such that neither side needs a conversion that could fail for a value of the column.
_COMPARABLE: Final = {
    "integer": (frozenset({"INTEGER", "NUMERIC"}), (int, float)),
    "float": (frozenset({"INTEGER", "NUMERIC"}), (int, float)),
    "text": (frozenset({"STRING"}), (str,)),
    "truth": (frozenset({"BOOLEAN"}), (bool,)),
    "time": (frozenset({"STRING"}), (str, datetime)),
}
#: Digits of a decimal number beside which every integer of 64 bits fits into one decimal type.
_SHORT: Final = 18


def _cannot_fail(part: Mapping[str, Any], kinds: Mapping[str, pa.DataType], values: Mapping[str, object]) -> bool:
    """Tell whether a condition has a value for every row: plain comparisons of columns with constants of their kind, put together by AND, OR and NOT."""
    match part["class"], part["type"]:
        case "CONJUNCTION", _:
            return all(_cannot_fail(child, kinds, values) for child in part["children"])
        case "OPERATOR", "OPERATOR_NOT":
            return _cannot_fail(part["children"][0], kinds, values)
        case "OPERATOR", "OPERATOR_IS_NULL" | "OPERATOR_IS_NOT_NULL":
            return part["children"][0]["class"] in {"COLUMN_REF", "PARAMETER"}
        case "OPERATOR", "COMPARE_IN":
            sides = part["children"]
        case "COMPARISON", _:
            sides = [part["left"], part["right"]]
        case "BETWEEN", _:
            sides = [part["input"], part["lower"], part["upper"]]
        case _:
            return False
    columns = [side for side in sides if side["class"] == "COLUMN_REF"]
    if len(columns) != 1:
        return False
    *before, name = (str(part).lower() for part in columns[0]["column_names"])
    if len(before) > 1 or set(before) & set(kinds):
        return False  # a field of a struct
    kind = _comparable(kinds.get(name))
    return kind is not None and all(_is_constant(side, kind, values) for side in sides if side is not columns[0])


def _comparable(kind: pa.DataType | None) -> str | None:
    types = pa.types
    if kind is None:
        return None
    if types.is_timestamp(kind):
        # Of another unit either side may be converted, and the furthest times do not fit.
        return "time" if kind.unit == "us" else None
    if types.is_integer(kind):
        return "integer"
    if types.is_floating(kind):
        return "float"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    return "truth" if types.is_boolean(kind) else None


def _is_constant(part: Mapping[str, Any], kind: str, values: Mapping[str, object]) -> bool:
    literals, types = _COMPARABLE[kind]
    match part["class"]:
        case "CONSTANT":
            literal = part["literal"]
            # Integers become decimals of the digits that both need, of which there are 38.
            fits = kind != "integer" or literal["kind"] != "NUMERIC" or len(literal["text"]) <= _SHORT
            return literal["kind"] in literals and fits
        case "PARAMETER":
            value = values[str(part["identifier"])]
            return isinstance(value, types) and (kind == "truth" or not isinstance(value, bool))
        case "CAST" if kind == "time":
            named = str(part["type_expr"].get("type_name", "")).upper()
            return named in {"TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"} and _is_constant(
                part["child"], kind, values
            )
    return False
