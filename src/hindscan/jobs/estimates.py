"""Estimates with honest intervals: how declared statistics are summed, put together and finished.

Keeps promise 8: a partial holds exact sums, counts and bins, so any grouping of the same blocks gives the same table to the bit. What is independent is a
*unit*: one draw, or so many consecutive ones as belong together (a pair of antithetic draws, a stratified set, a replicate of Sobol points, a batch of a path);
intervals are made of the means of units, and the gain says how many plain draws one of these is worth. Coefficients of control variates come from the blocks of the other
parity, so they do not know the draws they correct, and the estimate stays unbiased.

::

    quantities of a block -> partial -> merge, merge, ... -> finish: name, statistic, value, standard_error, low, high, gain
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from hindscan.errors import BadPartial
from hindscan.jobs.bins import Bins, binned, merged
from hindscan.jobs.estimators import (
    Covariance,
    Difference,
    Histogram,
    Mean,
    Moments,
    Probability,
    Quantile,
    Ratio,
    Shortfall,
    Statistic,
)
from hindscan.jobs.intervals import (
    binomial_ranks,
    exact_interval,
    normal_quantile,
    student_quantile,
    wilson_interval,
)
from hindscan.jobs.statistics import check_finite
from hindscan.jobs.sums import MOST, Floats, added, exact, fixed_sum, parts, powers, unit_means

__all__ = ["block_sums", "finish", "merge", "partial"]

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

_FINISHED_TYPES: dict[str, pa.DataType] = {
    "name": pa.string(),
    "statistic": pa.string(),
    "draws": pa.int64(),
    "units": pa.int64(),
    "value": pa.float64(),
    "standard_error": pa.float64(),
    "low": pa.float64(),
    "high": pa.float64(),
    "gain": pa.float64(),
    "effective_draws": pa.float64(),
}
_FINISHED = pa.schema(_FINISHED_TYPES)

_Row = dict[str, Any]

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
    rows: list[_Row] = []
    for key, one in statistics.items():
        row: _Row = {
            "name": key, "half": 0, "draws": taken.size, "units": 0, "sums": [], "bins": [], "counts": [],
            "least": math.inf, "greatest": -math.inf,
        }  # fmt: skip
        rows.append(row | _summed(one, taken, index, unit))
    return rows


class _Taken:
    """The quantities of a block by name; what is not there is refused."""

    def __init__(self, values: Mapping[str, Floats], job: str) -> None:
        self._values, self._job = values, job
        self.size = len(next(iter(values.values()), ()))

    def __call__(self, name: str) -> Floats:
        if name == "" and len(self._values) == 1:
            return next(iter(self._values.values()))
        if name not in self._values:
            raise BadPartial(
                f"Taking statistics of job {self._job}: the quantity {name!r} is required, and the function gave {', '.join(map(repr, self._values))}. "
                "Name in the statistic what the function returns.",
                quantity=name,
            )
        return self._values[name]


def _summed(one: Statistic, taken: _Taken, index: int, unit: int) -> _Row:
    match one:
        case Mean():
            return _mean(one, taken, taken(one.of), index, unit)
        case Probability():
            check_finite(
                one.of, taken(one.of)
            )  # what is no number is above and below nothing, and would count as no event
            hits = _event(one, taken(one.of))
            if unit * one.batch == 1 and one.weight is None:
                return {"units": taken.size, "counts": [int(np.count_nonzero(hits))]}
            return _mean(one, taken, hits.astype(np.float64), index, unit)
        case Difference():
            a, b = taken(one.of), taken(one.minus)
            check_finite(one.of, a)
            check_finite(one.minus, b)
            units = _units([a - b], one, unit)
            plain = [_plain(a), _plain(b), Fraction(fixed_sum(a)), Fraction(fixed_sum(b))]
            return _sums(units, plain, (one.of, a), (one.minus, b))
        case Ratio():
            a, b = taken(one.of), taken(one.per)
            return _sums(_units([a, b], one, unit), [], (one.of, a), (one.per, b))
        case Covariance():
            columns = [taken(name) for name in one.of]
            return _sums(columns, [], *zip(one.of, columns, strict=True))
        case Moments():
            draws = taken(one.of)
            check_finite(one.of, draws, MOST**0.5)
            ends = {"least": float(draws.min()), "greatest": float(draws.max())}
            return {"units": draws.size if unit == 1 else 0, "sums": _written(powers([draws], 4))} | ends
        case Quantile() | Shortfall():
            draws = taken(one.of)
            check_finite(one.of, draws)
            bins, counts = binned(draws)
            ends = {"least": float(draws.min()), "greatest": float(draws.max())}
            return {"units": draws.size if unit == 1 else 0, "bins": bins, "counts": counts} | ends
        case Histogram():
            draws = taken(one.of)
            check_finite(one.of, draws)
            where = np.searchsorted(np.array(one.edges), draws, side="right")
            return {
                "units": draws.size if unit == 1 else 0,
                "counts": np.bincount(where, minlength=len(one.edges) + 1).tolist(),
            }


def _event(one: Probability, draws: Floats) -> Any:
    if one.above is not None:
        return draws > one.above
    return draws < one.below if one.below is not None else draws != 0


def _mean(one: Mean | Probability, taken: _Taken, draws: Floats, index: int, unit: int) -> _Row:
    weights = None if one.weight is None else taken(one.weight)
    weighed = draws if weights is None else draws * weights
    controls = one.controls if isinstance(one, Mean) else {}
    columns = [weighed, *(taken(name) for name in controls)]
    more = []
    if weights is not None:
        check_finite(str(one.weight), weights)
    if weights is not None or unit * one.batch > 1:
        check_finite(one.of, draws)
        more = [_plain(draws) if weights is None else Fraction(fixed_sum(draws * weighed))]
    if weights is not None:
        more += [Fraction(fixed_sum(weights)), _plain(weights)]
    names = [one.of, *controls]
    row = _sums(_units(columns, one, unit), more, *zip(names, columns, strict=True))
    return row | {"half": index % 2 if controls else 0}


def _plain(draws: Floats) -> Fraction:
    return powers([draws])[1]


def _units(columns: Sequence[Floats], one: Mean | Probability | Difference | Ratio, unit: int) -> list[Floats]:
    return [unit_means(column, math.lcm(unit, one.batch)) for column in columns]


def _sums(columns: Sequence[Floats], more: Sequence[Fraction], *named: tuple[str, Floats]) -> _Row:
    with np.errstate(all="ignore"):
        try:
            sums = powers(columns)
        except (OverflowError, ValueError):  # no fraction is infinite, or no number
            sums = []
    # A draw that is no number shows in the sum of squares: looking at each would cost as much as summing them.
    squares = sums[len(columns) :]
    if not sums or any(abs(square) > MOST**2 for square in squares):
        for name, draws in named:
            check_finite(name, draws)
        raise BadPartial(
            f"Taking statistics of {', '.join(repr(name) for name, _ in named)}: products of draws must be finite, and are not. Scale them down.",
        )
    return {"units": columns[0].size, "sums": _written([*sums, *more])}


def _written(sums: Sequence[Fraction]) -> list[list[float]]:
    return [parts(number, 3) for number in sums]


# Putting sums together ---------------------------------------------------------------------------------------------


def merge(tables: Sequence[pa.Table]) -> pa.Table:
    """Put partials together; any grouping and order of the same blocks gives the same table.

    Parameters
    ----------
    tables : sequence of pa.Table
        What `partial` or `merge` gave.
    """
    return _together([row for table in tables for row in _rows(table)])


def _together(found: Sequence[_Row]) -> pa.Table:
    rows: dict[tuple[str, int], list[_Row]] = {}
    for row in found:
        rows.setdefault((row["name"], row["half"]), []).append(row)
    names = list(dict.fromkeys(name for name, _ in rows))
    return _table([_merged(rows[key]) for key in sorted(rows, key=lambda key: (names.index(key[0]), key[1]))])


def _rows(table: pa.Table) -> Iterator[_Row]:
    lists = {name: table[name].combine_chunks() for name in ("bins", "counts")}
    for at, row in enumerate(table.drop_columns(list(lists)).to_pylist()):
        yield row | {name: column[at].values.to_numpy() for name, column in lists.items()}


def _merged(rows: list[_Row]) -> _Row:
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


def _table(rows: list[_Row]) -> pa.Table:
    columns = [pa.array([row[field.name] for row in rows], field.type) for field in _PARTIAL]
    return pa.Table.from_arrays(columns, schema=_PARTIAL)


# Finishing ---------------------------------------------------------------------------------------------------------


def finish(statistics: Mapping[str, Statistic], table: pa.Table) -> pa.Table:
    """Make estimates out of merged sums.

    Parameters
    ----------
    statistics : mapping
        What is estimated.
    table : pa.Table
        What `merge` gave.

    Returns
    -------
    pa.Table
        ``name, statistic, draws, units, value, standard_error, low, high, gain, effective_draws``: one row for each number. What does not apply is null.
    """
    rows: dict[str, list[_Row]] = {}
    for row in _rows(table):
        row["sums"] = [exact(number) for number in row["sums"]]
        rows.setdefault(row["name"], []).append(row)
    found = []
    for name, one in statistics.items():
        halves = rows[name]
        common = {"name": name, "statistic": type(one).__name__.lower(), "draws": sum(row["draws"] for row in halves)}
        found += [common | row for row in _finished(one, halves)]
    return pa.Table.from_pylist(found, schema=_FINISHED)


def _finished(one: Statistic, halves: list[_Row]) -> Iterator[_Row]:
    row = halves[0]
    match one:
        case Mean():
            yield _controlled(one, halves) if one.controls else _meant(one, row)
        case Probability():
            yield _counted(int(row["counts"][0]), row["units"], one) if len(row["counts"]) else _meant(one, row)
        case Difference():
            yield _compared(one, row)
        case Ratio():
            yield _divided(one, row)
        case Covariance():
            yield from _covaried(one, row)
        case Moments():
            yield from _moments(one, row)
        case Quantile():
            yield _ranked(one, row)
        case Shortfall():
            yield _beyond(one, row)
        case Histogram():
            yield from _shares(one, row)


def _interval(value: float, variance: float, units: int, confidence: float, freedom: int) -> _Row:
    """Bound a mean of units by their variance."""
    if freedom < 1:
        return {"value": value, "units": units}
    error = math.sqrt(variance / units)
    half = student_quantile(confidence, freedom) * error
    return {"value": value, "units": units, "standard_error": error, "low": value - half, "high": value + half}


def _variance(n: int, total: Fraction, squares: Fraction) -> float:
    return float(max(Fraction(0), (squares - total * total / n) / (n - 1))) if n > 1 else 0.0


def _gain(plain: float, draws: int, variance: float, units: int) -> _Row:
    """Say how many plain draws one of these is worth."""
    return {"gain": plain / draws / (variance / units)} if variance > 0 and plain > 0 else {}


def _meant(one: Mean | Probability, row: _Row) -> _Row:
    n, (total, squares, *more) = row["units"], row["sums"]
    if not n:
        return {"units": 0}
    mean, variance = float(total / n), _variance(n, total, squares)
    found = _interval(mean, variance, n, one.confidence, n - 1)
    if more:
        # What a plain draw varies by: weighted back to the distribution that is meant.
        plain = float(more[0] / row["draws"]) - mean * mean
        found |= _gain(plain, row["draws"], variance, n)
    if isinstance(one, Probability):
        found |= _bounded(one, found, variance, n)
    if one.weight is not None:
        found["effective_draws"] = float(more[1] ** 2 / more[2]) if more[2] else 0.0
    return found


def _bounded(one: Probability, found: _Row, variance: float, units: int) -> _Row:
    """Keep the interval of a probability inside [0, 1], and open where no event, or nothing else, was seen."""
    if variance > 0:
        return {"low": max(0.0, found["low"]), "high": min(1.0, found["high"])} if "low" in found else {}
    if one.weight is not None:
        return {"low": None, "high": None}  # what was not drawn may have any weight
    # A mean of units is at most the probability that a unit has an event at all, and at least that it has nothing else.
    low, high = exact_interval(units if found["value"] else 0, units, one.confidence)
    return {"low": low, "high": high}


def _counted(hits: int, draws: int, one: Probability | Histogram) -> _Row:
    wilson = isinstance(one, Probability) and one.interval == "wilson"
    low, high = (wilson_interval if wilson else exact_interval)(hits, draws, one.confidence)
    share = hits / draws
    return {
        "value": share, "units": draws, "standard_error": math.sqrt(share * (1 - share) / draws), "low": low, "high": high,
    }  # fmt: skip


def _compared(one: Difference, row: _Row) -> _Row:
    n, draws, (total, squares, a2, b2, a, b) = row["units"], row["draws"], row["sums"]
    variance = _variance(n, total, squares)
    apart = _variance(draws, a, a2) + _variance(draws, b, b2)
    found = _interval(float(total / n), variance, n, one.confidence, n - 1)
    return found | _gain(apart, draws, variance, n)


def _divided(one: Ratio, row: _Row) -> _Row:
    n, (a, b, aa, ab, bb) = row["units"], row["sums"]
    if not b:
        return {"units": n}
    ratio = a / b
    # About the ratio the numerator less its share of the denominator has mean zero.
    left = aa - 2 * ratio * ab + ratio * ratio * bb
    scale = float(b / n) ** 2
    variance = float(left / (n - 1)) / scale if n > 1 else 0.0
    return _interval(float(ratio), variance, n, one.confidence, n - 1)


def _controlled(one: Mean, halves: list[_Row]) -> _Row:
    """Take out what the controls miss by; the coefficients of each half come from the other."""
    known = np.array(list(one.controls.values()))
    made = [_Half(row, len(known)) for row in halves]
    if len(made) < 2 or any(half.n < len(known) + 3 for half in made):
        made_one = {
            "units": sum(half.n for half in made),
            "sums": [sum(s) for s in zip(*(r["sums"] for r in halves), strict=True)],
        }
        n, (total, *_) = made_one["units"], made_one["sums"]
        return _interval(
            float(total / n), _variance(n, total, made_one["sums"][len(known) + 1]), n, one.confidence, n - 1
        )
    n = sum(half.n for half in made)
    value = error = plain = left = 0.0
    for half, other in (made, made[::-1]):
        beta = other.coefficients
        share = half.n / n
        value += share * (half.mean - float(beta @ (half.control_means - known)))
        variance = max(0.0, half.variance - 2 * float(beta @ half.cross) + float(beta @ half.spread @ beta))
        error += share * share * variance / half.n
        plain, left = plain + share * half.variance, left + share * variance
    found = _interval(value, error * n, n, one.confidence, n - 2 - 2 * len(known))
    draws = sum(row["draws"] for row in halves)
    of_draws = [row["sums"][-1] for row in halves if draws != n]
    if of_draws:
        plain = float(sum(of_draws) / draws) - value * value
    return found | _gain(plain, draws, left, n)


class _Half:
    """The sums of one half of the blocks, about their means."""

    def __init__(self, row: _Row, controls: int) -> None:
        n, sums = row["units"], row["sums"]
        means = [total / n for total in sums[: controls + 1]]
        spread = np.zeros((controls + 1, controls + 1))
        pairs = itertools.combinations_with_replacement(range(controls + 1), 2)
        for (i, j), product in zip(pairs, sums[controls + 1 :], strict=False):
            spread[i, j] = spread[j, i] = float((product - n * means[i] * means[j]) / max(n - 1, 1))
        self.n = n
        self.mean = float(means[0])
        self.control_means = np.array([float(mean) for mean in means[1:]])
        self.variance = float(spread[0, 0])
        self.cross = spread[0, 1:]
        self.spread = spread[1:, 1:]

    @property
    def coefficients(self) -> Floats:
        """What the quantity changes by with each control; of controls that say the same, none twice."""
        return np.asarray(np.linalg.lstsq(self.spread, self.cross, rcond=1e-12)[0], np.float64)


def _covaried(one: Covariance, row: _Row) -> Iterator[_Row]:
    n, sums, count = row["units"], row["sums"], len(one.of)
    pairs = list(itertools.combinations_with_replacement(range(count), 2))
    spread = {
        (i, j): float((product - sums[i] * sums[j] / n) / (n - 1)) if n > 1 else math.nan
        for (i, j), product in zip(pairs, sums[count:], strict=True)
    }
    for (i, j), value in spread.items():
        names = f"{one.of[i]}, {one.of[j]}"
        yield {"statistic": f"covariance of {names}", "units": n, "value": value}
        if i != j and spread[i, i] * spread[j, j] > 0:
            share = value / math.sqrt(spread[i, i] * spread[j, j])
            yield {"statistic": f"correlation of {names}", "units": n, "value": share}


def _moments(one: Moments, row: _Row) -> Iterator[_Row]:
    n, (s1, s2, s3, s4) = row["draws"], row["sums"]
    mean = s1 / n
    m2 = s2 / n - mean**2
    variance = _variance(n, s1, s2)
    yield {"statistic": "count", "value": float(n), "units": n}
    # Without an interval where draws depend on each other: hs.Mean knows their units.
    yield {"statistic": "mean"} | _interval(float(mean), variance, n, one.confidence, n - 1 if row["units"] else 0)
    if n > 1:
        yield {"statistic": "variance", "units": n, "value": variance}
    if m2 > 0:
        m3 = s3 / n - 3 * mean * s2 / n + 2 * mean**3
        m4 = s4 / n - 4 * mean * s3 / n + 6 * mean**2 * s2 / n - 3 * mean**4
        yield {"statistic": "skewness", "units": n, "value": float(m3) / float(m2) ** 1.5}
        yield {"statistic": "kurtosis", "units": n, "value": float(m4 / m2**2) - 3}
    yield {"statistic": "min", "units": n, "value": row["least"]}
    yield {"statistic": "max", "units": n, "value": row["greatest"]}


def _bins(row: _Row) -> Bins:
    return Bins(
        bins=np.asarray(row["bins"], np.int32), counts=np.asarray(row["counts"], np.int64),
        least=row["least"], greatest=row["greatest"],
    )  # fmt: skip


def _ranked(one: Quantile, row: _Row) -> _Row:
    bins = _bins(row)
    found: _Row = {"value": bins.quantile(one.level), "units": row["units"]}
    below, above = binomial_ranks(one.level, bins.total, one.confidence)
    # Where too few draws lie beyond, or they depend on each other, no ranks bound the quantile.
    if row["units"] == bins.total and below >= 0 and above < bins.total:
        low, high = bins.at(below), bins.at(above)
        half = (high - low) / 2
        found |= {"standard_error": half / normal_quantile(one.confidence), "low": low, "high": high}
    return found


def _beyond(one: Shortfall, row: _Row) -> _Row:
    bins = _bins(row)
    count = bins.total * (1 - one.level)
    mean, variance, least = bins.tail(count)
    found: _Row = {"value": mean, "units": row["units"]}
    if row["units"] == bins.total and count > 1:
        # The draws beyond vary, and so does where they begin.
        error = math.sqrt((variance + one.level * (mean - least) ** 2) / count)
        half = student_quantile(one.confidence, max(1, math.floor(count) - 1)) * error
        found |= {"standard_error": error, "low": mean - half, "high": mean + half}
    return found


def _shares(one: Histogram, row: _Row) -> Iterator[_Row]:
    edges = (-math.inf, *one.edges, math.inf)
    for (low, high), count in zip(itertools.pairwise(edges), row["counts"], strict=True):
        found = _counted(int(count), row["draws"], one)
        if not row["units"]:
            found = {"value": found["value"], "units": 0}
        yield {"statistic": f"share of [{low:g}, {high:g})"} | found
