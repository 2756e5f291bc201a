"""The bits of a float as a word, and back, for loops that numba compiles.

Serves promise 8: a loop that takes numbers apart must do it as numpy does with a view of an array. Loaded only with the compiler.

::

    jobs.normal -> as_word, as_float -> its compiled loop
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["as_float", "as_word"]


@intrinsic
def as_float(context, word):
    """Give the float that has these bits."""
    return types.float64(types.uint64), lambda _context, builder, _signature, given: builder.bitcast(
        given[0], ir.DoubleType()
    )


@intrinsic
def as_word(context, number):
    """Give the bits of a float."""
    return types.uint64(types.float64), lambda _context, builder, _signature, given: builder.bitcast(
        given[0], ir.IntType(64)
    )
