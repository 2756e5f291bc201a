"""How bidders come and go: a session is a run of bids of one bidder, none of them long after the one before."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

import hindscan as hs

Minutes = Annotated[int, msgspec.Meta(ge=1, description="A pause longer than this ends a session.")]


def nobody() -> pa.Table:
    """Sessions that may go on, one row per bidder at most. Those that a pause has ended are not kept."""
    at = pa.timestamp("us", "UTC")
    return pa.schema({"bidder": pa.int64(), "bids": pa.int64(), "first": at, "last": at}).empty_table()


@hs.job(history="bids", order="partition", state=nobody)
def bidder_sessions(
    bids: hs.Data,
    state: hs.Data,  # noqa: ARG001 (the query names it)
    gap_minutes: Minutes = 30,
) -> tuple[pa.Table, pa.Table]:
    """Sessions of every bidder: how many, how many bids, the longest in seconds.

    One row per bidder, ordered by bidder. The history must have all bids of a bidder in one partition, in the order of time: files do, and a topic
    whose key is the bidder; of a topic whose key is the auction this would be the sessions within each partition.
    """
    sessions = bids.sql(
        """
        WITH bid AS (
            SELECT bidder, bids, first, last FROM state
            UNION ALL SELECT bidder, 1 AS bids, date_time AS first, date_time AS last FROM bids
        ), numbered AS (
            -- Bids of the same moment are peers and get the same number.
            SELECT *, sum(CASE WHEN first - before <= to_minutes($gap) THEN 0 ELSE 1 END) OVER in_order AS session
            FROM (SELECT *, lag(last) OVER in_order AS before FROM bid WINDOW in_order AS (PARTITION BY bidder ORDER BY first))
            WINDOW in_order AS (PARTITION BY bidder ORDER BY first)
        )
        SELECT bidder, sum(bids)::BIGINT AS bids, min(first) AS first, max(last) AS last,
               max(last) + to_minutes($gap) >= (SELECT max(last) FROM bid) AS is_open
        FROM numbered GROUP BY bidder, session ORDER BY bidder, first
        """,
        gap=gap_minutes,
    )
    going_on = sessions.filter(sessions["is_open"]).drop(["is_open"])
    return ended(sessions.filter(pc.invert(sessions["is_open"]))), going_on


def ended(sessions: pa.Table) -> pa.Table:
    """Give one row per bidder."""
    seconds = pc.cast(pc.subtract(sessions["last"], sessions["first"]), pa.int64())
    grouped = sessions.append_column("longest", seconds).group_by("bidder", use_threads=False)
    sums = grouped.aggregate([("first", "count"), ("bids", "sum"), ("longest", "max")])
    return sums.rename_columns(["bidder", "sessions", "bids", "longest"])


@bidder_sessions.close
def still_open(state: hs.Data) -> pa.Table:
    """Count the sessions that no later bid will go on with."""
    return ended(state.arrow())


@bidder_sessions.combine
def merge(partials: hs.Data) -> pa.Table:
    """Add up the same bidder."""
    return partials.sql(
        "SELECT bidder, sum(sessions)::BIGINT AS sessions, sum(bids)::BIGINT AS bids, max(longest) AS longest "
        "FROM partials GROUP BY ALL ORDER BY bidder"
    )


@bidder_sessions.finish
def per_bidder(combined: hs.Data) -> pa.Table:
    """Order by bidder, seconds instead of microseconds."""
    return combined.sql("SELECT * REPLACE (longest // 1000000 AS longest) FROM combined ORDER BY bidder")
