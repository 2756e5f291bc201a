"""That what is compiled beforehand is what a scan calls."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from hindscan import loops
from hindscan.errors import UsageError
from hindscan.history.formats.avro_fast import Scan
from hindscan.history.formats.avro_schema import AvroField, AvroType
from hindscan.history.formats.json import JsonDecoder
from hindscan.history.json_fast import FastJson
from hindscan.jobs.compiler import Compiler
from hindscan.kafka import fast
from hindscan.kafka.fetch import RawBatch
from hindscan.loops import compile_loops

COLUMNS = pa.schema([("n", pa.int64()), ("x", pa.float64()), ("s", pa.string()), ("t", pa.timestamp("us", "UTC"))])


def taken(*records: bytes) -> pa.LargeBinaryArray:
    """Lay records over buffers, as the fast client does."""
    content = np.frombuffer(b"".join(records), np.uint8).copy()
    places = np.cumsum([0, *map(len, records)], dtype=np.int64)
    return fast._array(content, places, np.ones(len(records), np.uint8), len(records))


def test_a_scan_finds_every_loop_compiled_for_what_it_calls_it_with() -> None:
    pytest.importorskip("numba")
    from hindscan.history.addresses import gather
    from hindscan.history.formats import avro_scan
    from hindscan.history.json_scan import scan
    from hindscan.kafka.drain import compile_for, drain

    loops = (scan, gather, drain, avro_scan.scan)
    compile_loops()
    known = [set(loop.signatures) for loop in loops]
    assert all(known)
    plain = b'{"n": 1, "x": 0.5, "s": "a", "t": "2018-01-01T00:00:00Z"}'
    odd = b'{"n": 1e3, "s": "\\u0061"}'
    decoder = FastJson(COLUMNS, JsonDecoder(COLUMNS).decode)
    values = taken(plain, plain)
    joined = [RawBatch(offsets=np.arange(2), times=np.arange(2), values=values) for _ in range(2)]
    for some in (values, taken(plain, odd, plain), taken(odd, plain), RawBatch.joined(joined).values, values.take([1])):
        decoder.decode(some)
    number, text = (AvroField(name=kind, type=AvroType(kind=kind)) for kind in ("long", "string"))
    lists = AvroField(name="lists", type=AvroType(kind="array", items=number.type))
    bodies = Scan(AvroType(kind="record", fields=(number, lists, text)), [text], 0)
    body = b"\x02\x02\x04\x00\x02a"
    joined = [RawBatch(offsets=np.arange(2), times=np.arange(2), values=taken(body, body)) for _ in range(2)]
    for some in (taken(body), RawBatch.joined(joined).values, RawBatch.joined(joined).values.take([1, 2])):
        assert bodies.read(some)["string"].to_pylist() == ["a"] * len(some)
    arguments = fast._arguments(1, np.zeros(0, np.int64), np.zeros(0, np.int64), 1, fast._Buffers(10, 10, keyed=True))
    compile_for(*arguments)
    assert [set(loop.signatures) for loop in loops] == known


def test_loops_of_simulations_are_compiled_beforehand_even_where_topics_are_read_plainly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("numba")
    called = []
    monkeypatch.setattr(loops, "compiled_fill", lambda: called.append("fill"))
    monkeypatch.setattr(loops, "compiled_rows", lambda: called.append("rows"))
    monkeypatch.setattr(loops, "compiler", Compiler())
    monkeypatch.setattr(fast, "_unavailable", lambda: "it is for other machines")
    with pytest.raises(UsageError, match="it is for other machines"):
        compile_loops()
    assert called == ["fill", "rows"]


def test_without_the_compiler_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "_unavailable", lambda: "numba is not installed")
    with pytest.raises(UsageError, match="numba is not installed"):
        compile_loops()
