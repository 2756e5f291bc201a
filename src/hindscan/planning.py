"""From a request to a plan: where jobs, histories and plans meet.

A request names a job, parameters and options; `ask` checks them against the job (promise 5: all faults at once), `pin` resolves every bound
once (promise 1), `prepare` makes the plan and what workers need to read it. `hindscan plan` stops there; the dispatcher goes on to execute it. Nothing
here computes, stores or publishes.

::

    typed parameters -> ask -> RunRequest -> pin -> Snapshot -> prepare -> Prepared(plan, readers, cost)
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from hindscan import times
from hindscan.data import Proof
from hindscan.errors import ParameterError, UsageError
from hindscan.history.snapshot import History, Position, Reader, Snapshot, Window
from hindscan.history.window import make_window
from hindscan.jobs.job import is_allowance
from hindscan.plans.cost import Cost, Limits, cost_of, refuse_over
from hindscan.plans.draws import check_draws, refuse_draws_over, whole_draws
from hindscan.plans.make import default_seed, make_plan
from hindscan.plans.pace import Pace
from hindscan.plans.plan import Plan
from hindscan.plans.stopping import read_stop
from hindscan.plans.sweep import make_sweep
from hindscan.runs.run import RunRequest

if TYPE_CHECKING:
    from hindscan.config import Project
    from hindscan.jobs.job import JobSpec

__all__ = ["Prepared", "ask", "check_most", "limits_of", "make", "pin", "prepare", "tolerance_of"]


#: What a store can hold.
_GREATEST: Final = (1 << 63) - 1
#: Options that are whole numbers.
_WHOLE: Final = frozenset({"seed", "draws", "workers", "priority"})
#: Options that make up the window of the sliced history.
_WINDOW: Final = ("as_of", "since", "until", "last", "offsets", "partitions", "keys")


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A plan with what it takes to carry it out. Readers may hold secrets: never stored."""

    plan: Plan
    #: By the name of the step's table.
    readers: dict[str, Reader]
    cost: Cost
    #: What slices took in earlier runs, by step.
    paces: Mapping[str, Pace] = {}


def ask(
    project: Project, spec: JobSpec, parameters: Mapping[str, object], *, from_text: bool = False, **options: object
) -> RunRequest:
    """Check what was asked for and make it a request, defaults filled in.

    Parameters
    ----------
    project : Project
        Where the job's histories must be declared.
    spec : JobSpec
        The job.
    parameters : mapping
        As given: JSON values, or texts from the command line.
    from_text : bool
        The values are texts.
    **options : object
        Further fields of `RunRequest`, and `last`, which becomes `since` here; None is left out.

    Raises
    ------
    hindscan.errors.ParameterError
        With every fault of the parameters.
    hindscan.errors.UsageError
        An option does not fit the job, or its history.
    hindscan.errors.PlanRefused
        More draws than a plan may have slices for.
    hindscan.errors.NotFound
        A history is not declared.
    """
    from hindscan.jobs.parameters import validate
    from hindscan.sweeping import check_points

    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    faults: list[str] = []
    try:
        window = make_window(**{name: given.pop(name) for name in _WINDOW if name in given})
        given |= {name: getattr(window, name) for name in _WINDOW if name != "last"}
    except UsageError as fault:
        faults += cast(list[str], fault.details["faults"])
    for name in sorted(given.keys() & _WHOLE):
        try:
            given[name] = _whole(given[name])
        except TypeError:
            faults.append(f"{name} must be a whole number, found {given.pop(name)!r}")
    if not isinstance(given.get("stop", {}), Mapping):
        faults.append(f"stop must be like {{'price': {{'half_width': 0.01}}}}, found {given.pop('stop')!r}")
    points = tuple(given.pop("points", ()))
    swept = set().union(*points) if points else set()
    twice = sorted(swept & parameters.keys())
    if twice:
        raise ParameterError(
            f"Asking for job {spec.name}: {', '.join(twice)} is swept, so it has no value of its own. Leave one of the two out."
        )
    values = validate([p for p in spec.parameters if p.name not in swept], parameters, from_text=from_text)
    checked = check_points(spec, points, from_text=from_text) if points else ()
    request = RunRequest(job=spec.name, parameters=values, points=checked, **given)
    faults += _option_faults(spec, request)
    if faults:
        raise UsageError(f"Asking for job {spec.name}: " + "; ".join(faults) + ".", faults=faults)
    if spec.kind == "simulation":
        check_most(project, spec, request)
    for table, history in _histories(project, spec, request).items():
        history.refuse(_window_of(spec, request, table))
    return request


def check_most(project: Project, spec: JobSpec, request: RunRequest) -> None:
    """Refuse a number of draws that a simulation cannot have, or that no plan can hold; with a rule to stop, the most it may come to.

    Raises
    ------
    hindscan.errors.ParameterError
        Fewer than one, or not of whole units.
    hindscan.errors.PlanRefused
        More than a plan may have slices for.
    """
    given = (request.draws, None if request.stop is None else read_stop(request.stop).max_draws)
    asked = [draws for draws in given if draws is not None]
    for draws in asked:
        check_draws(spec, draws)
    most = min(asked) if asked else whole_draws(spec, spec.draws)
    refuse_draws_over(spec, most, project.compute.max_slices, points=max(1, len(request.points)))


def _whole(value: Any) -> int:
    """Take a whole number of whatever kind, numpy's too; True is none."""
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def _option_faults(spec: JobSpec, request: RunRequest) -> list[str]:
    faults = []
    if spec.table is None:
        faults += [
            f"{name} choose what is read of a topic, and {spec.name} reads no history slice by slice"
            for name in ("offsets", "partitions", "keys")
            if getattr(request, name)
        ]
    if spec.kind != "simulation":
        faults += [
            f"{name} is for simulations, and {spec.name} scans a history"
            for name in ("seed", "draws", "stop")
            if getattr(request, name) is not None
        ]
    allowed = request.allow_failed
    if allowed is not None and not is_allowance(allowed):
        faults.append(f"allow_failed must be a share below 1 (0.01) or a whole number of slices, found {allowed}")
    elif allowed and (spec.kind == "simulation" or spec.order is not None):
        faults.append(
            f"allow_failed is for scans whose slices know nothing of each other, and {spec.name} is no such job"
        )
    if request.points and (spec.by or request.anew or request.allow_failed):
        faults.append(
            "a sweep is one table of whole results: it takes no job that is split by key, no slices anew and no allow_failed"
        )
    if request.draws is not None and request.draws < 1:
        faults.append(f"draws must be at least 1, found {request.draws}")
    if request.seed is not None and request.seed < 0:
        faults.append(f"seed must be at least 0, found {request.seed}")
    if abs(request.priority) > _GREATEST:
        faults.append(f"priority must be {-_GREATEST} to {_GREATEST}, found {request.priority}")
    faults += [f"a slice that is computed anew has a position from 0 on, found {n}" for n in request.anew if n < 0]
    if request.stop is not None and spec.kind == "simulation":
        faults += _stop_faults(spec, request.stop)
    if request.workers is not None and request.workers < 1:
        faults.append(f"workers must be at least 1, found {request.workers}")
    known = {name for name in (*spec.histories, *spec.histories.values()) if name}
    faults += [
        f"history {name!r} is none of the job's; it has {', '.join(sorted(known))}"
        for name in request.histories
        if name not in known
    ]
    return faults


def _stop_faults(spec: JobSpec, stop: Mapping[str, object]) -> list[str]:
    if spec.combine != "statistics":
        return [f"stop is for simulations with statistics, and {spec.name} combines on its own"]
    try:
        read_stop(stop, spec.statistics, spec.quantities)
    except UsageError as fault:
        return [str(one) for one in cast(list[str], fault.details["faults"])]
    return []


def pin(project: Project, spec: JobSpec, request: RunRequest) -> Snapshot:
    """Resolve every bound of every history the job reads, once. Reads metadata only.

    Raises
    ------
    hindscan.errors.HistoryError
        A source is missing or not what it was.
    """
    return Snapshot(
        pins={
            table: history.pin(_window_of(spec, request, table))
            for table, history in _histories(project, spec, request).items()
        },
        window=_window_of(spec, request, spec.table),
        pinned_at=times.now(),
    )


def _window_of(spec: JobSpec, request: RunRequest, table: str | None) -> Window:
    """Give what is read of a table: of the job's own what was asked for, of any other all of it as of T."""
    position = msgspec.convert(request.position, Position) if request.position is not None else None
    if table != spec.table:
        return Window(as_of=request.as_of, position=position)
    return Window(position=position, **{name: getattr(request, name) for name in _WINDOW if name != "last"})


def prepare(
    project: Project,
    spec: JobSpec,
    request: RunRequest,
    snapshot: Snapshot,
    existing: Collection[str] | Callable[[str], bool],
    *,
    proofs: Callable[[str], Proof | None] | None = None,
    paces: Callable[[], Mapping[str, Pace]] | None = None,
    workers: int,
) -> Prepared:
    """Plan a pinned request; refuse it if it is over a limit.

    Parameters
    ----------
    existing : collection of str or callable
        Keys of the partials that are there.
    proofs : callable, optional
        Gives the proof of one that is.
    paces : callable, optional
        Gives what slices of each step took in earlier runs; asked only where something is to be computed.
    workers : int
        For the number of tasks.

    Raises
    ------
    hindscan.errors.PlanRefused
        Over a limit, with the figures.
    hindscan.errors.JobDefinitionError
        Several slices and no way to combine them.
    """
    plan, readers = make(project, spec, request, snapshot, existing, proofs=proofs)
    known = paces() if paces is not None and plan.reused_count < plan.slice_count else {}
    cost = cost_of(plan, workers=workers, slices_per_task=project.compute.slices_per_task, paces=known)
    refuse_over(plan, cost, limits_of(project))
    return Prepared(plan=plan, readers=readers, cost=cost, paces=known)


def make(
    project: Project,
    spec: JobSpec,
    request: RunRequest,
    snapshot: Snapshot,
    existing: Collection[str] | Callable[[str], bool],
    *,
    proofs: Callable[[str], Proof | None] | None = None,
) -> tuple[Plan, dict[str, Reader]]:
    """Make the plan of a pinned request, whatever it costs, and the readers by the name of the step's table."""
    histories = _histories(project, spec, request)
    readers = {table: history.reader(snapshot.pins[table]) for table, history in histories.items()}
    identities = {table: reader.identity() for table, reader in readers.items()}
    seed = request.seed
    if request.points and spec.kind == "simulation" and seed is None:
        # One for all points: it leaves the swept parameters out.
        seed = default_seed(spec, request.parameters, snapshot, identities)

    def plan_of(parameters: Mapping[str, object], draws: int | None) -> Plan:
        return make_plan(
            spec,
            parameters,
            snapshot,
            identities=identities,
            slice_rows={table: project.slice_rows(history.name) for table, history in histories.items()},
            existing=existing,
            proofs=proofs,
            seed=seed,
            draws=draws,
            fresh=request.fresh,
            anew=request.anew,
        )

    draws = request.draws if request.settled is None else request.settled.draws
    if request.points:
        stopped = () if request.settled is None else request.settled.points
        each: list[int | None] = [one.draws for one in stopped]
        each = each or [draws] * len(request.points)
        return make_sweep(request.parameters, request.points, each, plan_of), readers
    return plan_of(request.parameters, draws), readers


def tolerance_of(project: Project, spec: JobSpec, request: RunRequest) -> float:
    """Give the slices of a run that may fail: what was asked for, else the job's, else the project's; of no use where slices need each other."""
    if spec.kind == "simulation" or spec.order is not None or request.points:
        return 0
    given = (request.allow_failed, spec.allow_failed)
    return next((allowed for allowed in given if allowed is not None), project.compute.allow_failed)


def limits_of(project: Project) -> Limits:
    """Take the limits of plans from the settings."""
    compute = project.compute
    return Limits(
        max_bytes=compute.max_bytes,
        max_slices=compute.max_slices,
        max_seconds=compute.max_seconds,
        max_table_bytes=compute.max_table_bytes,
    )


def _histories(project: Project, spec: JobSpec, request: RunRequest) -> dict[str, History]:
    """Find the history of each of the job's tables, those of the jobs it is joined with included, with the replacements of the request."""
    declared = {table: name for table, name in spec.histories.items() if name is not None}
    if spec.table is not None and spec.history is None and spec.table not in request.histories:
        raise ParameterError(f"Asking for job {spec.name}: it must be told which history to read; it declares none.")
    return {
        table: project.history(request.histories.get(table, request.histories.get(name, name)))
        for table, name in declared.items()
    }
