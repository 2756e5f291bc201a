"""Results in lake tables: every run's rows once, whatever dies or meets another on the way; read back by the libraries' own scans and DuckDB."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog

from hindscan import files
from hindscan.errors import SchemaMismatch, ServiceUnavailable
from hindscan.history.delta_target import DeltaTarget
from hindscan.history.iceberg_target import IcebergTarget
from hindscan.history.lake_target import Mode, Rows, TableTarget

Made = Callable[[Mode], TableTarget]


def catalog(folder: Path) -> dict[str, str]:
    return {"type": "sql", "uri": f"sqlite:///{folder}/shop.db", "warehouse": f"file://{folder}/lake"}


@pytest.fixture(params=["iceberg", "delta"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    def made(mode: Mode) -> TableTarget:
        if request.param == "iceberg":
            return IcebergTarget(declared="shop.reports.totals", catalog=catalog(tmp_path), mode=mode, stores={})
        return DeltaTarget(declared="totals", place=files.place(tmp_path / "totals"), mode=mode, stores={})

    return made


def told(to: TableTarget, folder: Path) -> list[tuple[Any, ...]]:
    """Give all rows of a table, as its library reads them."""
    if isinstance(to, IcebergTarget):
        table = load_catalog("shop", **catalog(folder)).load_table("reports.totals").scan().to_arrow()
    else:
        opened: Any = deltalake.DeltaTable(str(folder / "totals")).to_pyarrow_table()
        table = opened
    with duckdb.connect() as database:
        found = database.register("rows", table).sql("select * from rows order by all").to_arrow_table()
    return [tuple(row.values()) for row in found.to_pylist()]


def rows(run: str, *prices: int | None, kind: pa.DataType | None = None) -> Rows:
    table = pa.table({"run": [run] * len(prices), "price": pa.array(prices, kind or pa.int64())})
    return Rows(job="totals", run=run, digest=f"d-{run}", table=table)


def test_rows_of_every_run_are_added_once(target: Made, tmp_path: Path) -> None:
    to = target("append")
    assert [
        to.add(rows(run, *prices)) for run, prices in (("r2", (1, 2)), ("r1", (3,)), ("r2", (1, 2)), ("r3", ()))
    ] == [
        True,
        True,
        False,
        True,
    ]
    assert to.add(rows("r3")) is False
    assert told(to, tmp_path) == [("r1", 3), ("r2", 1), ("r2", 2)]


def test_a_newer_run_replaces_all_rows_and_an_older_one_none(target: Made, tmp_path: Path) -> None:
    to = target("replace")
    assert [to.add(rows(run, price)) for run, price in (("r1", 1), ("r3", 3), ("r2", 2), ("r1", 1), ("r3", 3))] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert told(to, tmp_path) == [("r3", 3)]


def test_types_of_all_results_come_back_as_they_were(target: Made, tmp_path: Path) -> None:
    to = target("append")
    at = dt.datetime(2018, 1, 31, 12, tzinfo=dt.UTC)
    table = pa.table(
        {
            "run": pa.array(["r1"]).dictionary_encode(),
            "price": pa.array([7], pa.int32()),
            "at": pa.array([at], pa.timestamp("us", "UTC")),
            "share": pa.array([0.1]),
            "ids": pa.array([[1, None]], pa.list_(pa.int64())),
            "day": pa.array([at.date()]),
        }
    )
    to.add(Rows(job="totals", run="r1", digest="d", table=table))
    [[run, price, read_at, share, ids, day]] = told(to, tmp_path)
    assert (run, price, share, ids, day) == ("r1", 7, 0.1, [1, None], at.date())
    assert read_at.astimezone(dt.UTC) == at


def test_a_table_that_is_made_for_a_result_holds_it_whatever_its_types(target: Made, tmp_path: Path) -> None:
    to = target("append")
    # Types that no table has, each with its greatest value.
    columns: dict[str, Any] = {
        "u8": pa.array([2**8 - 1], pa.uint8()),
        "u16": pa.array([2**16 - 1], pa.uint16()),
        "u32": pa.array([2**32 - 1], pa.uint32()),
        "u64": pa.array([2**64 - 1], pa.uint64()),
        "half": pa.array([65504.0], pa.float16()),
        "day": pa.array([dt.date(2018, 1, 31)], pa.date64()),
        "cents": pa.array([Decimal("999.99")], pa.decimal32(5, 2)),
        "code": pa.array([b"abc"], pa.binary(3)),
        "pair": pa.array([[1, 2]], pa.list_(pa.uint8(), 2)),
        "bytes": pa.array([[-128, None]], pa.list_(pa.int8())),
        "inner": pa.array([{"ids": [2**32 - 1]}], pa.struct([("ids", pa.list_(pa.uint32()))])),
    }
    for run in ("r1", "r2"):
        to.add(Rows(job="totals", run=run, digest="d", table=pa.table({"run": [run], **columns})))
    values = tuple(column[0].as_py() for column in columns.values())
    assert told(to, tmp_path) == [("r1", *values), ("r2", *values)]


def test_columns_that_do_not_fit_are_all_refused_by_name_and_nothing_is_written(target: Made, tmp_path: Path) -> None:
    to = target("append")
    to.add(rows("r1", 1))
    assert to.add(rows("r2", 2, kind=pa.int32())) is True  # every value of 32 bits is one of 64
    turned = pa.table({"price": pa.array([3], pa.int64()), "run": ["r3"]})
    assert to.add(Rows(job="totals", run="r3", digest="d", table=turned)) is True
    before = told(to, tmp_path)
    other = pa.table({"price": ["dear"], "more": [1]})
    with pytest.raises(SchemaMismatch) as caught:
        to.add(Rows(job="totals", run="r4", digest="d", table=other))
    assert sorted(caught.value.details["faults"]) == [  # type: ignore[call-overload]
        "column 'price' is string, in the table int64",
        "the result has no column 'run'",
        "the table has no column 'more'",
    ]
    assert told(to, tmp_path) == before == [("r1", 1), ("r2", 2), ("r3", 3)]


def test_owners_of_one_run_and_other_runs_at_once_lose_and_double_nothing(target: Made, tmp_path: Path) -> None:
    to = target("append")
    to.add(rows("r0", 0))
    ready, done = threading.Barrier(4), []

    def add(run: str) -> None:
        ready.wait(60)
        done.append((run, to.add(rows(run, 1))))

    threads = [threading.Thread(target=add, args=(run,)) for run in ("r1", "r1", "r2", "r3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(done) == [("r1", False), ("r1", True), ("r2", True), ("r3", True)]
    assert told(to, tmp_path) == [("r0", 0), ("r1", 1), ("r2", 1), ("r3", 1)]


COMMITTED = {"IcebergTarget": "iceberg.committed", "DeltaTarget": "delta.committed"}
DIES = """
import pickle, sys
to, rows = pickle.load(sys.stdin.buffer)
to.add(rows)
"""


def test_a_run_that_died_after_its_commit_is_found_in_the_table(target: Made, tmp_path: Path) -> None:
    import pickle

    to = target("append")
    died = subprocess.run(
        [sys.executable, "-c", DIES],
        input=pickle.dumps((to, rows("r1", 1))),
        env={**os.environ, "HINDSCAN_FAULT": COMMITTED[type(to).__name__]},
        capture_output=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert told(to, tmp_path) == [("r1", 1)]
    assert to.add(rows("r1", 1)) is False
    assert told(to, tmp_path) == [("r1", 1)]


def test_a_commit_names_its_run_job_and_digest(target: Made, tmp_path: Path) -> None:
    to = target("append")
    to.add(rows("r1", 1))
    if isinstance(to, IcebergTarget):
        snapshot = load_catalog("shop", **catalog(tmp_path)).load_table("reports.totals").current_snapshot()
        assert snapshot is not None
        assert snapshot.summary is not None
        said: Any = snapshot.summary.additional_properties
    else:
        said = deltalake.DeltaTable(str(tmp_path / "totals")).history(1)[0]
    assert {name: said[f"hindscan.{name}"] for name in ("run", "job", "digest")} == {
        "run": "r1",
        "job": "totals",
        "digest": "d-r1",
    }


def test_a_table_that_cannot_be_written_to_is_an_error_worth_a_retry(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    to = DeltaTarget(declared="file/t", place=files.place(tmp_path / "file/t"), mode="append", stores={})
    with pytest.raises(ServiceUnavailable, match="hindscan retry r1"):
        to.add(rows("r1", 1))
    gone = {"type": "sql", "uri": f"sqlite:///{tmp_path}/file/shop.db"}
    with pytest.raises(ServiceUnavailable, match=r"\[iceberg.shop\]"):
        IcebergTarget(declared="shop.a.b", catalog=gone, mode="append", stores={}).add(rows("r1", 1))


def test_a_column_without_a_type_makes_no_iceberg_table(tmp_path: Path) -> None:
    to = IcebergTarget(declared="shop.reports.totals", catalog=catalog(tmp_path), mode="append", stores={})
    with pytest.raises(SchemaMismatch, match=r"price.*Give the job's result other types"):
        to.add(rows("r1", None, kind=pa.null()))
    to.add(rows("r1", 1))
    to.add(rows("r2", None, kind=pa.null()))  # where there is a table its column has one
    assert told(to, tmp_path) == [("r1", 1), ("r2", None)]


def test_a_type_that_no_table_has_is_refused_before_one_is_made(target: Made, tmp_path: Path) -> None:
    table = pa.table({"half": pa.array([1], pa.duration("s"))})
    with pytest.raises(SchemaMismatch, match="Give the job's result other types"):
        target("append").add(Rows(job="totals", run="r1", digest="d", table=table))
    assert not (tmp_path / "totals").exists()
