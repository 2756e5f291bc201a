"""A real `hindscan serve` for tests: started as a user starts it, killed as a power cut would."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import httpx2 as httpx

from clock import until
from nursery import Typed, start

#: Generous: two busy cores.
SECONDS = 60.0


class Server:
    """One `hindscan serve`."""

    def __init__(self, process: Typed, printed: TextIO, log: Path) -> None:
        self.process, self._printed, self._log = process, printed, log
        self.address = ""

    def listen(self) -> bool:
        """Wait until it tells its address; False if it ended before."""
        line = self._printed.readline()
        if line:
            self.address = json.loads(line)["listening"]
        return bool(line)

    def log(self) -> str:
        return self._log.read_text()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=SECONDS)

    def ended(self) -> int:
        return self.process.wait(SECONDS)


@contextmanager
def serve(project: Path, *, fault: str = "", port: str = "0", **env: str) -> Iterator[Server]:
    """Start the server on a free port unless one is given; whatever happens, it is ended."""
    log = project / f"serve-{time.monotonic_ns()}.log"
    reading, writing = os.pipe()
    with Path(os.devnull).open() as nothing, log.open("w") as errors:
        process = start(
            *("serve", "--port", port, "--json", "--project", str(project)),
            cwd=Path(sys.executable).parent,
            env={**os.environ, **env, "HINDSCAN_FAULT": fault},
            streams=(nothing.fileno(), writing, errors.fileno()),
        )
    os.close(writing)
    with os.fdopen(reading) as printed:
        server = Server(process, printed, log)
        try:
            server.listen()
            yield server
        finally:
            process.kill()
            process.wait()


def http_only(project: Path) -> Path:
    """Make the sample's trigger listen to HTTP alone."""
    file = project / "hindscan.toml"
    file.write_text(file.read_text().replace('on = ["kafka:auction-events", "http"]', 'on = "http"'))
    return project


def closed(id: str = "a-1", **data: Any) -> dict[str, Any]:
    """Build the event that closes an auction."""
    return {
        "specversion": "1.0", "id": id, "source": "/auctions", "type": "auction.closed", "time": "2020-06-01T00:00:00Z",
        "datacontenttype": "application/json", "data": {"category": "cars", "year": 2018, **data},
    }  # fmt: skip


def post(client: httpx.Client, event: dict[str, Any]) -> httpx.Response:
    return client.post("/events", content=json.dumps(event), headers={"content-type": "application/cloudevents+json"})


def finished(client: httpx.Client, run: str) -> dict[str, Any]:
    """Wait for a run's end."""
    found: dict[str, Any] = until(
        lambda: (
            (answer := client.get(f"/runs/{run}?wait=20").json())["state"] in {"succeeded", "failed", "cancelled"}
            and answer
        ),
        f"the end of run {run}",
    )
    return found
