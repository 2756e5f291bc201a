"""Streams of random numbers: one for each block, keyed by the seed of the run and the index of the block.

Keeps promise 8: a stream follows from these two alone. It is PCG64DXSM or SFC64 seeded by numpy's `SeedSequence(seed, spawn_key=(index,))`, which hashes both so that
neighbours share nothing, or Philox with a key of the seed and a counter that begins at index x 2**128, so that blocks of one seed can never overlap.

Seeding a generator that way takes numpy as long as drawing a thousand numbers. So what the sequences of many blocks give is worked out at once: the same hash, over an
array of indices. The tests hold it against numpy's.

::

    seed, generator -> Streams;  index -> Streams.of -> Generator, the very same as numpy's
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from numpy.random import PCG64DXSM, SFC64, Generator, Philox, SeedSequence
from numpy.random.bit_generator import ISpawnableSeedSequence

__all__ = ["GENERATORS", "GeneratorName", "Streams"]

GeneratorName = Literal["PCG64DXSM", "Philox", "SFC64"]

#: What can be chosen.
GENERATORS: Final = ("PCG64DXSM", "Philox", "SFC64")

#: Sequences that are worked out together.
_FAMILY: Final = 64

#: Words of 64 bits that a generator is seeded with.
_WORDS: Final = {"PCG64DXSM": 4, "SFC64": 3}

# Constants of the hash of numpy's sequences, which is M. E. O'Neill's `seed_seq_fe128`.
_INIT_A: Final = 0x43B0D7E5
_MULT_A: Final = 0x931E8875
_INIT_B: Final = 0x8B51F9DD
_MULT_B: Final = 0x58F38DED
_MIX_L: Final = np.uint32(0xCA01F9DD)
_MIX_R: Final = np.uint32(0x4973F715)
_SHIFT: Final = np.uint32(16)
_MASK: Final = 0xFFFF_FFFF
#: Words of its pool.
_POOL: Final = 4


class Streams:
    """The streams of one run.

    Parameters
    ----------
    name : str
        "PCG64DXSM", "Philox" or "SFC64".
    seed : int
        Of the run; not negative.

    Examples
    --------
    >>> Streams("SFC64", 7).of(3).random() == Generator(SFC64(SeedSequence(7, spawn_key=(3,)))).random()
    True
    """

    def __init__(self, name: GeneratorName, seed: int) -> None:
        self._name, self._seed = name, seed
        self._first = -1
        self._family: npt.NDArray[np.uint64] | None = None

    def of(self, index: int) -> Generator:
        """Give the stream of a block, at its beginning."""
        if self._name == "Philox":
            if self._family is None:
                self._family = np.asarray(SeedSequence(self._seed).generate_state(2, np.uint64), np.uint64)
            keyed: Any = _Sequence(self._seed, index, self._family)
            return Generator(Philox(keyed).advance(index << 128))
        # Any: numpy takes whatever has the methods of a sequence, and its types do not say so.
        sequence: Any = _Sequence(self._seed, index, self._words(index))
        return Generator(PCG64DXSM(sequence) if self._name == "PCG64DXSM" else SFC64(sequence))

    def _words(self, index: int) -> npt.NDArray[np.uint64]:
        first = index // _FAMILY * _FAMILY
        if self._family is None or first != self._first:
            self._first, self._family = first, _spawned(self._seed, first, _WORDS[self._name])
        words: npt.NDArray[np.uint64] = self._family[index - first]
        return words


class _Sequence(ISpawnableSeedSequence):
    """`SeedSequence(seed, spawn_key=(index,))`, with what a generator asks it for worked out before."""

    __slots__ = ("_index", "_seed", "_whole", "_words")

    def __init__(self, seed: int, index: int, words: npt.NDArray[np.uint64]) -> None:
        self._seed, self._index, self._words = seed, index, words
        self._whole: SeedSequence | None = None

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> npt.NDArray[Any]:
        if n_words == len(self._words) and dtype == np.uint64:
            return self._words
        return self._sequence.generate_state(n_words, dtype)

    def spawn(self, n_children: int) -> list[Any]:
        return self._sequence.spawn(n_children)

    @property
    def _sequence(self) -> SeedSequence:
        """The same as numpy has it: what was spawned of it is counted."""
        if self._whole is None:
            self._whole = SeedSequence(self._seed, spawn_key=(self._index,))
        return self._whole


def _spawned(seed: int, first: int, words: int) -> npt.NDArray[np.uint64]:
    """Give the states of the sequences of a family, shape ``(family, words)``."""
    if first + _FAMILY > _MASK:
        # Such an index is two words of a key.
        children = (SeedSequence(seed, spawn_key=(index,)) for index in range(first, first + _FAMILY))
        return np.array([child.generate_state(words, np.uint64) for child in children])
    # What a key does to the pool comes after all that the seed did.
    parent = SeedSequence(seed)
    entropy = max(_POOL, -(-seed.bit_length() // 32))
    factor = _INIT_A * pow(_MULT_A, _POOL * entropy, 1 << 32) & _MASK
    indices = np.arange(first, first + _FAMILY, dtype=np.uint32)
    pool = []
    for before in parent.pool:
        hashed = indices ^ np.uint32(factor)
        factor = factor * _MULT_A & _MASK
        hashed = hashed * np.uint32(factor)
        hashed ^= hashed >> _SHIFT
        mixed = np.full(_FAMILY, before, np.uint32) * _MIX_L - hashed * _MIX_R
        pool.append(mixed ^ mixed >> _SHIFT)
    state = np.empty((_FAMILY, 2 * words), "<u4")
    factor = _INIT_B
    for at in range(2 * words):
        drawn = pool[at % _POOL] ^ np.uint32(factor)
        factor = factor * _MULT_B & _MASK
        drawn = drawn * np.uint32(factor)
        state[:, at] = drawn ^ drawn >> _SHIFT
    return state.view("<u8").astype(np.uint64)
