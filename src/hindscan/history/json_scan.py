"""The compiled loop of `json_fast`: one pass over each record, from bytes to columns.

Keeps promise 2 by being narrow: it takes a record only where every byte of it is what it expects, and leaves each other one, whatever is odd about it, to
the reference decoder. So what it accepts must be accepted by the reference with the same values, and nothing more is asked of it.

What it expects: one object; names without escapes, each wanted one at most once; of wanted values whole numbers of 18 digits at most, texts without escapes, times
of one spelling, true and false, short decimal numbers; of others any JSON without exponents, nested some levels deep. Bytes have been found to be UTF-8 before.
It works on addresses; see `addresses`.

Loaded only where topics are decoded fast; numba compiles it once per machine and keeps it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from hindscan.history.addresses import byte_at, word_at

__all__ = ["BOOL", "FLOAT", "INTEGER", "TEXT", "TIME", "scan"]

#: Kinds of column.
INTEGER, TEXT, TIME, BOOL, FLOAT = range(5)

#: Levels below the record that are skipped here.
_DEPTH = 24
#: Digits that fit an int64 whatever they are.
_DIGITS = 18
#: Characters of a decimal number that is handed on as it is.
_FLOAT_CHARACTERS = 24
#: An integer of so many is held by a double, whichever it is.
_EXACT_CHARACTERS = 15

_QUOTE, _BACKSLASH, _COLON, _COMMA, _MINUS, _DOT, _ZERO = 34, 92, 58, 44, 45, 46, 48
_OBJECT, _END_OBJECT, _LIST, _END_LIST = 123, 125, 91, 93


_ONES, _HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_QUOTES, _BACKSLASHES, _BLANKS = _ONES * np.uint64(34), _ONES * np.uint64(92), _ONES * np.uint64(32)


@intrinsic
def _first(_context: Any, marks: Any):
    """Give which of eight bytes is the first that is marked by its highest bit."""

    def made(_context, builder, _signature, given):
        zeros = builder.cttz(given[0], ir.Constant(ir.IntType(1), 1))
        return builder.lshr(zeros, ir.Constant(ir.IntType(64), 3))

    return types.int64(types.uint64), made


@njit(nogil=True, cache=True)
def _space(at, end):
    """Give the place of the next byte that is no white space."""
    if at < end and byte_at(at) > 32:
        return at  # nearly always, and then one question is enough
    while at < end and (byte_at(at) == 32 or byte_at(at) == 10 or byte_at(at) == 13 or byte_at(at) == 9):
        at += 1
    return at


@njit(nogil=True, cache=True)
def _text(at, end):
    """Give the place of the quote that ends a text without escapes; -1 where there is none."""
    while at + 8 <= end:
        word = word_at(at)
        quotes, escapes = word ^ _QUOTES, word ^ _BACKSLASHES
        # A byte is marked where it is zero here; one above a marked one may be marked too, and is never the first.
        marks = ((quotes - _ONES) & ~quotes) | ((escapes - _ONES) & ~escapes) | ((word - _BLANKS) & ~word)
        marks &= _HIGHS
        if marks != 0:
            at += _first(marks)
            return at if byte_at(at) == _QUOTE else -1
        at += 8
    while at < end:
        byte = byte_at(at)
        if byte == _QUOTE:
            return at
        if byte == _BACKSLASH or byte < 32:
            return -1
        at += 1
    return -1


@njit(nogil=True, cache=True)
def _number(at, end):
    """Give the place after a number without exponent; -1 where there is none."""
    if at < end and byte_at(at) == _MINUS:
        at += 1
    first = at
    while at < end and 48 <= byte_at(at) <= 57:
        at += 1
    if at == first or (byte_at(first) == _ZERO and at > first + 1):
        return -1
    if at < end and byte_at(at) == _DOT:
        at += 1
        first = at
        while at < end and 48 <= byte_at(at) <= 57:
            at += 1
        if at == first:
            return -1
    if at < end and (byte_at(at) == 101 or byte_at(at) == 69):
        return -1
    return at


@njit(nogil=True, cache=True)
def _is_held(at, stop):
    """Tell whether a number is no integer that a double may not hold; minus nought is one, as an integer has none."""
    if stop - at <= _EXACT_CHARACTERS:
        return not (stop - at == 2 and byte_at(at) == _MINUS and byte_at(at + 1) == _ZERO)
    while at < stop:
        if byte_at(at) == _DOT:
            return True
        at += 1
    return False


@njit(nogil=True, cache=True)
def _literal(at, end):
    """Give the place after true, false or null; -1 where there is none."""
    if at + 4 <= end:
        if byte_at(at) == 116 and byte_at(at + 1) == 114 and byte_at(at + 2) == 117 and byte_at(at + 3) == 101:
            return at + 4
        if byte_at(at) == 110 and byte_at(at + 1) == 117 and byte_at(at + 2) == 108 and byte_at(at + 3) == 108:
            return at + 4
        if (
            at + 5 <= end
            and byte_at(at) == 102
            and byte_at(at + 1) == 97
            and byte_at(at + 2) == 108
            and byte_at(at + 3) == 115
            and byte_at(at + 4) == 101
        ):
            return at + 5
    return -1


@njit(nogil=True, cache=True)
def _scalar(at, end):
    """Give the place after a value that is neither object nor list; -1 where there is none."""
    if at >= end:
        return -1
    if byte_at(at) == _QUOTE:
        stop = _text(at + 1, end)
        return stop + 1 if stop >= 0 else -1
    if byte_at(at) == _MINUS or 48 <= byte_at(at) <= 57:
        return _number(at, end)
    return _literal(at, end)


@njit(nogil=True, cache=True)
def _skip(at, end, stack):
    """Give the place after any value; -1 where it is not what is expected."""
    if at >= end:
        return -1
    if byte_at(at) != _OBJECT and byte_at(at) != _LIST:
        return _scalar(at, end)
    depth = 0
    is_begun = True  # a value or a name is expected next, or the end of an empty level
    stack[0] = byte_at(at)
    depth = 1
    at += 1
    while depth > 0:
        at = _space(at, end)
        if at >= end:
            return -1
        in_object = stack[depth - 1] == _OBJECT
        closes = _END_OBJECT if in_object else _END_LIST
        if byte_at(at) == closes and is_begun:
            depth -= 1
            at += 1
            is_begun = False
        else:
            if not is_begun:
                if byte_at(at) == closes:
                    depth -= 1
                    at += 1
                    continue
                if byte_at(at) != _COMMA:
                    return -1
                at = _space(at + 1, end)
            if in_object:
                if at >= end or byte_at(at) != _QUOTE:
                    return -1
                stop = _text(at + 1, end)
                if stop < 0:
                    return -1
                at = _space(stop + 1, end)
                if at >= end or byte_at(at) != _COLON:
                    return -1
                at = _space(at + 1, end)
            if at >= end:
                return -1
            if byte_at(at) == _OBJECT or byte_at(at) == _LIST:
                if depth >= _DEPTH:
                    return -1
                stack[depth] = byte_at(at)
                depth += 1
                at += 1
                is_begun = True
            else:
                at = _scalar(at, end)
                if at < 0:
                    return -1
                is_begun = False
    return at


@njit(nogil=True, cache=True)
def _two(at):
    """Give the number two digits make; -1 where they are none."""
    high, low = (byte_at(at)) - 48, (byte_at(at + 1)) - 48
    if high < 0 or high > 9 or low < 0 or low > 9:
        return -1
    return high * 10 + low


@njit(nogil=True, cache=True)
def _time(at, end, digits):
    """Give the time a text tells, in units of that many digits of a second; -1 where it is not of the one spelling: YYYY-MM-DDTHH:MM:SS[.f][Z]."""
    size = end - at
    if size < 19:
        return -1
    century, decade = _two(at), _two(at + 2)
    month, day = _two(at + 5), _two(at + 8)
    hour, minute, second = _two(at + 11), _two(at + 14), _two(at + 17)
    if (
        byte_at(at + 4) != _MINUS
        or byte_at(at + 7) != _MINUS
        or byte_at(at + 13) != _COLON
        or byte_at(at + 16) != _COLON
    ):
        return -1
    if byte_at(at + 10) != 84 and byte_at(at + 10) != 32:
        return -1
    if century < 0 or decade < 0 or month < 1 or month > 12 or day < 1:
        return -1
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
        return -1
    year = century * 100 + decade
    if year < 1970 or year > 2199:
        return -1
    is_leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
    longest = 31
    if month == 2:
        longest = 29 if is_leap else 28
    elif month == 4 or month == 6 or month == 9 or month == 11:
        longest = 30
    if day > longest:
        return -1
    # Days since the epoch, of a calendar whose years begin in March.
    shifted = year - 1 if month <= 2 else year
    era_year = shifted % 400
    day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    days = (shifted // 400) * 146097 + era_year * 365 + era_year // 4 - era_year // 100 + day_of_year - 719468
    total = days * 86400 + hour * 3600 + minute * 60 + second
    at += 19
    got = 0
    if at < end and byte_at(at) == _DOT:
        at += 1
        while at < end and 48 <= byte_at(at) <= 57:
            if got >= digits:
                return -1  # finer than the column
            total = total * 10 + ((byte_at(at)) - 48)
            got += 1
            at += 1
        if got == 0:
            return -1
    while got < digits:
        total *= 10
        got += 1
    if at < end and byte_at(at) == 90:
        at += 1
    return total if at == end else -1


@njit(nogil=True, cache=True)
def _field(at, end, names, name_places, expected):
    """Give which wanted name stands here; -1 for another."""
    size = end - at
    count = name_places.shape[0] - 1
    for turn in range(count):
        column = expected + turn
        if column >= count:
            column -= count
        first = name_places[column]
        if name_places[column + 1] - first == size:
            same = True
            for i in range(size):
                if names[first + i] != byte_at(at + i):
                    same = False
                    break
            if same:
                return column
    return -1


@njit(nogil=True, cache=True)
def _integer(at, end):
    """Give a whole number and the place after it; the place is -1 where it is not short and whole."""
    negative = byte_at(at) == _MINUS
    if negative:
        at += 1
    first = at
    value = np.int64(0)
    while at < end and 48 <= byte_at(at) <= 57:
        value = value * 10 + ((byte_at(at)) - 48)
        at += 1
        if at - first > _DIGITS:
            return 0, -1
    if at == first or (byte_at(first) == _ZERO and at > first + 1):
        return 0, -1
    if at < end and (byte_at(at) == _DOT or byte_at(at) == 101 or byte_at(at) == 69):
        return 0, -1
    return -value if negative else value, at


@njit(nogil=True, cache=True)
def _value(at, end, kind, digits, least, greatest):
    """Take one wanted value: the place after it, -1 where it is not expected; its number or where its text begins; where that ends."""
    byte = byte_at(at)
    if kind == TEXT or (kind == TIME and byte == _QUOTE):
        if byte != _QUOTE:
            return -1, 0, 0
        stop = _text(at + 1, end)
        if stop < 0:
            return -1, 0, 0
        if kind == TIME:
            time = _time(at + 1, stop, digits)
            return stop + 1 if time >= 0 else -1, time, 0
        return stop + 1, at + 1, stop
    if kind == BOOL:
        if byte == 110:
            return -1, 0, 0  # null is no value
        return _literal(at, end), 1 if byte == 116 else 0, 0
    if byte != _MINUS and not 48 <= byte <= 57:
        return -1, 0, 0
    if kind == FLOAT:
        stop = _number(at, end)
        return stop if stop - at <= _FLOAT_CHARACTERS and _is_held(at, stop) else -1, at, stop
    number, stop = _integer(at, end)
    return stop if least <= number <= greatest else -1, number, 0


@njit(nogil=True, cache=True)
def _any(at, end, stack):
    """Give the place after any value; -1 where it is not what is expected. Texts and numbers, which are most, at once."""
    byte = byte_at(at)
    if byte == _QUOTE:
        stop = _text(at + 1, end)
        return stop + 1 if stop >= 0 else -1
    if byte == _MINUS or 48 <= byte <= 57:
        return _number(at, end)
    return _skip(at, end, stack)


@njit(nogil=True, cache=True)
def _same(at, other, size):
    """Tell whether the same bytes stand in two places."""
    while size >= 8:
        if word_at(at) != word_at(other):
            return False
        at, other, size = at + 8, other + 8, size - 8
    while size > 0:
        if byte_at(at) != byte_at(other):
            return False
        at, other, size = at + 1, other + 1, size - 1
    return True


@njit(nogil=True, cache=True)
def _record(at, end, names, name_places, kinds, digits, least, greatest, nullable, there, begins, ends, row, stack):
    """Take one record; tell whether it was what is expected."""
    count = kinds.shape[0]
    at = _space(at, end)
    if at >= end or byte_at(at) != _OBJECT:
        return False
    at = _space(at + 1, end)
    expected, found, is_first = 0, 0, True
    while True:
        if at >= end:
            return False
        if byte_at(at) == _END_OBJECT:
            at += 1
            break
        if not is_first:
            if byte_at(at) != _COMMA:
                return False
            at = _space(at + 1, end)
        is_first = False
        if at >= end or byte_at(at) != _QUOTE:
            return False
        stop = _text(at + 1, end)
        if stop < 0:
            return False
        column = _field(at + 1, stop, names, name_places, expected)
        at = _space(stop + 1, end)
        if at >= end or byte_at(at) != _COLON:
            return False
        at = _space(at + 1, end)
        if at >= end:
            return False
        if column < 0:
            at = _any(at, end, stack)
            if at < 0:
                return False
        else:
            if there[column, row] != 2:
                return False  # the same name twice
            expected = column + 1
            found += 1
            if byte_at(at) == 110:
                at = _literal(at, end)
                if at < 0 or not nullable[column]:
                    return False
                there[column, row] = 0
            else:
                at, begin, stop = _value(at, end, kinds[column], digits[column], least[column], greatest[column])
                if at < 0:
                    return False
                there[column, row] = 1
                begins[column, row] = begin
                ends[column, row] = stop
        at = _space(at, end)
    if _space(at, end) != end:
        return False
    if found < count:
        for column in range(count):
            if there[column, row] == 2:
                if not nullable[column]:
                    return False
                there[column, row] = 0
    return True


@njit(nogil=True, cache=True)
def scan(
    data, places, names, name_places, kinds, digits, least, greatest, nullable, between, between_places, members,
    taken, there, begins, ends,
):  # fmt: skip
    """Take every record that is what is expected.

    `between` is how a record is laid out: the bytes before, between and after its values, each up to the place in `between_places`, and for each value its column, or
    -1, in `members`. Records of that layout, which are usually all, are taken without looking for names; empty: none is known.
    `taken` tells which records were; `there`, by column and record, which values are not null (2: nothing is known); `begins` and `ends` where texts and decimal
    numbers lie; `begins` also holds whole numbers, times and truth values. Columns of records that were not taken hold nothing.
    """
    stack = np.zeros(_DEPTH + 1, np.uint8)
    base, pattern, count = data.ctypes.data, between.ctypes.data, members.shape[0]
    for row in range(taken.shape[0]):
        at, end = base + places[row], base + places[row + 1]
        # Not a function of its own: handing it all these arrays was seen to take as long as its work.
        is_like = True
        for member in range(count):
            first = between_places[member]
            size = between_places[member + 1] - first
            if size >= end - at or not _same(at, pattern + first, size):
                is_like = False
                break
            at += size
            column = members[member]
            if column < 0:
                at = _any(at, end, stack)
            else:
                at, begin, stop = _value(at, end, kinds[column], digits[column], least[column], greatest[column])
                there[column, row] = 1
                begins[column, row] = begin
                ends[column, row] = stop
            if at < 0:
                is_like = False
                break
        if is_like and count > 0:
            first = between_places[count]
            size = between_places[count + 1] - first
            if size == end - at and _same(at, pattern + first, size):
                taken[row] = True
                continue
        there[:, row] = 2
        taken[row] = _record(
            base + places[row], end, names, name_places, kinds, digits, least, greatest, nullable, there, begins, ends, row, stack
        )  # fmt: skip
