"""A project of three files: a Parquet history of a few rows, one job in SQL, triggers. Its oracle is arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hindscan.config import Project
from hindscan.config_file import load_project

JOB = """-- /// job
-- history = "bids"
-- [parameters]
-- category = { type = "str" }
-- ///

-- name: slice
SELECT sum(price)::BIGINT AS total FROM bids WHERE category = $category

-- name: combine
SELECT sum(total)::BIGINT AS total FROM partials
"""
FILE = """
[history.bids]
parquet = "bids"
time = "at"
[triggers.scan]
on = {on}
start = "earliest"
filter = {{ exact = {{ type = "closed" }} }}
job = "total"
parameters = {{ category = "data.category" }}
{more}
"""


def day(number: int) -> datetime:
    return datetime(2018, 1, number, tzinfo=UTC)


def add_bids(root: Path, name: str, rows: Sequence[tuple[int, int]]) -> None:
    """Write one more file of bids on cars: (day of January 2018, price)."""
    (root / "bids").mkdir(exist_ok=True)
    table = pa.table(
        {
            "at": pa.array([day(number) for number, _ in rows], pa.timestamp("us", "UTC")),
            "price": pa.array([price for _, price in rows], pa.int64()),
            "category": ["cars"] * len(rows),
        }
    )
    pq.write_table(table, root / "bids" / f"{name}.parquet")


def small_project(root: Path, *, on: str = '"http"', more: str = "", **env: str) -> Project:
    """Make a project whose trigger `scan` sums the bids of a category before an event of type `closed`."""
    if not (root / "bids").exists():
        add_bids(root, "first", [(1, 1), (5, 10), (9, 100)])
    (root / "jobs").mkdir(exist_ok=True)
    (root / "jobs" / "total.sql").write_text(JOB)
    (root / "hindscan.toml").write_text(FILE.format(on=on, more=more))
    return load_project(root, env)


def closing(id: str, on_day: int = 8, **changes: Any) -> dict[str, Any]:
    """Build an event of the auction site, in the JSON format."""
    return {
        "specversion": "1.0", "id": id, "source": "/auctions", "type": "closed", "time": day(on_day).isoformat().replace("+00:00", "Z"),
        "data": {"category": "cars"},
    } | changes  # fmt: skip
