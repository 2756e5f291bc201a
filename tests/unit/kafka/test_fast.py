"""Memory of the fast client: what is used again, and what is given back."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hindscan.kafka import fast


def test_buffers_are_free_when_nothing_that_is_laid_over_them_is_left() -> None:
    buffers = fast._Buffers(100, 1000, keyed=True)
    assert buffers.are_free()
    for at in range(8):
        view = part_of(buffers, at)
        assert not buffers.are_free()
        column = pa.Array.from_buffers(pa.int8(), 2, [None, pa.py_buffer(view.data)])
        del view
        part = column.slice(1, 1)
        del column
        assert not buffers.are_free()
        del part
        assert buffers.are_free()


def part_of(buffers: fast._Buffers, at: int) -> np.ndarray:
    return (*buffers.values, *buffers.keys, buffers.offsets, buffers.times)[at][:60]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_the_compiler_can_be_used_again_after_its_pages_were_given_back() -> None:
    numba = pytest.importorskip("numba")
    assert numba.njit(lambda x: x + 1)(np.int64(1)) == 2
    before = compiler_kilobytes()
    fast._let_go_of_compiler()
    assert compiler_kilobytes() < before / 10
    assert numba.njit(lambda x: x * 3)(np.int64(2)) == 6


def compiler_kilobytes() -> int:
    """Memory that the code of the compiler's library takes in this process."""
    of_it, kilobytes = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            of_it = "libllvmlite" in line and " r-xp " in line
        elif of_it and line.startswith("Rss:"):
            kilobytes += int(line.split()[1])
    return kilobytes
