"""Drawing from history inside a simulation: bootstraps, empirical and fitted distributions, arrivals.

Keeps promise 8: everything is drawn from the block's own generator, `block.rng`, and from nothing else, a block at once. So the numbers depend on the seed, the block
and the order in which a function asks, and on no worker.

What comes in different numbers for each draw (arrivals, the rows of drawn auctions) is `Ragged`: flat arrays beside the draw that each entry belongs to.

::

    model's arrays + Block -> bootstrap | Empirical | fit | poisson_arrivals | hawkes_arrivals | bootstrap_groups -> arrays (draws, ...)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from hindscan.errors import UsageError

if TYPE_CHECKING:
    from hindscan.jobs.simulation import Block

__all__ = [
    "Empirical",
    "Fitted",
    "Ragged",
    "bootstrap",
    "bootstrap_groups",
    "bootstrap_indices",
    "fit",
    "hawkes_arrivals",
    "poisson_arrivals",
]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Method = Literal["iid", "moving", "circular", "stationary"]

#: Generations of a Hawkes process that are followed: with 0.99 offspring each the share that lives so long is below 1e-40.
_GENERATIONS_MOST: Final = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Ragged:
    """Entries that belong to draws, in the order of the draws."""

    #: Draws of the block.
    size: int
    #: The draw of each entry, `(entries,)`, rising.
    draw: Ints
    #: The entries: times, or positions of rows.
    values: Array

    @property
    def counts(self) -> Ints:
        """How many entries each draw has, `(draws,)`."""
        return np.bincount(self.draw, minlength=self.size).astype(np.int64)

    def total(self, of: Array | None = None) -> Floats:
        """Sum the entries of each draw, or other numbers that stand beside them, `(draws,)`."""
        weights = np.asarray(self.values if of is None else of, np.float64)
        return np.asarray(np.bincount(self.draw, weights=weights, minlength=self.size), np.float64)

    def greatest(self, of: Array | None = None, *, empty: float = 0.0) -> Floats:
        """Give the greatest entry of each draw, `(draws,)`; `empty` where it has none."""
        found = np.full(self.size, -np.inf)
        np.maximum.at(found, self.draw, np.asarray(self.values if of is None else of, np.float64))
        return np.where(self.counts > 0, found, empty)


def bootstrap(
    block: Block, values: Array, count: int | None = None, *, method: Method = "iid", length: float | None = None
) -> Array:
    """Draw series from a series, with replacement.

    Parameters
    ----------
    block : Block
        Where randomness comes from.
    values : array
        The series, `(n, ...)`; rows stay together.
    count : int, optional
        Length of the drawn series. Default: that of `values`.
    method : {"iid", "moving", "circular", "stationary"}
        Row by row; blocks of `length` rows that lie within the series; the same on a circle, so that every row is as likely; blocks of random length, `length` on
        average, on a circle.
    length : float, optional
        Rows of a block; needed by all methods but the first.

    Returns
    -------
    array
        `(block.size, count, ...)`: keep the simulation's `block_size` small where `count` is large.

    References
    ----------
    Kuensch (1989) for moving blocks, Politis and Romano (1992, 1994) for circular blocks and the stationary bootstrap.
    """
    data = np.asarray(values)
    return data[bootstrap_indices(block, len(data), count, method=method, length=length)]


def bootstrap_indices(
    block: Block, n: int, count: int | None = None, *, method: Method = "iid", length: float | None = None
) -> Ints:
    """Draw the positions that `bootstrap` takes, `(block.size, count)`; for several series that stay together.

    Raises
    ------
    hindscan.errors.UsageError
        There is nothing to draw from, or the length of blocks is missing or does not fit.
    """
    count = n if count is None else count
    whole = method in ("moving", "circular")
    faults = []
    if n < 1 or count < 1:
        faults.append(f"at least one row is drawn from at least one; asked for {count} from {n}")
    if method not in ("iid", "moving", "circular", "stationary"):
        faults.append(f"method= must be iid, moving, circular or stationary, and is {method!r}")
    elif method != "iid" and (
        length is None or not 1 <= length < math.inf or (whole and (length > n or length != int(length)))
    ):
        faults.append(f"length= must be at least 1{f' and a whole number up to {n}' if whole else ''} for {method} blocks, and is {length}")  # fmt: skip
    if faults:
        raise UsageError(f"Drawing a bootstrap: {'; '.join(faults)}.", faults=faults)
    rng = block.rng
    if method == "iid":
        return rng.integers(n, size=(block.size, count))
    assert length is not None
    if method == "stationary":
        return _stationary(rng, block.size, n, count, 1 / length)
    size = int(length)
    blocks = -(-count // size)
    starts = rng.integers(n - size + 1 if method == "moving" else n, size=(block.size, blocks))
    found = (starts[:, :, None] + np.arange(size)).reshape(block.size, blocks * size)[:, :count]
    return found if method == "moving" else found % n


def _stationary(rng: np.random.Generator, draws: int, n: int, count: int, chance: float) -> Ints:
    fresh = rng.random((draws, count)) < chance
    fresh[:, 0] = True
    starts = rng.integers(n, size=(draws, count))
    # Each row goes on from where the last block began, so many rows further.
    at = np.arange(count)
    began = np.maximum.accumulate(np.where(fresh, at, 0), axis=1)
    found: Ints = (np.take_along_axis(starts, began, axis=1) + at - began) % n
    return found


def bootstrap_groups(block: Block, groups: Array, count: int | None = None) -> Ragged:
    """Draw whole groups with replacement: auctions with all their bids.

    Parameters
    ----------
    block : Block
        Where randomness comes from.
    groups : array
        The group of each row, `(n,)`, in any order.
    count : int, optional
        Groups in each draw. Default: as many as there are.

    Returns
    -------
    Ragged
        Positions of rows; those of one group stay in their order, and a group that is drawn twice comes twice.
    """
    order, starts, sizes = _grouped(groups)
    if not sizes.size:
        raise UsageError("Drawing groups: at least one row is required to draw from; there is none.")
    count = sizes.size if count is None else count
    if count < 1:
        raise UsageError(f"Drawing groups: at least one is drawn; asked for {count}.")
    drawn = block.rng.integers(sizes.size, size=(block.size, count)).ravel()
    lengths = sizes[drawn]
    total = int(lengths.sum())
    # Position within its group of each entry: a running number that begins anew at each group.
    within = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows = order[np.repeat(starts[drawn], lengths) + within]
    draw = np.repeat(np.repeat(np.arange(block.size), count), lengths)
    return Ragged(size=block.size, draw=draw, values=rows)


def _grouped(groups: Array) -> tuple[Ints, Ints, Ints]:
    order = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(np.asarray(groups)[order], return_index=True, return_counts=True)
    return order, starts, sizes


@dataclass(frozen=True, slots=True)
class Empirical:
    """The distribution of some values, as they are or with straight lines between them.

    Parameters
    ----------
    values : array
        What was seen, `(n,)`.
    smooth : bool
        Draw between neighbouring values, too, not only these values.
    """

    values: Array
    smooth: bool = False
    _ordered: Floats = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort once."""
        ordered = np.sort(np.asarray(self.values, np.float64))
        if not ordered.size:
            raise UsageError("Making an empirical distribution: at least one value is required; there is none.")
        if bad := int(np.count_nonzero(~np.isfinite(ordered))):
            raise UsageError(
                f"Making an empirical distribution: its values must be finite numbers, and {bad:,} of {ordered.size:,} are not. Leave these out."
            )
        object.__setattr__(self, "_ordered", ordered)

    def cdf(self, x: Array | float) -> Floats:
        """Give the share of values up to x."""
        if self.smooth and self._ordered.size > 1:
            return np.asarray(np.interp(x, self._ordered, np.linspace(0, 1, self._ordered.size)))
        return np.asarray(np.searchsorted(self._ordered, x, side="right") / self._ordered.size)

    def quantile(self, u: Array | float) -> Floats:
        """Give the quantile at levels in [0, 1]: the inverse of `cdf`, so that uniform numbers make draws."""
        n = self._ordered.size
        if self.smooth and n > 1:
            return np.asarray(np.interp(u, np.linspace(0, 1, n), self._ordered))
        at = np.minimum((np.asarray(u) * n).astype(np.int64), n - 1)
        return np.asarray(self._ordered[at])

    def draw(self, block: Block, count: int | None = None) -> Floats:
        """Draw `(block.size,)` values, or `(block.size, count)`."""
        return self.quantile(block.rng.random(block.size if count is None else (block.size, count)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A distribution of scipy with fitted parameters; made by `fit`."""

    name: str
    #: Shapes, location and scale, as scipy has them.
    parameters: tuple[float, ...]

    def frozen(self) -> Any:
        """Give scipy's own object."""
        return getattr(_stats(), self.name)(*self.parameters)

    def cdf(self, x: Array | float) -> Floats:
        """Give the probability of up to x."""
        return np.asarray(self.frozen().cdf(x), np.float64)

    def quantile(self, u: Array | float) -> Floats:
        """Give the quantile at levels in [0, 1]."""
        return np.asarray(self.frozen().ppf(u), np.float64)

    def draw(self, block: Block, count: int | None = None) -> Floats:
        """Draw `(block.size,)` values, or `(block.size, count)`, by inversion: so that antithetic and quasi-random numbers do what they should."""
        return self.quantile(block.rng.random(block.size if count is None else (block.size, count)))

    def log_likelihood(self, values: Array) -> float:
        """Give the log-likelihood of values: to choose among families by."""
        return float(np.sum(self.frozen().logpdf(values)))


def fit(name: str, values: Array, **fixed: float) -> Fitted:
    """Fit a continuous distribution of scipy to values by maximum likelihood. Needs the extra `simulation`.

    Parameters
    ----------
    name : str
        As in `scipy.stats`: ``lognorm``, ``gamma``, ``weibull_min``, ``norm``.
    values : array
        What was seen, `(n,)`.
    **fixed
        Parameters that are not fitted, by scipy's names: ``floc=0``.

    Raises
    ------
    hindscan.errors.UsageError
        scipy is not installed, there is no such family, or it does not fit these values.
    """
    family = getattr(_stats(), name, None)
    if family is None or not hasattr(family, "fit"):
        raise UsageError(f"Fitting a distribution: it must be a continuous one of scipy.stats, and {name!r} is none. lognorm, gamma and norm are.")  # fmt: skip
    try:
        parameters = family.fit(np.asarray(values, np.float64), **fixed)
    except (ValueError, RuntimeError, TypeError) as fault:
        raise UsageError(
            f"Fitting {name} to {np.size(values)} values: it must fit, and scipy says: {fault}."
        ) from fault
    return Fitted(name=name, parameters=tuple(float(p) for p in parameters))


def _stats() -> Any:
    try:
        import scipy.stats
    except ImportError:
        raise UsageError(
            "Fitting a distribution: scipy is required, and it is not installed. Install hindscan[simulation]."
        ) from None
    return scipy.stats


def poisson_arrivals(
    block: Block, rate: float | Callable[[Floats], Floats], horizon: float, *, most: float | None = None
) -> Ragged:
    """Draw the times of a Poisson process on [0, horizon), for every draw of a block.

    Parameters
    ----------
    block : Block
        Where randomness comes from.
    rate : float or callable
        Arrivals per unit of time; or a function of times `(m,)` that gives them `(m,)`, as bids that crowd before closing need.
    horizon : float
        Where it ends.
    most : float, optional
        With a function: a rate it never exceeds; arrivals of this rate are drawn and thinned.

    Returns
    -------
    Ragged
        Times, rising within each draw.

    Raises
    ------
    hindscan.errors.UsageError
        A rate is negative or beyond `most`.

    References
    ----------
    Lewis and Shedler (1979), Simulation of nonhomogeneous Poisson processes by thinning.
    """
    varies = callable(rate)
    bound = most if callable(rate) else rate
    if bound is None or not 0 <= bound < math.inf or not 0 <= horizon < math.inf:
        raise UsageError(
            f"Drawing arrivals: rate, horizon and, for a rate that varies, most= must be finite numbers from 0 on; they are {bound} and {horizon}."
        )
    rng = block.rng
    counts = rng.poisson(bound * horizon, block.size)
    draw = np.repeat(np.arange(block.size), counts)
    times = rng.random(draw.size) * horizon
    if varies:
        assert callable(rate)
        rates = np.asarray(rate(times), np.float64)
        if rates.shape != times.shape:
            raise UsageError(
                f"Drawing arrivals: the rate must give a number for each time, an array of shape {times.shape}; it gave one of {rates.shape}."
            )
        if rates.size and not (rates.min() >= 0 and rates.max() <= bound):
            raise UsageError(
                f"Drawing arrivals: the rate must be between 0 and most={bound}; it is between {rates.min():g} and {rates.max():g}."
            )
        kept = rng.random(draw.size) * bound < rates
        draw, times = draw[kept], times[kept]
    return _in_order(block.size, draw, times)


def hawkes_arrivals(block: Block, mu: float, alpha: float, beta: float, horizon: float) -> Ragged:
    """Draw the times of a Hawkes process on [0, horizon) that begins empty: each arrival raises the rate by ``alpha exp(-beta age)``, as a bid provokes bids.

    Drawn by its branching structure, which is exact and a generation of all draws at a time: arrivals that nothing provoked are Poisson, each has a Poisson number of
    offspring, alpha / beta on average, at exponential distances.

    Parameters
    ----------
    block : Block
        Where randomness comes from.
    mu : float
        Rate without any provocation.
    alpha, beta : float
        Jump of the rate, and how fast it decays; alpha < beta.
    horizon : float
        Where it ends.

    Returns
    -------
    Ragged
        Times, rising within each draw.

    Raises
    ------
    hindscan.errors.UsageError
        A number is negative, or each arrival provokes one or more on average: it would explode.

    References
    ----------
    Hawkes and Oakes (1974), A cluster process representation of a self-exciting process.
    """
    if not (0 <= mu < math.inf and 0 <= alpha < beta < math.inf and 0 <= horizon < math.inf):
        raise UsageError(
            f"Drawing arrivals: mu, alpha and horizon must be finite and not negative, and alpha must be below beta; they are {mu}, {alpha}, {horizon} and {beta}."
        )
    first = poisson_arrivals(block, mu, horizon)
    draws, times = [first.draw], [first.values]
    for _ in range(_GENERATIONS_MOST):
        offspring = block.rng.poisson(alpha / beta, times[-1].size)
        draw = np.repeat(draws[-1], offspring)
        born = np.repeat(times[-1], offspring) + block.rng.exponential(1 / beta, draw.size)
        # What comes after the end has all its offspring after the end.
        inside = born < horizon
        draws.append(draw[inside])
        times.append(born[inside])
        if not inside.any():
            break
    return _in_order(block.size, np.concatenate(draws), np.concatenate(times))


def _in_order(size: int, draw: Ints, times: Floats) -> Ragged:
    order = np.lexsort((times, draw))
    return Ragged(size=size, draw=draw[order], values=times[order])
