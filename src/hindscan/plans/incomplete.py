"""What is left of a stage when some of its slices are missing, and how much of the whole that covers.

Keeps promise 2 (complete or failed) where somebody asked for less: failures that were tolerated, and results on the way. The shape of the tree stays that of the whole
plan; what is missing is left out of it, and every node above gets a key of its own, so an incomplete combination is never found under the key of a complete one,
neither by this plan nor by a later one. Nodes below which nothing is missing keep their keys and are shared with the complete tree. What is finished of a join has
a key of its own where any of its sides is incomplete.

::

    Stage + positions without partials -> without -> Stage (left_out) -> joined_with -> execution
                                       -> coverage_of, covered_together -> Coverage -> manifest, metadata of a partial result
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from hindscan.history.snapshot import DrawSlice, KafkaSlice, ParquetSlice, Slice
from hindscan.plans.keys import digest_of
from hindscan.plans.plan import Node, Part, Stage

__all__ = [
    "Coverage",
    "PartCoverage",
    "allowed_failures",
    "coverage_document",
    "coverage_of",
    "covered_together",
    "joined_with",
    "without",
    "without_slices",
]


class PartCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """How much of one partition or file is there."""

    slices: int = 0
    slices_done: int = 0
    #: By the plan: of a topic offsets, an estimate from above.
    rows: int = 0
    rows_done: int = 0


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a plan is in a combination."""

    slices: int
    slices_done: int
    rows: int
    rows_done: int
    #: By partition ("partition 3"), by path of the file, or "draws".
    parts: dict[str, PartCoverage]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.slices_done == self.slices


def allowed_failures(allow_failed: float, slices: int) -> int:
    """Give how many slices may fail: a number below one is a share of all, rounded down; others are counts."""
    return int(allow_failed * slices) if isinstance(allow_failed, float) else allow_failed


def without(stage: Stage, positions: Collection[int], *, purpose: str) -> Stage | None:
    """Leave slices out of a stage.

    Parameters
    ----------
    stage : Stage
        Whole.
    positions : collection of int
        Of the slices that are missing.
    purpose : str
        Part of the keys of all that is incomplete: combinations with different purposes share no partial.

    Returns
    -------
    Stage or None
        With the same slices and keys, and what is combined in the place of the whole; None if nothing is left to combine.
    """
    left_out = frozenset(positions)
    if not left_out:
        return stage
    gone = {stage.keys[position] for position in left_out}
    # A partition is closed by its last state, which is not there.
    gone |= {c.close for c in stage.chains if c.close is not None and not left_out.isdisjoint(range(c.first, c.last))}
    found: dict[str, str | None] = dict.fromkeys(gone)
    levels = [
        tuple(new for node in level if (new := _left(node, found, purpose)) is not None) for level in stage.levels
    ]
    parts = tuple(
        Part(combined=root, finished=_finished(part.finished, part.combined, root, purpose))
        for part in stage.parts
        if (root := found.get(part.combined, part.combined)) is not None
    )
    # What stands for all parts of a split table is no node of the tree.
    whole = _key(stage.combined, [part.combined for part in parts], purpose) if parts else None
    combined = whole if stage.parts else found.get(stage.combined, stage.combined)
    if combined is None:
        return None
    return msgspec.structs.replace(
        stage,
        levels=tuple(level for level in levels if level),
        combined=combined,
        finished=_finished(stage.finished, stage.combined, combined, purpose),
        parts=parts,
        reused=stage.reused - left_out,
        left_out=left_out,
    )


def joined_with(stage: Stage, sides: Sequence[Stage], *, purpose: str) -> Stage:
    """Join a stage with others as they are now: with what is left of one that slices were left out of.

    Parameters
    ----------
    stage : Stage
        As it was planned, or with slices left out.
    sides : sequence of Stage
        The stages before it; those of other histories are what it is joined with.
    purpose : str
        As in `without`.
    """
    joined = {side.join: tuple(side.results) for side in sides if side.join in stage.joined}
    if joined == stage.joined:
        return stage
    found = [list(keys) for keys in zip(*joined.values(), strict=True)]
    parts = tuple(
        msgspec.structs.replace(part, finished=_key(part.finished, keys, purpose))
        for part, keys in zip(stage.parts, found, strict=True)
    )
    finished = _key(stage.finished, [part.finished for part in parts], purpose)
    return msgspec.structs.replace(stage, joined=joined, parts=parts, finished=finished)


def without_slices(
    stages: Sequence[Stage], missing: Sequence[Collection[int]], *, purpose: str
) -> tuple[Stage, ...] | None:
    """Leave slices out of the stages of a plan; None where nothing is left of one. See `without`.

    Parameters
    ----------
    missing : sequence of collection of int
        For each stage the positions that are missing.
    """
    left: list[Stage] = []
    for stage, positions in zip(stages, missing, strict=True):
        # As a run comes to know it: what it is joined with first, then its own.
        what_is_left = without(joined_with(stage, left, purpose=purpose), positions, purpose=purpose)
        if what_is_left is None:
            return None
        left.append(what_is_left)
    return tuple(left)


def _finished(finished: str, combined: str, left: str, purpose: str) -> str:
    """Give the key of what is finished from what is left of the combined table."""
    if left == combined:
        return finished
    return left if finished == combined else _key(finished, [left], purpose)


def _left(node: Node, found: dict[str, str | None], purpose: str) -> Node | None:
    """Give what is left of a node, and note under its key what takes its place; None: nothing is left, or one child stands for it."""
    children = tuple(key for child in node.children if (key := found.get(child, child)) is not None)
    if children == node.children:
        return node
    if not children:
        found[node.key] = None
        return None
    # Of a split partial a node takes one part, so it is never its only child.
    if len(children) == 1 and node.part is None:
        found[node.key] = children[0]
        return None
    found[node.key] = key = _key(node.key, children, purpose)
    return msgspec.structs.replace(node, children=children, key=key)


def _key(whole: str, children: Sequence[str], purpose: str) -> str:
    return digest_of({"kind": "incomplete", "of": whole, "children": list(children), "purpose": purpose})


def coverage_of(stage: Stage) -> Coverage:
    """Tell how much of a stage is not left out."""
    parts: dict[str, PartCoverage] = {}
    for position, s in enumerate(stage.slices):
        part, done = parts.get(_part(s), PartCoverage()), position not in stage.left_out
        parts[_part(s)] = PartCoverage(
            slices=part.slices + 1,
            slices_done=part.slices_done + done,
            rows=part.rows + s.rows,
            rows_done=part.rows_done + s.rows * done,
        )
    return Coverage(
        slices=len(stage.slices),
        slices_done=len(stage.slices) - len(stage.left_out),
        rows=sum(part.rows for part in parts.values()),
        rows_done=sum(part.rows_done for part in parts.values()),
        parts=parts,
    )


def covered_together(stages: Sequence[tuple[str | None, Coverage]]) -> Coverage:
    """Give the coverage of a result from those of its stages.

    Parameters
    ----------
    stages : sequence
        Of each the name of its join, None for the job's own history, and its coverage. Partitions and files of a joined history have that name before theirs. What a
        model was calibrated on is not counted: it is whole.
    """
    *_, (_, last) = stages
    all_of = [(f"{join}: ", one) for join, one in stages if join is not None]
    if not all_of:
        return last
    all_of.append(("", last))
    return Coverage(
        slices=sum(one.slices for _, one in all_of),
        slices_done=sum(one.slices_done for _, one in all_of),
        rows=sum(one.rows for _, one in all_of),
        rows_done=sum(one.rows_done for _, one in all_of),
        parts={before + name: part for before, one in all_of for name, part in one.parts.items()},
    )


def coverage_document(coverage: Coverage) -> dict[str, Any]:
    """Write down what is covered, for manifests and metadata; empty if that is all."""
    built: dict[str, Any] = {} if coverage.complete else msgspec.to_builtins(coverage)
    return built


def _part(s: Slice) -> str:
    match s:
        case KafkaSlice():
            return f"partition {s.partition}"
        case ParquetSlice():
            return s.path
        case DrawSlice():
            return "draws"
