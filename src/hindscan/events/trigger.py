"""A trigger: sources of events, a filter, the job to run, and how fields of an event become its parameters (promise 5).

`decide` is the whole of what happens between an event and a run: pure, the same for a live event, a replayed one and a dry run, and never an
exception for what is wrong with an event; that ends in quarantine with its reason and can be redriven. The dispatcher records what it
decides.

::

    hindscan.toml -> trigger_from_toml -> Trigger;  Event + Trigger -> decide -> Decision (matched: parameters)
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from hindscan import times
from hindscan.errors import ConfigError, EventError, FilterSyntaxError, MappingError
from hindscan.events.filters import Filter
from hindscan.events.path import Path, compile_path
from hindscan.events.strict import json_fault, shown

if TYPE_CHECKING:
    from collections.abc import Collection

    from hindscan.events.event import Event

__all__ = [
    "Decision",
    "ParameterMapping",
    "Source",
    "Trigger",
    "decide",
    "map_parameters",
    "parse_source",
    "trigger_from_toml",
]

Outcome = Literal["matched", "unmatched", "quarantined"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where events come from: `http`, or a topic of a cluster."""

    kind: Literal["kafka", "http"]
    cluster: str = ""
    topic: str = ""

    def __str__(self) -> str:
        if self.kind == "http":
            return "http"
        return f"kafka:{self.topic}" if self.cluster == "default" else f"kafka:{self.cluster}:{self.topic}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterMapping:
    """How one parameter of the job comes about.

    Parameters
    ----------
    name : str
        The parameter.
    path : Path | None
        Where in the event its value stands; None for a constant.
    value : Any
        The constant; or what counts where the path leads to null, if `has_default`.
    has_default : bool
        Whether a default is declared for the path.
    """

    name: str
    path: Path | None = None
    value: Any = None
    has_default: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Trigger:
    """One `[triggers.NAME]` of the project file.

    Parameters
    ----------
    name : str
        Its name.
    sources : tuple[Source, ...]
        `on`: where its events come from, at least one.
    job : str
        Name of the job it runs.
    filter : Filter | None
        Which of the events it is for; None for all.
    parameters : tuple[ParameterMapping, ...]
        How the job's parameters come about.
    start : "now", "earliest" or int
        Where a new trigger begins in its topics; an int is a time, microseconds since the epoch.
    as_of : "event" or None
        Whether its runs see history as of the event (the default), or as it is when they start (`as_of = "none"`).
    run_order : str
        "none": its runs go in any order.
    strict : bool
        Whether an absent attribute in a CESQL filter is an error.
    lateness : timedelta
        A run waits until this long after the event's time, so that what arrives late is there.
    """

    name: str
    sources: tuple[Source, ...]
    job: str
    filter: Filter | None = None
    parameters: tuple[ParameterMapping, ...] = ()
    start: Literal["now", "earliest"] | int = "now"
    as_of: Literal["event"] | None = "event"
    run_order: Literal["none"] = "none"
    strict: bool = False
    lateness: timedelta = timedelta(0)

    def listens_to(self, source: Source) -> bool:
        """Tell whether events of a source are for this trigger to decide."""
        return source in self.sources


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What one trigger makes of one event.

    Parameters
    ----------
    trigger : str
        The trigger's name.
    outcome : "matched", "unmatched" or "quarantined"
        A quarantined one could not be decided.
    reason : str
        Why it did not match, or could not be decided; empty for a match.
    error : str
        Name of the class in `hindscan.errors`, for a quarantined one.
    parameters : Mapping[str, object]
        The job's parameters, for a match.
    """

    trigger: str
    outcome: Outcome
    reason: str = ""
    error: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)


def decide(trigger: Trigger, event: Event, optional: Collection[str] = ()) -> Decision:
    """Decide whether an event runs the trigger's job, and with which parameters.

    Parameters
    ----------
    trigger : Trigger
        The trigger.
    event : Event
        An event from one of its sources.
    optional : Collection[str]
        Names of the job's parameters that have a default.
    """
    try:
        if trigger.filter is not None and not trigger.filter.matches(event):
            return Decision(trigger=trigger.name, outcome="unmatched", reason=trigger.filter.explain(event).reason)
        parameters = map_parameters(trigger, event, optional)
    except EventError as fault:
        return Decision(trigger=trigger.name, outcome="quarantined", reason=str(fault), error=type(fault).__name__)
    return Decision(trigger=trigger.name, outcome="matched", parameters=parameters)


def map_parameters(trigger: Trigger, event: Event, optional: Collection[str] = ()) -> dict[str, object]:
    """Take the job's parameters from an event.

    Parameters
    ----------
    trigger : Trigger
        The trigger.
    event : Event
        The event.
    optional : Collection[str]
        Names of the parameters that may be missing: where the event has none, they are left out, so that the job's own default counts.

    Raises
    ------
    MappingError
        If a path fails, or leads to null for a parameter that is neither optional nor has a default in the mapping; with all such faults.
    """
    document = event.to_json()
    parameters: dict[str, object] = {}
    faults: list[str] = []
    for mapping in trigger.parameters:
        if mapping.path is None:
            parameters[mapping.name] = mapping.value
            continue
        where = f"{mapping.name} from {mapping.path.expression!r}"
        try:
            value = mapping.path.search(document)
        except ValueError as fault:
            faults.append(f"{where}: {fault}")
            continue
        if value is None and mapping.has_default:
            value = mapping.value
        elif value is None and mapping.name in optional:
            continue
        elif value is None:
            faults.append(f"{where}: it is null or not there, and the parameter is required and has no default")
        parameters[mapping.name] = value
    if faults:
        raise MappingError(
            f"While taking the parameters of job {trigger.job!r} from event {shown(event.id)} of {shown(event.source)} (trigger "
            f"{trigger.name}): each must have a value; {len(faults)} {'has' if len(faults) == 1 else 'have'} none: {'; '.join(faults)}. "
            "Correct the producer or the mapping, or declare a default, then redrive the event.",
            faults=faults,
            trigger=trigger.name,
            source=event.source,
            id=event.id,
        )
    return parameters


# --- From the project file -----------------------------------------------------------------------------------------------------------------------

_KEYS: Final = ("on", "start", "filter", "job", "parameters", "as_of", "run_order", "strict", "lateness")
#: Settings and sources that have their name but not yet their meaning. The only place that refuses them.
_LATER_KEYS: Final = {
    "event": "records that are not CloudEvents",
    "format": "records that are not CloudEvents",
    "time_zone": "the source cron",
}
_LATER_SOURCES: Final = ("cron", "files")
_LATER_ORDERS: Final = ("partition", "subject")

# "The topic's name must be 1 to 249 of these" (Kafka, org.apache.kafka.common.internals.Topic).
_TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")

_Faults = list[tuple[str, str]]


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
        if key in _LATER_KEYS:
            faults.append((key, f"it is for {_LATER_KEYS[key]}, which this version of hindscan does not have yet"))
        elif key not in _KEYS:
            close = difflib.get_close_matches(key, _KEYS, 1)
            hint = f"; is it {close[0]}? There are" if close else "; there are"
            faults.append((key, f"there is no such setting{hint} {', '.join(_KEYS)}"))
    job = table.get("job")
    if not isinstance(job, str) or not job:
        faults.append(("job", f"it must name the job to run, and is {shown(job)}"))
    trigger = Trigger(
        name=name,
        job=str(job),
        sources=_sources(table.get("on"), faults),
        filter=_filter(table.get("filter"), table.get("strict") is True, faults),
        parameters=_parameters(table.get("parameters", {}), faults),
        start=_start(table.get("start", "now"), faults),
        as_of=_as_of(table.get("as_of", "event"), faults),
        run_order=_run_order(table.get("run_order", "none"), faults),
        strict=_strict(table.get("strict", False), faults),
        lateness=_lateness(table.get("lateness", 0), faults),
    )
    if faults:
        listed = "; ".join(f"triggers.{name}.{place}: {message}" for place, message in faults)
        raise ConfigError(
            f"While reading trigger {name!r}: its settings must be valid; {len(faults)} "
            f"{'is' if len(faults) == 1 else 'are'} not: {listed}. Correct the project file.",
            faults=faults,
        )
    return trigger


def parse_source(text: object) -> Source:
    """Read one source as `on` has it: ``http``, ``kafka:TOPIC`` or ``kafka:CLUSTER:TOPIC``.

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
    if kind in _LATER_SOURCES:
        raise ValueError(
            f"the source {kind} is not available in this version of hindscan; there are kafka:TOPIC, kafka:CLUSTER:TOPIC and http"
        )
    raise ValueError(f"there is no source {shown(text)}; there are kafka:TOPIC, kafka:CLUSTER:TOPIC and http")


def _sources(value: object, faults: _Faults) -> tuple[Source, ...]:
    texts = value if isinstance(value, list) else [value]
    if value is None or not texts:
        faults.append(("on", "it must name at least one source: kafka:TOPIC, kafka:CLUSTER:TOPIC or http"))
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


def _filter(value: object, strict: bool, faults: _Faults) -> Filter | None:
    if value is None:
        return None
    try:
        return Filter(value, strict=strict)  # type: ignore[arg-type]
    except FilterSyntaxError as wrong:
        listed = wrong.details["faults"]
        for fault in listed if isinstance(listed, list) else ():
            faults.append((".".join(part for part in ("filter", fault["field"]) if part), fault["message"]))
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


def _run_order(value: object, faults: _Faults) -> Literal["none"]:
    if value in _LATER_ORDERS:
        faults.append(("run_order", f'the order {value} is not available in this version of hindscan; there is "none"'))
    elif value != "none":
        faults.append(("run_order", f'it is "none", not {shown(value)}'))
    return "none"


def _strict(value: object, faults: _Faults) -> bool:
    if not isinstance(value, bool):
        faults.append(("strict", f"it is true or false, not {shown(value)}"))
    return value is True


def _lateness(value: object, faults: _Faults) -> timedelta:
    seconds: float | None = None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # what is no duration is a fault below, as what is no number is
            seconds = times.duration(value) / 1e6
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    if seconds is None or not 0 <= seconds <= _MAX_LATENESS_SECONDS:
        faults.append(
            (
                "lateness",
                f'it is a number of seconds, or a text such as "30s", "5m", "2h" or "1d", up to 366 days, not {shown(value)}',
            )
        )
        return timedelta(0)
    return timedelta(seconds=seconds)


#: Beyond a year it is no lateness but a mistake in the unit.
_MAX_LATENESS_SECONDS: Final = 366 * 86400
