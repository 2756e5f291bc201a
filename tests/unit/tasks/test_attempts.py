"""Lines of tasks: each needs the one before it, and trouble in one holds up no other for longer than a task takes."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.tasks.attempts import ATTEMPTS, Hearing, Piece, make_pieces
from hindscan.tasks.executor import Finished, Lost, Outcome, Work
from hindscan.tasks.task import Done, Failed, Packed, Receipt, Task

Behaviour = Callable[[str, int], str]


class Scripted:
    """An executor that takes as many tasks as it may, and ends them in an order drawn by the test."""

    def __init__(self, workers: int, behave: Behaviour, draw: Callable[[int], int], stored: set[str]) -> None:
        self.workers = workers
        self._behave, self._draw, self._stored = behave, draw, stored
        self._tries: dict[str, int] = {}
        #: What was begun: key, and whether alone.
        self.begun: list[tuple[str, bool]] = []
        self.at_once = 0

    def __enter__(self):
        return self

    def __exit__(self, *fault: object) -> None:
        return None

    def run(self, tasks: Iterator[Work], stop: threading.Event, *, alone: bool = False) -> Iterator[Outcome]:
        live: list[Task] = []
        while True:
            for work in tasks:
                live.append(pickle.loads(work.payload))
                if alone:
                    break
            if not live:
                return
            self.at_once = max(self.at_once, len(live))
            yield self._do(live.pop(self._draw(len(live))), alone)

    def _do(self, task: Task, alone: bool) -> Outcome:
        done, failed = [], []
        for position, key in enumerate(task.keys):
            self.begun.append((key, alone))
            self._tries[key] = self._tries.get(key, 0) + 1
            how = self._behave(key, self._tries[key])
            if how == "die":
                return Lost(id=task.id, reason="killed")
            if how in ("fail", "again"):
                failed.append(
                    Failed(position=position, key=key, error="JobFailed", message="", retryable=how == "again")
                )
                break
            self._stored.add(key)
            done.append(finished(key))
        return Finished(
            id=task.id,
            receipt=msgspec.msgpack.encode(
                Receipt(task=task.id, kind="slices", done=tuple(done), failed=tuple(failed))
            ),
        )


def finished(key: str) -> Done:
    return Done(position=0, key=key, rows=0, bytes=0, digest="", seconds=0.0, cpu_seconds=0.0)


def go(lines: list[list[list[str]]], behave: Behaviour, *, workers: int = 2, draw: Callable[[int], int] = lambda n: 0):
    stored: set[str] = set()
    executor = Scripted(workers, behave, draw, stored)
    heard: list[str] = []
    ids = iter(range(10_000))
    hearing = Hearing(
        done=lambda done, _: heard.append(done.key),
        failed=lambda fault: heard.append(f"failed {fault.key}"),
        lost=lambda pieces, _: heard.append("lost " + " ".join(piece.key for piece in pieces)),
        again=lambda count: heard.append(f"again {count}"),
        printed=lambda _: None,
    )
    faults = make_pieces(
        [[[Piece(key=key, position=0, name=key) for key in group] for group in line] for line in lines],
        lambda pieces: Task(
            id=str(next(ids)),
            kind="slices",
            assignment=Packed(digest="", content=b""),
            keys=tuple(p.key for p in pieces),
        ),
        executor=executor,
        stop=threading.Event(),
        hearing=hearing,
        ordered=True,
        kept=lambda piece: finished(piece.key) if piece.key in stored else None,
    )
    return faults, executor, heard


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr("hindscan.tasks.attempts.PAUSE_SECONDS", 0.0)


def done_of(heard: list[str]) -> list[str]:
    return sorted(said for said in heard if " " not in said)


LINES = [[["a1", "a2"], ["a3"], ["a4", "a5"]], [["b1"], ["b2", "b3"]], [["c1"]]]
ALL = sorted(key for line in LINES for group in line for key in group)


@given(st.data(), st.integers(1, 4))
def test_what_is_behind_in_a_line_never_begins_before_what_is_ahead_is_done(data, workers):
    how = data.draw(st.dictionaries(st.sampled_from(ALL), st.sampled_from(["die", "again"]), max_size=4))
    draw = lambda n: data.draw(st.integers(0, n - 1))  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hindscan.tasks.attempts.PAUSE_SECONDS", 0.0)
        faults, executor, heard = go(
            LINES, lambda key, n: how.get(key, "") if n < ATTEMPTS else "", workers=workers, draw=draw
        )
    assert done_of(heard) == ALL
    assert not faults
    assert executor.at_once <= workers
    for name in "abc":
        order = [key for key, _ in executor.begun if key[0] == name]
        assert order == sorted(order)
        # Only the piece that had trouble was begun more than once.
        assert {key for key in order if order.count(key) > 1} == {key for key in how if key[0] == name}
        assert all(order.count(key) == ATTEMPTS for key in how if key[0] == name)


def test_a_failure_ends_its_line_and_no_other():
    faults, executor, heard = go(LINES, lambda key, _: "fail" if key == "a2" else "")
    assert done_of(heard) == ["a1", "b1", "b2", "b3", "c1"]
    assert [fault.key for fault in faults] == ["a2"]
    assert not any(key in ("a3", "a4", "a5") for key, _ in executor.begun)


def test_a_piece_that_always_kills_its_worker_is_named_alone_and_what_was_stored_before_it_is_done():
    faults, executor, heard = go(LINES, lambda key, _: "die" if key == "a2" else "")
    assert done_of(heard) == ["a1", "b1", "b2", "b3", "c1"]
    assert [(fault.key, fault.error) for fault in faults] == [("a2", "WorkerDied")]
    assert [key for key, _ in executor.begun].count("a1") == 1
    assert [alone for key, alone in executor.begun if key == "a2"] == [False, True, True]
    assert heard.count("lost a2") == 3


def test_trouble_in_one_line_makes_the_others_pause_and_not_wait_for_their_ends():
    long = [[[f"a{i}"] for i in range(9)], [[f"b{i}"] for i in range(9)]]
    _, executor, _ = go(long, lambda key, n: "again" if key == "a0" and n == 1 else "", draw=lambda n: 0)
    order = [key for key, _ in executor.begun]
    assert order.index("a1") < order.index("b3")
    _, executor, _ = go(long, lambda key, n: "die" if key == "a0" and n == 1 else "", draw=lambda n: 0)
    order = [key for key, _ in executor.begun]
    assert order.index("a1") < order.index("b3")


def test_the_longest_line_goes_first():
    lines = [[["a1"]], [["b1"], ["b2"]], [["c1"], ["c2"], ["c3"], ["c4"], ["c5"]]]
    _, executor, _ = go(lines, lambda *_: "", workers=1)
    assert [key for key, _ in executor.begun][:3] == ["c1", "c2", "c3"]
    assert len(executor.begun) == 8
