"""The compiled loop of `avro_fast`: one pass over each record, from the bytes of its body to columns.

Keeps promise 2 by being narrow: it takes a record only where every byte of it is what its schema says and its body ends where its last field does, and leaves each other
one, whatever is odd about it, to the reference. What it takes must be accepted by the reference with the same values.

The schema comes as a list of steps, made once: what to read next, into which column, and where to go on. Nulls and blocks of arrays and maps are jumps in that list, so
that a field that nobody asks for costs no more than its length.

Loaded only where topics are decoded fast; numba compiles it once per machine and keeps it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from hindscan.history.addresses import byte_at, word_at

__all__ = ["AGAIN", "BLOCK", "BOOL", "BYTES", "DOUBLE", "FIXED", "FLOAT", "GOES_ON", "LONG", "UNION", "scan"]

#: Kinds of step. The first six read a value, FIXED one of `SIZE` bytes. UNION reads a branch, and goes on at `GOES_ON` if it is that of null (`SIZE`); BLOCK reads how
#: many items follow, and goes on at `GOES_ON` if none do; AGAIN goes back to its block at `GOES_ON`. A block counts what is left in a place of its own (`COLUMN`).
LONG, BYTES, FIXED, BOOL, FLOAT, DOUBLE, UNION, BLOCK, AGAIN = range(9)
#: Places in a step; no column is -1.
KIND, COLUMN, SIZE, GOES_ON = range(4)

_ONE, _SEVEN, _LOW, _MORE = np.uint64(1), np.uint64(7), np.uint64(0x7F), np.uint64(0x80)
#: Bits before the last byte of the longest number, of which only one is left.
_LONGEST = np.uint64(63)


@intrinsic
def _half_at(_context: Any, address: Any):
    """Read the four bytes at an address, as a signed number."""

    def made(_context, builder, _signature, given):
        kind = ir.IntType(32)
        return builder.sext(builder.load(builder.inttoptr(given[0], kind.as_pointer()), align=1), ir.IntType(64))

    return types.int64(types.int64), made


@njit(nogil=True, cache=True)
def _long(at, end):
    """Give a number and the place after it; the place is -1 where it is none of 64 bits."""
    raw, shift = np.uint64(0), np.uint64(0)
    while at < end:
        byte = np.uint64(byte_at(at))
        at += 1
        if shift == _LONGEST and byte > _ONE:
            return np.int64(0), np.int64(-1)
        raw |= (byte & _LOW) << shift
        if byte < _MORE:
            return np.int64(raw >> _ONE) ^ -np.int64(raw & _ONE), at
        shift += _SEVEN
    return np.int64(0), np.int64(-1)


@njit(nogil=True, cache=True)
def scan(data, places, head_bytes, steps, left, taken, there, begins, ends):
    """Take every record that is what is expected.

    `taken` tells which records were; `there`, by column and record, which values are not null; `begins` and `ends` where bytes lie. `begins` also holds numbers and truth
    values; of a float its four bytes, of a double its eight. Columns of records that were not taken hold anything.
    """
    base, last = data.ctypes.data, steps.shape[0]
    for row in range(taken.shape[0]):
        at, end = base + places[row] + head_bytes, base + places[row + 1]
        step = 0
        while step < last and at >= 0:
            kind, column = steps[step, KIND], steps[step, COLUMN]
            if kind == LONG:
                number, at = _long(at, end)
                if column >= 0:
                    begins[column, row] = number
                    there[column, row] = 1
            elif kind == BYTES:
                size, at = _long(at, end)
                if size < 0 or size > end - at:
                    at = -1
                elif at >= 0:
                    if column >= 0:
                        begins[column, row] = at
                        ends[column, row] = at + size
                        there[column, row] = 1
                    at += size
            elif kind == UNION:
                branch, at = _long(at, end)
                if branch == steps[step, SIZE]:
                    if column >= 0:
                        begins[column, row] = ends[column, row] = 0
                        there[column, row] = 0
                    step = steps[step, GOES_ON]
                    continue
                if branch != 1 - steps[step, SIZE]:
                    at = -1
            elif kind == FIXED:
                size = steps[step, SIZE]
                if size > end - at:
                    at = -1
                else:
                    if column >= 0:
                        begins[column, row] = at
                        ends[column, row] = at + size
                        there[column, row] = 1
                    at += size
            elif kind in (FLOAT, DOUBLE):
                size = 4 if kind == FLOAT else 8
                if size > end - at:
                    at = -1
                else:
                    if column >= 0:
                        begins[column, row] = _half_at(at) if kind == FLOAT else np.int64(word_at(at))
                        there[column, row] = 1
                    at += size
            elif kind == BOOL:
                if at >= end or byte_at(at) > 1:
                    at = -1
                else:
                    if column >= 0:
                        begins[column, row] = byte_at(at)
                        there[column, row] = 1
                    at += 1
            elif kind == BLOCK:
                if left[column] == 0:
                    count, at = _long(at, end)
                    if count < 0:
                        count = -count
                        size, at = _long(at, end) if at >= 0 else (count, at)
                    if count < 0 or count > end - at:
                        at = -1  # an item takes a byte at least
                    left[column] = count
                    if count == 0:
                        step = steps[step, GOES_ON]
                        continue
            else:
                left[column] -= 1
                step = steps[step, GOES_ON]
                continue
            step += 1
        taken[row] = at == end and step == last
        if at < 0:
            left[:] = 0
