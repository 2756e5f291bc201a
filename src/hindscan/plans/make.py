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
from typing import Any, Final

import msgspec

from hindscan.data import Proof
from hindscan.errors import JobDefinitionError, ParameterError
from hindscan.history.snapshot import Pin, Snapshot
from hindscan.jobs.job import JobSpec, pinned_as
from hindscan.plans.cut import Known, cut
from hindscan.plans.draws import check_draws, draw_pin, whole_draws
from hindscan.plans.idle import can_cut, choose_alike, is_idle_whole
from hindscan.plans.keys import digest_of, table_digest, table_proof_key
from hindscan.plans.plan import Plan, Stage
from hindscan.plans.stages import Inputs, make_stage
from hindscan.plans.steps import draw_steps, scan_steps

__all__ = ["SLICE_ROWS", "default_seed", "make_plan"]

#: Rows of a slice where the history does not say: about a second of work, some tens of megabytes.
SLICE_ROWS: Final = 1_000_000


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
    if job.kind == "simulation":
        seed = default_seed(job, parameters, snapshot, identities, known=known) if seed is None else seed
        draws = whole_draws(job, job.draws) if draws is None else draws
    lookup = existing.__contains__ if isinstance(existing, Collection) else existing
    given = _Given(
        job=job,
        parameters=parameters,
        snapshot=snapshot,
        identities=identities,
        slice_rows=slice_rows or {},
        exists=(lambda _: False) if fresh else lookup,
        proof=proofs or (lambda _: None),
        known=known or {},
        seed=seed,
        draws=draws,
    )
    stages, table_proofs = given.stages()
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


class _Given(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan is made of; see `make_plan`."""

    job: JobSpec
    parameters: Mapping[str, object]
    snapshot: Snapshot
    identities: Mapping[str, Mapping[str, object]]
    slice_rows: Mapping[str, int]
    exists: Callable[[str], bool]
    proof: Callable[[str], Proof | None]
    known: Mapping[str, Known]
    #: Of a simulation.
    seed: int | None
    draws: int | None

    def stages(self) -> tuple[list[Stage], dict[str, str]]:
        """Plan the stages; give them with the keys of the proofs that tell whether the bounds of broadcast tables cut off anything."""
        bounded = {name: self._digest(name) for name in self.job.broadcast}
        opened = {name: self._digest(name, idle=True) for name in bounded if can_cut(self.snapshot.pins[name])}
        proofs = {name: table_proof_key(opened[name]) for name in opened if opened[name] != bounded[name]}
        stages = self._stages_over(bounded)
        if proofs:
            idle = all(
                self.exists(key) and is_idle_whole(self.snapshot.pins[name], self.proof(key))
                for name, key in proofs.items()
            )
            stages = choose_alike(stages, self._stages_over(bounded | opened), self.exists, idle=idle)
        return stages, proofs

    def _digest(self, table: str, *, idle: bool = False) -> str:
        pin, identity = self.snapshot.pins[table], self.identities[table]
        return table_digest(pin, identity, known=self.known.get(table), is_idle=idle)

    def _stages_over(self, tables: Mapping[str, str]) -> list[Stage]:
        """Plan all stages over broadcast tables of these digests: those of the jobs that this one is joined with, and its own."""
        stages: list[Stage] = []
        for join, other in self.job.joins.items():
            stages += self._scan(other, join, (), tables)
        stages += self._scan(self.job, None, stages, tables)
        if self.seed is not None and self.draws is not None:
            pin = draw_pin(self.job, draws=self.draws, seed=self.seed)
            inputs = self._inputs(
                self.job, pin, None, tables, table=None, reader={}, model=stages[0].finished if stages else None
            )
            stages.append(make_stage(cut(pin, SLICE_ROWS), inputs, draw_steps(self.job)))
        return stages

    def _scan(self, job: JobSpec, join: str | None, sides: Sequence[Stage], tables: Mapping[str, str]) -> list[Stage]:
        """Plan the stage of one history, if the job has one."""
        steps = scan_steps(job)
        if steps is None:
            return []
        name = (job.table or "") if join is None else join
        pin = self.snapshot.pins[name]
        joined = {stage.join or "": tuple(stage.results) for stage in sides}
        inputs = self._inputs(job, pin, join, tables, table=name, reader=self.identities[name], joined=joined)
        slices = cut(pin, self.slice_rows.get(name, SLICE_ROWS), known=self.known.get(name))
        return [make_stage(slices, inputs, steps)]

    def _inputs(self, job: JobSpec, pin: Pin, join: str | None, tables: Mapping[str, str], **more: Any) -> Inputs:
        return Inputs(
            job=job,
            pin=pin,
            join=join,
            parameters=self.parameters,
            tables={table: tables[pinned_as(join, table)] for table in job.tables},
            exists=self.exists,
            proof=self.proof,
            **more,
        )


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
