"""Which auctions were the hottest: the most bids within a window that slides over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

import hindscan as hs

if TYPE_CHECKING:
    import pyarrow as pa

Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]


@hs.job(history="bids", tables={"auctions": "auctions"})
def hot_items(bids: hs.Data, step_minutes: Count = 10) -> pa.Table:
    """Busiest window of each auction; the hottest auctions first.

    One row per auction: bids in its busiest window, and when that began and ended.

    Parameters
    ----------
    step_minutes
        How far the window moves at a time.
    window_minutes
        How long it is; rounded up to whole steps.
    top
        How many auctions.
    """
    # Bids per step can be added up across slices, and every window is some steps in a row: a window that lies across the
    # border of two slices is found like any other.
    return bids.sql(
        """
        SELECT auction, epoch_us(date_time) // (60_000_000 * $step) AS step, count(*) AS bids
        FROM bids GROUP BY ALL ORDER BY ALL
        """,
        step=step_minutes,
    )


@hot_items.combine
def merge(partials: hs.Data) -> pa.Table:
    """Add up the same auction and step."""
    return partials.sql("SELECT auction, step, sum(bids)::BIGINT AS bids FROM partials GROUP BY ALL ORDER BY ALL")


@hot_items.finish
def hottest(
    combined: hs.Data,
    auctions: hs.Data,  # noqa: ARG001 (the query names it)
    step_minutes: Count = 10,
    window_minutes: Count = 60,
    top: Count = 20,
) -> pa.Table:
    """Slide the window over the steps of each auction."""
    return combined.sql(
        """
        WITH windows AS (
            SELECT auction, step, sum(bids) OVER (
                PARTITION BY auction ORDER BY step RANGE BETWEEN CURRENT ROW AND $further FOLLOWING
            )::BIGINT AS bids
            FROM combined
        ), busiest AS (
            SELECT auction, max(bids) AS bids, arg_max(step, (bids, -step)) AS step FROM windows GROUP BY auction
        )
        SELECT auction, item, category, bids, make_timestamptz(step * $step_us) AS start,
               make_timestamptz((step + $further + 1) * $step_us) AS "end"
        FROM busiest LEFT JOIN auctions ON auctions.id = busiest.auction
        ORDER BY bids DESC, auction LIMIT $top
        """,
        further=-(-window_minutes // step_minutes) - 1,
        step_us=step_minutes * 60_000_000,
        top=top,
    )
