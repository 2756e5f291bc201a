"""The front of the server: it takes events, and hands everything else on to the API.

Events are durable before the answer is sent (promise 4); what cannot be parsed is refused with every fault, a batch as a whole (promise 5). They are what a restarted
server must not keep waiting, so they need nothing of the API, whose framework takes a third of the start to import: it is loaded in a thread once the server runs, and
the first requests for the rest wait for it. Pure ASGI, between the guard and the API.

::

    Guard -> Front --POST /events--> wire -> Desk.receive -> 202
                  `--everything else--> build_api (loaded meanwhile)
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import msgspec

from hindscan.errors import HindscanError
from hindscan.events import wire
from hindscan.web.problem import challenge_of, problem_bytes, problem_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hindscan.web.desk import Desk
    from hindscan.web.guard import Application, Receive, Scope, Send
    from hindscan.web.webhook import Webhooks

__all__ = ["Front", "refused_origin"]

#: Requests with events that are recorded at the same time: each waits for the store in a thread.
RECORDING_MOST: Final = 32
_PROBLEM: Final = b"application/problem+json"

_logger = logging.getLogger("hindscan.web")


def refused_origin(webhooks: Webhooks, headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Tell why the sender that a request names may not send events; None: it may, or none is named."""
    named = next((value.decode("latin-1") for name, value in headers if name == b"webhook-request-origin"), None)
    if named is None or webhooks.allows(named):
        return None
    return f"Events of {named!r} are not taken; [serve] webhook_origins names those that are."


class Front:
    """ASGI application: events itself, the rest by the API.

    Parameters
    ----------
    desk : Desk
        Where events go.
    webhooks : Webhooks
        Who may send them.
    build : callable
        Imports and builds the API; called once, when the server has started or the first request wants it.
    """

    def __init__(self, desk: Desk, webhooks: Webhooks, build: Callable[[], Application]) -> None:
        self._desk, self._webhooks, self._build = desk, webhooks, build
        self._recording = ThreadPoolExecutor(RECORDING_MOST, thread_name_prefix="events")
        self._lock = threading.Lock()
        self._api: Application | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or go along with the server's life."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == "/events":
            await self._take(scope, receive, send)
        else:
            api = self._api
            if api is None:
                api = await asyncio.to_thread(self._load)
            await api(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        threading.Thread(target=self._load, name="api", daemon=True).start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    def _load(self) -> Application:
        with self._lock:
            if self._api is None:
                self._api = self._build()
            return self._api

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]  # whole, as the guard hands it on
        headers = list(scope["headers"])
        status, kind = 202, b"application/json"
        extra: list[tuple[bytes, bytes]] = []
        try:
            refusal = refused_origin(self._webhooks, headers)
            if refusal is not None:
                status, kind, content = 403, _PROBLEM, problem_bytes(403, refusal)
            else:
                self._webhooks.check(headers, body, time.time())
                events = wire.parse_http(headers, body)
                # The store is synchronous: a thread waits for it, never the loop.
                taken = await asyncio.get_running_loop().run_in_executor(self._recording, self._desk.receive, events)
                content = msgspec.json.encode(taken)
        except HindscanError as error:
            status, kind, content = error.status, _PROBLEM, problem_of(error)
            challenge = challenge_of(error)
            if challenge is not None:
                extra = [(b"www-authenticate", challenge.encode())]
        except Exception:
            _logger.exception("while taking events")
            status, kind, content = 500, _PROBLEM, problem_bytes(500, "An internal error; the log has it.")
        length = (b"content-length", str(len(content)).encode())
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), length, *extra]}
        )
        await send({"type": "http.response.body", "body": content})
