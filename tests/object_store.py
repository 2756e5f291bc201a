"""An object store on loopback, in a process of its own: whatever speaks S3 can be pointed at it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.fs as pafs

KEYS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "quite-secret"}
_SERVER = """
import sys
from werkzeug.serving import make_server
from moto.server import DomainDispatcherApplication, create_backend_app
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def object_store() -> Iterator[str]:
    """Start a store; gives its URL."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _SERVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | KEYS,
        text=True,
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def bucket(endpoint: str, name: str) -> pafs.S3FileSystem:
    """Make an empty bucket, and a client that may do anything with it."""
    store = pafs.S3FileSystem(
        access_key="reader",
        secret_key="quite-secret",
        endpoint_override=endpoint.removeprefix("http://"),
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
        allow_bucket_deletion=True,
    )
    if store.get_file_info(name).type != pafs.FileType.NotFound:
        store.delete_dir(name)
    store.create_dir(name)
    return store
