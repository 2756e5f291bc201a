"""Where a simulation may stop, and when it does: looks at whole slices, rules that say what is wrong with them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.errors import UsageError
from hindscan.history.snapshot import DrawPin
from hindscan.jobs.estimators import Covariance, Mean
from hindscan.plans.cut import cut
from hindscan.plans.stopping import GROWTH, LEAST_DRAWS, LEAST_UNITS, looks, reached, read_stop


@given(st.integers(1, 70_000), st.integers(1, 20_000_000), st.sampled_from([1, 2, 64]))
def test_looks_are_few_and_at_ends_of_slices_and_the_last_is_at_all_draws(block: int, most: int, unit: int) -> None:
    pin = DrawPin(draws=1, seed=1, block_size=block)
    found = list(looks(pin, unit, most))
    ends = {s.end for s in cut(DrawPin(draws=most, seed=1, block_size=block), 1)}
    assert found[-1] == most
    assert set(found) <= ends
    assert all(least >= min(most, LEAST_DRAWS, LEAST_UNITS * unit) for least in found)
    assert all(b >= GROWTH * a for a, b in itertools.pairwise(found[:-1]))
    assert len(found) < 40
    # More draws at most only add looks.
    assert found[:-1] == [n for n in looks(pin, unit, most * 3) if n < most][: len(found) - 1]


def row(name: str, value: float, half: float | None, draws: int = 10**8) -> dict[str, Any]:
    bounds = {"low": None, "high": None} if half is None else {"low": value - half, "high": value + half}
    return {"name": name, "value": value, "draws": draws, "units": draws, **bounds}


@pytest.mark.parametrize(
    ("stop", "met"),
    [
        ({"price": {"half_width": 0.1001}}, True),
        ({"price": {"half_width": 0.09}}, False),
        ({"price": {"relative": 0.0101}}, True),
        ({"price": {"relative": 0.009}}, False),
        ({"price": {"half_width": 0.11, "confidence": 0.99}}, False),
        ({"price": {"half_width": 0.14, "confidence": 0.99}}, True),
        ({"price": {"half_width": 0.11}, "tail": {"relative": 0.5}}, False),
        ({"none": {"half_width": 1.0}}, False),
        ({"max_draws": 10}, False),
    ],
)
def test_all_targets_must_be_met(stop: dict[str, Any], met: bool) -> None:
    estimates = [row("price", 10.0, 0.1), row("tail", 0.0, 0.001), row("none", 1.0, None)]
    assert reached(read_stop(stop), estimates) is met


def test_few_units_must_be_better_than_asked_for() -> None:
    rule = read_stop({"half_width": 0.1})
    assert reached(rule, [row("x", 1.0, 0.099, 10**8)])
    assert not reached(rule, [row("x", 1.0, 0.099, 100)])


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        ({}, "neither what must be narrow"),
        ({"price": {"half_width": 0.1, "relative": 0.1}}, "either half_width or relative"),
        ({"price": {"half_width": -1}}, "must be positive"),
        ({"price": {"width": 1}}, "width"),
        ({"cost": {"half_width": 1.0}}, "'cost' is none of its statistics price, tail"),
        ({"half_width": 0.1}, "must name one of several"),
        ({"max_draws": 0.5}, "max_draws must be a positive whole number"),
        ({"price": 0.01}, "price must be {'half_width': WIDTH} or {'relative': SHARE}, and is 0.01"),
        ({"price": {"half_width": 1.0, "confidence": 2.0}}, "between 0 and 1"),
    ],
)
def test_a_rule_that_is_none_is_refused_with_what_is_wrong(stop: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_stop(stop, {"price": Mean("x"), "tail": Mean("y")})


def test_a_rule_that_can_never_be_met_or_names_no_quantity_is_refused() -> None:
    for stop in ({"both": {"half_width": 1.0}}, {"half_width": 1.0}):
        with pytest.raises(UsageError, match="'both' is a covariance, which has no interval"):
            read_stop(stop, {"both": Covariance(("x", "y"))})
    with pytest.raises(UsageError, match="'cost' is none of its quantities price, sold"):
        read_stop({"cost": {"half_width": 1.0}}, {}, ("price", "sold"))
    with pytest.raises(UsageError, match=r"must be like .*, and is 'price'"):
        read_stop("price")  # type: ignore[arg-type]


def test_another_confidence_is_judged_from_that_of_the_statistic() -> None:
    # A half width of 0.1 with 50 % is one of 0.29 with 95 %.
    estimates = [row("price", 10.0, 0.1)]
    rule = read_stop({"price": {"half_width": 0.2, "confidence": 0.95}})
    assert not reached(rule, estimates, {"price": Mean("x", confidence=0.5)})
    assert reached(rule, estimates, {"price": Mean("x", confidence=0.95)})


def test_of_a_histogram_the_share_that_is_known_least_is_judged() -> None:
    shares = [
        row("shares", value, half) | {"statistic": "share of [0, 1)"} for value, half in ((0.0, 0.001), (0.5, 0.1))
    ]
    assert not reached(read_stop({"shares": {"half_width": 0.05}}), shares)
    assert reached(read_stop({"shares": {"half_width": 0.11}}), shares)


def test_a_target_that_names_no_quantity_fails_by_name() -> None:
    with pytest.raises(UsageError, match="names 'cost', and there are price"):
        reached(read_stop({"cost": {"half_width": 1.0}}), [row("price", 1.0, 0.1)])
