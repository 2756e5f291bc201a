"""Streams of blocks: numpy's own, to the bit, whatever the seed and the index."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import PCG64DXSM, SFC64, Generator, Philox, SeedSequence

from hindscan.jobs.streams import GENERATORS, GeneratorName, Streams

#: Where a seed or an index takes one more word of 32 bits, and elsewhere.
SEEDS = st.sampled_from([0, 2**32 - 1, 2**32, 2**127, 2**128, 2**160 + 1]) | st.integers(0, 2**200)
INDICES = st.sampled_from([0, 63, 64, 2**32 - 65, 2**32 - 1, 2**32]) | st.integers(0, 2**34)


def numpys(name: GeneratorName, seed: int, index: int) -> Generator:
    """Make a stream as documented, with nothing of hindscan's."""
    if name == "Philox":
        key = SeedSequence(seed).generate_state(2, np.uint64)
        return Generator(Philox(key=key, counter=np.array([0, 0, index, 0], np.uint64)))
    kind = PCG64DXSM if name == "PCG64DXSM" else SFC64
    return Generator(kind(SeedSequence(seed, spawn_key=(index,))))


@pytest.mark.parametrize("name", GENERATORS)
@settings(max_examples=50)
@given(seed=SEEDS, first=INDICES, second=INDICES)
def test_a_stream_is_numpys_own(name: GeneratorName, seed: int, first: int, second: int) -> None:
    streams = Streams(name, seed)
    for index in (first, second, first):
        assert np.array_equal(streams.of(index).random(3), numpys(name, seed, index).random(3))


@pytest.mark.parametrize("name", GENERATORS)
def test_what_is_spawned_of_a_stream_follows_from_seed_and_index(name: GeneratorName) -> None:
    def spawned(streams: Streams, index: int) -> list[float]:
        stream = streams.of(index)
        return [child.random() for child in [*stream.spawn(2), *stream.spawn(1)]]

    streams = Streams(name, 7)
    first = spawned(streams, 3)
    assert len({*first, *spawned(streams, 4), *spawned(Streams(name, 8), 3)}) == 9
    assert spawned(streams, 3) == first == spawned(Streams(name, 7), 3)
