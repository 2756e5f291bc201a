"""A simulation: blocks of draws, each with a stream of its own.

Keeps promise 8 (deterministic): the numbers of a block depend on the seed and the block's index alone, so workers, grouping and retries
change none of them, and more draws later leave the first ones as they are. That a function takes its randomness from its block, and from nowhere else, is tried
out before the first block: what it gives twice for the same block must be the same to the bit.

::

    DrawSlice -> Block, Block, ... -> the user's function -> statistics or totals -> one partial table
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hindscan.errors import BadPartial, NotReproducible, UsageError
from hindscan.history.snapshot import DrawPin, DrawSlice
from hindscan.jobs import statistics, totals
from hindscan.jobs.estimators import Statistic
from hindscan.jobs.normal import NormalStream
from hindscan.jobs.returned import to_table
from hindscan.jobs.sampling import Sampling, normals, uniforms, unit_of
from hindscan.jobs.streams import GeneratorName, Streams

__all__ = ["Block", "quantities", "simulate", "whole_number"]

#: Draws of a block that is only drawn to be compared.
_TRIAL: Final = 256


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
    generator : str
        "PCG64DXSM", "Philox" or "SFC64".
    sampling : Sampling, optional
        How numbers are made points. Default: as they come.
    unit : int
        Draws of a set of points.
    model : table or dict, optional
        What the calibration gave.
    parameters : mapping, optional
        Values of the parameters that the function names.
    streams : Streams, optional
        Of the seed and the generator, where other blocks have theirs from, too.

    Examples
    --------
    >>> block = Block(index=3, size=5, start=15, seed=7)
    >>> block.rng.normal(size=block.size).shape
    (5,)
    """

    __slots__ = (
        "_normals",
        "_rng",
        "_sampling",
        "_streams",
        "_unit",
        "generator",
        "index",
        "model",
        "parameters",
        "seed",
        "size",
        "start",
    )

    def __init__(
        self,
        *,
        index: int,
        size: int,
        start: int,
        seed: int,
        generator: Any = "PCG64DXSM",
        sampling: Sampling | None = None,
        unit: int = 1,
        model: Any = None,
        parameters: Mapping[str, Any] | None = None,
        streams: Streams | None = None,
    ) -> None:
        self.index = index
        self.size = size
        self.start = start
        self.seed = seed
        self.generator = generator
        self.model = model
        self.parameters = MappingProxyType(dict(parameters or {}))
        self._sampling = sampling
        self._unit = unit
        self._streams = streams or Streams(generator, seed)
        self._rng: np.random.Generator | None = None
        self._normals: NormalStream | None = None

    def __repr__(self) -> str:
        return f"Block(index={self.index}, draws {self.start} to {self.start + self.size}, seed={self.seed})"

    @property
    def rng(self) -> np.random.Generator:
        """The block's generator, keyed by seed and index; the same object at each use."""
        if self._rng is None:
            self._rng = self._streams.of(self.index)
        return self._rng

    @property
    def drawn(self) -> bool:
        """Whether any randomness was asked for."""
        return self._rng is not None

    def uniforms(self, dimensions: int) -> npt.NDArray[np.float64]:
        """Draw uniform numbers in [0, 1), shape ``(size, dimensions)``: points of the job's sampling, if it has one."""
        return uniforms(self.rng, self._sampling, self.size, _counted(dimensions), self._unit)

    def normals(self, dimensions: int) -> npt.NDArray[np.float64]:
        """Draw standard normal numbers, shape ``(size, dimensions)``: from points of the job's sampling, if it has one.

        Faster than ``rng.standard_normal`` where numba is installed, and other numbers than it gives.
        """
        if self._normals is None:
            self._normals = NormalStream(self.rng)
        return normals(self._normals, self._sampling, self.size, _counted(dimensions), self._unit)


def whole_number(given: Any, *, least: int) -> int | None:
    """Take a whole number of whatever kind, numpy's too; None if it is none, or below the least."""
    if isinstance(given, bool) or not hasattr(given, "__index__"):
        return None
    number = operator.index(given)
    return number if number >= least else None


def _counted(dimensions: Any) -> int:
    number = whole_number(dimensions, least=0)
    if number is None:
        raise UsageError(
            f"Drawing numbers of a block: how many for each draw must be a whole number from 0 on, and is {dimensions!r}. Give them another shape afterwards."
        )
    return number


def simulate(
    each: Callable[[Block], object],
    piece: DrawSlice,
    draws: DrawPin,
    *,
    built_in: bool,
    name: str,
    wanted: Mapping[str, Statistic] | None = None,
    model: Any = None,
    parameters: Mapping[str, Any] | None = None,
) -> pa.Table:
    """Compute one slice of draws, block by block.

    Parameters
    ----------
    each : callable
        Computes one block: the user's function with model and parameters already given.
    piece : DrawSlice
        Whole blocks, but for the last one of the run.
    draws : DrawPin
        Seed, block size and generator of the run.
    built_in : bool
        The partial is statistics; else the blocks' tables one after the other.
    name : str
        Name of the job: what a quantity without a name is called.
    wanted : mapping, optional
        The statistics that are declared. Default: the built-in summary of each quantity.
    model, parameters : optional
        What the blocks carry.

    Returns
    -------
    pa.Table
        The slice's partial.

    Raises
    ------
    hindscan.errors.BadPartial
        A block returned no such thing, or another number of draws.
    hindscan.errors.NotReproducible
        The first block of the run, drawn again, is another.
    """
    sampling: Sampling | None = msgspec.convert(draws.sampling, Sampling | None)
    unit = unit_of(sampling, draws.block_size)
    streams = Streams(msgspec.convert(draws.generator, GeneratorName), draws.seed)

    def block(index: int, size: int) -> Block:
        return Block(
            index=index, size=size, start=index * draws.block_size, seed=draws.seed, generator=draws.generator,
            sampling=sampling, unit=unit, model=model, parameters=parameters, streams=streams,
        )  # fmt: skip

    if piece.start == 0 and piece.end > 0:
        _try_out(each, block, min(piece.end, draws.block_size, max(_TRIAL, unit)), name, built_in=built_in)
    partials: list[pa.Table] = []
    sums: list[list[dict[str, Any]]] = []
    for index in range(piece.start // draws.block_size, -(-piece.end // draws.block_size)):
        one = block(index, min(draws.block_size, piece.end - index * draws.block_size))
        value = each(one)
        if not built_in:
            partials.append(_as_table(value, name))
        elif wanted:
            sums.append(totals.block_sums(wanted, quantities(value, one, name), index=index, unit=unit, name=name))
        else:
            partials.append(statistics.partial(quantities(value, one, name)))
        # Let go of before the next block is drawn, which then has this one's place in the cache.
        del value
    if built_in:
        return totals.partial(sums) if wanted else statistics.merge(partials)
    return pa.concat_tables(partials) if partials else pa.table({})


def _as_table(value: Any, name: str) -> pa.Table:
    return to_table({name: value} if isinstance(value, np.ndarray | list) else value, "slice")


def _try_out(
    each: Callable[[Block], object], block: Callable[[int, int], Block], size: int, name: str, *, built_in: bool
) -> None:
    """Draw a small block twice, and another: refuse a function whose numbers are not those of its block."""
    blocks = [block(0, size), block(0, size), block(1, size)]
    values = [each(one) for one in blocks]
    if built_in:
        quantities(values[0], blocks[0], name)
    first, again, other = (_bytes(_as_table(value, name)) for value in values)
    if first != again:
        raise NotReproducible(
            f"Drawing the first block of job {name} a second time: it must give the same numbers to the bit, and it gave others. The function takes randomness "
            "from somewhere else (np.random, random, a generator of its own, the clock); take all of it from block.rng, block.uniforms or block.normals.",
            job=name,
        )
    if first == other and not blocks[0].drawn and _varies(values[0], name):
        raise NotReproducible(
            f"Drawing two blocks of job {name}: they must have numbers of their own, and they have the same, although draws differ; the function never asked its "
            "block for any. It seeds a generator of its own; take all randomness from block.rng, block.uniforms or block.normals.",
            job=name,
        )


def _bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _varies(value: Any, name: str) -> bool:
    """Tell whether draws of one block differ from each other."""
    return any(len(column.unique()) > 1 for column in _as_table(value, name).columns)


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
    if type(value) is np.ndarray and value.dtype == np.float64 and value.shape == (block.size,):
        return {name: np.ascontiguousarray(value)}
    if isinstance(value, np.ndarray | list):
        value = {name: value}
    if not isinstance(value, Mapping):
        table = to_table(value, "slice")
        value = {column: table[column].to_numpy() for column in table.column_names}
    if not value:
        raise BadPartial(
            f"Taking what the step 'slice' returned for {block}: at least one quantity is required, and the dict is empty. Return one.", step="slice"
        )  # fmt: skip
    return {str(quantity): _numbers(quantity, given, block) for quantity, given in value.items()}


def _numbers(quantity: object, given: Any, block: Block) -> npt.NDArray[np.float64]:
    """Take the draws of one quantity."""
    advice = "Use block.size, not a fixed number"
    try:
        draws = np.asarray(given)
        found = f"of shape {draws.shape}"
        if draws.dtype.kind not in "biuf":
            found, advice = f"of {draws.dtype}", "Return numbers (bool, int or float)"
        elif draws.shape == (block.size,):
            return np.ascontiguousarray(draws, np.float64)
        elif not draws.ndim:
            advice = "Return an array, np.full(block.size, ...) of a constant"
        elif draws.ndim == 2:
            advice = "Give each column a name of its own"
    except (TypeError, ValueError) as error:
        found = f"that becomes no array ({error})"
    raise BadPartial(
        f"Taking what the step 'slice' returned for {block}: one number per draw is required for each quantity, an array of shape "
        f"({block.size},), and {quantity!r} is a {type(given).__name__} {found}. {advice}.",
        step="slice",
        quantity=str(quantity),
    )
