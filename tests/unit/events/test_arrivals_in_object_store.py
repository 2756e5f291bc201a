"""Files that arrive in an object store: each version once, by what the store itself says of it. The store is a server on loopback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from hindscan.errors import ServiceUnavailable
from hindscan.events.files import Arrivals, versions
from hindscan.files import Place, place
from object_store import bucket, object_store


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with object_store() as url:
        yield url


@pytest.fixture
def lake(endpoint: str) -> pafs.S3FileSystem:
    return bucket(endpoint, "lake")


def at(endpoint: str, text: str = "s3://lake/in") -> Place:
    settings: dict[str, str | int | float | bool] = {
        "endpoint": endpoint,
        "access_key": "reader",
        "secret_key": "quite-secret",
    }
    return place(text, Path(), {"default": settings})


def write(lake: pafs.S3FileSystem, path: str, rows: int) -> None:
    with lake.open_output_stream(path) as stream:
        pq.write_table(pa.table({"n": range(rows)}), stream)


def test_an_object_is_an_event_for_each_version_with_its_etag(endpoint: str, lake: pafs.S3FileSystem) -> None:
    arrived = Arrivals(at(endpoint), "s3://lake/in", ())
    assert arrived.look() == []
    write(lake, "lake/in/day=1/a.parquet", 3)
    write(lake, "lake/other/b.parquet", 3)
    assert arrived.look() == []
    (first,) = arrived.look()
    arrived.recorded([first])
    assert isinstance(first.data, dict)
    assert first.data | {"size": 0, "etag": ""} == {
        "path": "s3://lake/in/day=1/a.parquet",
        "name": "day=1/a.parquet",
        "size": 0,
        "rows": 3,
        "row_groups": 1,
        "etag": "",
    }
    assert re.fullmatch(r"[0-9a-f]{32}(-\d+)?", first.data["etag"])
    assert first.source == "files:s3://lake/in"
    write(lake, "lake/in/day=1/a.parquet", 4)
    assert arrived.look() == []
    (second,) = arrived.look()
    assert isinstance(second.data, dict)
    assert second.id != first.id
    assert (second.data["rows"], second.data["etag"] == first.data["etag"]) == (4, False)


def test_what_is_no_parquet_file_is_not_taken(endpoint: str, lake: pafs.S3FileSystem) -> None:
    with lake.open_output_stream("lake/in/half.parquet") as stream:
        stream.write(b"PAR1 and no more")
    arrived = Arrivals(at(endpoint), "s3://lake/in", ())
    assert [arrived.look(), arrived.look()] == [[], []]


def test_a_marker_is_waited_for(endpoint: str, lake: pafs.S3FileSystem) -> None:
    arrived = Arrivals(at(endpoint, "s3://lake/in/*/_SUCCESS"), "s3://lake/in/*/_SUCCESS", ())
    with lake.open_output_stream("lake/in/day=1/_SUCCESS") as stream:
        stream.write(b"")
    assert arrived.look() == []
    assert [event.subject for event in arrived.look()] == ["day=1/_SUCCESS"]


def test_a_store_that_does_not_answer_is_told(endpoint: str) -> None:
    with pytest.raises(ServiceUnavailable, match="the object store must answer"):
        versions(at("http://127.0.0.1:1"))
