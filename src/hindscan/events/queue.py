"""The queue of a trigger: in which order its runs go, how many at once, which of them take the place of others, and what becomes of one that fails.

Keeps promise 13 as far as it is a matter of the event: `order_key` says after which others its run goes, `key` what its run is counted, replaced and gathered by.
Both are pure. What they mean for runs that wait is in `runs.waiting`.

::

    [triggers.NAME] -> queue_from_toml -> Queue;  Queue + Event -> order_key, key -> ledger.Decision
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from hindscan import times
from hindscan.errors import FilterSyntaxError, MappingError
from hindscan.events.path import Path, compile_path
from hindscan.events.strict import shown
from hindscan.retries import Retries, retries_from

if TYPE_CHECKING:
    from hindscan.events.event import Event

__all__ = ["KEYS", "MOST_SECONDS", "Queue", "queue_from_toml", "seconds_from"]

_Faults = list[tuple[str, str]]
_ORDERS: Final = ("none", "partition", "subject")

#: The settings of a trigger that are about its queue.
KEYS: Final = (
    "run_order",
    "on_failed",
    "key",
    "concurrency",
    "supersede",
    "debounce",
    "priority",
    "retries",
    "time_limit",
)

#: Beyond a year it is no wait but a mistake in the unit.
MOST_SECONDS: Final = 366 * 86400
_MOST_PRIORITY: Final = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """How the runs of one trigger queue.

    Parameters
    ----------
    order : "none", "partition" or "subject"
        Runs of one partition, or of one subject, go strictly one after another.
    on_failed : "block" or "skip"
        Whether a run that failed holds back the later ones of its partition or subject.
    by : Path | None
        What of the event is its key; None: the subject.
    total, per_key : int | None
        How many runs may run at once: of the trigger, of one key.
    supersede : bool
        A new run takes the place of those of its key that wait.
    quiet_seconds, at_most_seconds : float | None
        A run waits until no event of its key has come for so long, at most so long after the first, and is the run of all of them.
    priority : int
        Of two runs that may start the one of the higher priority does.
    retries : Retries | None
        Whether a run that fails is tried again; None: as its job says.
    time_limit_seconds : float | None
        How long a run may take; None: as its job says.
    """

    order: Literal["none", "partition", "subject"] = "none"
    on_failed: Literal["block", "skip"] = "block"
    by: Path | None = None
    total: int | None = None
    per_key: int | None = None
    supersede: bool = False
    quiet_seconds: float | None = None
    at_most_seconds: float | None = None
    priority: int = 0
    retries: Retries | None = None
    time_limit_seconds: float | None = None

    @property
    def blocks(self) -> bool:
        """Whether a run that failed holds back others."""
        return self.order != "none" and self.on_failed == "block"

    def order_key(self, trigger: str, event: Event, partition: str) -> str | None:
        """Say after which other runs the event's run goes: after those of an equal key; None: after none.

        Parameters
        ----------
        trigger : str
            Whose queue it is.
        event : Event
            The event.
        partition : str
            Where it came from: a partition of a topic, or another way in, which counts as one.
        """
        if self.order == "none":
            return None
        # Events without a subject are one sequence of their own: nothing says that their order does not count.
        return f"{trigger}/{self.order}/{partition if self.order == 'partition' else event.subject or ''}"

    def key(self, event: Event) -> str | None:
        """Say what the event's run is counted, replaced and gathered by; None where the queue does none of this.

        Raises
        ------
        MappingError
            The path fails on this event.
        """
        if self.per_key is None and not self.supersede and self.quiet_seconds is None:
            return None
        if self.by is None:
            return event.subject or ""
        try:
            found = self.by.search(event.to_json())
        except ValueError as fault:
            raise MappingError(
                f"While taking the key of event {shown(event.id)} of {shown(event.source)}: {self.by.expression!r} must have a value; {fault}. "
                "Correct the producer or `key`, then redrive the event.",
                source=event.source,
                id=event.id,
            ) from fault
        if found is None or isinstance(found, str):
            return found or ""
        return json.dumps(found, sort_keys=True, separators=(",", ":"))


def queue_from_toml(table: Mapping[str, Any], faults: _Faults) -> Queue:
    """Read the settings of a trigger that are about its queue.

    Parameters
    ----------
    table : mapping
        The trigger's table in the project file.
    faults : list
        Gets what is wrong, each with its field.
    """
    order = _one_of("run_order", table.get("run_order", "none"), _ORDERS, faults)
    on_failed = _one_of("on_failed", table.get("on_failed", "block"), ("block", "skip"), faults)
    if "on_failed" in table and order == "none":
        faults.append(("on_failed", 'it is about runs in order, and run_order is "none"'))
    total, per_key = _concurrency(table.get("concurrency"), faults)
    quiet, at_most = _debounce(table.get("debounce"), faults)
    by, supersede = _by(table.get("key"), faults), table.get("supersede", False)
    if not isinstance(supersede, bool):
        faults.append(("supersede", f"it is true or false, not {shown(supersede)}"))
    if supersede is True and quiet is not None:
        faults.append(("supersede", "with debounce a newer event shares the run that waits; leave one of the two out"))
    if quiet is not None and (order == "partition" or (order == "subject" and by is not None)):
        faults.append(
            (
                "debounce",
                "events that share a run are of one key, and runs in order of another; leave one of the two out",
            )
        )
    if by is not None and per_key is None and supersede is not True and quiet is None:
        faults.append(
            ("key", "it is what concurrency.per_key, supersede and debounce go by, and there is none of them")
        )
    return Queue(
        order=order,  # type: ignore[arg-type]
        on_failed=on_failed,  # type: ignore[arg-type]
        by=by,
        total=total,
        per_key=per_key,
        supersede=supersede is True,
        quiet_seconds=quiet,
        at_most_seconds=at_most,
        priority=_whole("priority", table.get("priority", 0), -_MOST_PRIORITY, faults) or 0,
        retries=_retries(table.get("retries"), faults),
        time_limit_seconds=_positive("time_limit", table.get("time_limit"), faults),
    )


def seconds_from(value: object) -> float | None:
    """Read a length of time: seconds, or a text such as ``30s``; None where it is neither, or beyond a year."""
    seconds: float | None = None
    if isinstance(value, str):
        with contextlib.suppress(
            ValueError
        ):  # what is no duration is a fault of the caller's field, as what is no number is
            seconds = times.duration(value) / 1e6
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    return seconds if seconds is not None and 0 <= seconds <= MOST_SECONDS else None


def _one_of(name: str, value: object, known: Collection[str], faults: _Faults) -> str:
    first, *_ = known
    if value not in known:
        faults.append((name, f"it is one of {', '.join(map(repr, known))}, not {shown(value)}"))
        return first
    return str(value)


def _concurrency(value: object, faults: _Faults) -> tuple[int | None, int | None]:
    if not isinstance(value, Mapping):
        return _whole("concurrency", value, 1, faults), None
    for name in value:
        if name not in ("total", "per_key"):
            faults.append((f"concurrency.{name}", "there is no such setting; there are total and per_key"))
    return (
        _whole("concurrency.total", value.get("total"), 1, faults),
        _whole("concurrency.per_key", value.get("per_key"), 1, faults),
    )


def _debounce(value: object, faults: _Faults) -> tuple[float | None, float | None]:
    if not isinstance(value, Mapping):
        return _positive("debounce", value, faults), None
    for name in value:
        if name not in ("quiet", "at_most"):
            faults.append((f"debounce.{name}", "there is no such setting; there are quiet and at_most"))
    quiet = _positive("debounce.quiet", value.get("quiet"), faults)
    if "quiet" not in value:
        faults.append(("debounce.quiet", "it must say for how long no event comes before the run starts"))
    at_most = _positive("debounce.at_most", value.get("at_most"), faults)
    if quiet is not None and at_most is not None and at_most < quiet:
        faults.append(("debounce.at_most", "it is shorter than quiet, which then means nothing"))
    return quiet, at_most


def _by(value: object, faults: _Faults) -> Path | None:
    if value is None:
        return None
    try:
        return compile_path(value)
    except FilterSyntaxError as wrong:
        faults.append(("key", f"{shown(value)}, column {wrong.details['column']}: {wrong.details['reason']}"))
        return None


def _whole(name: str, value: object, least: int, faults: _Faults) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST_PRIORITY:
        faults.append((name, f"it is a whole number from {least} to {_MOST_PRIORITY}, not {shown(value)}"))
        return None
    return value


def _positive(name: str, value: object, faults: _Faults) -> float | None:
    if value is None:
        return None
    seconds = seconds_from(value)
    if not seconds:
        faults.append((name, f'it is a number of seconds above 0, or a text such as "30s" or "5m", not {shown(value)}'))
        return None
    return seconds


def _retries(value: object, faults: _Faults) -> Retries | None:
    if value is None:
        return None
    try:
        return retries_from(value)
    except ValueError as fault:
        faults.append(("retries", str(fault)))
        return None
