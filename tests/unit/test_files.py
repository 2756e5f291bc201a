"""Promise 1's storage half: listings without what is hidden, identities that change."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from hindscan.errors import SourceMissing, UsageError
from hindscan.files import (
    FoundFile,
    Place,
    delete,
    exists,
    find,
    identified,
    listing_root,
    place,
)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_a_relative_path_is_relative_to_the_given_root(tmp_path: Path) -> None:
    assert place("data/bids", tmp_path).path == (tmp_path / "data" / "bids").as_posix()
    assert place("../x", tmp_path / "a").path == (tmp_path / "x").as_posix()


def test_an_absolute_path_and_a_file_url_are_the_same_place(tmp_path: Path) -> None:
    assert place(tmp_path, "/elsewhere").path == place(tmp_path.as_uri()).path


def test_an_unknown_url_is_refused_without_showing_its_secret() -> None:
    with pytest.raises(UsageError) as refused:
        place("weird://user:secret@host/path?token=hush")
    assert "weird://host/path" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "hush" not in str(refused.value)


def test_a_folder_lists_its_files_with_numbers_in_numeric_order(tmp_path: Path) -> None:
    touch(tmp_path, "month=10/a.parquet", "month=2/b.parquet", "month=2/a.parquet", "month=1/a.parquet")
    assert [f.path for f in find(tmp_path)] == [
        "month=1/a.parquet",
        "month=2/a.parquet",
        "month=2/b.parquet",
        "month=10/a.parquet",
    ]


def test_hidden_files_and_markers_are_not_data(tmp_path: Path) -> None:
    touch(
        tmp_path, "a.parquet", "_SUCCESS", ".a.parquet.crc", ".tmp/b.parquet", "_temporary/c.parquet", "_k=1/d.parquet"
    )
    assert [f.path for f in find(tmp_path)] == ["_k=1/d.parquet", "a.parquet"]


def test_a_folder_lists_only_the_wanted_endings_but_a_named_file_is_taken_at_its_word(tmp_path: Path) -> None:
    touch(tmp_path, "a.parquet", "README.md", "b.csv")
    assert [f.path for f in find(tmp_path, (".parquet",))] == ["a.parquet"]
    assert [f.path for f in find(tmp_path / "b.csv", (".parquet",))] == ["b.csv"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.parquet", ["a.parquet", "b1.parquet"]),
        ("**/*.parquet", ["a.parquet", "b1.parquet", "y=1/c.parquet", "y=1/z/d.parquet"]),
        ("y=*/*.parquet", ["y=1/c.parquet"]),
        ("[ab]?.parquet", ["b1.parquet"]),
        ("[!b]*.parquet", ["a.parquet"]),
        ("y=1/**", ["y=1/c.parquet", "y=1/z/d.parquet"]),
    ],
)
def test_globs_choose_files(tmp_path: Path, pattern: str, names: list[str]) -> None:
    touch(tmp_path, "a.parquet", "b1.parquet", "y=1/c.parquet", "y=1/z/d.parquet", "e.txt")
    root = listing_root(tmp_path / pattern)
    found = [str(Path(root.path, f.path).relative_to(tmp_path).as_posix()) for f in find(tmp_path / pattern)]
    assert found == names


def test_what_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="nowhere"):
        find(tmp_path / "nowhere")


def test_a_change_of_time_or_size_changes_what_identifies_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "a")
    [before] = find(tmp_path)
    os.utime(tmp_path / "a", ns=(1, 2))
    [touched] = find(tmp_path)
    assert before.identity != touched.identity
    assert touched.identity == "mtime_ns:2"


def test_on_an_object_store_the_etag_is_what_identifies_a_file() -> None:
    class Stream(io.BytesIO):
        def metadata(self) -> dict[str, bytes]:
            return {"Content-Length": b"9", "ETag": b'"5980-1"'}

        def size(self) -> int:
            return 9

    class Store:
        def open_input_file(self, path: str) -> Stream:
            assert path == "bucket/a.parquet"
            return Stream()

    bucket = Place(filesystem=Store(), path="bucket")  # type: ignore[arg-type]
    found = identified(bucket, FoundFile(path="a.parquet", size=9, identity="mtime_ns:1"))
    assert found == FoundFile(path="a.parquet", size=9, identity="etag:5980-1")


def test_deleting_twice_is_harmless(tmp_path: Path) -> None:
    touch(tmp_path, "f")
    delete(tmp_path / "f")
    delete(tmp_path / "f")
    assert not exists(tmp_path / "f")
