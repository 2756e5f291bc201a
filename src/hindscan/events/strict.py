"""JSON from foreign hands, read strictly: what two readers would understand differently is refused (promise 5).

The standard reader takes NaN, turns `1e999` into infinity, keeps the last of two equal keys and lets half a surrogate
pair through: values that cannot be stored, compared or sent on, or that mean something else to the next program. Here
each is a fault. The first step of `wire`, and the check of every `Event`'s data, wherever it came from.

A fault is a `ValueError` whose text is the reason; the caller puts it among the event's other faults.
"""

from __future__ import annotations

import json
import math
from typing import Final, NoReturn

__all__ = ["MAX_DEPTH", "compact_json", "json_fault", "parse_json", "shown"]

#: Containers within containers that event data may have: deeper ones serve only to exhaust the stack of some reader.
MAX_DEPTH: Final = 64

#: Digits of the greatest double: a longer whole number is as far out of range as `1e999`, and its conversion takes
#: quadratic time.
_MAX_DIGITS: Final = 309
_MAX_BITS: Final = 1024
_SMALL: Final = 1 << 64

#: Characters of a foreign value that are repeated in a message.
_SHOWN: Final = 80


def shown(value: object) -> str:
    """Give a foreign value as it may stand in a message: short, in printable ASCII, whatever it holds."""
    if isinstance(value, str | bytes):
        text = ascii(value[:_SHOWN])
        return f"{text}... ({len(value)} long)" if len(value) > _SHOWN else text
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= _MAX_BITS):
        return repr(value)
    return f"a value of type {type(value).__name__}"


def compact_json(value: object) -> bytes:
    """Write a JSON value as UTF-8 without superfluous spaces."""
    return _WRITER.encode(value).encode()


def parse_json(body: bytes) -> object:
    """Read one JSON document.

    Nesting is measured by `json_fault`, on the part it concerns; only what exhausts the reader is refused here.

    Raises
    ------
    ValueError
        Bad UTF-8, a byte order mark, no JSON, NaN or infinity, a number beyond any double, an equal key twice, too
        deep.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise ValueError(f"it is not UTF-8: byte 0x{body[fault.start]:02x} at {fault.start}") from fault
    if text.startswith("\ufeff"):
        # RFC 8259, 8.1: "Implementations MUST NOT add a byte order mark (U+FEFF) to the beginning of a
        # networked-transmitted JSON text."
        raise ValueError("it begins with a byte order mark")
    try:
        # A document that is shorter than the longest number has none that is longer.
        return (_READER if len(text) > _MAX_DIGITS else _SHORT_READER).decode(text)
    except json.JSONDecodeError as fault:
        raise ValueError(f"it is not JSON: {fault.msg}, line {fault.lineno} column {fault.colno}") from fault
    except RecursionError as fault:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}") from fault


def json_fault(value: object, where: str = "data", depth: int = 0) -> str | None:
    """Tell why a value cannot be the data of an event, or None.

    Parameters
    ----------
    value : object
        Anything, from a reader or from a program.
    where : str
        Name of the value in the reason.
    depth : int
        Containers around it.
    """
    kind = type(value)
    if kind is str:
        return _text_fault(value, where)
    if kind is bool or value is None:
        return None
    if kind is int:
        fine = value.bit_length() <= _MAX_BITS  # type: ignore[attr-defined]
        return None if fine else f"{where} is a whole number beyond the range of a double"
    if kind is float:
        return None if math.isfinite(value) else f"{where} is {value}, which JSON does not have"  # type: ignore[arg-type]
    if kind is not dict and kind is not list:
        return f"{where} holds {shown(value)}, which JSON does not have"
    if depth >= MAX_DEPTH:
        return f"{where} is nested deeper than {MAX_DEPTH}"
    if kind is dict:
        for name in value:  # type: ignore[attr-defined]
            if type(name) is not str:
                return f"{where} has the key {shown(name)}, which is not a string"
            if not name.isascii() and (fault := _text_fault(name, f"a key of {where}")):
                return fault
        value = value.values()  # type: ignore[attr-defined]
    for part in value:  # type: ignore[attr-defined]
        # The two most frequent cases without a call: this walk is a good part of what an event costs.
        inner = type(part)
        if (inner is str and part.isascii()) or (inner is int and -_SMALL < part < _SMALL):
            continue
        fault = json_fault(part, where, depth + 1)
        if fault is not None:
            return fault
    return None


def _text_fault(text: object, where: str) -> str | None:
    if text.isascii():  # type: ignore[attr-defined]
        return None
    try:
        text.encode()  # type: ignore[attr-defined]
    except UnicodeEncodeError:
        return f"{where} holds half of a surrogate pair"
    return None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # RFC 8259, 4: "When the names within an object are not unique, the behavior of software that receives such an
    # object is unpredictable."
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"it has the key {shown(twice)} twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"it has the number {text[:_SHOWN]}, which is beyond the range of a double")
    return number


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"it has a whole number of {len(text)} digits, which is beyond the range of a double")
    return int(text)


def _refused(name: str) -> NoReturn:
    # RFC 8259, 6: "Numeric values that cannot be represented in the grammar below (such as Infinity and NaN) are not
    # permitted."
    raise ValueError(f"it has {name}, which JSON does not have")


_READER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_int=_whole, parse_constant=_refused
)
_SHORT_READER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refused)
_WRITER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
