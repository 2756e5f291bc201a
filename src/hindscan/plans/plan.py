"""A plan: what a run will do, with its cost, before anything is done.

Keeps promises 7 (incremental) and 10 (bounded). A plan is a frozen value: the stages with their slices, the content key of each slice's partial,
what is already there, and the fixed combine tree. A scan has one stage, and one more before it for each other job that it is joined with; a simulation with a model has
two, whose second depends on the key of the first. Nothing here does I/O: which keys exist comes in as a value.

::

    JobSpec + parameters + Snapshot -> cut -> keys -> Plan -> cost, refusal -> execution
"""

from __future__ import annotations

import msgspec

from hindscan.history.snapshot import Slice, Snapshot
from hindscan.jobs.job import JobSpec
from hindscan.plans.keys import chained_keys, state_key

__all__ = ["Chain", "Node", "Part", "Plan", "Stage"]


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One inner node of the combine tree: the children are slices (level 0) or nodes of the level below, in slice order."""

    level: int
    index: int
    #: Keys of the children, leftmost first.
    children: tuple[str, ...]
    key: str
    #: The children are split by key, and this part of each is combined; None: the whole of each. A node of one part is made even where it has one child.
    part: int | None = None


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a stage that is split by key: its own tree, combined and finished without the other parts."""

    #: Keys of the combined and of the finished table.
    combined: str
    finished: str


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """The slices of one partition of an ordered job: each needs the state that the one before it leaves. See `plans.chains`."""

    #: "partition 3", "all files".
    name: str
    #: Positions `[first, last)` of its slices.
    first: int
    last: int
    #: Keys of the checkpoints: the state after each slice.
    states: tuple[str, ...]
    #: Key of what the job's `close` gives for the last state; None without one.
    close: str | None

    def after(self, position: int) -> str:
        """Give the key of the state after a slice."""
        return self.states[position - self.first]

    def before(self, position: int) -> str | None:
        """Give the key of the state before a slice; None: the state that the partition begins with, which is not stored."""
        return None if position == self.first else self.after(position - 1)


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One fan-out and its tree, up to one combined table."""

    #: "calibrate" or "slice": the step that is called for each slice; of a joined job ``JOIN.slice``.
    step: str
    #: Name that the history is pinned under; None for draws.
    table: str | None
    slices: tuple[Slice, ...]
    #: Content key of each slice's partial, by position.
    keys: tuple[str, ...]
    #: Positions whose partials exist already.
    reused: frozenset[int]
    #: Levels of the tree, bottom up; empty if there is one slice or nothing to combine with.
    levels: tuple[tuple[Node, ...], ...]
    #: Key of the combined table: the root's, or the only slice's.
    combined: str
    #: Key of the finished table of the stage.
    finished: str
    #: By the key of a slice that `before` bounds, the key it would have without: its partial is stored under both once its proof shows that the bound cuts off
    #: nothing, so that a run as of a later time finds it. Of an ordered job that is so if no bound up to
    #: the slice's own cuts off anything.
    unbounded: dict[str, str] = {}
    #: Of an ordered job with bounds: by position what the key of each slice would be on its own.
    alone: tuple[str, ...] = ()
    #: Of an ordered job: all slices, partition by partition; their partials, each partition's followed by what its close gives, are what is combined.
    chains: tuple[Chain, ...] = ()
    #: Of a job that is split by key: `levels` has the nodes of all parts, and nothing is stored under `combined` and `finished`, which stand for all of them.
    parts: tuple[Part, ...] = ()

    #: Whether the keys leave out the upper bounds of broadcast tables, which their proofs show to cut off nothing.
    tables_idle: bool = False
    #: The same stage with those bounds in its keys if they are left out here, or else without them; None: no table has any. What is made with the bounds is stored under
    #: the keys without them too, once proofs show that they cut off nothing, so that a run as of a later time finds it.
    alike: Stage | None = None

    #: Name of the join that this is the other history of; None: of the job itself.
    join: str | None = None
    #: Of a job that is joined with others: by the names of the joins, the keys of what those stages give for each part.
    joined: dict[str, tuple[str, ...]] = {}

    #: Of a sweep: the point whose stage it is, by its position in `Plan.points`.
    point: int | None = None
    #: Of a sweep: key of the point's model; else the stage before is the calibration, if there is one.
    model: str | None = None

    @property
    def empty(self) -> str:
        """Key of what the step gives for no rows, which is what is combined where there are no slices."""
        return self.levels[0][0].children[0] if self.parts else self.combined

    @property
    def roots(self) -> tuple[str, ...]:
        """Keys of all that is finished: of the one combined table, or of that of each part."""
        return tuple(part.combined for part in self.parts) or (self.combined,)

    @property
    def results(self) -> dict[str, str]:
        """Key of each finished table, with the key of the combined one it is made from."""
        if self.parts:
            return {part.finished: part.combined for part in self.parts}
        return {self.finished: self.combined}

    @property
    def made(self) -> frozenset[str]:
        """Keys of all that a run of the stage can store: partials, checkpoints, combinations, finished tables."""
        states = (
            state
            for chain in self.chains
            for state in (*chain.states, *(() if chain.close is None else (chain.close,)))
        )
        nodes = (node.key for level in self.levels for node in level)
        others = {*self.unbounded, *self.unbounded.values()}
        for chain in self.chains if self.unbounded else ():
            for idle in range(chain.first, chain.last):
                others.update(self.without_idle_bounds(chain, idle).values())
            others |= {state_key(key) for key in others}
        alike = self.alike.made if self.alike is not None else ()
        return frozenset((*self.keys, *others, *states, *nodes, *self.roots, *self.results, self.empty, *alike))

    def without_idle_bounds(self, chain: Chain, idle: int) -> dict[str, str]:
        """Give the names of a chain's partials for who knows that the bounds before the position `idle` cut off nothing, by their keys here; only other ones."""
        keys = self.keys[chain.first : chain.last]
        before = [self.unbounded.get(key, key) for key in keys[: idle - chain.first]]
        after = chained_keys(self.alone[idle : chain.last], state_key(before[-1])) if before else keys[len(before) :]
        return {key: other for key, other in zip(keys, [*before, *after], strict=True) if key != other}

    #: Positions of slices that are missing and stay so; see `plans.incomplete`.
    left_out: frozenset[int] = frozenset()

    @property
    def checkpoints(self) -> dict[str, str]:
        """Keys of the checkpoints, each by the key of the partial that it is stored with; empty unless the job is ordered."""
        return {self.keys[at]: chain.after(at) for chain in self.chains for at in range(chain.first, chain.last)}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A run, decided."""

    job: JobSpec
    parameters: dict[str, object]
    snapshot: Snapshot
    stages: tuple[Stage, ...]
    seed: int | None = None
    draws: int | None = None
    #: Nothing that exists is used: every slice, node and finished table is computed again.
    fresh: bool = False
    #: Keys of what is computed again although it is there: the slices that were asked for anew, and all that is made of them.
    anew: frozenset[str] = frozenset()
    #: Of the broadcast tables with upper bounds: by the name they are pinned under, the key of the proof that tells whether these cut off anything.
    table_proofs: dict[str, str] = {}
    #: Of a sweep: values of the swept parameters, which are in no `parameters`, point by point; see `plans.sweep`.
    points: tuple[dict[str, object], ...] = ()

    def __repr__(self) -> str:
        return f"<plan of {self.job.name}: {self.slice_count} slices, {self.reused_count} of them reused, {self.rows:,} rows, {self.bytes:,} bytes>"

    def job_of(self, stage: Stage) -> JobSpec:
        """Give the job whose steps a stage calls: the plan's, or a joined one."""
        return self.job if stage.join is None else self.job.joins[stage.join]

    def parameters_of(self, stage: Stage) -> dict[str, object]:
        """Give the parameters that a stage is computed with."""
        return self.parameters if stage.point is None else {**self.parameters, **self.points[stage.point]}

    @property
    def rows(self) -> int:
        """Rows of all slices; for a topic an estimate from above."""
        return sum(s.rows for stage in self.stages for s in stage.slices)

    @property
    def bytes(self) -> int:
        """Uncompressed bytes of all slices."""
        return sum(s.bytes for stage in self.stages for s in stage.slices)

    @property
    def slice_count(self) -> int:
        """Slices of all stages."""
        return sum(len(stage.slices) for stage in self.stages)

    @property
    def reused_count(self) -> int:
        """Slices whose partials exist already."""
        return sum(len(stage.reused) for stage in self.stages)
