"""Statistics of simulated quantities that can be put together in any grouping, to the same bits.

Keeps promise 8 where results are sums of millions of draws: floating-point addition depends on its order, so here it does not happen across
blocks. Each block is summed in one fixed way; across blocks sums are exact (a sum is kept as the few floats that make it up). Quantiles come
from counts in bins that are cut out of the binary representation of numbers, so that no library's logarithm decides where a draw falls: counts are
integers, and a quantile is off by at most 0.1 % of its value (`RELATIVE_ERROR`).

::

    block of draws -> partial -> merge, merge, ... -> finish: one row per quantity
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hindscan.errors import BadPartial

__all__ = ["RELATIVE_ERROR", "finish", "merge", "partial"]

#: Leading bits of the mantissa that make a bin: 512 bins between a number and its double.
_BITS = 9
_SHIFT = 52 - _BITS

#: A quantile differs from that of the draws by at most this share of its value (but for denormal numbers).
RELATIVE_ERROR = 2.0**-_BITS / 2

#: Lanes that are summed side by side, each in order: the same on every processor, which numpy's own sum is not.
_LANES = 256

#: Half the width of a 95 % interval, in standard errors.
_NORMAL_95 = 1.959963984540054

_PARTIAL_TYPES: dict[str, pa.DataType] = {
    "quantity": pa.string(),
    "count": pa.int64(),
    # Floats whose exact sum is the sum of all draws, and of their squares.
    "sum": pa.list_(pa.float64()),
    "squares": pa.list_(pa.float64()),
    "min": pa.float64(),
    "max": pa.float64(),
    "bins": pa.list_(pa.int32()),
    "counts": pa.list_(pa.int64()),
}
_PARTIAL = pa.schema(_PARTIAL_TYPES)

_QUANTILES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}

_NUMBERS = ("mean", "std", "standard_error", "low", "high", "min", *_QUANTILES, "max")
_FINISHED_TYPES: dict[str, pa.DataType] = {"name": pa.string(), "draws": pa.int64()}
_FINISHED_TYPES |= dict.fromkeys(_NUMBERS, pa.float64())
_FINISHED = pa.schema(_FINISHED_TYPES)

#: The square of a greater number is none.
_MOST = 1e150

Floats = npt.NDArray[np.float64]


def partial(values: Mapping[str, Any]) -> pa.Table:
    """Take the statistics of one block.

    Parameters
    ----------
    values : mapping of str to array
        The draws of each quantity, ``(size,)``; converted to 64-bit floats.

    Returns
    -------
    pa.Table
        One row per quantity, in the order given.

    Raises
    ------
    hindscan.errors.BadPartial
        A draw is not a finite number, or one whose square is not.
    """
    rows = []
    for name, given in values.items():
        draws = np.ascontiguousarray(given, dtype=np.float64)
        bad = ~(np.abs(draws) < _MOST)
        if bad.any():
            where = int(np.flatnonzero(bad)[0])
            raise BadPartial(
                f"Taking statistics of {name!r}: every draw must be a finite number below {_MOST:g}, and {np.count_nonzero(bad):,} of "
                f"{draws.size:,} are not (the first is {draws[where]} at {where} of its block). Return finite numbers, or combine on your own.",
                quantity=name,
            )
        rows.append(_row(name, draws))
    return _table(rows)


def _row(name: str, draws: Floats) -> dict[str, object]:
    if not draws.size:
        return {"quantity": name, "count": 0, "sum": [], "squares": [], "min": math.inf, "max": -math.inf, "bins": [], "counts": []}  # fmt: skip
    # About a value near the mean nothing large cancels; what is about zero follows from that exactly.
    about = _sum(draws) / draws.size
    deviations = draws - about
    left = Fraction(_sum(deviations))
    total = draws.size * Fraction(about) + left
    squares = Fraction(_sum(deviations * deviations)) + 2 * Fraction(about) * left + draws.size * Fraction(about) ** 2
    bins, counts = _binned(draws)
    return {
        "quantity": name, "count": draws.size, "sum": _parts(total, 3), "squares": _parts(squares, 3), "min": float(draws.min()),
        "max": float(draws.max()), "bins": bins, "counts": counts,
    }  # fmt: skip


def _sum(draws: Floats) -> float:
    whole = draws.size // _LANES * _LANES
    lanes = np.add.reduce(draws[:whole].reshape(-1, _LANES), axis=0)
    return math.fsum((*lanes.tolist(), *draws[whole:].tolist()))


def _parts(exact: Fraction, most: int = 64) -> list[float]:
    """Write an exact sum as floats, largest first; 64 hold any sum of floats, three are good for 150 bits."""
    parts: list[float] = []
    while len(parts) < most and (part := float(exact)):
        parts.append(part)
        exact -= Fraction(part)
    return parts


def _binned(draws: Floats) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    bits = (draws + 0.0).view(np.int64)  # + 0.0: one zero only
    negative = bits < 0
    bits &= np.int64(0x7FFF_FFFF_FFFF_FFFF)
    bits >>= _SHIFT
    # Bins are in the order of the numbers: those of negative ones count down from -1.
    least = int(bits.min())
    span = int(bits.max()) - least + 1
    if span > 2 * draws.size + 1024:
        unique, counted = np.unique(np.where(negative, ~bits, bits), return_counts=True)
        return unique.astype(np.int32), counted.astype(np.int64)
    bits -= least
    np.add(bits, span, out=bits, where=negative)
    counts = np.bincount(bits, minlength=2 * span)
    below, above = np.flatnonzero(counts[span:])[::-1], np.flatnonzero(counts[:span])
    bins = np.concatenate([~(below + least), above + least])
    return bins.astype(np.int32), np.concatenate([counts[span:][below], counts[:span][above]]).astype(np.int64)


def merge(tables: Sequence[pa.Table]) -> pa.Table:
    """Put partial statistics together; any grouping and order of the same blocks gives the same table.

    Parameters
    ----------
    tables : sequence of pa.Table
        What `partial` or `merge` gave.

    Returns
    -------
    pa.Table
        One row per quantity, in the order of their first appearance.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for table in tables:
        lists = [(table["bins"].combine_chunks(), table["counts"].combine_chunks())]
        plain = table.drop_columns(["bins", "counts"]).to_pylist()
        for index, row in enumerate(plain):
            row["bins"], row["counts"] = (column[index].values.to_numpy() for column in lists[0])
            rows.setdefault(row["quantity"], []).append(row)
    return _table([_merged(name, found) for name, found in rows.items()])


def _merged(name: str, rows: list[dict[str, Any]]) -> dict[str, object]:
    bins = np.concatenate([row["bins"] for row in rows])
    counts = np.concatenate([row["counts"] for row in rows])
    used, where = np.unique(bins, return_inverse=True)
    merged = np.zeros(used.size, np.int64)
    np.add.at(merged, where, counts)
    return {
        "quantity": name,
        "count": sum(row["count"] for row in rows),
        "sum": _parts(_exact(part for row in rows for part in row["sum"])),
        "squares": _parts(_exact(part for row in rows for part in row["squares"])),
        "min": min(row["min"] for row in rows),
        "max": max(row["max"] for row in rows),
        "bins": used,
        "counts": merged,
    }


def _exact(parts: Any) -> Fraction:
    return sum(map(Fraction, parts), Fraction(0))


def _table(rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_arrays(
        [pa.array([row[field.name] for row in rows], field.type) for field in _PARTIAL], schema=_PARTIAL
    )


def finish(table: pa.Table) -> pa.Table:
    """Make the result out of merged statistics.

    Returns
    -------
    pa.Table
        One row per quantity: ``name, draws, mean, std, standard_error, low, high, min, p05, p25, p50, p75, p95, max``. ``low`` and
        ``high`` bound the mean with 95 % confidence; ``std`` divides by draws - 1, and is null for a single draw.
    """
    return pa.Table.from_pylist([_finished(row) for row in table.to_pylist()], schema=_FINISHED)


def _finished(row: dict[str, Any]) -> dict[str, object]:
    n = row["count"]
    if n == 0:
        return {"name": row["quantity"], "draws": 0}
    total = _exact(row["sum"])
    mean = float(total / n)
    done: dict[str, object] = {"name": row["quantity"], "draws": n, "mean": mean, "min": row["min"], "max": row["max"]}
    if n > 1:
        variance = max(Fraction(0), (_exact(row["squares"]) - total**2 / n) / (n - 1))
        std = math.sqrt(float(variance))
        error = std / math.sqrt(n)
        done |= {
            "std": std,
            "standard_error": error,
            "low": mean - _NORMAL_95 * error,
            "high": mean + _NORMAL_95 * error,
        }
    counts = np.asarray(row["counts"], np.int64)
    ends = np.cumsum(counts)
    for name, share in _QUANTILES.items():
        done[name] = _quantile(row, counts, ends, share * (n - 1))
    return done


def _quantile(row: dict[str, Any], counts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], rank: float) -> float:
    below = math.floor(rank)
    at: list[float] = [_ranked(row, counts, ends, min(one, row["count"] - 1)) for one in (below, below + 1)]
    return at[0] + (at[1] - at[0]) * (rank - below)


def _ranked(row: dict[str, Any], counts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], rank: int) -> float:
    """Give the draw of one rank: draws of a bin lie as if spread evenly over it."""
    where = int(np.searchsorted(ends, rank, side="right"))
    first, last = _edges(row["bins"][where])
    share = (rank - (int(ends[where]) - int(counts[where])) + 0.5) / int(counts[where])
    return float(min(max(first + (last - first) * share, row["min"]), row["max"]))


def _edges(bin_: int) -> tuple[float, float]:
    if bin_ == 0:
        return 0.0, 0.0  # zeros are common; what shares their bin is below 1e-310
    keys = np.array([bin_ << _SHIFT, (bin_ + 1 << _SHIFT) - 1], np.int64)
    first, last = np.where(keys < 0, keys ^ np.int64(0x7FFF_FFFF_FFFF_FFFF), keys).view(np.float64).tolist()
    # The outermost bins end in infinity, which no draw is.
    return max(first, -1.7976931348623157e308), min(last, 1.7976931348623157e308)
