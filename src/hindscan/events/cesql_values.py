"""What CESQL's operators and functions give: casts, arithmetic of 32 bits, LIKE, and the built-in functions.

Keeps promise 5 with `cesql`, which parses: an operation gives a value of one of three types or fails with the specification's kind of error, and takes a time linear in
what it is given.

::

    operands (closures over the attributes of an event) -> operator | function -> bool | int | str, or Fault
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from hindscan.events.strict import shown

__all__ = [
    "GREATEST",
    "LEAST",
    "OPERATORS",
    "Attributes",
    "Fault",
    "Kind",
    "Of",
    "Value",
    "attribute",
    "called",
    "constant",
    "exists",
    "function_of",
    "likeness",
    "logic",
    "membership",
    "minus",
    "negation",
    "pattern_of",
]

#: What an expression gives.
Value = bool | int | str
Kind = Literal["parse", "math", "cast", "missingAttribute", "missingFunction", "functionEvaluation"]
Attributes = Mapping[str, Value]
#: An operand: gives its value for an event.
Of = Callable[[Attributes], Value]
_Type = type[bool] | type[int] | type[str]

LEAST, GREATEST = -(2**31), 2**31 - 1
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_NAMES: Final = {bool: "a boolean", int: "an integer", str: "a text"}


class Fault(Exception):
    """An error of the specification, without the words around it."""

    def __init__(self, kind: Kind, reason: str, column: int | None = None) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.column = kind, reason, column


def _cast(value: Value, wanted: _Type) -> Any:
    """Cast a value as the specification has it; gives a value of the type that is wanted."""
    made: Value
    match value, wanted:
        case (bool(), t) if t is bool:
            made = value
        case (bool(), t) if t is str:
            made = "true" if value else "false"
        case (int(), _):
            made = wanted(value)
        case (str(), t) if t is str:
            made = value
        case (str(), t) if t is bool and value.lower() in ("true", "false"):
            made = value.lower() == "true"
        case (str(), t) if t is int and len(value) <= 20 and _INTEGER.fullmatch(value):
            made = int(value)
        case _:
            raise Fault("cast", f"{shown(value)} is not {_NAMES[wanted]}")
    if wanted is int and not LEAST <= int(made) <= GREATEST:
        raise Fault("cast", f"{shown(value)} is not an integer of 32 bits")
    return made


def constant(value: Value, _: Attributes) -> Value:
    """Give a literal."""
    return value


def attribute(name: str, attributes: Attributes) -> Value:
    """Give an attribute of the event, which it must have."""
    value = attributes.get(name)
    if value is None:
        raise Fault("missingAttribute", f"{name} is absent")
    return value


def exists(name: str, attributes: Attributes) -> bool:
    """Tell whether the event has an attribute."""
    return name in attributes


def negation(operand: Of, attributes: Attributes) -> bool:
    """Give NOT."""
    return not _cast(operand(attributes), bool)


def minus(operand: Of, attributes: Attributes) -> int:
    """Give the number with the other sign."""
    return _fitting(-_cast(operand(attributes), int))


def logic(stops_at: bool, parts: Sequence[Of], attributes: Attributes) -> bool:
    """Give AND (stops at the first false) or OR (at the first true): what comes after is not evaluated."""
    return stops_at if any(_cast(part(attributes), bool) is stops_at for part in parts) else not stops_at


def _xor(left: Of, right: Of, attributes: Attributes) -> bool:
    return _cast(left(attributes), bool) is not _cast(right(attributes), bool)


def _equal(expected: bool, left: Of, right: Of, attributes: Attributes) -> bool:
    first, second = left(attributes), right(attributes)
    # The type of the right operand decides.
    return (_cast(first, type(second)) == second) is expected


def _compared(test: Callable[[int, int], bool], left: Of, right: Of, attributes: Attributes) -> bool:
    first, second = left(attributes), right(attributes)
    return test(_cast(first, int), _cast(second, int))


def _computed(operation: Callable[[int, int], int], left: Of, right: Of, attributes: Attributes) -> int:
    first, second = left(attributes), right(attributes)
    return _fitting(operation(_cast(first, int), _cast(second, int)))


def _fitting(number: int) -> int:
    if not LEAST <= number <= GREATEST:
        raise Fault("math", f"{number} does not fit 32 bits")
    return number


def _divided(first: int, second: int) -> int:
    """Divide towards zero."""
    if second == 0:
        raise Fault("math", "a division by zero")
    quotient = abs(first) // abs(second)
    return quotient if (first < 0) == (second < 0) else -quotient


def _remainder(first: int, second: int) -> int:
    return first - second * _divided(first, second)


OPERATORS: Final[dict[str, Callable[[Of, Of, Attributes], Value]]] = {
    "XOR": _xor,
    "=": functools.partial(_equal, True),
    "!=": functools.partial(_equal, False),
    "<>": functools.partial(_equal, False),
    "<": functools.partial(_compared, int.__lt__),
    "<=": functools.partial(_compared, int.__le__),
    ">": functools.partial(_compared, int.__gt__),
    ">=": functools.partial(_compared, int.__ge__),
    "+": functools.partial(_computed, int.__add__),
    "-": functools.partial(_computed, int.__sub__),
    "*": functools.partial(_computed, int.__mul__),
    "/": functools.partial(_computed, _divided),
    "%": functools.partial(_computed, _remainder),
}


def membership(left: Of, members: Sequence[Of], negated: bool, attributes: Attributes) -> bool:
    """Give IN."""
    value = left(attributes)
    # The set is made before it is asked; the type of the left operand decides.
    found = [_cast(member(attributes), type(value)) for member in members]
    return (value in found) is not negated


class _Piece(NamedTuple):
    """What stands between two wildcards % of a pattern: texts of one length."""

    text: re.Pattern[str]
    length: int


def pattern_of(pattern: str) -> Sequence[_Piece]:
    """Compile a LIKE pattern."""
    pieces: list[list[str]] = [[]]
    for escaped, one in re.findall(r"\\([%_])|(.)", pattern, re.DOTALL):
        if one == "%":
            pieces.append([])
        else:
            pieces[-1].append("." if one == "_" else re.escape(escaped or one))
    return [_Piece(re.compile("".join(piece), re.DOTALL), len(piece)) for piece in pieces]


def likeness(left: Of, pattern: Sequence[_Piece], negated: bool, attributes: Attributes) -> bool:
    """Give LIKE."""
    return _matches(_cast(left(attributes), str), pattern) is not negated


def _matches(text: str, pattern: Sequence[_Piece]) -> bool:
    """Match the first piece at the beginning, the last at the end, and each between at its first place: no other can be better, so nothing is tried twice."""
    first, *middle = pattern
    if not middle:
        return first.text.fullmatch(text) is not None
    *middle, last = middle
    end = len(text) - last.length
    if first.length > end or first.text.match(text) is None or last.text.fullmatch(text, end) is None:
        return False
    at = first.length
    for piece in middle:
        found = piece.text.search(text, at, end)
        if found is None:
            return False
        at = found.end()
    return True


# --- Functions ----------------------------------------------------------------------------------------------------------


class _Function(NamedTuple):
    call: Callable[..., Value]
    takes: tuple[_Type, ...]
    #: Type of any further arguments.
    more: _Type | None = None


def called(function: _Function, arguments: Sequence[Of], attributes: Attributes) -> Value:
    """Call a function with its arguments, cast to what it takes."""
    values = [argument(attributes) for argument in arguments]
    types = itertools.chain(function.takes, itertools.repeat(function.more or str))
    return function.call(*map(_cast, values, types))


def _abs(number: int) -> int:
    return _fitting(abs(number))


def _length_fault(length: int) -> None:
    if length < 0:
        raise Fault("functionEvaluation", f"a length is not negative, and {length} is")


def _left(text: str, length: int) -> str:
    _length_fault(length)
    return text[:length]


def _right(text: str, length: int) -> str:
    _length_fault(length)
    return text[max(len(text) - length, 0) :]


def _substring(text: str, position: int, length: int | None = None) -> str:
    if position == 0:
        return ""
    if not -len(text) <= position <= len(text):
        raise Fault("functionEvaluation", f"a text of {len(text)} characters has no position {position}")
    if length is not None:
        _length_fault(length)
    first = position - 1 if position > 0 else len(text) + position
    return text[first : None if length is None else first + length]


_FUNCTIONS: Final[dict[str, tuple[_Function, ...]]] = {
    "INT": (_Function(int, (int,)),),
    "BOOL": (_Function(bool, (bool,)),),
    "STRING": (_Function(str, (str,)),),
    "ABS": (_Function(_abs, (int,)),),
    "LENGTH": (_Function(len, (str,)),),
    "CONCAT": (_Function(lambda *texts: "".join(texts), (), str),),
    "CONCAT_WS": (_Function(lambda between, *texts: between.join(texts), (str,), str),),
    "LOWER": (_Function(str.lower, (str,)),),
    "UPPER": (_Function(str.upper, (str,)),),
    "TRIM": (_Function(str.strip, (str,)),),
    "LEFT": (_Function(_left, (str, int)),),
    "RIGHT": (_Function(_right, (str, int)),),
    "SUBSTRING": (_Function(_substring, (str, int)), _Function(_substring, (str, int, int))),
}


def function_of(name: str, arity: int) -> _Function | None:
    """Find a function by its name and how many arguments it gets."""
    for function in _FUNCTIONS.get(name, ()):
        if arity == len(function.takes) or (function.more is not None and arity > len(function.takes)):
            return function
    return None
