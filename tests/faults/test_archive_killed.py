"""An archiver that is killed at any named side effect leaves the old archive or the new one, and the next one cleans up."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from acceptance.command import hindscan
from hindscan.data import Data
from hindscan.history.archive import Archive, read_archive
from hindscan.history.archiving import archive
from hindscan.history.declared import history_from_toml
from hindscan.history.snapshot import Window
from hindscan.history.stitched import StitchedHistory
from hindscan.plans.cut import cut_whole
from hindscan.testing import KafkaCluster
from integration.history.archives import COLUMNS, SLICE_ROWS, Both, both, fill, parquet_files, read

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

MakeTopic = Callable[..., str]


def killed(folder: Path, cluster: KafkaCluster, topic: str, fault: str) -> None:
    """Archive with the command, which dies at a point."""
    columns = ", ".join(f'{name} = "{kind}"' for name, kind in COLUMNS.items())
    (folder / "hindscan.toml").write_text(
        f'[kafka.default]\n"bootstrap.servers" = "{cluster.bootstrap}"\n[history.h]\ntopic = "{topic}"\ntime = "at"\n'
        f'archive = "lake"\nslice_rows = {SLICE_ROWS}\ncolumns = {{ {columns} }}\n'
    )
    hindscan("archive", "h", project=folder, check=-signal.SIGKILL, HINDSCAN_FAULT=fault)


def manifest(of: StitchedHistory) -> Archive | None:
    known = read_archive(of.archive.place)
    return None if known is None else known[0]


def rows_as_parquet(folder: Path) -> int:
    plain = history_from_toml("lake", {"parquet": "lake"}, clusters={}, root=folder)
    pin = plain.pin(Window())
    with plain.reader(pin).open(cut_whole(pin)) as source:
        return Data("t", {"t": source}).arrow(["_offset"]).num_rows


def leftovers(of: StitchedHistory, folder: Path) -> set[str]:
    known = manifest(of)
    paths = {file.path for file in known.files} if known is not None else set()
    half = {str(path) for path in (folder / "lake").rglob(".*.tmp")}
    return set(parquet_files(folder / "lake")) - paths | half


def check_whole(histories: Both, folder: Path, archived: Archive) -> None:
    assert read(histories.stitched)[0] == read(histories.topic)[0]
    assert rows_as_parquet(folder) == sum(one.rows for one in archived.partitions)


@pytest.mark.parametrize(
    ("fault", "published", "left"),
    [
        ("archive.written", False, 1),
        ("archive.written:3", False, 3),
        ("archive.published", True, 1),
        ("archive.removed", True, 0),
    ],
)
def test_a_killed_archiver_leaves_the_old_archive_or_the_new(
    kafka_cluster: KafkaCluster, topic: MakeTopic, tmp_path: Path, fault: str, published: bool, left: int
) -> None:
    name = topic("killed")
    fill(kafka_cluster, name, 0, 90)
    histories = both(kafka_cluster, name, tmp_path)
    old = archive(histories.stitched, slice_rows=SLICE_ROWS, until=50).archive
    killed(tmp_path, kafka_cluster, name, fault)
    found = manifest(histories.stitched)
    assert found is not None
    assert (found != old) == published
    assert len(leftovers(histories.stitched, tmp_path)) == left
    check_whole(histories, tmp_path, found)
    done = archive(histories.stitched, slice_rows=SLICE_ROWS)
    assert (done.swept, done.written) == (left, 0 if published else 3)
    assert leftovers(histories.stitched, tmp_path) == set()
    assert [one.end for one in done.archive.partitions] == [90]
    check_whole(histories, tmp_path, done.archive)


def test_an_archiver_killed_before_there_is_an_archive_and_again_while_cleaning_up(
    kafka_cluster: KafkaCluster, topic: MakeTopic, tmp_path: Path
) -> None:
    name = topic("killed-first")
    fill(kafka_cluster, name, 0, 50)
    histories = both(kafka_cluster, name, tmp_path)
    killed(tmp_path, kafka_cluster, name, "archive.written:2")
    assert manifest(histories.stitched) is None
    assert read(histories.stitched)[0] == read(histories.topic)[0]
    half = tmp_path / "lake" / "partition-00000" / ".x.parquet.1-00.tmp"
    half.write_bytes(b"half")
    foreign = tmp_path / "lake" / "partition-00000" / "of-somebody-else.parquet"
    foreign.write_bytes(b"not ours")
    killed(tmp_path, kafka_cluster, name, "archive.swept")
    assert len(leftovers(histories.stitched, tmp_path)) == 3
    done = archive(histories.stitched, slice_rows=SLICE_ROWS)
    assert (done.swept, done.written) == (2, 3)
    assert foreign.read_bytes() == b"not ours", "nothing but its own files is removed"
    foreign.unlink()
    assert leftovers(histories.stitched, tmp_path) == set()
    check_whole(histories, tmp_path, done.archive)
