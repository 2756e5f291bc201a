"""A partial is there whole or not at all, and one that is damaged is never used (promises 6, 7 and 9)."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pytest

from at_once import at_once
from hindscan.data import Proof
from hindscan.errors import BadPartial, ConfigError, CorruptPartial, ServiceUnavailable
from hindscan.runs.digest import table_digest
from hindscan.runs.partials import Partials

KEY = "0123456789abcdef0123456789abcdef"
#: Rows of a partial that is mapped when it is read; smaller ones are read whole.
MAPPED = 50_000
PROOF = Proof(slice=3, records=10, bytes=99, first_offset=5, last_offset=20, invisible=6, digest="d", unverified="mock")


def a_table(rows: int = 1000) -> pa.Table:
    return pa.table(
        {
            "bidder": range(rows),
            "name": pa.array([f"bidder {n % 13}" for n in range(rows)]).dictionary_encode(),
            "tags": [[n, None] if n % 3 else None for n in range(rows)],
            "price": [n / 7 for n in range(rows)],
        }
    )


def numbers_of(table: pa.Table) -> pa.Table:
    """Give what is stored as it is: columns of numbers."""
    return table.select(["bidder", "price"])


def whole(table: pa.Table) -> pa.Table:
    """Give all of it, texts too, which are compressed."""
    return table


@pytest.fixture
def partials(tmp_path: Path) -> Partials:
    return Partials(tmp_path / "artefacts")


@pytest.mark.parametrize("rows", [1000, MAPPED])
def test_what_is_read_is_what_was_written(partials: Partials, rows: int) -> None:
    table = a_table(rows).replace_schema_metadata({"pandas": "..."})
    digest, size = partials.write(KEY, table, PROOF, {"worker": "w1"})
    assert partials.read(KEY) == a_table(rows)
    assert partials.read(KEY).schema.metadata is None
    assert digest == table_digest(table)
    assert size == partials.path(KEY).stat().st_size
    meta = partials.read_meta(KEY)
    assert (meta.digest, meta.rows, meta.metadata) == (digest, rows, {"worker": "w1"})
    assert partials.read_proof(KEY) == PROOF


@pytest.mark.parametrize(
    "table", [pa.table({}), a_table(0), pa.table({"a": pa.array([], pa.null())})], ids=["nothing", "no rows", "nulls"]
)
def test_a_partial_without_rows_is_one(partials: Partials, table: pa.Table) -> None:
    partials.write(KEY, table)
    assert partials.read(KEY).equals(table)
    assert partials.read_proof(KEY) is None


def test_a_column_that_no_result_can_have_is_refused(partials: Partials) -> None:
    table = pa.table({"a": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})
    with pytest.raises(BadPartial, match="month_day_nano_interval"):
        partials.write(KEY, table)
    assert not partials.has(KEY)


def test_the_file_lies_where_the_design_says_and_any_arrow_reader_opens_it(partials: Partials, tmp_path: Path) -> None:
    partials.write(KEY, a_table())
    assert partials.path(KEY) == tmp_path / "artefacts" / "partials" / "01" / f"{KEY}.arrow"
    assert pyarrow.feather.read_table(partials.path(KEY)).equals(a_table())


def test_the_value_travels(partials: Partials) -> None:
    partials.write(KEY, a_table())
    there = pickle.loads(pickle.dumps(partials))
    assert there == partials
    assert there.read(KEY) == a_table()


def test_keys_that_exist_are_found_few_or_many(partials: Partials) -> None:
    keys = [f"{n % 7:02x}{n:030x}" for n in range(40)]
    for key in keys[::2]:
        partials.write(key, pa.table({"a": [1]}))
    there = frozenset(keys[::2])
    assert partials.exists(keys) == there
    assert partials.exists(keys + [f"ff{n:030x}" for n in range(1000)]) == there
    assert [partials.has(key) for key in keys[:4]] == [True, False, True, False]
    assert partials.exists([]) == frozenset()
    partials.remove(keys[0])
    partials.remove(keys[0])
    assert not partials.has(keys[0])


def test_a_half_written_file_is_no_partial(partials: Partials) -> None:
    partials.path(KEY).parent.mkdir(parents=True)
    (partials.path(KEY).parent / f".{KEY}.arrow.99-ab.tmp").write_bytes(b"half")
    assert not partials.has(KEY)
    assert partials.exists([KEY, *(f"01{n:030x}" for n in range(1000))]) == frozenset()


def test_a_partial_that_is_not_there_is_named(partials: Partials) -> None:
    for read in (partials.read, partials.read_meta, partials.read_proof):
        with pytest.raises(CorruptPartial, match=f"{KEY}.*not there"):
            read(KEY)


@pytest.mark.parametrize("key", ["../../etc/passwd", "A" * 32, "", "a/b" * 5, "0" * 200])
def test_a_key_that_could_lead_elsewhere_is_refused(partials: Partials, key: str) -> None:
    with pytest.raises(ValueError, match="a partial's key"):
        partials.has(key)


def test_an_object_store_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"s3:// URL\. Object stores are not supported yet") as caught:
        Partials("s3://key:secret@bucket/prefix")
    assert "secret" not in str(caught.value)


def test_a_second_writing_of_a_key_changes_nothing_for_who_reads(partials: Partials) -> None:
    partials.write(KEY, a_table(), PROOF)
    mapped = partials.read(KEY)
    partials.write(KEY, a_table(), PROOF)
    assert mapped == partials.read(KEY) == a_table()


def test_writers_of_one_key_at_once_leave_one_good_partial(partials: Partials) -> None:
    def work() -> None:
        for _ in range(10):
            partials.write(KEY, a_table(), PROOF)
            assert partials.read(KEY).num_rows == 1000

    at_once(*[work] * 4)
    assert [path.name for path in partials.path(KEY).parent.iterdir()] == [f"{KEY}.arrow"]


def flipped(content: bytes, at: int, bit: int) -> bytes:
    return content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]


def test_a_flipped_bit_anywhere_is_found_or_makes_no_difference(partials: Partials) -> None:
    # Every byte of a small file: header, schema, metadata, buffers, padding, footer. In a process of its own, so that a crash of the reader is a failure here.
    script = """
import sys
from pathlib import Path
import pyarrow as pa
from hindscan.errors import CorruptPartial
from hindscan.runs.partials import Partials
partials, key = Partials(sys.argv[1]), sys.argv[2]
path = partials.path(key)
content, rows, proof = path.read_bytes(), partials.read(key).to_pydict(), partials.read_proof(key)
found = harmless = 0
for at in range(len(content)):
    for bit in (0, 5):
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1:])
        try:
            read, said = partials.read(key), partials.read_proof(key)
        except CorruptPartial:
            found += 1
            assert not partials.has(key), (at, bit)
        else:
            harmless += 1
            # An `ordered` or `nullable` in the schema may have changed: that is no content.
            assert read.to_pydict() == rows and said == proof, (at, bit, read.schema)
print(found, harmless)
"""
    partials.write(KEY, a_table(20), PROOF)
    args = [sys.executable, "-c", script, str(partials.root), KEY]
    done = subprocess.run(args, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found, harmless = map(int, done.stdout.split())
    assert found > harmless, (found, harmless)


@pytest.mark.parametrize("of", [whole, numbers_of])
@pytest.mark.parametrize("rows", [1000, MAPPED])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_found_removed_and_can_be_written_again(
    partials: Partials, share: float, rows: int, of: Callable[[pa.Table], pa.Table]
) -> None:
    partials.write(KEY, of(a_table(rows)), PROOF)
    content = partials.path(KEY).read_bytes()
    partials.path(KEY).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CorruptPartial, match="computed again by a retry") as caught:
        partials.read(KEY)
    assert caught.value.retryable
    assert not partials.has(KEY)
    partials.write(KEY, a_table(), PROOF)
    assert partials.read(KEY) == a_table()


def test_a_flipped_bit_of_numbers_that_are_mapped_is_found(partials: Partials) -> None:
    table = numbers_of(a_table(MAPPED))
    partials.write(KEY, table, PROOF)
    content = partials.path(KEY).read_bytes()
    first = content.index(table["price"].chunk(0).buffers()[1].to_pybytes()[:4096])
    partials.path(KEY).write_bytes(flipped(content, first + 100_000, 3))
    with pytest.raises(CorruptPartial, match="its content has digest"):
        partials.read(KEY)
    assert not partials.has(KEY)


def test_texts_are_compressed_and_numbers_lie_as_they_are(partials: Partials) -> None:
    table = pa.table({"n": pa.array([7] * MAPPED), "s": ["seven"] * MAPPED})
    assert partials.write(KEY, table.select(["n"]))[1] > table.select(["n"]).nbytes
    assert partials.write(KEY, table.select(["s"]))[1] < table.select(["s"]).nbytes / 2


def test_a_partial_of_another_content_under_the_key_is_found(partials: Partials) -> None:
    partials.write(KEY, a_table(), PROOF)
    other = "f" * 32
    partials.write(other, a_table().slice(1), PROOF)
    mixed = pyarrow.feather.read_table(partials.path(other)).replace_schema_metadata(
        pyarrow.feather.read_table(partials.path(KEY)).schema.metadata
    )
    pyarrow.feather.write_feather(mixed, partials.path(KEY))
    with pytest.raises(CorruptPartial, match="its content has digest"):
        partials.read(KEY)


def test_a_writer_that_dies_leaves_nothing_under_the_key(partials: Partials) -> None:
    script = "import sys\nimport pyarrow as pa\nfrom hindscan.runs.partials import Partials\nPartials(sys.argv[1]).write(sys.argv[2], pa.table({'a': [1]}))"
    for name, there in (("partials.writing", False), ("partials.written", True)):
        environment = os.environ | {"HINDSCAN_FAULT": name}
        done = subprocess.run([sys.executable, "-c", script, str(partials.root), KEY], env=environment, check=False)
        assert done.returncode == -9
        assert partials.has(KEY) is there
    assert partials.read(KEY).to_pydict() == {"a": [1]}


def test_a_folder_that_takes_no_partial_is_not_the_jobs_fault(partials: Partials) -> None:
    partials.folder.parent.mkdir()
    partials.folder.write_text("no folder")
    with pytest.raises(ServiceUnavailable, match=r"\[store\].artefacts must take it; Not a directory.*retry the run"):
        partials.write(KEY, a_table(3))
