"""Sums of floats that are the same to the bit however the blocks they come from are put together.

Keeps promise 8 where results are sums of millions of draws: floating-point addition depends on its order. Inside a block draws are summed in one fixed way, which
is the same on every processor (numpy's own sum is not); across blocks sums are exact: a sum is a fraction, stored as the few floats that make it up.

::

    draws of a block -> powers, each written as parts (stored) -> exact (added, in any order) -> float, once
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from hindscan.jobs.compiler import compiled, compiler

__all__ = ["MOST", "Floats", "added", "compiled_rows", "exact", "fixed_sum", "parts", "powers", "unit_means"]

Floats = npt.NDArray[np.float64]

#: The square of a greater number is none.
MOST = 1e150

#: Lanes that are summed side by side, each in order: wide enough that the processor adds as fast as it reads, and then few enough to be added one by one.
_LANES = 1024
_FEW = 32

#: Means of units up to so many draws are made row by row; those of larger ones one unit after the other.
_ROWS = 256

#: The least float is two to the power of minus this.
_LEAST = 1074

#: Adds rows, one after the other.
_add = np.add.reduce


def fixed_sum(numbers: Floats) -> float:
    """Sum numbers in a fixed order."""
    return math.fsum(_folded(numbers))


def _folded(numbers: Floats) -> list[float]:
    """Add numbers up until few are left: row after row, lane by lane, so that no processor's way of summing a row is asked for."""
    size, left = numbers.size, []
    if wide := size // _LANES * _LANES:
        lanes = _add((numbers if wide == size else numbers[:wide]).reshape(-1, _LANES))
        left = _add(lanes.reshape(-1, _FEW)).tolist()
    if narrow := (size - wide) // _FEW * _FEW:
        left += _add(numbers[wide : wide + narrow].reshape(-1, _FEW)).tolist()
    if wide + narrow < size:
        left += numbers[wide + narrow :].tolist()
    return left


def _multiplied(left: Floats, right: Floats) -> list[float]:
    """Give what `_folded` gives of the products, to the bit."""
    wide = left.size // _LANES * _LANES if _in_one_step() else 0
    found: list[float] = []
    if wide:
        lanes = np.einsum("ij,ij->j", left[:wide].reshape(-1, _LANES), right[:wide].reshape(-1, _LANES))
        found = _add(lanes.reshape(-1, _FEW)).tolist()
    return found if wide == left.size else found + _folded(left[wide:] * right[wide:])


@functools.cache
def _in_one_step() -> bool:
    """Tell whether numpy multiplies and adds in one step as in two: not where its processor does both with one rounding."""
    numbers = np.random.Generator(np.random.PCG64DXSM(1)).standard_normal((2, 16, _LANES))
    return bool(np.array_equal(np.einsum("ij,ij->j", *numbers), _add(numbers[0] * numbers[1])))


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
    if unit <= _ROWS:
        # Rows of the transposed: added one after the other, whatever the processor.
        means: Floats = np.add.reduce(np.ascontiguousarray(whole.T), axis=0) / unit
        return means
    return np.array([fixed_sum(row) / unit for row in whole])


def powers(columns: Sequence[Floats], highest: int = 2) -> list[list[float]]:
    """Sum the products of columns: each alone, then each pair, then (of a single column) the third and the fourth power.

    Parameters
    ----------
    columns : sequence of array
        Of one length.
    highest : int
        2, or 4 for a single column.

    Returns
    -------
    list of list of float
        About zero, each written as `parts` does. Nothing large cancels on the way there: where a mean lies far from zero products are summed about a value
        near it, and moved to zero exactly.
    """
    size = columns[0].size
    if not size:
        return [[] for _ in range(len(columns) * (len(columns) + 3) // 2 + highest - 2)]
    left, central = _products(columns, highest)
    about = _far(left, central, size)
    if not any(about):
        return [[number] for number in (*left, *central)]
    left, central = _products([column - a if a else column for column, a in zip(columns, about, strict=True)], highest)
    return [parts(number, 3) for number in _moved(about, left, central, size, highest)]


def _moved(
    about: Sequence[float], left: Sequence[float], central: Sequence[float], size: int, highest: int
) -> list[Fraction]:
    """Move sums of products to zero."""
    totals = [size * Fraction(a) + Fraction(rest) for a, rest in zip(about, left, strict=True)]
    moved = list(totals)
    for (i, j), value in zip(_pairs(len(left)), central, strict=False):
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


def _far(totals: Sequence[float], products: Sequence[float], size: int) -> list[float]:
    """Give the means of columns that lie so far from zero that digits of their spread are lost; 0 for the others."""
    squares = (value for (i, j), value in zip(_pairs(len(totals)), products, strict=False) if i == j)
    # 8 standard deviations away, squared: two of sixteen digits.
    return [
        total / size if 65 * total * total > 64 * square * size else 0.0
        for total, square in zip(totals, squares, strict=True)
    ]


@functools.cache
def _pairs(columns: int) -> tuple[tuple[int, int], ...]:
    return tuple(itertools.combinations_with_replacement(range(columns), 2))


def _products(columns: Sequence[Floats], highest: int) -> tuple[list[float], list[float]]:
    """Sum each column, and the products of columns."""
    loop = compiled_rows() if len(columns) == 1 and compiler.is_ready() else None
    if loop is not None:
        totals, products = _in_one_pass(columns[0], loop)
    else:
        totals = [math.fsum(_folded(column)) for column in columns]
        products = [math.fsum(_multiplied(columns[i], columns[j])) for i, j in _pairs(len(columns))]
    if highest == 4:
        square = columns[0] * columns[0]
        products += [math.fsum(_multiplied(square, columns[0])), math.fsum(_multiplied(square, square))]
    return totals, products


def _in_one_pass(column: Floats, loop: Callable[..., None]) -> tuple[list[float], list[float]]:
    """Sum a column and its squares: what `_folded` and `_multiplied` give, to the bit."""
    wide = column.size // _LANES * _LANES
    lanes, rest = np.empty((2, _LANES)), column[wide:]
    found: list[list[float]] = [[], []]
    if wide:
        loop(np.ascontiguousarray(column[:wide]), *lanes)
        found = [_add(each.reshape(-1, _FEW)).tolist() for each in lanes]
    if rest.size:
        found = [few + _folded(left) for few, left in zip(found, (rest, rest * rest), strict=True)]
    return [math.fsum(found[0])], [math.fsum(found[1])]


def _add_rows(column: Any, totals: Any, squares: Any) -> None:
    """Add up lanes, and their squares, row after row: four rows at once, so that totals are seldom fetched. To be compiled."""
    rows = column.size // _LANES
    first = rows % 4
    for lane in range(_LANES):
        total = square = 0.0
        for row in range(first):
            a = column[row * _LANES + lane]
            total += a
            square += a * a
        totals[lane], squares[lane] = total, square
    for four in range(rows // 4):
        start = (first + 4 * four) * _LANES
        for lane in range(_LANES):
            a, b = column[start + lane], column[start + _LANES + lane]
            c, d = column[start + 2 * _LANES + lane], column[start + 3 * _LANES + lane]
            totals[lane] = totals[lane] + a + b + c + d
            squares[lane] = squares[lane] + a * a + b * b + c * c + d * d


@functools.cache
def compiled_rows() -> Callable[..., None] | None:
    """Compile `_add_rows`; None where what is compiled cannot be kept."""
    # What a function returns may lie in an Arrow table, where nothing can be written to.
    return compiled(_add_rows, "void(Array(float64, 1, 'C', readonly=True, aligned=False), float64[::1], float64[::1])")


def parts(number: Fraction, most: int = 64) -> list[float]:
    """Write an exact number as floats, largest first; 64 hold any sum of floats, three are good for 150 bits."""
    written: list[float] = []
    while len(written) < most and (part := float(number)):
        written.append(part)
        if part.as_integer_ratio() == (number.numerator, number.denominator):
            break
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
