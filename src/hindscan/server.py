"""`hindscan serve`: the dispatcher and the HTTP API in one process, from the first bind to a clean stop.

Closed by default (promise 12): loopback only in this version. The port is bound before anything else, so that a taken one is an error at once and a request that comes
early waits instead of failing. SIGTERM and SIGINT stop listeners, give unfinished runs back, end the workers, then the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

import msgspec

from hindscan import __version__
from hindscan.errors import HindscanError, PortInUse, UsageError
from hindscan.logs import start_logging

if TYPE_CHECKING:
    from hindscan.config import Project
    from hindscan.web.desk import Desk
    from hindscan.web.guard import Application
    from hindscan.web.webhook import Webhooks
    from hindscan.workshop import Workshop

__all__ = ["run_server"]

#: Of malloc.h.
_M_ARENA_MAX = -8
#: How long requests that are under way may take to end when the server is told to stop: a client may wait for a run for a minute.
SHUTDOWN_SECONDS = 5


def run_server(
    project: Project,
    *,
    host: str | None = None,
    port: int | None = None,
    log_format: str | None = None,
    as_json: bool = False,
) -> None:
    """Serve until told to stop.

    Parameters
    ----------
    host, port, log_format : optional
        Override the settings.
    as_json : bool
        Print the address as a JSON document.

    Raises
    ------
    hindscan.errors.UsageError
        The host is not a loopback address.
    hindscan.errors.PortInUse
        Another process listens there.
    """
    _share_one_arena()
    from hindscan.workshop import open_workshop

    start_logging(log_format or project.serve.log, project.serve.log_level)
    with (
        _bound(host or project.serve.host, project.serve.port if port is None else port) as listening,
        open_workshop(project, jobs_in_child=True) as workshop,
    ):
        # The child that loads the jobs works while this process imports what takes longest.
        threading.Thread(target=_load_jobs, args=(workshop,), name="jobs").start()
        _serve(workshop, listening, as_json=as_json)


def _share_one_arena() -> None:
    """Have the C library, where it is glibc, keep the memory of all threads together, so that what one frees another uses; it must hear so before there are others."""
    if "CS_GNU_LIBC_VERSION" in os.confstr_names:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _load_jobs(workshop: Workshop) -> None:
    # If it fails, whoever asks for the jobs next tries it again and hears why.
    with contextlib.suppress(HindscanError):
        _ = workshop.registered


def _serve(workshop: Workshop, listening: socket.socket, *, as_json: bool) -> None:
    import pyarrow as pa
    import uvicorn

    from hindscan.dispatcher import Dispatcher
    from hindscan.web.front import Front
    from hindscan.web.guard import Guard
    from hindscan.web.protocol import HEAD_BYTES, Protocol

    # Results pass through here now and then: Arrow's own pool would keep what the largest took.
    pa.set_memory_pool(pa.system_memory_pool())
    webhooks = workshop.project.serve.webhooks
    with Dispatcher(workshop) as dispatcher:
        front = Front(dispatcher.desk, webhooks, lambda: _api(dispatcher.desk, webhooks))
        address = f"http://{listening.getsockname()[0]}:{listening.getsockname()[1]}"
        line = msgspec.json.encode({"listening": address}).decode() if as_json else f"listening on {address}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        config = uvicorn.Config(
            Guard(front),
            http=Protocol,
            h11_max_incomplete_event_size=HEAD_BYTES,
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        uvicorn.Server(config).run(sockets=[listening])


def _api(desk: Desk, webhooks: Webhooks) -> Application:
    from hindscan.web.api import build_api

    return build_api(desk, __version__, webhooks)


def _bound(host: str, port: int) -> socket.socket:
    """Bind a listening socket on loopback."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise UsageError(f"Serving on {host!r}: it must be an address such as 127.0.0.1.") from None
    if not address.is_loopback:
        raise UsageError(
            f"Serving on {host}: it must be a loopback address; this version has no tokens, and whoever can submit runs can use your data. "
            "Put a proxy that authenticates in front of 127.0.0.1."
        )
    if not 0 <= port <= 65_535:
        raise UsageError(
            f"Serving on {address}: the port must be 0 to 65535, and is {port}. Choose another by --port or [serve].port."
        )
    listening = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((str(address), port))
        listening.listen(1024)
    except OSError as error:
        listening.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise PortInUse(
            f"Serving on {address}:{port}: the port must be free; another process has it. Stop that one, or choose another by --port "
            "or [serve].port (0 takes a free one).",
            port=port,
        ) from None
    return listening
