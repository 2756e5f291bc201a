"""A webhook of a test's own on loopback: keeps what comes, answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from hindscan.events.event import Event
from hindscan.events.wire import parse_http


class Receiver:
    """What came, in order, and what is answered: `answers` first, then 204."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.modes: list[str] = []
        self.answers: list[int] = []
        #: What every answer says in Retry-After.
        self.retry_after = ""
        #: Bodies and headers as they came.
        self.raw: list[tuple[list[tuple[str, str]], bytes]] = []
        self.url = ""


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Listen on a free port of 127.0.0.1."""
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kept.raw.append((list(self.headers.items()), body))
            kept.events += parse_http(list(self.headers.items()), body)
            kept.modes.append("binary" if "ce-id" in self.headers else "structured")
            self.send_response(kept.answers.pop(0) if kept.answers else 204)
            self.send_header("location", "/elsewhere")
            if kept.retry_after:
                self.send_header("retry-after", kept.retry_after)
            self.send_header("content-length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            # Where a redirect leads: whoever follows it gets an answer that looks like success.
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    kept.url = f"http://127.0.0.1:{server.server_port}/hook"
    try:
        yield kept
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
