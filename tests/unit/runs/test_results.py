"""A result is visible whole or not at all, and published once (promises 4 and 9)."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hindscan.data import Proof
from hindscan.errors import ConfigError, CorruptData, NotFound, ServiceUnavailable, UsageError
from hindscan.history.snapshot import DrawPin, DrawSlice, KafkaSlice, ParquetSlice, Snapshot, Window
from hindscan.runs import results
from hindscan.runs.digest import table_digest
from hindscan.runs.manifest import Manifest
from hindscan.runs.results import latest, list_results, publish, read_manifest
from hindscan.runs.slices import SliceRecord, read_snapshot

TABLE = pa.table({"bidder": [1, 2], "name": ["a", None], "price": [0.5, float("nan")]})
SNAPSHOT = Snapshot(pins={"draws": DrawPin(draws=10, seed=2**60, block_size=3)}, window=Window(as_of=5), pinned_at=7)
SLICES = [
    SliceRecord(
        stage="slice",
        slice=KafkaSlice(position=0, partition=3, start=5, end=20, rows=15, bytes=150, before=1_000_000),
        key="a" * 32,
        reused=False,
        digest="xxh3:1",
        seconds=0.25,
        proof=Proof(
            slice=0,
            records=9,
            bytes=90,
            first_offset=6,
            last_offset=18,
            invisible=6,
            set_aside=1,
            bad_records=("p3@7",),
            greatest_time=3,
            digest="d",
            unverified="mock",
        ),
    ),
    SliceRecord(
        stage="slice",
        slice=ParquetSlice(position=1, path="a.parquet", size=9, identity="etag:x", first=2, last=4, rows=7, bytes=70),
        key="b" * 32,
        reused=True,
    ),
    SliceRecord(stage="slice", slice=DrawSlice(position=2, start=0, end=10), key="c" * 32, reused=False),
]


def published(root: Path, run: str = "r1", job: str = "scan", **changes: Any) -> results.Published:
    values: dict[str, Any] = {"table": TABLE, "snapshot": SNAPSHOT, "slices": SLICES}
    manifest = changes.pop("manifest", Manifest(run=run, job=job, parameters={"year": 2018}, seconds=1.5))
    return publish(root, manifest=manifest, **values | changes)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_result_lies_where_the_design_says(tmp_path: Path) -> None:
    done = published(tmp_path, charts={"chart.vl.json": b"{}"})
    assert done.new
    assert done.folder == tmp_path / "results" / "scan" / "r1"
    assert names(tmp_path) == [
        f"results/scan/r1/{name}" for name in ("chart.vl.json", "manifest.json", "result.parquet", "snapshot.parquet")
    ]
    assert table_digest(pq.read_table(done.folder / "result.parquet")) == table_digest(TABLE)


def test_the_manifest_tells_table_versions_and_snapshot(tmp_path: Path) -> None:
    done = published(tmp_path, charts={"chart.vl.json": b"{}"})
    manifest = read_manifest(done.folder)
    assert manifest == done.manifest
    assert manifest.result.path == "results/scan/r1/result.parquet"
    assert (manifest.result.rows, manifest.result.digest) == (2, table_digest(TABLE))
    assert manifest.result.bytes == (done.folder / "result.parquet").stat().st_size
    assert manifest.result.columns == ("bidder: int64", "name: string", "price: double")
    assert manifest.versions["pyarrow"] == pa.__version__
    assert manifest.hindscan
    assert manifest.charts == ("chart.vl.json",)
    assert [one.kind for one in manifest.snapshot] == ["draws"]
    assert read_snapshot(done.folder) == SNAPSHOT


def test_the_slices_are_rows_with_bounds_and_proofs(tmp_path: Path) -> None:
    done = published(tmp_path)
    rows = pq.read_table(done.folder / "snapshot.parquet").to_pylist()
    assert [row["kind"] for row in rows] == ["kafka", "parquet", "draws"]
    kafka, parquet, draws = ({name: value for name, value in row.items() if value is not None} for row in rows)
    assert {
        name: kafka[name]
        for name in (
            "position",
            "partition",
            "start",
            "end",
            "records",
            "read_bytes",
            "first_offset",
            "last_offset",
            "invisible",
            "set_aside",
            "bad_records",
            "unverified",
            "read_digest",
            "seconds",
            "reused",
        )
    } == {
        "position": 0,
        "partition": 3,
        "start": 5,
        "end": 20,
        "records": 9,
        "read_bytes": 90,
        "first_offset": 6,
        "last_offset": 18,
        "invisible": 6,
        "set_aside": 1,
        "bad_records": ["p3@7"],
        "unverified": "mock",
        "read_digest": "d",
        "seconds": 0.25,
        "reused": False,
    }
    assert (kafka["before"].timestamp(), kafka["greatest_time"].timestamp()) == (1.0, 3e-6)
    assert (parquet["path"], parquet["first"], parquet["last"], parquet["identity"], parquet["reused"]) == (
        "a.parquet",
        2,
        4,
        "etag:x",
        True,
    )
    assert "records" not in parquet
    assert (draws["start"], draws["end"], draws["rows"]) == (0, 10, 10)
    assert duckdb.sql(f"SELECT count(*), sum(rows) FROM '{done.folder}/snapshot.parquet'").fetchall() == [(3, 32)]


def test_the_table_has_page_checksums(tmp_path: Path) -> None:
    # In a file without them a flipped byte is read as data.
    table = pa.table({"n": range(1000)})
    path = published(tmp_path, table=table).folder / "result.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"CRC|checksum|corrupt|Corrupt"):
        pq.read_table(path, page_checksum_verification=True)


def test_a_second_publication_changes_nothing(tmp_path: Path) -> None:
    first = published(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    second = published(tmp_path, table=TABLE.slice(1), manifest=Manifest(run="r1", job="scan", attempt=2))
    assert (second.new, second.manifest, second.folder) == (False, first.manifest, first.folder)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_an_owner_that_slept_while_another_published_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other one publishes after this one has looked and written all its files: only the rename can tell.
    def meanwhile(name: str) -> None:
        if name == "results.manifest_written":
            monkeypatch.setattr(results, "point", lambda _: None)
            assert published(tmp_path).new

    monkeypatch.setattr(results, "point", meanwhile)
    late = published(tmp_path, table=TABLE.slice(1))
    assert not late.new
    assert late.manifest.result.rows == 2
    assert pq.read_table(late.folder / "result.parquet").num_rows == 2
    assert list((tmp_path / "attempts").iterdir()) == []


def test_of_many_at_once_one_publishes(tmp_path: Path) -> None:
    barrier = threading.Barrier(6)
    won: list[bool] = []

    def work(number: int) -> None:
        barrier.wait()
        won.append(published(tmp_path, table=pa.table({"n": [number]})).new)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]
    folder = tmp_path / "results" / "scan" / "r1"
    assert table_digest(pq.read_table(folder / "result.parquet")) == read_manifest(folder).result.digest


def test_what_an_attempt_left_is_swept_when_it_is_old(tmp_path: Path) -> None:
    for name, age in (("dead-1", 200_000), ("slow-2", 10)):
        (tmp_path / "attempts" / name).mkdir(parents=True)
        (tmp_path / "attempts" / name / "result.parquet").write_bytes(b"half")
        os.utime(tmp_path / "attempts" / name, (time.time() - age,) * 2)
    published(tmp_path)
    assert [path.name for path in (tmp_path / "attempts").iterdir()] == ["slow-2"]


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        published(tmp_path, charts={"chart.vl.json": object()})
    assert names(tmp_path) == []


def test_results_are_listed_newest_first(tmp_path: Path) -> None:
    for run, job in (("01a", "scan"), ("01c", "other"), ("01b", "scan")):
        published(tmp_path, run, job)
    (tmp_path / "results" / "scan" / "01z").mkdir()
    assert [folder.name for folder in list_results(tmp_path)] == ["01c", "01b", "01a"]
    assert [folder.name for folder in list_results(tmp_path, "scan")] == ["01b", "01a"]
    assert latest(tmp_path, "scan") == tmp_path / "results" / "scan" / "01b"
    assert latest(tmp_path, "never_run") is None
    assert list_results(tmp_path / "nowhere") == []


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", "", "a b", "/etc"])
def test_a_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="names must be"):
        published(tmp_path, run=name)
    with pytest.raises(UsageError, match="names must be"):
        latest(tmp_path, name)


def test_an_object_store_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="s3://"):
        list_results("s3://bucket/prefix")


def test_a_result_that_is_not_there_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is none in"):
        read_manifest(tmp_path / "results" / "scan" / "r1")
    folder = published(tmp_path).folder
    content = json.loads((folder / "manifest.json").read_text())
    for damage in (
        "{",
        "[]",
        json.dumps(content | {"as_of": "soon"}),
        json.dumps(content | {"parameters": 5}),
        json.dumps(content | {"slices": 1}),
    ):
        (folder / "manifest.json").write_text(damage)
        with pytest.raises(CorruptData, match=r"manifest\.json"):
            read_manifest(folder)


def test_a_manifest_of_a_later_release_is_read_by_what_is_known(tmp_path: Path) -> None:
    folder = published(tmp_path).folder
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | {"added_later": {"x": 1}}))
    assert read_manifest(folder).run == "r1"


def test_a_folder_that_takes_no_result_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("no folder")
    with pytest.raises(ServiceUnavailable, match=r"While publishing run r1: .*\[store\].artefacts.*retry the run"):
        published(tmp_path)
    assert names(tmp_path) == ["results"]
