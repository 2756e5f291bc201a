"""Having pieces made: handed out in tasks, tried again where that may help, given up where it does not.

Keeps promises 6 and 11. The retry rule reads the class of a fault, as the receipt has it: what may pass is tried again, `ATTEMPTS` times in all. A task whose worker
died is taken apart and its pieces are done alone: whichever dies again is what kills workers, and its neighbours are done and kept.
A piece that fails for good ends nothing at once, but after `FAILURES_MOST` of them no new task is begun.

Tasks that need one another stand in a line and are handed out one after another, each as soon as the one before it is done; lines go on beside each other, as many as
there are workers, those with most before them first. Where one is to be tried again the others pause at their next task, so that no line waits for the end of
all others. Of a lost task in a line what it had stored is kept (`kept`), and only the piece that was being made counts as tried.

::

    lines of groups of pieces -> Work -> Executor -> Finished | Lost -> Done, or again, or Failed
"""

from __future__ import annotations

import pickle
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec

from hindscan.errors import CorruptPartial, OutOfMemory, WorkerDied
from hindscan.tasks.executor import Executor, Finished, Lost, Work
from hindscan.tasks.task import Done, Failed, Receipt, Task

__all__ = ["Hearing", "Piece", "make_pieces"]

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


def make_pieces(
    lines: Iterable[Sequence[Sequence[Piece]]],
    build: Callable[[Sequence[Piece]], Task],
    *,
    executor: Executor,
    stop: threading.Event,
    hearing: Hearing,
    ordered: bool = False,
    kept: Callable[[Piece], Done | None] | None = None,
    tolerated: int = 0,
) -> list[Failed]:
    """Make pieces; what is done is told as it comes, and kept by whoever hears it.

    Parameters
    ----------
    lines : iterable of sequence of sequence of Piece
        The pieces of each task, and in a line the tasks of which each needs those before it. Where it is no sequence, every line is one task, and they
        are taken as there is room.
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
    kept : callable, optional
        Gives what a lost task had stored of a piece; None if there is nothing, or nothing that is surely its own.
    tolerated : int
        Pieces that may fail for good beside the `FAILURES_MOST` after which no more are begun.

    Returns
    -------
    list of Failed
        For good; the first is the one that came first. Without any every piece is done, unless it was stopped.
    """
    making = _Making(build, executor, stop, hearing, ordered=ordered, kept=kept, most=FAILURES_MOST + tolerated)
    return making.make(lines)


_Line = deque[Sequence[Piece]]


class _Making:
    """The lines that are still to be made, and what has failed of the others."""

    def __init__(
        self,
        build: Callable[[Sequence[Piece]], Task],
        executor: Executor,
        stop: threading.Event,
        hearing: Hearing,
        *,
        ordered: bool,
        kept: Callable[[Piece], Done | None] | None,
        most: int,
    ) -> None:
        self._most = most
        self._build, self._executor, self._stop, self._hearing = build, executor, stop, hearing
        self._ordered, self._kept = ordered, kept
        self._failed: list[Failed] = []
        self._attempts: Counter[str] = Counter()
        #: Lines to be worked on beside others, those whose next group waits for a second attempt, and those that must be alone with their process.
        self._ready: deque[_Line] = deque()
        self._again: list[_Line] = []
        self._suspects: deque[_Line] = deque()
        self._out: dict[str, _Line] = {}
        #: Keys of pieces whose worker ran out of memory, and whether the tasks of now have the machine for themselves, one after another.
        self._hungry: set[str] = set()
        self._single = False

    def make(self, lines: Iterable[Sequence[Sequence[Piece]]]) -> list[Failed]:
        """Work until all is done, or has failed, or is stopped; give what failed."""
        more = (deque(line) for line in lines if line)
        in_line = isinstance(lines, Sequence) and any(len(line) > 1 for line in lines)
        # Lines that go on are compared with each other, so all must be there; of single tasks one at hand is enough.
        self._ready.extend(more if in_line else islice(more, 1))
        workers = self._executor.workers
        while (self._ready or self._suspects) and not self._stop.is_set() and len(self._failed) < self._most:
            # Suspects come last, but for those that hold up what stands behind them.
            alone = bool(self._suspects) and (in_line or not self._ready)
            queue = self._suspects if alone else self._ready
            if alone:
                self._suspects = deque()
            self._single = alone and any(p.key in self._hungry for line in queue for p in line[0])
            pausing = self._pausing(1 if self._single else workers, alone=alone) if in_line or self._single else None
            tasks = _Tasks(queue, self._hand_out, pausing, iter(()) if alone else more)
            for outcome in self._executor.run(tasks, self._stop, alone=alone):
                line = self._out.pop(outcome.id)
                if isinstance(outcome, Finished):
                    self._take(msgspec.msgpack.decode(outcome.receipt, type=Receipt), line)
                else:
                    self._give_up(outcome, line)
            if alone:
                self._suspects.extendleft(reversed(queue))
            if self._again or self._suspects:
                waiting = [piece for line in (*self._again, *self._suspects) for piece in self._to_try(line)]
                self._hearing.again(len(waiting))
            if self._again:
                most = max(self._attempts[piece.key] for line in self._again for piece in line[0])
                self._stop.wait(PAUSE_SECONDS * most)
            self._ready.extend(self._again)
            self._again = []
        return self._failed

    def _pausing(self, workers: int, *, alone: bool) -> Callable[[], bool]:
        """Tell when lines that go on for long take no next task."""
        return lambda: len(self._out) >= workers or (not alone and bool(self._again or self._suspects))

    def _hand_out(self, line: _Line) -> Work | None:
        if len(self._failed) >= self._most:
            return None
        task = self._build(line[0])
        self._out[task.id] = line
        return Work(id=task.id, payload=pickle.dumps(task, protocol=5))

    def _to_try(self, line: _Line) -> Sequence[Piece]:
        """Give the pieces of a line's next group that are tried again: what needs them has not been tried."""
        return line[0][:1] if self._ordered else line[0]

    def _go_on(self, line: _Line) -> None:
        """Take a line past a group that is done."""
        line.popleft()
        if line:
            self._ready.append(line)

    def _take(self, receipt: Receipt, line: _Line) -> None:
        """Take a receipt in."""
        if receipt.output:
            self._hearing.printed(receipt.output)
        for made in receipt.done:
            self._hearing.done(made, receipt)
        self._attempts.update(fault.key for fault in receipt.failed)
        # A damaged partial does not get better by reading it again: whoever asked for the pieces has it made anew.
        final = [
            f
            for f in receipt.failed
            if not f.retryable or self._attempts[f.key] >= ATTEMPTS or f.error == CorruptPartial.__name__
        ]
        for fault in final:
            self._fail(fault)
        settled = {d.key for d in receipt.done} | {f.key for f in final}
        left = [piece for piece in line[0] if piece.key not in settled]
        if self._ordered and final:
            return  # what needed a piece that failed for good cannot be made
        if not left:
            self._go_on(line)
        else:
            self._again += self._once_more(line, left)

    def _give_up(self, lost: Lost, line: _Line) -> None:
        """Take in that a task is lost: what is left of it is to be tried again, alone."""
        left = list(line[0])
        while self._kept is not None and left and (stored := self._kept(left[0])) is not None:
            self._hearing.done(stored, Receipt(task="", kind="slices"))
            left.pop(0)
        reason = f"{lost.out_of_memory}: {lost.reason}" if lost.out_of_memory else lost.reason
        self._hearing.lost(left, reason)
        if not left:
            self._go_on(line)
            return
        tried = left[:1] if self._ordered else left
        self._attempts.update(piece.key for piece in tried)
        if lost.out_of_memory:
            self._hungry.update(piece.key for piece in left)
        # With the machine for itself and nothing else to do, it would take as much again.
        hopeless = bool(lost.out_of_memory) and self._single and len(line[0]) == 1
        final = [piece for piece in tried if hopeless or self._attempts[piece.key] >= ATTEMPTS]
        for piece in final:
            self._fail(_glutton(piece, lost) if lost.out_of_memory else _killer(piece, reason))
        left = [piece for piece in left if piece not in final]
        if left and not (self._ordered and final):
            self._suspects.extend(self._once_more(line, left))

    def _once_more(self, line: _Line, left: list[Piece]) -> list[_Line]:
        """Give the lines in which the rest of a group is tried again."""
        if self._ordered:
            line[0] = left
            if len(left) > 1 and left[0].key in self._hungry:
                line[0] = left[1:]
                line.appendleft(left[:1])
            return [line]
        return [deque([[piece]]) for piece in left]

    def _fail(self, fault: Failed) -> None:
        self._failed.append(fault)
        self._hearing.failed(fault)


class _Tasks:
    """Tasks for an executor, which may ask again after there was none: a line comes back when its task is done.

    Parameters
    ----------
    queue : deque
        Lines whose next group may be handed out.
    hand_out : callable
        Makes the task of a line; None: no more.
    paused : callable, optional
        Tells that there is none now. Default: lines are single groups, taken as they come.
    more : iterator of deque
        Further lines, taken when the queue is empty.
    """

    def __init__(
        self,
        queue: deque[_Line],
        hand_out: Callable[[_Line], Work | None],
        paused: Callable[[], bool] | None,
        more: Iterator[_Line],
    ) -> None:
        self._queue, self._hand_out, self._paused, self._more = queue, hand_out, paused, more

    def __iter__(self) -> Iterator[Work]:
        return self

    def __next__(self) -> Work:
        if not self._queue:
            self._queue.extend(islice(self._more, 1))
        if not self._queue or (self._paused is not None and self._paused()):
            raise StopIteration
        at = 0 if self._paused is None else max(range(len(self._queue)), key=lambda i: len(self._queue[i]))
        work = self._hand_out(self._queue[at])
        if work is None:
            raise StopIteration
        del self._queue[at]
        return work


def _glutton(piece: Piece, lost: Lost) -> Failed:
    return Failed(
        position=piece.position,
        key=piece.key,
        error=OutOfMemory.__name__,
        message=f"Computing {piece.name}: its worker must get by with the memory it may take, and alone on the machine it did not: {lost.out_of_memory}. "
        f"{lost.reason}\nLower slice_rows of the history, raise parts= of a job that is split by key, read fewer columns in the step, use fewer workers, or raise "
        "[compute] memory.",
        retryable=False,
    )


def _killer(piece: Piece, reason: str) -> Failed:
    return Failed(
        position=piece.position,
        key=piece.key,
        error=WorkerDied.__name__,
        message=f"Computing {piece.name}: the worker must live until it is done, and it died {ATTEMPTS} times, the last time with nothing else "
        f"to do: {reason}\nLook for what ends the process (memory, a crash in native code, os._exit).",
        retryable=False,
    )
