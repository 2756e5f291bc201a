"""Making a plan: job, parameters and snapshot in, every slice, key and tree node out.

Keeps promises 7 and 8. A pure function: which partials exist comes in as a value or a question, nothing is read, and the same input gives the same plan in
every process. A scan has one stage; where it is ordered, its slices are linked to chains (`plans.chains`). Each job that it is joined with has a stage before it, the
very one that it would have alone (so both share their partials); the keys of the finished parts cover those of the parts they are joined with. A simulation with a
model has two stages: the calibration, a scan of its own, and the draws, whose keys cover the key of the finished model.

::

    JobSpec + parameters + Snapshot + readers' identities + keys that exist -> make_plan -> Plan
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final, Literal

import msgspec

from hindscan.data import Proof
from hindscan.errors import JobDefinitionError, ParameterError
from hindscan.history.snapshot import DrawPin, DrawSlice, KafkaSlice, Pin, Slice, Snapshot
from hindscan.jobs.job import JobSpec, Step, pinned_as
from hindscan.plans.chains import in_order, leaves_of, link, needed, without_idle_bounds
from hindscan.plans.combine import flat, tree, tree_by_part
from hindscan.plans.cut import Known, cut, cut_whole
from hindscan.plans.draws import check_draws, draw_pin, finishing, whole_draws
from hindscan.plans.keys import (
    close_key,
    digest_of,
    empty_key,
    finish_key,
    node_key,
    part_key,
    slice_keys,
    split_key,
    start_key,
    table_digest,
    table_proof_key,
    whole_key,
    without_before,
)
from hindscan.plans.plan import Chain, Node, Part, Plan, Stage

__all__ = ["SLICE_ROWS", "default_seed", "holds", "holds_whole", "make_plan"]

#: Rows of a slice where the history does not say: about a second of work, some tens of megabytes.
SLICE_ROWS: Final = 1_000_000

_Names = tuple[Literal["slice", "calibrate"], str, str]

#: Stand in for the digests of steps that are not user code. Changed only when what they compute changes.
_CONCAT: Final = Step(digest="builtin:concat:1")
_STATISTICS: Final = Step(digest="builtin:statistics:1")
_STATISTICS_FINISH: Final = Step(digest="builtin:statistics-finish:1")
#: Meaning of what declared statistics say of their sums (`jobs.estimates`).
_ESTIMATES: Final = "builtin:estimates:2"

#: Names of the steps of a stage that scans: each slice, combine, finish.
_SCAN: Final[_Names] = ("slice", "combine", "finish")
_CALIBRATION: Final[_Names] = ("calibrate", "calibrate_combine", "calibrate_finish")

_How = Literal["function", "concat", "statistics", "none"]


class _Given(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage is planned with."""

    job: JobSpec
    #: Name of the join, if it is one that another job is joined with.
    join: str | None
    #: What it is joined with: by name, the key of each part's table.
    joined: Mapping[str, tuple[str, ...]]
    parameters: Mapping[str, object]
    #: Digests of the broadcast tables by name.
    tables: Mapping[str, str]
    exists: Callable[[str], bool]
    #: Proof of the partial of a key; None where there is none.
    proof: Callable[[str], Proof | None]


class _Steps(msgspec.Struct, frozen=True, kw_only=True):
    """The steps of one stage, built-in ones filled in; None where there is none."""

    name: Literal["slice", "calibrate"]
    each: Step
    combine: Step | None
    finish: Step | None
    how: _How
    #: Of an ordered job.
    start: Step | None = None
    close: Step | None = None


def make_plan(
    job: JobSpec,
    parameters: Mapping[str, object],
    snapshot: Snapshot,
    *,
    identities: Mapping[str, Mapping[str, object]],
    slice_rows: Mapping[str, int] | None = None,
    existing: Collection[str] | Callable[[str], bool] = frozenset(),
    proofs: Callable[[str], Proof | None] | None = None,
    known: Mapping[str, Known] | None = None,
    seed: int | None = None,
    draws: int | None = None,
    fresh: bool = False,
    anew: Collection[int] = (),
) -> Plan:
    """Decide a run.

    Parameters
    ----------
    job : JobSpec
        What to compute.
    parameters : mapping
        Validated values of all the job's parameters, defaults filled in.
    snapshot : Snapshot
        A pin for the job's table and for each broadcast table, by parameter name.
    identities : mapping
        `Reader.identity()` of each pin, by parameter name.
    slice_rows : mapping, optional
        Rows of a slice by parameter name. Default: `SLICE_ROWS`.
    existing : collection of str or callable
        Keys of the partials that exist.
    proofs : callable, optional
        Gives the proof of a partial that exists; a bound that one shows to cut off nothing is left out of its slice, and so of its key.
    known : mapping, optional
        Greatest times from earlier proofs by parameter name; see `plans.cut`.
    seed : int, optional
        Seed of a simulation. Default: `default_seed`.
    draws : int, optional
        Draws of a simulation. Default: the job's.
    fresh : bool
        Use nothing that exists.
    anew : collection of int
        Positions of slices of the last stage that are computed again, with all that is made of them, although their partials exist.

    Raises
    ------
    hindscan.errors.JobDefinitionError
        Several slices and no way to combine them.
    hindscan.errors.ParameterError
        A step takes a parameter that has no value; fewer draws than one; a seed or draws for a job that draws nothing; no slice at a position of `anew`.
    """
    _check(job, snapshot, seed, draws)
    lookup = existing.__contains__ if isinstance(existing, Collection) else existing

    def digests(names: Collection[str], *, idle: bool) -> dict[str, str]:
        return {
            name: table_digest(snapshot.pins[name], identities[name], known=(known or {}).get(name), is_idle=idle)
            for name in names
        }

    def scanned(
        job: JobSpec, steps: _Steps, join: str | None, sides: Sequence[Stage], tables: Mapping[str, str]
    ) -> Stage:
        """Plan the stage of one history: the job's own, or that of one it is joined with."""
        name = (job.table or "") if join is None else join
        pin = snapshot.pins[name]
        slices = cut(pin, (slice_rows or {}).get(name, SLICE_ROWS), known=(known or {}).get(name))
        given = given_to(job, join, sides, tables)
        return _stage(job, given, steps, slices, pin, table=name, reader=identities[name], model=None)

    def given_to(job: JobSpec, join: str | None, sides: Sequence[Stage], tables: Mapping[str, str]) -> _Given:
        return _Given(
            job=job,
            join=join,
            joined={stage.join or "": tuple(stage.results) for stage in sides},
            parameters=parameters,
            tables={table: tables[pinned_as(join, table)] for table in job.tables},
            exists=exists,
            proof=proof,
        )

    def stages_with(tables: Mapping[str, str]) -> list[Stage]:
        """Plan all stages over broadcast tables of these digests."""
        stages: list[Stage] = []
        for join, other in job.joins.items():
            steps = _scan_steps(other)
            assert steps is not None
            stages.append(scanned(other, steps, join, (), tables))
        scan = _scan_steps(job)
        if scan is not None:
            stages.append(scanned(job, scan, None, stages, tables))
        if seed is not None and draws is not None:
            pin = draw_pin(job, draws=draws, seed=seed)
            model = stages[0].finished if stages else None
            given = given_to(job, None, (), tables)
            slices = cut(pin, SLICE_ROWS)
            stages.append(_stage(job, given, _draw_steps(job), slices, pin, table=None, reader={}, model=model))
        return stages

    exists: Callable[[str], bool] = (lambda _: False) if fresh else lookup
    proof = proofs or (lambda _: None)
    if job.kind == "simulation":
        seed = default_seed(job, parameters, snapshot, identities, known=known) if seed is None else seed
        draws = whole_draws(job, job.draws) if draws is None else draws
    with_bounds = digests(job.broadcast, idle=False)
    without = digests([name for name in job.broadcast if _is_bounded(snapshot.pins[name])], idle=True)
    table_proofs = {name: table_proof_key(without[name]) for name in without if without[name] != with_bounds[name]}
    stages = stages_with(with_bounds)
    if table_proofs:
        idle = all(exists(key) and holds_whole(snapshot.pins[name], proof(key)) for name, key in table_proofs.items())
        stages = _alike(stages, stages_with(with_bounds | without), exists, idle=idle)
    renewed = _renewed(job, stages[-1], anew)
    stages[-1] = msgspec.structs.replace(stages[-1], reused=stages[-1].reused - set(anew))
    return Plan(
        job=job,
        parameters=dict(parameters),
        snapshot=snapshot,
        stages=tuple(stages),
        seed=seed,
        draws=draws,
        fresh=fresh,
        anew=renewed,
        table_proofs=table_proofs,
    )


def _alike(
    bounded: Sequence[Stage], opened: Sequence[Stage], exists: Callable[[str], bool], *, idle: bool
) -> list[Stage]:
    """Choose between the stages with their tables' bounds in the keys and those without.

    Without, if the bounds are known to cut off nothing, unless more is stored with them: a run that was cut short has its partials under the keys that it began with.
    """

    def stored(stages: Sequence[Stage]) -> tuple[int, int]:
        return sum(len(stage.reused) for stage in stages), sum(exists(stage.finished) for stage in stages)

    opened = [msgspec.structs.replace(stage, tables_idle=True) for stage in opened]
    chosen, others = (opened, bounded) if idle and stored(opened) >= stored(bounded) else (bounded, opened)
    return [msgspec.structs.replace(one, alike=other) for one, other in zip(chosen, others, strict=True)]


def _renewed(job: JobSpec, stage: Stage, anew: Collection[int]) -> frozenset[str]:
    """Give the keys of the slices at some positions, and of the nodes and the finished table that are made of them."""
    wrong = sorted(position for position in anew if not 0 <= position < len(stage.slices))
    if wrong:
        raise ParameterError(
            f"Planning job {job.name}: slices that are computed anew must be among 0 to {len(stage.slices) - 1}; there is no slice "
            f"{', '.join(map(str, wrong))}. `hindscan plan {job.name} --slices` lists them.",
            job=job.name,
            slices=wrong,
        )
    keys = {stage.keys[position] for position in anew}
    for node in (node for level in stage.levels for node in level):
        if not keys.isdisjoint(node.children):
            keys.add(node.key)
    ends = {finished for finished, combined in stage.results.items() if combined in keys}
    return frozenset(keys and {*keys, *ends, stage.combined, stage.finished})


def default_seed(
    job: JobSpec,
    parameters: Mapping[str, object],
    snapshot: Snapshot,
    identities: Mapping[str, Mapping[str, object]],
    *,
    known: Mapping[str, Known] | None = None,
) -> int:
    """Give the seed of a simulation that names none: equal data, parameters and job draw equal numbers.

    Returns
    -------
    int
        Below 2**48, so that every JSON reader keeps it exact.
    """
    data = {
        name: table_digest(pin, identities[name], known=(known or {}).get(name)) for name, pin in snapshot.pins.items()
    }
    return int(digest_of(["seed", job.name, parameters, data])[:12], 16)


def _check(job: JobSpec, snapshot: Snapshot, seed: int | None, draws: int | None) -> None:
    wanted = list(job.histories)
    absent = [name for name in wanted if name not in snapshot.pins]
    if absent:
        raise JobDefinitionError(
            f"Planning job {job.name}: its tables {', '.join(wanted)} must all be pinned, and {', '.join(absent)} "
            "are not. Declare a history for each in the job."
        )
    if job.kind == "scan" and (seed is not None or draws is not None):
        raise ParameterError(
            f"Planning job {job.name}: seed and draws are options of a simulation, and this job scans a history. Leave them out.",
            job=job.name,
        )
    if draws is not None:
        check_draws(job, draws)


def _scan_steps(job: JobSpec) -> _Steps | None:
    """Steps of the stage that scans a history; None for a simulation without a model."""
    each, combine, finish = _SCAN if job.kind == "scan" else _CALIBRATION
    if each not in job.steps:
        return None
    how: _How = job.combine if job.kind == "scan" else job.calibrate_combine
    return _Steps(
        name=each,
        each=job.steps[each],
        combine=_combine_step(how, job.steps.get(combine)),
        finish=job.steps.get(finish),
        how=how,
        start=job.steps.get("start"),
        close=job.steps.get("close"),
    )


def _draw_steps(job: JobSpec) -> _Steps:
    finish = job.steps.get("finish")
    if finish is None and job.combine == "statistics":
        finish = _STATISTICS_FINISH
    if finish is not None and job.statistics:
        finish = msgspec.structs.replace(finish, digest=digest_of([finish.digest, _ESTIMATES, finishing(job)]))
    return _Steps(
        name="slice",
        each=job.steps["slice"],
        combine=_combine_step(job.combine, job.steps.get("combine")),
        finish=finish,
        how=job.combine,
    )


def _combine_step(how: _How, own: Step | None) -> Step | None:
    match how:
        case "concat":
            return _CONCAT
        case "statistics":
            return _STATISTICS
        case "function":
            return own
        case "none":
            return None


def _stage(
    job: JobSpec,
    given: _Given,
    steps: _Steps,
    slices: tuple[Slice, ...],
    pin: Pin,
    *,
    table: str | None,
    reader: Mapping[str, object],
    model: str | None,
) -> Stage:
    parameters, tables = given.parameters, given.tables

    def keys_of(cut_slices: tuple[Slice, ...]) -> tuple[str, ...]:
        keys = slice_keys(
            cut_slices, pin=pin, step=steps.each, reader=reader, model=model, parameters=parameters, tables=tables
        )
        return tuple(_split(job, key) for key in keys)

    empty = _split(job, empty_key(pin=pin, step=steps.each, reader=reader, parameters=parameters, tables=tables))
    if job.whole:
        return _whole_stage(steps.name, table, slices, whole_key([empty, *keys_of(slices)]), given)
    chains: tuple[Chain, ...] = ()
    unbounded: dict[str, str] = {}
    alone: tuple[str, ...] = ()
    if steps.start is None:
        slices, keys, unbounded = _without_idle_bounds(slices, keys_of, given)
        leaves = keys
        to_do = {position for position, key in enumerate(keys) if not given.exists(key)}
    else:
        parts = in_order(pin, slices, job=job.name)
        slices = tuple(s for _, of_part in parts for s in of_part)
        start = start_key(step=steps.start, parameters=parameters, tables=tables)
        opened = tuple(map(without_before, slices))
        idle, unbounded = without_idle_bounds(
            parts,
            keys_of(slices),
            keys_of(opened),
            start=start,
            is_idle=lambda s, key: given.exists(key) and holds(s, given.proof(key)),
        )
        slices = tuple(opened[s.position] if s.position in idle else s for s in slices)
        alone = keys_of(slices)
        keys, chains = link(_as_parts(parts, slices), alone, start=start, close=_closing(steps.close, given))
        alone = alone if unbounded else ()
        leaves, empty = leaves_of(keys, chains), digest_of([empty, start])
        to_do = {position for chain in chains for position in needed(chain, keys, given.exists)}
    ends: tuple[Part, ...] = ()
    levels = _levels(job, steps, leaves, given)
    combined = levels[-1][0].key if levels else leaves[0] if leaves else empty
    finished = _finishing(steps, given)(combined, {})
    if job.by:
        levels, ends = _levels_by_part(job, steps, leaves or (empty,), given)
        combined = digest_of([part.combined for part in ends])
        finished = digest_of([part.finished for part in ends])
    return Stage(
        step=steps.name if given.join is None else f"{given.join}.{steps.name}",
        join=given.join,
        joined=dict(given.joined),
        table=table,
        slices=slices,
        keys=keys,
        reused=frozenset(range(len(keys))) - to_do,
        levels=levels,
        combined=combined,
        finished=finished,
        unbounded=unbounded,
        alone=alone,
        chains=chains,
        parts=ends,
    )


def _split(job: JobSpec, key: str) -> str:
    return split_key(key, by=job.by, parts=job.parts) if job.by else key


def _finishing(steps: _Steps, given: _Given) -> Callable[[str, Mapping[str, str]], str]:
    """Give what makes the key of a finished table out of that of the combined one and those of what is joined with it."""
    step = steps.finish
    if step is None:
        return lambda combined, _: combined
    return lambda combined, joined: finish_key(
        combined, step=step, parameters=given.parameters, tables=given.tables, joined=joined
    )


def _whole_stage(step: str, table: str | None, slices: tuple[Slice, ...], key: str, given: _Given) -> Stage:
    """Give the stage of a job that makes its result in one go: all slices stand for the same partial, and are reused or computed together."""
    return Stage(
        step=step,
        table=table,
        slices=slices,
        keys=(key,) * len(slices),
        reused=frozenset(range(len(slices))) if given.exists(key) else frozenset(),
        levels=(),
        combined=key,
        finished=key,
    )


def _without_idle_bounds(
    slices: tuple[Slice, ...], keys_of: Callable[[tuple[Slice, ...]], tuple[str, ...]], given: _Given
) -> tuple[tuple[Slice, ...], tuple[str, ...], dict[str, str]]:
    """Leave out the upper bounds that stored partials show to cut off nothing; give slices and keys, and for the other bounds which key they would have without."""
    bounded = [s for s in slices if not isinstance(s, DrawSlice) and s.before is not None]
    opened = tuple(map(without_before, bounded))
    found = dict(zip([s.position for s in bounded], zip(opened, keys_of(opened), strict=True), strict=True))
    chosen = tuple(
        found[s.position][0]
        if s.position in found and given.exists(found[s.position][1]) and holds(s, given.proof(found[s.position][1]))
        else s
        for s in slices
    )
    keys = keys_of(chosen)
    kept = {s.position for s in chosen if s.position in found and s is not found[s.position][0]}
    return chosen, keys, {key: found[s.position][1] for s, key in zip(chosen, keys, strict=True) if s.position in kept}


def _as_parts(
    parts: Sequence[tuple[str, tuple[Slice, ...]]], slices: tuple[Slice, ...]
) -> list[tuple[str, tuple[Slice, ...]]]:
    return [(name, tuple(slices[s.position] for s in of_part)) for name, of_part in parts]


def holds(s: Slice, proof: Proof | None) -> bool:
    """Tell whether a reading of all rows of a slice shows that its upper bound cuts off none of them."""
    if proof is None or isinstance(s, DrawSlice) or s.before is None:
        return False
    if isinstance(s, KafkaSlice) and proof.disorder is None:
        return False  # a row without a time: with a bound that is an error
    return proof.records == 0 or (proof.greatest_time is not None and proof.greatest_time < s.before)


def holds_whole(pin: Pin, proof: Proof | None) -> bool:
    """Tell whether a reading of a whole table shows that none of its upper bounds cuts off a row."""
    bounded = [s for s in cut_whole(pin) if not isinstance(s, DrawSlice) and s.before is not None]
    return all(holds(s, proof) for s in bounded)


def _is_bounded(pin: Pin) -> bool:
    """Tell whether slices of a pin can have an upper bound."""
    return not isinstance(pin, DrawPin) and pin.before is not None


def _closing(step: Step | None, given: _Given) -> Callable[[str], str] | None:
    if step is None:
        return None
    return lambda state: _split(
        given.job, close_key(state, step=step, parameters=given.parameters, tables=given.tables)
    )


def _levels(job: JobSpec, steps: _Steps, keys: tuple[str, ...], given: _Given) -> tuple[tuple[Node, ...], ...]:
    """Build the tree over what is combined: the keys of partials, in order."""
    if len(keys) < 2:
        return ()
    step = steps.combine
    if step is None:
        # As the file of the job has it: in SQL, in TOML, else in Python.
        own = {".sql": "`-- name: combine`", ".toml": "[combine]"}.get(
            PurePosixPath(job.file).suffix, f"@{job.name}.combine"
        )
        decorator = own if steps.name == "slice" else "the calibration's combine"
        found = (
            f"is cut into {len(keys)} slices"
            if steps.start is None
            else f"gives {len(keys)} partials, closing ones included"
        )
        raise JobDefinitionError(
            f"Planning job {job.name}: its history {found}, and a job over several slices must say how their partials "
            f'become one; it has no combine. Write {decorator}, say combine="concat" where rows only stand one after another, or raise slice_rows '
            "of the history until there is one slice.",
            job=job.name,
            slices=len(keys),
        )
    shape = flat if steps.how == "concat" else tree
    return shape(keys, _node_keys(step, given))


def _levels_by_part(
    job: JobSpec, steps: _Steps, keys: tuple[str, ...], given: _Given
) -> tuple[tuple[tuple[Node, ...], ...], tuple[Part, ...]]:
    """Build the trees of a job that is split by key."""
    finish = _finishing(steps, given)

    def finished(combined: str, part: int) -> str:
        if given.join is not None and steps.finish is None:
            return combined  # what is joined need not be sorted before
        return part_key(finish(combined, {name: keys[part] for name, keys in given.joined.items()}), by=job.by)

    return tree_by_part(
        keys,
        job.parts,
        _node_keys(steps.combine or _CONCAT, given),
        finish=finished,
        concat=steps.how == "concat",
    )


def _node_keys(step: Step, given: _Given) -> Callable[[Sequence[str]], str]:
    return lambda children: node_key(children, step=step, parameters=given.parameters, tables=given.tables)
