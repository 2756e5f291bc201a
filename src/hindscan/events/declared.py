"""Triggers as they are declared: from a `[triggers.NAME]` table of the project file to a `Trigger`.

Keeps promise 5 before anything happens: a trigger whose settings are not all valid is refused with every fault at once, each with its field, when the
project file is loaded and not when the first event comes.

::

    hindscan.toml -> trigger_from_toml -> Trigger
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Any, Final, Literal

from hindscan import times
from hindscan.errors import ConfigError, FilterSyntaxError
from hindscan.events import queue
from hindscan.events.cron import cron_fault, time_zone
from hindscan.events.declared_wrapping import wrapping_from_toml
from hindscan.events.filters import Filter
from hindscan.events.path import compile_path
from hindscan.events.strict import json_fault, shown
from hindscan.events.trigger import Missed, ParameterMapping, Source, Trigger

__all__ = ["check_together", "parse_source", "read_filter", "trigger_from_toml"]

_Faults = list[tuple[str, str]]

_KEYS: Final = (
    "on",
    "start",
    "filter",
    "job",
    "parameters",
    "as_of",
    "strict",
    "lateness",
    "paused",
    "was",
    *queue.KEYS,
    "event",
    "format",
    "registry",
    "confirm",
    "unsigned",
    "time_zone",
    "missed",
    "every",
)
#: Settings that mean something for one kind of source only.
_FOR_ONE: Final = {"time_zone": "cron", "missed": "cron", "every": "files"}
_SOURCES: Final = "kafka:TOPIC, kafka:CLUSTER:TOPIC, http, cron:EXPRESSION and files:FOLDER"

# "The topic's name must be 1 to 249 of these" (Kafka, org.apache.kafka.common.internals.Topic).
_TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def trigger_from_toml(name: str, table: Mapping[str, Any]) -> Trigger:
    """Build a trigger from its table in the project file.

    Parameters
    ----------
    name : str
        The table's name.
    table : Mapping[str, Any]
        What stands in it, as TOML gives it.

    Raises
    ------
    ConfigError
        With every fault in `details["faults"]`, each a pair of the field within the table and what is wrong with it.
    """
    faults: _Faults = []
    for key in table:
        if key not in _KEYS:
            close = difflib.get_close_matches(key, _KEYS, 1)
            hint = f"; is it {close[0]}? There are" if close else "; there are"
            faults.append((key, f"there is no such setting{hint} {', '.join(_KEYS)}"))
    if "@" in name:
        faults.append(
            ("", f"a trigger's name has no '@', which stands before the name of a replay, and it is {shown(name)}")
        )
    job = table.get("job")
    if not isinstance(job, str) or not job:
        faults.append(("job", f"it must name the job to run, and is {shown(job)}"))
    sources = _sources(table.get("on"), faults)
    for key, kind in _FOR_ONE.items():
        if key in table and sources and kind not in {source.kind for source in sources}:
            faults.append((key, f"it is for the source {kind}:, and the trigger has {', '.join(map(str, sources))}"))
    trigger = Trigger(
        name=name,
        job=str(job),
        sources=sources,
        filter=read_filter(table.get("filter"), faults, strict=table.get("strict") is True),
        parameters=_parameters(table.get("parameters", {}), faults),
        start=_start(table.get("start", "now"), faults),
        as_of=_as_of(table.get("as_of", "event"), faults),
        strict=_flag("strict", table.get("strict", False), faults),
        lateness=_lateness(table.get("lateness", 0), faults),
        paused=_flag("paused", table.get("paused", False), faults),
        was=_was(name, table.get("was", ""), faults),
        queue=queue.queue_from_toml(table, faults),
        wrapping=wrapping_from_toml(table, {source.kind for source in sources}, faults),
        time_zone=_time_zone(table.get("time_zone", "UTC"), faults),
        missed=_missed(table.get("missed", "catch up"), faults),
        every=_every(table.get("every", "5s"), faults),
    )
    if faults:
        listed = "; ".join(f"triggers.{name}.{place}: {message}" for place, message in faults)
        raise ConfigError(
            f"While reading trigger {name!r}: its settings must be valid; {len(faults)} "
            f"{'is' if len(faults) == 1 else 'are'} not: {listed}. Correct the project file.",
            faults=faults,
        )
    return trigger


def check_together(triggers: Mapping[str, Trigger]) -> None:
    """Check what no trigger shows alone: the records of a topic are of one kind, so that one record is one event for all of its triggers.

    Raises
    ------
    ConfigError
        With every fault in `details["faults"]`.
    """
    first: dict[Source, Trigger] = {}
    faults: _Faults = []
    for trigger in triggers.values():
        for source in trigger.sources:
            before = first.setdefault(source, trigger)
            if source.kind == "kafka" and before.wrapping != trigger.wrapping:
                faults.append(
                    (
                        trigger.name,
                        f"its format and event must be those of {before.name}, which listens to {source} too",
                    )
                )
    if faults:
        listed = "; ".join(f"triggers.{place}: {message}" for place, message in faults)
        raise ConfigError(
            f"While reading the triggers: the records of one topic must be read alike; {listed}. Correct the project file.",
            faults=faults,
        )


def parse_source(text: object) -> Source:
    """Read one source as `on` has it: ``http``, ``kafka:TOPIC``, ``kafka:CLUSTER:TOPIC``, ``cron:EXPRESSION`` or ``files:FOLDER``.

    Raises
    ------
    ValueError
        If it is none; the text is the reason.
    """
    if not isinstance(text, str):
        raise ValueError(f"a source is a string such as 'kafka:TOPIC' or 'http', not {shown(text)}")  # noqa: TRY004 - collected
    kind, _, rest = text.partition(":")
    if kind == "http" and not rest:
        return Source(kind="http")
    if kind == "kafka" and rest:
        cluster, _, topic = rest.rpartition(":")
        # Kafka refuses the names "." and ".." as well; a cluster's name is the key of a table in the project file.
        if not _TOPIC.fullmatch(topic) or topic in (".", "..") or ":" in cluster or rest.startswith(":"):
            raise ValueError(
                f"a topic is named kafka:TOPIC or kafka:CLUSTER:TOPIC, of letters, digits, '.', '_' and '-', not {shown(text)}"
            )
        return Source(kind="kafka", cluster=cluster or "default", topic=topic)
    if kind == "cron":
        wrong = cron_fault(rest)
        if wrong is not None:
            raise ValueError(wrong)
        return Source(kind="cron", text=" ".join(rest.split()))
    if kind == "files" and rest:
        return Source(kind="files", text=rest.rstrip("/") or "/")
    raise ValueError(f"there is no source {shown(text)}; there are {_SOURCES}")


def _sources(value: object, faults: _Faults) -> tuple[Source, ...]:
    texts = value if isinstance(value, list) else [value]
    if value is None or not texts:
        faults.append(("on", f"it must name at least one source: {_SOURCES}"))
        return ()
    found: list[Source] = []
    for text in texts:
        try:
            source = parse_source(text)
        except ValueError as fault:
            faults.append(("on", str(fault)))
            continue
        if source in found:
            faults.append(("on", f"{source} is named twice"))
        found.append(source)
    return tuple(found)


def read_filter(value: object, faults: list[tuple[str, str]], *, strict: bool = False) -> Filter | None:
    """Read a table `filter`, adding what is wrong with it to the faults."""
    if value is None:
        return None
    try:
        return Filter(value, strict=strict)  # type: ignore[arg-type]
    except FilterSyntaxError as wrong:
        listed = wrong.details["faults"]
        found = listed if isinstance(listed, list) else []
        faults += [(".".join(part for part in ("filter", fault["field"]) if part), fault["message"]) for fault in found]
        return None


def _parameters(value: object, faults: _Faults) -> tuple[ParameterMapping, ...]:
    if not isinstance(value, Mapping):
        faults.append(
            ("parameters", f"it must be a table of parameters and where they come from, and is {shown(value)}")
        )
        return ()
    found = (_parameter(name, written, faults) for name, written in value.items())
    return tuple(mapping for mapping in found if mapping is not None)


def _parameter(name: str, written: object, faults: _Faults) -> ParameterMapping | None:
    place = f"parameters.{name}"
    if isinstance(written, str):
        written = {"path": written}
    if not isinstance(written, Mapping):
        faults.append(
            (place, f"it must be a JMESPath, or a table with path (and default) or with value, and is {shown(written)}")
        )
        return None
    unknown = [key for key in written if key not in ("path", "default", "value")]
    if unknown or ("path" in written) == ("value" in written) or ("default" in written and "value" in written):
        faults.append(
            (
                place,
                f"its table has path (and default), or value, and nothing else; found {', '.join(map(shown, written)) or 'nothing'}",
            )
        )
        return None
    key = "value" if "value" in written else "default"
    value = _plain(written.get(key))
    wrong = json_fault(value, "it")
    if wrong is not None:
        faults.append((f"{place}.{key}", wrong))
    if key == "value":
        return ParameterMapping(name=name, value=value)
    try:
        return ParameterMapping(
            name=name, path=compile_path(written["path"]), value=value, has_default="default" in written
        )
    except FilterSyntaxError as wrong_path:
        details = wrong_path.details
        faults.append((place, f"{shown(written['path'])}, column {details['column']}: {details['reason']}"))
        return None


def _plain(value: Any) -> Any:
    """Write TOML's times as JSON has them."""
    if isinstance(value, datetime):
        return times.to_text(times.from_datetime(value))
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return {key: _plain(part) for key, part in value.items()} if isinstance(value, dict) else value


def _start(value: object, faults: _Faults) -> Literal["now", "earliest"] | int:
    match value:
        case "now":
            return "now"
        case "earliest":
            return "earliest"
    try:
        if isinstance(value, date):
            return times.from_datetime(value)
        return times.from_text(value if isinstance(value, str) else repr(value))
    except ValueError as fault:
        faults.append(("start", f'it is "now", "earliest" or a time: {fault}'))
        return "now"


def _as_of(value: object, faults: _Faults) -> Literal["event"] | None:
    if value not in ("event", "none"):
        faults.append(
            (
                "as_of",
                f'it is "event" (history as of the event) or "none" (as it is when the run starts), not {shown(value)}',
            )
        )
    return None if value == "none" else "event"


def _flag(setting: str, value: object, faults: _Faults) -> bool:
    if not isinstance(value, bool):
        faults.append((setting, f"it is true or false, not {shown(value)}"))
    return value is True


def _was(name: str, value: object, faults: _Faults) -> str:
    if not isinstance(value, str) or value == name:
        faults.append(("was", f"it is the name that the trigger had before, not {shown(value)}"))
    return str(value)


def _time_zone(value: object, faults: _Faults) -> str:
    try:
        return time_zone(value if isinstance(value, str) else repr(value)).key
    except ValueError as fault:
        faults.append(("time_zone", str(fault)))
        return "UTC"


def _missed(value: object, faults: _Faults) -> Missed:
    match value:
        case "catch up" | "latest" | "skip":
            return value
    faults.append(
        ("missed", f'it is "catch up" (a run for each), "latest" (for the last one) or "skip", not {shown(value)}')
    )
    return "catch up"


def _every(value: object, faults: _Faults) -> timedelta:
    try:
        micros = times.duration(value if isinstance(value, str) else repr(value))
    except ValueError as fault:
        faults.append(("every", f"it {fault}"))
        return timedelta(seconds=5)
    if not _LEAST_EVERY <= timedelta(microseconds=micros) <= _GREATEST_EVERY:
        faults.append(("every", f"it is from 1s to 1d, not {shown(value)}"))
    return timedelta(microseconds=micros)


def _lateness(value: object, faults: _Faults) -> timedelta:
    seconds = queue.seconds_from(value)
    if seconds is None:
        faults.append(
            (
                "lateness",
                f'it is a number of seconds, or a text such as "30s", "5m", "2h" or "1d", up to 366 days, not {shown(value)}',
            )
        )
        return timedelta(0)
    return timedelta(seconds=seconds)


#: Object stores tell a file's time in whole seconds: looking more often could take two versions for one.
_LEAST_EVERY: Final = timedelta(seconds=1)
_GREATEST_EVERY: Final = timedelta(days=1)
