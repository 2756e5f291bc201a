"""The work of one stage: what is missing of its slices, its tree and its finished table is made, what is stored is not touched.

Keeps promises 6, 7, 8 and 11. State is nowhere but in the partials, so a stage can be carried out again, after whatever death and after a damaged partial was
forgotten: only what is missing then is made. A slice that fails for good fails the stage when its neighbours are done, unless so many may fail.

::

    slices without a partial -> tasks -> make_pieces -> receipts
    (of an ordered job: chain by chain from its last checkpoint on, then the closing partial of each)
    nodes without a partial, level by level -> tasks -> ...;   finished tables -> tasks -> ...
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from hindscan import errors
from hindscan.errors import ExecutionError, HindscanError, RunCancelled
from hindscan.history.snapshot import Slice
from hindscan.plans.chains import needed
from hindscan.plans.cost import group, group_in_order
from hindscan.plans.incomplete import Coverage, allowed_failures, coverage_of, joined_with, without
from hindscan.plans.pace import Pace
from hindscan.plans.plan import Node, Plan, Stage
from hindscan.progress import SliceFinished, StageFinished
from hindscan.runs.partials import Partials, proofs_of
from hindscan.tasks.attempts import Piece, make_pieces
from hindscan.tasks.bench import found
from hindscan.tasks.executor import Executor
from hindscan.tasks.kept import KeptSlices
from hindscan.tasks.names import Names
from hindscan.tasks.tally import Tally
from hindscan.tasks.task import Assignment, Checkpoints, Done, Failed, Task, TaskKind, pack

__all__ = ["StageDone", "StageWork"]

#: Up to so many nodes a tree is combined in one task: handing them out would take longer.
SMALL_TREE_NODES: Final = 4
#: Nodes of one level that a task takes at most.
NODES_PER_TASK: Final = 8
#: Failures of a slice that can be tolerated: of the work. What cannot be read as it was pinned never is: data that are lost are not left out unsaid.
TOLERABLE: Final = frozenset({"BadPartial", "JobFailed", "OutOfMemory", "WorkerDied"})


class StageDone(msgspec.Struct, frozen=True, kw_only=True):
    """One stage as it was carried out."""

    step: str
    #: As `Stage.join`.
    join: str | None = None
    #: What was computed now. Reused slices have theirs in their partials.
    slices: KeptSlices
    combined: str
    finished: str
    #: Keys of what is stored of the finished table; see `Executed.results`.
    results: tuple[str, ...]
    seconds: float
    #: Slices that failed for good and were tolerated, by position.
    failed: tuple[Failed, ...] = ()
    #: How much of the stage was combined.
    coverage: Coverage


class StageWork:
    """One stage while it is carried out. Can be carried out again after something was forgotten: only that is made then."""

    def __init__(
        self,
        plan: Plan,
        stage: Stage,
        assignment: Assignment,
        sides: Sequence[StageWork],
        partials: Partials,
        executor: Executor,
        stop: threading.Event,
        tally: Tally,
        slices_per_task: int | None,
        allow_failed: float,
        pace: Pace,
    ) -> None:
        self._plan = plan
        self._stage = self._whole = self._planned = stage
        self._sides = sides
        self._assigned = assignment
        self._assignment = pack(assignment)
        self._partials = partials
        self._executor = executor
        self._stop = stop
        self._tally = tally
        self._slices_per_task = slices_per_task
        self._tolerated = allowed_failures(allow_failed, len(stage.slices))
        self._failed: dict[int, Failed] = {}
        self._pace = pace
        self._there = {stage.keys[position] for position in stage.reused}
        self._forgotten: set[str] = set(plan.anew)
        self._done = KeptSlices()
        self._names = Names(plan, partials, self._done)
        self._seconds = 0.0
        self._nodes = _inner(stage)
        #: By position of their slices.
        self._chains = {position: chain for chain in stage.chains for position in range(chain.first, chain.last)}
        self._states = stage.checkpoints

    @property
    def stage(self) -> Stage:
        """As it is now: without what failed and was left out."""
        return self._stage

    @property
    def of_point(self) -> bool:
        """Whether it is a point of a sweep whose slices know nothing of each other."""
        free = not self._stage.chains and not self._plan.job.whole and bool(self._stage.slices)
        return bool(self._plan.points) and self._stage.step == "slice" and free

    def make_slices_together(self, points: Sequence[StageWork]) -> None:
        """Have the missing slices of all points made beside each other; what several points share is the first one's."""
        began = time.monotonic()
        owners: dict[str, StageWork] = {}
        groups: list[Iterator[Sequence[Piece]]] = []
        for point in points:
            missing = [piece for piece in point.missing_slices() if point.key(piece) not in owners]
            owners.update((point.key(piece), point) for piece in missing)
            groups.append(map(point.pieces, point.groups(missing)))
        self._make(
            itertools.chain.from_iterable(groups),
            lambda pieces: owners[pieces[0].key].slices_task(pieces),
            read=lambda done: owners[done.key].note(done),
            kept=lambda piece: owners[piece.key].kept(piece),
            owners=owners,
        )
        self._seconds += time.monotonic() - began

    def owns(self, key: str) -> bool:
        """Tell whether a partial is one of this stage."""
        stage = self._stage
        closes = {chain.close for chain in stage.chains}
        ends = {*stage.roots, *stage.results, stage.empty}
        return key in {*stage.keys, *self._states.values(), *closes, *self._nodes, *ends}

    def forget(self, key: str) -> None:
        """Take a partial for missing, whatever lies there, and others that were found damaged with it and are gone."""
        self._there = {one for one in self._there if one != key and self._partials.has(one)}
        self._forgotten.add(key)

    def outcome(self) -> StageDone:
        """Say what was done."""
        return StageDone(
            step=self._stage.step,
            join=self._stage.join,
            slices=self._done,
            combined=self._stage.combined,
            finished=self._stage.finished,
            results=tuple(self._stage.results),
            seconds=self._seconds,
            failed=tuple(self._failed[position] for position in sorted(self._failed)),
            coverage=coverage_of(self._stage),
        )

    def carry_out(self) -> None:
        """Make what is missing."""
        began = time.monotonic()
        self._join()
        self._make_slices()
        self._close_chains()
        self._combine()
        self._finish()
        if self._stage is self._planned:
            # Of what failed, here or in what it is joined with, nothing goes by a name of the whole.
            self._names.without_bounds_of_tables(self._stage)
        self._seconds += time.monotonic() - began
        self._tally.observe(StageFinished(run=self._tally.run, stage=self._stage.step, seconds=self._seconds))

    def _join(self) -> None:
        """Take what the stage is joined with as it came out: failures that were left out there were not known to the plan."""
        whole = joined_with(self._whole, [side.stage for side in self._sides], purpose="tolerated")
        if whole is self._whole:
            return
        self._assigned = msgspec.structs.replace(self._assigned, joined=whole.joined)
        self._assignment = pack(self._assigned)
        stage = without(whole, set(self._failed), purpose="tolerated")
        assert stage is not None
        self._whole, self._stage, self._nodes = whole, stage, _inner(stage)

    def _has(self, key: str) -> bool:
        if key in self._there:
            return True
        if self._plan.fresh or key in self._forgotten or not self._partials.has(key):
            return False
        self._there.add(key)
        return True

    def _make_slices(self) -> None:
        stage = self._stage
        if self._plan.job.whole:
            self._make_whole()
            return
        if not stage.slices:
            if not self._has(stage.empty):
                piece = Piece(key=stage.empty, position=0, name="no rows")
                self._make([[piece]], lambda _: self._task("slices", keys=(stage.empty,)))
            return
        if stage.chains:
            self._make_chains()
            return
        # Taken as there is room, so that tasks follow the pace, and no more pieces are there than are worked on.
        self._make(
            (self.pieces(slices) for slices in self.groups(self.missing_slices())),
            self.slices_task,
            read=self.note,
            kept=self.kept,
            tolerated=self._tolerated - len(self._failed),
        )
        self._names.without_bounds(stage)

    def key(self, piece: Slice) -> str:
        """Give the key of a slice."""
        return self._stage.keys[piece.position]

    def missing_slices(self) -> list[Slice]:
        """Give the slices that are to be made."""
        stage = self._stage
        return [
            s for s, key in zip(stage.slices, stage.keys, strict=True)
            if key not in self._there and s.position not in stage.left_out
            # Another point of a sweep may have made it meanwhile.
            and not (self._plan.points and self._has(key))
        ]  # fmt: skip

    def groups(self, slices: Sequence[Slice]) -> Iterator[tuple[Slice, ...]]:
        """Group slices into tasks, as these are asked for."""
        return group(slices, workers=self._executor.workers, slices_per_task=self._slices_per_task, pace=self._pace)

    def _make_whole(self) -> None:
        """Make the one partial of a job that gets its history as a whole, and tell of every slice it was made of."""
        stage, key = self._stage, self._stage.combined
        if self._has(key):
            return
        piece = Piece(key=key, position=0, name="the history as a whole")
        self._make([[piece]], lambda _: self._task("whole", slices=stage.slices, keys=(key,)))
        meta = self._partials.read_meta(key)
        for position, proof in proofs_of(meta).items():
            self._done.keep(
                Done(position=position, key=key, rows=meta.rows, bytes=0, digest=meta.digest, seconds=0.0, cpu_seconds=0.0, proof=proof)
            )  # fmt: skip
            self._tally.observe(
                SliceFinished(run=self._tally.run, stage=stage.step, slice=position, rows=proof.records, seconds=0.0, cpu_seconds=0.0, worker="")
            )  # fmt: skip

    def pieces(self, slices: Sequence[Slice]) -> list[Piece]:
        """Give slices as what is to be made."""
        keys = self._stage.keys
        return [Piece(key=keys[s.position], position=s.position, name=f"slice {s.position}") for s in slices]

    def note(self, done: Done) -> int:
        """Take in what a slice took; give the rows it read."""
        if done.seconds:  # else it was found stored, and nobody knows
            self._pace.add(self._stage.slices[done.position], done.seconds)
        return self._rows_read(done)

    def _rows_read(self, done: Done) -> int:
        return done.proof.records if done.proof is not None else self._stage.slices[done.position].rows

    def slices_task(self, pieces: Sequence[Piece]) -> Task:
        """Give the task that makes some slices."""
        positions = [piece.position for piece in pieces]
        checkpoints = None
        if self._stage.chains:
            chain = self._chains[positions[0]]
            checkpoints = Checkpoints(
                before=chain.before(positions[0]), after=tuple(chain.after(position) for position in positions)
            )
        return self._task(
            "slices",
            slices=tuple(self._stage.slices[position] for position in positions),
            keys=tuple(piece.key for piece in pieces),
            keep=not self._plan.fresh and self._forgotten.isdisjoint(piece.key for piece in pieces),
            checkpoints=checkpoints,
        )

    def _make_chains(self) -> None:
        """Make the slices of an ordered job: each chain from where its checkpoints end."""
        stage = self._stage
        # What is left of a chain that is not whole is there: only what can be combined now is asked for then.
        whole = [chain for chain in stage.chains if stage.left_out.isdisjoint(range(chain.first, chain.last))]
        positions = [p for chain in whole for p in needed(chain, stage.keys, self._has)]
        lines = group_in_order(stage, positions, self._slices_per_task, fresh=self._plan.fresh)
        self._make_lines(
            [[self.pieces(slices) for slices in line] for line in lines],
            self.slices_task,
            read=self._rows_read,
            ordered=True,
            kept=self.kept,
        )
        for chain in whole:
            self._names.without_bounds_of_chain(stage, chain, made=stage)

    def kept(self, piece: Piece) -> Done | None:
        """Give what a lost task had stored of a slice: it was missing when the task was made. Of an ordered job the partial comes after the checkpoint."""
        stored = {piece.key, self._states.get(piece.key, piece.key)}
        if self._plan.fresh or stored & self._forgotten or not all(map(self._partials.has, stored)):
            return None
        return found(self._partials, piece.position, piece.key)

    def _close_chains(self) -> None:
        """Make the closing partial of each partition whose slices are done."""
        missing = {
            chain.close: chain for chain in self._stage.chains
            if chain.close and self._stage.left_out.isdisjoint(range(chain.first, chain.last)) and not self._has(chain.close)
        }  # fmt: skip
        pieces = [
            Piece(key=key, position=chain.first, name=f"the close of {chain.name}") for key, chain in missing.items()
        ]
        size = max(1, min(NODES_PER_TASK, len(pieces) // (2 * self._executor.workers)))
        self._make(
            [pieces[i : i + size] for i in range(0, len(pieces), size)],
            lambda some: self._task("close", closes=tuple(self._chains[piece.position] for piece in some)),
        )

    def _combine(self) -> None:
        missing = self._missing_nodes()
        if not missing:
            return
        if len(missing) <= SMALL_TREE_NODES:
            self._combine_nodes([missing], ordered=True)
            return
        for _, level in itertools.groupby(missing, key=lambda node: node.level):
            nodes = list(level)
            size = max(1, min(NODES_PER_TASK, len(nodes) // (2 * self._executor.workers)))
            self._combine_nodes([nodes[i : i + size] for i in range(0, len(nodes), size)], ordered=False)

    def _missing_nodes(self) -> list[Node]:
        """Give the nodes to be made, children before parents: below a node that exists nothing is needed."""
        missing: list[Node] = []
        wanted = list(self._stage.roots)
        while wanted:
            node = self._nodes.get(wanted.pop())
            if node is not None and not self._has(node.key):
                missing.append(node)
                wanted.extend(node.children)
        return sorted(missing, key=lambda node: (node.level, node.index))

    def _combine_nodes(self, groups: Sequence[Sequence[Node]], *, ordered: bool) -> None:
        self._make(
            [
                [
                    Piece(key=node.key, position=node.index, name=f"node {node.index} of level {node.level}")
                    for node in nodes
                ]
                for nodes in groups
            ],
            lambda pieces: self._task("combine", nodes=tuple(self._nodes[piece.key] for piece in pieces)),
            ordered=ordered,
        )

    def _finish(self) -> None:
        results = self._stage.results
        pieces = [
            Piece(
                key=key,
                position=position,
                name=f"finished table {position}" if self._stage.parts else "the finished table",
            )
            for position, key in enumerate(results)
            if not self._has(key)
        ]
        self._make(
            [[piece] for piece in pieces],
            lambda some: self._task(
                "finish", combined=results[some[0].key], finished=some[0].key, part=some[0].position
            ),
        )

    def _task(self, kind: TaskKind, **what: Any) -> Task:
        return Task(id=next(self._tally.ids), kind=kind, assignment=self._assignment, **what)

    def _make(
        self,
        groups: Iterable[Sequence[Piece]],
        build: Callable[[Sequence[Piece]], Task],
        *,
        read: Callable[[Done], int] | None = None,
        ordered: bool = False,
        kept: Callable[[Piece], Done | None] | None = None,
        tolerated: int = 0,
        owners: Mapping[str, StageWork] | None = None,
    ) -> None:
        """Have pieces made whose groups do not need each other."""
        lines = ([group] for group in groups)
        self._make_lines(lines, build, read=read, ordered=ordered, kept=kept, tolerated=tolerated, owners=owners)

    def _make_lines(
        self,
        lines: Iterable[Sequence[Sequence[Piece]]],
        build: Callable[[Sequence[Piece]], Task],
        *,
        read: Callable[[Done], int] | None,
        ordered: bool,
        kept: Callable[[Piece], Done | None] | None = None,
        tolerated: int = 0,
        owners: Mapping[str, StageWork] | None = None,
    ) -> None:
        """Have pieces made, of this stage or of its owner; raise what the first of them failed with."""

        def take(done: Done) -> None:
            (self if owners is None else owners[done.key]).take_in(done, is_slice=read is not None)

        failed = make_pieces(
            lines,
            build,
            executor=self._executor,
            stop=self._stop,
            hearing=self._tally.hearing(self._stage.step, take, read),
            ordered=ordered,
            kept=kept,
            tolerated=tolerated,
        )
        if failed and not self._tolerate(failed, tolerated):
            # Of nodes the one that came first: in a tree made by one task those above a damaged partial fail after it, for want of it.
            first = min(failed, key=lambda fault: fault.position) if read is not None else failed[0]
            raise _error(first, len(failed), slices=read is not None)
        if self._stop.is_set():
            raise RunCancelled(
                f"Carrying out job {self._plan.job.name}: it was stopped. The partials that were done are kept; retry the run to go on.",
                job=self._plan.job.name,
            )

    def take_in(self, done: Done, *, is_slice: bool) -> None:
        """Take in that a piece is made."""
        # The plan's own text of a key, so that it is there once.
        key = self._stage.keys[done.position] if is_slice else done.key
        stored = {key, self._states.get(key, key)}
        self._there |= stored
        self._forgotten -= stored
        if is_slice:
            self._done.keep(done)

    def _tolerate(self, faults: Sequence[Failed], tolerated: int) -> bool:
        """Leave out slices that failed, if that many may and none of them means that data is lost; tell whether."""
        if len(faults) > tolerated or any(fault.error not in TOLERABLE for fault in faults):
            return False
        failed = self._failed | {fault.position: fault for fault in faults}
        left = without(self._whole, set(failed), purpose="tolerated")
        if left is None:
            return False  # a combination of nothing is no result
        self._failed, self._stage, self._nodes = failed, left, _inner(left)
        return True


def _inner(stage: Stage) -> dict[str, Node]:
    """Give the nodes to be made by their keys: a node with the whole of one child is that child, and nothing is to be made for it."""
    nodes = (node for level in stage.levels for node in level)
    return {node.key: node for node in nodes if len(node.children) > 1 or node.part is not None}


def _error(fault: Failed, count: int, *, slices: bool) -> HindscanError:
    """Make the error that a worker wrote down."""
    kind = getattr(errors, fault.error, ExecutionError)
    more = f" ({count - 1} more failed.)" if count > 1 else ""
    details = {**fault.details, "traceback": fault.traceback, **({"slice": fault.position} if slices else {})}
    error = kind(fault.message + more, **details)
    assert isinstance(error, HindscanError)
    return error
