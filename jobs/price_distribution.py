"""How the closing price of an auction is distributed, with a chart: drawn from comparable auctions of the past."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import hindscan as hs

if TYPE_CHECKING:
    import pyarrow as pa

#: Edges of the bars: twenty for each factor of ten, from a cent to ten million.
EDGES = np.logspace(0, 9, 181)


@hs.job(history="bids")
def closed_at(bids: hs.Data, category: str = "cars") -> pa.Table:
    """Highest bid of every auction of a category."""
    return bids.sql(
        "SELECT auction, max(price) AS price FROM bids WHERE category = $category GROUP BY ALL ORDER BY ALL",
        category=category,
    )


@closed_at.combine
def highest(partials: hs.Data) -> pa.Table:
    """Keep the highest bid of an auction whose bids are in several slices."""
    return partials.sql("SELECT auction, max(price) AS price FROM partials GROUP BY ALL ORDER BY ALL")


@hs.simulation(calibrate=closed_at)
def price_distribution(block: hs.Block, model: pa.Table) -> dict[str, object]:
    """How often each closing price comes, by bars."""
    prices = hs.Empirical(model["price"].to_numpy(), smooth=True).draw(block)
    counts, _ = np.histogram(prices, EDGES)
    kept = np.flatnonzero(counts)
    return {"bar": kept, "draws": counts[kept]}


@price_distribution.combine
def counted(partials: hs.Data) -> pa.Table:
    """Add up the bars."""
    return partials.sql("SELECT bar, sum(draws)::BIGINT AS draws FROM partials GROUP BY ALL ORDER BY ALL")


@price_distribution.finish
def drawn(combined: hs.Data) -> pa.Table:
    """Give each bar its prices and its share, and draw them. Few draws come as they are, block after block: there was nothing to combine."""
    bars = combined.sql(
        """
        WITH bars AS (SELECT bar, sum(draws)::BIGINT AS draws FROM combined GROUP BY bar)
        SELECT pow(10, bar / 20) AS low, pow(10, (bar + 1) / 20) AS high, draws, draws / sum(draws) OVER () AS share
        FROM bars ORDER BY bar
        """
    )
    price = {"field": "low", "type": "quantitative", "scale": {"type": "log"}, "title": "closing price, cents"}
    share = {"field": "share", "type": "quantitative", "title": "share of draws"}
    return hs.chart(bars, {"mark": "bar", "encoding": {"x": price, "x2": {"field": "high"}, "y": share}})
