"""What every bidder ever bid: a result with as many rows as there are bidders, of which no worker holds more than a part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

import hindscan as hs

if TYPE_CHECKING:
    import pyarrow as pa


# Split by bidder: what is called `partials` and `combined` below has all rows of some bidders and none of the others, so
# whatever is computed per bidder comes out as it would unsplit, in a sixteenth of the memory.
@hs.job(history="bids", by="bidder")
def bidder_totals(bids: hs.Data) -> pa.Table:
    """Bids, total, highest and mean of every bidder.

    One row per bidder, ordered by bidder. Prices are in cents.

    Parameters
    ----------
    least
        Bidders with fewer bids are left out.
    """
    return bids.sql(
        """
        SELECT bidder, count(*) AS bids, sum(price)::BIGINT AS total, max(price) AS top
        FROM bids GROUP BY ALL
        """
    )


@bidder_totals.combine
def merge(partials: hs.Data) -> pa.Table:
    """Add up the same bidder."""
    return partials.sql(
        """
        SELECT bidder, sum(bids)::BIGINT AS bids, sum(total)::BIGINT AS total, max(top) AS top
        FROM partials GROUP BY ALL
        """
    )


@bidder_totals.finish
def averaged(combined: hs.Data, least: Annotated[int, msgspec.Meta(ge=1)] = 1) -> pa.Table:
    """Add the mean; the rows are put in the order of the bidders without being asked to."""
    return combined.sql("SELECT *, total / bids AS mean FROM combined WHERE bids >= $least", least=least)
