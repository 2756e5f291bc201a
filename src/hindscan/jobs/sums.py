"""Sums of floats that are the same to the bit however the blocks they come from are put together.

Keeps promise 8 where results are sums of millions of draws: floating-point addition depends on its order. Inside a block draws are summed in one fixed way, which
is the same on every processor (numpy's own sum is not); across blocks sums are exact: a sum is a fraction, stored as the few floats that make it up.

::

    draws of a block -> powers -> fractions -> parts (stored) -> exact (added, in any order) -> float, once
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

__all__ = ["MOST", "Floats", "added", "exact", "fixed_sum", "parts", "powers", "unit_means"]

Floats = npt.NDArray[np.float64]

#: The square of a greater number is none.
MOST = 1e150

#: Lanes that are summed side by side, each in order.
_LANES = 256

#: The least float is two to the power of minus this.
_LEAST = 1074

#: Numbers that are worked on at a time: what is made of them stays in the nearest cache of a core.
_CHUNK = 16384


def fixed_sum(numbers: Floats) -> float:
    """Sum numbers in a fixed order."""
    whole = numbers.size // _LANES * _LANES
    lanes = np.add.reduce(numbers[:whole].reshape(-1, _LANES), axis=0)
    return math.fsum((*lanes.tolist(), *numbers[whole:].tolist()))


def unit_means(draws: Floats, unit: int) -> Floats:
    """Give the means of so many consecutive draws each; what is left over at the end is no unit.

    Parameters
    ----------
    draws : array
        One number per draw.
    unit : int
        Draws that depend on each other.
    """
    if unit == 1:
        return draws
    whole = draws[: draws.size // unit * unit].reshape(-1, unit)
    if unit <= _LANES:
        # Rows of the transposed: added one after the other, whatever the processor.
        means: Floats = np.add.reduce(np.ascontiguousarray(whole.T), axis=0) / unit
        return means
    return np.array([fixed_sum(row) / unit for row in whole])


def powers(columns: Sequence[Floats], highest: int = 2) -> list[Fraction]:
    """Sum the products of columns: each alone, then each pair, then (of a single column) the third and the fourth power.

    Parameters
    ----------
    columns : sequence of array
        Of one length.
    highest : int
        2, or 4 for a single column.

    Returns
    -------
    list of Fraction
        About zero. Nothing large cancels on the way there: products are summed about a value near the mean, and moved to zero exactly.
    """
    size = columns[0].size
    if not size:
        return [Fraction(0)] * (len(columns) * (len(columns) + 3) // 2 + highest - 2)
    about = [_about(column) for column in columns]
    left, central = _central(columns, about, highest)
    totals = [size * Fraction(a) + Fraction(rest) for a, rest in zip(about, left, strict=True)]
    moved = list(totals)
    for (i, j), value in zip(_pairs(len(columns)), central, strict=False):
        if not about[i] and not about[j]:
            moved.append(Fraction(value))
            continue
        a, b = Fraction(about[i]), Fraction(about[j])
        moved.append(Fraction(value) + a * totals[j] + b * totals[i] - size * a * b)
    if highest == 4:
        a, first, second = Fraction(about[0]), moved[0], moved[1]
        third = Fraction(central[1]) + 3 * a * second - 3 * a**2 * first + size * a**3
        moved.append(third)
        moved.append(Fraction(central[2]) + 4 * a * third - 6 * a**2 * second + 4 * a**3 * first - size * a**4)
    return moved


def _about(column: Floats) -> float:
    """Choose the value that products are summed about: none unless numbers lie so far from zero that digits would cancel."""
    sample = column[:: max(1, column.size // _LANES)]
    mean = float(np.add.accumulate(sample)[-1]) / sample.size
    spread = math.sqrt(float(np.add.accumulate((sample - mean) ** 2)[-1]) / sample.size)
    return 0.0 if abs(mean) <= 8 * spread else mean


def _pairs(columns: int) -> list[tuple[int, int]]:
    return list(itertools.combinations_with_replacement(range(columns), 2))


def _central(columns: Sequence[Floats], about: Sequence[float], highest: int) -> tuple[list[float], list[float]]:
    """Sum the deviations of each column, and the products of deviations, chunk by chunk."""
    pairs = _pairs(len(columns))
    first = [_Lanes() for _ in columns]
    products = [_Lanes() for _ in range(len(pairs) + highest - 2)]
    deviations: list[Floats] = [*columns]
    buffers = np.empty((len(columns) + 1, min(_CHUNK, columns[0].size)))
    for start in range(0, columns[0].size, _CHUNK):
        size = min(_CHUNK, columns[0].size - start)
        product = buffers[-1, :size]
        for at, (lanes, column, centre) in enumerate(zip(first, columns, about, strict=True)):
            deviations[at] = column[start : start + size]
            if centre:
                deviations[at] = np.subtract(deviations[at], centre, out=buffers[at, :size])
            lanes.add(deviations[at])
        for lanes, (i, j) in zip(products, pairs, strict=False):
            np.multiply(deviations[i], deviations[j], out=product)
            lanes.add(product)
        for lanes in products[len(pairs) :]:
            np.multiply(product, deviations[0], out=product)
            lanes.add(product)
    return [lanes.total() for lanes in first], [lanes.total() for lanes in products]


class _Lanes:
    """A sum that grows, in a fixed order."""

    def __init__(self) -> None:
        self._lanes = np.zeros(_LANES)
        self._left: list[float] = []

    def add(self, numbers: Floats) -> None:
        whole = numbers.size // _LANES * _LANES
        self._lanes += np.add.reduce(numbers[:whole].reshape(-1, _LANES), axis=0)
        if whole < numbers.size:
            self._left += numbers[whole:].tolist()

    def total(self) -> float:
        return math.fsum((*self._lanes.tolist(), *self._left))


def parts(number: Fraction, most: int = 64) -> list[float]:
    """Write an exact number as floats, largest first; 64 hold any sum of floats, three are good for 150 bits."""
    written: list[float] = []
    while len(written) < most and (part := float(number)):
        written.append(part)
        number -= Fraction(part)
    return written


def exact(written: Iterable[float]) -> Fraction:
    """Read what `parts` wrote."""
    # In units of the least float there is, whole numbers: adding fractions would look for common divisors each time.
    total = 0
    for part in written:
        numerator, denominator = part.as_integer_ratio()
        total += numerator << (_LEAST - denominator.bit_length() + 1)
    if not total:
        return Fraction(0)
    zeros = min((total & -total).bit_length() - 1, _LEAST)
    return Fraction(total >> zeros, 1 << (_LEAST - zeros))


def added(rows: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Add rows of written numbers, place by place."""
    return [parts(exact(itertools.chain.from_iterable(place))) for place in zip(*rows, strict=True)]
