"""What the compiled loops of the decoders do with memory: bytes and words at an address, texts put one after another.

Serves promise 2 at wire speed, as a part of `json_scan` and `formats.avro_scan`: they work on addresses, since an index into an array costs a test for being negative,
with every byte. Nothing here looks where an address leads; whoever calls has seen that it lies within a record.

Loaded only where topics are decoded fast; numba compiles it once per machine and keeps it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

__all__ = ["byte_at", "gather", "word_at"]


@intrinsic
def byte_at(_context: Any, address: Any):
    """Read the byte at an address."""

    def made(_context, builder, _signature, given):
        kind = ir.IntType(8)
        return builder.zext(builder.load(builder.inttoptr(given[0], kind.as_pointer())), ir.IntType(64))

    return types.int64(types.int64), made


@intrinsic
def word_at(_context: Any, address: Any):
    """Read the eight bytes at an address."""

    def made(_context, builder, _signature, given):
        return builder.load(builder.inttoptr(given[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(types.int64), made


@njit(nogil=True, cache=True)
def gather(begins, places, content):
    """Copy texts one after another, each to its place."""
    for row in range(begins.shape[0]):
        at = begins[row]
        for place in range(places[row], places[row + 1]):
            content[place] = byte_at(at)
            at += 1
