"""Heads of the wire format."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from hindscan.history.formats.confluent import bodies, head, split


@given(st.lists(st.binary(max_size=8) | st.integers(0, 2**32 - 1).map(head), max_size=12), st.integers(0, 3))
def test_heads_are_read_as_their_bytes_say(values: list[bytes], skipped: int) -> None:
    array = pa.array(values, pa.large_binary())[skipped:]
    values = values[skipped:]
    ids, bad = split(array)
    good = [len(value) >= 5 and value[0] == 0 for value in values]
    assert ids.tolist() == [
        int.from_bytes(value[1:5], "big") if ok else -1 for value, ok in zip(values, good, strict=True)
    ]
    assert [b.index for b in bad] == [at for at, ok in enumerate(good) if not ok]
    assert all(b.reason for b in bad)


def test_bodies_are_what_follows() -> None:
    assert bodies(pa.array([head(1) + b"abc", head(2), b"\x00\x00\x00\x00\x00x"], pa.large_binary())).to_pylist() == [
        b"abc",
        b"",
        b"x",
    ]
