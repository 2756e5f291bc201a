"""The compiled loop of `kafka.fast`: messages of a queue of librdkafka into buffers.

Keeps promise 2 by taking nothing but the next message, in order: it stops before a record that is at or beyond the end, before an event, and before a record
for which there is no room; what it stopped at stays among the messages that are held. Offsets that do not rise are not its business; the reader judges them.

Loaded only where a topic is read fast: it is compiled once per machine (about a second) and then read from numba's cache. Functions of the library are called by their
addresses, which travel in an array, so that what is compiled does not depend on where the library lies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, typeof, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["compile_for", "drain"]

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)

#: Places of the fields of `rd_kafka_message_t` that are read: `kafka.fast._Message` has the whole.
_ERR, _PAYLOAD, _LEN, _KEY, _KEY_LEN, _OFFSET = 0, 24, 32, 40, 48, 56


@intrinsic
def _word(_context: Any, address: Any):
    """Read eight bytes at an address."""

    def made(_context, builder, _signature, given):
        return builder.load(builder.inttoptr(given[0], _I64.as_pointer()), align=1)

    return types.int64(types.int64), made


@intrinsic
def _half(_context: Any, address: Any):
    """Read four bytes at an address."""

    def made(_context, builder, _signature, given):
        return builder.load(builder.inttoptr(given[0], _I32.as_pointer()), align=1)

    return types.int32(types.int64), made


@intrinsic
def _fetch(_context: Any, function: Any, queue: Any, wait: Any, messages: Any, size: Any):
    """Call `rd_kafka_consume_batch_queue`."""

    def made(_context, builder, _signature, given):
        kind = ir.FunctionType(_I64, [_I64, _I32, _I64, _I64])
        function, queue, wait, messages, size = given
        called = builder.inttoptr(function, kind.as_pointer())
        return builder.call(called, [queue, builder.trunc(wait, _I32), messages, size])

    return types.int64(types.int64, types.int64, types.int64, types.int64, types.int64), made


@intrinsic
def _time(_context: Any, function: Any, message: Any, kind: Any):
    """Call `rd_kafka_message_timestamp`."""

    def made(_context, builder, _signature, given):
        called = builder.inttoptr(given[0], ir.FunctionType(_I64, [_I64, _I64]).as_pointer())
        return builder.call(called, given[1:])

    return types.int64(types.int64, types.int64, types.int64), made


@intrinsic
def _destroy(_context: Any, function: Any, message: Any):
    """Call `rd_kafka_message_destroy`."""

    def made(context, builder, _signature, given):
        called = builder.inttoptr(given[0], ir.FunctionType(ir.VoidType(), [_I64]).as_pointer())
        builder.call(called, given[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), made


@intrinsic
def _copy(_context: Any, target: Any, source: Any, size: Any):
    """Copy bytes from address to address."""

    def made(context, builder, _signature, given):
        pointer = _I8.as_pointer()
        target, source = builder.inttoptr(given[0], pointer), builder.inttoptr(given[1], pointer)
        cgutils.raw_memcpy(builder, target, source, given[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), made


@njit(nogil=True, cache=True)
def drain(
    addresses, queue, messages, state, end, wait,
    values, places, there, keys, key_places, key_there, offsets, times,
):  # fmt: skip
    """Move messages into the buffers; give why it stopped: 0 nothing came, 1 full, 2 a record at or beyond the end, 3 an event.

    Keys are taken where there is room for any.
    """
    fetch, destroy, time_of = addresses[0], addresses[1], addresses[2]
    kind = np.zeros(1, np.int64)
    target, key_target = values.ctypes.data, keys.ctypes.data
    with_keys = key_there.shape[0] > 0
    count, size, key_size = 0, 0, 0
    places[0] = key_places[0] = 0
    why = -1
    while why < 0:
        at, held = state[0], state[1]
        if at >= held:
            got = _fetch(fetch, queue, wait, messages.ctypes.data, messages.shape[0])
            state[0], state[1] = 0, max(got, 0)
            if got <= 0:
                why = 0
            continue
        message = messages[at]
        length = _word(message + _LEN)
        key_length = _word(message + _KEY_LEN) if with_keys else 0
        if _half(message + _ERR) != 0:
            why = 3
        elif _word(message + _OFFSET) >= end:
            why = 2
        elif count >= offsets.shape[0] or size + length > values.shape[0] or key_size + key_length > keys.shape[0]:
            why = 1
        else:
            payload = _word(message + _PAYLOAD)
            there[count] = payload != 0
            if payload != 0:
                _copy(target + size, payload, length)
                size += length
            if with_keys:
                key = _word(message + _KEY)
                key_there[count] = key != 0
                if key != 0:
                    _copy(key_target + key_size, key, key_length)
                    key_size += key_length
                key_places[count + 1] = key_size
            offsets[count] = _word(message + _OFFSET)
            times[count] = _time(time_of, message, kind.ctypes.data)
            count += 1
            places[count] = size
            _destroy(destroy, message)
            state[0] = at + 1
    state[2] = count
    return why


def compile_for(*arguments: Any) -> None:
    """Compile the loop for arguments of these types, or load it where it is compiled."""
    drain.compile(tuple(map(typeof, arguments)))
