"""What a run has so far: the combination of the partials that are there, stamped incomplete.

Keeps promises 2, 9 and 12. Nothing is published and the run is not touched: who asks gets a table whose schema metadata (`hindscan.incomplete`) says what it
covers, and its combining nodes have keys that no plan has, and are removed when the table has been read. Nodes under which nothing is missing are the run's own, and
stay for it. The user's combine and finish run in a child process, never in the caller, so `serve` can be asked, too.

::

    run id -> snapshot + plan -> slices with partials -> plans.incomplete.without -> child: combine, finish -> PartialResult
"""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pyarrow as pa

from hindscan.errors import NotFound
from hindscan.plans.incomplete import Coverage, coverage_document, coverage_of, covered_together, without_slices

if TYPE_CHECKING:
    from hindscan.config import Project
    from hindscan.planning import Prepared
    from hindscan.plans.plan import Plan, Stage
    from hindscan.runs.partials import Partials
    from hindscan.runs.run import Run
    from hindscan.runs.store import Store

__all__ = ["INCOMPLETE", "PartialResult", "partial_result", "save_partial"]

#: Schema metadata of a table that is no result: the coverage as JSON. It goes with the table into Parquet and Arrow files.
INCOMPLETE: Final = b"hindscan.incomplete"


class PartialResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has so far; not its result."""

    run: str
    #: Of the run, when it was looked at.
    state: str
    table: pa.Table
    #: For a simulation of its draws; of a joined job of all its histories.
    coverage: Coverage

    def __repr__(self) -> str:
        done = self.coverage
        return (
            f"<what run {self.run}, which is {self.state}, has so far: {done.slices_done} of {done.slices} slices, "
            f"{done.rows_done:,} of {done.rows:,} rows; a table of {self.table.num_rows:,} rows>"
        )

    @property
    def incomplete(self) -> bool:
        """Whether something is missing."""
        return not self.coverage.complete

    def to_arrow(self) -> pa.Table:
        """Give the table as Arrow."""
        return self.table

    def to_pandas(self) -> Any:
        """Give the table as a pandas data frame, with the coverage in its `attrs`."""
        frame = self.table.to_pandas()
        frame.attrs["incomplete"] = coverage_document(self.coverage)
        return frame


def partial_result(project: Project, store: Store, partials: Partials, run: str) -> PartialResult:
    """Combine what a run has done so far. Takes a child process and about a second.

    Parameters
    ----------
    run : str
        Id of a run in any state.

    Raises
    ------
    hindscan.errors.NotFound
        Nothing is done yet that could be combined.
    hindscan.errors.ExecutionError
        The job's combine or finish failed over it.
    """
    from hindscan.planning import prepare
    from hindscan.runs import codes, register, snapshots
    from hindscan.tasks.execution import execute
    from hindscan.tasks.outcome import Merged, outcome
    from hindscan.tasks.threads import ThreadsExecutor

    found = register.get_run(store, run)
    snapshot = snapshots.load_snapshot(store, run)
    if snapshot is None:
        raise _nothing(found, "its histories are not pinned yet")
    if found.request.points:
        raise _nothing(found, "it is a sweep, whose result is the table of all points")
    spec, code = codes.load_code(store, found.code, found.job)
    # Of a run that computes all anew, too, what is there has the very content it will have.
    request = msgspec.structs.replace(found.request, fresh=False)
    prepared = prepare(project, spec, request, snapshot, partials.has, proofs=partials.find_proof, workers=1)
    plan = _so_far(prepared, partials, found)
    own = _made(prepared.plan)
    try:
        with ThreadsExecutor(1) as executor:
            done = execute(
                plan,
                run=run,
                code=code,
                readers=prepared.readers,
                partials=partials,
                executor=executor,
                observe=lambda _: None,
                stop=threading.Event(),
            )
        made = outcome(partials, done.results, plan.job.by)
        table = made.table() if isinstance(made, Merged) else made
    finally:
        for key in _made(plan) - own:
            partials.remove(key)
    coverage = covered_together([(stage.join, coverage_of(stage)) for stage in plan.stages])
    if not coverage.complete:
        said = {**(table.schema.metadata or {}), INCOMPLETE: msgspec.json.encode(coverage)}
        table = table.replace_schema_metadata(said)
    return PartialResult(run=run, state=found.state, table=table, coverage=coverage)


def _so_far(prepared: Prepared, partials: Partials, run: Run) -> Plan:
    """Leave out of a plan what is not there."""
    plan = prepared.plan
    if any(stage.step == "calibrate" and not _there(stage, partials) for stage in plan.stages):
        raise _nothing(run, "its model is not calibrated yet")
    missing = [
        set() if stage.step == "calibrate" else {at for at, key in enumerate(stage.keys) if not partials.has(key)}
        for stage in plan.stages
    ]
    stages = without_slices(plan.stages, missing, purpose=f"so far {secrets.token_hex(8)}")
    if stages is None:
        of_each = " of one of its histories" if plan.job.joins else ""
        raise _nothing(run, f"none of its slices{of_each} is done yet")
    return msgspec.structs.replace(plan, stages=stages)


def _there(stage: Stage, partials: Partials) -> bool:
    return all(partials.has(key) for key in stage.results) or all(partials.has(key) for key in stage.keys)


def _made(plan: Plan) -> set[str]:
    """Give the keys of all that a plan combines."""
    return {
        key
        for stage in plan.stages
        for key in (
            *stage.results,
            *stage.roots,
            *stage.keys,
            *(node.key for level in stage.levels for node in level),
        )
    }


def _nothing(run: Run, why: str) -> NotFound:
    return NotFound(
        f"Combining what run {run.id} has so far: some of it must be done; {why}, and the run is {run.state}. Ask again later, or `hindscan retry {run.id}`.",
        run=run.id,
        state=run.state,
    )


def save_partial(found: PartialResult) -> Path:
    """Write the table to a temporary Parquet file that the caller deletes: never where results are looked for."""
    import pyarrow.parquet as pq

    descriptor, name = tempfile.mkstemp(prefix="hindscan-partial-", suffix=".parquet")
    os.close(descriptor)
    pq.write_table(found.table, name)
    return Path(name)
