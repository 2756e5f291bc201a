"""HTTP/1.1 as uvicorn speaks it, with refusals in the words of all others.

What is no HTTP never reaches the application, so the guard cannot answer it: here it gets a problem document, too, with the reason and the status that the parser
gives, and a client that says nothing or never ends its headers is let go. Nothing is added to what is accepted.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from hindscan.web.problem import problem_bytes

__all__ = ["HEAD_BYTES", "HEAD_SECONDS", "Protocol"]

#: Bytes that the first line and the headers may have together.
HEAD_BYTES: Final = 1 << 16
#: How long they may take to come.
HEAD_SECONDS: Final = 30.0


class Protocol(H11Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._overdue = self.loop.call_later(HEAD_SECONDS, self._let_go)

    def connection_lost(self, exc: Exception | None) -> None:
        self._overdue.cancel()
        super().connection_lost(exc)

    def _let_go(self) -> None:
        # uvicorn's own time-out counts from the end of an answer: before the first request there is none.
        if getattr(self, "cycle", None) is None:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP request; called where the parser has raised."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            # The answer has begun: there is no way left to say anything.
            self.transport.close()
            return
        fault = sys.exception()
        # The parser's other hint, 501, would blame us.
        status = 431 if getattr(fault, "error_status_hint", 400) == 431 else 400
        body = problem_bytes(status, f"The request must be HTTP/1.1: {fault or msg}.")
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
