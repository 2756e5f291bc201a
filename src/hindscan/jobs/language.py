"""The little type language in which a job's parameters are written down.

Keeps promises 5 and 12: a type is text that everybody can read without the user's code. The decorator describes each annotation
(`describe`); `parse` reads the text back, without evaluating anything.

The language::

    type     = base [ "(" bound {"," bound} ")" ] [ "| None" ]
    base     = "int" | "float" | "str" | "bool" | "date" | "datetime"
             | "literal" "[" value {"," value} "]" | "list" "[" type "]"
    bound    = ("ge"|"gt"|"le"|"lt"|"multiple_of"|"pattern"|"min_length"|"max_length") "=" JSON value

::

    annotation -> describe -> Parameter.type -> parse -> Type -> jobs.parameters, msgspec_type
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import json
import re
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

__all__ = ["Type", "describe", "msgspec_type", "parse"]

_SCALARS: dict[str, type] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "date": dt.date,
    "datetime": dt.datetime,
}
_NUMBER_BOUNDS = ("ge", "gt", "le", "lt", "multiple_of")
_LENGTH_BOUNDS = ("max_length", "min_length")
_BOUNDS: dict[str, tuple[str, ...]] = {
    "int": _NUMBER_BOUNDS,
    "float": _NUMBER_BOUNDS,
    "str": (*_LENGTH_BOUNDS, "pattern"),
    "list": _LENGTH_BOUNDS,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Type:
    """One type of the language, parsed."""

    #: One of int, float, str, bool, date, datetime, literal, list.
    base: str
    optional: bool = False
    #: The allowed values of a literal: strings, integers, booleans.
    values: tuple[str | int | bool, ...] = ()
    #: What a list holds.
    item: Type | None = None
    #: Names and JSON values, sorted by name.
    bounds: tuple[tuple[str, object], ...] = ()

    def __post_init__(self) -> None:
        if self.base not in (*_SCALARS, "literal", "list"):
            raise ValueError(f"unknown type {self.base!r}")
        if (self.base == "literal") != bool(self.values) or (self.base == "list") != (self.item is not None):
            raise ValueError(f"{self.base} needs what it consists of")
        for name, value in self.bounds:
            if name not in _BOUNDS.get(self.base, ()):
                raise ValueError(f"{self.base} has no bound {name!r}")
            if (name == "pattern") != isinstance(value, str) or isinstance(value, bool):
                raise ValueError(f"the bound {name} of {self.base} cannot be {value!r}")

    @property
    def named(self) -> str:
        """The type as a sentence has it: "an integer (ge=1)", "a list[str]"."""
        name = {"int": "an integer ", "float": "a number ", "str": "a text "}.get(self.base, f"a {self.base}")
        return (name + str(dataclasses.replace(self, optional=False))[len(self.base) :]).rstrip()

    def __str__(self) -> str:
        text = self.base
        if self.values:
            text += "[" + ", ".join(json.dumps(value) for value in self.values) + "]"
        if self.item is not None:
            text += f"[{self.item}]"
        if self.bounds:
            text += "(" + ", ".join(f"{name}={json.dumps(value)}" for name, value in self.bounds) + ")"
        return text + (" | None" if self.optional else "")


# From Python to text ---------------------------------------------------------------------------------------------


def describe(annotation: object) -> Type:
    """Turn a Python annotation into a type of the language.

    Parameters
    ----------
    annotation : object
        An evaluated annotation: a type, ``Literal``, an ``Enum`` class, ``list[T]``, ``T | None``, ``Annotated[T, msgspec.Meta(...)]``.

    Raises
    ------
    ValueError
        The annotation means nothing in the language.
    """
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _described_with_bounds(*typing.get_args(annotation))
    if origin is typing.Union or origin is types.UnionType:
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        if len(members) != 1:
            raise ValueError(f"{annotation} has several meanings; one type, or one type `| None`, is possible")
        return dataclasses.replace(describe(members[0]), optional=True)
    if origin is Literal:
        return _described_values(typing.get_args(annotation))
    if origin is list:
        (item,) = typing.get_args(annotation)
        return Type(base="list", item=describe(item))
    if isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            return _described_values(tuple(member.value for member in annotation))
        for name, known in _SCALARS.items():
            if annotation is known:
                return Type(base=name)
    raise ValueError(
        f"{getattr(annotation, '__name__', annotation)!s} is none of int, float, str, bool, date, datetime, Literal, Enum, "
        "list[T], T | None, Annotated[T, msgspec.Meta(...)]"
    )


def _described_values(values: Sequence[object]) -> Type:
    optional = None in values
    allowed = tuple(value for value in values if value is not None)
    for value in allowed:
        if not isinstance(value, str | int):
            raise ValueError(  # noqa: TRY004 (all that `describe` refuses is one class)
                f"{value!r} is no string, integer or boolean, so no one of several allowed values"
            )
    return Type(base="literal", values=typing.cast("tuple[str | int | bool, ...]", allowed), optional=optional)


def _described_with_bounds(inner: object, *notes: object) -> Type:
    described = describe(inner)
    bounds = dict(described.bounds)
    for meta in notes:
        if isinstance(meta, msgspec.Meta):
            for name in (*_NUMBER_BOUNDS, *_LENGTH_BOUNDS, "pattern"):
                if getattr(meta, name) is not None:
                    bounds[name] = getattr(meta, name)
    return dataclasses.replace(described, bounds=tuple(sorted(bounds.items())))


# From text to msgspec --------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> Type:
    """Read a type back from its text; never evaluates anything.

    Raises
    ------
    ValueError
        The text is not in the language.
    """
    try:
        parsed, rest = _parsed_type(text)
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{text!r} is no parameter type: {error}") from error
    if rest:
        raise ValueError(f"{text!r} is no parameter type: {rest!r} was not expected")
    return parsed


def _parsed_type(text: str) -> tuple[Type, str]:
    name = re.match(r"[a-z]*", text)
    assert name is not None
    base, rest = name[0], text[name.end() :]
    values: list[str | int | bool] = []
    item: Type | None = None
    if rest.startswith("["):
        if base == "list":
            item, rest = _parsed_type(rest[1:])
        else:
            rest = "," + rest[1:]
            while rest.startswith(","):
                value, end = json.JSONDecoder().raw_decode(rest[1:].lstrip())
                values.append(value)
                rest = rest[1:].lstrip()[end:]
        if not rest.startswith("]"):
            raise ValueError(f"{text!r} is no parameter type: a bracket is not closed")
        rest = rest[1:]
    bounds: list[tuple[str, object]] = []
    if rest.startswith("("):
        rest = "," + rest[1:]
        while rest.startswith(","):
            bound, _, rest = rest[1:].lstrip().partition("=")
            value, end = json.JSONDecoder().raw_decode(rest)
            bounds.append((bound, value))
            rest = rest[end:]
        if not rest.startswith(")"):
            raise ValueError(f"{text!r} is no parameter type: a bracket is not closed")
        rest = rest[1:]
    optional = rest.startswith(" | None")
    if optional:
        rest = rest[len(" | None") :]
    return Type(base=base, optional=optional, values=tuple(values), item=item, bounds=tuple(sorted(bounds))), rest


def msgspec_type(parsed: Type) -> Any:
    """Give the msgspec type that means the same: it checks, and has a JSON Schema."""
    if parsed.base == "literal":
        # msgspec knows no boolean literals; their values are checked by `_checked` alone.
        made: Any = Literal[parsed.values]
    elif parsed.item is not None:
        made = list.__class_getitem__(msgspec_type(parsed.item))
    else:
        made = _SCALARS[parsed.base]
    if parsed.bounds:
        made = Annotated[made, msgspec.Meta(**typing.cast("dict[str, Any]", dict(parsed.bounds)))]
    return typing.Optional[made] if parsed.optional else made  # noqa: UP045 (a run-time union of an Annotated)
