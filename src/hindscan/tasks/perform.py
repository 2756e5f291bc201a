"""The one function workers call: a task's bytes in, its receipt's bytes out.

Keeps promises 2, 6, 8 and 12. It loads the job's code, opens each slice, calls the user's function with what it names, verifies that all was read,
and stores the partial; only then is the slice done. Whatever goes wrong is in the receipt, for the slice it happened to, and the other slices of the task go on. Each
slice is computed by one engine thread in a fixed order, so that no bit depends on where, when or beside what it was done.

::

    bytes -> Task -> Bench (code, broadcast tables) -> slice by slice: Source -> Data -> step -> table -> proof -> partial -> Receipt -> bytes
"""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
import pyarrow as pa

from hindscan.errors import HindscanError
from hindscan.history.snapshot import Slice
from hindscan.plans.plan import Node
from hindscan.tasks.bench import Bench
from hindscan.tasks.fault import failed
from hindscan.tasks.isolated import interpreter_of, perform_there
from hindscan.tasks.output import printed
from hindscan.tasks.process import Frames
from hindscan.tasks.task import Done, Failed, Packed, Receipt, Task, unpack

__all__ = ["answer", "perform", "warm"]

#: Assignments a worker keeps open: the stages of one run, and those of a run that comes back.
_BENCHES_MOST: Final = 4

_benches: OrderedDict[str, Bench] = OrderedDict()
_lock = threading.Lock()


def perform(payload: bytes, *, interruptible: bool = False) -> bytes:
    """Do one task.

    Parameters
    ----------
    payload : bytes
        A pickled `Task`.
    interruptible : bool
        A KeyboardInterrupt is the caller's and goes on to it. Default: in a worker it can only be user code's, and fails the slice.

    Returns
    -------
    bytes
        A `Receipt` as msgpack.
    """
    task: Task = pickle.loads(payload)  # noqa: S301 -- made by `execution` in the run this worker belongs to
    try:
        python = interpreter_of(task.assignment)
        if python is not None:
            return perform_there(python, payload)
    except HindscanError as fault:
        return _refused(task, fault)
    with printed() as output, _one_thread():
        done, faults = _do(task, KeyboardInterrupt if interruptible else ())
    return msgspec.msgpack.encode(
        Receipt(
            task=task.id,
            kind=task.kind,
            done=tuple(done),
            failed=tuple(faults),
            worker=f"{socket.gethostname()}:{os.getpid()}",
            output=output.text(),
        )
    )


def answer(frames: Frames) -> None:
    """Do tasks for a worker until it is gone: the whole life of an interpreter that `tasks.isolated` has started."""
    while (message := frames.receive()) is not None:
        frames.send(("receipt", perform(message[1])))


def _refused(task: Task, fault: HindscanError) -> bytes:
    """Say of all pieces of a task that they could not be done where they must be."""
    faults = [failed(fault, doing=p.doing, position=p.position, key=p.key) for p in _pieces(task)]
    worker = f"{socket.gethostname()}:{os.getpid()}"
    return msgspec.msgpack.encode(Receipt(task=task.id, kind=task.kind, failed=tuple(faults), worker=worker))


def warm() -> None:
    """Import what every task needs, before there is one."""
    for library in ("duckdb", "pyarrow.dataset", "pyarrow.parquet"):
        importlib.import_module(library)


def _do(task: Task, passing: type[BaseException] | tuple[()]) -> tuple[list[Done], list[Failed]]:
    done: list[Done] = []
    faults: list[Failed] = []
    pieces = list(_pieces(task))
    try:
        bench = _bench(task.assignment)
    except Exception as fault:  # noqa: BLE001 -- loading runs user code, which may raise anything; it is an ordinary failure of each piece
        return [], [
            failed(fault, doing=f"loading the code for {p.doing}", position=p.position, key=p.key) for p in pieces
        ]
    for piece in pieces:
        seconds, cpu = time.perf_counter(), time.thread_time()
        try:
            made = piece.make(bench)
        except passing:
            raise
        except BaseException as fault:  # noqa: BLE001 -- user code may raise SystemExit, an engine a panic; neither may end the worker
            faults.append(
                failed(fault, doing=f"{piece.doing} of job {bench.job}", position=piece.position, key=piece.key)
            )
            if task.checkpoints is not None:
                break  # what comes after it needs the state that it did not leave
            continue
        done.append(
            msgspec.structs.replace(made, seconds=time.perf_counter() - seconds, cpu_seconds=time.thread_time() - cpu)
        )
    return done, faults


class _Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to make: what it is called in messages, and how it is made at a bench."""

    position: int
    key: str
    doing: str
    make: Callable[[Bench], Done]


def _pieces(task: Task) -> Iterator[_Piece]:
    match task.kind:
        case "whole":
            (key,) = task.keys
            yield _Piece(
                position=0, key=key, doing="computing the history as a whole", make=lambda b: b.whole(task.slices, key)
            )
        case "slices" if not task.slices:
            (key,) = task.keys
            yield _Piece(position=0, key=key, doing="computing no rows", make=lambda b: b.empty(key))
        case "slices" if task.checkpoints is not None:
            walk = _Walk(task.checkpoints.before)
            for s, key, after in zip(task.slices, task.keys, task.checkpoints.after, strict=True):
                doing = f"computing slice {s.position}"
                yield _Piece(position=s.position, key=key, doing=doing, make=walk.step(s, key, after))
        case "close":
            for chain in task.closes:
                assert chain.close is not None
                make = _close(chain.states[-1], chain.close)
                yield _Piece(position=chain.first, key=chain.close, doing=f"closing {chain.name}", make=make)
        case "slices":
            for s, key in zip(task.slices, task.keys, strict=True):
                doing = f"computing slice {s.position}"
                yield _Piece(position=s.position, key=key, doing=doing, make=_slice(s, key, keep=task.keep))
        case "combine":
            for node in task.nodes:
                doing = f"combining {len(node.children)} partials (level {node.level}, node {node.index})"
                yield _Piece(position=node.index, key=node.key, doing=doing, make=_combine(node))
        case "finish":
            yield _Piece(
                position=0,
                key=task.finished,
                doing="finishing",
                make=lambda b: b.finish(task.combined, task.finished, task.part),
            )


class _Walk:
    """From slice to slice of one partition, with the state in hand."""

    def __init__(self, before: str | None) -> None:
        self._before = before
        self._state: pa.Table | None = None

    def step(self, piece: Slice, key: str, after: str) -> Callable[[Bench], Done]:
        """Give the way to compute the next slice; done in the order they were given."""

        def make(bench: Bench) -> Done:
            state = bench.state(self._before) if self._state is None else self._state
            done, self._state = bench.fold((piece,), piece.position, key, state, after)
            return done

        return make


def _close(state: str, key: str) -> Callable[[Bench], Done]:
    return lambda bench: bench.close(state, key)


def _slice(piece: Slice, key: str, *, keep: bool) -> Callable[[Bench], Done]:
    return lambda bench: (bench.stored(piece, key) if keep else None) or bench.slice(piece, key)


def _combine(node: Node) -> Callable[[Bench], Done]:
    return lambda bench: bench.combine(node)


def _bench(packed: Packed) -> Bench:
    # Under the lock: threads that begin with one assignment must not each load the code.
    with _lock:
        bench = _benches.get(packed.digest)
        if bench is None:
            bench = _benches[packed.digest] = Bench(unpack(packed))
            while len(_benches) > _BENCHES_MOST:
                _benches.popitem(last=False)
        _benches.move_to_end(packed.digest)
        return bench


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep Arrow to one thread (a worker process is so from its start; the inline executor's caller gets its own back)."""
    before = pa.cpu_count()
    if before == 1:
        yield
        return
    pa.set_cpu_count(1)
    try:
        yield
    finally:
        pa.set_cpu_count(before)
