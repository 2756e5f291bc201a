"""The main job, shown: an event arrives, history is pinned, a function fans out over it, one result is published.

Everything is real and local: a project in a folder of its own, a Kafka broker (where the two wheels of the `demo` extra are installed; else,
saying so, the small one inside
confluent-kafka), `hindscan serve` as a process, an event sent to Kafka as any producer would. What is printed is read back from the store and the published files.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from hindscan import times
from hindscan.cli.output import print_arrow
from hindscan.config_file import load_project
from hindscan.errors import HindscanError, ServiceUnavailable
from hindscan.progress import Progressed, RunPlanned

if TYPE_CHECKING:
    from hindscan.events.event import Event
    from hindscan.progress import Fact
    from hindscan.runs.run import Run
    from hindscan.workshop import Workshop

__all__ = ["run_demo"]

_EVENTS: Final = "auction-events"
#: A partition of the small broker keeps about this many bids.
_MOCK_BIDS_PER_PARTITION: Final = 60_000
_MOCK_PARTITIONS: Final = 32
_READY_SECONDS: Final = 60.0


def run_demo(*, bids: int = 2_000_000, folder: Path | None = None, to: IO[str] = sys.stdout) -> dict[str, Any]:
    """Run the demo.

    Parameters
    ----------
    bids : int
        Size of the history.
    folder : Path, optional
        Where the project goes; it must not hold one. Default: a temporary folder, which is kept.
    to : file
        Where it is told.

    Returns
    -------
    dict
        What was shown, as values.
    """
    root = Path(folder or tempfile.mkdtemp(prefix="hindscan-demo-"))
    with contextlib.ExitStack() as stack:
        return _Show(root, bids, to, stack).run()


class _Show:
    def __init__(self, root: Path, bids: int, to: IO[str], stack: contextlib.ExitStack) -> None:
        self._root, self._bids, self._to, self._stack = root, bids, to, stack
        self._began = time.monotonic()
        self._summary: dict[str, Any] = {"project": str(root), "bids": bids}

    def run(self) -> dict[str, Any]:
        bootstrap, mock = self._prepare()
        project = load_project(self._root)
        filling = self._fill_topic(bootstrap, mock)
        address = self._serve()
        from hindscan.workshop import open_workshop

        workshop = self._stack.enter_context(open_workshop(project))
        event = _closed_event()
        first = self._by_event(workshop, event)
        self._monte_carlo(workshop)
        self._over_topic(workshop, first, filling)
        self._again(workshop, event, address, first)
        self._farewell(workshop, first)
        self._summary["seconds"] = round(time.monotonic() - self._began, 1)
        self._say(f"\nAll of it took {self._summary['seconds']:.0f} s.")
        return self._summary

    def _say(self, text: str = "") -> None:
        print(text, file=self._to, flush=True)

    def _head(self, text: str) -> None:
        self._say(f"\n── {text}")

    # --- The stage ---------------------------------------------------------------------------------------------------

    def _prepare(self) -> tuple[str, bool]:
        """Write the project while the broker starts; give the broker's address and whether it is the small one."""
        from hindscan.generate import generate_auctions
        from hindscan.template import write_project

        self._head("A project, a broker, a history")
        self._compile_loops()
        started: dict[str, Any] = {}
        starting = threading.Thread(target=self._start_broker, args=(started,))
        starting.start()
        generate_auctions(str(self._root / "data"), bids=self._bids, seed=1)
        self._say(f"{self._bids:,} bids in Parquet under {self._root / 'data'}")
        starting.join()
        if "error" in started:
            raise started["error"]
        write_project(
            self._root,
            bids=0,
            bootstrap=started["bootstrap"],
            # Nothing else makes hindscan take a broker's word for what it cannot prove.
            kafka_extra='"hindscan.mock" = true\n' if started["mock"] else "",
            sources=(f"kafka:{_EVENTS}", "http"),
        )
        self._say(f"{started['what']} on {started['bootstrap']}")
        return started["bootstrap"], started["mock"]

    def _compile_loops(self) -> None:
        """Have what reads topics fast compiled, where it can be, while the stage is set: it takes some seconds the first time on a machine."""
        from hindscan.kafka.fast import unavailable

        if unavailable({}) is None:
            loops = [sys.executable, "-m", "hindscan.loops"]
            compiling = subprocess.Popen(loops, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
            self._stack.callback(_stop, compiling)

    def _start_broker(self, started: dict[str, Any]) -> None:
        from hindscan.mock_kafka import MockKafka
        from hindscan.testing import KafkaCluster, kafka_available

        reason = kafka_available(
            fetching=lambda: self._say("Kafka is fetched, once on this machine: 55 MB, some 10 to 60 s")
        )
        try:
            if reason is None:
                cluster = self._stack.enter_context(KafkaCluster())
                started.update(bootstrap=cluster.bootstrap, mock=False, what="a real Kafka, one node,")
            else:
                mock = self._stack.enter_context(MockKafka({"bids": _MOCK_PARTITIONS, _EVENTS: 1}))
                what = f"no real Kafka here ({reason}): the small broker inside confluent-kafka, which proves nothing,"
                started.update(bootstrap=mock.bootstrap, mock=True, what=what)
        except HindscanError as error:
            started["error"] = error

    def _fill_topic(self, bootstrap: str, mock: bool) -> subprocess.Popen[str] | None:
        """Begin to put the same bids into a topic, in a process beside the show; None where they would not fit."""
        from hindscan.kafka.writer import create_topic

        if not mock:
            create_topic({"bootstrap.servers": bootstrap}, _EVENTS, partitions=1, settings={})
        elif self._bids > _MOCK_BIDS_PER_PARTITION * _MOCK_PARTITIONS:
            held = _MOCK_BIDS_PER_PARTITION * _MOCK_PARTITIONS
            self._say(f"the small broker holds only some {held:,} bids: the topic stays empty")
            return None
        partitions = str(_MOCK_PARTITIONS if mock else 8)
        filling = subprocess.Popen(
            [
                *(sys.executable, "-m", "hindscan", "generate", "auctions", "kafka:bids", "--json"),
                *("--source", str(self._root / "data"), "--partitions", partitions, "--project", str(self._root)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(_stop, filling)
        return filling

    def _serve(self) -> str:
        """Start the dispatcher as a process of its own and wait until it listens."""
        log = self._stack.enter_context((self._root / "serve.log").open("w"))
        serving = subprocess.Popen(
            [sys.executable, "-m", "hindscan", "serve", "--port", "0", "--json", "--project", str(self._root)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        self._stack.callback(_stop, serving)
        assert serving.stdout is not None
        line = serving.stdout.readline()
        if not line:
            raise ServiceUnavailable(
                f"Starting `hindscan serve`: it must listen; it ended.\n{(self._root / 'serve.log').read_text()}"
            )
        address = str(json.loads(line)["listening"])
        self._say(f"a dispatcher on {address}, listening to topic {_EVENTS}")
        return address

    # --- The acts ----------------------------------------------------------------------------------------------------

    def _by_event(self, workshop: Workshop, event: Event) -> Run:
        from hindscan.sending import send_event

        self._head("Something happens: auction.closed, cars, 2018, as a CloudEvent to Kafka")
        sent = time.monotonic()
        send_event(event, f"kafka:{_EVENTS}", mode="structured", project=lambda: workshop.project)
        run = _run_of(workshop, event)
        self._say(
            f"{(time.monotonic() - sent) * 1000:.0f} ms later it is run {run.id} of {run.job} with {run.request.parameters}"
        )
        done = self._follow(workshop, run.id)
        seconds = time.monotonic() - sent
        self._say(f"from the event to the published result: {seconds:.2f} s. The ten who spent most:")
        self._table(workshop, done, "SELECT * FROM result ORDER BY total DESC, bidder LIMIT 10")
        self._summary["event"] = {"run": done.id, "seconds": round(seconds, 2), **self._counts(workshop, done)}
        return done

    def _over_topic(self, workshop: Workshop, first: Run, filling: subprocess.Popen[str] | None) -> None:
        self._head("The same scan, this time over the topic")
        if filling is None:
            self._say("left out: the topic is empty")
            return
        out, _ = filling.communicate()
        if filling.returncode:
            raise HindscanError(f"Filling topic bids: the command must end well; it gave {filling.returncode}.")
        count = int(json.loads(out)["bids"])
        self._say(f"{count:,} JSON records are in topic bids by now")
        began = time.monotonic()
        done = self._submit(workshop, "bidder_scan", {"category": "cars", "year": 2018}, histories={"bids": "bids_log"})
        seconds = time.monotonic() - began
        counts = self._counts(workshop, done)
        same = counts["digest"] == self._counts(workshop, first)["digest"]
        self._say(
            f"read and proven complete in {seconds:.2f} s; the result is {'the same, to the bit' if same else 'DIFFERENT'}"
        )
        self._summary["topic"] = {"run": done.id, "seconds": round(seconds, 2), "same_result": same, **counts}

    def _monte_carlo(self, workshop: Workshop) -> None:
        self._head("A Monte Carlo on that history: what will a car fetch?")
        began = time.monotonic()
        done = self._submit(workshop, "closing_price", {"category": "cars", "year": 2018}, draws=1_000_000)
        seconds = time.monotonic() - began
        self._say(f"1,000,000 draws in {seconds:.2f} s:")
        self._table(workshop, done, "SELECT * FROM result")
        self._summary["monte_carlo"] = {"run": done.id, "seconds": round(seconds, 2), **self._counts(workshop, done)}

    def _again(self, workshop: Workshop, event: Event, address: str, first: Run) -> None:
        from hindscan.runs.register import list_runs
        from hindscan.sending import send_event

        self._head("The same event again, by Kafka and by HTTP; the same scan again")
        before = len(list_runs(workshop.store, limit=1000))
        send_event(event, f"kafka:{_EVENTS}", mode="binary", project=lambda: workshop.project)
        answer = send_event(event, address, mode="structured", project=lambda: workshop.project)
        self._wait_for_offset(workshop, 2)
        started = len(list_runs(workshop.store, limit=1000)) - before
        self._say(f"the event started {started} runs; its run is and stays {', '.join(answer['existing'])}")
        done = self._submit(workshop, "bidder_scan", {"category": "cars", "year": 2018})
        counts = self._counts(workshop, done)
        self._say(
            f"the scan again: {counts['computed']} of {counts['slices']} slices computed, {counts['reused']} reused"
        )
        self._summary["again"] = {
            "runs_started": started,
            "existing": answer["existing"],
            "run_of_event": first.id,
            **counts,
        }

    def _farewell(self, workshop: Workshop, first: Run) -> None:
        self._head("Look for yourself")
        folder = workshop.project.root / str(first.result)
        self._say(f"result    {folder / 'result.parquet'}")
        self._say(f"manifest  {folder / 'manifest.json'}")
        self._say("\nin a notebook:\n")
        self._say("    import hindscan as hs")
        self._say(f"    runs = hs.runs(project={str(workshop.project.root)!r})")
        self._say("    runs.to_pandas()")
        self._say("    runs[0].result.to_pandas()")
        self._say(
            f"\nor without hindscan, in DuckDB:\n\n    SELECT * FROM '{workshop.project.artefacts}/results/*/*/manifest.json'"
        )
        self._summary["result"] = str(folder / "result.parquet")

    # --- What they share ---------------------------------------------------------------------------------------------

    def _submit(self, workshop: Workshop, job: str, parameters: dict[str, Any], **options: Any) -> Run:
        from hindscan.planning import ask
        from hindscan.runs import codes, opening
        from hindscan.words import asker

        spec, code = workshop.job(job)
        digest = codes.save_code(workshop.store, spec, code)
        opened = opening.open_run(
            workshop.store, ask(workshop.project, spec, parameters, **options), code=digest, requested_by=asker("demo")
        )
        return self._follow(workshop, opened.id)

    def _follow(self, workshop: Workshop, run: str) -> Run:
        """Watch a run that the dispatcher works on."""
        from hindscan.driver import follow

        done = follow(workshop, run, observe=_Ticker(self._to))
        if done.state != "succeeded":
            raise HindscanError(f"The demo's run {run} {done.state}: {done.message}")
        return done

    def _counts(self, workshop: Workshop, run: Run) -> dict[str, Any]:
        from hindscan.runs.results import read_manifest

        manifest = read_manifest(workshop.project.root / str(run.result))
        slices = manifest.slices
        return {
            "rows": manifest.result.rows, "digest": manifest.result.digest,
            "slices": slices.total, "computed": slices.computed, "reused": slices.reused,
        }  # fmt: skip

    def _table(self, workshop: Workshop, run: Run, query: str) -> None:
        """Print what a query over the published file gives; the table is called result."""
        from contextlib import closing

        import duckdb

        path = workshop.project.root / str(run.result) / "result.parquet"
        with closing(duckdb.connect()) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.read_parquet(str(path)).create_view("result")
            found = connection.sql(query).to_arrow_table()
        print_arrow(found, to=self._to)

    def _wait_for_offset(self, workshop: Workshop, offset: int) -> None:
        """Wait until the trigger has decided about everything before an offset of the events topic."""
        from hindscan.runs.positions import places

        deadline = time.monotonic() + _READY_SECONDS
        while not any(place.next_offset >= offset for place in places(workshop.store, "scan_on_close")):
            if time.monotonic() > deadline:
                raise ServiceUnavailable(
                    f"Waiting for the dispatcher to take event {offset}: it did not in {_READY_SECONDS:g} s."
                )
            time.sleep(0.02)


class _Ticker:
    """Tells how far a run is, a line at a time."""

    def __init__(self, to: IO[str]) -> None:
        self._to, self._slices, self._began = to, 0, time.monotonic()

    def __call__(self, fact: Fact) -> None:
        if isinstance(fact, RunPlanned):
            self._slices = fact.slices - fact.reused
            reused = f" ({fact.reused} reused)" if fact.reused else ""
            print(f"  {fact.slices} slices{reused}, {fact.rows:,} rows, {fact.tasks} tasks", file=self._to, flush=True)
        elif isinstance(fact, Progressed):
            seconds = max(time.monotonic() - self._began, 1e-3)
            print(f"  {fact.done}/{self._slices} slices, {fact.rows / seconds:,.0f} rows/s", file=self._to, flush=True)


def _closed_event() -> Event:
    from hindscan.events.event import event_from_json

    return event_from_json(
        {
            "specversion": "1.0",
            "id": "auction-1",
            "source": "/auctions",
            "type": "auction.closed",
            "time": times.to_text(times.now()),
            "datacontenttype": "application/json",
            "data": {"category": "cars", "year": 2018},
        }
    )


def _run_of(workshop: Workshop, event: Event) -> Run:
    """Wait for the run that an event started."""
    from hindscan.runs.register import list_runs

    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        found = list_runs(workshop.store, event=event.identity)
        if found:
            return found[0]
        time.sleep(0.005)
    raise ServiceUnavailable(
        f"Waiting for the run of event {event.id}: there was none in {_READY_SECONDS:g} s; serve.log tells why."
    )


def _stop(process: subprocess.Popen[str]) -> None:
    """Stop a process as an operator would, and end it if it does not."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
