"""Threads that hinder each other are seen by what the first slices took: time by the clock against time of the processor."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hindscan.progress import Fact, SliceFinished
from hindscan.tasks.contention import Contended, Contention

DRAWS = 1_000_000


def watched(workers: int = 2, slices: int = 100) -> tuple[Contention, list[Fact]]:
    drawn = SimpleNamespace(step="slice", table=None, reused=frozenset({0}), slices=[
        SimpleNamespace(rows=DRAWS, position=position) for position in range(slices)
    ])  # fmt: skip
    read = SimpleNamespace(step="calibrate", table="bids", reused=frozenset(), slices=[])
    told: list[Fact] = []
    return Contention(SimpleNamespace(stages=[read, drawn]), workers, told.append), told


def finished(seconds: float, share: float, stage: str = "slice") -> SliceFinished:
    return SliceFinished(
        run="r", stage=stage, slice=1, rows=DRAWS, seconds=seconds, cpu_seconds=share * seconds, worker="w"
    )


@pytest.mark.parametrize(("workers", "share"), [(2, 0.55), (4, 0.3)])
def test_slices_that_take_turns_are_contended_once_enough_is_measured(workers: int, share: float) -> None:
    contention, told = watched(workers)
    contention.hear(finished(0.6, share))
    with pytest.raises(Contended):
        contention.hear(finished(0.6, share))
    assert len(told) == 2


@pytest.mark.parametrize(("workers", "share"), [(2, 0.95), (2, 0.8), (4, 0.7)])
def test_slices_that_work_beside_each_other_are_not(workers: int, share: float) -> None:
    contention, told = watched(workers)
    for _ in range(50):
        contention.hear(finished(0.6, share))
    assert len(told) == 50


def test_for_what_is_nearly_done_no_process_is_started() -> None:
    contention, _ = watched(slices=12)
    for _ in range(11):
        contention.hear(finished(0.6, 0.5))


def test_what_reads_a_history_is_not_judged() -> None:
    contention, _ = watched()
    for _ in range(10):
        contention.hear(finished(0.6, 0.1, stage="calibrate"))
