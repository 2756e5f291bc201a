"""A job over a lake table, as a user types it: the second run computes what the table got since, its manifest names the version, its result is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog import load_catalog

from acceptance.command import hindscan, same_rows

SETTINGS = """
[iceberg.shop]
type = "sql"
uri = "${SHOP}"
warehouse = "${LAKE}"

[copies]
totals = ["reports/totals", { iceberg = "shop.reports.totals", mode = "replace" }, { delta = "lake/totals" }]

[history.bids]
iceberg = "shop.auctions.bids"
time = "date_time"
"""
TOTALS = """-- Bids by auction.
--
-- /// job
-- history = "bids"
-- ///

-- name: slice
SELECT auction, count(*) AS bids, sum(price)::BIGINT AS total FROM bids GROUP BY auction ORDER BY auction

-- name: combine
SELECT auction, sum(bids)::BIGINT AS bids, sum(total)::BIGINT AS total FROM partials GROUP BY auction ORDER BY auction
"""


def bids(first: int, count: int) -> pa.Table:
    numbers = range(first, first + count)
    return pa.table(
        {
            "auction": pa.array([n % 7 for n in numbers], pa.int64()),
            "price": pa.array(numbers, pa.int64()),
            "date_time": pa.array([n * 1_000_000 for n in numbers], pa.timestamp("us", "UTC")),
        }
    )


def test_a_table_that_grew_computes_its_new_files_only(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/totals.sql").write_text(TOTALS)
    (tmp_path / "hindscan.toml").write_text(SETTINGS)
    where = {"SHOP": f"sqlite:///{tmp_path}/shop.db", "LAKE": f"file://{tmp_path}/lake"}
    catalog = load_catalog("shop", type="sql", uri=where["SHOP"], warehouse=where["LAKE"])
    catalog.create_namespace("auctions")
    table = catalog.create_table("auctions.bids", schema=bids(0, 1).schema)
    for first in (0, 100, 200):
        table.append(bids(first, 100))
    first = hindscan("run", "totals", "--json", project=tmp_path, **where).document
    assert first["slices"] == {"total": 3, "reused": 0, "computed": 3}
    table.append(bids(300, 50))
    grown = hindscan("run", "totals", "--json", project=tmp_path, **where).document
    assert grown["slices"] == {"total": 4, "reused": 3, "computed": 1}
    rows = table.scan().to_arrow()
    with duckdb.connect() as database:
        query = (
            "SELECT auction, count(*) AS bids, sum(price)::BIGINT AS total FROM rows GROUP BY auction ORDER BY auction"
        )
        oracle = database.register("rows", rows).sql(query).to_arrow_table()
    same_rows(pq.read_table(grown["result"]["path"]), oracle)
    [pin] = json.loads(Path(grown["manifest"]).read_text())["snapshot"]
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert pin["source"] == "shop.auctions.bids"
    assert pin["source_id"] == f"iceberg snapshot {snapshot.snapshot_id} of {table.metadata.table_uuid}"
    # Each run's result lies where it is published to, and the newest is named.
    latest = json.loads((tmp_path / "reports/totals/latest.json").read_text())
    assert latest["run"] == grown["run"]
    same_rows(pq.read_table(tmp_path / "reports/totals" / latest["result"]), oracle)
    assert (tmp_path / "reports/totals" / first["run"] / "manifest.json").is_file()
    # And in tables: the newest result in one, those of both runs in the other.
    same_rows(catalog.load_table("reports.totals").scan().to_arrow().cast(oracle.schema), oracle)
    both: Any = deltalake.DeltaTable(tmp_path / "lake/totals").to_pyarrow_table()
    assert both.num_rows == 2 * oracle.num_rows
    assert sum(both["bids"].to_pylist()) == 300 + 350
    listed = hindscan("histories", project=tmp_path, **where).out
    assert "iceberg" in listed


def test_many_small_files_and_a_large_one_are_few_tasks_and_every_row(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/totals.sql").write_text(TOTALS)
    (tmp_path / "hindscan.toml").write_text('[history.bids]\nparquet = "bids"\ntime = "date_time"\nslice_rows = 1000\n')
    (tmp_path / "bids").mkdir()
    small, large = bids(0, 5), bids(5, 10_000)
    pq.write_table(small, tmp_path / "bids/small-0.parquet")
    for number in range(1, 100):
        (tmp_path / f"bids/small-{number}.parquet").hardlink_to(tmp_path / "bids/small-0.parquet")
    pq.write_table(large, tmp_path / "bids/large.parquet", row_group_size=1000)
    planned = hindscan("plan", "totals", "--json", project=tmp_path).document
    # A small file is one slice, a large one is cut by its row groups.
    assert planned["slices"] == 110
    assert planned["tasks"] < planned["slices"] / 5
    done = hindscan("run", "totals", "--json", project=tmp_path).document
    assert done["slices"]["computed"] == 110
    with duckdb.connect() as database:
        oracle = database.sql(
            f"SELECT auction, count(*) AS bids, sum(price)::BIGINT AS total FROM '{tmp_path}/bids/*.parquet' GROUP BY auction ORDER BY auction"
        ).to_arrow_table()
    same_rows(pq.read_table(done["result"]["path"]), oracle)
    assert sum(oracle["bids"].to_pylist()) == 100 * 5 + 10_000
