"""Estimates with honest intervals: what the totals of draws say of declared statistics.

Serves promise 8: what is finished are exact sums, so the same draws give the same estimates to the bit. Intervals are made of the means of independent units
(`jobs.totals`), and the gain says how many plain draws one of these is worth. Coefficients of control variates come from the blocks of the other parity, so they
do not know the draws they correct, and the estimate stays unbiased.

::

    totals of all blocks -> finish: name, statistic, value, standard_error, low, high, gain
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np
import pyarrow as pa

from hindscan.jobs.bins import RELATIVE_ERROR, Bins
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
from hindscan.jobs.intervals import (
    binomial_ranks,
    exact_interval,
    normal_quantile,
    student_quantile,
    wilson_interval,
)
from hindscan.jobs.sums import Floats, exact
from hindscan.jobs.totals import Row, rows_of

__all__ = ["finish"]

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
    rows: dict[str, list[Row]] = {}
    for row in rows_of(table):
        row["sums"] = [exact(number) for number in row["sums"]]
        rows.setdefault(row["name"], []).append(row)
    found = []
    for name, one in statistics.items():
        halves = rows[name]
        common = {"name": name, "statistic": type(one).__name__.lower(), "draws": sum(row["draws"] for row in halves)}
        found += [common | row for row in _finished(one, halves)]
    return pa.Table.from_pylist(found, schema=_FINISHED)


def _finished(one: Statistic, halves: list[Row]) -> Iterator[Row]:
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


def _interval(value: float, variance: float, units: int, confidence: float, freedom: int) -> Row:
    """Bound a mean of units by their variance."""
    if freedom < 1:
        return {"value": value, "units": units}
    error = math.sqrt(variance / units)
    half = student_quantile(confidence, freedom) * error
    return {"value": value, "units": units, "standard_error": error, "low": value - half, "high": value + half}


def _around(value: float, replicates: Sequence[Fraction], n: int, one: Replicated, plain: float = 0.0) -> Row:
    """Bound a value by how the estimates of replicates differ (`jobs.replicates`); `plain` is the variance that so many plain draws would give it, if that is known."""
    there, total, squares = replicates
    variance = _variance(n, total, squares)
    # Where some of them have none, the others say nothing of these.
    if there != n:
        return _interval(value, variance, n, one.confidence, 0)
    return _interval(value, variance, n, one.confidence, n - 1) | _gain(plain, 1, variance, n)


def _variance(n: int, total: Fraction, squares: Fraction) -> float:
    return float(max(Fraction(0), (squares - total * total / n) / (n - 1))) if n > 1 else 0.0


def _spread(draws: int, total: Fraction, squares: Fraction) -> float:
    """Give the mean square of draws about their mean."""
    return float(squares / draws - (total / draws) ** 2)


def _gain(plain: float, draws: int, variance: float, units: int) -> Row:
    """Say how many plain draws one of these is worth."""
    return {"gain": plain / draws / (variance / units)} if variance > 0 and plain > 0 else {}


def _meant(one: Mean | Probability, row: Row) -> Row:
    n, (total, squares, *more) = row["units"], row["sums"]
    if not n:
        return {"units": 0}
    mean, variance = float(total / n), _variance(n, total, squares)
    found = _interval(mean, variance, n, one.confidence, n - 1)
    if more and one.weight is None:
        found |= _gain(_spread(row["draws"], *more), row["draws"], variance, n)
    elif more:
        # What a plain draw varies by: weighted back to the distribution that is meant.
        plain = float(more[0] / row["draws"] - (total / n) ** 2)
        found |= _gain(plain, row["draws"], variance, n)
    if isinstance(one, Probability):
        found |= _bounded(one, found, variance, n)
    if one.weight is not None:
        found["effective_draws"] = float(more[1] ** 2 / more[2]) if more[2] else 0.0
    return found


def _bounded(one: Probability, found: Row, variance: float, units: int) -> Row:
    """Keep the interval of a probability inside [0, 1], and open where no event, or nothing else, was seen."""
    if variance <= 0 and one.weight is not None:
        return {"low": None, "high": None}  # what was not drawn may have any weight
    return _inside(found, units, one.confidence)


def _inside(found: Row, units: int, confidence: float) -> Row:
    """Keep the interval of a share inside [0, 1], and open where units do not differ."""
    if found.get("standard_error"):
        return {"low": max(0.0, found["low"]), "high": min(1.0, found["high"])}
    if not units:
        return {}
    # No unit had another share than this; how many of all have is bounded, and theirs may be anything.
    other, share = exact_interval(0, units, confidence)[1], found["value"]
    return {"low": share * (1 - other), "high": share + (1 - share) * other}


def _counted(hits: int, draws: int, one: Probability | Histogram) -> Row:
    wilson = isinstance(one, Probability) and one.interval == "wilson"
    low, high = (wilson_interval if wilson else exact_interval)(hits, draws, one.confidence)
    share = hits / draws
    return {
        "value": share, "units": draws, "standard_error": math.sqrt(share * (1 - share) / draws), "low": low, "high": high,
    }  # fmt: skip


def _compared(one: Difference, row: Row) -> Row:
    n, draws, (total, squares, a, a2, b, b2) = row["units"], row["draws"], row["sums"]
    variance = _variance(n, total, squares)
    apart = _variance(draws, a, a2) + _variance(draws, b, b2)
    found = _interval(float(total / n), variance, n, one.confidence, n - 1)
    return found | _gain(apart, draws, variance, n)


def _divided(one: Ratio, row: Row) -> Row:
    n, (a, b, aa, ab, bb) = row["units"], row["sums"]
    if not b:
        return {"units": n}
    ratio = a / b
    # About the ratio the numerator less its share of the denominator has mean zero.
    left = aa - 2 * ratio * ab + ratio * ratio * bb
    scale = float(b / n) ** 2
    variance = float(left / (n - 1)) / scale if n > 1 else 0.0
    return _interval(float(ratio), variance, n, one.confidence, n - 1)


def _controlled(one: Mean, halves: list[Row]) -> Row:
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
    if draws != n:
        plain = _spread(draws, *(sum((row["sums"][at] for row in halves), Fraction(0)) for at in (-2, -1)))
    return found | _gain(plain, draws, left, n)


class _Half:
    """The sums of one half of the blocks, about their means."""

    def __init__(self, row: Row, controls: int) -> None:
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


def _covaried(one: Covariance, row: Row) -> Iterator[Row]:
    n, sums, count = row["units"], row["sums"], len(one.of)
    pairs = list(itertools.combinations_with_replacement(range(count), 2))
    spread = {
        (i, j): float((product - sums[i] * sums[j] / n) / (n - 1)) if n > 1 else None
        for (i, j), product in zip(pairs, sums[count:], strict=True)
    }
    for (i, j), value in spread.items():
        names = f"{one.of[i]}, {one.of[j]}"
        yield {"statistic": f"covariance of {names}", "units": n, "value": value}
        if i != j:
            yield {
                "statistic": f"correlation of {names}",
                "units": n,
                "value": _share(value, spread[i, i], spread[j, j]),
            }


def _share(covariance: float | None, first: float | None, second: float | None) -> float | None:
    """Give the correlation; none where a quantity does not vary."""
    deviation = math.sqrt(first) * math.sqrt(second) if first and second and first > 0 and second > 0 else 0.0
    return covariance / deviation if covariance is not None and deviation else None


def _moments(one: Moments, row: Row) -> Iterator[Row]:
    n, (s1, s2, s3, s4, *replicates) = row["draws"], row["sums"]
    mean = s1 / n
    m2 = s2 / n - mean**2
    variance = _variance(n, s1, s2)

    def bounded(at: int, value: float | None, plain: float = 0.0) -> Row:
        if not replicates or value is None:
            return {"units": n, "value": value}
        return _around(value, replicates[3 * at : 3 * at + 3], row["units"], one, plain)

    yield {"statistic": "count", "value": float(n), "units": n}
    plain = _interval(float(mean), variance, n, one.confidence, n - 1)
    m3 = s3 / n - 3 * mean * s2 / n + 2 * mean**3
    m4 = s4 / n - 4 * mean * s3 / n + 6 * mean**2 * s2 / n - 3 * mean**4
    yield {"statistic": "mean"} | (bounded(0, float(mean), variance / n) if replicates else plain)
    yield {"statistic": "variance"} | bounded(1, variance if n > 1 else None, float((m4 - m2 * m2) / n))
    # Draws that are all the same have no shape, and of draws below 1e-81 no float holds the fourth powers.
    has_shape = m2 > 0 and float(m2) ** 2 > 0
    yield {"statistic": "skewness"} | bounded(2, float(m3) / float(m2) ** 1.5 if has_shape else None)
    yield {"statistic": "kurtosis", "units": n, "value": float(m4 / m2**2) - 3 if has_shape else None}
    yield {"statistic": "min", "units": n, "value": row["least"]}
    yield {"statistic": "max", "units": n, "value": row["greatest"]}


def _with_bins(found: Row) -> Row:
    """Let an interval hold what bins may be off by: well spread points know a quantile better than these."""
    if "low" not in found:
        return found
    off = RELATIVE_ERROR * abs(found["value"])
    return found | {"low": found["low"] - off, "high": found["high"] + off}


def _bins(row: Row) -> Bins:
    return Bins(
        bins=np.asarray(row["bins"], np.int32), counts=np.asarray(row["counts"], np.int64),
        least=row["least"], greatest=row["greatest"],
    )  # fmt: skip


def _ranked(one: Quantile, row: Row) -> Row:
    bins = _bins(row)
    found: Row = {"value": bins.quantile(one.level), "units": row["units"]}
    below, above = binomial_ranks(one.level, bins.total, one.confidence)
    plain: Row = {}
    # Where too few draws lie beyond no ranks bound the quantile.
    if below >= 0 and above < bins.total:
        error = (bins.at(above) - bins.at(below)) / 2 / normal_quantile(one.confidence)
        # Where in their bins the two draws lie is not known.
        plain = {"standard_error": error, "low": bins.around(below)[0], "high": bins.around(above)[1]}
    if row["sums"]:
        around = _around(found["value"], row["sums"], row["units"], one, plain.get("standard_error", 0.0) ** 2)
        if "gain" in around:
            # It lies in one bin, anywhere in it; a shortfall is made of so many that they hardly count.
            variance, off = around["standard_error"] ** 2, RELATIVE_ERROR * found["value"]
            around["gain"] *= variance / (variance + off * off / 3)
        return _with_bins(around)
    return found | plain


def _beyond(one: Shortfall, row: Row) -> Row:
    bins = _bins(row)
    count = bins.total * (1 - one.level)
    mean, variance, least = bins.tail(count)
    found: Row = {"value": mean, "units": row["units"]}
    # The draws beyond vary, and so does where they begin.
    error = math.sqrt((variance + one.level * (mean - least) ** 2) / count)
    if row["sums"]:
        return _with_bins(_around(mean, row["sums"], row["units"], one, error * error))
    if count > 1:
        half = student_quantile(one.confidence, max(1, math.floor(count) - 1)) * error
        found |= {"standard_error": error, "low": mean - half, "high": mean + half}
    return found


def _shares(one: Histogram, row: Row) -> Iterator[Row]:
    edges = (-math.inf, *one.edges, math.inf)
    for at, ((low, high), count) in enumerate(zip(itertools.pairwise(edges), row["counts"], strict=True)):
        found = _counted(int(count), row["draws"], one)
        if row["sums"]:
            plain = found["standard_error"] ** 2
            found = _around(found["value"], row["sums"][3 * at : 3 * at + 3], row["units"], one, plain)
            found |= _inside(found, row["units"], one.confidence)
        yield {"statistic": f"share of [{low:g}, {high:g})"} | found
