"""One contract for all executors: nothing hangs, nothing is lost unsaid, nothing is left behind (promises 6, 11, 12)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from contract.running import Site, alive, make_site, pids, receipts, until
from hindscan.errors import ServiceUnavailable, WorkerDied
from hindscan.tasks.dask import DaskExecutor
from hindscan.tasks.executor import Executor, InlineExecutor, Lost, Work
from hindscan.tasks.task import Receipt
from hindscan.tasks.threads import ThreadsExecutor

MAKERS = {
    "inline": InlineExecutor,
    "threads": lambda: ThreadsExecutor(2),
    "distributed": lambda: DaskExecutor(2),
}
SLICES = 12


@pytest.fixture(scope="module", params=MAKERS)
def any_executor(request) -> Iterator[Executor]:
    with MAKERS[request.param]() as executor:
        yield executor


@pytest.fixture(scope="module", params=["threads", "distributed"])
def executor(request) -> Iterator[Executor]:
    """One whose tasks are in other processes. The same for all tests: each leaves it fit for the next."""
    with MAKERS[request.param]() as executor:
        yield executor


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path, SLICES)


def go(executor: Executor, works, *, stop: threading.Event | None = None, alone: bool = False):
    return receipts(executor.run(iter(works), stop or threading.Event(), alone=alone))


def test_every_task_has_one_outcome(any_executor: Executor, site: Site):
    found = go(any_executor, site.works("echo"))
    assert sorted(found, key=int) == [str(i) for i in range(SLICES)]
    assert all(isinstance(r, Receipt) and [d.position for d in r.done] == [int(t)] for t, r in found.items())
    assert all(site.partials.has(r.done[0].key) for r in found.values())


class InTurn:
    """Works of which each is there only when the one before it has its outcome."""

    def __init__(self, works: list[Work]) -> None:
        self.works = works
        self.may_begin = 1

    def __iter__(self) -> Iterator[Work]:
        return self

    def __next__(self) -> Work:
        if not self.works or not self.may_begin:
            raise StopIteration
        self.may_begin -= 1
        return self.works.pop(0)


def test_who_has_no_task_now_is_asked_again_after_an_outcome(any_executor: Executor, site: Site):
    in_turn = InTurn(site.works("echo"))
    found = []
    for outcome in any_executor.run(in_turn, threading.Event()):
        found.append(outcome.id)
        in_turn.may_begin += 1
    assert found == [str(i) for i in range(SLICES)]


def test_tasks_are_done_elsewhere(executor: Executor, site: Site):
    workers = {r.worker for r in go(executor, site.works("echo")).values()}
    assert workers
    assert not any(worker.endswith(f":{os.getpid()}") for worker in workers)


def test_outcomes_come_in_the_order_of_completion(executor: Executor, site: Site):
    order = list(go(executor, site.works("uneven")))
    assert order.index("0") > SLICES // 2


def test_threads_begin_first_what_was_given_first(site: Site):
    # Dask has an order of its own, by the names of tasks; the last tasks of a stage are the smallest, and are to be the last.
    with ThreadsExecutor(1) as executor:
        order = [int(outcome.id) for outcome in executor.run(iter(site.works("echo")), threading.Event())]
    # What is given later may come between the last of those that were given before.
    assert order[:3] == [0, 1, 2]
    assert all(abs(task - place) <= 2 for place, task in enumerate(order)), order


def test_a_task_that_raises_is_a_receipt_with_the_users_traceback_first(any_executor: Executor, site: Site):
    found = go(any_executor, site.works("raising"))
    bad = found.pop("3").failed[0]
    assert (bad.error, bad.retryable, bad.position) == ("JobFailed", False, 3)
    assert bad.message.startswith("Traceback (most recent call last):\n")
    assert "in raising\n" in bad.message
    assert "LookupError: slice 3 is bad" in bad.message
    assert "/hindscan/" not in bad.message
    assert all(r.done and not r.failed for r in found.values())


@pytest.mark.parametrize("how", ["exit", "interrupt"])
def test_user_code_that_wants_to_leave_ends_nothing(executor: Executor, site: Site, how: str):
    found = go(executor, site.works("leaving", how=how))
    assert found.pop("3").failed[0].error == "JobFailed"
    assert all(r.done for r in found.values())


@pytest.mark.parametrize("how", ["exit", "kill", "segfault"])
def test_a_dead_worker_is_an_outcome_and_the_others_are_done(executor: Executor, site: Site, how: str):
    began = time.monotonic()
    found = go(executor, site.works("deadly", how=how))
    assert len(found) == SLICES
    lost = {task: o.reason for task, o in found.items() if isinstance(o, Lost)}
    assert "3" in lost
    assert len(lost) <= executor.workers  # only what had begun may be to blame
    wanted = {"exit": "exit code 9", "kill": "SIGKILL", "segfault": "SIGSEGV"}[how]
    assert wanted in lost["3"]
    if how == "segfault":
        assert "Segmentation fault" in lost["3"]
    assert time.monotonic() - began < 20


def test_done_alone_only_the_guilty_task_is_lost(executor: Executor, site: Site):
    found = go(executor, site.works("deadly"), alone=True)
    assert [task for task, o in found.items() if isinstance(o, Lost)] == ["3"]


def test_workers_killed_between_runs_are_replaced(executor: Executor, site: Site):
    before = {int(r.worker.rpartition(":")[2]) for r in go(executor, site.works("echo")).values()}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: not any(alive(pid) for pid in before))
    found = go(executor, site.works("echo"))
    assert all(isinstance(r, Receipt) and r.done for r in found.values())
    assert len(found) == SLICES


def test_workers_killed_while_they_work_lose_no_task_unsaid(executor: Executor, site: Site):
    marks = site.root / "marks"
    killed = []

    def kill_three() -> None:
        for _ in range(3):
            assert until(lambda: any(alive(pid) for pid in pids(marks)), 30)
            killed.append(next(pid for pid in pids(marks) if alive(pid)))
            os.kill(killed[-1], signal.SIGKILL)
            for pid in pids(marks):
                (marks / str(pid)).unlink()

    killer = threading.Thread(target=kill_three)
    killer.start()
    found = go(executor, site.works("sleeping", folder=str(marks), seconds=0.4))
    killer.join()
    assert sorted(found, key=int) == [str(i) for i in range(SLICES)]
    reasons = [o.reason for o in found.values() if isinstance(o, Lost)]
    assert all("was killed by SIGKILL" in reason for reason in reasons)
    assert {pid for pid in killed if any(f"process {pid} " in reason for reason in reasons)} == set(killed)


@pytest.mark.parametrize("which", ["sleeping", "deaf"])
def test_a_stop_ends_the_work_after_its_grace_and_leaves_no_process(executor: Executor, site: Site, which: str):
    marks, stop = site.root / "marks", threading.Event()
    result = {}
    thread = threading.Thread(
        target=lambda: result.update(go(executor, site.works(which, folder=str(marks)), stop=stop))
    )
    thread.start()
    assert until(lambda: bool(pids(marks)), 40)
    at_work = pids(marks)
    children = [child.pid for pid in at_work for child in psutil.Process(pid).children()]
    began = time.monotonic()
    stop.set()
    thread.join(40)
    assert not thread.is_alive()
    assert 0.9 < time.monotonic() - began < 5, "the grace, and no longer than is promised"
    assert result == {}
    assert not any(alive(pid) for pid in at_work + children)
    assert len(go(executor, site.works("echo"))) == SLICES


def test_a_stop_before_the_first_task_begins_none(any_executor: Executor, site: Site):
    stop = threading.Event()
    stop.set()
    assert go(any_executor, site.works("echo"), stop=stop) == {}


def test_what_is_done_within_the_grace_counts(executor: Executor, site: Site):
    marks, stop = site.root / "marks", threading.Event()
    result = {}
    works = site.works("sleeping", folder=str(marks), seconds=0.5)
    thread = threading.Thread(target=lambda: result.update(go(executor, works, stop=stop)))
    thread.start()
    assert until(lambda: bool(pids(marks)), 40)
    stop.set()
    thread.join(40)
    assert any(isinstance(r, Receipt) and r.done for r in result.values())
    assert len(result) < SLICES


def test_closing_the_iterator_ends_the_work(executor: Executor, site: Site):
    marks = site.root / "marks"
    works = site.works("sleeping", folder=str(marks), seconds=0.2)
    outcomes = executor.run(iter(works), threading.Event())
    next(outcomes)
    at_work = pids(marks)
    outcomes.close()
    assert not any(alive(pid) for pid in at_work)


def test_a_thousand_small_tasks_are_quick_and_few_are_alive_at_a_time(any_executor: Executor, site: Site):
    works = site.works("raising")
    taken = given = most = 0

    def tasks():
        nonlocal taken
        for i in range(1000):
            taken += 1
            yield type(works[0])(id=f"many-{i}", payload=works[i % SLICES].payload)

    began = time.monotonic()
    for _ in any_executor.run(tasks(), threading.Event()):
        given += 1
        most = max(most, taken - given)
    assert given == 1000
    assert most <= 16 * any_executor.workers
    assert time.monotonic() - began < 60


def test_what_user_code_prints_is_in_the_receipt_and_nowhere_else(any_executor: Executor, site: Site, capfd):
    found = go(any_executor, site.works("printing"))
    for task, receipt in found.items():
        if task != "1":
            assert receipt.output == f"this is {task}\nerror of {task}\n"
    assert found["1"].output.startswith("...x")
    assert len(found["1"].output.encode()) <= 65_536 + 3
    assert "this is" not in "".join(capfd.readouterr())


def test_code_that_cannot_be_loaded_is_an_ordinary_failure(any_executor: Executor, site: Site, monkeypatch):
    monkeypatch.setattr(Site, "packed", lambda self, job: _broken(*bundled(self, job)))
    found = go(any_executor, site.works("echo"))
    assert {r.failed[0].error for r in found.values()} == {"CodeLoadError"}


bundled = Site.packed


def _broken(spec, code):
    import msgspec

    return spec, msgspec.structs.replace(code, payload=b"not a pickle", digest="broken")


@pytest.mark.parametrize("name", ["threads", "distributed"])
def test_workers_that_cannot_start_are_an_error_within_seconds(site: Site, name: str, monkeypatch):
    works = site.works("echo")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    began = time.monotonic()
    with MAKERS[name]() as executor, pytest.raises(WorkerDied, match=r"in a row did not.*exit code 1"):
        go(executor, works)
    assert time.monotonic() - began < 20


def listening() -> dict[tuple[int, int], str]:
    """Addresses this process and all below it listen on, by process and port: other tests' servers among them."""
    own = psutil.Process()
    return {
        (p.pid, c.laddr.port): c.laddr.ip
        for p in (own, *own.children(recursive=True))
        for c in p.net_connections()
        if c.status == "LISTEN"
    }


def test_everything_that_dask_opens_is_on_loopback(site: Site):
    before = listening()
    with DaskExecutor(2) as executor:
        go(executor, site.works("echo"))
        opened = {place: address for place, address in listening().items() if place not in before}
    assert len(opened) >= 3, "a scheduler and two workers"
    assert set(opened.values()) == {"127.0.0.1"}


def test_a_scheduler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("hindscan.tasks.dask._CONNECT_SECONDS", 0.5)
    with (
        pytest.raises(ServiceUnavailable, match=r"tcp://127.0.0.1:1: it must answer"),
        DaskExecutor(address="tcp://127.0.0.1:1"),
    ):
        pass


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A cluster that somebody else has started: scheduler and two workers. The last test of it ends the scheduler."""
    folder = tmp_path_factory.mktemp("foreign")
    file = folder / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    dask = [sys.executable, "-m", "distributed.cli"]
    common = ["--host", "127.0.0.1", "--scheduler-file", str(file)]
    started = [
        subprocess.Popen(
            [dask[0], "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", *common], **quiet
        )
    ]
    worker = [dask[0], "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard", *common]
    started += [subprocess.Popen(worker, **quiet) for _ in range(2)]
    assert until(lambda: file.exists() and file.read_text().endswith("}"), 30)
    yield json.loads(file.read_text())["address"], started
    for process in started:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()
        process.wait()


def test_a_stop_ends_the_work_on_somebody_elses_workers_too(site: Site, foreign):
    address, _ = foreign
    marks, stop = site.root / "marks", threading.Event()
    with DaskExecutor(address=address) as executor:
        assert until(lambda: executor.workers == 2)
        works = site.works("deaf", folder=str(marks))
        thread = threading.Thread(target=lambda: go(executor, works, stop=stop))
        thread.start()
        assert until(lambda: bool(pids(marks)), 30)
        at_work = pids(marks)
        stop.set()
        assert until(lambda: not any(alive(pid) for pid in at_work), 30)
        thread.join(30)
        assert not thread.is_alive()


def test_a_cluster_that_runs_already_is_used_and_its_loss_is_an_error(site: Site, foreign):
    address, processes = foreign
    with DaskExecutor(address=address) as executor:
        assert until(lambda: executor.workers == 2)
        found = go(executor, site.works("echo"))
        assert len(found) == SLICES
        assert all(r.done for r in found.values())
        assert [task for task, o in go(executor, site.works("deadly"), alone=True).items() if isinstance(o, Lost)] == [
            "3"
        ]
        outcomes = executor.run(
            iter(site.works("sleeping", folder=str(site.root / "marks"), seconds=0.5)), threading.Event()
        )
        next(outcomes)
        processes[0].kill()
        began = time.monotonic()
        with pytest.raises(ServiceUnavailable, match="must answer and have workers"):
            list(outcomes)
        assert time.monotonic() - began < 20


SCRIPT = """
import sys
from pathlib import Path
from contract.running import Site
from hindscan.jobs.declare import job
from hindscan.tasks.dask import DaskExecutor
from hindscan.tasks.threads import ThreadsExecutor

@job(history="numbers", combine="concat")
def sleeping(numbers, seconds: float = 60.0):
    import os, re, time
    from pathlib import Path
    Path({marks!r}, str(os.getpid())).touch()
    time.sleep(max(0, seconds))
    if seconds < 0:  # holds the interpreter lock for ever
        re.match(r"(a*)*b", "a" * 60)
    return {{"n": numbers.arrow()["n"][0].as_py()}}

make = {{"threads": lambda: ThreadsExecutor(2), "distributed": lambda: DaskExecutor(2)}}[sys.argv[1]]
with make() as executor:
    done = Site(root=Path({root!r})).run(executor, sleeping, seconds=float(sys.argv[2]))
    print(done.computed)
"""


def script(site: Site, *arguments: str) -> subprocess.Popen[str]:
    """Start a script without a main guard, in another folder."""
    elsewhere = site.root / "elsewhere"
    elsewhere.mkdir()
    text = textwrap.dedent(SCRIPT).format(marks=str(site.root / "marks"), root=str(site.root))
    tests = Path(__file__).parents[1]
    (elsewhere / "script.py").write_text(f"import sys; sys.path.insert(0, {str(tests)!r})\n{text}")
    return subprocess.Popen([sys.executable, "script.py", *arguments], cwd=elsewhere, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("name", ["threads", "distributed"])
def test_a_script_without_a_main_guard_works_from_any_folder(site: Site, name: str):
    out, _ = script(site, name, "0").communicate(timeout=60)
    assert out == f"{SLICES}\n"


@pytest.mark.parametrize("name", ["threads", "distributed"])
@pytest.mark.parametrize("seconds", ["60", "-1"], ids=["sleeping", "deaf"])
def test_no_process_outlives_a_parent_that_was_killed(site: Site, name: str, seconds: str):
    parent = script(site, name, seconds)
    marks = site.root / "marks"
    try:
        assert until(lambda: len(pids(marks)) >= (2 if name == "distributed" else 1), 30)
        family = [parent.pid, *(child.pid for child in psutil.Process(parent.pid).children(recursive=True))]
        assert set(pids(marks)) <= set(family)
    finally:
        parent.kill()
        parent.communicate()
    assert until(lambda: not any(alive(pid) for pid in family), 30)
