"""What sweeps are asked for with: a grid or a list of points in Python, ranges and lists as texts on the command line.

::

    sweep={"reserve": range(1, 101)}, [{...}, {...}] -> given_points ;  -p reserve=1..100 --sweep -> typed_points ;  both -> check_points -> RunRequest.points
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from hindscan.errors import ParameterError, UsageError
from hindscan.plans.sweep import grid

if TYPE_CHECKING:
    from hindscan.jobs.job import JobSpec

__all__ = ["check_points", "given_points", "typed_points"]

_NUMBER: Final = r"[+-]?\d+(?:\.\d+)?"
_RANGE: Final = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?:\.\.({_NUMBER}))?")
#: A range or a grid with more values than this is a slip of the pen.
POINTS_MOST: Final = 100_000


def given_points(sweep: Mapping[str, Iterable[Any]] | Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Take a grid, or the points themselves, as points.

    Raises
    ------
    hindscan.errors.UsageError
        There is no point, there are too many, or points are of different parameters.
    """
    if isinstance(sweep, Mapping):
        points = _grid({name: _listed(name, values) for name, values in sweep.items()})
    else:
        points = [{name: _plain(value) for name, value in point.items()} for point in sweep]
    if not points or not points[0]:
        raise UsageError("Sweeping: at least one point of at least one parameter is required; there is none.")
    other = next((point for point in points if set(point) != set(points[0])), None)
    if other is not None:
        raise UsageError(
            f"Sweeping: all points must be of the same parameters; the first has {', '.join(points[0])}, another {', '.join(other)}."
        )
    return tuple({name: point[name] for name in points[0]} for point in points)


def typed_points(typed: Mapping[str, str]) -> tuple[dict[str, str], tuple[dict[str, str], ...]]:
    """Split typed parameters into those that are fixed and the points of the others.

    Raises
    ------
    hindscan.errors.UsageError
        None is a range or a list, or a range is empty or far too long.

    Examples
    --------
    >>> typed_points({"category": "cars", "reserve": "1..3"})
    ({'category': 'cars'}, ({'reserve': '1'}, {'reserve': '2'}, {'reserve': '3'}))
    """
    axes = {name: values for name, text in typed.items() if (values := _values(name, text)) is not None}
    if not axes:
        raise UsageError(
            "Sweeping: at least one -p must be a range (reserve=1..100) or a list (reserve=1,5,10); none is."
        )
    fixed = {name: text for name, text in typed.items() if name not in axes}
    return fixed, tuple({name: str(value) for name, value in point.items()} for point in _grid(axes))


def _grid(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Give every combination, if they are not far too many."""
    count = math.prod(map(len, axes.values()))
    if count > POINTS_MOST:
        raise UsageError(
            f"Sweeping: at most {POINTS_MOST:,} points are taken; these values have {count:,} combinations. Sweep fewer."
        )
    return grid(axes)


def _listed(name: str, values: Iterable[Any]) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UsageError(
            f"Sweeping {name}: its values must be a list or a range, found {values!r}. Write [{values!r}]."
        )
    return [_plain(value) for value in values]


def check_points(
    spec: JobSpec, points: Sequence[Mapping[str, object]], *, from_text: bool
) -> tuple[dict[str, object], ...]:
    """Validate the values of the swept parameters.

    Raises
    ------
    hindscan.errors.ParameterError
        One is none of the job's, or a value does not fit.
    """
    from hindscan.jobs.parameters import validate

    known = [p for p in spec.parameters if p.name in points[0]]
    unknown = sorted(set(points[0]) - {p.name for p in known})
    if unknown:
        there = ", ".join(p.name for p in spec.parameters) or "none"
        raise ParameterError(
            f"Sweeping job {spec.name}: {', '.join(unknown)} must be parameters of it; they are none. There are {there}.",
            job=spec.name,
        )
    checked = [validate(known, point, from_text=from_text) for point in points]
    return tuple({name: values[name] for name in points[0]} for values in checked)


def _values(name: str, text: str) -> list[str] | None:
    """Read a range (both ends are in it) or a list; None: it is one value."""
    found = _RANGE.fullmatch(text)
    if found is None:
        return [part.strip() for part in text.split(",")] if "," in text else None
    first, last, step = Decimal(found[1]), Decimal(found[2]), Decimal(found[3] or 1)
    count = int((last - first) / step) + 1 if step and (last - first) / step >= 0 else 0
    if not 0 < count <= POINTS_MOST:
        raise UsageError(
            f"Reading -p {name}={text}: a range must have between 1 and {POINTS_MOST:,} values; it has {max(count, 0):,}. Write first..last or first..last..step."
        )
    return [str(first + i * step) for i in range(count)]


def _plain(value: Any) -> Any:
    """Take a number of numpy's as Python's."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
