"""Parquet in an object store: pinned by etag, read, and refused in words when it changed or may not be read. The store is a server on loopback."""

from __future__ import annotations

import pickle
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import botocore.session
import deltalake
import msgspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import load_catalog

from hindscan import object_versions
from hindscan.config_file import load_project
from hindscan.data import Data, Proof
from hindscan.errors import (
    AccessRefused,
    ConfigError,
    ReadIncomplete,
    ServiceUnavailable,
    SourceChanged,
    SourceMissing,
)
from hindscan.history.parquet import ParquetHistory
from hindscan.history.snapshot import ParquetPin, Snapshot, Window
from hindscan.plans.cut import cut, cut_whole
from hindscan.plans.keys import table_digest
from hindscan.runs.copies import copy_result
from hindscan.runs.manifest import Manifest
from hindscan.runs.results import publish
from object_store import KEYS, bucket, object_store


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with object_store() as url:
        yield url


@pytest.fixture
def lake(endpoint: str) -> pafs.S3FileSystem:
    return bucket(endpoint, "lake")


def write(lake: pafs.S3FileSystem, path: str, *numbers: int) -> None:
    with lake.open_output_stream(path) as stream:
        pq.write_table(
            pa.table({"n": pa.array(numbers, pa.int64())}), stream, row_group_size=2, write_page_checksum=True
        )


def history(
    folder: Path, endpoint: str, location: str = "s3://lake/bids", section: str = "s3.default"
) -> ParquetHistory:
    (folder / "hindscan.toml").write_text(
        f'[{section}]\nendpoint = "{endpoint}"\nregion = "us-east-1"\naccess_key = "${{KEY}}"\nsecret_key = "${{SECRET}}"\n'
        f'[history.bids]\nparquet = "{location}"\n'
    )
    found = load_project(folder, environment={"KEY": "reader", "SECRET": "quite-secret"}).history("bids")
    assert isinstance(found, ParquetHistory)
    return found


@pytest.mark.parametrize("section", ["s3.default", "s3.lake"])
def test_files_are_pinned_by_etag_and_read(
    tmp_path: Path, endpoint: str, lake: pafs.S3FileSystem, section: str
) -> None:
    write(lake, "lake/bids/year=2017/a.parquet", 1, 2, 3)
    write(lake, "lake/bids/year=2018/a.parquet", 4, 5)
    of = history(tmp_path, endpoint, section=section)
    pin = of.pin(Window())
    assert [file.identity.partition(":")[0] for file in pin.files] == ["etag", "etag"]
    assert len({file.identity for file in pin.files}) == 2
    with of.reader(pin).open(cut(pin, 2)) as source:
        data = Data("bids", {"bids": source})
        assert data.sql("SELECT n, year FROM bids WHERE n > 1 ORDER BY n").to_pylist() == [
            {"n": 2, "year": 2017},
            {"n": 3, "year": 2017},
            {"n": 4, "year": 2018},
            {"n": 5, "year": 2018},
        ]
        assert [proof.records for proof in source.proofs()] == [2, 1, 2]
    assert "quite-secret" not in repr(of) + repr(pin)


def test_an_object_of_the_same_size_and_another_content_is_another(
    tmp_path: Path, endpoint: str, lake: pafs.S3FileSystem
) -> None:
    write(lake, "lake/bids/a.parquet", 1, 2)
    of = history(tmp_path, endpoint)
    pin = of.pin(Window())
    write(lake, "lake/bids/a.parquet", 1, 3)
    assert of.pin(Window()).files[0].size == pin.files[0].size
    with pytest.raises(SourceChanged, match=r"a\.parquet: pinned with \d+ bytes, etag:"):
        of.reader(pin).open(cut_whole(pin))
    lake.delete_file("lake/bids/a.parquet")
    with pytest.raises(SourceChanged, match=r"a\.parquet"):
        of.reader(pin).open(cut_whole(pin))


@pytest.mark.parametrize("after", [(1, 3, 2, 4), tuple(range(1000)), ()])
def test_an_object_that_is_overwritten_while_it_is_read_fails_by_its_name(
    tmp_path: Path, endpoint: str, lake: pafs.S3FileSystem, after: tuple[int, ...]
) -> None:
    write(lake, "lake/bids/a.parquet", 1, 2, 3, 4)
    of = history(tmp_path, endpoint)
    first, second = cut(of.pin(Window()), 2)
    reader = of.reader(of.pin(Window()))
    with reader.open([first, second]) as source:
        data = Data("bids", {"bids": source})
        assert data.sql("SELECT max(n) AS n FROM bids")["n"].to_pylist() == [4]
        source.proofs()
        write(lake, "lake/bids/a.parquet", *after)
        # What it reads now may be of either: the proof, or the look for the cause, tells.
        with pytest.raises(SourceChanged, match=r"a\.parquet: pinned with \d+ bytes, etag:"):
            data.sql("SELECT sum(n) AS n FROM bids")
            source.proofs()
    with pytest.raises(SourceChanged, match=r"a\.parquet"):
        reader.open([second])


@pytest.mark.parametrize("location", ["s3://nowhere/bids", "s3://lake/nothing"])
def test_a_bucket_or_folder_that_is_not_there_is_named(
    tmp_path: Path, endpoint: str, lake: pafs.S3FileSystem, location: str
) -> None:
    with pytest.raises(SourceMissing, match=location.removeprefix("s3://")):
        history(tmp_path, endpoint, location).pin(Window())


class Refusing(BaseHTTPRequestHandler):
    """A store that says of everything that it is denied."""

    def do_GET(self) -> None:
        body = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_store_that_refuses_says_whose_keys_to_look_at(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with pytest.raises(AccessRefused, match=r"lake/bids.*Check the keys in \[s3\.default\]"):
                history(tmp_path, f"http://127.0.0.1:{server.server_port}").pin(Window())
        finally:
            server.shutdown()


def test_a_store_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable, match=r"the object store must answer.*Check `endpoint`"):
        history(tmp_path, "http://127.0.0.1:1").pin(Window())
    assert time.monotonic() - began < 60


def test_wrong_properties_and_written_out_secrets_are_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text('[s3.default]\nsecret_key = "abc"\nendpont = "x"\nanonymous = "yes"\n')
    with pytest.raises(ConfigError) as refused:
        load_project(tmp_path, environment={})
    text = str(refused.value)
    assert "hindscan.toml:2: s3.default.secret_key: is a secret and must be written ${NAME}" in text
    assert "hindscan.toml:3: s3.default.endpont: no such property; there are endpoint, region" in text
    assert "hindscan.toml:4: s3.default.anonymous: must be true or false" in text
    assert "abc" not in text


SECTION = '[s3.default]\nendpoint = "{}"\nregion = "us-east-1"\naccess_key = "${{KEY}}"\nsecret_key = "${{SECRET}}"\n'
SECRETS = {"KEY": "reader", "SECRET": "quite-secret"}


def test_lake_tables_are_read_from_buckets_with_the_same_keys(
    tmp_path: Path, endpoint: str, lake: pafs.S3FileSystem
) -> None:
    options = {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true", **KEYS}
    rows = pa.table({"year": [2017, 2018, 2018], "n": [1, 2, 3]})
    deltalake.write_deltalake("s3://lake/delta", rows, partition_by=["year"], storage_options=options)
    reach = {"s3.endpoint": endpoint, "s3.region": "us-east-1"}
    keys = {"s3.access-key-id": "reader", "s3.secret-access-key": "quite-secret"}
    catalog = load_catalog(
        "shop", type="sql", uri=f"sqlite:///{tmp_path}/shop.db", warehouse="s3://lake/iceberg", **reach, **keys
    )
    catalog.create_namespace("shop")
    catalog.create_table("shop.bids", schema=rows.schema).append(rows)
    (tmp_path / "hindscan.toml").write_text(
        SECTION.format(endpoint)
        + f'[iceberg.shop]\ntype = "sql"\nuri = "sqlite:///{tmp_path}/shop.db"\n'
        + '[history.delta]\ndelta = "s3://lake/delta"\n[history.named]\niceberg = "shop.shop.bids"\n'
        + '[history.folder]\niceberg = "s3://lake/iceberg/shop/bids"\n'
    )
    project = load_project(tmp_path, environment=SECRETS)
    for name in ("delta", "named", "folder"):
        of = project.history(name)
        pin = of.pin(Window())
        assert isinstance(pin, ParquetPin)
        assert {file.identity.partition(":")[0] for file in pin.files} == {"etag"}
        with of.reader(pin).open(cut(pin, 10)) as source:
            data = Data("bids", {"bids": source})
            found = data.sql("SELECT year, n FROM bids ORDER BY n").to_pylist()
        assert found == rows.to_pylist(), name
        assert "quite-secret" not in repr(of) + repr(pin)


def test_a_result_is_copied_below_a_prefix_with_the_manifest_last(
    tmp_path: Path, endpoint: str, lake: pafs.S3FileSystem
) -> None:
    (tmp_path / "hindscan.toml").write_text(SECTION.format(endpoint) + '[copies]\nscan = "s3://lake/reports"\n')
    project = load_project(tmp_path, environment=SECRETS)
    assert project.copied_to("other") == []
    [to] = project.copied_to("scan")
    assert to is not None
    folder = publish(
        tmp_path,
        table=pa.table({"n": [1]}),
        manifest=Manifest(run="r1", job="scan"),
        snapshot=Snapshot(pins={}, window=Window(), pinned_at=1),
        slices=[],
    ).folder
    assert copy_result(folder, to) is True
    for path in folder.iterdir():
        with lake.open_input_stream(f"lake/reports/r1/{path.name}") as stream:
            assert stream.read() == path.read_bytes()
    with lake.open_input_stream("lake/reports/latest.json") as stream:
        assert b'"run":"r1"' in stream.read()
    assert copy_result(folder, to) is False
    lake.delete_dir("lake")
    with pytest.raises(ServiceUnavailable, match="While publishing run r1 to s3://lake/reports"):
        copy_result(folder, to)


def with_versions(endpoint: str, name: str) -> pafs.S3FileSystem:
    """Make a bucket that keeps what is overwritten or deleted."""
    store = bucket(endpoint, name)
    keys = {"aws_access_key_id": "reader", "aws_secret_access_key": "quite-secret"}
    client = botocore.session.get_session().create_client("s3", "us-east-1", endpoint_url=endpoint, **keys)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return store


@pytest.mark.parametrize("gone", [False, True])
def test_an_object_is_read_as_it_was_pinned_from_a_bucket_that_keeps_versions(
    tmp_path: Path, endpoint: str, gone: bool
) -> None:
    name = "deleted" if gone else "overwritten"
    lake = with_versions(endpoint, name)
    write(lake, f"{name}/bids/year=2017/a.parquet", 1, 2, 3, 4, 5)
    write(lake, f"{name}/bids/year=2018/a.parquet", 6)
    of = history(tmp_path, endpoint, f"s3://{name}/bids")
    pin = msgspec.json.decode(msgspec.json.encode(of.pin(Window())), type=ParquetPin)
    reader = pickle.loads(pickle.dumps(of.reader(pin)))
    slices = cut(pin, 2)

    def read() -> tuple[list[int], list[Proof]]:
        with reader.open(slices) as source:
            found = Data("bids", {"bids": source}).sql("SELECT n + year - 2017 AS n FROM bids WHERE n > 1 ORDER BY n")
            assert Data("bids", {"bids": source}).arrow().num_rows == 6
            return found["n"].to_pylist(), source.proofs()

    before = read()
    assert before[0] == [2, 3, 4, 5, 7]
    if gone:
        lake.delete_file(f"{name}/bids/year=2017/a.parquet")
    else:
        write(lake, f"{name}/bids/year=2017/a.parquet", 1, 2, 3, 4, 6)
    assert read() == before
    # Where it lies is no part of what it is.
    bare = msgspec.structs.replace(pin, files=tuple(msgspec.structs.replace(file, version="") for file in pin.files))
    assert table_digest(bare, reader.identity()) == table_digest(pin, reader.identity())
    assert "quite-secret" not in repr(reader) + repr(pin)
    # A new pin is of what is there now.
    now = of.pin(Window())
    with of.reader(now).open(cut(now, 10)) as source:
        left = Data("bids", {"bids": source}).sql("SELECT n FROM bids ORDER BY n")["n"].to_pylist()
    assert left == ([6] if gone else [1, 2, 3, 4, 6, 6])


def test_an_object_that_is_overwritten_while_it_is_read_is_read_again_as_it_was(tmp_path: Path, endpoint: str) -> None:
    lake = with_versions(endpoint, "while-read")
    write(lake, "while-read/bids/a.parquet", 1, 2, 3, 4)
    of = history(tmp_path, endpoint, "s3://while-read/bids")
    pin = of.pin(Window())
    reader = of.reader(pin)
    with reader.open(cut(pin, 2)) as source:
        Data("bids", {"bids": source}).sql("SELECT max(n) AS n FROM bids")
        write(lake, "while-read/bids/a.parquet", 1, 2, 3, 9)
        # What was read since may be of either.
        with pytest.raises(
            ReadIncomplete, match=r"(?s)a\.parquet: pinned with .*when the slice is tried again"
        ) as refused:
            source.proofs()
        assert refused.value.retryable
    with reader.open(cut(pin, 2)) as source:
        assert Data("bids", {"bids": source}).sql("SELECT max(n) AS n FROM bids")["n"].to_pylist() == [4]
        assert sum(proof.records for proof in source.proofs()) == 4


def test_a_version_that_is_gone_or_cannot_be_asked_for_fails_by_the_file(
    tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = with_versions(endpoint, "lost")
    write(lake, "lost/bids/a.parquet", 1, 2)
    of = history(tmp_path, endpoint, "s3://lost/bids")
    pin = of.pin(Window())
    write(lake, "lost/bids/a.parquet", 1, 3)
    lost = msgspec.structs.replace(
        pin, files=tuple(msgspec.structs.replace(file, version="0" * 32) for file in pin.files)
    )
    with pytest.raises(SourceChanged, match=r"a\.parquet: pinned with \d+ bytes, etag:"):
        of.reader(lost).open(cut(lost, 2))
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)
    object_versions._filesystem.cache_clear()
    with pytest.raises(SourceChanged, match=r"the extra `versions` reads them"):
        of.reader(pin).open(cut(pin, 2))
