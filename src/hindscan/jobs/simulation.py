"""A simulation: blocks of draws, each with a stream of its own.

Keeps promise 8 (deterministic): the numbers of a block depend on the seed and the block's index alone, so workers, grouping and retries
change none of them, and more draws later leave the first ones as they are.

::

    DrawSlice -> Block, Block, ... -> the user's function -> statistics.partial -> one partial table
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hindscan.errors import BadPartial
from hindscan.history.snapshot import DrawSlice
from hindscan.jobs import statistics
from hindscan.jobs.returned import to_table

__all__ = ["Block", "quantities", "simulate"]


class Block:
    """Some draws of a simulation: how many, and where their randomness comes from.

    Parameters
    ----------
    index : int
        Position of the block.
    size : int
        Number of draws; the last block of a run may have fewer than the others.
    start : int
        Index of its first draw.
    seed : int
        Seed of the run; not negative.

    Examples
    --------
    >>> block = Block(index=3, size=5, start=15, seed=7)
    >>> block.rng.normal(size=block.size).shape
    (5,)
    """

    __slots__ = ("_rng", "index", "seed", "size", "start")

    def __init__(self, *, index: int, size: int, start: int, seed: int) -> None:
        self.index = index
        self.size = size
        self.start = start
        self.seed = seed
        self._rng: np.random.Generator | None = None

    def __repr__(self) -> str:
        return f"Block(index={self.index}, draws {self.start} to {self.start + self.size}, seed={self.seed})"

    @property
    def rng(self) -> np.random.Generator:
        """The block's generator: PCG64DXSM, keyed by seed and index; the same object at each use."""
        if self._rng is None:
            self._rng = np.random.Generator(
                np.random.PCG64DXSM(np.random.SeedSequence(self.seed, spawn_key=(self.index,)))
            )
        return self._rng

    def uniforms(self, dimensions: int) -> npt.NDArray[np.float64]:
        """Draw uniform numbers in [0, 1), shape ``(size, dimensions)``."""
        return self.rng.random((self.size, dimensions))


def simulate(
    each: Callable[[Block], object], piece: DrawSlice, *, seed: int, block_size: int, built_in: bool, name: str
) -> pa.Table:
    """Compute one slice of draws, block by block.

    Parameters
    ----------
    each : callable
        Computes one block: the user's function with model and parameters already given.
    piece : DrawSlice
        Whole blocks, but for the last one of the run.
    seed : int
        Seed of the run.
    block_size : int
        Draws of a block.
    built_in : bool
        The partial is the built-in statistics; else the blocks' tables one after the other.
    name : str
        Name of the job: what a quantity without a name is called.

    Returns
    -------
    pa.Table
        The slice's partial.

    Raises
    ------
    hindscan.errors.BadPartial
        A block returned no such thing, or another number of draws.
    """
    partials: list[pa.Table] = []
    for index in range(piece.start // block_size, -(-piece.end // block_size)):
        start = index * block_size
        block = Block(index=index, size=min(block_size, piece.end - start), start=start, seed=seed)
        value = each(block)
        if built_in:
            partials.append(statistics.partial(quantities(value, block, name)))
        else:
            named = {name: value} if isinstance(value, np.ndarray) else value
            partials.append(to_table(named, "slice"))
    if built_in:
        return statistics.merge(partials)
    return pa.concat_tables(partials) if partials else pa.table({})


def quantities(value: Any, block: Block, name: str) -> dict[str, npt.NDArray[np.float64]]:
    """Take apart what a block returned: an array, a dict of arrays or a table, one number per draw.

    Parameters
    ----------
    value : object
        What the function returned.
    block : Block
        For the number of draws.
    name : str
        What an array without a name is called.

    Raises
    ------
    hindscan.errors.BadPartial
        It is something else, or has another number of draws.
    """
    if isinstance(value, np.ndarray | list):
        value = {name: value}
    if not isinstance(value, Mapping):
        table = to_table(value, "slice")
        value = {column: table[column].to_numpy() for column in table.column_names}
    found: dict[str, npt.NDArray[np.float64]] = {}
    for quantity, given in value.items():
        try:
            draws = np.asarray(given)
            numbers = draws.astype(np.float64) if draws.dtype.kind in "biuf" else None
        except (TypeError, ValueError):
            numbers = None
        if numbers is None or numbers.shape != (block.size,):
            shape = "" if numbers is None else f" of shape {numbers.shape}"
            raise BadPartial(
                f"Taking what the step 'slice' returned for {block}: one number per draw is required for each quantity, an array of shape "
                f"({block.size},), and {quantity!r} is a {type(given).__name__}{shape}. Use block.size, not a fixed number.",
                step="slice",
                quantity=str(quantity),
            )
        found[str(quantity)] = numbers
    return found
