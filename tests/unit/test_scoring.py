"""Scores against closed forms and plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindscan.errors import UsageError
from hindscan.scoring import Forecast, calibration, scores

floats = st.floats(-1e3, 1e3, allow_nan=False)


def normal(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def of(draws: list[float]) -> Forecast:
    return Forecast(mean=float(np.mean(draws)), draws=np.array(draws))


@settings(max_examples=100)
@given(st.lists(floats, min_size=1, max_size=40), floats)
def test_crps_of_draws_is_the_double_sum(draws: list[float], outcome: float) -> None:
    x = np.array(draws)
    wanted = np.abs(x - outcome).mean() - np.abs(x[:, None] - x[None, :]).mean() / 2
    assert of(draws).crps(outcome) == pytest.approx(wanted, abs=1e-9 * (1 + np.abs(x).max()))


@pytest.mark.parametrize("outcome", [-2.0, 0.0, 0.3, 3.0])
def test_crps_of_a_normal_forecast_is_its_closed_form(outcome: float) -> None:
    z = outcome
    wanted = z * (2 * normal(z) - 1) + 2 * math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) - 1 / math.sqrt(math.pi)
    draws = np.random.default_rng(1).normal(size=400_000)
    assert Forecast(mean=0, draws=draws).crps(outcome) == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("outcome", [-0.5, 0.0, 0.2, 0.9, 1.0, 1.7])
def test_crps_pit_and_pinball_of_uniform_quantiles_are_their_closed_forms(outcome: float) -> None:
    uniform = Forecast(mean=0.5, quantiles={0.0: 0.0, 0.25: 0.25, 1.0: 1.0})
    y = min(max(outcome, 0.0), 1.0)
    wanted = y**3 / 3 + (1 - y) ** 3 / 3 + abs(outcome - y)
    assert uniform.crps(outcome) == pytest.approx(wanted, abs=1e-6)
    assert uniform.pit(outcome) == pytest.approx(y)
    assert uniform.pinball(0.5, outcome) == pytest.approx(abs(outcome - 0.5) / 2)


def test_pit_of_ties_is_in_their_middle() -> None:
    assert of([1, 1, 2, 3]).pit(1) == 0.25
    assert Forecast(mean=1, quantiles={0.0: 1.0, 0.5: 1.0, 1.0: 2.0}).pit(1.0) == 0.25
    beyond = Forecast(mean=1, quantiles={0.1: 1.0, 0.9: 2.0})
    assert (beyond.pit(0.5), beyond.pit(5.0)) == (0.05, 0.95)


def test_right_forecasts_are_calibrated_and_too_sure_ones_are_not() -> None:
    rng = np.random.default_rng(7)
    centres = rng.normal(0, 5, 2_000)
    outcomes = (centres + rng.normal(size=centres.size)).tolist()
    base = rng.normal(size=2_000)
    right = calibration([Forecast(mean=c, draws=c + base) for c in centres], outcomes)
    sure = calibration([Forecast(mean=c, draws=c + base / 2) for c in centres], outcomes)
    assert right["low"] < 0.9 < right["high"]
    # Inside 0.82 standard deviations on each side.
    assert sure["inside"] == pytest.approx(2 * normal(1.6449 / 2) - 1, abs=0.03)
    assert sum(right["pit"]) == 2_000
    assert max(right["pit"]) < 260
    assert min(sure["pit"][0], sure["pit"][-1]) > 300


def test_scores_are_what_plain_numpy_says() -> None:
    rng = np.random.default_rng(3)
    draws, outcomes = rng.normal(size=(50, 201)), rng.normal(size=50)
    found = scores([Forecast(mean=float(d.mean()), draws=d) for d in draws], outcomes.tolist())
    assert found["events"] == 50
    assert found["mae"] == pytest.approx(np.abs(np.median(draws, axis=1) - outcomes).mean())
    assert found["rmse"] == pytest.approx(np.sqrt(((draws.mean(axis=1) - outcomes) ** 2).mean()))
    assert found["bias"] == pytest.approx((draws.mean(axis=1) - outcomes).mean())
    miss = outcomes - np.quantile(draws, 0.25, axis=1)
    assert found["pinball"][0.25] == pytest.approx(np.where(miss > 0, 0.25 * miss, -0.75 * miss).mean())
    assert "log_score" not in found


def test_probabilities_of_events_get_brier_and_log_score() -> None:
    found = scores([Forecast(mean=0.8), Forecast(mean=0.3)], [1, 0])
    assert found["brier"] == pytest.approx((0.04 + 0.09) / 2)
    assert found["log_score"] == pytest.approx(-(math.log(0.8) + math.log(0.7)) / 2)
    assert scores([Forecast(mean=0.0)], [1])["log_score"] == math.inf
    assert calibration([Forecast(mean=0.8)], [1])["events"] == 0


def test_a_forecast_without_an_outcome_is_refused() -> None:
    with pytest.raises(UsageError, match="there are 1 and 2"):
        scores([Forecast(mean=0.0)], [1, 2])


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.98, 0.99])
def test_quantiles_at_the_ends_of_an_interval_bound_it(level: float) -> None:
    ends = Forecast(mean=1.0, quantiles={round((1 - level) / 2, 4): 0.0, round((1 + level) / 2, 4): 2.0})
    assert [ends.inside(outcome, level) for outcome in (-0.1, 0.0, 1.0, 2.0, 2.1)] == [False, True, True, True, False]
    assert calibration([ends, ends], [1.0, 3.0], level=level)["inside"] == 0.5


def test_quantiles_that_do_not_bound_an_interval_say_nothing_of_what_lies_in_it() -> None:
    narrow = Forecast(mean=1.0, quantiles={0.25: 0.0, 0.75: 2.0})
    wide = Forecast(mean=1.0, quantiles={0.05: 0.0, 0.95: 2.0})
    assert narrow.inside(1.0, 0.9) is None
    found = calibration([narrow], [1.0], level=0.9)
    assert (found["events"], sum(found["pit"]), "inside" in found) == (1, 1, False)
    assert calibration([narrow, wide, wide], [1.0, 1.0, 3.0], level=0.9)["inside"] == 0.5
