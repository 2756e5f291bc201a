"""Options that every command has, and how typed text becomes values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

from hindscan.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cyclopts import Token

    from hindscan.config import Project

__all__ = [
    "DEFAULTS",
    "WHOLE",
    "Count",
    "Input",
    "Options",
    "Parameters",
    "Whole",
    "WindowOptions",
    "pairs",
    "stop_rule",
]


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """Common to all commands."""

    json: Annotated[bool, Parameter(negative="")] = False
    """Print one JSON document on standard output."""
    project: Path | None = None
    """Folder of the project file. Default: the nearest one upwards."""

    def load(self, begun: Callable[[Project], None] | None = None) -> Project:
        """Read the project file; see `config_file.load_project`."""
        from hindscan.config_file import load_project

        return load_project(self.project, begun=begun)


DEFAULTS = Options()


def _whole(_: object, tokens: Sequence[Token]) -> int:
    """Read a whole number. What reads numbers otherwise would round 1.5 without a word."""
    text = tokens[0].value
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise ValueError("It must be a whole number.")
    return int(text)


#: A whole number, written as one.
Whole = Annotated[int, Parameter(converter=_whole)]
#: A number of things: none, or as many as a store can count.
Count = Annotated[int, Parameter(converter=_whole, validator=validators.Number(gte=0, lte=(1 << 63) - 1))]


def _no_option(_: object, text: str | None) -> None:
    if text is not None and text.startswith("-") and text != "-":
        raise ValueError(f"There is no option {text}.")


#: A file, or `-`: standard input.
Input = Annotated[str, Parameter(allow_leading_hyphen=True, validator=_no_option)]
#: `-p K=V`, any number of times.
Parameters = Annotated[list[str] | None, Parameter(name=["--parameter", "-p"], negative="")]


def pairs(typed: list[str] | None, option: str) -> dict[str, str]:
    """Split ``K=V`` texts.

    Raises
    ------
    hindscan.errors.UsageError
        One has no ``=``, or a name comes twice.
    """
    given: dict[str, str] = {}
    for text in typed or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"Reading {option} {text!r}: it must be NAME=VALUE.")
        if name in given:
            raise UsageError(f"Reading {option} {text!r}: {name} was given before, as {given[name]!r}. Give it once.")
        given[name] = value
    return given


@Parameter(name="*")
@dataclass(frozen=True)
class WindowOptions:
    """What part of a history is read."""

    as_of: str | None = None
    """Only rows with a time before this."""
    since: str | None = None
    """Only rows from this time on."""
    until: str | None = None
    """Only rows before this time."""
    last: str | None = None
    """Only rows of this long before --as-of, else before now: 90s, 30m, 12h, 7d, 2w."""
    offsets: str | None = None
    """Of a topic: offsets [start, end) of the only partitions to read, as 0:100-200,1:0-50. 0:100- is up to the end, 0:-200 from the beginning."""
    partitions: str | None = None
    """Of a topic: the only partitions, as 0,3."""
    key: Annotated[list[str] | None, Parameter(negative="")] = None
    """Of a topic: only records with this key; any number of times."""

    def values(self) -> dict[str, Any]:
        """Give the options that were typed, by their names in `history.window.make_window`.

        Raises
        ------
        hindscan.errors.UsageError
            One cannot be read.
        """
        from hindscan import times

        read: dict[str, tuple[Any, Any]] = {
            "as_of": (self.as_of, times.from_text),
            "since": (self.since, times.from_text),
            "until": (self.until, times.from_text),
            "last": (self.last, times.duration),
            "offsets": (self.offsets, _offsets),
            "partitions": (self.partitions, _numbers),
            "keys": (self.key, list),
        }
        found = {}
        for name, (typed, convert) in read.items():
            try:
                if typed is not None:
                    found[name] = convert(typed)
            except ValueError as error:
                raise UsageError(f"Reading --{name.replace('_', '-')}: it {error}.") from None
        return found


WHOLE = WindowOptions()


def stop_rule(typed: list[str] | None, max_seconds: float | None) -> dict[str, Any] | None:
    """Read when to stop, as `plans.stopping` has it; None where nothing was typed.

    Raises
    ------
    hindscan.errors.UsageError
        A width is no number.
    """
    rule: dict[str, Any] = {}
    for name, width in pairs(typed, "--stop").items():
        try:
            relative = width.endswith("%")
            number = float(width.removesuffix("%")) / (100 if relative else 1)
        except ValueError:
            raise UsageError(
                f"Reading --stop: it must be NAME=WIDTH such as price=0.01 or price=1%, found {width!r}."
            ) from None
        rule[name] = {"relative" if relative else "half_width": number}
    return (rule | ({} if max_seconds is None else {"max_seconds": max_seconds})) or None


def _offsets(typed: str) -> dict[int, tuple[int | None, int | None]]:
    found: dict[int, tuple[int | None, int | None]] = {}
    for part in typed.split(","):
        match = re.fullmatch(r"\s*(\d+):(\d*)-(\d*)\s*", part)
        if match is None or int(match[1]) in found:
            raise ValueError(
                f"must be PARTITION:START-END, each partition once, such as 0:100-200,1:0-50, found {part!r}"
            )
        found[int(match[1])] = (int(match[2]) if match[2] else None, int(match[3]) if match[3] else None)
    return found


def _numbers(typed: str) -> list[int]:
    parts = [part.strip() for part in typed.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"must be numbers of partitions such as 0,3, found {typed!r}")
    return [int(part) for part in parts]
