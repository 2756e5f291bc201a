"""What a simulation is asked to estimate, as data: one declaration for each statistic.

Keeps promise 12: a declaration goes through JSON with the job, so that a run is planned, stopped and explained without user code. Each says which quantities of a
block it takes; how it is summed stands in `jobs.totals`, and what its interval is in `jobs.estimates`. What a declaration changes in the sums is in the keys of slices; a
confidence, a level and a kind of interval are applied to finished sums, and recompute none (promise 7).

::

    @hs.simulation(statistics={"price": hs.Mean("payoff")}) -> JobSpec.statistics -> estimates
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

import msgspec
import numpy as np

__all__ = [
    "Covariance",
    "Difference",
    "Histogram",
    "Mean",
    "Moments",
    "Probability",
    "Quantile",
    "Ratio",
    "Replicated",
    "Shortfall",
    "Statistic",
    "faults_of",
    "quantities_of",
    "summed",
]


class _Estimator(msgspec.Struct, frozen=True, tag_field="statistic", tag=str.lower):
    """What all declarations are."""

    def __post_init__(self) -> None:
        """Take numpy's numbers and arrays as Python's, and names in one order: what is declared is data, and comes back from JSON as it was."""
        for field in self.__struct_fields__:
            given = getattr(self, field)
            if (plain := _plain(given)) is not given:
                msgspec.structs.force_setattr(self, field, plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_plain(one) for one in value)
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _plain(value[name]) for name in sorted(value)}
    return value


class Mean(_Estimator, frozen=True):
    """The mean of a quantity.

    Parameters
    ----------
    of : str
        The quantity; empty: the only one there is.
    weight : str, optional
        Quantity with the importance weight of each draw: its probability over that with which it was drawn.
    controls : dict, optional
        Quantities whose means are known, and these means: what they miss by is taken out of the estimate.
    batch : int
        So many consecutive draws depend on each other, as those of one path do; the interval is made of means of such batches. Must divide the block.
    confidence : float
        Of the interval.
    """

    of: str = ""
    weight: str | None = None
    controls: dict[str, float] = {}
    batch: int = 1
    confidence: float = 0.95


class Difference(_Estimator, frozen=True):
    """The mean of one quantity less another over the same draws: a comparison under common random numbers."""

    of: str
    minus: str
    batch: int = 1
    confidence: float = 0.95


class Ratio(_Estimator, frozen=True):
    """The mean of one quantity over the mean of another."""

    of: str
    per: str
    batch: int = 1
    confidence: float = 0.95


class Probability(_Estimator, frozen=True):
    """How likely an event is: that a quantity is not zero, or above or below a bound.

    Parameters
    ----------
    of : str
        The quantity; empty: the only one there is.
    above, below : float, optional
        The event is that the quantity is greater, or less. Default: that it is not zero.
    weight : str, optional
        As of `Mean`.
    interval : "exact" or "wilson"
        Clopper and Pearson's, which covers at least as often as it says, or the narrower one of Wilson. Draws that depend on each other or are weighted
        have Student's.
    batch : int
        As of `Mean`.
    confidence : float
        Of the interval.
    """

    of: str = ""
    above: float | None = None
    below: float | None = None
    weight: str | None = None
    interval: Literal["exact", "wilson"] = "exact"
    batch: int = 1
    confidence: float = 0.95


class Moments(_Estimator, frozen=True):
    """Count, mean, variance, skewness, excess kurtosis, least and greatest draw of a quantity."""

    of: str = ""
    confidence: float = 0.95


class Covariance(_Estimator, frozen=True):
    """Covariance and correlation of each pair of quantities."""

    of: tuple[str, ...]


class Quantile(_Estimator, frozen=True):
    """The quantile of a level, within 0.1 % of its value."""

    of: str = ""
    level: float = 0.5
    confidence: float = 0.95


class Shortfall(_Estimator, frozen=True):
    """The expected shortfall of a loss: the mean of the draws beyond the quantile of a level, within 0.1 % of its value."""

    of: str = ""
    level: float = 0.975
    confidence: float = 0.95


class Histogram(_Estimator, frozen=True):
    """The shares of draws between edges, `[a, b)`, and outside of all."""

    of: str
    edges: tuple[float, ...]
    confidence: float = 0.95


#: What is no mean of draws: where draws belong together, it is estimated from each replicate, too (`jobs.replicates`).
Replicated = Quantile | Shortfall | Moments | Histogram

Statistic = Mean | Difference | Ratio | Probability | Moments | Covariance | Quantile | Shortfall | Histogram

#: What stands beside the names of statistics in a rule to stop.
_LIMITS = ("max_draws", "max_seconds")

#: Applied to finished sums: no partial depends on them.
_LATE = ("confidence", "interval", "level")

#: Meaning of what replicates say, where draws belong together. Raised only when the same block would give other bits.
_REPLICATES = 1


def quantities_of(one: Statistic) -> tuple[str, ...]:
    """Name the quantities that a statistic takes; an empty name is the only one there is."""
    if isinstance(one, Covariance):
        return one.of
    named = [
        one.of,
        *(getattr(one, field, None) for field in ("minus", "per", "weight")),
        *getattr(one, "controls", ()),
    ]
    return tuple(name for name in named if name is not None)


def summed(statistics: Mapping[str, Statistic], unit: int) -> dict[str, Any]:
    """Give the statistics without what is applied to finished sums.

    Parameters
    ----------
    statistics : mapping
        What is estimated.
    unit : int
        Draws that the sampling makes dependent: then levels are applied to each replicate.
    """
    documents = {}
    for name, one in statistics.items():
        document = {field: value for field, value in msgspec.to_builtins(one).items() if field not in _LATE}
        if unit > 1 and isinstance(one, Replicated):
            document |= {"replicates": _REPLICATES, "level": getattr(one, "level", None)}
        documents[name] = document
    return documents


def faults_of(statistics: object, block_size: int, known: Collection[str] = ()) -> Iterator[str]:
    """Tell all that is wrong with declared statistics.

    Parameters
    ----------
    statistics : object
        What was declared.
    block_size : int
        Draws of a block.
    known : collection of str
        The quantities there are; empty: not known.
    """
    if not isinstance(statistics, Mapping) or not all(isinstance(name, str) and name for name in statistics):
        yield f"statistics= must be a dict of names and statistics, and is {statistics!r}"
        return
    for name, one in statistics.items():
        if not isinstance(one, Statistic):
            yield f"statistics= has {one!r} as {name!r}, which is none; hs.Mean('quantity') is one"
            continue
        try:
            msgspec.convert(msgspec.to_builtins(one), type(one))
        except msgspec.ValidationError as error:
            yield f"the statistic {name!r} is none: {error}"
            continue
        if name in _LIMITS:
            yield f"the statistic {name!r} has the name of a limit in stop=; take another name"
        yield from (f"the statistic {name!r} {fault}" for fault in _faults(one, block_size))
        absent = [of for of in quantities_of(one) if known and of not in known and (of or len(known) > 1)]
        if absent:
            takes = ", ".join(map(repr, filter(None, absent))) or "the only quantity there is"
            yield f"the statistic {name!r} takes {takes}, and the function returns {', '.join(map(repr, known))}"


def _faults(one: Statistic, block_size: int) -> Iterator[str]:
    for field in ("confidence", "level"):
        value = getattr(one, field, 0.5)
        if not 0 < value < 1:
            yield f"has a {field} that must lie between 0 and 1, and is {value!r}"
    batch = getattr(one, "batch", 1)
    if batch < 1 or block_size % batch:
        yield f"has batches of {batch} draws, which must divide the block of {block_size}"
    numbers = [getattr(one, field, None) for field in ("above", "below")]
    numbers += [*getattr(one, "controls", {}).values(), *getattr(one, "edges", ())]
    if any(number is not None and not math.isfinite(number) for number in numbers):
        yield "has a bound, an edge or a known mean that is no finite number; what lies beyond all edges has a share of its own"
    if isinstance(one, Probability) and one.above is not None and one.below is not None:
        yield "has both above= and below=; leave one out"
    if isinstance(one, Mean) and one.controls and one.weight:
        yield "has both controls and a weight; put the weight into the quantities"
    if isinstance(one, Covariance) and len(set(one.of)) < 2:
        yield f"needs two quantities or more, and has {one.of}"
    if isinstance(one, Histogram) and (len(one.edges) < 2 or any(not a < b for a, b in itertools.pairwise(one.edges))):
        yield f"must have two edges or more, each greater than the one before, and has {one.edges}"
