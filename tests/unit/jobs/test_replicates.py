"""Replicates against numpy and scipy on each of them, and how often the intervals that are made of them cover what is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

import hindscan as hs
from hindscan.jobs.bins import RELATIVE_ERROR
from hindscan.jobs.estimates import finish
from hindscan.jobs.estimators import Replicated
from hindscan.jobs.intervals import student_quantile
from hindscan.jobs.replicates import replicate_draws, replicated
from hindscan.jobs.sums import exact
from hindscan.jobs.totals import block_sums, merge, partial

Rows = NDArray[np.float64]


def shortfalls(rows: Rows, level: float) -> list[float]:
    """The mean of the greatest draws, of the last one so much as is left."""
    found = []
    for row in np.sort(rows)[:, ::-1]:
        count = row.size * (1 - level)
        taken = np.clip(count - np.arange(row.size), 0, 1)
        found.append(float(np.sum(row * taken) / count))
    return found


#: A statistic, and what others say of each replicate.
ORACLES: list[tuple[Replicated, Callable[[Rows], list[list[float]]]]] = [
    (hs.Quantile("x", 0.9), lambda rows: [list(np.quantile(rows, 0.9, axis=1))]),
    (hs.Quantile("x", 0.5), lambda rows: [list(np.median(rows, axis=1))]),
    (hs.Shortfall("x", 0.95), lambda rows: [shortfalls(rows, 0.95)]),
    (
        hs.Moments("x"),
        lambda rows: [
            list(rows.mean(axis=1)),
            list(rows.var(axis=1, ddof=1)),
            list(scipy.stats.skew(rows, axis=1)),
        ],
    ),
    (
        hs.Histogram("x", (0.5, 1.5)),
        lambda rows: [
            list(np.mean(inside, axis=1)) for inside in (rows < 0.5, (rows >= 0.5) & (rows < 1.5), rows >= 1.5)
        ],
    ),
]


@pytest.mark.parametrize(("one", "oracle"), ORACLES, ids=lambda value: type(value).__name__)
def test_replicates_say_what_numpy_and_scipy_say_of_each(
    one: Replicated, oracle: Callable[[Rows], list[list[float]]]
) -> None:
    size = replicate_draws(one, 8)
    draws = np.random.default_rng(3).lognormal(size=5 * size + 24)
    count, sums = replicated(one, draws, 8)
    assert count == 5
    wanted = oracle(draws[: 5 * size].reshape(5, size))
    assert len(sums) == 3 * len(wanted)
    for at, estimates in enumerate(wanted):
        there, total, squares = (exact(written) for written in sums[3 * at : 3 * at + 3])
        assert there == 5
        assert float(total) == pytest.approx(sum(estimates), rel=1e-12)
        assert float(squares) == pytest.approx(sum(value * value for value in estimates), rel=1e-12)


def test_a_replicate_is_of_whole_sets_and_has_some_draws_beyond_its_level() -> None:
    assert replicate_draws(hs.Moments("x"), 2) == 1024
    assert replicate_draws(hs.Moments("x"), 600) == 1200
    assert replicate_draws(hs.Quantile("x", 0.01), 2) == 3200
    assert replicate_draws(hs.Shortfall("x", 0.999), 4096) == 32_768
    # The tail below is no part of a shortfall.
    assert replicate_draws(hs.Shortfall("x", 0.01), 2) == 1024
    # A block that is meant for a level holds a replicate of it, whatever 1 - 0.9999 is rounded to.
    assert [replicate_draws(hs.Quantile("x", level), 2) for level in (0.9995, 0.9999, 0.99999)] == [
        64_000,
        320_000,
        3_200_000,
    ]


def test_an_interval_is_students_of_the_estimates_of_all_replicates() -> None:
    wanted = {"q": hs.Quantile("x", 0.75), "v": hs.Moments("x")}
    draws = np.random.default_rng(4).normal(size=(3, 4096))
    tables = [partial([block_sums(wanted, {"x": one}, index=i, unit=4, name="j")]) for i, one in enumerate(draws)]
    found = {row["statistic"]: row for row in finish(wanted, merge(tables)).to_pylist()}
    replicates = draws.reshape(12, 1024)
    quantiles, variances = np.quantile(replicates, 0.75, axis=1), replicates.var(axis=1, ddof=1)
    for name, estimates, off in (("quantile", quantiles, RELATIVE_ERROR), ("variance", variances, 0.0)):
        half = student_quantile(0.95, 11) * np.std(estimates, ddof=1) / math.sqrt(12) + off * found[name]["value"]
        assert found[name]["units"] == 12
        assert found[name]["high"] - found[name]["value"] == pytest.approx(half, rel=1e-9)
        assert found[name]["value"] - found[name]["low"] == pytest.approx(half, rel=1e-9)


def test_what_one_replicate_does_not_have_is_not_bounded_by_the_others() -> None:
    draws = np.concatenate([np.zeros(1024), np.random.default_rng(5).normal(size=3 * 1024)])
    count, sums = replicated(hs.Moments("x"), draws, 2)
    assert (count, [exact(sums[3 * at]) for at in range(3)]) == (4, [4, 4, 3])
    table = merge([partial([block_sums({"m": hs.Moments("x")}, {"x": draws}, index=0, unit=2, name="j")])])
    lows = {row["statistic"]: row["low"] for row in finish({"m": hs.Moments("x")}, table).to_pylist()}
    assert lows["variance"] is not None
    assert lows["skewness"] is None


def test_sums_of_replicates_are_exact_wherever_blocks_are_cut() -> None:
    one = hs.Quantile("x", 0.9)
    draws = np.random.default_rng(6).lognormal(sigma=3.0, size=8 * 1024)
    whole = replicated(one, draws, 2)[1][1]
    halves = [replicated(one, half, 2)[1][1] for half in np.split(draws, 2)]
    assert sum(map(exact, halves), Fraction(0)) == pytest.approx(exact(whole), rel=1e-15)


NORMAL = NormalDist()
BEYOND = NORMAL.inv_cdf(0.9)
#: What is true of standard normal numbers, by statistic.
TRUTH = {
    "quantile": BEYOND,
    "shortfall": NORMAL.pdf(BEYOND) / 0.1,
    "mean": 0.0,
    "variance": 1.0,
    "skewness": 0.0,
    "share of [1, inf)": 1 - NORMAL.cdf(1.0),
}
#: Draws of a run, and the variances that so many plain ones would give; of the skewness none is told.
DRAWS, RARE, TAIL = 16_384, 1 - NORMAL.cdf(1.0), NORMAL.pdf(BEYOND) / 0.1
PLAIN = {
    "quantile": 0.09 / NORMAL.pdf(BEYOND) ** 2 / DRAWS,
    "shortfall": (1 + BEYOND * TAIL - TAIL**2 + 0.9 * (TAIL - BEYOND) ** 2) / 0.1 / DRAWS,
    "mean": 1 / DRAWS,
    "variance": 2 / DRAWS,
    "share of [1, inf)": RARE * (1 - RARE) / DRAWS,
}
STATISTICS = {
    "q": hs.Quantile(level=0.9),
    "s": hs.Shortfall(level=0.9),
    "m": hs.Moments(),
    "h": hs.Histogram("normal", (-1.0, 1.0)),
}


@pytest.mark.parametrize(
    "sampling", [hs.Antithetic(), hs.Stratified(64), hs.Sobol(1024)], ids=lambda one: type(one).__name__
)
def test_intervals_of_points_that_belong_together_cover_as_often_as_they_say_and_gains_are_had(
    sampling: hs.Antithetic,
) -> None:
    @hs.simulation(statistics=STATISTICS, sampling=sampling, block_size=8192)
    def normal(block: hs.Block) -> Rows:
        return block.normals(1)[:, 0]

    runs, covered = 40, dict.fromkeys(TRUTH, 0)
    values: dict[str, list[float]] = {name: [] for name in TRUTH}
    gains: dict[str, list[float | None]] = {name: [] for name in TRUTH}
    for seed in range(runs):
        for row in hs.draw(normal, seed=seed, draws=DRAWS).table.to_pylist():
            if row["statistic"] in TRUTH:
                covered[row["statistic"]] += row["low"] <= TRUTH[row["statistic"]] <= row["high"]
                values[row["statistic"]].append(row["value"])
                gains[row["statistic"]].append(row["gain"])
    # Of 18 of these one lies below this by chance less than once in a thousand times.
    least = scipy.stats.binom.ppf(1e-5, runs, 0.95)
    assert all(count >= least for count in covered.values()), covered
    for name, plain in PLAIN.items():
        if name == "mean" and isinstance(sampling, hs.Antithetic):
            assert gains[name] == [None] * runs  # there is no error left
        else:
            had = plain / np.var(values[name])
            # Of forty runs the variance is known to a quarter; and of the quantile what its bin may be off by is taken for more than it is.
            assert had / 2.5 < np.median(gains[name]) < had * 1.8, name
    assert gains["skewness"] == [None] * runs
