"""From an executed plan to a published result: the manifest is written here.

Keeps promise 9. Everything the manifest says is collected in one place: what was asked (the run, its event), what was read (the snapshot, the
proofs of computed and of reused slices), what it cost (the receipts). The table itself was finished by a worker and lies in the partials.

::

    Executed + Prepared + Run -> SliceRecords, Manifest -> results.publish -> folder of the result

Points of failure: `runner.published`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hindscan import faults, times
from hindscan.errors import CorruptPartial
from hindscan.files import Place
from hindscan.history.kafka_window import check_lateness
from hindscan.history.snapshot import KafkaPin, ParquetPin, Snapshot
from hindscan.jobs.chart import charts_of
from hindscan.plans.incomplete import coverage_document, covered_together
from hindscan.plans.sweep import finals, swept_table
from hindscan.rounds import drawn_document
from hindscan.runs import inbox
from hindscan.runs.copies import copy_result, copy_rows
from hindscan.runs.manifest import Manifest, SliceCounts, Usage
from hindscan.runs.partials import proof_of
from hindscan.runs.results import publish, read_manifest
from hindscan.runs.slices import SliceRecord
from hindscan.tasks.kept import KeptSlices
from hindscan.tasks.outcome import Merged, outcome
from hindscan.tasks.task import Done
from hindscan.words import chosen_document

if TYPE_CHECKING:
    import pyarrow as pa

    from hindscan.planning import Prepared
    from hindscan.plans.plan import Plan, Stage
    from hindscan.runs.partials import Meta, Partials
    from hindscan.runs.run import Run, Settled
    from hindscan.tasks.execution import Executed
    from hindscan.tasks.stage import StageDone
    from hindscan.workshop import Workshop

__all__ = ["publish_run", "published_summary"]

#: Characters of the message of a slice that failed which are kept in snapshot.parquet.
MESSAGE_MOST: Final = 4_000


def publish_run(workshop: Workshop, run: Run, prepared: Prepared, executed: Executed, started_at: int) -> str:
    """Publish the result of a run, and where `[copies]` says so a copy; give its folder, relative to the project's root.

    Parameters
    ----------
    run : Run
        As it was claimed: the caller has made sure that the claim still holds.
    started_at : int
        When the attempt began, microseconds since the epoch.

    Raises
    ------
    hindscan.errors.CorruptPartial
        Something that is stored of it is damaged, and removed: it must be made again.
    hindscan.errors.OutOfOrder
        What was read breaks the lateness that offsets were left out on.
    hindscan.errors.ServiceUnavailable
        The place of the copy cannot be written to.
    """
    plan = prepared.plan
    records = [
        _Records(stage, done, workshop.partials) for stage, done in zip(plan.stages, executed.stages, strict=True)
    ]
    for of_stage in records:
        pin = plan.snapshot.pins.get(of_stage.stage.table or "")
        if isinstance(pin, KafkaPin):
            read = ((record.slice, record.proof) for record in of_stage if record.proof is not None)
            # Of each slice its worker has made sure; here of all in their order, and of the reused ones.
            check_lateness(read, lateness=pin.lateness, topic=pin.topic)
    published = publish(
        workshop.project.artefacts,
        table=_table(workshop.partials, plan, executed, run.request.settled),
        manifest=_manifest(workshop, run, prepared, executed, records, started_at),
        snapshot=plan.snapshot,
        slices=itertools.chain.from_iterable(records),
        charts=_charts(workshop.partials, plan, executed),
    )
    faults.point("runner.published")
    for wanted in workshop.project.copied_to(run.job):
        if isinstance(wanted, Place):
            copy_result(published.folder, wanted)
        else:
            copy_rows(published.folder, wanted)
    folder = published.folder.resolve()
    root = workshop.project.root.resolve()
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)


def published_summary(folder: Path) -> dict[str, Any]:
    """Say in few words what a result is, for those who hear of it: what its manifest says at length."""
    manifest = read_manifest(folder)
    return {
        "rows": manifest.result.rows,
        "digest": manifest.result.digest,
        "slices": {
            "total": manifest.slices.total,
            "reused": manifest.slices.reused,
            "computed": manifest.slices.computed,
        },
        "seconds": manifest.seconds,
        "incomplete": manifest.incomplete,
    }


def _table(partials: Partials, plan: Plan, executed: Executed, settled: Settled | None) -> pa.Table | Merged:
    if not plan.points:
        return outcome(partials, executed.results, plan.job.by)
    ends = [executed.stages[position].finished for position in finals(plan)]
    stopped = settled.points if settled is not None else ()
    about: dict[str, list[Any]] = {"draws": [one.draws for one in stopped], "stopped": [one.why for one in stopped]}
    return swept_table(plan.points, [partials.read(key) for key in ends], about if stopped else None)


def _charts(partials: Partials, plan: Plan, executed: Executed) -> dict[str, bytes]:
    """Give the charts that `finish` made; of a sweep there is none, as each point's shows that point alone."""
    if plan.points or plan.job.by:
        return {}
    said = partials.read_meta(executed.finished).metadata
    return charts_of({name.encode(): text.encode() for name, text in said.items()})


class _Records:
    """How each slice of a stage went, told as often as it is asked; a reused one brings the proof it was stored with."""

    def __init__(self, stage: Stage, done: StageDone, partials: Partials) -> None:
        self.stage = stage
        self._computed = done.slices
        self._failed = {one.position: one for one in done.failed}
        self._checkpoints = stage.checkpoints
        self._reused = KeptSlices()
        damaged: CorruptPartial | None = None
        for s, key in zip(stage.slices, stage.keys, strict=True):
            if s.position in self._failed or s.position in self._computed:
                continue
            try:
                self._reused.keep(_reused(partials.read_meta(key), s.position, key))
            except CorruptPartial as fault:
                damaged = fault  # all are looked at, so that all of them are made again at once
        if damaged is not None:
            raise damaged

    def __iter__(self) -> Iterator[SliceRecord]:
        stage = self.stage
        for s, key in zip(stage.slices, stage.keys, strict=True):
            fault = self._failed.get(s.position)
            if fault is not None:
                message = fault.message[:MESSAGE_MOST]
                yield SliceRecord(stage=stage.step, slice=s, key=key, reused=False, error=fault.error, message=message)
                continue
            reused = self._reused.get(s.position)
            one = reused or self._computed.get(s.position)
            assert one is not None
            yield SliceRecord(
                stage=stage.step,
                slice=s,
                key=key,
                checkpoint=self._checkpoints.get(key),
                reused=reused is not None,
                digest=one.digest,
                seconds=one.seconds,
                proof=one.proof,
            )


def _reused(meta: Meta, position: int, key: str) -> Done:
    """Give what a partial says of a slice that nobody computed now."""
    return Done(
        position=position,
        key=key,
        rows=meta.rows,
        bytes=0,
        digest=meta.digest,
        seconds=0.0,
        cpu_seconds=0.0,
        proof=proof_of(meta, position),
    )


class _Sums:
    """What the manifest says of all slices together."""

    def __init__(self, records: Iterable[SliceRecord]) -> None:
        self.total = self.failed = self.rows = self.set_aside = 0
        self.unverified: set[str] = set()
        #: By step, the most partitions that its topic was seen to have while a slice was computed or had been.
        self.partitions: dict[str, int] = {}
        for record in records:
            self.total += 1
            self.failed += bool(record.error)
            proof = record.proof
            if proof is None:
                continue
            self.set_aside += proof.set_aside
            self.rows += 0 if record.reused else proof.records
            if proof.unverified:
                self.unverified.add(proof.unverified)
            if proof.partition_count is not None:
                self.partitions[record.stage] = max(self.partitions.get(record.stage, 0), proof.partition_count)


def _manifest(
    workshop: Workshop, run: Run, prepared: Prepared, executed: Executed, records: Sequence[_Records], started_at: int
) -> Manifest:
    plan, request, now = prepared.plan, run.request, times.now()
    sums = _Sums(itertools.chain.from_iterable(records))
    attributes, digest = inbox.event_attributes(workshop.store, run.event_source, run.event_id)
    until, caveats = _repeatable(plan.snapshot)
    caveats += _appeared(prepared, sums.partitions)
    return Manifest(
        run=run.id,
        attempt=run.attempt,
        job=run.job,
        parameters=dict(request.parameters),
        swept=tuple(request.points[0]) if request.points else (),
        points=len(request.points),
        event=attributes,
        event_digest=digest,
        trigger=run.trigger or "",
        requested_by=run.requested_by,
        parent=run.parent or "",
        as_of=request.as_of,
        since=request.since,
        until=request.until,
        chosen=chosen_document(request),
        pinned_at=plan.snapshot.pinned_at,
        seed="" if plan.seed is None else str(plan.seed),
        draws=plan.draws or 0,
        simulation=dict(
            drawn_document(
                plan,
                request.settled,
                executed,
                request.workers or workshop.project.compute.workers,
            )
        ),
        code=run.code,
        started_at=started_at,
        finished_at=now,
        seconds=(now - started_at) / 1e6,
        usage=Usage(
            cpu_seconds=executed.cpu_seconds,
            bytes=executed.bytes_read,
            rows=sums.rows,
            retried=executed.retried,
        ),
        slices=SliceCounts(
            total=sums.total,
            reused=executed.reused,
            computed=executed.computed,
            failed=sums.failed,
        ),
        incomplete=not all(stage.coverage.complete for stage in executed.stages),
        coverage=coverage_document(covered_together([(stage.join, stage.coverage) for stage in executed.stages])),
        set_aside=sums.set_aside,
        repeatable_until=until,
        caveats=caveats,
        unverified=", ".join(sorted(sums.unverified)),
    )


def _repeatable(snapshot: Snapshot) -> tuple[int | None, tuple[str, ...]]:
    """Tell until when at most the same can be read again, and what limits it."""
    ends: list[int] = []
    caveats: list[str] = []
    for table, pin in sorted(snapshot.pins.items()):
        if isinstance(pin, KafkaPin) and pin.retention_ms is not None and pin.retention_ms >= 0:
            ends.append(snapshot.pinned_at + pin.retention_ms * 1000)
        if isinstance(pin, KafkaPin | ParquetPin):
            caveats += [f"{table}: {caveat}" for caveat in pin.caveats]
    return min(ends, default=None), tuple(caveats)


def _appeared(prepared: Prepared, seen: Mapping[str, int]) -> tuple[str, ...]:
    """Tell of partitions that a topic got after it was pinned: what is in them, this result has not seen."""
    caveats = []
    for stage in prepared.plan.stages:
        pin = prepared.plan.snapshot.pins.get(stage.table or "")
        if isinstance(pin, KafkaPin):
            # A reused slice was read before this pin, or was counted by it.
            more = seen.get(stage.step, 0) - pin.partition_count
            if more > 0:
                caveats.append(f"{stage.table}: {more} partitions appeared after the pin: nothing of them was read")
    return tuple(caveats)
