"""What can be wrong with declared statistics and points is said at the decorator; draws come in whole units."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest

import hindscan as hs
from hindscan.errors import JobDefinitionError, ParameterError
from hindscan.jobs.job import JobSpec
from hindscan.plans.draws import check_draws, unit_draws, whole_draws


def declared(**options: Any) -> JobSpec:
    return hs.simulation(block_size=1024, **options)(lambda block: block.rng.random(block.size)).spec


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"statistics": {"x": 1}}, "1 as 'x', which is none"),
        ({"statistics": [hs.Mean()]}, "must be a dict of names"),
        ({"statistics": {"x": hs.Mean(3)}}, "the statistic 'x' is none"),
        ({"statistics": {"x": hs.Mean(confidence=1.0)}}, "between 0 and 1"),
        ({"statistics": {"x": hs.Quantile(level=0.0)}}, "level that must lie between 0 and 1"),
        ({"statistics": {"x": hs.Mean(batch=100)}}, "batches of 100 draws, which must divide the block of 1024"),
        ({"statistics": {"x": hs.Probability(above=1.0, below=2.0)}}, "both above= and below="),
        ({"statistics": {"x": hs.Mean("a", weight="w", controls={"c": 1.0})}}, "both controls and a weight"),
        ({"statistics": {"x": hs.Covariance(("a", "a"))}}, "two quantities or more"),
        ({"statistics": {"x": hs.Histogram("a", (1.0, 1.0))}}, "each greater than the one before"),
        ({"statistics": {"x": hs.Probability(above=math.inf)}}, "no finite number"),
        ({"statistics": {"x": hs.Mean("a", controls={"c": math.nan})}}, "no finite number"),
        ({"statistics": {"x": hs.Histogram("a", (0.0, math.inf))}}, "no finite number; .* a share of its own"),
        ({"statistics": {"max_draws": hs.Mean()}}, "the name of a limit in stop="),
        ({"statistics": {"x": hs.Mean()}, "combine": "concat"}, "both statistics= and a combine"),
        ({"generator": "MT19937"}, "PCG64DXSM, Philox, SFC64"),
        ({"sampling": hs.Antithetic()}, "declare statistics="),
        ({"statistics": {"x": hs.Mean()}, "sampling": hs.Stratified(strata=100)}, "divide the block of 1024"),
        ({"statistics": {"x": hs.Mean()}, "sampling": "sobol"}, "hs.Sobol"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], words: str) -> None:
    options = {"name": "draws"} | options
    with pytest.raises(JobDefinitionError, match=words):
        declared(**options)


def test_what_is_declared_by_numbers_of_numpy_is_data_in_the_order_of_names() -> None:
    statistics: dict[str, Any] = {
        "price": hs.Mean("a", controls={"spot": 100 * np.exp(0.03), "first": np.float32(0.5)}),
        "far": hs.Quantile("a", np.float64(0.9)),
        "shares": hs.Histogram("a", np.linspace(0, 1, 3)),  # type: ignore[arg-type]
        "tenths": hs.Histogram("a", [np.float64(0), np.float64(0.1)]),  # type: ignore[arg-type]
    }
    spec = declared(name="d", statistics=statistics)
    assert msgspec.json.decode(msgspec.json.encode(spec, order="deterministic"), type=JobSpec) == spec
    # As it comes back from a store, which keeps no other order: rows of a result lie the same wherever they are made.
    assert list(spec.statistics) == ["far", "price", "shares", "tenths"]
    assert list(spec.statistics["price"].controls) == ["first", "spot"]  # type: ignore[union-attr]
    assert spec.statistics["shares"] == hs.Histogram("a", (0.0, 0.5, 1.0))


def test_draws_come_in_whole_units() -> None:
    spec = declared(name="d", statistics={"x": hs.Mean(batch=64), "y": hs.Mean()}, sampling=hs.Halton(points=128))
    assert unit_draws(spec) == 128
    assert whole_draws(spec, 1000) == 1024
    check_draws(spec, 1024)
    with pytest.raises(ParameterError, match=r"sets of 128, .* and 1,000 is none. Ask for 1,024"):
        check_draws(spec, 1000)
