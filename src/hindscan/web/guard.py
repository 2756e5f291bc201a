"""Closed by default (promise 12): what every request must pass before a route sees it.

A page in the operator's browser must not reach the dispatcher: the ``Host`` header has to be a loopback name on every request and method (DNS
rebinding), an ``Origin`` has to be our own (cross-site requests), head and body have limits of size and of time, and answers forbid sniffing and framing.
A body that its sender broke off is none: half an event must not become one. Rejects by default, never by guessing at user agents. Pure ASGI, so that
streaming answers stay streams.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from hindscan.web.problem import problem_bytes

__all__ = ["BODY_SECONDS", "MAX_BODY_BYTES", "MAX_HEAD_BYTES", "Guard"]

#: The largest request body: that of an event.
MAX_BODY_BYTES: Final = 1 << 20

#: All headers together with the target: the parser's own limit holds only for what has not come at once.
MAX_HEAD_BYTES: Final = 1 << 16
#: How long a body may take to come.
BODY_SECONDS: Final = 30.0

#: A loopback name and a port, nothing before, between or behind: what is more was made to be misread.
_LOOPBACK: Final = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or let it pass with a counted body and safe headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = _refusal(scope)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _body(receive)
        except TimeoutError:
            await _answer(send, 408, f"The body must be sent within {BODY_SECONDS:.0f} s; it was not.")
            return
        except _TooLong:
            await _answer(send, 413, f"The body must be at most {MAX_BODY_BYTES} bytes; it is longer.")
            return
        if body is None:
            return

        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, replay, send_safely)


class _TooLong(Exception):
    """The body is over the limit."""


def _refusal(scope: Scope) -> tuple[int, str] | None:
    """Tell status and reason why a request with this head cannot pass."""
    headers = dict(scope["headers"])
    size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(n) + len(v) for n, v in scope["headers"])
    if size > MAX_HEAD_BYTES:
        return 431, f"Target and headers must have at most {MAX_HEAD_BYTES} bytes; they have {size}."
    host = headers.get(b"host", b"").decode("latin-1")
    if not _LOOPBACK.fullmatch(host):
        return 421, f"The Host must be a loopback name; it is {host!r}. Requests from other hosts are not served."
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").lower() not in (
        f"http://{host}".lower(),
        f"https://{host}".lower(),
    ):
        return 403, "The Origin must be this server; requests made by other pages are not served."
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        return 415, "The body must come as it is, without Content-Encoding: what it unfolds to would have no limit."
    length = headers.get(b"content-length", b"0")
    if not length.isdigit():
        return 400, "Content-Length must be a number."
    if len(length) > 18 or int(length) > MAX_BODY_BYTES:
        return 413, f"The body must be at most {MAX_BODY_BYTES} bytes; it is {length.decode()}."
    # No name and no value has control characters, and PostgreSQL cannot take one of them.
    if _CONTROL.search(scope["raw_path"]) or _CONTROL.search(scope["query_string"]):
        return 400, "Path and query must not have control characters."
    return None


_CONTROL: Final = re.compile(rb"%(0[0-9a-f]|1[0-9a-f]|7f)", re.IGNORECASE)


async def _body(receive: Receive) -> bytes | None:
    """Read the whole body; None where the client went away before its end."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise _TooLong
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _answer(send: Send, status: int, detail: str) -> None:
    body = problem_bytes(status, detail)
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode()), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
