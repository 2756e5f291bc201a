"""Blocks of draws: numbers keyed by seed and block, partials that do not care how draws were cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from hindscan.errors import BadPartial, UsageError
from hindscan.history.snapshot import DrawPin, DrawSlice
from hindscan.jobs.simulation import Block, quantities, simulate
from hindscan.jobs.statistics import finish, merge


def piece(start: int, end: int) -> DrawSlice:
    return DrawSlice(position=0, start=start, end=end)


def run(*pieces: DrawSlice, seed: int = 7, built_in: bool = True, block_size: int = 100) -> list[pa.Table]:
    def each(block: Block) -> Any:
        return block.rng.normal(size=block.size)

    pin = DrawPin(draws=10_000, seed=seed, block_size=block_size)
    return [simulate(each, p, pin, built_in=built_in, name="z") for p in pieces]


def test_a_block_draws_the_documented_stream() -> None:
    block = Block(index=5, size=3, start=500, seed=11)
    stream = np.random.Generator(np.random.PCG64DXSM(np.random.SeedSequence(11, spawn_key=(5,))))
    assert np.array_equal(block.uniforms(2), stream.random((3, 2)))
    assert block.rng is block.rng


def test_how_draws_are_cut_changes_no_bit() -> None:
    whole = merge(run(piece(0, 1050)))
    assert merge(run(piece(0, 300), piece(300, 400), piece(400, 1050))).equals(whole)
    assert merge(list(reversed(run(piece(0, 300), piece(300, 1050))))).equals(whole)
    assert not merge(run(piece(0, 1050), seed=8)).equals(whole)
    assert finish(whole).to_pylist()[0]["draws"] == 1050


def test_more_draws_leave_the_first_ones_as_they_are() -> None:
    few, many = run(piece(0, 300), piece(0, 700), built_in=False)
    assert few["z"].to_pylist() == many["z"].to_pylist()[:300]


def test_blocks_without_statistics_follow_each_other_as_tables() -> None:
    (table,) = run(piece(200, 450), built_in=False)
    expected = [Block(index=i, size=s, start=0, seed=7).rng.normal(size=s) for i, s in ((2, 100), (3, 100), (4, 50))]
    assert table["z"].to_pylist() == np.concatenate(expected).tolist()


@pytest.mark.parametrize(
    "value",
    [
        {"a": np.arange(4), "b": [0.5] * 4},
        pa.table({"a": np.arange(4), "b": [0.5] * 4}),
        pd.DataFrame({"a": np.arange(4), "b": [0.5] * 4}),
    ],
)
def test_several_quantities_come_as_dict_or_table(value: Any) -> None:
    found = quantities(value, Block(index=0, size=4, start=0, seed=0), "x")
    assert {name: draws.tolist() for name, draws in found.items()} == {"a": [0.0, 1.0, 2.0, 3.0], "b": [0.5] * 4}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros(5), r"'x' is a ndarray of shape \(5,\)\. Use block\.size"),
        (np.zeros((4, 1)), r"of shape \(4, 1\)\. Give each column a name"),
        ({"x": 3.0}, r"'x' is a float of shape \(\)\. Return an array"),
        ({"x": ["a"] * 4}, r"'x' is a list of <U1\. Return numbers"),
        ({"x": [None] * 4}, r"'x' is a list of object\. Return numbers"),
        ({"x": np.zeros(4) + 1j}, r"of complex128\. Return numbers"),
        ({"x": [[1], [1, 2]]}, "'x' is a list that becomes no array"),
        ({}, "at least one quantity is required"),
    ],
)
def test_what_is_no_number_for_each_draw_is_refused(value: Any, words: str) -> None:
    with pytest.raises(BadPartial, match=words):
        quantities(value, Block(index=0, size=4, start=0, seed=0), "x")


@pytest.mark.parametrize("dimensions", [-1, 2.0, (2, 3), True])
def test_numbers_for_each_draw_are_a_whole_number(dimensions: Any) -> None:
    block = Block(index=0, size=4, start=0, seed=0)
    for draw in (block.normals, block.uniforms):
        with pytest.raises(UsageError, match="must be a whole number"):
            draw(dimensions)
    assert block.normals(np.int64(2)).shape == (4, 2)
