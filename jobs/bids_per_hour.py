"""Dask code as a job: how many bids each hour of the day brings, and at what prices."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

import hindscan as hs

Category = Annotated[str, msgspec.Meta(description="Which category; empty: all.")]


@hs.job(history="bids", whole=True)
def bids_per_hour(bids: hs.Whole, category: Category = "") -> Any:
    """Bids of each hour of the day, in UTC: how many, their average and their highest price in cents.

    One row per hour with bids. The function gets the history as a whole and is called once; each slice is a partition of the data frame.
    """
    frame = bids.dask()  # only the columns that are needed are read
    if category:
        frame = frame[frame["category"] == category]
    frame["hour"] = frame["date_time"].dt.hour.astype("int64")
    hours = frame.groupby("hour")["price"].agg(["count", "mean", "max"])
    return hours.rename(columns={"count": "bids", "mean": "average", "max": "top"}).reset_index().sort_values("hour")
