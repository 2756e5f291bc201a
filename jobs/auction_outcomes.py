"""How every auction ended: bids and auctions, both too large for one worker, joined by auction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

import hindscan as hs

if TYPE_CHECKING:
    import pyarrow as pa

#: Bids of each auction, and the highest of them; of equal ones the first, of equally early ones that of the lower bidder.
HIGHEST = """
    SELECT auction, {bids}::BIGINT AS bids, unnest(arg_max(
        {{bidder: bidder, price: price, date_time: date_time}}, (price, -epoch_us(date_time), -bidder)
    ))
    FROM {rows} GROUP BY auction ORDER BY auction
"""


# A job of its own, which the one below is joined with: split by the same key, whatever it is called here.
@hs.job(history="auctions", by="id", combine="concat")
def lots(auctions: hs.Data) -> pa.Table:
    """What was offered, and with which reserve; one row per auction."""
    return auctions.arrow(["id", "category", "seller", "reserve"])


# Both histories are cut into slices, and what a slice gives is split by auction into 16 parts: part 7 of the bids and part 7 of the lots have the same auctions,
# so parts are joined one by one, and no worker holds more than two of them.
@hs.job(history="bids", by="auction", join={"lots": lots})
def auction_outcomes(bids: hs.Data) -> pa.Table:
    """Winner and price of every auction, or that it was not sold.

    One row per auction, ordered by auction: `sold` if its highest bid reached the reserve, else `winner` and `price` are null. Auctions without bids are rows, too, and
    bids on auctions that are not in the history are none. Prices are in cents.

    Parameters
    ----------
    least_bids
        Auctions with fewer bids are left out.
    """
    return bids.sql(HIGHEST.format(bids="count(*)", rows="bids"))


@auction_outcomes.combine
def highest(partials: hs.Data) -> pa.Table:
    """Take the highest of the highest."""
    return partials.sql(HIGHEST.format(bids="sum(bids)", rows="partials"))


@auction_outcomes.finish
def outcome(
    combined: hs.Data,
    lots: hs.Data,  # noqa: ARG001 (the query names it)
    least_bids: Annotated[int, msgspec.Meta(ge=0)] = 0,
) -> pa.Table:
    """Join one part; whether it is an inner, an outer or any other join is said here and nowhere else."""
    return combined.sql(
        """
        SELECT id AS auction, category, seller, coalesce(bids, 0) AS bids, coalesce(price >= reserve, false) AS sold,
            CASE WHEN price >= reserve THEN bidder END AS winner, CASE WHEN price >= reserve THEN price END AS price
        FROM lots LEFT JOIN combined ON combined.auction = lots.id
        WHERE coalesce(bids, 0) >= $least_bids
        """,
        least_bids=least_bids,
    )
