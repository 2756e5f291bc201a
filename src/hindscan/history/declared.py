"""Histories as the project file declares them.

A `[history.NAME]` table becomes a `ParquetHistory`, a `LakeHistory`, a `KafkaHistory` or, with an archive, a `StitchedHistory`.
All that is wrong with it is said at once, field by
field (promise 12's neighbour: nothing that is misspelt is taken as absent): an unknown key, a setting of the other kind, a type that is none, a cluster
that is not declared. Nothing is opened and nothing asked for: a project file is read without a broker.

::

    [history.NAME] -> history_from_toml -> ParquetHistory | LakeHistory | KafkaHistory | StitchedHistory
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from hindscan import files, times
from hindscan.errors import ConfigError, UsageError
from hindscan.history.archive import ArchivePlace, archive_from_toml
from hindscan.history.columns import column_faults, schema_from_columns
from hindscan.history.declared_schema import SCHEMA_KEYS, declared_schema_faults, schema_source
from hindscan.history.lake_declared import LAKE_KINDS, lake_from_toml
from hindscan.history.parquet import ParquetHistory
from hindscan.history.snapshot import History
from hindscan.history.unify import DRIFTS

__all__ = ["KEYS", "KINDS", "history_from_toml"]

#: Settings of a history.
KEYS: Final = (
    "parquet",
    "iceberg",
    "delta",
    "topic",
    "format",
    "time",
    "version",
    "columns",
    "slice_rows",
    "as_of",
    "on_bad_record",
    "partitions",
    "isolation",
    "lateness",
    "materialise",
    "verify",
    "drift",
    "rename",
    "archive",
    "registry",
    "subject",
    "schema",
    "message",
    "record",
)
#: What a history can be: exactly one of these says where it lies.
KINDS: Final = ("parquet", "topic", *LAKE_KINDS)
_FILES_ONLY: Final = frozenset({"verify", "drift", "rename"})
_TOPIC_ONLY: Final = frozenset(
    {"format", "on_bad_record", "partitions", "isolation", "lateness", "materialise", "archive", *SCHEMA_KEYS, "record"}
)
#: The cluster of a topic that names none.
DEFAULT_CLUSTER: Final = "default"


def history_from_toml(
    name: str,
    table: Mapping[str, Any],
    *,
    clusters: Mapping[str, Mapping[str, Any]],
    root: str | Path,
    artefacts: Path | None = None,
    registries: Mapping[str, Mapping[str, Any]] | None = None,
    object_stores: Mapping[str, files.StoreSettings] | None = None,
    catalogs: Mapping[str, Mapping[str, Any]] | None = None,
) -> History:
    """Build a history from its table in the project file.

    Parameters
    ----------
    name : str
        The table's name.
    table : mapping
        What stands in it, as TOML gives it.
    clusters : mapping
        librdkafka properties by name of the cluster.
    root : path
        What a relative path is relative to.
    artefacts : Path, optional
        Folder below which records are kept. Default: `.hindscan` of the root.
    registries : mapping, optional
        Settings by name of the schema registry.
    object_stores : mapping, optional
        How ``s3://`` buckets are reached, by name of the bucket or as ``default``.
    catalogs : mapping, optional
        Properties by name of the Iceberg catalog.

    Raises
    ------
    ConfigError
        With every fault in `details["faults"]`, each a pair of the field within the table and what is wrong with it.
    """
    faults = [*_key_faults(table), *_common_faults(table)]
    columns = table.get("columns")
    if columns is not None:
        faults += column_faults(columns)
    schema = None if columns is None or faults else schema_from_columns(columns)
    history: History | None = None
    kinds = [kind for kind in KINDS if kind in table]
    if kinds == ["topic"]:
        archive, archive_faults = _archive(table, root)
        faults += [*_topic_faults(table, clusters, schema), *archive_faults]
        faults += declared_schema_faults(table, registries or {}, schema)
        kept = (artefacts or Path(root) / ".hindscan") / "materialised"
        history = None if faults else _kafka(name, table, clusters, registries or {}, schema, Path(root), kept, archive)
    elif kinds == ["parquet"]:
        location, place = table["parquet"], None
        try:
            place = files.place(location, root, object_stores) if isinstance(location, str) and location else None
        except UsageError as fault:
            faults.append(("parquet", str(fault)))
        if place is None and not any(field == "parquet" for field, _ in faults):
            faults.append(("parquet", f"must be a folder, file, glob or URL, found {location!r}"))
        if place is not None and not faults:
            history = ParquetHistory(
                name=name,
                location=location,
                place=place,
                time=table.get("time"),
                columns=schema,
                ignores_as_of=table.get("as_of") == "ignore",
                verify=table.get("verify", True),
                drift=table.get("drift", "fail"),
                rename=table.get("rename", {}),
                kept=(artefacts or Path(root) / ".hindscan") / "footers",
            )
    elif len(kinds) == 1:
        kept = (artefacts or Path(root) / ".hindscan") / "footers"
        history, lake_faults = lake_from_toml(
            name, table, root=root, schema=schema, kept=kept, stores=object_stores or {}, catalogs=catalogs or {}
        )
        faults += lake_faults
    else:
        faults.append(("parquet", f"exactly one of {', '.join(KINDS)} must say where the history lies"))
    if faults or history is None:
        listed = "; ".join(f"history.{name}.{place}: {message}" for place, message in faults)
        raise ConfigError(
            f"While reading history {name!r}: its settings must be valid; {len(faults)} "
            f"{'is' if len(faults) == 1 else 'are'} not: {listed}. Correct the project file.",
            faults=faults,
        )
    return history


def _key_faults(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    faults = []
    kind = next((kind for kind in ("topic", *LAKE_KINDS) if kind in table), "parquet")
    foreign = {
        "topic": _FILES_ONLY | {"version"},
        "parquet": _TOPIC_ONLY | {"version"},
    }.get(kind, _TOPIC_ONLY | _FILES_ONLY - {"verify"})
    for key in table:
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, 1)
            hint = f"; is it {close[0]}? There are" if close else "; there are"
            faults.append((key, f"there is no such setting{hint} {', '.join(KEYS)}"))
        elif key in foreign:
            faults.append((key, f"{'an' if kind == 'iceberg' else 'a'} {kind} history has no such setting"))
    return faults


def _common_faults(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    faults = []
    time = table.get("time")
    if time is not None and (not isinstance(time, str) or not time):
        faults.append(("time", f"must name a column, found {time!r}"))
    rows = table.get("slice_rows")
    if rows is not None and (type(rows) is not int or rows < 1):
        faults.append(("slice_rows", f"must be a whole number of at least 1, found {rows!r}"))
    lake = any(kind in table for kind in LAKE_KINDS)
    if table.get("as_of", "ignore") not in (("ignore", "snapshot") if lake else ("ignore",)):
        can = '"ignore" or "snapshot"' if lake else '"ignore"'
        faults.append(("as_of", f"can only be {can}, found {table['as_of']!r}"))
    if type(table.get("verify", True)) is not bool:
        faults.append(("verify", f"must be true or false, found {table['verify']!r}"))
    return faults + _drift_faults(table)


def _drift_faults(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    faults = []
    if table.get("drift", "fail") not in DRIFTS:
        faults.append(("drift", f'must be "fail" or "widen", found {table["drift"]!r}'))
    rename = table.get("rename", {})
    if not isinstance(rename, Mapping) or not all(isinstance(new, str) and new for new in rename.values()):
        faults.append(("rename", f'must be a table of new names by old ones, {{ old = "new" }}, found {rename!r}'))
        return faults
    chained = sorted(set(rename) & set(rename.values()))
    if chained:
        faults.append(("rename", f"must give each column one name, found {', '.join(chained)} as old and as new"))
    return faults


def _topic_faults(
    table: Mapping[str, Any], clusters: Mapping[str, Mapping[str, Any]], schema: pa.Schema | None
) -> list[tuple[str, str]]:
    from hindscan.history.formats.choose import FORMATS, declared_column_faults

    faults = []
    cluster, topic = _cluster_and_topic(table["topic"])
    if not topic:
        faults.append(("topic", f'must be "TOPIC" or "CLUSTER:TOPIC", found {table["topic"]!r}'))
    elif cluster not in clusters:
        known = ", ".join(sorted(clusters)) or "none"
        faults.append(
            ("topic", f"names the cluster {cluster!r}, which must be declared as [kafka.{cluster}]; declared: {known}")
        )
    chosen = table.get("format", "json")
    if chosen not in FORMATS:
        faults.append(("format", f"must be one of {', '.join(FORMATS)}, found {chosen!r}"))
    elif schema is not None:
        faults += declared_column_faults(schema, chosen)
    if table.get("on_bad_record", "fail") not in ("fail", "set aside"):
        faults.append(("on_bad_record", f'must be "fail" or "set aside", found {table["on_bad_record"]!r}'))
    if table.get("isolation", "read_committed") not in ("read_committed", "read_uncommitted"):
        faults.append(("isolation", f"must be read_committed or read_uncommitted, found {table['isolation']!r}"))
    numbers = table.get("partitions", [0])
    if not isinstance(numbers, list) or not numbers or any(type(n) is not int or n < 0 for n in numbers):
        faults.append(("partitions", f"must be a list of partition numbers, found {numbers!r}"))
    if type(table.get("materialise", False)) is not bool:
        faults.append(("materialise", f"must be true or false, found {table['materialise']!r}"))
    elif table.get("materialise") and (table.get("format") == "cloudevents" or "headers" in table.get("record", ())):
        faults.append(("materialise", "keeps no headers, which this history needs; leave one of them out"))
    try:
        times.duration(str(table.get("lateness", "0s")))
    except ValueError as fault:
        faults.append(("lateness", str(fault)))
    return faults


def _archive(table: Mapping[str, Any], root: str | Path) -> tuple[ArchivePlace | None, list[tuple[str, str]]]:
    if "archive" not in table:
        return None, []
    archive, faults = archive_from_toml(table["archive"], root)
    if archive is not None and archive.layout == "connect":
        faults += [
            (key, f"must be declared with an archive that Kafka Connect wrote: {reason}")
            for key, reason in (("columns", "its files are checked against it"), ("time", "it keeps no record times"))
            if key not in table
        ]
        record = table.get("record")
        named = record if isinstance(record, list) else []
        absent = [name for name in named if name not in ("offset", "partition")]
        if absent:
            faults.append(
                (
                    "record",
                    f"can only be offset and partition of an archive that Kafka Connect wrote: it keeps no {', '.join(map(str, absent))}",
                )
            )
    return archive, faults


def _cluster_and_topic(text: object) -> tuple[str, str]:
    if not isinstance(text, str):
        return DEFAULT_CLUSTER, ""
    cluster, colon, topic = text.rpartition(":")
    return (cluster, topic) if colon else (DEFAULT_CLUSTER, topic)


def _kafka(
    name: str,
    table: Mapping[str, Any],
    clusters: Mapping[str, Mapping[str, Any]],
    registries: Mapping[str, Mapping[str, Any]],
    schema: pa.Schema | None,
    root: Path,
    kept: Path,
    archive: ArchivePlace | None,
) -> History:
    # The client library is loaded only where a topic is declared.
    from hindscan.history.kafka import KafkaHistory
    from hindscan.history.stitched import StitchedHistory

    cluster, topic = _cluster_and_topic(table["topic"])
    numbers = table.get("partitions")
    history = KafkaHistory(
        name=name,
        cluster=cluster,
        config=clusters[cluster],
        topic=topic,
        format=table.get("format", "json"),
        time=table.get("time"),
        columns=schema,
        partitions=None if numbers is None else tuple(numbers),
        isolation=table.get("isolation", "read_committed"),
        on_bad_record=table.get("on_bad_record", "fail"),
        ignores_as_of=table.get("as_of") == "ignore",
        lateness=None if "lateness" not in table else times.duration(table["lateness"]),
        cuts_by_time=archive is None,
        kept=kept if table.get("materialise", False) else None,
        schemas=schema_source(name, table, topic, registries, root),
        record=tuple(table.get("record", ())),
    )
    return history if archive is None else StitchedHistory(topic=history, archive=archive)
