"""Replicates: what sets of draws that know nothing of each other say, each on its own, so that how they differ bounds what all draws say together.

Serves promise 8. A quantile, a shortfall, a moment and a share of draws that belong together (`jobs.sampling`) have no interval of their own: how much better they lie
than plain ones is seen only between sets. A replicate is so many whole sets as give each estimate some draws to rest on; its estimates are worked out in an order that is
the same on every processor, and summed as all sums are (`jobs.sums`). Where a block is too small for a replicate, or a level too far out, there is none, and no interval.

::

    draws of a block -> replicated: for each number how many replicates have it, their sum, and that of their squares -> totals -> estimates
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from hindscan.jobs.estimators import Histogram, Moments, Quantile, Replicated, Shortfall
from hindscan.jobs.sums import Floats, powers

__all__ = ["replicate_draws", "replicated"]

#: Draws of a replicate, at least; and those of them that must lie beyond a quantile, so that its estimates scatter about the value as those of all draws do.
LEAST_DRAWS: Final = 1024
LEAST_BEYOND: Final = 32

_add = np.add.reduce


def replicate_draws(one: Replicated, unit: int) -> int:
    """Give how many draws make a replicate.

    Parameters
    ----------
    one : Statistic
        What is estimated.
    unit : int
        Draws that belong together.
    """
    least = LEAST_DRAWS
    if isinstance(one, Quantile | Shortfall):
        beyond = 1 - one.level if isinstance(one, Shortfall) else min(one.level, 1 - one.level)
        # 1 - 0.9999 is a rounding less than is meant, and would ask for one draw more than the block has that is meant for it.
        least = max(least, math.ceil(LEAST_BEYOND / beyond * (1 - 1e-9)))
    return -(-least // unit) * unit


def replicated(one: Replicated, draws: Floats, unit: int) -> tuple[int, list[list[float]]]:
    """Sum what the replicates of a block say.

    Parameters
    ----------
    one : Statistic
        What is estimated.
    draws : array
        Of one block, finite. What is left over at its end is in no replicate.
    unit : int
        Draws that belong together.

    Returns
    -------
    (int, list)
        How many replicates there are, and three sums for each number the statistic gives: of those that have it, of their estimates, and of the squares.
    """
    size = replicate_draws(one, unit)
    count = draws.size // size
    rows = draws[: count * size].reshape(count, size)
    sums: list[list[float]] = []
    for estimates in _estimates(one, rows):
        there = estimates[np.isfinite(estimates)]
        sums += [[float(there.size)], *powers([there])]
    return count, sums


def _estimates(one: Replicated, rows: Floats) -> list[Floats]:
    """Give each number the statistic gives, ``(replicates,)``; what a replicate does not have is NaN."""
    match one:
        case Quantile():
            return [_quantiles(rows, one.level)]
        case Shortfall():
            return [_shortfalls(rows, one.level)]
        case Moments():
            return _moments(rows)
        case Histogram():
            return _shares(rows, one.edges)


def _quantiles(rows: Floats, level: float) -> Floats:
    rank = level * (rows.shape[1] - 1)
    below = math.floor(rank)
    above = min(below + 1, rows.shape[1] - 1)
    sorted_ = np.partition(rows, (below, above), axis=1)
    found: Floats = sorted_[:, below] + (sorted_[:, above] - sorted_[:, below]) * (rank - below)
    return found


def _shortfalls(rows: Floats, level: float) -> Floats:
    size = rows.shape[1]
    count = size * (1 - level)
    whole = math.floor(count)
    beyond = np.sort(rows, axis=1)[:, size - whole - 1 :]
    # Added one after the other, whatever the processor.
    total = _add(np.ascontiguousarray(beyond[:, 1:].T), axis=0) + beyond[:, 0] * (count - whole)
    found: Floats = total / count
    return found


def _moments(rows: Floats) -> list[Floats]:
    size = rows.shape[1]
    columns = np.ascontiguousarray(rows.T)
    mean = _add(columns, axis=0) / size
    apart = columns - mean
    square = apart * apart
    second, third = (_add(power, axis=0) / size for power in (square, square * apart))
    with np.errstate(divide="ignore", invalid="ignore"):
        # A replicate whose draws are all the same has no shape.
        skewness = third / (second * np.sqrt(second))
    # Kurtosis hangs on the few outermost draws: what replicates say of it is so skewed that too few intervals would hold it.
    return [mean, second * (size / (size - 1)), skewness]


def _shares(rows: Floats, edges: tuple[float, ...]) -> list[Floats]:
    count, size = rows.shape
    bins = len(edges) + 1
    where = np.searchsorted(np.array(edges), rows, side="right") + bins * np.arange(count)[:, None]
    counts = np.bincount(where.ravel(), minlength=count * bins).reshape(count, bins)
    return list((counts / size).T)
