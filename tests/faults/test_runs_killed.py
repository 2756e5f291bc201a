"""`kill -9` at every named point of the store, the partials and the publication: nothing lost, nothing doubled, nothing torn (promises 4, 6 and 9)."""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hindscan.runs
from hindscan.runs import register
from hindscan.runs.digest import table_digest
from hindscan.runs.partials import Partials
from hindscan.runs.results import list_results, read_manifest
from hindscan.runs.store import open_store

KEYS = ["a" * 32, "b" * 32]

#: A small dispatcher: whatever state it finds, it goes on from there to one published result, by the same steps each time.
PROGRAM = """
import sys
import pyarrow as pa
from hindscan import files
from hindscan.events.event import Event
from hindscan.history.snapshot import DrawPin, DrawSlice, Position, Snapshot, Window
from hindscan.runs import leases, opening, register, snapshots
from hindscan.runs.copies import copy_result
from hindscan.runs.ledger import Decision, Entry, record
from hindscan.runs.manifest import Manifest
from hindscan.runs.partials import Partials
from hindscan.runs.results import publish
from hindscan.runs.slices import SliceRecord
from hindscan.runs.run import FINAL, RunRequest
from hindscan.runs.store import open_store

keys = ["a" * 32, "b" * 32]
partials = Partials(root)
# Each life begins a minute later: what the one before had claimed has expired.
with open_store("sqlite:///store.db", root, lambda: 1_700_000_000_000_000 + life * 60_000_000) as store:
    request = RunRequest(job="scan", parameters={"life": life})
    decision = Decision(trigger="t", outcome="matched", request=request)
    position = Position(cluster="c", topic="t", topic_id="i", partition=0, offset=3)
    entry = Entry(event=Event(id="e1", source="/a", type="t", data=1), way="kafka", decisions=(decision,), position=position)
    (recorded,) = record(store, [entry])
    run = {**recorded.opened, **recorded.existing}["t"]
    asked = opening.open_run(store, RunRequest(job="other"), idempotency_key="k")
    if asked.state == "pending":
        register.request_cancel(store, asked.id)
    leases.release_expired(store)
    if register.get_run(store, run).state not in FINAL:
        claimed = leases.claim(store, "me", 10, run)
        snapshot = Snapshot(pins={"d": DrawPin(draws=life, seed=1, block_size=1)}, window=Window(), pinned_at=life)
        snapshot = snapshots.save_snapshot(store, run, snapshot)
        for key in keys:
            if not partials.has(key):
                partials.write(key, pa.table({"life": [life]}))
        table = pa.concat_tables([partials.read(key) for key in keys])
        slices = [SliceRecord(stage="slice", slice=DrawSlice(position=0, start=0, end=1), key=key, reused=False) for key in keys]
        manifest = Manifest(run=run, job="scan", attempt=claimed.run.attempt, draws=snapshot.pins["d"].draws)
        leases.heartbeat(store, claimed, 10)
        done = publish(root, table=table, manifest=manifest, snapshot=snapshot, slices=slices, charts={"chart.vl.json": b"{}"})
        copy_result(done.folder, files.place("copies", root))
        register.move(store, run, "succeeded", token=claimed.token, result=str(done.folder.relative_to(root)))
"""

#: Loads everything once and then lives as often as it is told to, each time in a process of its own: a start of Python takes longer than a life.
NURSERY = """
import os, sys, traceback
import pyarrow.parquet, sqlalchemy.dialects.sqlite, numpy
from hindscan import faults
from hindscan.runs import copies, leases, ledger, manifest, opening, register, results, snapshots
program = compile(sys.argv[1], "program", "exec")
for line in sys.stdin:
    root, life, name, count = line.split()
    child = os.fork()
    if not child:
        faults._TARGET, faults._COUNT = name, count
        try:
            exec(program, {"root": root, "life": int(life)})
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def points() -> list[str]:
    """All points in the source of the folder: one that is added is swept too."""
    folder = Path(hindscan.runs.__file__).parent
    return sorted(
        {name for path in folder.rglob("*.py") for name in re.findall(r'\bpoint\("([a-z_.]+)"\)', path.read_text())}
    )


class Nursery:
    """Starts lives."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", NURSERY, PROGRAM]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def live(self, root: Path, life: int, fault: str = "none:1") -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        name, _, count = fault.partition(":")
        self.process.stdin.write(f"{root} {life} {name} {count}\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        assert code in (0, -signal.SIGKILL), "see its standard error"
        return code


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.process.communicate(timeout=10)


def check_whole(root: Path) -> None:
    """Whatever can be seen is whole."""
    for folder in list_results(root):
        manifest = read_manifest(folder)
        assert table_digest(pq.read_table(folder / "result.parquet")) == manifest.result.digest
        assert pq.read_table(folder / "snapshot.parquet").num_rows == 2
        assert (folder / "chart.vl.json").read_bytes() == b"{}"
    results = root / "results"
    if results.exists():
        assert [
            path.parent for path in results.glob("*/*/*.parquet") if not (path.parent / "manifest.json").exists()
        ] == []
    for copy in (root / "copies").glob("[!.]*/"):
        original = root / "results" / "scan" / copy.name
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
            path.name: path.read_bytes() for path in original.iterdir()
        }
    partials = Partials(root)
    for key in partials.exists(KEYS):
        assert partials.read(key).num_rows == 1


def test_the_docstrings_name_every_point() -> None:
    folder = Path(hindscan.runs.__file__).parent
    undocumented = [
        (path.name, name)
        for path in folder.rglob("*.py")
        for name in re.findall(r'\bpoint\("([a-z_.]+)"\)', path.read_text())
        if f"`{name}`" not in path.read_text().split('"""')[1] and f"`{name}`" not in (folder / "store.py").read_text()
    ]
    assert undocumented == []


@pytest.mark.parametrize("name", points())
def test_a_kill_at_any_point_loses_doubles_and_tears_nothing(name: str, tmp_path: Path, nursery: Nursery) -> None:
    life = died = 0
    if name == "store.released":
        # There must be something to release: a run whose owner died.
        life += 1
        assert nursery.live(tmp_path, life, "store.claimed:1") != 0
    # The first, second, ... time it gets there, each in a life of its own; then a life without a fault.
    for time in (1, 2, 3, 5):
        life += 1
        code = nursery.live(tmp_path, life, f"{name}:{time}")
        check_whole(tmp_path)
        if code == 0:
            break
        died += 1
    assert died, "the point is on the way"
    assert nursery.live(tmp_path, life + 1) == 0
    check_whole(tmp_path)
    (folder,) = list_results(tmp_path)
    with open_store("sqlite:///store.db", tmp_path) as store:
        scan, other = register.list_runs(store, job="scan"), register.list_runs(store, job="other")
        assert [run.state for run in scan] == ["succeeded"]
        assert [run.state for run in other] == ["cancelled"]
        assert tmp_path / (scan[0].result or "") == folder
        assert folder.name == scan[0].id
    copies = tmp_path / "copies"
    assert sorted(path.name for path in copies.glob("[!.]*")) == [scan[0].id, "latest.json"]
    assert json.loads((copies / "latest.json").read_text())["manifest"] == f"{scan[0].id}/manifest.json"
    manifest = read_manifest(folder)
    # What an earlier life had pinned and computed was used, not done again: pinned first, then one partial after the other.
    lives = pq.read_table(folder / "result.parquet").column("life").to_pylist()
    assert [manifest.draws, *lives] == sorted([manifest.draws, *lives])
    if name.startswith("results."):
        assert [manifest.draws, *lives] == [1, 1, 1]
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        counts = connection.execute(
            "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM decisions), (SELECT count(*) FROM quarantine)"
        )
        assert counts.fetchone() == (1, 1, 0)
        assert connection.execute("SELECT next_offset FROM positions").fetchall() == [(4,)]
        assert connection.execute("SELECT count(*) FROM leases").fetchone() == (0,)


RECORDER = """
import sys
from hindscan.events.event import Event
from hindscan.runs.ledger import Decision, Entry, record
from hindscan.runs.run import RunRequest
from hindscan.runs.store import open_store
from hindscan.history.snapshot import Position
with open_store("sqlite:///store.db", sys.argv[1]) as store:
    at, size = int(sys.argv[2]), int(sys.argv[3])
    while True:
        batch = [
            Entry(
                event=Event(id=f"e{n}", source="/a", type="t", data={"n": n}),
                way="kafka",
                decisions=(Decision(trigger="t", outcome="matched", request=RunRequest(job="j")),),
                position=Position(cluster="c", topic="t", topic_id="i", partition=0, offset=n),
            )
            for n in range(at, at + size)
        ]
        record(store, batch)
        at += size
        print(at, flush=True)
"""


def test_a_killed_recorder_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(7)
    acknowledged = 0
    for _ in range(4):
        size = chance.choice([1, 3, 200])
        command = [sys.executable, "-c", RECORDER, str(tmp_path), str(acknowledged), str(size)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(chance.randint(1, 20)):
            acknowledged = int(child.stdout.readline())
        # It is somewhere in the middle of the next batch, or of saying so.
        child.kill()
        said = [line for line in child.stdout.read().splitlines() if line]
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        acknowledged = max([acknowledged, *(int(line) for line in said)])
        with open_store("sqlite:///store.db", tmp_path) as store, store.read() as connection:
            query = (
                "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM runs), (SELECT next_offset FROM positions)"
            )
            events, runs, position = connection.exec_driver_sql(query).one()
            assert events == runs == position, "event, run and position move together"
            assert events >= acknowledged
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def test_a_full_disk_leaves_no_half_partial_and_no_half_result(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
import pyarrow as pa
from hindscan.history.snapshot import Snapshot, Window
from hindscan.runs.manifest import Manifest
from hindscan.runs.partials import Partials
from hindscan.runs.results import publish
import random
from hindscan.errors import ServiceUnavailable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
table = pa.table({"n": [random.random() for _ in range(100_000)]})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for write in (
    lambda: Partials(sys.argv[1]).write("a" * 32, table),
    lambda: publish(sys.argv[1], table=table, manifest=Manifest(run="r", job="j"), snapshot=Snapshot(pins={}, window=Window(), pinned_at=0), slices=[]),
):
    try:
        write()
    except ServiceUnavailable as fault:
        print(fault.__cause__.errno)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["27", "27"], done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list_results(tmp_path) == []
    partials = Partials(tmp_path)
    partials.write(KEYS[0], pa.table({"n": [1]}))
    assert partials.read(KEYS[0]).num_rows == 1
