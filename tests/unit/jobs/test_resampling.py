"""Drawing from history against closed forms: inclusion probabilities, moments, expected numbers; and always from the block's own stream."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hindscan as hs
from hindscan.errors import UsageError
from hindscan.jobs.resampling import (
    Empirical,
    bootstrap,
    bootstrap_groups,
    bootstrap_indices,
    fit,
    hawkes_arrivals,
    poisson_arrivals,
)
from hindscan.jobs.simulation import Block

SERIES = np.array([3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, -6.0, 5.0, 3.0, 5.0, 8.0])


def a_block(size: int = 20_000, seed: int = 5, index: int = 0) -> Block:
    return Block(index=index, size=size, start=index * size, seed=seed)


def within(found: float, wanted: float, deviation: float, draws: int) -> None:
    """Five standard errors: a right program fails once in two million seeds, and this seed is fixed."""
    assert abs(found - wanted) < 5 * deviation / math.sqrt(draws), (found, wanted)


METHODS: dict[str, dict[str, Any]] = {
    "iid": {"method": "iid"},
    "moving": {"method": "moving", "length": 3},
    "circular": {"method": "circular", "length": 5},
    "stationary": {"method": "stationary", "length": 2.5},
}


@pytest.mark.parametrize("method", ["iid", "circular", "stationary"])
def test_every_row_is_as_likely_where_history_is_a_circle(method: str) -> None:
    n = SERIES.size
    found = bootstrap_indices(a_block(), n, **METHODS[method])
    assert found.shape == (20_000, n)
    for column in (0, 1, n - 1):
        shares = np.bincount(found[:, column], minlength=n) / len(found)
        assert np.abs(shares - 1 / n).max() < 5 * math.sqrt((1 / n) * (1 - 1 / n) / len(found))


def test_moving_blocks_reach_the_ends_of_the_series_less_often() -> None:
    n, length = 12, 3
    found = bootstrap_indices(a_block(), n, count=3, method="moving", length=length)
    # Row i lies in min(i + 1, length, n - i) of the n - length + 1 blocks.
    wanted = np.array([min(i + 1, length, n - i) for i in range(n)]) / (n - length + 1)
    shares = np.bincount(found.ravel(), minlength=n) / len(found)
    assert np.abs(shares - wanted).max() < 5 * 0.5 / math.sqrt(len(found))


@pytest.mark.parametrize(("method", "length"), [("moving", 4), ("circular", 4), ("stationary", 4.0)])
def test_rows_follow_on_one_another_as_often_as_blocks_are_long(method: Any, length: float) -> None:
    n = 50
    found = bootstrap_indices(a_block(4_000), n, count=40, method=method, length=length)
    follows = (np.diff(found, axis=1) % n == 1).mean()
    inside = 1 - 1 / length if method == "stationary" else 1 - 9 / 39  # nine of the 39 steps are between blocks of four
    by_chance = 1 / n if method != "moving" else 46 / 47**2
    wanted = inside + (1 - inside) * by_chance
    within(follows, wanted, 1.0, found.size)


def test_the_variance_of_a_bootstrapped_mean_is_its_closed_form() -> None:
    n, draws = SERIES.size, 20_000
    iid = bootstrap(a_block(), SERIES).mean(axis=1)
    within(iid.mean(), SERIES.mean(), SERIES.std() / math.sqrt(n), draws)
    assert iid.var() == pytest.approx(SERIES.var() / n, rel=0.06)
    # Politis and Romano (1994), lemma 1: circular autocovariances, weighted by the chance of still being in the same block.
    p, centred = 1 / 2.5, SERIES - SERIES.mean()
    circular = [float(centred @ np.roll(centred, -k)) / n for k in range(n)]
    weights = [(1 - k / n) * (1 - p) ** k + k / n * (1 - p) ** (n - k) for k in range(1, n)]
    wanted = (circular[0] + sum(c * w for c, w in zip(circular[1:], weights, strict=True))) / n
    stationary = bootstrap(a_block(), SERIES, method="stationary", length=2.5).mean(axis=1)
    assert stationary.var() == pytest.approx(wanted, rel=0.06)


@settings(max_examples=40)
@given(st.sampled_from(sorted(METHODS)), st.integers(5, 30), st.integers(1, 40), st.integers(0, 2**40))
def test_bootstraps_stay_in_range_and_come_from_the_blocks_stream_alone(method: str, n: int, count: int, seed: int) -> None:  # fmt: skip
    np.random.seed(0)  # noqa: NPY002 -- the global generator must not matter
    one = bootstrap_indices(a_block(7, seed), n, count, **METHODS[method])
    np.random.seed(1)  # noqa: NPY002
    again = bootstrap_indices(a_block(7, seed), n, count, **METHODS[method])
    assert one.shape == (7, count)
    assert np.array_equal(one, again)
    assert ((one >= 0) & (one < n)).all()
    other = bootstrap_indices(a_block(7, seed, index=1), n, 40, **METHODS[method])
    assert not np.array_equal(bootstrap_indices(a_block(7, seed), n, 40, **METHODS[method]), other)


def test_rows_of_a_table_stay_together() -> None:
    pairs = np.column_stack([SERIES, 2 * SERIES])
    found = bootstrap(a_block(50), pairs, 6, method="circular", length=2)
    assert found.shape == (50, 6, 2)
    assert np.array_equal(found[..., 1], 2 * found[..., 0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "moving"},
        {"method": "moving", "length": 99},
        {"method": "circular", "length": 2.5},
        {"method": "stationary", "length": 0.5},
        {"method": "stationary", "length": math.nan},
        {"method": "moving", "length": math.nan},
        {"method": "jackknife"},
        {"count": 0},
    ],
)
def test_a_bootstrap_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Drawing a bootstrap"):
        bootstrap(a_block(2), SERIES, **wrong)


def test_groups_are_drawn_whole_and_in_their_order() -> None:
    auctions = np.array([7, 3, 7, 3, 3, 9])
    found = bootstrap_groups(a_block(3_000), auctions, 4)
    for draw in range(20):
        rows = found.values[found.draw == draw].tolist()
        taken = 0
        while rows:
            group = {1: [1, 3, 4], 0: [0, 2], 5: [5]}[rows[0]]
            assert rows[: len(group)] == group
            rows, taken = rows[len(group) :], taken + 1
        assert taken == 4
    # Each of three groups is in each of four places with probability 1/3: 4/3 times, and a row with its group.
    times = np.bincount(found.values, minlength=6) / 3_000
    assert np.abs(times - 4 / 3).max() < 5 * math.sqrt(4 * (1 / 3) * (2 / 3) / 3_000)
    prices = np.array([1.0, 10.0, 2.0, 20.0, 30.0, 5.0])
    totals = found.total(prices[found.values])
    within(totals.mean(), 4 * (3 + 60 + 5) / 3, 2 * np.std([3, 60, 5]), 3_000)
    assert found.greatest(prices[found.values]).max() == 30.0


def test_empirical_draws_are_the_values_and_smooth_ones_lie_between() -> None:
    seen = np.array([1.0, 2.0, 2.0, 10.0])
    draws = Empirical(seen).draw(a_block())
    assert set(draws) == {1.0, 2.0, 10.0}
    within(float((draws == 2).mean()), 0.5, 0.5, draws.size)
    smooth = Empirical(seen, smooth=True)
    # Three pieces of a third each, uniform on [1, 2], at 2, uniform on [2, 10]: means 1.5, 2 and 6.
    within(float(smooth.draw(a_block()).mean()), 9.5 / 3, 2.4, 20_000)
    u = np.linspace(0.01, 0.99, 25)
    grid = Empirical(SERIES)
    assert (grid.cdf(grid.quantile(u)) >= u).all()
    assert smooth.draw(a_block(4), 3).shape == (4, 3)


@pytest.mark.parametrize("family", ["norm", "lognorm", "expon"])
def test_a_fitted_distribution_is_the_maximum_likelihood_of_its_closed_form(family: str) -> None:
    values = np.abs(SERIES) + 0.5
    if family == "norm":
        fitted, (mean, std) = fit("norm", values), (values.mean(), values.std())
        within(float(fitted.draw(a_block()).mean()), mean, std, 20_000)
        assert fitted.parameters == pytest.approx((mean, std))
    elif family == "lognorm":
        logs = np.log(values)
        fitted = fit("lognorm", values, floc=0)
        assert fitted.parameters == pytest.approx((logs.std(), 0, math.exp(logs.mean())), rel=1e-3)
        assert float(fitted.quantile(0.5)) == pytest.approx(math.exp(logs.mean()), rel=1e-3)
    else:
        fitted = fit("expon", values, floc=0)
        assert float(fitted.cdf(values.mean())) == pytest.approx(1 - math.exp(-1))
        wanted = -values.size * (math.log(values.mean()) + 1)
        assert fitted.log_likelihood(values) == pytest.approx(wanted)


def test_a_family_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="'poison' is none"):
        fit("poison", SERIES)


def test_poisson_arrivals_have_mean_variance_and_times_of_their_closed_form() -> None:
    found = poisson_arrivals(a_block(), 2.0, 3.0)
    within(float(found.counts.mean()), 6.0, math.sqrt(6), 20_000)
    assert found.counts.var() == pytest.approx(6.0, rel=0.06)
    within(float(found.values.mean()), 1.5, 3 / math.sqrt(12), found.values.size)
    assert (np.diff(found.values)[np.diff(found.draw) == 0] >= 0).all()
    assert (np.diff(found.draw) >= 0).all()


def test_a_rate_that_varies_is_thinned() -> None:
    # Bids crowd before closing: rate 3 t^2 on [0, 2) is 8 arrivals, 7 of them in the second half.
    found = poisson_arrivals(a_block(), lambda t: 3 * t**2, 2.0, most=12.0)
    within(float(found.counts.mean()), 8.0, math.sqrt(8), 20_000)
    late = np.bincount(found.draw[found.values >= 1], minlength=found.size)
    within(float(late.mean()), 7.0, math.sqrt(7), 20_000)
    assert late.var() == pytest.approx(7.0, rel=0.06)
    with pytest.raises(UsageError, match="most=1"):
        poisson_arrivals(a_block(), lambda t: 3 * t**2, 2.0, most=1.0)


def test_hawkes_arrivals_have_the_mean_of_their_closed_form() -> None:
    mu, alpha, beta, horizon = 1.5, 0.8, 2.0, 6.0
    n = alpha / beta
    found = hawkes_arrivals(a_block(), mu, alpha, beta, horizon)
    # The mean rate solves m' = beta mu - (beta - alpha) m from m(0) = mu.
    gap = beta - alpha
    wanted = mu / (1 - n) * horizon - mu * n / (1 - n) * (1 - math.exp(-gap * horizon)) / gap
    within(float(found.counts.mean()), wanted, float(found.counts.std()), found.size)


def test_hawkes_arrivals_settle_at_mu_over_one_minus_n_and_cluster() -> None:
    mu, alpha, beta, horizon = 1.0, 1.0, 2.0, 400.0
    found = hawkes_arrivals(a_block(2_000), mu, alpha, beta, horizon)
    later = np.bincount(found.draw[found.values >= 100], minlength=found.size)
    within(float(later.mean()), 300 * mu / 0.5, float(later.std()), found.size)
    # Far from the ends the variance of a count over its mean is 1 / (1 - n)^2, four times a Poisson's.
    assert later.var() / later.mean() == pytest.approx(4.0, rel=0.15)


def test_hawkes_arrivals_are_those_of_ogatas_thinning() -> None:
    """An independent way to draw the same process, one arrival after another, in plain Python."""
    mu, alpha, beta, horizon = 0.7, 1.2, 2.0, 3.0
    rng = np.random.default_rng(11)

    def ogata() -> int:
        t = excess = 0.0
        count = 0
        while True:
            bound = mu + excess
            wait = rng.exponential(1 / bound)
            t, excess = t + wait, excess * math.exp(-beta * wait)
            if t >= horizon:
                return count
            if rng.random() * bound < mu + excess:
                count, excess = count + 1, excess + alpha

    wanted = np.array([ogata() for _ in range(6_000)])
    found = hawkes_arrivals(a_block(), mu, alpha, beta, horizon).counts
    within(float(found.mean() - wanted.mean()), 0.0, float(wanted.std()) * math.sqrt(1 + 6 / 20), 6_000)
    for least in (0, 2, 5):
        within(float((found <= least).mean() - (wanted <= least).mean()), 0.0, 0.5 * math.sqrt(1 + 6 / 20), 6_000)


@pytest.mark.parametrize(
    "draw",
    [
        lambda b: hawkes_arrivals(b, 1.0, 2.0, 1.0, 5.0),
        lambda b: poisson_arrivals(b, -1.0, 5.0),
        lambda b: poisson_arrivals(b, 1.0, math.inf),
        lambda b: poisson_arrivals(b, lambda t: t[:1], 5.0, most=5.0),
        lambda b: hawkes_arrivals(b, math.inf, 0.5, 1.0, 5.0),
        lambda b: bootstrap_groups(b, np.array([1, 2]), 0),
        lambda b: bootstrap_groups(b, np.array([])),
    ],
)
def test_what_would_explode_or_is_nothing_is_refused(draw: Callable[[Block], object]) -> None:
    with pytest.raises(UsageError, match="Drawing"):
        draw(a_block(3))


def test_a_function_of_a_notebook_cell_may_say_hs() -> None:
    # It captures the module, which is no plain one: by its name it must come back as what it was.
    assert pickle.loads(pickle.dumps(hs)) is hs


def test_a_distribution_of_what_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="1 of 2 are not"):
        Empirical(np.array([1.0, math.nan]))
