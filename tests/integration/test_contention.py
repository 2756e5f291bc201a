"""A simulation whose steps hold the interpreter's lock goes on in processes, from what is stored, with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from hindscan.config_file import load_project
from hindscan.driver import drive
from hindscan.planning import ask
from hindscan.progress import SliceFinished
from hindscan.runs import codes, opening
from hindscan.runs.results import read_manifest
from hindscan.tasks import contention
from hindscan.workshop import Workshop, open_workshop

JOB = '''
import numpy as np

import hindscan as hs


@hs.simulation(draws=12_000, block_size=100)
def walk(block: hs.Block):
    """How far a walk gets that asks Python at each step."""
    ends = []
    for steps in block.rng.integers(0, 2, size=(block.size, 60)).tolist():
        at = 0
        for step in steps:
            at += 1 if step else -1
        ends.append(float(at))
    return np.array(ends)
'''


def run(workshop: Workshop, workers: int, facts: list[SliceFinished] | None = None) -> str:
    spec, code = workshop.job("walk")
    digest = codes.save_code(workshop.store, spec, code)
    request = ask(workshop.project, spec, {}, seed=5, workers=workers)
    opened = opening.open_run(workshop.store, request, code=digest, requested_by="test")
    done = drive(workshop, opened.id, observe=None if facts is None else facts.append)
    assert done.state == "succeeded", done.message
    return read_manifest(workshop.project.root / done.result).result.digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hindscan.toml").write_text("")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "walk.py").write_text(JOB)
    return tmp_path


def test_it_changes_to_processes_and_no_bit(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory) -> None:
    monkeypatch.setattr(contention, "MEASURED_SECONDS", 0.02)
    monkeypatch.setattr(contention, "LEFT_SECONDS", 0.0)
    facts: list[SliceFinished] = []
    with open_workshop(load_project(folder)) as workshop:
        digest = run(workshop, 2, facts)
        assert workshop.contended
    drawn = [fact for fact in facts if isinstance(fact, SliceFinished)]
    assert len({fact.slice for fact in drawn}) == len(drawn)  # what the threads had stored was not drawn again
    other = tmp_path_factory.mktemp("alone")
    for name in ("hindscan.toml", "jobs/walk.py"):
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).write_text((folder / name).read_text())
    with open_workshop(load_project(other)) as workshop:
        assert run(workshop, 1) == digest
        assert not workshop.contended
