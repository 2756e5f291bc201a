"""The totals of a simulation's draws: how declared statistics are summed over a block, and how these sums are put together.

Keeps promise 8: a partial holds exact sums, counts and bins, so any grouping of the same blocks gives the same table to the bit. What is independent is a
*unit*: one draw, or so many consecutive ones as belong together (a pair of antithetic draws, a stratified set, a replicate of Sobol points, a batch of a path);
what is summed are the means of units. What they say of the statistics stands in `jobs.estimates`.

::

    quantities of a block -> block_sums -> partial -> merge, merge, ... -> estimates.finish
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hindscan.errors import BadPartial
from hindscan.jobs.bins import binned, merged
from hindscan.jobs.estimators import (
    Covariance,
    Difference,
    Histogram,
    Mean,
    Moments,
    Probability,
    Quantile,
    Ratio,
    Replicated,
    Shortfall,
    Statistic,
)
from hindscan.jobs.replicates import replicated
from hindscan.jobs.statistics import check_finite
from hindscan.jobs.sums import MOST, Floats, added, fixed_sum, powers, unit_means

__all__ = ["Row", "block_sums", "merge", "partial", "rows_of"]

_PARTIAL_TYPES: dict[str, pa.DataType] = {
    "name": pa.string(),
    # Parity of the block, where coefficients come from the other half; else 0.
    "half": pa.int8(),
    "draws": pa.int64(),
    "units": pa.int64(),
    # Each a list of floats whose exact sum it is.
    "sums": pa.list_(pa.list_(pa.float64())),
    "bins": pa.list_(pa.int32()),
    "counts": pa.list_(pa.int64()),
    "least": pa.float64(),
    "greatest": pa.float64(),
}
_PARTIAL = pa.schema(_PARTIAL_TYPES)

#: No sum of squares is greater.
_SQUARE = MOST**2

#: One statistic, or one half of its blocks, by the names of the columns.
Row = dict[str, Any]

_EMPTY: Row = {
    "half": 0, "units": 0, "sums": [], "bins": [], "counts": [], "least": math.inf, "greatest": -math.inf,
}  # fmt: skip

# Summing a block ---------------------------------------------------------------------------------------------------


def partial(blocks: Sequence[Sequence[Mapping[str, Any]]]) -> pa.Table:
    """Put the sums of blocks together, as `merge` does; a table for each block would cost as much as summing it.

    Parameters
    ----------
    blocks : sequence
        What `block_sums` gave.
    """
    return _together([dict(row) for rows in blocks for row in rows])


def block_sums(
    statistics: Mapping[str, Statistic], values: Mapping[str, Floats], *, index: int, unit: int, name: str
) -> list[dict[str, Any]]:
    """Sum one block.

    Parameters
    ----------
    statistics : mapping
        What is estimated.
    values : mapping
        The draws of each quantity.
    index : int
        Of the block.
    unit : int
        Consecutive draws that the sampling makes dependent.
    name : str
        Of the job, for the error.

    Raises
    ------
    hindscan.errors.BadPartial
        A quantity that a statistic takes is not there, or a draw is no finite number.
    """
    taken = _Taken(values, name)
    rows: list[Row] = []
    for key, one in statistics.items():
        rows.append(_EMPTY | {"name": key, "draws": taken.size} | _summed(one, taken, index, unit))
    return rows


class _Taken:
    """The quantities of a block by name; what is not there is refused."""

    def __init__(self, values: Mapping[str, Floats], job: str) -> None:
        self._values, self._job = values, job
        self.size = len(next(iter(values.values()), ()))

    def called(self, name: str) -> str:
        """Give the name of a quantity, where a statistic names none that of the only one."""
        return name or (next(iter(self._values)) if len(self._values) == 1 else "")

    def __call__(self, name: str) -> Floats:
        found = self._values.get(self.called(name))
        if found is None:
            required = f"the quantity {name!r}" if name else "a single quantity, as the statistic names none,"
            raise BadPartial(
                f"Taking statistics of job {self._job}: {required} is required, and the function gave {', '.join(map(repr, self._values))}. "
                "Name in the statistic what the function returns.",
                quantity=name,
            )
        return found


def _summed(one: Statistic, taken: _Taken, index: int, unit: int) -> Row:
    match one:
        case Mean():
            return _mean(one, taken, taken(one.of), index, unit)
        case Probability():
            check_finite(
                taken.called(one.of), taken(one.of)
            )  # what is no number is above and below nothing, and would count as no event
            hits = _event(one, taken(one.of))
            if unit * one.batch == 1 and one.weight is None:
                return {"units": taken.size, "counts": [int(np.count_nonzero(hits))]}
            return _mean(one, taken, hits.astype(np.float64), index, unit)
        case Difference():
            a, b = taken(one.of), taken(one.minus)
            check_finite(taken.called(one.of), a)
            check_finite(one.minus, b)
            units = _units([a - b], one, unit)
            plain = [*powers([a]), *powers([b])]
            return _sums(units, plain, (one.of, a), (one.minus, b))
        case Ratio():
            a, b = taken(one.of), taken(one.per)
            return _sums(_units([a, b], one, unit), [], (one.of, a), (one.per, b))
        case Covariance():
            columns = [taken(name) for name in one.of]
            return _sums(columns, [], *zip(one.of, columns, strict=True))
        case Moments():
            draws = taken(one.of)
            check_finite(taken.called(one.of), draws, MOST**0.5)
            ends = {"least": float(draws.min()), "greatest": float(draws.max())}
            sets, sums = _independent(one, draws, unit)
            return {"units": sets, "sums": powers([draws], 4) + sums} | ends
        case Quantile() | Shortfall():
            draws = taken(one.of)
            check_finite(taken.called(one.of), draws)
            bins, counts = binned(draws)
            ends = {"least": float(draws.min()), "greatest": float(draws.max())}
            sets, sums = _independent(one, draws, unit)
            return {"units": sets, "sums": sums, "bins": bins, "counts": counts} | ends
        case Histogram():
            draws = taken(one.of)
            check_finite(taken.called(one.of), draws)
            where = np.searchsorted(np.array(one.edges), draws, side="right")
            sets, sums = _independent(one, draws, unit)
            return {"units": sets, "sums": sums, "counts": np.bincount(where, minlength=len(one.edges) + 1).tolist()}


def _independent(one: Replicated, draws: Floats, unit: int) -> tuple[int, list[list[float]]]:
    """Give what is independent: the draws themselves, or replicates of them with what these say."""
    return (draws.size, []) if unit == 1 else replicated(one, draws, unit)


def _event(one: Probability, draws: Floats) -> Any:
    if one.above is not None:
        return draws > one.above
    return draws < one.below if one.below is not None else draws != 0


def _mean(one: Mean | Probability, taken: _Taken, draws: Floats, index: int, unit: int) -> Row:
    if isinstance(one, Mean) and one.weight is None and not one.controls and unit * one.batch == 1:
        return _sums([draws], (), (taken.called(one.of), draws))
    weights = None if one.weight is None else taken(one.weight)
    weighed = draws if weights is None else draws * weights
    controls = one.controls if isinstance(one, Mean) else {}
    columns = [weighed, *(taken(name) for name in controls)]
    more = []
    if weights is not None:
        check_finite(str(one.weight), weights)
        _check_weights(str(one.weight), weights)
    if weights is not None or unit * one.batch > 1:
        check_finite(taken.called(one.of), draws)
        # Both are written exactly: where the mean lies far from zero, their difference is what is asked for.
        more = powers([draws]) if weights is None else [[fixed_sum(draws * weighed)], *powers([weights])]
    names = [taken.called(one.of), *controls]
    row = _sums(_units(columns, one, unit), more, *zip(names, columns, strict=True))
    return row | {"half": index % 2 if controls else 0}


def _check_weights(name: str, weights: Floats) -> None:
    if weights.min() < 0:
        raise BadPartial(
            f"Taking statistics with the weight {name!r}: it is the probability of a draw over that with which it was drawn, so none is below zero, and the least is "
            f"{weights.min():g}. Divide densities, not their logarithms.",
            quantity=name,
        )


def _units(columns: Sequence[Floats], one: Mean | Probability | Difference | Ratio, unit: int) -> list[Floats]:
    return [unit_means(column, math.lcm(unit, one.batch)) for column in columns]


def _sums(columns: Sequence[Floats], more: Sequence[list[float]], *named: tuple[str, Floats]) -> Row:
    with np.errstate(all="ignore"):
        try:
            sums = powers(columns)
        except (OverflowError, ValueError):  # no sum, or no fraction, is infinite
            sums = []
    # A draw that is no number shows in the sum of squares: looking at each would cost as much as summing them.
    if not sums or not all(abs(square[0]) <= _SQUARE for square in sums[len(columns) :] if square):
        for name, draws in named:
            check_finite(name, draws)
        raise BadPartial(
            f"Taking statistics of {', '.join(repr(name) for name, _ in named)}: products of draws must be finite, and are not. Scale them down.",
        )
    return {"units": columns[0].size, "sums": [*sums, *more]}


# Putting sums together ---------------------------------------------------------------------------------------------


def merge(tables: Sequence[pa.Table]) -> pa.Table:
    """Put partials together; any grouping and order of the same blocks gives the same table.

    Parameters
    ----------
    tables : sequence of pa.Table
        What `partial` or `merge` gave.
    """
    return _together([row for table in tables for row in rows_of(table)])


def _together(found: Sequence[Row]) -> pa.Table:
    rows: dict[tuple[str, int], list[Row]] = {}
    for row in found:
        rows.setdefault((row["name"], row["half"]), []).append(row)
    names = list(dict.fromkeys(name for name, _ in rows))
    return _table([_merged(rows[key]) for key in sorted(rows, key=lambda key: (names.index(key[0]), key[1]))])


def rows_of(table: pa.Table) -> Iterator[Row]:
    """Read a partial."""
    lists = {name: table[name].combine_chunks() for name in ("bins", "counts")}
    for at, row in enumerate(table.drop_columns(list(lists)).to_pylist()):
        yield row | {name: column[at].values.to_numpy() for name, column in lists.items()}


def _merged(rows: list[Row]) -> Row:
    if len(rows) == 1:
        return rows[0]
    if any(len(row["bins"]) for row in rows):
        bins, counts = merged([(row["bins"], row["counts"]) for row in rows])
    else:
        bins, counts = rows[0]["bins"], np.sum([row["counts"] for row in rows], axis=0, dtype=np.int64)
    return {
        "name": rows[0]["name"], "half": rows[0]["half"],
        "draws": sum(row["draws"] for row in rows), "units": sum(row["units"] for row in rows),
        "sums": added([row["sums"] for row in rows]), "bins": bins, "counts": counts,
        "least": min(row["least"] for row in rows), "greatest": max(row["greatest"] for row in rows),
    }  # fmt: skip


def _table(rows: list[Row]) -> pa.Table:
    columns = [pa.array([row[field.name] for row in rows], field.type) for field in _PARTIAL]
    return pa.Table.from_arrays(columns, schema=_PARTIAL)
