"""A worker that takes too much memory is ended before the machine is full, and its slices are tried alone, then named (promises 6, 10 and 11)."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.running import Site, make_site, until
from hindscan.errors import OutOfMemory
from hindscan.progress import TaskLost
from hindscan.tasks.dask import DaskExecutor
from hindscan.tasks.executor import Executor
from hindscan.tasks.memory import Guard, machine_bytes, worker_bytes
from hindscan.tasks.process import start
from hindscan.tasks.threads import ThreadsExecutor

SLICES = 12
#: Of one worker: a fresh one takes some 200 MB.
LIMIT = 400 * 2**20

MAKERS: dict[str, Callable[[], Executor]] = {
    "threads": lambda: ThreadsExecutor(1, LIMIT),
    "distributed": lambda: DaskExecutor(1, memory=LIMIT),
}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path, SLICES)


@pytest.mark.parametrize("name", MAKERS)
def test_a_slice_that_takes_too_much_fails_with_figures_and_its_neighbours_are_kept(site: Site, name: str):
    facts, folder = [], str(site.root / "marks")
    wanted = r"Computing slice 3: .*alone on the machine it did not: .*may take 400 MB(.|\n)*Lower slice_rows"
    with MAKERS[name]() as executor, pytest.raises(OutOfMemory, match=wanted) as caught:
        site.run(executor, "hungry", folder=folder, facts=facts, slices_per_task=4)
    assert caught.value.details["slice"] == 3
    assert (site.root / "marks" / "eaten-3").read_text() == "xx"  # among others, and alone
    assert site.plan("hungry", folder=folder).stages[0].reused == set(range(SLICES)) - {3}
    lost = [fact for fact in facts if isinstance(fact, TaskLost)]
    assert [fact.slices for fact in lost] == [(3,), (3,)]  # what was stored before it is not made again
    assert all("may take 400 MB" in fact.reason for fact in lost)


def test_a_task_that_took_too_much_is_done_slice_by_slice(site: Site):
    with ThreadsExecutor(1, LIMIT) as executor:
        done = site.run(executor, "hungry", folder=str(site.root / "marks"), appetite="once", slices_per_task=6)
    assert site.partials.read(done.finished)["n"].to_pylist() == list(range(SLICES))
    assert done.retried == 3  # those that were stored before it are not made again


def test_alone_on_the_machine_a_worker_may_take_what_all_might(site: Site):
    with DaskExecutor(3, memory=LIMIT) as executor, pytest.raises(OutOfMemory, match="may take 1,200 MB"):
        site.run(executor, "hungry", folder=str(site.root / "marks"), megabytes=1600)


def test_a_part_that_is_too_large_fails_by_name_and_the_others_are_kept(site: Site):
    with (
        ThreadsExecutor(1, LIMIT) as executor,
        pytest.raises(OutOfMemory, match=r"Computing finished table (\d): (.|\n)*raise parts= of a job") as caught,
    ):
        site.run(executor, "hungry_part")
    there = [site.partials.has(key) for key in site.plan("hungry_part").stages[0].results]
    (missing,) = [part for part, is_there in enumerate(there) if not is_there]
    assert f"Computing finished table {missing}" in str(caught.value)


def test_out_of_memory_is_tolerated_where_failures_are(site: Site):
    with ThreadsExecutor(1, LIMIT) as executor:
        done = site.run(executor, "hungry", folder=str(site.root / "marks"), allow_failed=1, slices_per_task=4)
    assert [(f.position, f.error) for f in done.stages[0].failed] == [(3, "OutOfMemory")]


@pytest.mark.parametrize(("times", "blamed"), [(1.1, True), (1000, False)])
def test_a_worker_killed_from_outside_was_out_of_memory_if_it_was_near_its_limit(times: float, blamed: bool):
    inbox: queue.SimpleQueue = queue.SimpleQueue()
    process = start(inbox, "hindscan.tasks.threads:child_main", "1")
    try:
        statm = Path(f"/proc/{process.pid}/statm")
        assert until(lambda: int(statm.read_text().split()[1]) > 2_000)
        taken = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        guard = Guard(int(taken * times))
        guard.look([process])
        process.kill()
        assert bool(guard.verdict(process)) is blamed
    finally:
        process.close()


def test_workers_share_the_machine_unless_a_limit_is_set():
    assert worker_bytes(5, 2) == 5
    assert 0 < worker_bytes(None, 4) * 4 < machine_bytes()
