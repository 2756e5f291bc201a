"""Closed by default (promise 12): what every request must pass before a route sees it.

A page in the operator's browser must not reach the dispatcher: the ``Host`` header has to be a loopback name on every request and method (DNS
rebinding), an ``Origin`` has to be our own (cross-site requests), bodies have a declared limit, and answers forbid sniffing and framing.
Rejects by default, never by guessing at user agents. Pure ASGI, so that streaming answers stay streams.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from hindscan.web.problem import problem_bytes

__all__ = ["MAX_BODY_BYTES", "Guard"]

#: The largest request body: that of an event.
MAX_BODY_BYTES: Final = 1 << 20

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
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
        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = _refusal(headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        body, too_long = await _body(receive)
        if too_long:
            await _answer(send, 413, f"The body must be at most {MAX_BODY_BYTES} bytes; it is longer.")
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


def _refusal(headers: dict[bytes, bytes]) -> tuple[int, str] | None:
    """Tell status and reason why a request with these headers cannot pass."""
    host = headers.get(b"host", b"").decode("latin-1")
    if _name_of(f"//{host}") not in _LOOPBACK:
        return 421, f"The Host must be a loopback name; it is {host!r}. Requests from other hosts are not served."
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin.decode("latin-1")).netloc != host:
        return 403, "The Origin must be this server; requests made by other pages are not served."
    length = headers.get(b"content-length", b"0")
    if not length.isdigit():
        return 400, "Content-Length must be a number."
    if int(length) > MAX_BODY_BYTES:
        return 413, f"The body must be at most {MAX_BODY_BYTES} bytes; it is {int(length)}."
    return None


def _name_of(netloc: str) -> str | None:
    try:
        return urlsplit(netloc).hostname
    except ValueError:
        return None


async def _body(receive: Receive) -> tuple[bytes, bool]:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts), False
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            return b"", True
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts), False


async def _answer(send: Send, status: int, detail: str) -> None:
    body = problem_bytes(status, detail)
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode()), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
