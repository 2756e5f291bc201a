"""What is asked for over HTTP: bodies of requests as the values that the rest of hindscan takes, or all that is wrong with them.

Whatever is unknown, or of the wrong kind, is refused by name before anything is opened. JSON has no times and no lengths of time, and names of its members are
texts: here they become what they mean. What a job's parameters may be is the job's matter (`planning.ask`).

::

    body -> option_values -> parameters, options -> planning.ask
         -> swept_points, again_values: what only a submission, or only a rerun, takes; read_past: replays and audits
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

import msgspec

from hindscan import times
from hindscan.errors import UsageError

__all__ = ["AuditAsked", "PastAsked", "ReplayAsked", "again_values", "option_values", "read_past", "swept_points"]

_TIMES: Final = ("as_of", "since", "until")
#: What a store can hold.
_Int = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
#: Type of each of the others.
_OPTIONS: Final[Mapping[str, Any]] = {
    "offsets": dict[_Int, tuple[_Int | None, _Int | None]],
    "partitions": list[_Int],
    "keys": list[str],
    "seed": _Int,
    "draws": _Int,
    "stop": dict[str, Any],
    "workers": _Int,
    "priority": _Int,
    "fresh": bool,
    "allow_failed": _Int | float,
    "histories": dict[str, str],
}


class PastAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a look at the past is asked for: when events came in, half-open."""

    since: str | None = None
    until: str | None = None

    @property
    def since_micros(self) -> int | None:
        """Give `since` in microseconds since the epoch."""
        return None if self.since is None else times.from_text(self.since)

    @property
    def until_micros(self) -> int | None:
        """Give `until` in microseconds since the epoch."""
        return None if self.until is None else times.from_text(self.until)


class ReplayAsked(PastAsked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a replay is asked for; see `replaying.Replay`."""

    name: str | None = None
    repin: bool = False
    from_topic: bool = False
    dry_run: bool = False


class AuditAsked(PastAsked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an audit is asked for; see `auditing.Audit`."""

    repair: bool = False


_A = TypeVar("_A", bound=PastAsked)


def read_past(doing: str, body: Mapping[str, Any], kind: type[_A]) -> _A:
    """Read the body of a replay or an audit.

    Raises
    ------
    hindscan.errors.UsageError
        A member is unknown or of the wrong kind, or a time is none.
    """
    try:
        asked = msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{doing}: {error}. Members are {', '.join(kind.__struct_fields__)}.") from None
    for name, text in (("since", asked.since), ("until", asked.until)):
        try:
            if text is not None:
                times.from_text(text)
        except ValueError as error:
            raise UsageError(f"{doing}: {name}: it {error}.") from None
    return asked


class _Again(msgspec.Struct, frozen=True):
    """What only a rerun takes."""

    latest: bool = False
    slices: tuple[_Int, ...] = ()


def again_values(body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split off what only a rerun takes."""
    names = _Again.__struct_fields__
    try:
        again = msgspec.convert({name: body[name] for name in names if body.get(name) is not None}, _Again)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"Asking for a run again: {error}. latest is true or false, slices a list of positions."
        ) from None
    return msgspec.structs.asdict(again), {name: value for name, value in body.items() if name not in names}


def swept_points(body: Mapping[str, Any]) -> tuple[tuple[dict[str, Any], ...] | None, dict[str, Any]]:
    """Split off the points of a sweep, which only a submission takes: the values of parameters by their names, or the points themselves."""
    from hindscan.sweeping import given_points

    rest = dict(body)
    try:
        sweep = msgspec.convert(rest.pop("sweep", None), dict[str, list[Any]] | list[dict[str, Any]] | None)
    except msgspec.ValidationError as error:
        raise UsageError(
            f'Asking for a run: sweep must be like {{"reserve": [10, 20]}}, or a list of points; {error}.'
        ) from None
    return None if sweep is None else given_points(sweep), rest


def option_values(body: Mapping[str, Any], *others: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the body of a submission into parameters and options of the run.

    Parameters
    ----------
    body : mapping
        What is left of it.
    *others : str
        Members that were split off before.

    Raises
    ------
    hindscan.errors.UsageError
        With every member that is unknown or of the wrong kind.
    """
    faults: list[str] = []
    options: dict[str, Any] = {}
    parameters = body.get("parameters", {})
    if not isinstance(parameters, dict):
        faults.append("parameters: must be an object")
        parameters = {}
    for name, value in body.items():
        if name == "parameters" or value is None:
            continue
        if name in _TIMES:
            try:
                options[name] = times.from_text(value if isinstance(value, str) else repr(value))
            except ValueError as error:
                faults.append(f"{name}: {error}")
        elif name == "last":
            try:
                options[name] = times.duration(str(value))
            except ValueError as error:
                faults.append(f"{name}: {error}")
        elif name in _OPTIONS:
            try:
                # Names of members are texts in JSON, numbers of partitions are not.
                options[name] = msgspec.convert(value, _OPTIONS[name], str_keys=True)
            except msgspec.ValidationError as error:
                faults.append(f"{name}: {error}")
        else:
            faults.append(
                f"{name}: no such member; there are parameters, {', '.join((*_TIMES, 'last', *_OPTIONS, *others))}"
            )
    if faults:
        raise UsageError("Asking for a run: " + "; ".join(faults) + ".", faults=faults)
    return parameters, options
