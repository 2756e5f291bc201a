"""Having pieces made: handed out in tasks, tried again where that may help, given up where it does not.

Keeps promises 6 and 11. The retry rule reads the class of a fault, as the receipt has it: what may pass is tried again, `ATTEMPTS` times in all. A task whose worker
died is taken apart and its pieces are done alone: whichever dies again is what kills workers, and its neighbours are done and kept.
A piece that fails for good ends nothing at once, but after `FAILURES_MOST` of them no new task is begun.

::

    groups of pieces -> Work -> Executor -> Finished | Lost -> Done, or again, or Failed
"""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from hindscan.errors import CorruptPartial, WorkerDied
from hindscan.tasks.executor import Executor, Finished, Work
from hindscan.tasks.task import Done, Failed, Receipt, Task

__all__ = ["Hearing", "Made", "Piece", "make_pieces"]

#: How often a piece is tried in all before its failure counts.
ATTEMPTS: Final = 3
#: Pieces that may fail for good before no more are begun: a job that always raises need not do so a thousand times.
FAILURES_MOST: Final = 10
#: Pause before the second attempt; the third waits twice as long.
PAUSE_SECONDS: Final = 0.25


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One partial to be made."""

    key: str
    #: Of the slice or node.
    position: int
    #: What it is called in messages: "slice 3".
    name: str


class Hearing(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told what happens, while it happens."""

    done: Callable[[Done, Receipt], None]
    failed: Callable[[Failed], None]
    lost: Callable[[Sequence[Piece], str], None]
    again: Callable[[int], None]
    printed: Callable[[str], None]


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. Without failures every piece is done, unless it was stopped."""

    done: tuple[Done, ...]
    #: For good; the first is the one that came first.
    failed: tuple[Failed, ...]


def make_pieces(
    groups: Sequence[Sequence[Piece]],
    build: Callable[[Sequence[Piece]], Task],
    *,
    executor: Executor,
    stop: threading.Event,
    hearing: Hearing,
    ordered: bool = False,
) -> Made:
    """Make pieces.

    Parameters
    ----------
    groups : sequence of sequence of Piece
        The pieces of each task.
    build : callable
        Gives the task for some pieces.
    executor : Executor
        Does the tasks.
    stop : threading.Event
        No new task is begun when set.
    hearing : Hearing
        Is told what happens.
    ordered : bool
        The pieces of a group need each other in this order, so a group is never taken apart.
    """
    done: list[Done] = []
    failed: list[Failed] = []
    attempts: Counter[str] = Counter()
    #: Groups to be done beside others, and groups that must be alone with their process.
    waiting: list[Sequence[Piece]] = list(groups)
    suspects: list[Sequence[Piece]] = []
    while (waiting or suspects) and not stop.is_set() and len(failed) < FAILURES_MOST:
        alone = not waiting
        now = suspects if alone else waiting
        suspects = [] if alone else suspects
        again: list[Sequence[Piece]] = []
        for pieces, outcome in _round(now, build, executor, stop, failed, alone=alone):
            for piece in pieces:
                attempts[piece.key] += 1
            if isinstance(outcome, Receipt):
                again += _take(outcome, pieces, attempts, done, failed, hearing, ordered=ordered)
            else:
                hearing.lost(pieces, outcome)
                suspects += _give_up(outcome, pieces, attempts, failed, hearing, ordered=ordered)
        if again or suspects:
            hearing.again(sum(len(group) for group in (*again, *suspects)))
        if again:
            stop.wait(PAUSE_SECONDS * max(attempts[piece.key] for group in again for piece in group))
        waiting = again
    return Made(done=tuple(done), failed=tuple(failed))


def _round(
    groups: Sequence[Sequence[Piece]],
    build: Callable[[Sequence[Piece]], Task],
    executor: Executor,
    stop: threading.Event,
    failed: list[Failed],
    *,
    alone: bool,
) -> Iterator[tuple[Sequence[Piece], Receipt | str]]:
    """Hand out groups once; give each with its receipt, or with the reason of its worker's death."""
    out: dict[str, Sequence[Piece]] = {}

    def hand_out() -> Iterator[Work]:
        for pieces in groups:
            if len(failed) >= FAILURES_MOST:
                return
            task = build(pieces)
            out[task.id] = pieces
            yield Work(id=task.id, payload=pickle.dumps(task, protocol=5))

    for outcome in executor.run(hand_out(), stop, alone=alone):
        pieces = out.pop(outcome.id)
        if isinstance(outcome, Finished):
            yield pieces, msgspec.msgpack.decode(outcome.receipt, type=Receipt)
        else:
            yield pieces, outcome.reason


def _take(
    receipt: Receipt,
    pieces: Sequence[Piece],
    attempts: Counter[str],
    done: list[Done],
    failed: list[Failed],
    hearing: Hearing,
    *,
    ordered: bool,
) -> list[list[Piece]]:
    """Take a receipt in; give the groups that are to be tried again."""
    if receipt.output:
        hearing.printed(receipt.output)
    for made in receipt.done:
        done.append(made)
        hearing.done(made, receipt)
    # A damaged partial does not get better by reading it again: whoever asked for the pieces has it made anew.
    final = [
        f
        for f in receipt.failed
        if not f.retryable or attempts[f.key] >= ATTEMPTS or f.error == CorruptPartial.__name__
    ]
    for fault in final:
        failed.append(fault)
        hearing.failed(fault)
    settled = {d.key for d in receipt.done} | {f.key for f in final}
    left = [piece for piece in pieces if piece.key not in settled]
    if not left or (ordered and final):
        return []  # what needed a piece that failed for good cannot be made
    return [left] if ordered else [[piece] for piece in left]


def _give_up(
    reason: str,
    pieces: Sequence[Piece],
    attempts: Counter[str],
    failed: list[Failed],
    hearing: Hearing,
    *,
    ordered: bool,
) -> list[list[Piece]]:
    """Give the groups of a lost task that are to be tried again, alone."""
    final = [piece for piece in pieces if attempts[piece.key] >= ATTEMPTS]
    for piece in final:
        fault = Failed(
            position=piece.position,
            key=piece.key,
            error=WorkerDied.__name__,
            message=f"Computing {piece.name}: the worker must live until it is done, and it died {ATTEMPTS} times, the last time with nothing else "
            f"to do: {reason}\nLook for what ends the process (memory, a crash in native code, os._exit).",
            retryable=False,
        )
        failed.append(fault)
        hearing.failed(fault)
    left = [piece for piece in pieces if piece not in final]
    if not left or (ordered and final):
        return []
    return [left] if ordered else [[piece] for piece in left]
