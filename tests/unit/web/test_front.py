"""Events are taken before the rest of the API is there."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any, cast

import pytest

from hindscan.web.desk import Desk
from hindscan.web.front import Front
from hindscan.web.webhook import Webhooks

EVENT = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


class _Desk:
    def __init__(self, fault: Exception | None = None) -> None:
        self.taken: list[Any] = []
        self._fault = fault

    def receive(self, events: Any) -> dict[str, list[str]]:
        if self._fault is not None:
            raise self._fault
        self.taken += events
        return {"runs": ["r"], "existing": [], "quarantined": []}


async def ask(front: Front, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    """Ask as a server would, behind the guard."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/cloudevents+json")]
    await front({"type": "http", "method": method, "path": path, "headers": headers}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


async def api(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(scope["path"]).encode()})


def test_an_event_is_answered_while_the_api_is_loaded_and_the_rest_waits_for_it() -> None:
    loaded = threading.Event()
    desk = _Desk()

    def build() -> Any:
        assert loaded.wait(30)
        return api

    async def scene() -> None:
        front = Front(cast(Desk, desk), Webhooks(), build)
        waiting = asyncio.create_task(ask(front, "GET", "/events"))
        status, answer = await ask(front, "POST", "/events", json.dumps(EVENT).encode())
        assert (status, answer["runs"], desk.taken[0].id) == (202, ["r"], "1")
        assert not waiting.done()
        loaded.set()
        assert await waiting == (200, "/events")

    asyncio.run(scene())


def test_a_bug_while_events_are_taken_is_a_500_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    front = Front(cast(Desk, _Desk(RuntimeError("secret"))), Webhooks(), lambda: api)
    status, problem = asyncio.run(ask(front, "POST", "/events", json.dumps(EVENT).encode()))
    assert (status, problem["detail"]) == (500, "An internal error; the log has it.")
    assert "secret" in caplog.text
