"""Built-in statistics: numpy's numbers, and the same bits however the blocks are put together."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.errors import BadPartial
from hindscan.jobs.statistics import RELATIVE_ERROR, finish, merge, partial


def finished(*blocks: np.ndarray) -> dict[str, float]:
    (row,) = finish(merge([partial({"x": block}) for block in blocks])).to_pylist()
    return row


def draws(kind: str, n: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    return {
        "normal": rng.normal(size=n),
        "far from zero": rng.normal(loc=1e9, scale=1e-3, size=n),
        "lognormal": rng.lognormal(sigma=3, size=n),
        "prices": rng.integers(100, 10_000, size=n).astype(float),
        "constant": np.full(n, 0.1),
        "mostly zero": np.where(rng.random(n) < 0.9, 0.0, rng.normal(size=n)),
    }[kind]


@pytest.mark.parametrize("kind", ["normal", "far from zero", "lognormal", "prices", "constant", "mostly zero"])
@pytest.mark.parametrize("n", [1, 2, 255, 10_000])
def test_they_are_what_numpy_says(kind: str, n: int) -> None:
    x = draws(kind, n)
    row = finished(*np.array_split(x, 3))
    exact = [Fraction(v) for v in x.tolist()]
    mean = sum(exact) / n
    assert row["draws"] == n
    assert row["mean"] == pytest.approx(float(mean), rel=1e-15, abs=1e-16 * float(np.abs(x).mean()))
    assert (row["min"], row["max"]) == (x.min(), x.max())
    if n > 1:
        variance = sum((v - mean) ** 2 for v in exact) / (n - 1)
        assert row["std"] == pytest.approx(math.sqrt(variance), rel=1e-12, abs=1e-16)
        assert row["standard_error"] == pytest.approx(row["std"] / math.sqrt(n))
        assert row["high"] - row["mean"] == pytest.approx(1.96 * row["standard_error"], rel=1e-4, abs=1e-6)
    for name, share in {"p05": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95}.items():
        # The order statistics on either side, each within the stated error.
        low, high = (np.percentile(x, share, method=m) for m in ("lower", "higher"))
        slack = RELATIVE_ERROR * max(abs(low), abs(high))
        assert low - slack <= row[name] <= high + slack, name


@given(st.lists(st.lists(st.floats(-1e100, 1e100), max_size=5), min_size=1, max_size=6), st.randoms())
def test_grouping_and_order_change_no_bit(blocks: list[list[float]], random) -> None:  # type: ignore[no-untyped-def]
    partials = [partial({"x": np.array(block)}) for block in blocks]
    at_once = merge(partials)
    shuffled = random.sample(partials, len(partials))
    while len(shuffled) > 1:
        cut = random.randint(2, len(shuffled))
        shuffled = [*shuffled[cut:], merge(shuffled[:cut])]
    assert merge(shuffled).equals(at_once)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e149, max_value=1e149), min_size=1))
def test_every_quantile_lies_in_the_range_and_in_order(values: list[float]) -> None:
    row = finished(np.array(values))
    order = [row[name] for name in ("min", "p05", "p25", "p50", "p75", "p95", "max")]
    assert order == sorted(order)


def test_several_quantities_keep_their_order_and_their_numbers_apart() -> None:
    table = merge(
        [
            partial({"b": np.array([1, 2]), "a": np.array([True, False])}),
            partial({"b": np.array([3, 4]), "a": np.array([True, True])}),
        ]
    )
    assert [(row["name"], row["draws"], row["mean"]) for row in finish(table).to_pylist()] == [
        ("b", 4, 2.5),
        ("a", 4, 0.75),
    ]


def test_no_draws_are_no_numbers() -> None:
    row = finished(np.array([]))
    assert row["draws"] == 0
    assert row["mean"] is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_a_draw_that_is_no_number_is_refused_by_name_and_place(bad: float) -> None:
    with pytest.raises(BadPartial, match=r"'price'.*1 of 3 are not \(the first is .* at 1 of its block\)"):
        partial({"price": np.array([1.0, bad, 2.0])})


def test_a_partial_survives_storage() -> None:
    table = partial({"x": np.arange(1000.0)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    again = pa.ipc.open_file(sink.getvalue()).read_all()
    assert merge([again]).equals(merge([table]))
    assert merge([table]).schema == table.schema
