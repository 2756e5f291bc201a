"""From an event to the first line of the user's function: Kafka, HTTP, and Prefect's event trigger beside them.

Run it with `python benchmarks/bench_latency.py [--events 300] [--rate 20] [--peer-events 10]`. A real Kafka on loopback and `hindscan serve` with warm workers; the job's
function writes down the time of its first line before it does anything else. The clock starts right before the event is given to the producer, or the
request sent. "One at a time" sends the next event when the run of the one before has ended; "at a rate" sends by the clock, whatever is still at work. Each way has a
few events before, which are not counted.

Beside each median stand the CPU seconds of `serve` and its children for one event, from its arrival to the published result: what other work on the machine does not
change. `--stages` prints what the store knows of where the time went: recorded, claimed, planned.

Prefect is run from `.venv-peers` (`make peers`), as simply as its documentation has it: a server on loopback, a flow that is served with a `DeploymentEventTrigger`, and
`emit_event`. Its runner asks for work every second here (ten by default), which is the shortest it takes.

Only ratios of one run, and CPU seconds, mean something on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil

PROJECT = """[history.marks]
parquet = "marks"
time = "at"
[kafka.default]
"bootstrap.servers" = "BOOTSTRAP"
[triggers.mark]
on = ["kafka:marks", "http"]
filter = { exact = { type = "mark" } }
job = "mark"
parameters = { number = "data.number" }
"""
JOB = '''import time

import hindscan as hs


@hs.job(history="marks", combine="concat")
def mark(marks, number: int):
    """Write down when its first line is reached."""
    now = time.time()
    with open(FILE, "a") as file:
        file.write(f"{number} {now}\\n")
    return {"n": number}
'''
FLOW = """
import sys, time
from prefect import flow
from prefect.events import DeploymentEventTrigger

@flow(log_prints=False)
def mark(number: int):
    now = time.time()
    with open(FILE, "a") as file:
        file.write(f"{number} {now}\\n")

if __name__ == "__main__":
    mark.serve(
        name="bench", limit=100,
        triggers=[DeploymentEventTrigger(expect={"bench.mark"}, parameters={"number": "{{ event.payload.number }}"})],
    )
"""
EMIT = """
import sys, time
from prefect.events import emit_event

for line in sys.stdin:
    began = time.time()
    emit_event(event="bench.mark", resource={"prefect.resource.id": "bench"}, payload={"number": int(line)})
    print(began, flush=True)
"""
#: How long one event may take.
PATIENCE = 30.0


class Marks:
    """The file that the user's function writes to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._read, self._rest = 0, ""
        self.at: dict[int, float] = {}

    def look(self) -> None:
        with self.path.open() as file:
            file.seek(self._read)
            text = self._rest + file.read()
            self._read = file.tell()
        *lines, self._rest = text.split("\n")
        for line in lines:
            number, at = line.split()
            assert int(number) not in self.at, "one event, one run, one call"
            self.at[int(number)] = float(at)

    def wait(self, numbers: range | list[int], patience: float = PATIENCE) -> bool:
        """Wait for all of them; tell whether they came."""
        until = time.monotonic() + patience
        while not all(number in self.at for number in numbers):
            if time.monotonic() > until:
                return False
            time.sleep(0.002)
            self.look()
        return True


def site(root: Path, bootstrap: str) -> Marks:
    """Make the project: one history of one row, one job, one trigger with two ways in."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "marks").mkdir()
    (root / "jobs").mkdir()
    pq.write_table(pa.table({"at": pa.array([0], pa.timestamp("us", "UTC"))}), root / "marks" / "m.parquet")
    marks = Marks(root / "marks.txt")
    (root / "hindscan.toml").write_text(PROJECT.replace("BOOTSTRAP", bootstrap))
    (root / "jobs" / "mark.py").write_text(JOB.replace("FILE", repr(str(marks.path))))
    return marks


@contextmanager
def serving(root: Path) -> Iterator[tuple[str, int]]:
    """Start a server; give its address and process."""
    command = [sys.executable, "-m", "hindscan", "serve", "--port", "0", "--json", "--project", str(root)]
    with (root / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["listening"], process.pid
    finally:
        process.terminate()
        process.wait()


def event(number: int) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": str(number),
        "source": "/bench",
        "type": "mark",
        "time": "2019-05-06T07:08:09Z",
        "datacontenttype": "application/json",
        "data": {"number": number},
    }


def by_kafka(bootstrap: str) -> Callable[[int], float]:
    """Give what produces an event, and tells when it began to."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})

    def send(number: int) -> float:
        value = json.dumps(event(number)).encode()
        began = time.time()
        producer.produce("marks", value, headers=[("content-type", b"application/cloudevents+json")])
        producer.poll(0)
        return began

    return send


def by_http(address: str) -> Callable[[int], float]:
    """Give what posts an event, and tells when it began to."""
    client = httpx2.Client(headers={"content-type": "application/cloudevents+json"}, timeout=PATIENCE)

    def send(number: int) -> float:
        body = json.dumps(event(number)).encode()
        began = time.time()
        assert client.post(f"{address}/events", content=body).json()["runs"], "a run was opened"
        return began

    return send


def ended(root: Path) -> int:
    """Count the runs that ended."""
    with sqlite3.connect(f"file:{root}/.hindscan/hindscan.db?mode=ro", uri=True, timeout=30) as store:
        states = dict(store.execute("SELECT state, count(*) FROM runs GROUP BY state"))
    assert set(states) <= {"pending", "running", "succeeded"}, (states, "see serve.log")
    return int(states.get("succeeded", 0))


def wait_ended(root: Path, count: int) -> None:
    until = time.monotonic() + PATIENCE
    while ended(root) < count:
        assert time.monotonic() < until, "the runs do not end; see serve.log"
        time.sleep(0.005)


def measure(root: Path, marks: Marks, send: Callable[[int], float], numbers: range, rate: float | None) -> list[float]:
    """Send events; give the seconds from each to its first line."""
    sent: dict[int, float] = {}
    began = time.monotonic()
    for place, number in enumerate(numbers):
        if rate is not None:
            time.sleep(max(0.0, began + place / rate - time.monotonic()))
        sent[number] = send(number)
        if rate is None:
            assert marks.wait([number]), "see serve.log"
            wait_ended(root, number + 1)
    assert marks.wait(numbers, PATIENCE + len(numbers)), "see serve.log"
    wait_ended(root, numbers.stop)
    return [marks.at[number] - sent[number] for number in numbers]


def processor_time(process: int) -> float:
    tree = psutil.Process(process)
    times = [member.cpu_times() for member in (tree, *tree.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def print_row(name: str, seconds: list[float], cpu: float) -> None:
    ms = sorted(1000 * each for each in seconds)
    at = lambda share: ms[min(len(ms) - 1, int(share * len(ms)))]  # noqa: E731
    print(
        f"| {name} | {len(ms)} | {ms[0]:.1f} | {statistics.median(ms):.1f} | {at(0.9):.1f} | {at(0.99):.1f} | {ms[-1]:.1f} | {1000 * cpu / len(ms):.1f} |",
        flush=True,
    )


def print_stages(root: Path, numbers: range, marks: Marks) -> None:
    """Print the medians of what lies between an event's receipt and its first line, as the store has it."""
    with sqlite3.connect(root / ".hindscan" / "hindscan.db") as store:
        rows = store.execute(
            "SELECT event_id, e.received_at, created_at, "
            "(SELECT min(at) FROM facts f WHERE f.run = r.id AND fact LIKE '%running%'), "
            "(SELECT min(at) FROM facts f WHERE f.run = r.id AND fact LIKE '%RunPlanned%') "
            "FROM runs r JOIN events e ON e.source = r.event_source AND e.id = r.event_id"
        ).fetchall()
    found = [row for row in rows if int(row[0]) in numbers]
    for name, one, two in (("received to recorded", 1, 2), ("recorded to claimed", 2, 3), ("claimed to planned", 3, 4)):
        told = [(row[two] - row[one]) / 1000 for row in found if row[one] and row[two]]
        print(f"  {name}: {statistics.median(told):.1f} ms")
    told = [1000 * marks.at[int(row[0])] - row[4] / 1000 for row in found if row[4]]
    print(f"  planned to first line: {statistics.median(told):.1f} ms", flush=True)


def hindscan_latency(given: argparse.Namespace) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    from hindscan.testing import KafkaCluster

    root = Path(tempfile.mkdtemp(prefix="hindscan-bench-"))
    with KafkaCluster() as cluster:
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
        admin.create_topics([NewTopic("marks", 1, 1)])["marks"].result(30)
        marks = site(root, cluster.bootstrap)
        with serving(root) as (address, process):
            first = 0
            for way, send in (("Kafka", by_kafka(cluster.bootstrap)), ("HTTP", by_http(address))):
                measure(root, marks, send, range(first, first + 10), None)
                first += 10
                for how, rate in (("one at a time", None), (f"{given.rate:g} a second", given.rate)):
                    numbers = range(first, first + given.events)
                    before = processor_time(process)
                    seconds = measure(root, marks, send, numbers, rate)
                    print_row(f"hindscan, {way}, {how}", seconds, processor_time(process) - before)
                    if given.stages:
                        print_stages(root, numbers, marks)
                    first += given.events


@contextmanager
def running(command: list[str], env: dict[str, str], log: Path) -> Iterator[psutil.Process]:
    """Run a process in the background, and end it and all it started."""
    with log.open("wb") as said:
        process = subprocess.Popen(command, env=env, stdout=said, stderr=said, start_new_session=True, cwd=log.parent)
    try:
        yield psutil.Process(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def prefect_latency(given: argparse.Namespace) -> None:
    """Measure Prefect's event trigger, or say why that cannot be done here."""
    python = Path(__file__).parents[1] / ".venv-peers" / "bin" / "python"
    if not python.exists():
        print("Prefect is not measured: .venv-peers is not there; make it by `make peers`.")
        return
    root = Path(tempfile.mkdtemp(prefix="hindscan-bench-peer-"))
    port = free_port()
    env = {
        **os.environ,
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    marks = Marks(root / "marks.txt")
    (root / "flow.py").write_text(FLOW.replace("FILE", repr(str(marks.path))))
    server = [str(python), "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with running(server, env, root / "server.log") as serves:
        if not answers(f"http://127.0.0.1:{port}/api/health", given.patience):
            print(f"Prefect is not measured: its server did not answer in {given.patience} s; see {root}/server.log.")
            return
        with running([str(python), "flow.py"], env, root / "flow.log") as runs:
            if not deployed(f"http://127.0.0.1:{port}/api", given.patience):
                print(f"Prefect is not measured: its flow was not deployed in {given.patience} s; see {root}/flow.log.")
                return
            emitter = subprocess.Popen(
                [str(python), "-c", EMIT], env=env, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert emitter.stdin is not None
            assert emitter.stdout is not None
            seconds = []
            for number in range(given.peer_events + 1):
                emitter.stdin.write(f"{number}\n")
                emitter.stdin.flush()
                began = float(emitter.stdout.readline())
                if not marks.wait([number], given.patience):
                    print(
                        f"Prefect is not measured: its flow did not begin {given.patience} s after the event; see {root}."
                    )
                    emitter.kill()
                    return
                if number == 0:  # it warms up, as hindscan does
                    before = processor_time(serves.pid) + spent(runs)
                    continue
                seconds.append(marks.at[number] - began)
            print_row("Prefect, one at a time", seconds, processor_time(serves.pid) + spent(runs) - before)
            emitter.stdin.close()
            emitter.wait()


def spent(process: psutil.Process) -> float:
    """Seconds of processor time of a process and of its children that have ended."""
    times = process.cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def answers(url: str, patience: float) -> bool:
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            if httpx2.get(url, timeout=5).status_code == 200:
                return True
        except httpx2.HTTPError:
            pass
        time.sleep(0.5)
    return False


def deployed(api: str, patience: float) -> bool:
    """Wait until the flow has its automation."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if httpx2.post(f"{api}/automations/filter", json={}, timeout=30).json():
            time.sleep(3)  # until the server's trigger service has loaded it
            return True
        time.sleep(0.5)
    return False


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=300)
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--peer-events", type=int, default=10, help="0: hindscan alone")
    parser.add_argument(
        "--patience", type=float, default=120, help="seconds that the peer may take to start, or for one event"
    )
    parser.add_argument("--stages", action="store_true", help="print where the time went")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}; milliseconds\n")
    print("| what | events | best | median | 90 % | 99 % | worst | CPU an event |\n|---|---|---|---|---|---|---|---|")
    hindscan_latency(given)
    if given.peer_events:
        prefect_latency(given)


if __name__ == "__main__":
    main()
