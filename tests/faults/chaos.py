"""Everything dies while a run goes on: a worker whenever so many slices more have begun, the scheduler once, the dispatcher once.

The project's own programs, each in its process: `hindscan serve`, a Dask scheduler behind an address, workers that a supervisor starts again. The job writes down
each slice it begins, so what was computed twice is counted, not believed. From the top of the checkout, about a minute and a half::

    PYTHONPATH=tests .venv/bin/python -m faults.chaos --slices 5000
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from acceptance.serving import serve
from clock import until
from contract.running import ROWS, write_numbers

__all__ = ["Chaos", "Report"]

#: So many that each lives for some seconds between two deaths: a Dask worker takes two to start.
WORKERS = 4

JOB = """
import os
import time
import hindscan as hs

@hs.job(history="numbers")
def total(numbers, folder: str, seconds: float = 0.01):
    rows = numbers.arrow()
    line = f"{rows['n'][0].as_py()}\\n".encode()
    log = os.open(f"{folder}/begun", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, line)
    os.close(log)
    time.sleep(seconds)
    return {"slices": 1, "total": int(rows["i"].to_numpy().sum())}

@total.combine
def add(partials):
    return partials.sql("SELECT sum(slices)::BIGINT AS slices, sum(total)::BIGINT AS total FROM partials")
"""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    state: str
    message: str
    right: bool
    slices: int
    slices_per_task: int
    workers_killed: int
    #: Slices that were begun more than once, how often in all, and the most of one.
    twice: int
    extra: int
    most: int
    seconds: float

    @property
    def extra_most(self) -> int:
        """How many may have been computed again: of each worker's death the slice it was at.

        When scheduler or dispatcher dies, workers go on with their tasks while others begin the same slices; two that are at one slice may stay side by side to
        the end of the task.
        """
        return self.workers_killed + 2 * WORKERS * self.slices_per_task


class Chaos:
    """A project, its scheduler and its workers, which die and come back."""

    def __init__(self, root: Path, *, slices: int, slices_per_task: int, seconds: float) -> None:
        self._root, self._slices, self._per_task, self._seconds = root, slices, slices_per_task, seconds
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._address = f"tcp://127.0.0.1:{self._port}"
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []
        self._over = threading.Event()
        self.killed = 0
        write_numbers(root / "numbers", slices)
        (root / "jobs").mkdir()
        (root / "jobs" / "total.py").write_text(JOB)
        (root / "hindscan.toml").write_text(
            f'[history.numbers]\nparquet = "numbers"\nslice_rows = {ROWS}\n'
            f'[compute]\ndask = "{self._address}"\nslices_per_task = {slices_per_task}\n'
        )

    def run(self, *, kill_every: int) -> Report:
        """Submit the run, let everything die, and see what comes of it. By slices, not by the clock: on a slow machine no worker would live to begin one."""
        began = time.monotonic()
        with self._cluster():
            with serve(self._root) as server, server.client() as client:
                body = {"parameters": {"folder": str(self._root), "seconds": self._seconds}}
                run = client.post("/jobs/total/runs", json=body).json()["id"]
                self._wait_for(0.1)
                killer = threading.Thread(target=self._kill_workers, args=(kill_every,))
                killer.start()
                self._wait_for(0.3)
                assert self._scheduler is not None
                self._scheduler.kill()
                self._scheduler.wait()
                self._start_scheduler()
                self._wait_for(0.6)
                server.process.kill()
            with serve(self._root) as server, server.client() as client:
                found = until(lambda: self._final(client.get(f"/runs/{run}").json()), "the end of the run", 600)
            self._over.set()
            killer.join()
        return self._report(found, time.monotonic() - began)

    @staticmethod
    def _final(run: dict[str, object]) -> dict[str, object] | None:
        return run if run["state"] in ("succeeded", "failed", "cancelled") else None

    def _begun(self) -> Counter[int]:
        path = self._root / "begun"
        return Counter(int(line) for line in path.read_text().split()) if path.exists() else Counter()

    def _wait_for(self, part: float) -> None:
        until(lambda: len(self._begun()) >= part * self._slices, f"{part:.0%} of the slices", 600)

    def _kill_workers(self, every: int) -> None:
        turn, due = 0, sum(self._begun().values()) + every
        while not self._over.wait(0.05):
            if sum(self._begun().values()) < due:
                continue
            victim = self._workers[turn % WORKERS]
            turn += 1
            if victim.poll() is None:
                victim.kill()
                self.killed += 1
                due += every

    @contextmanager
    def _cluster(self) -> Iterator[None]:
        self._start_scheduler()
        self._workers = [self._start_worker() for _ in range(WORKERS)]
        supervisor = threading.Thread(target=self._supervise)
        supervisor.start()
        try:
            yield
        finally:
            self._over.set()
            supervisor.join()
            for process in (*self._workers, self._scheduler):
                if process is not None:
                    process.kill()
                    process.wait()

    def _supervise(self) -> None:
        while not self._over.wait(0.05):
            for at, worker in enumerate(self._workers):
                if worker.poll() is not None:
                    self._workers[at] = self._start_worker()

    def _start_scheduler(self) -> None:
        self._scheduler = self._start("dask_scheduler", "--port", str(self._port), "--no-dashboard")

    def _start_worker(self) -> subprocess.Popen[bytes]:
        return self._start("dask_worker", self._address, "--nthreads", "1", "--no-nanny", "--no-dashboard")

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{program}", "--host", "127.0.0.1", *arguments]
        with (self._root / f"{program}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self._root, stdout=log, stderr=log)

    def _report(self, run: dict[str, object], seconds: float) -> Report:
        begun = self._begun()
        right = False
        if run["state"] == "succeeded":
            (result,) = (self._root / ".hindscan" / "results").rglob("result.parquet")
            rows = self._slices * ROWS
            right = pq.read_table(result).to_pylist() == [{"slices": self._slices, "total": rows * (rows - 1) // 2}]
        return Report(
            state=str(run["state"]),
            message=str(run.get("message")),
            right=right and len(begun) == self._slices,
            slices=self._slices,
            slices_per_task=self._per_task,
            workers_killed=self.killed,
            twice=sum(times > 1 for times in begun.values()),
            extra=sum(begun.values()) - len(begun),
            most=max(begun.values()),
            seconds=round(seconds, 1),
        )


def main() -> int:
    """Run it and print the report."""
    parser = argparse.ArgumentParser(description="Kill workers, scheduler and dispatcher while a run goes on.")
    parser.add_argument("--slices", type=int, default=5_000)
    parser.add_argument("--slices-per-task", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.02, help="what a slice takes")
    parser.add_argument("--kill-every", type=int, default=400, help="slices that are begun between two deaths")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hindscan-chaos-") as folder:
        chaos = Chaos(Path(folder), slices=given.slices, slices_per_task=given.slices_per_task, seconds=given.seconds)
        report = chaos.run(kill_every=given.kill_every)
    print(json.dumps(msgspec.to_builtins(report) | {"extra_most": report.extra_most}, indent=2))
    return 0 if report.right and report.extra <= report.extra_most else 1


if __name__ == "__main__":
    sys.exit(main())
