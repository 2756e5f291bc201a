"""`kill -9` at every side effect of a replay and of a repairing audit: whoever repeats it completes it, in order, and nothing is doubled (promise 4)."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from hindscan.runs import register
from hindscan.runs.store import open_store
from small_project import small_project

EVENTS = 9
#: Loads everything once; then does what it is told, each time in a process of its own.
PROGRAM = """
import os, sys, traceback
import hindscan.auditing, hindscan.replaying, hindscan.jobs.registry, hindscan.planning
from pathlib import Path
from hindscan import faults
from hindscan.config_file import load_project
from hindscan.events.event import event_from_json
from hindscan.events.received import received_over_http
from hindscan.runs import recall
from hindscan.workshop import open_workshop
from small_project import closing
recall.BATCH = 3

def do(root, what):
    with open_workshop(load_project(Path(root), {})) as workshop:
        if what == "take":
            received = [received_over_http(event_from_json(closing(str(n)))) for n in range(EVENTS)]
            hindscan.replaying.open_intake(workshop).take(received)
        elif what == "replay":
            hindscan.replaying.Replay(workshop, "scan", since=None, until=None, name="again").run()
        else:
            hindscan.auditing.Audit(workshop, "scan", since=None, until=None, repair=True).run()

for line in sys.stdin:
    root, what, name, count = line.split()
    child = os.fork()
    if not child:
        faults._TARGET, faults._COUNT = name, count
        try:
            do(root, what)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", f"EVENTS = {EVENTS}\n{PROGRAM}"]
    path = str(Path(__file__).parents[1])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": path}
    ) as made:
        yield made
        assert made.stdin is not None
        made.stdin.close()


def do(nursery: subprocess.Popen[str], root: Path, what: str, fault: str = "none:1") -> int:
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write(f"{root} {what} {' '.join(fault.split(':'))}\n")
    nursery.stdin.flush()
    code = int(nursery.stdout.readline())
    assert code in (0, -signal.SIGKILL), "see its standard error"
    return code


@pytest.mark.parametrize("point", ["store.committed", "ledger.recorded", "store.opened"])
def test_a_killed_replay_and_a_killed_repair_are_completed_by_repeating_them(
    nursery: subprocess.Popen[str], tmp_path: Path, point: str
) -> None:
    small_project(tmp_path)
    assert do(nursery, tmp_path, "take") == 0
    died = 0
    if point != "store.opened":  # a replay opens nothing but by the ledger
        for time in (1, 2):
            died += do(nursery, tmp_path, "replay", f"{point}:{time}") != 0
        assert died, "the point is on the way"
        assert do(nursery, tmp_path, "replay") == 0
    with open_store("sqlite:///.hindscan/hindscan.db", tmp_path) as store:
        replayed = [run.event_id for run in reversed(register.list_runs(store, trigger="scan@again"))]
        assert replayed == ([str(number) for number in range(EVENTS)] if died else [])
        with store.write() as connection:
            for statement in (
                "DELETE FROM runs WHERE trigger = 'scan' AND event_id > '2'",
                "DELETE FROM decisions WHERE trigger = 'scan' AND id IN ('3', '4', '5')",
            ):
                assert connection.execute(sa.text(statement)).rowcount > 0
    deaths = 0
    for time in (1, 2):
        deaths += do(nursery, tmp_path, "audit", f"{point}:{time}") != 0
    assert deaths, "the point is on the way"
    assert do(nursery, tmp_path, "audit") == 0
    with open_store("sqlite:///.hindscan/hindscan.db", tmp_path) as store:
        found = Counter(run.event_id for run in register.list_runs(store, trigger="scan"))
        assert found == Counter(str(number) for number in range(EVENTS))
