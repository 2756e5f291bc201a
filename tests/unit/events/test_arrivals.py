"""A file that arrives is one event for each of its versions, and none before it is complete."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hindscan.events.files import Arrivals, version_id, versions
from hindscan.files import place


def write(file: Path, rows: int = 3) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"n": range(rows)}), file)
    return file


def arrivals(folder: Path, text: str = "lake", known: tuple[str, ...] = ()) -> Arrivals:
    return Arrivals(place(text, folder), text, known)


def names(arrived: Arrivals) -> list[str]:
    """Look, and record what there is."""
    found = arrived.look()
    arrived.recorded(found)
    return [str(event.subject) for event in found]


def test_a_file_counts_when_it_is_the_same_twice_and_then_never_again(tmp_path: Path) -> None:
    arrived = arrivals(tmp_path)
    assert names(arrived) == []
    file = write(tmp_path / "lake" / "day=1" / "a.parquet")
    assert [names(arrived) for _ in range(3)] == [[], ["day=1/a.parquet"], []]
    write(file, 4)
    assert [names(arrived) for _ in range(3)] == [[], ["day=1/a.parquet"], []]
    os.utime(file, ns=(1, 10**18))
    assert [names(arrived) for _ in range(3)] == [[], ["day=1/a.parquet"], []]


def test_what_is_not_recorded_is_given_again(tmp_path: Path) -> None:
    arrived = arrivals(tmp_path)
    write(tmp_path / "lake" / "a.parquet")
    arrived.look()
    (first,), (second,) = arrived.look(), arrived.look()
    assert first == second
    again = arrivals(tmp_path)
    again.look()
    (other,) = again.look()
    assert (other.identity, other.data) == (first.identity, first.data)


def test_a_file_that_grows_or_has_no_footer_yet_is_waited_for(tmp_path: Path) -> None:
    whole = write(tmp_path / "elsewhere.parquet", 1000).read_bytes()
    arrived = arrivals(tmp_path)
    file = tmp_path / "lake" / "a.parquet"
    file.parent.mkdir()
    for size in (0, 4, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert [names(arrived), names(arrived)] == [[], []]
    file.write_bytes(whole)
    assert [names(arrived), names(arrived)] == [[], ["a.parquet"]]


def test_the_event_tells_where_the_file_is_and_what_is_in_it(tmp_path: Path) -> None:
    file = write(tmp_path / "lake" / "in" / "a.parquet", 5)
    os.utime(file, ns=(0, 1_522_942_260_123_456_789))
    arrived = arrivals(tmp_path, "lake/in")
    arrived.look()
    (event,) = arrived.look()
    assert event.to_json() == {
        "specversion": "1.0",
        "id": f"a.parquet@1522942260123456789-{file.stat().st_size}",
        "source": "files:lake/in",
        "type": "hindscan.file",
        "subject": "a.parquet",
        "time": "2018-04-05T15:31:00.123456Z",
        "datacontenttype": "application/json",
        "data": {
            "path": "lake/in/a.parquet",
            "name": "a.parquet",
            "size": file.stat().st_size,
            "rows": 5,
            "row_groups": 1,
        },
    }


def test_hidden_files_and_other_kinds_are_nothing_new(tmp_path: Path) -> None:
    arrived = arrivals(tmp_path)
    for name in (".a.parquet.tmp", "_temporary/0/b.parquet", "_SUCCESS", "notes.txt", ".hidden/c.parquet"):
        write(tmp_path / "lake" / name)
    write(tmp_path / "lake" / "d.parquet")
    assert [names(arrived), names(arrived)] == [[], ["d.parquet"]]


@pytest.mark.parametrize(("text", "folder"), [("lake/**/_SUCCESS", "lake"), ("lake/day=*/_SUCCESS", "lake")])
def test_a_marker_is_waited_for_by_a_glob(tmp_path: Path, text: str, folder: str) -> None:
    arrived = arrivals(tmp_path, text)
    assert names(arrived) == []
    write(tmp_path / "lake" / "day=1" / "a.parquet")
    (tmp_path / "lake" / "_temporary").mkdir()
    (tmp_path / "lake" / "_temporary" / "_SUCCESS").touch()
    (tmp_path / "lake" / "day=1" / "_SUCCESS").touch()
    arrived.look()
    (event,) = arrived.look()
    assert isinstance(event.data, dict)
    assert (event.subject, event.data["path"], event.data["size"]) == ("day=1/_SUCCESS", "lake/day=1/_SUCCESS", 0)


def test_what_was_there_at_the_start_is_known_until_it_changes(tmp_path: Path) -> None:
    old = write(tmp_path / "lake" / "old.parquet")
    known = tuple(version_id(file) for file in versions(place("lake", tmp_path)))
    arrived = arrivals(tmp_path, known=known)
    write(tmp_path / "lake" / "new.parquet")
    assert [names(arrived), names(arrived)] == [[], ["new.parquet"]]
    write(old, 9)
    assert [names(arrived), names(arrived)] == [[], ["old.parquet"]]


def test_a_name_that_no_attribute_may_have_is_written_so_that_one_may(tmp_path: Path) -> None:
    arrived = arrivals(tmp_path)
    write(tmp_path / "lake" / "a\nb é.parquet")
    arrived.look()
    (event,) = arrived.look()
    assert isinstance(event.data, dict)
    assert (event.subject, event.data["name"]) == ("a%0Ab%20%C3%A9.parquet", "a\nb é.parquet")


def test_a_file_that_goes_between_the_looks_is_no_event(tmp_path: Path) -> None:
    arrived = arrivals(tmp_path)
    file = write(tmp_path / "lake" / "a.parquet")
    assert names(arrived) == []
    file.unlink()
    assert [names(arrived), names(arrived)] == [[], []]
