"""The command as a user types it, and DuckDB as the oracle."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import duckdb

from nursery import start

if TYPE_CHECKING:
    import pyarrow as pa

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Answer:
    """What one command printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def hindscan(*arguments: str, project: Path, check: int | None = 0, timeout: float = 110, **env: str) -> Answer:
    """Type a command, from a folder that is not the project's."""
    typed = (*arguments, "--project", str(project))
    with Path(os.devnull).open() as nothing, TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        streams = (nothing.fileno(), out.fileno(), err.fileno())
        process = start(*typed, cwd=Path(sys.executable).parent, env={**os.environ, **env}, streams=streams)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        err.seek(0)
        answer = Answer(code, out.read(), err.read())
    assert check is None or answer.code == check, f"{typed} gave {answer.code}\n{answer.out}\n{answer.err}"
    return answer


def bidder_scan_oracle(data: Path, category: str = "cars", year: int = 2018) -> pa.Table:
    """Compute what `bidder_scan` must give, by another engine over the same files."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.sql(
            f"""
            SELECT bidder, count(*)::BIGINT AS bids, count(DISTINCT auction)::BIGINT AS auctions, sum(price)::BIGINT AS total,
                   max(price)::BIGINT AS top, min(date_time) AS first, max(date_time) AS last
            FROM read_parquet('{data}/bids/**/*.parquet', hive_partitioning = false)
            WHERE category = $category AND date_time >= make_timestamp($year, 1, 1, 0, 0, 0) AND date_time < make_timestamp($year + 1, 1, 1, 0, 0, 0)
            GROUP BY bidder ORDER BY bidder
            """,
            params={"category": category, "year": year},
        ).to_arrow_table()


def same_rows(found: pa.Table, wanted: pa.Table) -> None:
    """Compare row for row, column for column."""
    assert found.column_names == wanted.column_names
    assert found.num_rows == wanted.num_rows
    assert found.to_pylist() == wanted.to_pylist()
