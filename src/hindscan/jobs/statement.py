"""One SELECT of a SQL job: what it names, what it means, and the function a worker calls for it.

Keeps promises 7, 8 and 12. A statement is parsed by the engine and never run here: which parameters and tables it names decides what its step sees, and so
its key; its syntax tree without positions is what it means, so that layout, comments and the case of keywords are in no key. What could reach beyond
the pinned tables is refused while the project is loaded: other statements, files, system tables, functions that answer differently each time.

::

    text -> read_statement -> Statement -> jobs.sql -> pack -> Code -> worker: unpack -> {step: function}
"""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hindscan.condition import mappings_in
from hindscan.data import Data
from hindscan.engine import database, stabilities
from hindscan.jobs.job import StepName

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FORM", "Misplaced", "Statement", "pack", "read_statement", "unpack"]

#: First line of the payload of a SQL job: what follows is JSON, with nothing in it that could run.
FORM: Final = b"SQL 1"

#: Functions that make rows out of values alone. All others in a FROM look at files, settings or the engine.
_TABLE_FUNCTIONS: Final = frozenset({"generate_series", "json_each", "json_tree", "range", "unnest"})

#: Names that mean the time of the query, written without brackets.
_CLOCKS: Final = [[n] for n in ("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp")]


class Misplaced(msgspec.Struct, frozen=True):
    """Something wrong at a place of the text."""

    #: Bytes before it.
    offset: int
    fault: str


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """One statement of a SQL job."""

    text: str
    #: Name of the table it works on.
    table: str
    #: The parameters and the broadcast tables that it names.
    parameters: tuple[str, ...]
    tables: tuple[str, ...]
    #: Its syntax tree, as text.
    meaning: str


def read_statement(
    text: str, table: str, *, tables: Sequence[str], parameters: Sequence[str], faults: list[Misplaced]
) -> Statement | None:
    """Take a statement apart.

    Parameters
    ----------
    text : str
        What must be one SELECT.
    table : str
        Name of the table it works on.
    tables : sequence of str
        Names of the job's broadcast tables.
    parameters : sequence of str
        Names of the job's parameters.
    faults : list of Misplaced
        All that is wrong is added to it.

    Returns
    -------
    Statement or None
        None if it is no SELECT.
    """
    with closing(database(os.getpid(), planning=True).cursor()) as cursor:
        row = cursor.execute(
            "SELECT json_serialize_sql(?, skip_null := true, skip_empty := true, skip_default := true)", [text]
        ).fetchone()
        said = json.loads(row[0]) if row else {"error": True}
        kinds = (
            ["SELECT"] if said.get("error_type") == "parser" else [s.type.name for s in cursor.extract_statements(text)]
        )
    start = len(text.encode()) - len(text.lstrip().encode())
    if kinds != ["SELECT"]:
        found = " and ".join(kinds) or "none"
        told = f"one SELECT is required, and found is {found}; a PIVOT needs its values with IN"
        faults.append(Misplaced(start, told))
        return None
    if said["error"]:
        faults.append(Misplaced(int(said.get("position", start)), str(said["error_message"])))
        return None
    parts = list(mappings_in(said))
    by_lower = {name.lower(): name for name in (table, *tables)}
    made = {
        str(part["key"]).lower()
        for part in parts
        if isinstance(part.get("value"), dict) and "query_node" in part["value"]
    }
    for part in parts:
        fault = _fault_of(part, known={*by_lower, *made}, table=table, tables=tables, parameters=parameters)
        if fault:
            faults.append(Misplaced(int(part.get("query_location", start)), fault))
    named = {str(part["identifier"]) for part in parts if part.get("class") == "PARAMETER"}
    read = {str(part["table_name"]).lower() for part in parts if part.get("type") == "BASE_TABLE"}
    return Statement(
        text=text.strip().rstrip(";"),
        table=table,
        parameters=tuple(name for name in parameters if name in named),
        tables=tuple(name for name in tables if name.lower() in read),
        meaning=json.dumps(_without_places(said), sort_keys=True),
    )


def _fault_of(
    part: Mapping[str, Any], *, known: set[str], table: str, tables: Sequence[str], parameters: Sequence[str]
) -> str | None:
    """Say what of a node of the syntax tree a job may not have."""
    if isinstance(part.get("sample"), dict):
        return "a sample is another one at every cut; choose rows by a condition, such as hash(id) % 100 = 0"
    match part.get("class"):
        case "PARAMETER" if part["identifier"] not in parameters:
            listed = ", ".join(f"${name}" for name in parameters) or "none"
            return f"${part['identifier']} is no parameter of the job; declared are {listed}"
        case "FUNCTION" if str(part["function_name"]).lower() in _changing(os.getpid()):
            return f"{part['function_name']}() answers differently each time, and a job gives the same for the same data; make it a parameter"
        case "COLUMN_REF" if [name.lower() for name in part["column_names"]] in _CLOCKS:
            return f"{part['column_names'][0]} is the time of the query, and a job gives the same for the same data; make it a parameter, or write table.column"
    match part.get("type"):
        case "SHOW_REF":
            return "one SELECT is required, and DESCRIBE, SHOW and SUMMARIZE are none"
        case "BASE_TABLE" if "schema_name" in part or str(part["table_name"]).lower() not in known:
            shown = ".".join(str(name) for name in part["qualified_name"]["path"])
            return f"{shown} is no table of this statement, which can read {', '.join((table, *tables))}; name its history in tables"
        case "TABLE_FUNCTION" if str(part["function"]["function_name"]).lower() not in _TABLE_FUNCTIONS:
            name = part["function"]["function_name"]
            return f"{name}() reads something that is not pinned; name a history in tables"
    return None


@functools.cache
def _changing(process: int) -> frozenset[str]:
    """Names of the functions that depend on more than their arguments in every form they have; `error` gives nothing at all."""
    return frozenset(
        name for name, found in stabilities(process).items() if "CONSISTENT" not in found and name != "error"
    )


def _without_places(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _without_places(part) for name, part in tree.items() if not name.startswith("query_location")}
    return [_without_places(part) for part in tree] if isinstance(tree, list) else tree


# Travelling ------------------------------------------------------------------------------------------------------


def pack(statements: Mapping[StepName, Statement]) -> bytes:
    """Write statements as a payload of code."""
    return FORM + b"\n" + msgspec.json.encode(statements)


def unpack(content: bytes) -> dict[StepName, Callable[..., pa.Table]]:
    """Make the functions of a SQL job out of what follows the first line of its payload."""
    statements = msgspec.json.decode(content, type=dict[StepName, Statement])
    return {step: _function(step, statement) for step, statement in statements.items()}


def _function(step: StepName, statement: Statement) -> Callable[..., pa.Table]:
    """Give the function of a step: with a signature, because that is what tells a worker what a step takes."""

    def asked(rows: Data, /, **named: Any) -> pa.Table:
        # Broadcast tables come by name, too, and `rows` knows them.
        return rows.sql(statement.text, **{name: named[name] for name in statement.parameters})

    taken = [inspect.Parameter(statement.table, inspect.Parameter.POSITIONAL_ONLY)]
    taken += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=object)
        for name in (*statement.tables, *statement.parameters)
    ]
    asked.__name__ = step
    asked.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    return asked
