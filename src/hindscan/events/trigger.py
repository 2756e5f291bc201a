"""A trigger: sources of events, a filter, the job to run, and how fields of an event become its parameters (promise 5).

`decide` is the whole of what happens between an event and a run: pure, the same for a live event, a replayed one and a dry run, and never an
exception for what is wrong with an event; that ends in quarantine with its reason and can be redriven. The dispatcher records what it
decides.

::

    hindscan.toml -> declared.trigger_from_toml -> Trigger;  Event + Trigger -> decide -> Decision (matched: parameters)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from hindscan.errors import EventError, MappingError
from hindscan.events.filters import Filter
from hindscan.events.path import Path
from hindscan.events.queue import Queue
from hindscan.events.strict import shown

if TYPE_CHECKING:
    from collections.abc import Collection

    from hindscan.events.event import Event
    from hindscan.events.wrapping import Wrapping

__all__ = [
    "Decision",
    "Missed",
    "ParameterMapping",
    "Source",
    "Trigger",
    "decide",
    "map_parameters",
]

Outcome = Literal["matched", "unmatched", "quarantined"]
Missed = Literal["catch up", "latest", "skip"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where events come from: `http`, a topic of a cluster, a schedule, or a place where files arrive."""

    kind: Literal["kafka", "http", "cron", "files"]
    cluster: str = ""
    topic: str = ""
    #: The expression of a schedule; the folder, glob or URL of files.
    text: str = ""

    def __str__(self) -> str:
        if self.kind == "http":
            return "http"
        if self.kind in ("cron", "files"):
            return f"{self.kind}:{self.text}"
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
    strict : bool
        Whether an absent attribute in a CESQL filter is an error.
    lateness : timedelta
        A run waits until this long after the event's time, so that what arrives late is there.
    paused : bool
        Its events are decided and their runs recorded, but none of them starts.
    was : str
        The name it had: it goes on where that trigger stood in its topics. Empty: it had no other.
    queue : Queue
        In which order its runs go, how many at once, and what becomes of one that fails.
    wrapping : Wrapping | None
        How records that are not CloudEvents become events; None where they are.
    time_zone : str
        Whose clock its schedules go by.
    missed : "catch up", "latest" or "skip"
        What becomes of a schedule's instants that passed while nobody listened: a run for each, for the latest, or none.
    every : timedelta
        How often it is looked whether files have arrived.
    """

    name: str
    sources: tuple[Source, ...]
    job: str
    filter: Filter | None = None
    parameters: tuple[ParameterMapping, ...] = ()
    start: Literal["now", "earliest"] | int = "now"
    as_of: Literal["event"] | None = "event"
    strict: bool = False
    lateness: timedelta = timedelta(0)
    paused: bool = False
    was: str = ""
    queue: Queue = field(default_factory=Queue)
    wrapping: Wrapping | None = None
    time_zone: str = "UTC"
    missed: Missed = "catch up"
    every: timedelta = timedelta(seconds=5)

    def listens_to(self, source: Source) -> bool:
        """Tell whether events of a source are for this trigger to decide."""
        return source in self.sources


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
    parameters: Mapping[str, object] = {}


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
