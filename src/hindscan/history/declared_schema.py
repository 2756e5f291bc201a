"""Schemas and record columns as the project file declares them: `registry`, `subject`, `schema`, `message`, `record`.

The part of `declared` that speaks of formats with a schema of their own, and of what is a column beside the value. As there, all that is wrong is said at once and
nothing is opened: a schema file is read, and a registry asked, when the history is pinned.

::

    [history.NAME] -> declared_schema_faults, schema_source -> SchemaSource | None
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

if TYPE_CHECKING:
    from hindscan.history.schemas import SchemaSource

__all__ = ["SCHEMA_KEYS", "declared_schema_faults", "schema_source"]

#: Settings of formats that follow a schema.
SCHEMA_KEYS: Final = ("registry", "subject", "schema", "message")
#: The registry of a history that names none.
DEFAULT_REGISTRY: Final = "default"


def declared_schema_faults(
    table: Mapping[str, Any], registries: Mapping[str, Mapping[str, Any]], columns: pa.Schema | None
) -> list[tuple[str, str]]:
    """Find what is wrong with a topic's settings of schemas and record columns, as (field, text)."""
    from hindscan.history.formats.choose import KINDS

    faults = _record_faults(table, columns)
    chosen = str(table.get("format", "json"))
    given = [key for key in SCHEMA_KEYS if key in table]
    for key in given:
        if not isinstance(table[key], str) or not table[key]:
            faults.append((key, f"must be a text, found {table[key]!r}"))
    if chosen not in KINDS:
        faults += [(key, f"is for the formats {', '.join(KINDS)}; this one is {chosen!r}") for key in given]
        return faults
    if "message" in given and chosen != "protobuf":
        faults.append(("message", f'is for format = "protobuf"; this one is {chosen!r}'))
    if "schema" in given:
        if str(table["schema"]).endswith(".proto"):
            what = "must be a descriptor set, which protoc --include_imports --descriptor_set_out=FILE writes of a .proto file"
            faults.append(("schema", f"{what}; found {table['schema']!r}"))
        both = [key for key in ("registry", "subject") if key in given]
        faults += [(key, "a history has either a schema of its own or one of a registry, not both") for key in both]
        return faults
    registry = table.get("registry", DEFAULT_REGISTRY)
    if isinstance(registry, str) and registry not in registries:
        known = ", ".join(sorted(registries)) or "none"
        named = f"names the registry {registry!r}, which must be declared as [registry.{registry}]; declared: {known}"
        faults.append(("registry", f"{named}. Without a registry, name a file in `schema`"))
    return faults


def _record_faults(table: Mapping[str, Any], columns: pa.Schema | None) -> list[tuple[str, str]]:
    from hindscan.history.record import RECORD

    named = table.get("record", [])
    if not isinstance(named, list) or any(not isinstance(each, str) or each not in RECORD for each in named):
        return [("record", f"must be a list of some of {', '.join(RECORD)}, found {named!r}")]
    if len(set(named)) < len(named):
        return [("record", f"must name each only once, found {named!r}")]
    taken = [RECORD[each].name for each in named if columns is not None and RECORD[each].name in columns.names]
    return [(f"columns.{name}", "is named by `record` too, which says its type") for name in taken]


def schema_source(
    name: str, table: Mapping[str, Any], topic: str, registries: Mapping[str, Mapping[str, Any]], root: Path
) -> SchemaSource | None:
    """Say where a history's schemas are; None for a format that has none."""
    from hindscan.history.formats.choose import KINDS
    from hindscan.history.schemas import SchemaSource

    chosen = table.get("format", "json")
    if chosen not in KINDS:
        return None
    file = table.get("schema")
    registry = None if file is not None else table.get("registry", DEFAULT_REGISTRY)
    return SchemaSource(
        history=name,
        topic=topic,
        format=chosen,
        registry=registry,
        settings=None if registry is None else registries[registry],
        # As producers name it unless they are told otherwise.
        subject=table.get("subject", f"{topic}-value"),
        file=None if file is None else root / file,
        message=table.get("message"),
    )
