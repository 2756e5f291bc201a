"""What an event carries: its data in one form, whichever way it came (promise 5).

Data of a JSON media type is the decoded value; data of a text type is a string where it is UTF-8; all other data is bytes; data without a media type that is not bytes
is `application/json`, "exactly equivalent" by the specification. An empty body and a JSON `null` are no data: HTTP cannot tell them from it. So the same data sent
twice is equal and has one digest. Sentences in quotes are the specification's (see `event`).

::

    data + media type -> one_form -> JSON | str | bytes -> written | digest
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from typing import Any, Final, TypeAlias

import msgspec

from hindscan.events.strict import compact_json, json_fault, parse_json, shown

__all__ = ["JSON", "JSON_MEDIA_TYPE", "digest", "from_base64", "one_form", "written"]

#: A decoded JSON value.
JSON: TypeAlias = dict[str, Any] | list[Any] | str | int | float | bool | None

JSON_MEDIA_TYPE: Final = "application/json"

_CHARSET: Final = re.compile(r';[ \t]*charset="?([^";]*)', re.IGNORECASE)
_UTF8_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
#: One for all events: making it costs more than most of them.
_CANONICAL: Final = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def one_form(data: Any, media_type: str | None) -> tuple[JSON | bytes, str | None]:
    """Bring data to its one form.

    Returns
    -------
    (JSON or bytes, str or None)
        The data, and its media type, which may have been left out.

    Raises
    ------
    ValueError
        The data is not what its media type says.
    """
    kind, readable = _media(media_type)
    if data is None or data == b"" or (data == "" and kind not in ("json", "unknown")):
        return None, media_type
    if kind == "unknown":
        # "a JSON-format event with no `datacontenttype` is exactly equivalent to one with
        # `datacontenttype="application/json"`", but for Binary data: "If a `datacontenttype` value is not provided,
        # no assumptions can be made as to the format of the data".
        return (data, None) if isinstance(data, bytes) else (_checked_json(data), JSON_MEDIA_TYPE)
    if kind == "json":
        if not isinstance(data, bytes):
            return _checked_json(data), media_type
        if not readable:
            raise ValueError(f"JSON must be in UTF-8, and {shown(media_type)} says otherwise")
        return _checked_json(parse_json(data)), media_type
    if isinstance(data, bytes):
        return _as_text(data) if kind == "text" and readable else data, media_type
    if not isinstance(data, str):
        raise ValueError(f"with {shown(media_type)} it must be text or bytes, and is {shown(data)}")  # noqa: TRY004 - collected
    if not readable:
        # "An implementation MAY fail to deserialize the event if [...] it is unable to interpret the `data` with the
        # `datacontenttype`."
        raise ValueError(f"text must be in UTF-8, and {shown(media_type)} says otherwise: send it as data_base64")
    wrong = json_fault(data, "it")
    if wrong is not None:
        raise ValueError(wrong)
    return data if kind == "text" else data.encode(), media_type


def from_base64(encoded: object) -> bytes:
    """Decode `data_base64`; a `ValueError` says what is wrong."""
    # "the presence of the `data_base64` member clearly indicates that the value is a Base64 encoded binary data,
    # which the deserializer MUST decode"
    if not isinstance(encoded, str):
        raise ValueError(f"it must be a string, and is {shown(encoded)}")  # noqa: TRY004 - collected
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as fault:
        raise ValueError(f"it is not Base64 (RFC 4648, 4): {fault}") from fault


def written(data: JSON | bytes, media_type: str | None) -> bytes | None:
    """Give data as its media type writes it, or None for none."""
    if data is None or isinstance(data, bytes):
        return data
    if isinstance(data, str) and _media(media_type)[0] == "text":
        return data.encode()
    try:
        return msgspec.json.encode(data)
    except (OverflowError, TypeError, UnicodeEncodeError):
        # A whole number of more than 64 bits.
        return compact_json(data)


def digest(data: JSON | bytes) -> str:
    """Digest data: equal for equal ones, whatever the binding, the order of keys or the spaces they came with."""
    kind, content = (b"bytes:", data) if isinstance(data, bytes) else (b"json:", _CANONICAL.encode(data).encode())
    return f"sha256:{hashlib.sha256(kind + content).hexdigest()}"


def _media(media_type: str | None) -> tuple[str, bool]:
    """Tell how data of a media type is kept (as json, text, bytes or unknown), and whether its text is UTF-8."""
    if media_type == JSON_MEDIA_TYPE:
        return "json", True
    if media_type is None:
        return "unknown", True
    charset = _CHARSET.search(media_type)
    readable = charset is None or charset[1].strip().lower() in _UTF8_CHARSETS
    # "the media type part of the content type MUST be treated in a case-insensitive manner by consumers"
    name = media_type.partition(";")[0].strip().lower()
    # "a `datacontenttype` declares JSON-formatted content if its media type, when stripped of parameters, has the form
    # `*/json` or `*/*+json`."
    if name.endswith(("/json", "+json")):
        return "json", readable
    return ("text" if name.startswith("text/") or name.endswith(("/xml", "+xml")) else "bytes"), readable


def _checked_json(value: object) -> JSON:
    wrong = json_fault(value, "it")
    if wrong is not None:
        raise ValueError(wrong)
    return value  # type: ignore[return-value]


def _as_text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
