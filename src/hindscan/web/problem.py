"""Errors over HTTP: RFC 9457 problem documents, made from the tree in `errors`.

The class gives status and title, the message the detail; details of the error become members. What is not a `HindscanError` is a bug:
500, without its text, which goes to the log.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import msgspec

from hindscan.errors import HindscanError

__all__ = ["SCHEMA", "challenge_of", "problem_bytes", "problem_of"]

#: Of every problem document, for the OpenAPI document.
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "faults": {"type": "array", "description": "All that is wrong, one by one."},
        "error": {"type": "string", "description": "Name of the class in hindscan.errors."},
    },
}

_RESERVED = frozenset({"type", "title", "status", "detail", "instance"})


def problem_bytes(status: int, detail: str, **members: object) -> bytes:
    """Write a problem document."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **members,
    }
    return msgspec.json.encode(document, enc_hook=str)


def problem_of(error: HindscanError) -> bytes:
    """Write the problem document of an error."""
    members = {name: value for name, value in error.details.items() if name not in _RESERVED}
    members.setdefault("error", type(error).__name__)
    return problem_bytes(error.status, str(error), **members)


def challenge_of(error: HindscanError) -> str | None:
    """Give the challenge (`WWW-Authenticate`) that goes with an error; None: it is not for want of a proof.

    RFC 9110, 15.5.2: a 401 MUST say how to do better.
    """
    return str(error.details["scheme"]) if error.status == 401 else None
