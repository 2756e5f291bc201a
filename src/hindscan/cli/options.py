"""Options that every command has, and how typed text becomes values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hindscan.errors import UsageError

if TYPE_CHECKING:
    from hindscan.config import Project

__all__ = ["DEFAULTS", "Options", "Parameters", "pairs", "time_option"]


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """Common to all commands."""

    json: Annotated[bool, Parameter(negative="")] = False
    """Print one JSON document on standard output."""
    project: Path | None = None
    """Folder of the project file. Default: the nearest one upwards."""

    def load(self) -> Project:
        """Read the project file."""
        from hindscan.config import load_project

        return load_project(self.project)


DEFAULTS = Options()

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


def time_option(text: str | None, option: str) -> int | None:
    """Read a time typed for an option: microseconds since the epoch.

    Raises
    ------
    hindscan.errors.UsageError
        It is no time.
    """
    from hindscan import times

    if text is None:
        return None
    try:
        return times.from_text(text)
    except ValueError as error:
        raise UsageError(f"Reading {option}: it {error}.") from None
