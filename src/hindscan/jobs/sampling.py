"""How the random numbers of a block are made points: as they come, or so that they lie better than random ones.

Keeps promise 8: everything follows from the stream of the block (`jobs.streams`). A sampling makes consecutive draws belong together, in units; intervals are made of
units (`jobs.totals`), so they stay honest.

::

    rng + Sampling -> points(size, dimensions) -> uniforms, normals;  NormalStream (`jobs.normal`) -> normals without points
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np

from hindscan.errors import JobDefinitionError
from hindscan.jobs.normal import NormalStream
from hindscan.jobs.streams import GENERATORS
from hindscan.jobs.sums import Floats

__all__ = [
    "Antithetic",
    "Halton",
    "Sampling",
    "Sobol",
    "Stratified",
    "normals",
    "sampling_faults",
    "uniforms",
    "unit_of",
]

#: One less than the number of values that `Generator.random` gives: the mirror image of k is MOST - k.
_LAST: Final = 1 - 2.0**-53


class Antithetic(msgspec.Struct, frozen=True, tag_field="sampling", tag="antithetic"):
    """Pairs of draws that mirror each other: u and 1 - u, z and -z."""


class Stratified(msgspec.Struct, frozen=True, tag_field="sampling", tag="stratified"):
    """Sets of draws, one in each of so many equal strata of every dimension (Latin hypercubes).

    Parameters
    ----------
    strata : int
        How many. Must divide the block.
    """

    strata: int = 64


class Sobol(msgspec.Struct, frozen=True, tag_field="sampling", tag="sobol"):
    """Scrambled Sobol points, each set scrambled anew.

    Parameters
    ----------
    points : int, optional
        Points of a set: a power of two that divides the block. Default: the block.
    """

    points: int | None = None


class Halton(msgspec.Struct, frozen=True, tag_field="sampling", tag="halton"):
    """Scrambled Halton points, each set scrambled anew.

    Parameters
    ----------
    points : int, optional
        Points of a set; must divide the block. Default: the block.
    """

    points: int | None = None


Sampling = Antithetic | Stratified | Sobol | Halton


def unit_of(sampling: Sampling | None, block_size: int) -> int:
    """Give how many consecutive draws belong together."""
    match sampling:
        case None:
            return 1
        case Antithetic():
            return 2
        case Stratified():
            return sampling.strata
        case Sobol() | Halton():
            return sampling.points or block_size


def sampling_faults(generator: object, sampling: object, block_size: int) -> Iterator[str]:
    """Tell what is wrong with a declared source of random numbers."""
    if generator not in GENERATORS:
        yield f"generator= must be one of {', '.join(GENERATORS)}, and is {generator!r}"
    if sampling is None:
        return
    if not isinstance(sampling, Sampling):
        yield f"sampling= must be hs.Antithetic(), hs.Stratified(), hs.Sobol() or hs.Halton(), and is {sampling!r}"
        return
    unit = unit_of(sampling, block_size)
    if type(unit) is not int or unit < 2 or block_size % unit:
        yield f"sampling= has sets of {unit!r} draws, which must be two or more and divide the block of {block_size}"
    elif isinstance(sampling, Sobol) and unit & (unit - 1):
        yield f"Sobol points come in powers of two, and {unit} is none; say points= or another block_size="


def uniforms(rng: np.random.Generator, sampling: Sampling | None, size: int, dimensions: int, unit: int) -> Floats:
    """Draw points of the unit cube, shape ``(size, dimensions)``, in [0, 1).

    Raises
    ------
    hindscan.errors.JobDefinitionError
        The points need scipy, which is not installed.
    """
    match sampling:
        case None:
            return rng.random((size, dimensions))
        case Antithetic():
            points = np.empty((size, dimensions))
            points[::2] = rng.random((-(-size // 2), dimensions))
            points[1::2] = _LAST - points[: size // 2 * 2 : 2]
            return points
        case Stratified(strata=strata):
            sets = -(-size // strata)
            order = np.broadcast_to(np.arange(strata)[None, :, None], (sets, strata, dimensions))
            shuffled = rng.permuted(order, axis=1).reshape(-1, dimensions)[:size]
            inside: Floats = np.minimum((shuffled + rng.random((size, dimensions))) / strata, _LAST)
            return inside
        case Sobol() | Halton():
            whole: Floats = np.concatenate([_points(sampling, rng, unit, dimensions) for _ in range(0, size, unit)])
            lower: Floats = np.minimum(whole[:size], _LAST)
            return lower


def normals(stream: NormalStream, sampling: Sampling | None, size: int, dimensions: int, unit: int) -> Floats:
    """Draw standard normal numbers, shape ``(size, dimensions)``."""
    match sampling:
        case None:
            return stream.draw(size * dimensions).reshape(size, dimensions)
        case Antithetic():
            drawn = np.empty((size, dimensions))
            half = -(-size // 2)
            drawn[::2] = stream.draw(half * dimensions).reshape(half, dimensions)
            np.negative(drawn[: size // 2 * 2 : 2], out=drawn[1::2])
            return drawn
        case _:
            # The corners of the cube lie at infinity, so nothing is drawn nearer to them than half a step of the floats.
            points = np.maximum(uniforms(stream.rng, sampling, size, dimensions, unit), 2.0**-54)
            turned: Floats = _scipy("special").ndtri(points)
            return turned


def _points(sampling: Sobol | Halton, rng: np.random.Generator, unit: int, dimensions: int) -> Floats:
    qmc = _scipy("stats.qmc")
    kind = qmc.Sobol if isinstance(sampling, Sobol) else qmc.Halton
    points: Floats = kind(dimensions, scramble=True, rng=rng).random(unit)
    return points


def _scipy(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"scipy.{module}")
    except ImportError as error:
        raise JobDefinitionError(
            "Drawing the points of a simulation: scipy is required for these, and it is not installed where the job runs. `pip install 'hindscan[simulation]'`, or "
            "leave sampling= out."
        ) from error
