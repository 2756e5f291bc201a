"""The type system of CloudEvents: each rule for names and values of attributes below the sentence it comes from.

Pure checks on single values, used by `event` to find all faults of an event at once (promise 5) and by `filters` to
refuse a name that no event can have.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from hindscan.events.strict import shown

__all__ = [
    "attribute_name_fault",
    "disallowed_character",
    "format_time",
    "is_absolute_uri",
    "is_media_type",
    "is_uri_reference",
    "parse_time",
]


def attribute_name_fault(name: object) -> str | None:
    """Tell why this cannot be the name of an attribute, or None."""
    if not isinstance(name, str):
        return f"the name {shown(name)} is not a string"
    # "MUST NOT use the name `data` as this is reserved for use by some event formats."
    if name == "data":
        return "the name `data` is reserved"
    # The rules: "MUST consist of lower-case letters [a-z] or digits [0-9] from the ASCII character set." "MUST be at least one
    # character in length, and SHOULD NOT exceed 20 characters." The second half is enforced too: other readers drop
    # or refuse longer names, so what depends on one gets lost on some way; here it is told instead.
    if not _NAME.fullmatch(name):
        return f"the name {shown(name)} must be 1 to 20 characters, each a lower-case letter a-z or a digit"
    return None


def disallowed_character(text: str) -> tuple[str, int] | None:
    """Find the first character that no attribute may hold, as its code point and place, or None."""
    # "The following characters are disallowed: the "control characters" in the ranges U+0000-U+001F and U+007F-U+009F
    # [...]; code points identified as noncharacters by Unicode; code points identifying Surrogates [...] unless used
    # properly in pairs."
    if text.isascii() and text.isprintable():
        return None
    found = _DISALLOWED.search(text)
    return (f"U+{ord(found[0]):04X}", found.start()) if found else None


_NAME: Final = re.compile(r"[a-z0-9]{1,20}")
_DISALLOWED: Final = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\ufdd0-\\ufdef"
    + "".join(f"\\U{plane:04x}fffe\\U{plane:04x}ffff" for plane in range(17))
    + "]"
)

# RFC 2045, 5.1: type "/" subtype *(";" parameter), the value of a parameter a token or a quoted string.
_TOKEN: Final = r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]+"
_MEDIA_TYPE: Final = re.compile(rf'{_TOKEN}/{_TOKEN}(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|"(?:[^"\\]|\\.)*"))*')

# RFC 3986, appendix A. The alternatives of a repetition never begin alike, so that matching takes linear time.
_CHAR: Final = r"[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2}"
_CHAR_NO_COLON: Final = r"[A-Za-z0-9\-._~!$&'()*+,;=@]|%[0-9A-Fa-f]{2}"
_NAME_CHAR: Final = r"[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2}"
_HOST: Final = rf"\[(?P<ip>[0-9A-Fa-f:.]+|v[0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+)\]|(?:{_NAME_CHAR})*"
_AUTHORITY: Final = rf"//(?:(?:{_NAME_CHAR}|:)*@)?(?:{_HOST})(?::[0-9]*)?"
_SEGMENTS: Final = rf"(?:/(?:{_CHAR})*)*"
_ROOTED: Final = rf"/(?:(?:{_CHAR})+{_SEGMENTS})?"
_QUERY: Final = rf"(?:\?(?:{_CHAR}|[/?])*)?"
_FRAGMENT: Final = rf"(?:\#(?:{_CHAR}|[/?])*)?"
_SCHEME: Final = r"[A-Za-z][A-Za-z0-9+\-.]*:"
_ABSOLUTE: Final = re.compile(rf"{_SCHEME}(?:{_AUTHORITY}{_SEGMENTS}|{_ROOTED}|(?:{_CHAR})+{_SEGMENTS}|){_QUERY}")
_ABSOLUTE_WITH_FRAGMENT: Final = re.compile(_ABSOLUTE.pattern + _FRAGMENT)
_RELATIVE: Final = re.compile(
    rf"(?:{_AUTHORITY}{_SEGMENTS}|{_ROOTED}|(?:{_CHAR_NO_COLON})+{_SEGMENTS}|){_QUERY}{_FRAGMENT}"
)


def is_media_type(text: str) -> bool:
    """Tell whether a text is a media type with well-formed parameters (RFC 2045, 5.1)."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def is_uri_reference(text: str) -> bool:
    """Tell whether a text is a URI-reference (RFC 3986, 4.1)."""
    return _valid_host(_RELATIVE.fullmatch(text) or _ABSOLUTE_WITH_FRAGMENT.fullmatch(text))


def is_absolute_uri(text: str) -> bool:
    """Tell whether a text is an absolute URI (RFC 3986, 4.3): with a scheme, without a fragment."""
    return _valid_host(_ABSOLUTE.fullmatch(text))


def _valid_host(found: re.Match[str] | None) -> bool:
    if found is None:
        return False
    address = found["ip"]
    if address is None or address[0] in "vV":
        return True
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True


_RFC_3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:(?:(60)|\d\d)(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
)


def parse_time(text: str) -> datetime:
    """Read an RFC 3339 time, as an aware time in UTC, cut to the microsecond.

    Raises
    ------
    ValueError
        If it is not one, or lies outside of the years 1 to 9999.
    """
    # "If present, MUST adhere to the format specified in RFC 3339".
    found = _RFC_3339.fullmatch(text)
    if found is None:
        raise ValueError(
            f"it must be an RFC 3339 time with its offset, such as 2018-04-05T17:31:00Z, and is {shown(text)}"
        )
    leap = found[1] is not None
    readable = text[: found.start(1)] + "59" + text[found.end(1) :] if leap else text
    try:
        time = datetime.fromisoformat(readable.upper())
        if time.tzinfo is not UTC:
            time = time.astimezone(UTC)
    except (ValueError, OverflowError) as fault:
        raise ValueError(f"it is not a time that exists in the years 1 to 9999: {shown(text)}") from fault
    return _before_leap(time, text) if leap else time


def _before_leap(time: datetime, text: str) -> datetime:
    # RFC 3339, 5.7: a second of 60 is a leap second, which only the last minute of a month in UTC can have. No datetime
    # can: it is kept as the last microsecond before the next minute.
    if (time.hour, time.minute) != (23, 59) or (time + timedelta(days=1)).day != 1:
        raise ValueError(f"it has a leap second where there is none: {shown(text)}")
    return time.replace(microsecond=999_999)


def format_time(time: datetime) -> str:
    """Write an aware time as RFC 3339 in UTC, with as many digits as it has."""
    return f"{(time if time.tzinfo is UTC else time.astimezone(UTC)).isoformat()[:-6]}Z"
