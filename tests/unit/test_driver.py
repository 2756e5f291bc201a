"""Carrying out one run without a server: what happens is told once, whoever does the work."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hindscan import driver
from hindscan.cli.app import run_app
from hindscan.driver import drive, follow, try_again
from hindscan.errors import Conflict, ExecutionError
from hindscan.planning import ask
from hindscan.progress import Fact, RunPlanned, SliceFinished, StageFinished
from hindscan.runs import codes, leases, opening, register
from hindscan.runs.results import read_manifest
from hindscan.workshop import Workshop, open_workshop
from small_project import add_bids, small_project


@pytest.fixture
def project(tmp_path: Path):
    return small_project(tmp_path)


def a_run(workshop: Workshop) -> str:
    spec, code = workshop.job("total")
    digest = codes.save_code(workshop.store, spec, code)
    request = ask(workshop.project, spec, {"category": "cars"})
    return opening.open_run(workshop.store, request, code=digest, requested_by="test").id


def test_a_run_that_is_driven_is_told_of_once(project) -> None:
    facts: list[Fact] = []
    with open_workshop(project) as workshop:
        done = drive(workshop, a_run(workshop), observe=facts.append)
    assert done.state == "succeeded", done.message
    assert [sum(isinstance(fact, kind) for fact in facts) for kind in (RunPlanned, SliceFinished, StageFinished)] == [1, 1, 1]  # fmt: skip


def test_a_run_that_waits_is_told_of_once_and_then_gone_on_with(project) -> None:
    facts: list[Fact] = []
    with open_workshop(project) as workshop:
        run = a_run(workshop)
        failing = workshop.project.root / "bids" / "first.parquet"
        kept = failing.read_bytes()
        failing.unlink()
        assert drive(workshop, run, observe=facts.append).state == "failed"
        failing.write_bytes(kept)
        register.retry(workshop.store, run)
        heard: list[Fact] = []
        other = threading.Thread(target=follow, args=(workshop, run), kwargs={"observe": heard.append})
        other.start()
        assert drive(workshop, run, observe=facts.append).state == "succeeded"
        other.join(60)
    assert sum(isinstance(fact, RunPlanned) for fact in facts) == 1
    assert sum(isinstance(fact, RunPlanned) for fact in heard) == 1


@pytest.mark.parametrize("which", ["the finished table", "slices", "all"])
def test_a_run_over_damaged_partials_makes_them_again(project, which: str) -> None:
    for number in range(2, 5):
        add_bids(project.root, f"more {number}", [(number, number)])
    with open_workshop(project) as workshop:
        first = drive(workshop, a_run(workshop))
        files = sorted(workshop.partials.folder.rglob("*.arrow"), key=lambda file: file.stat().st_mtime_ns)
        assert len(files) == 5  # of four slices, and of the whole
        for file in {"the finished table": files[-1:], "slices": files[:-1], "all": files}[which]:
            file.write_bytes(b"")
        again = drive(workshop, a_run(workshop))
    assert (first.state, again.state) == ("succeeded", "succeeded"), again.message
    assert again.result is not None
    assert read_manifest(project.root / again.result).slices.computed == (0 if which == "the finished table" else 4)
    assert pq.read_table(project.root / again.result / "result.parquet").to_pylist() == [{"total": 120}]


def a_process_that_has_gone() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(60)
    return process


# The process outlives who started it: that is what it is for.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_who_waits_for_a_run_whose_process_has_gone_starts_another(project) -> None:
    with open_workshop(project) as workshop:
        run = a_run(workshop)
        # The owner claimed it and died: its claim ends by itself.
        assert leases.claim(workshop.store, "gone", 0.0, run=run) is not None
        done = follow(workshop, run, driver=a_process_that_has_gone(), seconds=100)
    assert done.state == "succeeded", done.message


def test_processes_that_cannot_begin_are_an_error_that_says_why_and_not_a_wait_without_end(
    project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "STARTS", 1)
    with open_workshop(project) as workshop:
        run = a_run(workshop)
        (project.root / "hindscan.toml").write_text("[")
        with pytest.raises(ExecutionError, match=rf"run {run}.*ConfigError.*hindscan.toml.*\n.*drivers/{run}.log"):
            follow(workshop, run, driver=a_process_that_has_gone(), seconds=100)


def test_a_run_whose_owner_has_died_can_be_gone_on_with_and_cancelled(project) -> None:
    with open_workshop(project) as workshop:
        runs = [a_run(workshop) for _ in range(3)]
        for run, seconds in zip(runs, (0.0, 0.0, 60.0), strict=True):
            assert leases.claim(workshop.store, "gone", seconds, run=run) is not None
        try_again(workshop, runs[0])
        assert register.get_run(workshop.store, runs[0]).state == "pending"
        assert drive(workshop, runs[0]).state == "succeeded"
        assert run_app(["cancel", runs[1], "--project", str(project.root)]) == 0
        assert register.get_run(workshop.store, runs[1]).state == "cancelled"
        with pytest.raises(Conflict, match="it is running"):
            try_again(workshop, runs[2])
