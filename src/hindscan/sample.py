"""The sample site: three years of an auction house that never was, drawn from a seed.

It promises that (bids, seed) alone decide every row: the same call gives the same rows in any process, whether they
go to Parquet or to Kafka, and in memory bounded by one part of the calendar, so that a history larger than the
machine can be written. `hindscan.generate` writes what is drawn here.

The model, in the order it is drawn. *Members* join over the years, and their activity follows Zipf's law: a few bid
all day. *Auctions* open with the site's rhythm (evenings, weekends, growth, a busy autumn), last 1 to 10 days and
draw a heavy-tailed share of the bids. *Bids* fall between opening and closing in operational time: the clock of an
auction runs at the pace of the site, so that each shows the rhythm of day and week, and the density grows towards
the end, when most bids come. Every bid is higher than the one before; nobody bids on what he sells.

One *shill ring* is planted: some accounts that bid up the auctions of one seller and step back before the end.
`ShillRing` is the ground truth.

The calendar is cut into parts of at most about `PART_BIDS` bids; each has a random stream of its own. Auctions open
in one part and may close in a later one: bids past the end of the part are carried over. The last auctions open
`LONGEST_DAYS` before the end, so that every auction closes within the three years.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hindscan.catalogue import CATEGORIES, CHANNELS, auctions_table, bids_table, persons_table
from hindscan.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

__all__ = [
    "Part",
    "ShillRing",
    "Site",
    "found_site",
    "parts",
]

Ints = npt.NDArray[np.int64]
Small = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float64]

#: Bids of one part of the calendar: about 100 bytes each in memory while they are drawn.
PART_BIDS = 2_000_000
#: No auction is open longer.
LONGEST_DAYS = 10
#: Mean bids of an auction, and per member. A site this size has no more members than `MOST_MEMBERS`.
BIDS_PER_AUCTION, BIDS_PER_MEMBER, MOST_MEMBERS = 20, 40, 2_000_000
#: So that even a tiny history has every category in every year.
FEWEST_AUCTIONS_A_MONTH, FEWEST_MEMBERS = 16, 200

_HOUR = 3_600_000_000
_DAY = 24 * _HOUR
_YEARS = (2017, 2018, 2019)
_OPENS = int(datetime(_YEARS[0], 1, 1, tzinfo=UTC).timestamp()) * 1_000_000

_DURATION_DAYS, _DURATION_SHARES = (1, 3, 5, 7, LONGEST_DAYS), (0.08, 0.17, 0.20, 0.40, 0.15)

#: Pace of the site by hour of day (UTC), by weekday from Monday, and by month.
_HOURLY = (
    1.6, 1.0, 0.7, 0.5, 0.4, 0.5, 0.9, 1.6, 2.2, 2.6, 2.9, 3.2,
    3.5, 3.4, 3.3, 3.4, 3.7, 4.3, 5.2, 6.4, 7.2, 6.6, 4.6, 2.8,
)  # fmt: skip
_WEEKDAY = (1.0, 0.95, 0.95, 1.0, 0.9, 1.15, 1.45)
_SEASON = (1.0, 0.95, 0.97, 0.95, 0.93, 0.9, 0.85, 0.87, 1.0, 1.08, 1.2, 1.3)
_GROWTH_A_YEAR = 1.25

#: Zipf exponent of members' activity; tail of the auctions' shares, and the greatest share in units of the least.
_ZIPF, _TAIL, _GREATEST = 0.8, 1.2, 600.0
#: Bids crowd towards closing as u**-power: at 3, a fifth of them falls into the last hundredth of the time.
_CROWDING = 3.0
#: The ring: accounts, the seller's share of auctions, the ring's share of the bids in them, last bids it leaves alone.
_RING_SIZE, _RING_AUCTIONS, _RING_BIDS, _RING_STEPS_BACK = 4, 0.004, 0.55, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ShillRing:
    """Ground truth for jobs that look for fraud: accounts that bid up one seller's auctions and never win them.

    Its members bid elsewhere too, as honest members do.
    """

    seller: int
    #: The ring's accounts.
    bidders: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """The site on its first day: who will ever join, and how much will be bid."""

    bids: int
    auctions: int
    seed: int
    persons: pa.Table
    ring: ShillRing
    #: When each member joined, in microseconds since 1970, ascending; the id is the position + 1.
    joined: Ints
    #: How much the members bid and sell, summed up to and including each.
    bidding: Floats
    selling: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A stretch of the calendar within one month: the auctions opened and the bids made in it, in the order of time.

    Text columns are dictionary-encoded; otherwise the tables have the schemas of `hindscan.catalogue`.
    """

    year: int
    month: int
    auctions: pa.Table
    bids: pa.Table


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stretch:
    """What one part of the calendar will hold: auctions opened in [begin, end), and all the bids they will ever get."""

    year: int
    month: int
    #: Microseconds since 1970; nothing opens from `last_opening` on.
    begin: int
    end: int
    last_opening: int
    auctions: int
    bids: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bids:
    """Columns of bids, as arrays of one length."""

    time: Ints
    auction: Ints
    bidder: Ints
    price: Ints
    channel: Small
    category: Small

    def columns(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def take(self, positions: Ints | slice) -> _Bids:
        return _Bids(**{name: column[positions] for name, column in self.columns().items()})

    def join(self, other: _Bids) -> _Bids:
        return _Bids(
            **{name: np.concatenate([getattr(self, name), column]) for name, column in other.columns().items()}
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Auctions:
    """Columns of the auctions of one part that the bids depend on."""

    id: Ints
    category: Small
    seller: Ints
    #: Number of bids; members on the day of opening; value and initial bid in cents.
    bids: Ints
    members: Ints
    value: Ints
    initial_bid: Ints
    opens: Ints
    expires: Ints


def found_site(*, bids: int, seed: int) -> Site:
    """Draw the members and the ring.

    Parameters
    ----------
    bids : int
        Bids that will be made in the three years; at least 1.
    seed : int
        Decides everything; not negative.

    Returns
    -------
    Site
        Costs about 100 bytes per member, one for each 40 bids.

    Raises
    ------
    UsageError
        If a number is out of its range.
    """
    faults = [
        f"{name} must be {least} or more, got {value}"
        for name, value, least in (("bids", bids, 1), ("seed", seed, 0))
        if value < least
    ]
    if faults:
        raise UsageError("Cannot draw a sample history: " + "; ".join(faults) + ". Choose other values.")
    rng = np.random.default_rng([seed, 0])
    n = min(max(bids // BIDS_PER_MEMBER, FEWEST_MEMBERS), MOST_MEMBERS)
    # A third were members before the record begins: the first auctions need sellers and bidders.
    joined = np.sort(_OPENS + rng.integers(-(365 * _DAY) * 3 // 2, _days_of_years() * _DAY, n))
    bidding, selling = ((1.0 + rng.permutation(n)) ** -_ZIPF for _ in range(2))
    founders = int(np.searchsorted(joined, _OPENS))
    # Not the first member: the one before the ring takes the places it must not have.
    account = int(rng.integers(1, founders - _RING_SIZE))
    ring = ShillRing(seller=account + 1, bidders=tuple(range(account + 2, account + 2 + _RING_SIZE)))
    # Accounts opened one after the other, and as active elsewhere as the middle of the members.
    bidding[account : account + 1 + _RING_SIZE] = np.median(bidding)
    return Site(
        bids=bids,
        auctions=sum(stretch.auctions for stretch in _schedule(bids, _pace())),
        seed=seed,
        persons=persons_table(rng, joined),
        ring=ring,
        joined=joined,
        bidding=np.cumsum(bidding),
        selling=np.cumsum(selling),
    )


def parts(site: Site) -> Iterator[Part]:
    """Draw the auctions and bids, one part of the calendar after the other.

    Parameters
    ----------
    site : Site
        What `found_site` drew.

    Yields
    ------
    Part
        In the order of time; together they hold exactly `site.bids` bids. Memory is bounded by
        `PART_BIDS`, whatever `site.bids`.
    """
    pace = _pace()
    carried = _Bids(
        time=np.empty(0, np.int64),
        auction=np.empty(0, np.int64),
        bidder=np.empty(0, np.int64),
        price=np.empty(0, np.int64),
        channel=np.empty(0, np.int8),
        category=np.empty(0, np.int8),
    )
    next_id = 1
    for number, stretch in enumerate(_schedule(site.bids, pace)):
        rng = np.random.default_rng([site.seed, 1, number])
        opened, table = _open_auctions(site, rng, pace, stretch, next_id)
        next_id += stretch.auctions
        made = carried.join(_make_bids(site, rng, pace, opened))
        # Stable: bids of one auction in one microsecond keep the order of their prices.
        made = made.take(np.argsort(made.time, kind="stable"))
        cut = int(np.searchsorted(made.time, stretch.end))
        now, carried = made.take(slice(0, cut)), made.take(slice(cut, None))
        yield Part(year=stretch.year, month=stretch.month, auctions=table, bids=bids_table(**now.columns()))


def _days_of_years() -> int:
    return (date(_YEARS[-1] + 1, 1, 1) - date(_YEARS[0], 1, 1)).days


def _pace() -> Floats:
    """Activity of the site up to each full hour, relative to its opening: the clock of operational time."""
    hours = np.arange(_days_of_years() * 24)
    first = date(_YEARS[0], 1, 1).weekday()
    growth = _GROWTH_A_YEAR ** (hours / (365 * 24))
    month = (np.datetime64(_OPENS, "us") + hours * np.timedelta64(1, "h")).astype("datetime64[M]").astype(int) % 12
    hourly = np.array(_HOURLY)[hours % 24] * np.array(_WEEKDAY)[(first + hours // 24) % 7] * np.array(_SEASON)[month]
    return np.concatenate([[0.0], np.cumsum(hourly * growth)])


def _operational(pace: Floats, time: Ints) -> Floats:
    hours = (time - _OPENS) / _HOUR
    return np.interp(hours, np.arange(len(pace)), pace)


def _civil(pace: Floats, operational: Floats) -> Ints:
    hours = np.interp(operational, pace, np.arange(len(pace)))
    return _OPENS + (hours * _HOUR).astype(np.int64)


def _schedule(bids: int, pace: Floats) -> list[_Stretch]:
    """Cut the calendar into parts.

    Shares follow the site's pace; cumulative rounding makes them add up to `bids`.
    """
    months = [np.datetime64(f"{y}-{m:02d}-01", "us").astype(np.int64) for y, m in product(_YEARS, range(1, 13))]
    months.append(np.int64(_OPENS + _days_of_years() * _DAY))
    last_opening = int(months[-1]) - LONGEST_DAYS * _DAY
    finer = 1 + bids // len(months) // (PART_BIDS // 2)
    edges = np.unique(np.concatenate([np.linspace(a, b, finer + 1).astype(np.int64) for a, b in pairwise(months)]))
    share = _operational(pace, np.minimum(edges, last_opening))
    share /= share[-1]
    n_bids = np.diff(np.rint(share * bids).astype(np.int64))
    auctions = max(bids // BIDS_PER_AUCTION, FEWEST_AUCTIONS_A_MONTH * len(months))
    n_auctions = np.maximum(np.diff(np.rint(share * auctions).astype(np.int64)), np.diff(share) > 0)
    return [
        _Stretch(
            year=_YEARS[i // finer // 12],
            month=i // finer % 12 + 1,
            begin=int(begin),
            end=int(end),
            last_opening=last_opening,
            auctions=int(n_auctions[i]),
            bids=int(n_bids[i]),
        )
        for i, (begin, end) in enumerate(pairwise(edges))
    ]


def _open_auctions(
    site: Site, rng: np.random.Generator, pace: Floats, stretch: _Stretch, first_id: int
) -> tuple[_Auctions, pa.Table]:
    """Draw the auctions of a stretch, and how its bids fall on them."""
    n, end = stretch.auctions, min(stretch.end, stretch.last_opening)
    low, high = _operational(pace, np.array([stretch.begin, end]))
    opens = np.clip(_civil(pace, low + (high - low) * np.sort(rng.random(n))), stretch.begin, end - 1)
    expires = opens + rng.choice(np.array(_DURATION_DAYS) * _DAY, n, p=_DURATION_SHARES)
    kinds = list(CATEGORIES.values())
    # Stratified, so that a short history has each category too.
    strata = rng.permutation((np.arange(n) + rng.random()) / max(n, 1))
    category = np.searchsorted(np.cumsum([kind.share for kind in kinds])[:-1], strata, side="right").astype(np.int8)
    members = np.searchsorted(site.joined, opens)
    seller = _draw_members(rng, site.selling, members)
    weight = np.minimum((1.0 - rng.random(n)) ** (-1.0 / _TAIL), _GREATEST)
    rigged = rng.choice(n, min(n, max(1, round(n * _RING_AUCTIONS))), replace=False)
    seller[rigged], weight[rigged] = site.ring.seller, np.maximum(weight[rigged], 4.0)
    bids = rng.multinomial(stretch.bids, weight / weight.sum()) if n else np.empty(0, np.int64)
    value = np.array([kind.value for kind in kinds])[category]
    value = value * np.exp(np.array([kind.spread for kind in kinds])[category] * rng.standard_normal(n))
    initial = np.maximum(value * rng.uniform(0.02, 0.5, n) // 50 * 50, 50).astype(np.int64)
    reserve = np.where(rng.random(n) < 0.4, value * rng.uniform(0.6, 1.0, n) // 50 * 50, 0).astype(np.int64)
    ids = np.arange(first_id, first_id + n)
    table = auctions_table(
        rng,
        ids=ids,
        category=category,
        seller=seller,
        initial_bid=initial,
        reserve=reserve,
        opens=opens,
        expires=expires,
    )
    drawn = _Auctions(
        id=ids,
        category=category,
        seller=seller,
        bids=bids,
        members=members,
        value=value,
        initial_bid=initial,
        opens=opens,
        expires=expires,
    )
    return drawn, table


def _make_bids(site: Site, rng: np.random.Generator, pace: Floats, auctions: _Auctions) -> _Bids:
    """Draw all bids of the auctions, auction by auction, each in the order of time."""
    n = auctions.bids
    total, position = int(n.sum()), np.repeat(np.arange(len(n)), n)
    rank = np.arange(total) - np.repeat(np.cumsum(n) - n, n)
    # One sort of auction + uniform gives every auction its own ascending uniforms.
    uniform = np.sort(position + rng.random(total)) - position
    low, high = _operational(pace, auctions.opens), _operational(pace, auctions.expires)
    time = _civil(pace, (low[position] + (high - low)[position] * (1.0 - (1.0 - uniform) ** _CROWDING)))
    time = np.clip(time, auctions.opens[position], auctions.expires[position] - 1)
    channels = np.repeat(np.arange(len(CHANNELS), dtype=np.int8), [round(100 * part) for part in CHANNELS.values()])
    return _Bids(
        time=time,
        auction=auctions.id[position],
        bidder=_bidders(site, rng, auctions, position, rank),
        price=_prices(rng, auctions, position, rank),
        channel=channels[rng.integers(0, len(channels), total, dtype=np.uint8)],
        category=auctions.category[position],
    )


def _bidders(site: Site, rng: np.random.Generator, auctions: _Auctions, position: Ints, rank: Ints) -> Ints:
    """Draw who bids: each auction has a pool of takers, who outbid each other; then the ring takes its places."""
    n = auctions.bids
    takers = 1 + (n**0.75).astype(np.int64)
    owner = np.repeat(np.arange(len(n)), takers)
    pool = _draw_members(rng, site.bidding, auctions.members[owner])
    # A seller drawn for his own auction gives his place to the member after him; the ring wins nothing: its places go
    # to the member before it.
    own = pool == auctions.seller[owner]
    pool[own] = pool[own] % auctions.members[owner[own]] + 1
    inside = (auctions.seller[owner] == site.ring.seller) & np.isin(pool, [site.ring.seller, *site.ring.bidders])
    pool[inside] = site.ring.seller - 1
    # Steps of 1 to takers - 1 around the pool never stay where they are: the taker in front is outbid by another.
    size = takers[position]
    step = 1 + (rng.random(len(position)) * (size - 1)).astype(np.int64)
    walk = np.cumsum(step)
    walk -= np.repeat((walk - step)[rank == 0], n[n > 0])
    bidder: Ints = pool[(np.cumsum(takers) - takers)[position] + walk % size]
    rigged = np.flatnonzero((auctions.seller == site.ring.seller)[position])
    rigged = rigged[rank[rigged] < n[position[rigged]] - _RING_STEPS_BACK]
    rigged = rigged[rng.random(len(rigged)) < _RING_BIDS]
    bidder[rigged] = np.array(site.ring.bidders)[rank[rigged] % _RING_SIZE]
    return bidder


def _prices(rng: np.random.Generator, auctions: _Auctions, position: Ints, rank: Ints) -> Ints:
    """Draw prices: from the initial bid up to a closing price near the value, by uneven steps of at least a cent."""
    n = auctions.bids
    worth = auctions.value * (0.55 + 0.12 * np.log1p(n)) * np.exp(0.15 * rng.standard_normal(len(n)))
    rise = np.maximum(worth - auctions.initial_bid, 0.05 * auctions.initial_bid)
    climb = np.cumsum(rng.standard_exponential(len(position)))
    some = n > 0
    last = np.cumsum(n)[some] - 1
    first = last - n[some] + 1
    base, height = np.zeros(len(n)), np.ones(len(n))
    base[some], height[some] = climb[first], np.maximum(climb[last] - climb[first], 1e-9)
    share = (climb - base[position]) / height[position]
    prices: Ints = auctions.initial_bid[position] + (rise[position] * share).astype(np.int64) + rank
    return prices


def _draw_members(rng: np.random.Generator, cumulative: Floats, members: Ints) -> Ints:
    """Draw an id for each entry among the first so many members, by their weights."""
    drawn = np.searchsorted(cumulative, rng.random(len(members)) * cumulative[members - 1], side="right")
    ids: Ints = np.minimum(drawn, members - 1) + 1
    return ids
