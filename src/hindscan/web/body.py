"""Bodies of requests: JSON read as strictly as an event's (promise 5), and what the OpenAPI document says of them.

The framework's own reader takes NaN, keeps the last of two equal keys and passes half a surrogate pair on to the store; two readers of such a body would not
understand the same. Here each is a fault, as in `events.strict`.
"""

from __future__ import annotations

import re
from typing import Any, Final

from fastapi import Request
from starlette.exceptions import HTTPException

from hindscan.errors import UsageError
from hindscan.events import wire
from hindscan.events.strict import json_fault, parse_json, shown

__all__ = ["ANYTHING", "AUDIT", "DOCUMENT", "EVENTS", "REPLAY", "json_object"]

_ANY_OBJECT: Final = {"type": "object"}
#: Of a path whose body is a JSON object, or nothing.
DOCUMENT: Final[dict[str, Any]] = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {"schema": {"type": "object", "properties": {"parameters": {"type": "object"}}}},
        },
    }
}
#: Of the path that takes events.
EVENTS: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            wire.STRUCTURED_MEDIA_TYPE: {"schema": _ANY_OBJECT},
            wire.BATCH_MEDIA_TYPE: {"schema": {"type": "array", "items": _ANY_OBJECT}},
        },
    }
}


def _members(**kinds: str) -> dict[str, Any]:
    """Describe a body of optional members, and no others."""
    properties = {name: {"type": kind} for name, kind in kinds.items()}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}


#: Of the paths that begin a replay and an audit.
REPLAY: Final = _members(
    since="string", until="string", name="string", repin="boolean", from_topic="boolean", dry_run="boolean"
)
AUDIT: Final = _members(since="string", until="string", repair="boolean")

_JSON: Final = re.compile(r'application/json\s*(;\s*charset="?(utf-?8|us-ascii)"?\s*)?', re.IGNORECASE)


async def json_object(request: Request) -> dict[str, Any]:
    """Read the body as a JSON object; no body is an empty one.

    Raises
    ------
    HTTPException
        415: it is something else, or in another charset.
    hindscan.errors.UsageError
        It is no JSON, not an object, or holds what two readers would understand differently.
    """
    body = await request.body()
    if not body:
        return {}
    kinds = request.headers.getlist("content-type")
    if len(kinds) != 1 or not _JSON.fullmatch(kinds[0].strip()):
        raise HTTPException(
            415, f"The body must be application/json in UTF-8; its content type is {', '.join(kinds) or 'not told'}."
        )
    try:
        document = parse_json(body)
        fault = json_fault(document, "the body")
    except ValueError as unread:
        document, fault = None, str(unread)
    if fault is None and not isinstance(document, dict):
        fault = f"it must be an object, and is {shown(document)}"
    if fault is not None:
        raise UsageError(f"Reading the body of the request: {fault}. Send one JSON object in UTF-8.", faults=[fault])
    assert isinstance(document, dict)
    return document


#: What a trigger says that its bodies are.
ANYTHING: Final[dict[str, Any]] = {"requestBody": {"content": {"*/*": {}}}}
