"""Standard normal numbers, several times as fast as numpy's, and the same bits with a compiler and without.

Keeps promise 8: the numbers follow from the block's own generator alone. It seeds sixteen lanes, each an SFC64 that is given three words of it as numpy seeds one;
side by side they are drawn as fast as a processor can. Two words of a lane make two numbers, by the transform of Box and Muller: one is a radius, the other an angle.
Words have 64 bits, so numbers reach 9.4, and what lies beyond has a chance of 2**-64.

A library's logarithm or cosine gives other bits on another machine. Here there are only integers and what IEEE 754 rounds in one way (sums, products, a quotient, a
root), with polynomials that `tests/unit/jobs/test_normal.py` makes anew and compares: a number is within 1e-15 of its value of what its words say. `_pair` is written
once: numpy works through it in arrays, and where numba is there (`jobs.compiler`) a compiled loop goes over it number by number. Both let go of the interpreter's lock.

::

    generator of a block -> 48 words -> 16 lanes -> pairs of words -> _pair -> rows of 32 numbers
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numpy.random import SFC64, Generator
from numpy.random.bit_generator import ISeedSequence

from hindscan.jobs.compiler import compiled, compiler, part

__all__ = ["LANES", "NormalStream", "compiled_fill"]

_Words = npt.NDArray[np.uint64]
_Floats = npt.NDArray[np.float64]

#: Generators side by side: some registers of a processor, and few enough to be seeded in a moment. Another number of them would draw others.
LANES: Final = 16
#: A lane gives two numbers at once: the first ones of all lanes lie before the second ones.
_ROW: Final = 2 * LANES
#: Words that SFC64 gives before those that are used.
_WARMING: Final = 12
#: Rows that numpy asks the lanes for at once; and pairs that it works through at once, in the processor's cache.
_ROWS: Final = 4096
_PAIRS: Final = 8192

# The polynomials, highest power first. Of the square of an angle, in eighths of a turn: its cosine, and its sine over it.
_COSINE: Final = (
    1.1365469207731353e-10, -2.4609507094028117e-08, 3.590859179850238e-06, -0.00032599188648354014, 0.015854344243741547, -0.30842513753403783, 1.0,
)  # fmt: skip
_SINE: Final = (
    6.877360573166326e-12, -1.7571500746983935e-09, 3.133616225433416e-07, -3.657620415891387e-05, 0.002490394570188844, -0.08074551218828054, 0.7853981633974483,
)  # fmt: skip
# Of s * s, where s = (m - 1) / (m + 1): minus twice the logarithm of m, over s.
_LOGARITHM: Final = (
    -0.33675319941360976, -0.3624386886243043, -0.4444686909503581, -0.5714283204221534, -0.8000000012348323, -1.3333333333310584, -4.000000000000001,
)  # fmt: skip
#: Minus twice the logarithm of two: what each power of two of a word adds to the square of the radius.
_PER_POWER: Final = -1.3862943611198906

# How a float is laid out: bits of its fraction; 1.0; the root of a half, cut off; and 2**52, in whose fraction a whole number lies as it is.
_FRACTION: Final = np.uint64((1 << 52) - 1)
_ONE: Final = np.uint64(0x3FF0_0000_0000_0000)
_ROOT: Final = np.uint64(0x3FE6_A09E_0000_0000)
_TO_ROOT: Final = np.uint64(0x3FF0_0000_0000_0000 - 0x3FE6_A09E_0000_0000)
_WHOLE: Final = np.uint64(0x4330_0000_0000_0000)
#: What `_WHOLE` and the power of a word have too much, where 2**64 is to have none.
_TOO_MUCH: Final = 2.0**52 + 1023 + 64
_SIGN: Final = np.uint64(1 << 63)
# Both numpy and numba take a plain whole number beside a word for a signed one.
_0, _1, _2, _3, _11, _12, _24, _40, _52, _62, _63 = (np.uint64(n) for n in (0, 1, 2, 3, 11, 12, 24, 40, 52, 62, 63))

_root = np.sqrt


def _as_words(numbers: Any) -> Any:
    return numbers.view(np.uint64)


def _as_floats(words: Any) -> Any:
    return words.view(np.float64)


def _polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    value = coefficients[0] * x
    value += coefficients[1]
    for coefficient in coefficients[2:]:
        value *= x
        value += coefficient
    return value


def _pair(first: Any, second: Any) -> Any:
    """Make two normal numbers of two words. Arrays for numpy, single ones for the compiler: nothing is changed that was given."""
    # A word that is odd is never zero. Its float is 2**power * m, m about 1: between the roots of a half and of two.
    bits = _as_words(np.float64(first | _1))
    bits += _TO_ROOT
    square = _as_floats(bits >> _52 | _WHOLE)
    square -= _TOO_MUCH
    square *= _PER_POWER
    bits &= _FRACTION
    bits += _ROOT
    m = _as_floats(bits)
    s = (m - 1.0) / (m + 1.0)
    logarithm = _polynomial(s * s, _LOGARITHM)
    logarithm *= s
    square += logarithm
    radius = _root(square)
    # Three bits mirror an angle of less than 45 degrees into all eight directions.
    angle = _as_floats(second >> _12 | _ONE)
    angle -= 1.0
    across = angle * angle
    cosine = _polynomial(across, _COSINE)
    cosine *= radius
    sine = _polynomial(across, _SINE)
    sine *= angle
    sine *= radius
    x, y = _as_words(cosine), _as_words(sine)
    swapped = (x ^ y) & (_0 - (second >> _2 & _1))
    x ^= swapped
    x ^= second << _63
    y ^= swapped
    y ^= second << _62 & _SIGN
    return _as_floats(x), _as_floats(y)


def _fill(a: Any, b: Any, c: Any, counter: Any, into: Any) -> Any:
    """Draw whole rows from lanes; give the counter of their next word. To be compiled."""
    for row in range(into.size // _ROW):
        start = row * _ROW
        for lane in range(LANES):
            p, q, r = a[lane], b[lane], c[lane]
            first = p + q + counter
            p, q, r = q ^ q >> _11, r + (r << _3), (r << _24 | r >> _40) + first
            second = p + q + (counter + _1)
            a[lane], b[lane], c[lane] = q ^ q >> _11, r + (r << _3), (r << _24 | r >> _40) + second
            into[start + lane], into[start + LANES + lane] = _pair(first, second)
        counter += _2
    return counter


@functools.cache
def compiled_fill() -> Callable[..., int] | None:
    """Compile `_fill`; None where what is compiled cannot be kept."""
    from hindscan.jobs.bits import as_float, as_word

    pair = part(_pair, _as_words=as_word, _as_floats=as_float, _root=math.sqrt, _polynomial=part(_polynomial))
    return compiled(_fill, "uint64(uint64[::1], uint64[::1], uint64[::1], uint64, float64[::1])", _pair=pair)


class NormalStream:
    """Standard normal numbers that follow from a generator.

    Parameters
    ----------
    rng : Generator
        Asked for 48 words when the first numbers are drawn, and for nothing later.

    Examples
    --------
    >>> NormalStream(Generator(SFC64(7))).draw(5).shape
    (5,)
    """

    def __init__(self, rng: Generator) -> None:
        self.rng = rng
        self._fill: Callable[[_Floats], None] | None = None

    def draw(self, count: int) -> _Floats:
        """Draw numbers, shape ``(count,)``: those of a longer draw begin with the same. The next draw begins with a row of its own."""
        if self._fill is None:
            words = self.rng.bit_generator.random_raw(3 * LANES).reshape(LANES, 3)
            loop = compiled_fill() if compiler.is_ready(count) else None
            self._fill = _by_numpy(words) if loop is None else _by_loop(words, loop)
        numbers = np.empty(-(-count // _ROW) * _ROW)
        self._fill(numbers)
        return numbers[:count]


class _Seed(ISeedSequence):
    """Words to seed a generator with as they are."""

    def __init__(self, words: _Words) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> _Words:
        del n_words, dtype
        return self._words


def _by_loop(words: _Words, loop: Callable[..., int]) -> Callable[[_Floats], None]:
    state = [np.ascontiguousarray(column) for column in words.T]
    counter = loop(*state, np.uint64(1), np.empty(_WARMING * LANES))

    def fill(into: _Floats) -> None:
        nonlocal counter
        counter = loop(*state, np.uint64(counter), into)

    return fill


def _by_numpy(words: _Words) -> Callable[[_Floats], None]:
    # Any: numpy takes whatever has the methods of a sequence, and its types do not say so.
    seeds: list[Any] = [_Seed(three) for three in words]
    lanes = [Generator(SFC64(seed)) for seed in seeds]

    def fill(into: _Floats) -> None:
        rows = into.reshape(-1, 2, LANES)
        for first in range(0, len(rows), _ROWS):
            _fill_rows(lanes, rows[first : first + _ROWS])

    return fill


def _fill_rows(lanes: list[Generator], rows: _Floats) -> None:
    drawn = np.empty((2, len(rows), LANES), np.uint64)
    for lane, rng in enumerate(lanes):
        # All words there are: what a generator gives as it is, without the interpreter's lock.
        drawn[:, :, lane] = rng.integers(0, 1 << 64, (len(rows), 2), np.uint64).T
    step = _PAIRS // LANES
    for at in range(0, len(rows), step):
        some = rows[at : at + step]
        for number, pair in enumerate(_pair(*(words[at : at + step].ravel() for words in drawn))):
            some[:, number] = pair.reshape(-1, LANES)
