"""A job in SQL as a user types it: what DuckDB says over the same files, reused by what its statements mean and name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from acceptance.command import hindscan, same_rows

RUN = ("run", "closing_price_by_category", "--json")


def oracle(data: Path, least: int = 1) -> pa.Table:
    with duckdb.connect() as connection:
        return connection.sql(
            f"""
            WITH closed AS (
                SELECT auction, max(price) AS price FROM read_parquet('{data}/bids/**/*.parquet', hive_partitioning = false) GROUP BY auction
            )
            SELECT category, count(*) AS auctions, avg(price) AS average, max(price) AS top
            FROM closed JOIN read_parquet('{data}/auctions/*.parquet') AS a ON a.id = closed.auction
            GROUP BY category HAVING count(*) >= {least} ORDER BY category
            """
        ).to_arrow_table()


def edited(project: Path, old: str, new: str) -> Any:
    file = project / "jobs" / "closing_price_by_category.sql"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return hindscan(*RUN, project=project).document


def test_a_sql_job_gives_what_duckdb_computes_and_recomputes_what_an_edit_means(sample: Path) -> None:
    first = hindscan(*RUN, project=sample).document
    total = first["slices"]["total"]
    assert first["slices"] == {"total": total, "reused": 0, "computed": total}
    assert total > 10
    same_rows(pq.read_table(first["result"]["path"]), oracle(sample / "data"))
    assert Path(first["manifest"]).is_file()
    # A parameter that only `finish` names, layout, comments, the whole of finish: no slice is computed.
    other = hindscan(*RUN, "-p", "least_auctions=400", project=sample).document
    assert other["slices"]["computed"] == 0
    same_rows(pq.read_table(other["result"]["path"]), oracle(sample / "data", 400))
    assert 0 < other["result"]["rows"] < first["result"]["rows"]
    assert edited(sample, "FROM bids\n", "from  bids -- all of them\n")["slices"]["computed"] == 0
    reordered = edited(sample, "ORDER BY category", "ORDER BY average DESC")
    assert reordered["slices"]["computed"] == 0
    assert reordered["result"]["digest"] != first["result"]["digest"]
    # A table that only `finish` reads may change: no slice is computed, and the result is another.
    file = next((sample / "data" / "auctions").glob("*.parquet"))
    auctions = pq.read_table(file)
    pq.write_table(auctions.slice(0, auctions.num_rows // 2), file)
    halved = hindscan(*RUN, project=sample).document
    assert halved["slices"]["computed"] == 0
    assert halved["result"]["digest"] != reordered["result"]["digest"]
    # Another slice is another slice.
    changed = edited(sample, "SELECT auction, max(price) AS price\nfrom", "SELECT auction, min(price) AS price\nfrom")
    assert changed["slices"]["computed"] == total


def test_check_and_the_command_line_know_a_sql_job_like_any_other(sample: Path) -> None:
    (listed,) = [one for one in hindscan("jobs", "--json", project=sample).document["jobs"] if one["job"] == RUN[1]]
    assert listed["file"] == "jobs/closing_price_by_category.sql"
    checked = hindscan("check", RUN[1], "--json", project=sample).document
    assert set(checked["cuts"]) == {"1", "2", "7"}
    wrong = hindscan("run", RUN[1], "-p", "least_auctions=0", project=sample, check=2)
    assert "least_auctions" in wrong.err
    (sample / "jobs" / "leaky.sql").write_text(
        "-- /// job\n-- history = 'bids'\n-- ///\nSELECT *\nFROM 'data/x.parquet'\n"
    )
    refused = hindscan("plan", "leaky", project=sample, check=None)
    assert refused.code != 0
    assert "jobs/leaky.sql" in refused.err
    assert "line 5, column 6" in refused.err
