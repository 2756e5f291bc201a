"""Confidence intervals: of a mean of independent units, and of a probability from hits and misses.

Serves promise 8: the same numbers give the same interval to the bit in every process. The incomplete beta function behind Student's and the exact binomial
interval is worked out here, because these are a few lines, and the library that has it would be most of what a small project installs.

::

    units, mean, variance -> student;  hits of draws -> exact_interval (Clopper and Pearson), wilson_interval
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Final

__all__ = [
    "SUMMARY_CONFIDENCE",
    "binomial_ranks",
    "exact_interval",
    "normal_quantile",
    "student_quantile",
    "wilson_interval",
]

#: Of the intervals of a summary, which declares none.
SUMMARY_CONFIDENCE: Final = 0.95

#: Above so many degrees of freedom Student's and the normal quantile differ by less than a hundred-thousandth, up to a confidence of 0.9999.
_MANY = 1_000_000


@functools.cache
def normal_quantile(confidence: float) -> float:
    """Give half the width of a two-sided interval in standard errors."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


@functools.lru_cache(maxsize=4096)
def student_quantile(confidence: float, freedom: int) -> float:
    """Give half the width of a two-sided interval in standard errors, where the error itself is estimated.

    Parameters
    ----------
    confidence : float
        Between 0 and 1.
    freedom : int
        Degrees of freedom: units less one.
    """
    normal = normal_quantile(confidence)
    if freedom >= _MANY:
        return normal
    # The share outside of t is the incomplete beta function at freedom / (freedom + t^2).
    x = _inverse(lambda x: _beta_share(freedom / 2, 0.5, x), 1 - confidence)
    return math.sqrt(freedom * (1 - x) / x)


@functools.lru_cache(maxsize=4096)
def exact_interval(hits: int, draws: int, confidence: float) -> tuple[float, float]:
    """Bound a probability as Clopper and Pearson do: it covers at least as often as it says, whatever the probability."""
    outside = (1 - confidence) / 2
    low, high = 0.0, 1.0
    if hits == 0:
        high = -math.expm1(math.log(outside) / draws)
    elif hits < draws:
        high = _inverse(lambda x: _beta_share(hits + 1, draws - hits, x), 1 - outside)
    if hits == draws:
        low = math.exp(math.log(outside) / draws)
    elif hits > 0:
        low = _inverse(lambda x: _beta_share(hits, draws - hits + 1, x), outside)
    return low, high


def wilson_interval(hits: int, draws: int, confidence: float) -> tuple[float, float]:
    """Bound a probability as Wilson does: narrower than the exact interval, and covering as often as it says on the average."""
    z = normal_quantile(confidence)
    share = hits / draws
    middle = (share + z * z / (2 * draws)) / (1 + z * z / draws)
    half = z / (1 + z * z / draws) * math.sqrt(share * (1 - share) / draws + z * z / (4 * draws * draws))
    return (0.0 if hits == 0 else max(0.0, middle - half)), (1.0 if hits == draws else min(1.0, middle + half))


def binomial_ranks(level: float, draws: int, confidence: float) -> tuple[int, int]:
    """Give the ranks, from 0, of the draws between which a quantile lies; one may lie outside of all draws."""
    half = normal_quantile(confidence) * math.sqrt(draws * level * (1 - level))
    return math.floor(draws * level - half) - 1, math.ceil(draws * level + half)


def _inverse(share: Callable[[float], float], wanted: float) -> float:
    """Find where a rising function of [0, 1] reaches a value."""
    low, high = 0.0, 1.0
    while True:
        # Where a probability is small, its digits count, not its distance from zero.
        middle = math.sqrt(low * high) if low > 0 and high > 4 * low else (low + high) / 2
        if low == 0.0 and high < 0.5:
            middle = high / 1024
        if not low < middle < high or high - low <= 1e-14 * high:
            return middle
        if share(middle) < wanted:
            low = middle
        else:
            high = middle
        if high < 1e-300:
            return 0.0


def _beta_share(a: float, b: float, x: float) -> float:
    """Give the regularised incomplete beta function."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1.0 - front * _fraction(b, a, 1 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    """Give the continued fraction of the incomplete beta function, as Lentz evaluates it."""
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    found = d
    for m in range(1, 100_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 + numerator * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + numerator / c
            c = c if abs(c) > tiny else tiny
            step = c * d
            found *= step
        if abs(step - 1.0) < 1e-15:
            break
    return found
