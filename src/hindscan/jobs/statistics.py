"""Statistics of simulated quantities that can be put together in any grouping, to the same bits.

Keeps promise 8: sums are exact across blocks (`jobs.sums`), and quantiles come from counts in bins (`jobs.bins`), so a quantile is off by at most 0.1 % of its
value (`RELATIVE_ERROR`). These are what a simulation that declares no statistics gives; those that are declared are in `jobs.estimates`.

::

    block of draws -> partial -> merge, merge, ... -> finish: one row per quantity
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hindscan.errors import BadPartial
from hindscan.jobs.bins import RELATIVE_ERROR, Bins, binned, merged
from hindscan.jobs.intervals import SUMMARY_CONFIDENCE, normal_quantile
from hindscan.jobs.sums import MOST, Floats, added, exact, powers

__all__ = ["RELATIVE_ERROR", "check_finite", "finish", "merge", "partial"]

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
        check_finite(name, draws)
        rows.append(_row(name, draws))
    return _table(rows)


def check_finite(name: str, draws: Floats, most: float = MOST) -> None:
    """Refuse draws that are no numbers, or whose powers are not.

    Parameters
    ----------
    name : str
        Of the quantity.
    draws : array
        Of one block.
    most : float
        Every draw must be smaller. Default: the greatest that has a square.

    Raises
    ------
    hindscan.errors.BadPartial
        With how many, and where the first is.
    """
    bad = ~(np.abs(draws) < most)
    if bad.any():
        where = int(np.flatnonzero(bad)[0])
        raise BadPartial(
            f"Taking statistics of {name!r}: every draw must be a finite number below {most:g}, and {np.count_nonzero(bad):,} of "
            f"{draws.size:,} are not (the first is {draws[where]} at {where} of its block). Return finite numbers, or combine on your own.",
            quantity=name,
        )


def _row(name: str, draws: Floats) -> dict[str, object]:
    total, squares = powers([draws])
    bins, counts = binned(draws)
    return {
        "quantity": name, "count": draws.size, "sum": total, "squares": squares,
        "min": float(draws.min(initial=math.inf)), "max": float(draws.max(initial=-math.inf)), "bins": bins, "counts": counts,
    }  # fmt: skip


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
    bins, counts = merged([(row["bins"], row["counts"]) for row in rows])
    total, squares = added([(row["sum"], row["squares"]) for row in rows])
    return {
        "quantity": name, "count": sum(row["count"] for row in rows), "sum": total, "squares": squares,
        "min": min(row["min"] for row in rows), "max": max(row["max"] for row in rows), "bins": bins, "counts": counts,
    }  # fmt: skip


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
    total = exact(row["sum"])
    mean = float(total / n)
    done: dict[str, object] = {"name": row["quantity"], "draws": n, "mean": mean, "min": row["min"], "max": row["max"]}
    if n > 1:
        variance = max(0, (exact(row["squares"]) - total**2 / n) / (n - 1))
        std = math.sqrt(float(variance))
        error = std / math.sqrt(n)
        half = normal_quantile(SUMMARY_CONFIDENCE) * error
        done |= {"std": std, "standard_error": error, "low": mean - half, "high": mean + half}
    counted = Bins(
        bins=np.asarray(row["bins"], np.int32),
        counts=np.asarray(row["counts"], np.int64),
        least=row["min"],
        greatest=row["max"],
    )
    return done | {name: counted.quantile(share) for name, share in _QUANTILES.items()}
