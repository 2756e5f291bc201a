"""A result is copied to where it is wanted once, and seen there whole or not at all (promises 4 and 9)."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from at_once import at_once
from hindscan import files
from hindscan.errors import CorruptData, ServiceUnavailable
from hindscan.history.snapshot import DrawPin, DrawSlice, Snapshot, Window
from hindscan.runs import copies
from hindscan.runs.copies import copy_result
from hindscan.runs.manifest import Manifest
from hindscan.runs.results import publish
from hindscan.runs.slices import SliceRecord

SNAPSHOT = Snapshot(pins={"d": DrawPin(draws=1, seed=1, block_size=1)}, window=Window(), pinned_at=1)
SLICES = [SliceRecord(stage="slice", slice=DrawSlice(position=0, start=0, end=1), key="a" * 32, reused=False)]


def result(root: Path, run: str) -> Path:
    made = publish(
        root,
        table=pa.table({"run": [run]}),
        manifest=Manifest(run=run, job="scan"),
        snapshot=SNAPSHOT,
        slices=SLICES,
        charts={"chart.vl.json": b"{}"},
    )
    return made.folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_copy_is_the_result_and_latest_names_it(tmp_path: Path) -> None:
    folder, to = result(tmp_path, "r1"), files.place(tmp_path / "reports")
    assert copy_result(folder, to) is True
    assert content(tmp_path / "reports/r1") == content(folder)
    assert json.loads((tmp_path / "reports/latest.json").read_text()) == {
        "run": "r1",
        "result": "r1/result.parquet",
        "manifest": "r1/manifest.json",
    }
    assert list((tmp_path / "reports/.attempts").iterdir()) == []


def test_a_second_copy_of_a_run_changes_nothing(tmp_path: Path) -> None:
    folder, to = result(tmp_path, "r1"), files.place(tmp_path / "reports")
    copy_result(folder, to)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "reports").rglob("*.*")}
    (folder / "chart.vl.json").write_bytes(b"another")
    assert copy_result(folder, to) is False
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "reports").rglob("*.*")} == before


def test_latest_never_steps_back_to_an_older_run(tmp_path: Path) -> None:
    to = files.place(tmp_path / "reports")
    for run in ("r2", "r1"):
        assert copy_result(result(tmp_path, run), to) is True
    assert json.loads((tmp_path / "reports/latest.json").read_text())["run"] == "r2"
    (tmp_path / "reports/latest.json").write_text("[]")
    with pytest.raises(CorruptData, match=r"latest.json must be as hindscan wrote it"):
        copy_result(result(tmp_path, "r3"), to)


def test_of_many_at_once_one_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, to = result(tmp_path, "r1"), files.place(tmp_path / "reports")
    ready = threading.Barrier(4)
    # All have written theirs before the first makes it visible.
    monkeypatch.setattr(copies, "point", lambda name: ready.wait(60) if name == "copies.written" else None)
    at_once(*[partial(copy_result, folder, to)] * 4)
    assert content(tmp_path / "reports/r1") == content(folder)
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == [".attempts", "latest.json", "r1"]
    assert list((tmp_path / "reports/.attempts").iterdir()) == []


def test_a_failure_on_the_way_leaves_nothing_to_be_seen_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, to = result(tmp_path, "r1"), files.place(tmp_path / "reports")

    def full(name: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(copies, "point", full)
        with pytest.raises(ServiceUnavailable, match=r"While publishing run r1 to .*No space left.*hindscan retry r1"):
            copy_result(folder, to)
    assert [path for path in (tmp_path / "reports").rglob("*") if path.is_file()] == []
    assert copy_result(folder, to) is True


def test_below_a_prefix_of_an_object_store_the_manifest_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file system that is not the local one: it has no rename that the copy may rely on.
    (tmp_path / "bucket").mkdir()
    store = pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem())
    folder, to = result(tmp_path, "r1"), files.Place(filesystem=store, path="reports")
    for name in ("reports", "reports/r1"):
        (tmp_path / "bucket" / name).mkdir()

    def killed(name: str) -> None:
        if name == "copies.written":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(copies, "point", killed)
        with pytest.raises(KeyboardInterrupt):
            copy_result(folder, to)
    seen = {path.name for path in (tmp_path / "bucket/reports/r1").iterdir()}
    assert seen == {"result.parquet", "snapshot.parquet", "chart.vl.json"}
    assert copy_result(folder, to) is True
    assert content(tmp_path / "bucket/reports/r1") == content(folder)
    assert json.loads((tmp_path / "bucket/reports/latest.json").read_text())["run"] == "r1"
    assert copy_result(folder, to) is False
