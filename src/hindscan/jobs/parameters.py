"""Parameters of a job: values against their types.

Keeps promises 5 and 12: what an event, a request or a command line gives is data, checked against data. From the types of
`jobs.language` alone everybody can validate (`validate`), publish a JSON Schema (`json_schema`) and, where the user's code is loaded, give the
function the Python values it asked for (`python_values`). Validated values are JSON-able and canonical: equal parameters make equal keys.

::

    Parameter.type + given -> validate -> canonical values -> keys, python_values -> the function
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
import enum
import inspect
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from hindscan.errors import ParameterError
from hindscan.jobs.job import JobSpec, Parameter
from hindscan.jobs.language import Type, msgspec_type, parse

__all__ = ["NAMED_OPTIONS", "evaluated", "json_schema", "python_values", "validate"]

#: Options of a run; a parameter of that name could never be given.
NAMED_OPTIONS = frozenset({"as_of", "since", "until", "seed", "draws", "stop", "fresh", "workers", "priority"})


def json_schema(spec: JobSpec) -> dict[str, Any]:
    """Describe a job's parameters as a JSON Schema (2020-12) of one object."""
    properties: dict[str, Any] = {}
    for parameter in spec.parameters:
        described = _schema(parse(parameter.type))
        if parameter.doc:
            described["description"] = parameter.doc
        if not parameter.required:
            described["default"] = parameter.default
        properties[parameter.name] = described
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": spec.name,
        **({"description": spec.doc} if spec.doc else {}),
        "type": "object",
        "properties": properties,
        "required": [parameter.name for parameter in spec.parameters if parameter.required],
        "additionalProperties": False,
    }


def _schema(parsed: Type) -> dict[str, Any]:
    if parsed.base == "literal":
        return {"enum": [*parsed.values, *([None] if parsed.optional else [])]}
    if parsed.item is not None:
        schema: dict[str, Any] = {"type": "array", "items": _schema(parsed.item)}
        names = {"min_length": "minItems", "max_length": "maxItems"}
        schema |= {names[name]: value for name, value in parsed.bounds}
        return {"anyOf": [schema, {"type": "null"}]} if parsed.optional else schema
    return msgspec.json.schema(msgspec_type(parsed))


# Values ----------------------------------------------------------------------------------------------------------


class _Fault(ValueError):
    """What is wrong with one value, worded to follow the parameter's name."""


def validate(
    parameters: Sequence[Parameter], given: Mapping[str, object], *, from_text: bool = False
) -> dict[str, object]:
    """Check the parameters of a run and fill in the defaults.

    Parameters
    ----------
    parameters : sequence of Parameter
        What the job declares.
    given : mapping
        What the caller gives. JSON values; from Python also dates, datetimes, members of enums and numpy scalars.
    from_text : bool, default False
        The values are strings from a command line: ``year=2018`` is then the number.

    Returns
    -------
    dict
        Every parameter of the job, in its order, as canonical JSON values: dates as ``2018-01-01``, times as
        ``2018-01-01T00:00:00Z``, floats as floats.

    Raises
    ------
    hindscan.errors.ParameterError
        All faults at once: unknown names, missing ones, wrong types, values out of bounds.
    """
    known = [parameter.name for parameter in parameters]
    faults = [{"parameter": name, "fault": _unknown(name, known)} for name in given if name not in known]
    values: dict[str, object] = {}
    for parameter in parameters:
        if parameter.name not in given:
            if parameter.required:
                faults.append(
                    {
                        "parameter": parameter.name,
                        "fault": f"is missing; it is required and {parse(parameter.type).named}",
                    }
                )
            else:
                values[parameter.name] = parameter.default
            continue
        try:
            values[parameter.name] = _checked(parse(parameter.type), given[parameter.name], from_text)
        except _Fault as fault:
            faults.append({"parameter": parameter.name, "fault": str(fault)})
    if faults:
        listed = "; ".join(f"`{fault['parameter']}` {fault['fault']}" for fault in faults)
        raise ParameterError(
            f"Checking the parameters of the job: {listed}. Give {_signature(parameters)}.", faults=faults
        )
    return values


def _signature(parameters: Sequence[Parameter]) -> str:
    if not parameters:
        return "none: the job has no parameters"
    return ", ".join(f"{p.name}: {p.type}" + ("" if p.required else f" = {json.dumps(p.default)}") for p in parameters)


def _unknown(name: str, known: list[str]) -> str:
    if name in NAMED_OPTIONS:
        return f"is an option of a run, not a parameter; give it as an option (--{name.replace('_', '-')}, {name}=)"
    near = difflib.get_close_matches(name, known, n=1)
    return "is no parameter of this job" + (f"; did you mean `{near[0]}`?" if near else "")


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


def _checked(parsed: Type, value: object, from_text: bool) -> object:
    """Check one value and make it canonical."""
    if isinstance(value, enum.Enum):
        value = value.value
    elif type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    if value is None or (
        from_text and parsed.optional and isinstance(value, str) and value.lower() in ("null", "none")
    ):
        if parsed.optional:
            return None
        raise _Fault(f"must be {parsed.named}, and is null")
    if parsed.base == "literal":
        return _checked_literal(parsed, value, from_text)
    if parsed.item is not None:
        return _checked_list(parsed, parsed.item, value, from_text)
    if from_text and isinstance(value, str):
        value = _from_text(parsed, value)
    if parsed.base in ("date", "datetime"):
        return _checked_time(parsed, value)
    if parsed.base == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise _Fault(f"must be {parsed.named}, and is too large: {_shown(value)}") from None
        if not math.isfinite(value):
            raise _Fault(f"must be a finite number, and is {value}")
    if parsed.base == "int" and type(value) is int and not -(2**63) <= value < 2**63:
        raise _Fault(f"must fit 64 bits, and is {_shown(value)}")
    if parsed.base == "str" and isinstance(value, str) and not _encodable(value):
        raise _Fault("must be text, and holds a lone surrogate")
    return _converted(parsed, value)


def _converted(parsed: Type, value: object) -> object:
    try:
        return msgspec.convert(value, msgspec_type(dataclasses.replace(parsed, optional=False)))
    except msgspec.ValidationError as error:
        raise _Fault(f"must be {parsed.named}, and is {_shown(value)} [{error}]") from None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked_literal(parsed: Type, value: object, from_text: bool) -> object:
    for allowed in parsed.values:
        # True == 1 in Python, and they are different values in JSON.
        if type(allowed) is type(value) and allowed == value:
            return allowed
        if (
            from_text
            and isinstance(value, str)
            and value == (allowed if isinstance(allowed, str) else json.dumps(allowed))
        ):
            return allowed
    listed = [str(allowed) for allowed in parsed.values]
    near = difflib.get_close_matches(str(value), listed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise _Fault(f"must be one of {', '.join(json.dumps(v) for v in parsed.values)}, and is {_shown(value)}{hint}")


def _checked_list(parsed: Type, item: Type, value: object, from_text: bool) -> object:
    if from_text and isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                value, from_text = json.loads(value), False
            except json.JSONDecodeError as error:
                raise _Fault(f"must be {parsed.named}, and is no JSON array: {error}") from None
        else:
            value = [part.strip() for part in value.split(",")] if value.strip() else []
    if not isinstance(value, list | tuple):
        raise _Fault(f"must be {parsed.named}, and is {_shown(value)}")
    checked: list[object] = []
    for index, member in enumerate(value):
        try:
            checked.append(_checked(item, member, from_text))
        except _Fault as fault:
            raise _Fault(f"at position {index} {fault}") from None
    bounds = dict(parsed.bounds)
    if (
        not typing.cast("int", bounds.get("min_length", 0))
        <= len(checked)
        <= typing.cast("float", bounds.get("max_length", math.inf))
    ):
        raise _Fault(f"must be {parsed.named}, and has {len(checked)} values")
    return checked


def _from_text(parsed: Type, text: str) -> object:
    """Read a command line's string as JSON would have given it."""
    if parsed.base == "bool":
        words = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if text.lower() not in words:
            raise _Fault(f"must be {parsed.named} (true or false), and is {_shown(text)}")
        return words[text.lower()]
    if parsed.base in ("int", "float"):
        # int() alone would also take "2_018" and full-width digits.
        pattern = r"[+-]?[0-9]{1,40}" if parsed.base == "int" else r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
        if not re.fullmatch(pattern, text.strip()):
            raise _Fault(f"must be {parsed.named}, and is {_shown(text)}")
        return int(text) if parsed.base == "int" else float(text)
    return text


def _checked_time(parsed: Type, value: object) -> str:
    if isinstance(value, str):
        value = _time_from_text(parsed, value.strip())
    if not isinstance(value, dt.date):
        raise _Fault(f"must be {parsed.named}, and is {_shown(value)}")
    if parsed.base == "date":
        if isinstance(value, dt.datetime):
            raise _Fault(f"must be a date, and has a time of day: {_shown(value)}")
        return value.isoformat()
    if not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC)
    moment = dt.datetime.fromisoformat(value.isoformat())  # a subclass (pandas) becomes the plain type
    try:
        moment = moment.astimezone(dt.UTC) if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    except OverflowError:
        raise _Fault(f"must be {parsed.named} between the years 1 and 9999 in UTC, and is {_shown(value)}") from None
    return moment.isoformat().replace("+00:00", "Z")


def _time_from_text(parsed: Type, text: str) -> dt.date:
    # fromisoformat also takes "20180101" and weeks, which nobody else reads: the written form is fixed here.
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return dt.date.fromisoformat(text)
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?([Zz]|[+-]\d{2}:\d{2})?", text):
            return dt.datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise _Fault(f"must be {parsed.named}, and is {_shown(text)} [{error}]") from None
    raise _Fault(f"must be {parsed.named} (2018-01-31 or 2018-01-31T12:00:00Z), and is {_shown(text)}")


def python_values(
    parameters: Sequence[Parameter], values: Mapping[str, object], function: Callable[..., Any] | None = None
) -> dict[str, Any]:
    """Turn canonical values into what a function asked for: dates, aware UTC datetimes, members of enums.

    Parameters
    ----------
    parameters : sequence of Parameter
        What the job declares, the names in `values` at least.
    values : mapping
        What `validate` gave.
    function : callable, optional
        Whose annotations name the enums. Default: their values stay values.
    """
    types_by_name = {parameter.name: parse(parameter.type) for parameter in parameters}
    made = {name: _python_value(types_by_name[name], value) for name, value in values.items()}
    if function is not None and any(_has_literal(types_by_name[name]) for name in values):
        signature = inspect.signature(function).parameters
        namespace = getattr(inspect.unwrap(function), "__globals__", {})
        for name in values:
            if _has_literal(types_by_name[name]):
                one = signature[name]
                annotation = type(one.default) if one.annotation is one.empty else evaluated(one.annotation, namespace)
                made[name] = _with_members(annotation, made[name])
    return made


def evaluated(annotation: object, namespace: Mapping[str, Any]) -> object:
    """Evaluate one annotation where it was written; only where the user's code runs anyway.

    One by one: that of the result, or of another parameter, may need what is imported for the type checker only.

    Raises
    ------
    ValueError
        It cannot be evaluated.
    """
    if not isinstance(annotation, str):
        return annotation
    holder = type("annotated", (), {"__annotations__": {"it": annotation}})
    try:
        return typing.get_type_hints(holder, globalns=dict(namespace), include_extras=True)["it"]
    except Exception as error:
        raise ValueError(f"has an annotation that cannot be evaluated, `{annotation}` ({error})") from error


def _has_literal(parsed: Type) -> bool:
    return parsed.base == "literal" or (parsed.item is not None and _has_literal(parsed.item))


def _with_members(annotation: object, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return annotation(value)
    inner = [one for one in typing.get_args(annotation) if one is not type(None)]
    if typing.get_origin(annotation) is list:
        return [_with_members(inner[0], member) for member in value]
    if typing.get_origin(annotation) in (Annotated, typing.Union, types.UnionType):
        return _with_members(inner[0], value)
    return value


def _python_value(parsed: Type, value: object) -> object:
    if value is None:
        return None
    if parsed.item is not None:
        return [_python_value(parsed.item, member) for member in typing.cast("list[object]", value)]
    if parsed.base == "date":
        return dt.date.fromisoformat(typing.cast("str", value))
    if parsed.base == "datetime":
        return dt.datetime.fromisoformat(typing.cast("str", value))
    return value
