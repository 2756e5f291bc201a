"""Why a slice is computed although something like it was computed before.

Keeps the second half of promise 7: a plan says what is reused, and why the rest is not. The keys only tell that something differs; what differs is
found by comparing with an earlier plan of the same job, part by part of what a key covers.

::

    Plan + an earlier Plan of the job -> reasons -> by stage: {4: "new data", ...} -> why_not_reused -> {"new data": 3, "parameter year changed": 12}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from hindscan.history.columns import schema_from_text
from hindscan.history.formats.choose import reading_identity
from hindscan.history.snapshot import DrawPin, KafkaPin, ParquetPin, Pin, Slice
from hindscan.jobs.job import pinned_as
from hindscan.plans.keys import digest_of, table_digest
from hindscan.plans.plan import Plan, Stage

__all__ = ["reasons", "totals", "why_not_reused"]


def why_not_reused(plan: Plan, before: Plan | None) -> dict[str, int]:
    """Count the slices that must be computed, by reason.

    Parameters
    ----------
    plan : Plan
        What is to be done.
    before : Plan, optional
        An earlier plan of the same job, best the last one that succeeded.

    Returns
    -------
    dict
        Reasons in the order of the slices. Where several things changed at once all are named in one reason.
    """
    return totals(reasons(plan, before))


def totals(why: tuple[dict[int, str], ...]) -> dict[str, int]:
    """Count slices by reason, in the order of the slices."""
    return dict(Counter(reason for of_stage in why for reason in of_stage.values()))


def reasons(plan: Plan, before: Plan | None) -> tuple[dict[int, str], ...]:
    """Say of each slice that must be computed why, as `why_not_reused` counts it.

    Returns
    -------
    tuple of dict
        For each stage of the plan: reasons by position, ascending; a slice that is reused has none.
    """
    return tuple(_of_stage(plan, stage, before) for stage in plan.stages)


def _of_stage(plan: Plan, stage: Stage, before: Plan | None) -> dict[int, str]:
    old = _stage(before, stage.step, idle=stage.tables_idle) if before is not None else None
    changed = "; ".join(_changes(plan, stage, before, old)) if before is not None and old is not None else ""
    missing = [(s, key) for s, key in zip(stage.slices, stage.keys, strict=True) if s.position not in stage.reused]
    known = _known(old) if missing and not changed else {}
    same = {_exactly(piece) for piece in old.slices} if old is not None and stage.chains else set()
    found = {}
    for piece, key in missing:
        if plan.fresh or key in plan.anew:
            found[piece.position] = "everything was asked for anew" if plan.fresh else "it was asked for anew"
        elif old is None:
            found[piece.position] = "no earlier run to compare with"
        else:
            found[piece.position] = changed or _reason(piece, key, known, in_chain=_exactly(piece) in same)
    return found


def _known(old: Stage | None) -> dict[str, str]:
    """Keys of the earlier slices by what they read, bounds aside."""
    if old is None:
        return {}
    return {_data_of(piece): key for piece, key in zip(old.slices, old.keys, strict=True)}


def _data_of(piece: Slice) -> str:
    fields = msgspec.to_builtins(piece)
    return digest_of({name: value for name, value in fields.items() if name not in ("position", "since", "before")})


def _exactly(piece: Slice) -> str:
    return digest_of({name: value for name, value in msgspec.to_builtins(piece).items() if name != "position"})


def _reason(piece: Slice, key: str, known: dict[str, str], *, in_chain: bool) -> str:
    """Say why; `in_chain`: it is a slice of an ordered job that was there before, bounds and all."""
    earlier = known.get(_data_of(piece))
    if earlier is None:
        return "new data"
    if earlier == key:
        return "its partial or the state after it is gone" if in_chain else "its partial is gone"
    return "what comes before it in its partition changed" if in_chain else "as_of, since or until cuts it elsewhere"


def _changes(plan: Plan, stage: Stage, before: Plan, old: Stage) -> Iterator[str]:
    """Say what changed for every slice of a stage."""
    job, then_job = plan.job_of(stage), before.job_of(old)
    each = "slice" if stage.join is not None else stage.step
    names = [name for name in (each, *(["start"] if stage.chains else [])) if name in job.steps]
    steps = [job.steps[name] for name in names]
    for name, step in zip(names, steps, strict=True):
        was = then_job.steps.get(name)
        if was is None or step.digest != was.digest:
            yield f"the code of its step ({name}) changed"
    given, then_given = plan.parameters_of(stage), before.parameters_of(old)
    for name in dict.fromkeys(name for step in steps for name in step.parameters):
        if name not in then_given or digest_of(given[name]) != digest_of(then_given[name]):
            yield f"parameter {name} changed"
    for name in dict.fromkeys(pinned_as(stage.join, name) for step in steps for name in step.tables):
        then = before.snapshot.pins.get(name)
        now, idle = plan.snapshot.pins[name], stage.tables_idle
        if then is None or table_digest(now, {}, is_idle=idle) != table_digest(then, {}, is_idle=idle):
            yield f"table {name} changed"
    if (job.by, job.by and job.parts) != (then_job.by, then_job.by and then_job.parts):
        yield "the split by key changed"
    if stage.table is not None and old.table is not None:
        if _reading(plan.snapshot.pins[stage.table]) != _reading(before.snapshot.pins[old.table]):
            yield f"how {stage.table} is read changed"
    elif stage.table is None:
        if plan.seed != before.seed:
            yield "the seed changed"
        if plan.job.block_size != before.job.block_size:
            yield "the size of a block changed"
        if (plan.job.generator, plan.job.sampling) != (before.job.generator, before.job.sampling):
            yield "the generator or the sampling changed"
        if _model(plan, idle=stage.tables_idle) != _model(before, idle=stage.tables_idle):
            yield "the model changed"


def _reading(pin: Pin) -> object:
    """What of a pin decides how its rows are read, wherever they lie."""
    match pin:
        case ParquetPin():
            return ("parquet", pin.schema, pin.time)
        case KafkaPin():
            coding = (
                None if pin.coding is None else reading_identity(pin.format, schema_from_text(pin.schema), pin.coding)
            )
            how = (pin.format, pin.schema, coding, pin.record, pin.time, pin.on_bad_record, pin.keys)
            return (pin.cluster_id, pin.topic_id, pin.isolation, *how)
        case DrawPin():
            return ()


def _model(plan: Plan, *, idle: bool) -> str | None:
    stage = _stage(plan, "calibrate", idle=idle)
    return None if stage is None else stage.finished


def _stage(plan: Plan, step: str, *, idle: bool) -> Stage | None:
    """Find a stage, with keys that leave out the bounds of broadcast tables if these cut off nothing."""
    stage = next((stage for stage in plan.stages if stage.step == step), None)
    return stage.alike if stage is not None and stage.alike is not None and stage.tables_idle != idle else stage
