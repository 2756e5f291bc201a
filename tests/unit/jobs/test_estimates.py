"""Declared statistics against numpy and scipy on all draws; any grouping gives the same table; intervals at the edges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hindscan.errors import BadPartial
from hindscan.jobs.bins import RELATIVE_ERROR
from hindscan.jobs.estimates import finish
from hindscan.jobs.estimators import (
    Covariance,
    Difference,
    Histogram,
    Mean,
    Moments,
    Probability,
    Quantile,
    Ratio,
    Shortfall,
    Statistic,
    summed,
)
from hindscan.jobs.intervals import binomial_ranks, exact_interval, student_quantile, wilson_interval
from hindscan.jobs.totals import block_sums, merge
from hindscan.jobs.totals import partial as partial_of

WANTED: dict[str, Statistic] = {
    "mean": Mean("x"),
    "batches": Mean("x", batch=10),
    "ratio": Ratio("x", per="y"),
    "difference": Difference("x", minus="y"),
    "event": Probability("x", above=2.0),
    "narrow": Probability("x", below=0.1, interval="wilson"),
    "shape": Moments("x"),
    "both": Covariance(("x", "y")),
    "quantile": Quantile("x", 0.9),
    "shortfall": Shortfall("x", 0.9),
    "shares": Histogram("x", (0.5, 1.0, 4.0)),
}


def partial(*arguments: Any, **options: Any) -> pa.Table:
    return partial_of([block_sums(*arguments, **options)])


def blocks(sizes: list[int], wanted: dict[str, Statistic] = WANTED, unit: int = 1) -> tuple[list[pa.Table], Any, Any]:
    rng = np.random.default_rng(5)
    made, xs, ys = [], [], []
    for index, size in enumerate(sizes):
        x = rng.lognormal(sigma=1.0, size=size)
        y = 1e6 + 0.5 * x + rng.normal(size=size)
        made.append(partial(wanted, {"x": x, "y": y}, index=index, unit=unit, name="job"))
        xs.append(x)
        ys.append(y)
    return made, np.concatenate(xs), np.concatenate(ys)


def rows(table: pa.Table) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["name"], row["statistic"]): row for row in table.to_pylist()}


def test_they_are_what_numpy_and_scipy_say_of_all_draws() -> None:
    made, x, y = blocks([700, 20, 3000, 5000])
    found = rows(finish(WANTED, merge(made)))
    mean = found["mean", "mean"]
    low, high = scipy.stats.t.interval(0.95, x.size - 1, x.mean(), scipy.stats.sem(x))
    assert (mean["value"], mean["low"], mean["high"]) == pytest.approx((x.mean(), low, high), rel=1e-12)
    batches = x.reshape(-1, 10).mean(axis=1)
    assert found["batches", "mean"]["units"] == batches.size
    assert found["batches", "mean"]["standard_error"] == pytest.approx(scipy.stats.sem(batches), rel=1e-12)
    assert found["difference", "difference"]["value"] == pytest.approx((x - y).mean(), rel=1e-12)
    assert found["ratio", "ratio"]["value"] == pytest.approx(x.mean() / y.mean(), rel=1e-12)
    residual = x - x.mean() / y.mean() * y
    error = residual.std(ddof=1) / math.sqrt(x.size) / y.mean()
    assert found["ratio", "ratio"]["standard_error"] == pytest.approx(error, rel=1e-6)
    for name, value in {
        "count": x.size, "variance": x.var(ddof=1), "skewness": scipy.stats.skew(x), "kurtosis": scipy.stats.kurtosis(x),
        "min": x.min(), "max": x.max(), "mean": x.mean(),
    }.items():  # fmt: skip
        assert found["shape", name]["value"] == pytest.approx(value, rel=1e-9), name
    cov = np.cov(x, y)
    assert found["both", "covariance of x, y"]["value"] == pytest.approx(cov[0, 1], rel=1e-9)
    assert found["both", "covariance of y, y"]["value"] == pytest.approx(cov[1, 1], rel=1e-9)
    assert found["both", "correlation of x, y"]["value"] == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-9)


def test_counts_and_ranks_are_those_of_all_draws() -> None:
    made, x, _ = blocks([700, 20, 3000, 5000])
    found = rows(finish(WANTED, merge(made)))
    event = found["event", "probability"]
    exact = scipy.stats.binomtest(int((x > 2).sum()), x.size).proportion_ci(0.95, "exact")
    assert (event["value"], event["low"], event["high"]) == pytest.approx((np.mean(x > 2), *exact), rel=1e-9)
    wilson = scipy.stats.binomtest(int((x < 0.1).sum()), x.size).proportion_ci(0.95, "wilson")
    narrow = found["narrow", "probability"]
    assert (narrow["low"], narrow["high"]) == pytest.approx(tuple(wilson), rel=1e-9)
    slack = RELATIVE_ERROR
    quantile = found["quantile", "quantile"]
    assert quantile["value"] == pytest.approx(np.quantile(x, 0.9), rel=slack)
    ordered = np.sort(x)
    half = 1.96 * math.sqrt(x.size * 0.09)
    assert quantile["low"] == pytest.approx(ordered[math.floor(x.size * 0.9 - half) - 1], rel=slack)
    assert quantile["high"] == pytest.approx(ordered[math.ceil(x.size * 0.9 + half)], rel=slack)
    tail = ordered[-round(x.size * 0.1) :]
    assert found["shortfall", "shortfall"]["value"] == pytest.approx(tail.mean(), rel=slack)
    assert [row["value"] for (name, _), row in found.items() if name == "shares"] == pytest.approx(
        np.diff([0, *(np.sum(x < edge) for edge in (0.5, 1.0, 4.0)), x.size]) / x.size
    )


@given(
    atoms=st.lists(st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-300), min_size=1, max_size=5),
    level=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
@example(atoms=[0.0, 1.0, 2.0], level=0.5, seed=1)
@settings(max_examples=60)
def test_a_quantile_is_as_near_as_stated_and_its_interval_holds_the_draws_it_is_made_of_wherever_they_lie(
    atoms: list[float], level: float, seed: int
) -> None:
    x = np.random.default_rng(seed).choice(atoms, 5000)
    wanted = {"q": Quantile("x", level)}
    (found,) = finish(wanted, partial_of([block_sums(wanted, {"x": x}, index=0, unit=1, name="j")])).to_pylist()
    ordered = np.sort(x)
    below, above = binomial_ranks(level, x.size, 0.95)
    assert found["low"] <= ordered[below] <= ordered[above] <= found["high"]
    for end, draw in ((found["low"], ordered[below]), (found["high"], ordered[above])):
        assert abs(end - draw) <= RELATIVE_ERROR * abs(draw)
    # The order statistics on either side, each within the stated error.
    low, high = (np.quantile(x, level, method=method) for method in ("lower", "higher"))
    assert low - RELATIVE_ERROR * abs(low) <= found["value"] <= high + RELATIVE_ERROR * abs(high)


@given(st.lists(st.integers(1, 60), min_size=2, max_size=6), st.randoms())
@settings(max_examples=25)
def test_grouping_and_order_change_no_bit(sizes: list[int], random: Any) -> None:
    wanted = WANTED | {"controlled": Mean("x", controls={"y": 1e6})}
    partials, _, _ = blocks(sizes, wanted)
    at_once = merge(partials)
    shuffled = random.sample(partials, len(partials))
    while len(shuffled) > 1:
        cut = random.randint(2, len(shuffled))
        shuffled = [*shuffled[cut:], merge(shuffled[:cut])]
    assert finish(wanted, merge(shuffled)).equals(finish(wanted, at_once))


@pytest.mark.parametrize("unit", [1, 4])
def test_an_event_that_never_came_is_bounded_and_one_that_always_came_too(unit: int) -> None:
    wanted: dict[str, Statistic] = {"never": Probability("x", above=9.0), "always": Probability("x", below=9.0)}
    table = merge([partial(wanted, {"x": np.zeros(400)}, index=i, unit=unit, name="j") for i in range(3)])
    found = rows(finish(wanted, table))
    units = 1200 // unit
    never, always = found["never", "probability"], found["always", "probability"]
    assert (never["value"], never["low"]) == (0.0, 0.0)
    assert never["high"] == pytest.approx(1 - 0.025 ** (1 / units))
    assert (always["value"], always["high"]) == (1.0, 1.0)
    assert always["low"] == pytest.approx(0.025 ** (1 / units))


@pytest.mark.parametrize(("hits", "draws"), [(0, 7), (7, 7), (1, 2), (3, 1000), (999, 1000), (40, 10**9)])
@pytest.mark.parametrize("confidence", [0.9, 0.999])
def test_intervals_of_probabilities_are_those_of_scipy(hits: int, draws: int, confidence: float) -> None:
    test = scipy.stats.binomtest(hits, draws)
    for own, kind in ((exact_interval, "exact"), (wilson_interval, "wilson")):
        assert own(hits, draws, confidence) == pytest.approx(
            tuple(test.proportion_ci(confidence, kind)), rel=1e-3 if draws > 10**6 else 1e-9
        )


@given(st.integers(1, 10**6), st.floats(0.5, 0.9999))
@settings(max_examples=40)
def test_students_quantile_is_that_of_scipy(freedom: int, confidence: float) -> None:
    assert student_quantile(confidence, freedom) == pytest.approx(
        scipy.stats.t.ppf(0.5 + confidence / 2, freedom), rel=1e-5
    )


def test_an_event_in_half_of_each_unit_is_bounded_about_its_half() -> None:
    mirrored = np.tile([1.0, -1.0], 200)
    table = merge([partial({"half": Probability("x", above=0.0)}, {"x": mirrored}, index=0, unit=2, name="j")])
    half = rows(finish({"half": Probability("x", above=0.0)}, table))["half", "probability"]
    assert half["value"] == 0.5
    assert half["low"] < 0.5 < half["high"] < 0.51


def test_what_too_few_draws_that_depend_on_each_other_do_not_bound_has_no_interval() -> None:
    wanted: dict[str, Statistic] = {
        "q": Quantile("x"),
        "s": Shortfall("x"),
        "m": Moments("x"),
        "h": Histogram("x", (0, 1)),
    }
    table = merge([partial(wanted, {"x": np.arange(64.0)}, index=0, unit=8, name="j")])
    assert {row["low"] for row in finish(wanted, table).to_pylist()} == {None}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize(
    "statistic",
    [
        Mean("x"),
        Moments("x"),
        Quantile("x"),
        Histogram("x", (0.0, 1.0)),
        Probability("x"),
        Mean("x", batch=3),
        Mean("y", weight="x"),
        Difference("y", minus="x"),
        Ratio("x", per="y"),
    ],
)
def test_a_draw_that_is_no_number_is_refused_by_name_and_place(bad: float, statistic: Statistic) -> None:
    with pytest.raises(BadPartial, match=r"'x'.*1 of 3 are not \(the first is .* at 1 of its block\)"):
        partial({"s": statistic}, {"x": np.array([1.0, bad, 2.0]), "y": np.ones(3)}, index=0, unit=1, name="j")


def test_a_draw_that_is_no_number_is_that_of_the_only_quantity_where_none_is_named() -> None:
    with pytest.raises(BadPartial, match="Taking statistics of 'payoff'"):
        partial({"s": Mean()}, {"payoff": np.array([np.nan])}, index=0, unit=1, name="j")
    with pytest.raises(BadPartial, match=r"a single quantity, as the statistic names none, is required"):
        partial({"s": Mean()}, {"x": np.ones(3), "y": np.ones(3)}, index=0, unit=1, name="j")


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(BadPartial, match=r"the weight 'w': .* the least is -0\.5"):
        partial({"s": Mean("x", weight="w")}, {"x": np.ones(2), "w": np.array([1.0, -0.5])}, index=0, unit=1, name="j")


def test_gains_hold_where_means_lie_far_from_zero() -> None:
    rng = np.random.default_rng(3)
    x, y = 1e9 + 1e-3 * rng.normal(size=(2, 4000))
    halves = np.stack([x, 2e9 - x + 1e-4 * rng.normal(size=4000)], axis=1).ravel()[:4000]
    wanted: dict[str, Statistic] = {
        "apart": Difference("x", minus="y"),
        "pairs": Mean("halves", batch=2),
        "controlled": Mean("halves", batch=2, controls={"y": 1e9}),
    }
    parts = [
        partial(wanted, {"x": x[at], "y": y[at], "halves": halves[at]}, index=i, unit=1, name="j")
        for i, at in enumerate((slice(2000), slice(2000, None)))
    ]
    found = {row["name"]: row for row in finish(wanted, merge(parts)).to_pylist()}
    assert found["apart"]["gain"] == pytest.approx((x.var() + y.var()) / (x - y).var(), rel=1e-3)
    for name in ("pairs", "controlled"):
        reached = found[name]["standard_error"] ** 2
        assert found[name]["gain"] == pytest.approx(halves.var() / halves.size / reached, rel=1e-2)


@pytest.mark.parametrize("size", [1, 7])
def test_what_does_not_apply_is_null_in_rows_that_are_always_there(size: int) -> None:
    wanted: dict[str, Statistic] = {"shape": Moments("x"), "both": Covariance(("x", "y"))}
    found = rows(
        finish(wanted, partial(wanted, {"x": np.full(size, 3.7), "y": np.arange(size)}, index=0, unit=1, name="j"))
    )
    assert [statistic for name, statistic in found if name == "shape"] == [
        "count", "mean", "variance", "skewness", "kurtosis", "min", "max",
    ]  # fmt: skip
    assert found["shape", "skewness"]["value"] is None
    assert found["shape", "kurtosis"]["value"] is None
    assert found["both", "correlation of x, y"]["value"] is None
    for name, statistic in (("shape", "variance"), ("both", "covariance of x, y")):
        assert found[name, statistic]["value"] == (0.0 if size > 1 else None)


@pytest.mark.parametrize("scale", [1e-120, 1e-70, 1e70])
def test_shapes_of_small_and_large_draws_are_those_of_scipy_or_none(scale: float) -> None:
    x = np.random.default_rng(1).exponential(size=1000)
    wanted: dict[str, Statistic] = {"shape": Moments("x"), "both": Covariance(("x", "y"))}
    draws = {"x": scale * x, "y": scale * (x + 1)}
    found = rows(finish(wanted, partial(wanted, draws, index=0, unit=1, name="j")))
    for statistic, value in (("skewness", scipy.stats.skew(x)), ("kurtosis", scipy.stats.kurtosis(x))):
        assert found["shape", statistic]["value"] == (pytest.approx(value, rel=1e-9) if scale > 1e-80 else None)
    assert found["both", "correlation of x, y"]["value"] == pytest.approx(1.0, rel=1e-9)


def test_a_quantity_that_is_not_there_is_named() -> None:
    with pytest.raises(BadPartial, match=r"'z' is required, and the function gave 'x', 'y'"):
        partial({"s": Mean("z")}, {"x": np.ones(3), "y": np.ones(3)}, index=0, unit=1, name="j")


def test_a_confidence_a_level_and_a_kind_of_interval_recompute_no_slice() -> None:
    assert summed({"q": Quantile("x", 0.5), "p": Probability("x")}, 1) == summed(
        {"q": Quantile("x", 0.9, confidence=0.9), "p": Probability("x", interval="wilson")}, 1
    )
    # Of draws that belong together each replicate has its level.
    one, other = ({"q": Quantile("x", level)} for level in (0.5, 0.9))
    assert summed(one, 2) != summed(other, 2)
    assert summed(one, 2) == summed({"q": Quantile("x", 0.5, confidence=0.9)}, 4)
    assert summed({"p": Probability("x")}, 1) != summed({"p": Probability("x", above=1.0)}, 1)
