"""Sums of a block: one order, whatever numpy makes of the processor; exact where it counts."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindscan.jobs import sums
from hindscan.jobs.compiler import Compiler
from hindscan.jobs.sums import exact, fixed_sum, powers

SIZES = st.sampled_from([1, 31, 32, 1023, 1024, 1025, 2048, 3 * 1024 + 45, 65_536]) | st.integers(1, 9000)


def drawn(size: int, seed: int, about: float = 0.0) -> np.ndarray:
    return about + np.random.default_rng(seed).standard_normal(size)


def in_rows(numbers: np.ndarray) -> float:
    """Add up as documented, one addition after the other: 1024 lanes, then 32, then what is left exactly."""
    left: list[float] = []
    for lanes in (1024, 32):
        whole = numbers.size // lanes * lanes
        total = np.zeros(lanes)
        for row in numbers[:whole].reshape(-1, lanes):
            total = total + row
        while whole and total.size > 32:
            few = np.zeros(32)
            for row in total.reshape(-1, 32):
                few = few + row
            total = few
        left += total.tolist()
        numbers = numbers[whole:]
    return math.fsum([*left, *numbers.tolist()])


@settings(max_examples=25)
@given(size=SIZES, seed=st.integers(0, 99))
def test_the_order_of_additions_is_the_documented_one(size: int, seed: int) -> None:
    numbers = drawn(size, seed)
    assert fixed_sum(numbers) == in_rows(numbers)


@settings(max_examples=25)
@given(size=SIZES, seed=st.integers(0, 99))
@pytest.mark.parametrize("one_step", [True, False])
def test_products_are_those_of_two_steps(size: int, seed: int, one_step: bool) -> None:
    a, b = drawn(size, seed), drawn(size, seed + 100)
    with pytest.MonkeyPatch.context() as patch:
        if not one_step:
            patch.setattr(sums, "_in_one_step", lambda: False)
        totals, products = sums._products([a, b], 2)
    assert [*totals, *products] == [in_rows(column) for column in (a, b, a * a, a * b, b * b)]


@settings(max_examples=40)
@given(size=SIZES, seed=st.integers(0, 99), about=st.sampled_from([0.0, 1e3, math.nan, math.inf]), zeros=st.booleans())
def test_sums_of_a_compiled_loop_are_the_same_bits(size: int, seed: int, about: float, zeros: bool) -> None:
    pytest.importorskip("numba")
    column = np.full(size, -0.0) if zeros else drawn(size, seed, about)
    column.flags.writeable = False
    loaded, plain = Compiler(), Compiler()
    assert loaded.load()
    found = []
    for compiler in (loaded, plain):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sums, "compiler", compiler)
            with np.errstate(invalid="ignore"):
                found.append(sums._products([column], 4))
    assert repr(found[0]) == repr(found[1])
    if not zeros and about == 0:
        assert found[0][0] == [in_rows(column)]
        assert found[0][1][0] == in_rows(column * column)


@pytest.mark.parametrize("about", [0.0, 5.0, 1e3, -1e9])
def test_spreads_keep_their_digits_however_far_the_mean_is(about: float) -> None:
    numbers = drawn(10_000, 5, about)
    total, squares, *_ = (exact(written) for written in powers([numbers], 4))
    mean = sum(map(Fraction, numbers.tolist())) / 10_000
    spread = sum((Fraction(number) - mean) ** 2 for number in numbers.tolist())
    assert math.isclose(total / 10_000, mean, rel_tol=1e-14)
    assert math.isclose(squares - total**2 / 10_000, spread, rel_tol=1e-11)


def test_a_processor_that_rounds_once_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fused(_: str, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return (left.astype(np.longdouble) * right).sum(axis=0).astype(np.float64)

    sums._in_one_step.cache_clear()
    monkeypatch.setattr(np, "einsum", fused)
    assert not sums._in_one_step()
    sums._in_one_step.cache_clear()
