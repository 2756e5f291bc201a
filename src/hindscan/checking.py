"""`hindscan check`: does the result depend on how history is cut?

The engine may cut history anywhere and combine in a tree, so `combine` must be associative and `finish` must not care how often it was
called. This is tried, not proven: the job runs over
the same pinned rows cut in 1, 2 and 7 pieces, each in partials of its own, and the results are compared row by row, floats to 1e-9. An ordered job is
cut so in each of its partitions: what it finds must not depend on where one call ends and the next begins. Of a joined job all histories are.

::

    pin once -> plan -> recut into 1, 2, 7 pieces -> execute each -> compare
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hindscan.history.snapshot import DrawSlice, KafkaPin, Reader, Slice
from hindscan.planning import Prepared, pin, prepare
from hindscan.plans.chains import leaves_of, link
from hindscan.plans.combine import flat, tree, tree_by_part
from hindscan.plans.incomplete import joined_with
from hindscan.plans.keys import digest_of
from hindscan.runs.partials import Partials
from hindscan.tasks.execution import execute
from hindscan.tasks.outcome import Merged, outcome
from hindscan.tasks.threads import ThreadsExecutor

if TYPE_CHECKING:
    import pyarrow as pa

    from hindscan.config import Project
    from hindscan.data import Source
    from hindscan.jobs.job import Code, JobSpec
    from hindscan.plans.plan import Plan, Stage
    from hindscan.runs.run import RunRequest

__all__ = ["PIECES", "Checked", "check_job"]

#: In how many pieces the history is cut.
PIECES: Final = (1, 2, 7)
#: Relative difference of floats that is still the same: sums in another order differ in their last digits.
TOLERANCE: Final = 1e-9
#: Differences that are told.
_TOLD: Final = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What was found."""

    #: Rows of the result by number of pieces.
    rows: dict[str, int] = field(default_factory=dict)
    #: In words; empty: all the same.
    differences: list[str] = field(default_factory=list)


def check_job(project: Project, spec: JobSpec, code: Code, request: RunRequest) -> Checked:
    """Run a job cut in 1, 2 and 7 pieces and compare.

    Raises
    ------
    hindscan.errors.HindscanError
        A run fails.
    """
    snapshot = pin(project, spec, request)
    finest = _finest(project, snapshot.pins, each_partition=spec.order is not None)
    prepared = prepare(finest, spec, request, snapshot, frozenset(), workers=1)
    checked = Checked()
    wanted: pa.Table | None = None
    with tempfile.TemporaryDirectory(prefix="hindscan-check-") as folder, ThreadsExecutor(1) as executor:
        for pieces in PIECES:
            plan, readers = _recut(prepared, pieces)
            partials = Partials(Path(folder) / str(pieces))
            done = execute(
                plan, run=f"check-{pieces}", code=code, readers=readers, partials=partials, executor=executor,
                observe=lambda _: None, stop=threading.Event(),
            )  # fmt: skip
            made = outcome(partials, done.results, spec.by)
            found = made.table() if isinstance(made, Merged) else made
            checked.rows[str(pieces)] = found.num_rows
            if wanted is None:
                wanted = found
            else:
                checked.differences.extend(f"in {pieces} pieces: {text}" for text in compare(wanted, found))
    return checked


def compare(wanted: pa.Table, found: pa.Table) -> list[str]:
    """Tell how two tables differ, the first few ways; floats may differ by a relative 1e-9."""
    if wanted.schema.names != found.schema.names or wanted.schema.types != found.schema.types:
        return [f"columns {found.schema.to_string()} instead of {wanted.schema.to_string()}"]
    if wanted.num_rows != found.num_rows:
        return [f"{found.num_rows} rows instead of {wanted.num_rows}"]
    differences = []
    for name in wanted.column_names:
        pairs = zip(wanted[name].to_pylist(), found[name].to_pylist(), strict=True)
        for row, (one, other) in enumerate(pairs):
            if not _same(one, other):
                differences.append(f"row {row}, column {name}: {other!r} instead of {one!r}")
                break
    return differences[:_TOLD]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def _finest(project: Project, pins: dict[str, Any], *, each_partition: bool) -> Project:
    """Give the project with slices small enough to make seven pieces of almost anything, or of each of its partitions."""
    tables = {}
    for name, table in project.history_tables.items():
        ends = [p.end - p.start for pinned in pins.values() if isinstance(pinned, KafkaPin) for p in pinned.partitions]
        pieces = max(PIECES) * (len(ends) if each_partition else 1)
        rows = max(1, sum(ends) // (4 * pieces)) if "topic" in table and ends else 1
        tables[name] = {**table, "slice_rows": rows}
    return msgspec.structs.replace(project, history_tables=tables)


class _Grouped(msgspec.Struct, frozen=True, kw_only=True):
    """A reader that opens a whole piece where one slice is asked for."""

    reader: Reader
    pieces: tuple[tuple[Slice, ...], ...]

    def open(self, slices: Sequence[Slice]) -> Source:
        return self.reader.open([s for chosen in slices for s in self.pieces[chosen.position]])

    def identity(self) -> dict[str, object]:
        return self.reader.identity()


def _recut(prepared: Prepared, pieces: int) -> tuple[Plan, dict[str, Reader]]:
    readers: dict[str, Reader] = dict(prepared.readers)
    stages: list[Stage] = []
    for stage in prepared.plan.stages:
        groups = _groups(stage.slices, pieces)
        if stage.chains:
            groups = tuple(group for c in stage.chains for group in _groups(stage.slices[c.first : c.last], pieces))
        if stage.table is not None:
            readers[stage.table] = _Grouped(reader=readers[stage.table], pieces=groups)
        if prepared.plan.job.whole:
            stages.append(_whole_restaged(stage, groups))
            continue
        job = prepared.plan.job_of(stage)
        how = job.calibrate_combine if stage.step == "calibrate" else job.combine
        stages.append(_restaged(stage, groups, how))
    stages[-1] = joined_with(stages[-1], stages[:-1], purpose="check")
    return msgspec.structs.replace(prepared.plan, stages=tuple(stages), fresh=True), readers


def _groups(slices: Sequence[Slice], pieces: int) -> tuple[tuple[Slice, ...], ...]:
    """Share slices out evenly, neighbours together; fewer pieces where there are fewer slices."""
    count = min(pieces, len(slices))
    bounds = [len(slices) * i // count for i in range(count + 1)] if count else []
    return tuple(tuple(slices[first:last]) for first, last in pairwise(bounds))


def _whole_restaged(stage: Stage, groups: Sequence[Sequence[Slice]]) -> Stage:
    """Make a stage of pieces that all stand for one partial."""
    slices = tuple(msgspec.structs.replace(group[0], position=position) for position, group in enumerate(groups))
    key = digest_of(["check", stage.finished, len(groups)])
    return msgspec.structs.replace(
        stage, slices=slices, keys=(key,) * len(slices), reused=frozenset(), combined=key, finished=key
    )


def _restaged(stage: Stage, groups: Sequence[Sequence[Slice]], how: str) -> Stage:
    """Make a stage of pieces; their keys are good for this check only."""
    slices: list[Slice] = []
    for position, group in enumerate(groups):
        first, last = group[0], group[-1]
        if isinstance(first, DrawSlice) and isinstance(last, DrawSlice):
            slices.append(DrawSlice(position=position, start=first.start, end=last.end))
        else:
            slices.append(msgspec.structs.replace(first, position=position))
    keys = tuple(digest_of(["check", stage.finished, len(groups), position]) for position in range(len(groups)))
    chains, leaves = stage.chains, keys
    if chains:
        homes = list(zip(slices, groups, strict=True))
        parts = [(c.name, tuple(s for s, group in homes if c.first <= group[0].position < c.last)) for c in chains]
        close = None if chains[0].close is None else (lambda state: digest_of(["close", state]))
        keys, chains = link(parts, keys, start=stage.finished, close=close)
        leaves = leaves_of(keys, chains)
    levels = (
        (flat if how == "concat" else tree)(leaves, lambda children: digest_of(["node", *children]))
        if len(leaves) > 1
        else ()
    )
    if stage.parts:
        finishes = stage.parts[0].finished != stage.parts[0].combined
        levels, ends = tree_by_part(
            leaves or (stage.empty,),
            len(stage.parts),
            lambda children: digest_of(["node", *children]),
            finish=lambda combined, _: digest_of(["finished", combined]) if finishes else combined,
            concat=how == "concat",
        )
        return msgspec.structs.replace(
            stage, slices=tuple(slices), keys=keys, reused=frozenset(), levels=levels, chains=chains, parts=ends
        )
    combined = levels[-1][0].key if levels else (leaves[0] if leaves else stage.combined)
    finished = combined if stage.finished == stage.combined else digest_of(["finished", combined])
    return msgspec.structs.replace(
        stage, slices=tuple(slices), keys=keys, reused=frozenset(), levels=levels, combined=combined, finished=finished,
        chains=chains,
    )  # fmt: skip
