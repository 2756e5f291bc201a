"""Counts of draws in bins that are cut out of the binary representation of numbers: quantiles that merge.

Keeps promise 8: no library's logarithm decides where a draw falls, and counts are integers, so any grouping gives the same. A quantile is
off by at most 0.1 % of its value (`RELATIVE_ERROR`), however many draws there are and however they are spread.

::

    draws -> binned -> merged, merged, ... -> Bins.at(rank), Bins.tail(share)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from hindscan.jobs.sums import Floats

__all__ = ["RELATIVE_ERROR", "Bins", "binned", "merged"]

#: Leading bits of the mantissa that make a bin: 1,024 bins between a number and its double.
_BITS = 10
_SHIFT = 52 - _BITS

#: A quantile differs from that of the draws by at most this share of its value (but for denormal numbers): all draws of a bin may lie at one of its ends.
RELATIVE_ERROR = 2.0**-_BITS

Counted = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]


def binned(draws: Floats) -> Counted:
    """Count draws by bin: the bins that have any, in the order of the numbers, and how many each has."""
    if not draws.size:
        return np.empty(0, np.int32), np.empty(0, np.int64)
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


def merged(counted: Sequence[Counted]) -> Counted:
    """Put counts together."""
    bins = np.concatenate([one[0] for one in counted])
    counts = np.concatenate([one[1] for one in counted])
    used, where = np.unique(bins, return_inverse=True)
    total = np.zeros(used.size, np.int64)
    np.add.at(total, where, counts)
    return used, total


class Bins(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All draws of a quantity, as counted."""

    bins: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]
    #: The least and the greatest draw.
    least: float
    greatest: float

    @functools.cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        return np.cumsum(self.counts)

    @property
    def total(self) -> int:
        """Number of draws."""
        return int(self._ends[-1]) if self._ends.size else 0

    def quantile(self, level: float) -> float:
        """Give the quantile of a level between 0 and 1, as numpy's default has it."""
        rank = level * (self.total - 1)
        below = math.floor(rank)
        first, second = self.at(below), self.at(below + 1)
        return first + (second - first) * (rank - below)

    def at(self, rank: int) -> float:
        """Give the draw of one rank, counted from 0; draws of a bin lie as if spread evenly over it."""
        rank, where = self._where(rank)
        first, last = _edges(int(self.bins[where]))
        share = (rank - (int(self._ends[where]) - int(self.counts[where])) + 0.5) / int(self.counts[where])
        return self._inside(first + (last - first) * share)

    def around(self, rank: int) -> tuple[float, float]:
        """Give the ends of the bin in which the draw of one rank lies, wherever in it."""
        first, last = _edges(int(self.bins[self._where(rank)[1]]))
        return self._inside(first), self._inside(last)

    def _where(self, rank: int) -> tuple[int, int]:
        """Give a rank that there is, and the position of its bin."""
        rank = min(max(rank, 0), self.total - 1)
        return rank, int(np.searchsorted(self._ends, rank, side="right"))

    def _inside(self, value: float) -> float:
        return float(min(max(value, self.least), self.greatest))

    def tail(self, count: float) -> tuple[float, float, float]:
        """Give the mean of the greatest draws, so many of them, their variance, and the least of them."""
        middles = np.array([sum(_edges(one)) / 2 for one in self.bins[::-1].tolist()])
        middles = np.clip(middles, self.least, self.greatest)
        before = np.concatenate([[0], np.cumsum(self.counts[::-1])[:-1]])
        taken = np.clip(count - before, 0, self.counts[::-1])
        used = taken > 0
        middles, taken = middles[used], taken[used]
        mean = math.fsum((middles * taken).tolist()) / count
        variance = math.fsum(((middles - mean) ** 2 * taken).tolist()) / count
        return mean, variance, float(middles[-1])


def _edges(bin_: int) -> tuple[float, float]:
    if bin_ == 0:
        return 0.0, 0.0  # zeros are common; what shares their bin is below 1e-310
    keys = np.array([bin_ << _SHIFT, (bin_ + 1 << _SHIFT) - 1], np.int64)
    first, last = np.where(keys < 0, keys ^ np.int64(0x7FFF_FFFF_FFFF_FFFF), keys).view(np.float64).tolist()
    # The outermost bins end in infinity, which no draw is.
    return max(first, -1.7976931348623157e308), min(last, 1.7976931348623157e308)
