"""How records that are not CloudEvents are wrapped, as it is declared: `format`, `event`, `registry`, `confirm` and `unsigned` of a trigger.

Keeps promise 5 before anything happens, like `declared`, whose part this is: every fault with its field, when the project file is loaded.

::

    format, event, registry, confirm, unsigned -> wrapping_from_toml -> Wrapping, or None for CloudEvents
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from hindscan.errors import FilterSyntaxError
from hindscan.events.attributes import attribute_name_fault
from hindscan.events.path import Path, compile_path
from hindscan.events.sns import topic_fault
from hindscan.events.strict import shown
from hindscan.events.wrapping import FORMATS, IN_REGISTRY, UNITS, AttributeMapping, Wrapping

__all__ = ["wrapping_from_toml"]

_Faults = list[tuple[str, str]]
#: Attributes that are not a record's to say.
_OURS: Final = {"specversion": "it is always 1.0", "datacontenttype": "it is always application/json"}


def wrapping_from_toml(table: Mapping[str, Any], kinds: Collection[str], faults: _Faults) -> Wrapping | None:
    """Read how a trigger's records are wrapped; None where they are CloudEvents.

    Parameters
    ----------
    table : Mapping[str, Any]
        The trigger's.
    kinds : Collection[str]
        Kinds of its sources.
    faults : list
        Where faults are added, each with its field.
    """
    format_ = table.get("format", "json" if "event" in table else "cloudevents")
    if format_ not in FORMATS:
        faults.append(("format", f"it is one of {', '.join(FORMATS)}, not {shown(format_)}"))
        return None
    if "registry" in table and format_ not in IN_REGISTRY:
        faults.append(("registry", f"it is for the formats {', '.join(IN_REGISTRY)}, and the format is {format_}"))
    confirm, unsigned = _confirm(table, kinds, faults), table.get("unsigned", False)
    _only_of_sns("unsigned", table, kinds, faults)
    if not isinstance(unsigned, bool):
        faults.append(("unsigned", f"it is true or false, not {shown(unsigned)}"))
    if format_ == "cloudevents":
        if "event" in table:
            faults.append(("event", "CloudEvents have their attributes; it is for records that are none"))
        return None
    if kinds and not {"kafka", "http"} & set(kinds):
        faults.append(("format", "it is for records of kafka: and bodies of http, and the trigger has neither"))
    if format_ == "s3" and "event" in table:
        faults.append(("event", "what S3 says has its own mapping; leave it out"))
        return None
    written = table.get("event", {})
    if not isinstance(written, Mapping):
        faults.append(
            ("event", f"it must be a table of attributes and where they stand in the record, and is {shown(written)}")
        )
        return None
    found = [_attribute(name, value, faults) for name, value in written.items() if name != "data"]
    attributes = tuple(mapping for mapping in found if mapping is not None)
    if "http" in kinds and format_ != "s3" and not {"id", "source"} <= set(written):
        faults.append(("event", "what comes over http stands nowhere, so the mapping must name its id and its source"))
    registry = table.get("registry", "default")
    if not isinstance(registry, str):
        faults.append(("registry", f"it is the name of a [registry.NAME], not {shown(registry)}"))
    data = _path("event.data", written["data"], faults) if "data" in written else None
    return Wrapping(
        format=format_,
        attributes=attributes,
        data=data,
        registry=str(registry),
        confirm=confirm,
        unsigned=unsigned is True,
    )


def _confirm(table: Mapping[str, Any], kinds: Collection[str], faults: _Faults) -> tuple[str, ...]:
    """Read which SNS topics may send, and have their subscriptions confirmed."""
    written = table.get("confirm", [])
    if not isinstance(written, list):
        faults.append(("confirm", f"it is a list of SNS topics, not {shown(written)}"))
        return ()
    _only_of_sns("confirm", table, kinds, faults)
    wrong = [fault for topic in written if (fault := topic_fault(topic)) is not None]
    faults += [("confirm", fault) for fault in wrong]
    return () if wrong else tuple(written)


def _only_of_sns(name: str, table: Mapping[str, Any], kinds: Collection[str], faults: _Faults) -> None:
    if name in table and (table.get("format") != "s3" or (kinds and "http" not in kinds)):
        faults.append((name, "it is for notifications (format s3) that come over http"))


def _attribute(name: str, value: Any, faults: _Faults) -> AttributeMapping | None:
    place = f"event.{name}"
    wrong = _OURS.get(name) or attribute_name_fault(name)
    if wrong is not None:
        faults.append((place, wrong))
        return None
    unit: Any = None
    if isinstance(value, dict):
        if name != "time" or set(value) != {"path", "unit"} or value["unit"] not in UNITS:
            faults.append(
                (
                    place,
                    f"only time takes a table, with path and unit ({', '.join(UNITS)}); found {', '.join(map(shown, value))}",
                )
            )
            return None
        value, unit = value["path"], value["unit"]
    path = _path(place, value, faults)
    return None if path is None else AttributeMapping(name=name, path=path, unit=unit)


def _path(place: str, value: object, faults: _Faults) -> Path | None:
    try:
        return compile_path(value)
    except FilterSyntaxError as wrong:
        faults.append((place, f"{shown(value)}, column {wrong.details['column']}: {wrong.details['reason']}"))
        return None
