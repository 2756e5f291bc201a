"""Normal numbers: what their words say to fifteen digits, the same bits with a compiler and without, and normal as far as a hundred million tell."""

from __future__ import annotations

import math
import sys

import mpmath as mp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.random import PCG64DXSM, SFC64, Generator, Philox
from scipy import stats
from scipy.special import ndtr

from hindscan.jobs import normal
from hindscan.jobs.compiler import Compiler
from hindscan.jobs.normal import LANES, NormalStream
from hindscan.jobs.simulation import Block

WORD = st.integers(0, 2**64 - 1)
#: Words whose logarithm is small or large: few bits from either end.
EDGE = st.builds(
    lambda word, bits, high: (2**64 - 1 - (word >> bits)) if high else word >> bits,
    WORD,
    st.integers(0, 63),
    st.booleans(),
)

mp.mp.dps = 50


def of_words(first: int, second: int) -> tuple[mp.mpf, mp.mpf]:
    """Give what two words say, with fifty digits: a radius and one of eight mirrored angles."""
    radius = mp.sqrt(-2 * mp.log(mp.mpf(float(np.float64(np.uint64(first | 1)))) / mp.mpf(2) ** 64))
    angle = mp.pi / 4 * (second >> 12) / mp.mpf(2) ** 52
    x, y = radius * mp.cos(angle), radius * mp.sin(angle)
    if second & 4:
        x, y = y, x
    return (-x if second & 1 else x), (-y if second & 2 else y)


def compiled() -> object:
    pytest.importorskip("numba")
    loop = normal.compiled_fill()
    assert loop is not None
    return loop


def seeds(seed: int) -> np.ndarray:
    return PCG64DXSM(seed).random_raw(3 * LANES).reshape(LANES, 3)


def quick(count: int, seed: int = 1) -> np.ndarray:
    """Draw many numbers, by the loop where it can be had."""
    try:
        fill = normal._by_loop(seeds(seed), compiled())
    except pytest.skip.Exception:
        fill = normal._by_numpy(seeds(seed))
    numbers = np.empty(count // (2 * LANES) * 2 * LANES)
    fill(numbers)
    return numbers


# What a number is --------------------------------------------------------------------------------------------------


def test_the_polynomials_are_those_that_are_nearest() -> None:
    def over_sine(across: mp.mpf) -> mp.mpf:
        return mp.sin(mp.pi / 4 * mp.sqrt(across)) / mp.sqrt(across) if across else mp.pi / 4

    def over_s(square: mp.mpf) -> mp.mpf:
        return -4 * mp.atanh(mp.sqrt(square)) / mp.sqrt(square) if square else mp.mpf(-4)

    root = mp.sqrt(2)
    for found, function, end, off in (
        (normal._COSINE, lambda across: mp.cos(mp.pi / 4 * mp.sqrt(across)), 1, 5e-17),
        (normal._SINE, over_sine, 1, 3e-18),
        (normal._LOGARITHM, over_s, ((root - 1) / (root + 1)) ** 2, 8e-16),
    ):
        best, error = mp.chebyfit(function, [0, end], 7, error=True)
        assert list(found) == [float(coefficient) for coefficient in best]
        assert error < off
    assert float(-2 * mp.log(2)) == normal._PER_POWER


@settings(max_examples=300)
@given(first=WORD | EDGE, second=WORD | EDGE)
@example(first=0, second=2**64 - 1)
@example(first=2**64 - 1, second=0)
@example(first=2**63, second=7)
def test_a_number_is_what_its_words_say(first: int, second: int) -> None:
    pair = normal._pair(np.array([first], np.uint64), np.array([second], np.uint64))
    for found, exact in zip(pair, of_words(first, second), strict=True):
        assert abs(mp.mpf(float(found[0])) - exact) <= 1e-15 * abs(exact)


@pytest.mark.parametrize("count", [1, LANES, 5 * LANES + 3, 1000])
def test_words_are_those_of_numpys_generators_each_seeded_with_three_words(count: int) -> None:
    class Three(np.random.bit_generator.ISeedSequence):
        def __init__(self, words: np.ndarray) -> None:
            self.words = words

        def generate_state(self, n_words: int, dtype: object = np.uint32) -> np.ndarray:
            assert (n_words, np.dtype(dtype)) == (3, np.uint64)
            return self.words

    raw = Philox(9).random_raw(48).reshape(16, 3)
    lanes = [SFC64(Three(words)) for words in raw]
    wanted = []
    while len(wanted) < count:
        pairs = [of_words(*lane.random_raw(2).tolist()) for lane in lanes]
        wanted += [float(pair[number]) for number in (0, 1) for pair in pairs]
    stream = NormalStream(Generator(Philox(9)))
    assert stream.draw(count) == pytest.approx(wanted[:count], rel=2e-15, abs=0)
    assert stream.rng.bit_generator.random_raw() == Philox(9).random_raw(49)[48]


@settings(max_examples=40)
@given(counts=st.lists(st.integers(0, 400), min_size=1, max_size=4), seed=st.integers(0, 2**32))
@example(counts=[normal._PAIRS // LANES + 1, normal._ROWS + 1, 1], seed=3)
def test_the_compiled_loop_and_numpy_give_the_same_bits(counts: list[int], seed: int) -> None:
    fills = normal._by_loop(seeds(seed), compiled()), normal._by_numpy(seeds(seed))
    for rows in counts:
        loop, plain = np.empty(rows * 2 * LANES), np.empty(rows * 2 * LANES)
        for fill, into in zip(fills, (loop, plain), strict=True):
            fill(into)
        assert loop.tobytes() == plain.tobytes()


def test_a_stream_takes_the_loop_as_soon_as_it_is_worth_it_and_no_bit_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled()
    eager, never = Compiler(patience=1000), Compiler(patience=10**9)
    found = []
    for compiler in (eager, never):
        monkeypatch.setattr(normal, "compiler", compiler)
        found.append([NormalStream(Generator(SFC64(seed))).draw(600) for seed in (1, 2, 3)])
    assert (eager.is_ready(), never.is_ready()) == (True, False)
    assert np.array_equal(*found)


def test_without_a_compiler_numbers_are_drawn_even_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    compiler = Compiler(patience=10)
    assert not any(compiler.is_ready(8) for _ in range(3))
    monkeypatch.setattr(normal, "compiler", compiler)
    assert NormalStream(Generator(SFC64(1))).draw(100).std() == pytest.approx(1, abs=0.3)


# What a block gives ------------------------------------------------------------------------------------------------


def block(size: int, *, index: int = 0, seed: int = 7, **more: object) -> Block:
    return Block(index=index, size=size, start=index * size, seed=seed, **more)


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=4), more=st.integers(1, 300), dimensions=st.integers(0, 70)
)
def test_what_is_drawn_later_changes_nothing_before(sizes: list[int], more: int, dimensions: int) -> None:
    short, long = NormalStream(Generator(SFC64(5))), NormalStream(Generator(SFC64(5)))
    for size in sizes:
        assert np.array_equal(short.draw(size), long.draw(size))
    assert np.array_equal(short.draw(more), long.draw(more * 3)[:more])
    assert np.array_equal(block(more).normals(dimensions), block(more * 2).normals(dimensions)[:more])


@pytest.mark.parametrize("size", [1, 2, 333])
@pytest.mark.parametrize("dimensions", [0, 1, 252])
def test_blocks_of_any_size_and_dimension_have_numbers_of_their_own(size: int, dimensions: int) -> None:
    one = block(size)
    first, again = one.normals(dimensions), one.normals(dimensions)
    assert first.shape == again.shape == (size, dimensions)
    assert np.array_equal(first, block(size).normals(dimensions))
    everything = [first, again, block(size, index=1).normals(dimensions), block(size, seed=8).normals(dimensions)]
    everything += [block(size, generator=generator).normals(dimensions) for generator in ("Philox", "SFC64")]
    assert np.unique(np.concatenate(everything)).size == 6 * size * dimensions
    assert one.drawn


# Whether they are normal -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    return quick(10_000_000)


def test_moments_are_those_of_the_normal_distribution(many: np.ndarray) -> None:
    for power, (mean, square) in {1: (0, 1), 2: (1, 3), 3: (0, 15), 4: (3, 105), 6: (15, 10395)}.items():
        error = math.sqrt((square - mean * mean) / many.size)
        assert abs((many**power).mean() - mean) < 4.5 * error


def test_ten_million_are_spread_as_they_must_be(many: np.ndarray) -> None:
    shares = ndtr(many)
    counts = np.bincount((shares * 1000).astype(np.int64), minlength=1000)
    assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4
    assert stats.kstest(shares[:2_000_000], "uniform").pvalue > 1e-4
    # Anderson and Darling, who look at both tails; 6 is exceeded once in a thousand times.
    ranked, n = np.sort(shares[:1_000_000]), 1_000_000
    odd = 2 * np.arange(1, n + 1) - 1
    assert -n - np.mean(odd * (np.log(ranked) + np.log1p(-ranked[::-1]))) < 6


def test_neighbours_in_time_in_lanes_and_in_blocks_know_nothing_of_each_other(many: np.ndarray) -> None:
    rows = many[: many.size // (2 * LANES) * 2 * LANES].reshape(-1, 2 * LANES)[:200_000]
    for values in (rows, np.abs(rows) - math.sqrt(2 / math.pi), rows**2 - 1):
        for columns in (values, np.hstack([values[:-1], values[1:]])):
            found = np.corrcoef(columns, rowvar=False)
            # 64 columns have 2016 correlations; 5 sigma is met once in two million.
            assert np.abs(found[np.triu_indices_from(found, 1)]).max() < 5 / math.sqrt(len(columns))
    blocks = np.stack([quick(200_000, seed) for seed in range(8)])
    found = np.corrcoef(blocks)
    assert np.abs(found[np.triu_indices(8, 1)]).max() < 5 / math.sqrt(blocks.shape[1])


@pytest.mark.parametrize("beyond", [3.0, 5.0, 7.0, 8.0, 8.5])
def test_rare_events_are_as_rare_as_they_must_be(beyond: float) -> None:
    # A number beyond has a radius beyond: only radii of words below 2^64 e^(-beyond^2 / 2) are drawn, and counted by the share that they have.
    bits = math.floor(beyond**2 / 2 / math.log(2))
    words = SFC64(3).random_raw(2_000_000)
    first, second = normal._pair(words[::2] >> np.uint64(bits), words[1::2])
    for numbers in (first, second, -first, -second):
        hits = np.count_nonzero(numbers > beyond)
        wanted = numbers.size * float(ndtr(-beyond)) * 2.0**bits
        assert wanted > 10_000
        assert abs(hits - wanted) < 5 * math.sqrt(wanted)
