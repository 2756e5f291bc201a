"""Promises 2 and 10: a broadcast table is read once, only as far as asked for, and proven before it is used."""

from __future__ import annotations

import pyarrow as pa
import pytest

from hindscan.data import Data, TableSource
from hindscan.errors import SourceChanged
from hindscan.query import reads_of
from hindscan.tasks.broadcast import BroadcastTable

TABLE = pa.table({"id": [3, 1, 2], "name": ["c", "a", "b"], "note": ["x", "y", "z"]})


class Watched:
    """A reader of a table in memory that tells which columns were read, and can find its source changed."""

    def __init__(self) -> None:
        self.read: list[list[str]] = []
        self.open_now = 0
        self.changed = False

    def identity(self) -> dict[str, object]:
        return {}

    def open(self, slices):
        reader = self

        class Source(TableSource):
            def __init__(self) -> None:
                super().__init__(TABLE)
                reader.open_now += 1

            def dataset(self, columns=None, where=None):
                reader.read.append(list(columns or TABLE.column_names))
                return super().dataset(columns)

            def proofs(self):
                if reader.changed:
                    raise SourceChanged("it has changed")
                return super().proofs()

            def close(self) -> None:
                reader.open_now -= 1

        return Source()


@pytest.fixture
def reader() -> Watched:
    return Watched()


def test_columns_are_read_when_first_asked_for_and_kept_in_order(reader: Watched):
    table = BroadcastTable(reader, ())
    assert table.schema == TABLE.schema
    assert reader.read == []
    data = Data("t", {"t": table})
    assert data.sql("SELECT name FROM t WHERE id > 1").to_pydict() == {"name": ["c", "b"]}
    assert data.sql("SELECT max(id) AS m FROM t").to_pydict() == {"m": [3]}
    assert data.arrow() == TABLE
    assert data.arrow(["note", "id"]).to_pydict() == {"note": ["x", "y", "z"], "id": [3, 1, 2]}
    assert sorted(name for names in reader.read for name in names) == ["id", "name", "note"]
    assert reader.open_now == 0


def test_rows_can_be_counted_without_a_column(reader: Watched):
    assert Data("t", {"t": BroadcastTable(reader, ())}).sql("SELECT count(*) AS n FROM t").to_pydict() == {"n": [3]}


def test_a_changed_source_is_an_error_each_time_and_nothing_of_it_is_kept(reader: Watched):
    table = BroadcastTable(reader, ())
    reader.changed = True
    for _ in range(2):
        with pytest.raises(SourceChanged):
            table.dataset(["id"])
    reader.changed = False
    assert table.dataset(["id"]).to_table()["id"].to_pylist() == [3, 1, 2]
    assert reader.open_now == 0


def test_rows_that_a_condition_leaves_are_kept_for_the_next_slice_and_only_for_that_condition(reader: Watched):
    table = BroadcastTable(reader, ())
    query = "SELECT name FROM t WHERE id < $most"
    first = reads_of(query, {"most": 2}, {"t": TABLE.schema})["t"]
    assert table.dataset(["name"], first.where).to_table().to_pydict() == {"name": ["a"]}
    data = Data("t", {"t": table})
    for most, names in ((2, ["a"]), (3, ["a", "b"]), (9, ["c", "a", "b"]), (2, ["a"])):
        for _ in range(2):
            assert data.sql(query, most=most).to_pydict() == {"name": names}
            assert data.sql("SELECT id FROM t WHERE id < $most", most=most).num_rows == len(names)
    assert data.arrow() == TABLE
    assert sorted(name for names in reader.read for name in names) == ["id", "name", "note"]
