"""When a simulation has drawn enough: looks at prefixes of whole slices, and a rule that is judged at these only.

Keeps promise 8: where a run stops follows from its numbers alone, because looks are fixed before anything is drawn and each is at all draws up to the end of a slice; so
a run that stopped is the same, to the bit, as one that was told its draws at once. (Seconds are no number of the simulation: a run that
they stop keeps its prefix, and repeats it.)

A rule that stops as soon as an interval looks narrow enough favours prefixes whose spread was underestimated. What keeps the coverage: no look before `LEAST_DRAWS`
draws and `LEAST_UNITS` units, looks that grow by half so that there are few, and a margin on the width while units are few (`margin`).

::

    {"price": {"half_width": 0.01}} -> read_stop -> StopRule;  DrawPin -> looks -> draws, draws, ... -> reached(rule, estimates, draws)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from hindscan.errors import UsageError
from hindscan.history.snapshot import DrawPin
from hindscan.jobs.estimators import Covariance, Statistic
from hindscan.jobs.intervals import SUMMARY_CONFIDENCE, normal_quantile
from hindscan.plans.cut import cut

__all__ = ["LEAST_DRAWS", "LEAST_UNITS", "StopRule", "Target", "looks", "margin", "reached", "read_stop"]

#: No look comes before so many draws, and so many units that are independent of each other.
LEAST_DRAWS: Final = 4_096
LEAST_UNITS: Final = 32
#: Each look is at so many times the draws of the one before.
GROWTH: Final = 1.5


_LIKE: Final = "{'price': {'half_width': 0.01}, 'max_seconds': 60}"


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How narrow the interval of one statistic must be."""

    #: Half of its width, in units of the statistic, or as a share of its value.
    half_width: float | None = None
    relative: float | None = None
    #: Of the interval that is judged. Default: the statistic's own.
    confidence: float | None = None


class StopRule(msgspec.Struct, frozen=True, kw_only=True):
    """When to stop."""

    #: By name of the statistic, or quantity; an empty name is the only one there is.
    targets: dict[str, Target]
    max_draws: int | None = None
    max_seconds: float | None = None


def read_stop(
    given: Mapping[str, Any], statistics: Mapping[str, Statistic] | None = None, quantities: Sequence[str] = ()
) -> StopRule:
    """Read a rule as it is written.

    Parameters
    ----------
    given : mapping
        ``{"price": {"half_width": 0.01}, "max_draws": 10_000_000, "max_seconds": 60}``; for the only statistic its target may stand without a name.
    statistics : mapping, optional
        Those the job declares. Default: a summary of each quantity.
    quantities : sequence of str
        Names of what the function returns, of which there is a summary where no statistics are declared; empty: not known.

    Raises
    ------
    hindscan.errors.UsageError
        It is no rule, with all faults.
    """
    if not isinstance(given, Mapping):
        raise UsageError(f"Reading when to stop: it must be like {_LIKE}, and is {given!r}. Change stop.", faults=[])
    limits = {name: given[name] for name in ("max_draws", "max_seconds") if name in given}
    targets = {name: value for name, value in given.items() if name not in limits}
    if targets and set(targets) <= set(Target.__struct_fields__):
        targets = {"": targets}
    faults = [] if targets or limits else ["it says neither what must be narrow nor max_draws or max_seconds"]
    known = tuple(statistics or quantities)
    if known:
        what = "statistics" if statistics else "quantities"
        faults += [f"{n!r} is none of its {what} {', '.join(known)}" for n in targets if n and n not in known]
        faults += [f"it must name one of several {what}"] if "" in targets and len(known) > 1 else []
    faults += [
        f"{name or known[0]!r} is a covariance, which has no interval that could be narrow enough"
        for name in targets
        if statistics and isinstance(statistics.get(name or known[0]), Covariance)
    ]
    read: dict[str, Target] = {}
    for name, value in targets.items():
        if not isinstance(value, Mapping):
            faults.append(f"{name} must be {{'half_width': WIDTH}} or {{'relative': SHARE}}, and is {value!r}")
            continue
        try:
            read[name] = msgspec.convert(value, Target)
        except msgspec.ValidationError as error:
            faults.append(f"{name or 'the target'}: {error}")
            continue
        faults += [f"{name or 'the target'}: {fault}" for fault in _faults(read[name])]
    for name, value in limits.items():
        if isinstance(value, bool) or not isinstance(value, int if name == "max_draws" else int | float) or value <= 0:
            faults.append(
                f"{name} must be a positive {'whole ' if name == 'max_draws' else ''}number, and is {value!r}"
            )
    if faults:
        raise UsageError(
            f"Reading when to stop: it must be like {_LIKE}; {'; '.join(faults)}. Change stop.",
            faults=faults,
        )
    return StopRule(targets=read, **limits)


def _faults(target: Target) -> Iterator[str]:
    widths = [width for width in (target.half_width, target.relative) if width is not None]
    if len(widths) != 1 or not widths[0] > 0:
        yield "it must have either half_width or relative, and it must be positive"
    if target.confidence is not None and not 0 < target.confidence < 1:
        yield f"confidence must lie between 0 and 1, and is {target.confidence!r}"


def looks(pin: DrawPin, unit: int, most: int) -> Iterator[int]:
    """Give the numbers of draws after which a rule is judged: ends of slices, and last of all the most there may be.

    Parameters
    ----------
    pin : DrawPin
        How draws are cut.
    unit : int
        Consecutive draws that belong together.
    most : int
        Draws at most.
    """
    wanted = max(LEAST_DRAWS, LEAST_UNITS * unit)
    for piece in cut(msgspec.structs.replace(pin, draws=most), 1):
        if piece.rows and wanted <= _end(piece) < most:
            yield _end(piece)
            wanted = math.ceil(_end(piece) * GROWTH)
    yield most


def _end(piece: Any) -> int:
    return int(piece.end)


def margin(units: int) -> float:
    """Give how much narrower than asked for an interval must be where it is made of so many units."""
    return 1.0 + 2.0 / math.sqrt(max(units, 1))


def reached(
    rule: StopRule, estimates: Sequence[Mapping[str, Any]], statistics: Mapping[str, Statistic] | None = None
) -> bool:
    """Tell whether all targets are met.

    Parameters
    ----------
    rule : StopRule
        The rule.
    estimates : sequence of mapping
        Rows of the finished statistics: name, value, low, high, and with them units; or of the built-in summary.
    statistics : mapping, optional
        Those that were declared, for the confidence of their intervals. Default: that of the summary.

    Raises
    ------
    hindscan.errors.UsageError
        A target names what is not among them.
    """
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in estimates:
        by_name.setdefault(row["name"], []).append(row)
    met = True
    for name, target in rule.targets.items():
        found = by_name if name else dict(list(by_name.items())[:1])
        if (name and name not in found) or (not name and len(by_name) != 1):
            raise UsageError(
                f"Judging whether to stop: the rule names {name or 'no statistic'!r}, and there are {', '.join(by_name)}. Name one of these in stop.",
                statistic=name,
            )
        called = name or next(iter(found))
        confidence = getattr((statistics or {}).get(called), "confidence", SUMMARY_CONFIDENCE)
        met = met and _met(target, _judged(found[called]), confidence)
    return met and bool(rule.targets)


def _judged(rows: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Give the number of a statistic that is judged: of a histogram the share that is known least, of moments the mean."""
    bounded = [row for row in rows if row.get("low") is not None]
    if bounded and rows[0].get("statistic", "").startswith("share"):
        return max(bounded, key=lambda row: float(row["high"] - row["low"]))
    return (bounded or rows)[0]


def _met(target: Target, row: Mapping[str, Any], confidence: float) -> bool:
    value, low, high = row.get("value", row.get("mean")), row.get("low"), row.get("high")
    if value is None or low is None or high is None:
        return False
    half = max(value - low, high - value) * margin(row.get("units", row["draws"]))
    if target.confidence is not None:
        half *= normal_quantile(target.confidence) / normal_quantile(confidence)
    return bool(half <= (target.half_width if target.half_width is not None else (target.relative or 0.0) * abs(value)))
