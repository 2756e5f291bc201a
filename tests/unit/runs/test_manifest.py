"""Manifests say the same in the file as in Python, stay small, and are one table over all runs and jobs (promise 9)."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindscan.history.snapshot import DrawPin, FilePin, KafkaPin, ParquetPin, PartitionPin, RowGroup, Snapshot, Window
from hindscan.runs.manifest import (
    MOST_BYTES,
    Manifest,
    PinSummary,
    ResultFile,
    SliceCounts,
    Usage,
    decode_manifest,
    encode_manifest,
    summary_of,
    versions,
)

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_DOCUMENTS = st.dictionaries(st.text(max_size=8), _JSON, max_size=4)
_MICROS = st.none() | st.integers(-(10**15), 4 * 10**15)
_TEXTS = st.text(max_size=10)

MANIFESTS = st.builds(
    Manifest,
    run=st.just("r"),
    job=st.just("j"),
    attempt=st.integers(1, 9),
    parameters=_DOCUMENTS,
    event=_DOCUMENTS,
    as_of=_MICROS,
    since=_MICROS,
    until=_MICROS,
    pinned_at=_MICROS,
    started_at=_MICROS,
    finished_at=_MICROS,
    repeatable_until=_MICROS,
    seconds=st.floats(0, 1e6),
    caveats=st.lists(_TEXTS, max_size=2).map(tuple),
    usage=st.builds(Usage, cpu_seconds=st.floats(0, 1e6), bytes=st.integers(0, 2**62)),
    slices=st.builds(SliceCounts, total=st.integers(0, 9)),
    result=st.builds(ResultFile, rows=st.integers(0, 9), columns=st.lists(_TEXTS, max_size=2).map(tuple)),
    snapshot=st.lists(st.builds(PinSummary, table=_TEXTS, kind=_TEXTS), max_size=2).map(tuple),
)


@given(manifest=MANIFESTS)
@settings(max_examples=150)
def test_what_is_read_is_what_was_written(manifest: Manifest) -> None:
    assert decode_manifest(encode_manifest(manifest)) == manifest


def test_the_file_has_no_null_and_the_same_fields_whatever_is_known() -> None:
    def shape(value: Any) -> Any:
        assert value is not None
        if isinstance(value, dict):
            return {name: shape(item) for name, item in value.items()}
        return "list" if isinstance(value, list) else type(value).__name__

    bare = json.loads(encode_manifest(Manifest(run="r", job="j")))
    full = Manifest(
        run="r",
        job="j",
        parameters={"a": 1},
        event={"id": "e"},
        as_of=5,
        seconds=2,
        usage=Usage(cpu_seconds=1),
        seed="7",
        versions=versions(),
    )
    rich = json.loads(encode_manifest(full))
    assert shape(bare) | {"versions": {}} == shape(rich) | {"versions": {}}


def write(folder: Path, **fields: Any) -> None:
    manifest = Manifest(**{"started_at": 10**15, "finished_at": 10**15 + 1, "versions": versions()} | fields)
    path = folder / "results" / manifest.job / manifest.run / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(encode_manifest(manifest))


def test_all_manifests_are_one_table_whatever_the_jobs_are(tmp_path: Path) -> None:
    # More of one kind than DuckDB looks at (32) before another kind comes: nothing may be lost or break the query.
    for number in range(40):
        write(
            tmp_path,
            run=f"r{number:03d}",
            job="a_scan",
            parameters={"year": 2018, "category": "cars"},
            event={"id": "2018-01-01", "subject": "12:00:00"},
        )
    write(
        tmp_path,
        run="r900",
        job="simulation",
        parameters={"year": "x", "bidders": [1, {"a": None}]},
        seed="7",
        draws=10,
        seconds=0.5,
    )
    write(
        tmp_path,
        run="r901",
        job="the_third",
        event={"id": "abc", "n": 5},
        as_of=1_546_300_800_000_000,
        trigger="scan",
        caveats=("retention",),
        unverified="mock",
        snapshot=(PinSummary(table="bids", kind="kafka", rows=2**40),),
        result=ResultFile(rows=1, columns=("a: int64",)),
        usage=Usage(cpu_seconds=1.25),
    )
    table = duckdb.sql(f"SELECT * FROM '{tmp_path}/results/*/*/manifest.json' ORDER BY run")
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.fetchall()]
    assert [(row["run"], row["job"]) for row in rows[-3:]] == [
        ("r039", "a_scan"),
        ("r900", "simulation"),
        ("r901", "the_third"),
    ]
    assert len(rows) == 42
    assert json.loads(rows[-2]["parameters"]) == {"year": "x", "bidders": [1, {"a": None}]}
    assert (rows[-2]["seed"], rows[-2]["draws"], rows[-2]["seconds"]) == ("7", 10, 0.5)
    last = rows[-1]
    assert json.loads(last["event"]) == {"id": "abc", "n": 5}
    assert last["as_of"] == dt.datetime(2019, 1, 1)
    assert rows[0]["as_of"] == dt.datetime.max
    assert (last["trigger"], last["unverified"]) == ("scan", "mock")
    assert [json.loads(text) if text.startswith('"') else text for text in last["caveats"]] == ["retention"]
    assert last["usage"]["cpu_seconds"] == 1.25
    assert last["started_at"] == dt.datetime(2001, 9, 9, 1, 46, 40)
    chosen = f"SELECT count(*) FROM '{tmp_path}/results/*/*/manifest.json' WHERE parameters->>'year' = '2018' AND as_of > '2019-01-01'"
    assert duckdb.sql(chosen).fetchall() == [(40,)]


@pytest.mark.parametrize(
    "fields",
    [
        {"parameters": {"text": "x" * 200_000}},
        {"event": {"subject": "ü" * 200_000}},
        {"result": ResultFile(columns=tuple(f"column_{n}: int64" for n in range(20_000)))},
        {"caveats": tuple(f"caveat {n}: " + "y" * 500 for n in range(1000))},
        {"snapshot": tuple(PinSummary(table=f"t{n}", kind="parquet") for n in range(2000))},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_manifest_stays_under_64_kb_and_names_what_it_leaves_out(fields: dict[str, Any]) -> None:
    content = encode_manifest(Manifest(run="r", job="j", **fields))
    assert len(content) <= MOST_BYTES < 64 * 1024
    again = decode_manifest(content)
    assert (again.run, again.job) == ("r", "j")
    if "parameters" in fields:
        assert again.parameters["omitted_bytes"] == len(json.dumps(fields["parameters"], separators=(",", ":")))


def test_every_field_is_in_the_reference() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "results.md").read_text()
    fields = [
        *Manifest.__struct_fields__,
        *Usage.__struct_fields__,
        *SliceCounts.__struct_fields__,
        *ResultFile.__struct_fields__,
    ]
    assert [name for name in fields if f"`{name}`" not in page] == []


def test_a_snapshot_is_said_in_few_words() -> None:
    groups = (RowGroup(rows=3, bytes=1), RowGroup(rows=4, bytes=1))
    files = tuple(FilePin(path=f"{n}.parquet", size=1, identity="x", row_groups=groups) for n in range(2))
    partitions = tuple(PartitionPin(partition=n, start=10, end=15, log_start=0, high_watermark=20) for n in range(3))
    pins = {
        "bids": ParquetPin(root="data/bids", files=files, schema="", time="date_time"),
        "log": KafkaPin(
            cluster="default",
            cluster_id="c",
            topic="bids",
            topic_id="t",
            isolation="read_committed",
            partitions=partitions,
            format="json",
            schema="",
            schema_from="declared",
        ),
        "draws": DrawPin(draws=100, seed=1, block_size=10),
    }
    assert [msgspec.structs.astuple(one) for one in summary_of(Snapshot(pins=pins, window=Window(), pinned_at=0))] == [
        ("bids", "parquet", "data/bids", "", 2, 14, "date_time"),
        ("draws", "draws", "", "", 1, 100, ""),
        ("log", "kafka", "default:bids", "t", 3, 15, ""),
    ]
