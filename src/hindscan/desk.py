"""The desk: everything the HTTP edge can ask, answered from the store.

Implements `web.desk.Desk`. Events go through the `Intake` and are durable before the answer (promise 4); submissions are read (`asking`) and checked against the job
before a run is opened; everything else is a look at the store, the declared project or a published file. Results are found by the store's record of the run, never by a
path from a request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hindscan.asking import AuditAsked, PastAsked, ReplayAsked, again_values, option_values, read_past, swept_points
from hindscan.auditing import Audit, Audited
from hindscan.bodies import Bodies
from hindscan.errands import Errand, Errands
from hindscan.errors import NotFound
from hindscan.events.received import received_over_http
from hindscan.lag import Lags
from hindscan.planning import ask
from hindscan.redriving import redrive
from hindscan.replaying import Replay, trigger_of
from hindscan.rerunning import rerun
from hindscan.runs import inbox, log, opening, recall, register, results
from hindscan.runs.figures import Counter, Figures
from hindscan.runs.opening import new_run_id
from hindscan.runs.partials import Partials
from hindscan.runs.waiting import why_waiting
from hindscan.words import facts_document, job_document, run_document, state_of

if TYPE_CHECKING:
    from hindscan.config import Project
    from hindscan.events.event import Event
    from hindscan.events.received import Received
    from hindscan.intake import Intake
    from hindscan.jobs.job import JobSpec
    from hindscan.runs.run import Run
    from hindscan.runs.store import Store
    from hindscan.workshop import Workshop

__all__ = ["StoreDesk"]


class StoreDesk:
    """Answers from the store; safe to call from several threads.

    Parameters
    ----------
    project : Project
        As loaded.
    store : Store
        Open.
    specs : mapping
        The declared jobs; their code is in the store.
    intake : Intake
        Where events go.
    workshop : Workshop
        Open; what goes through the past works in it.
    notify : callable
        Called when a run was opened.
    faults, notes : mapping
        What keeps the dispatcher from being ready, and what people should know all the same, kept up to date by its owner.
    """

    def __init__(
        self,
        project: Project,
        store: Store,
        specs: Mapping[str, JobSpec],
        intake: Intake,
        *,
        workshop: Workshop,
        notify: Callable[[], None],
        faults: Mapping[str, str],
        notes: Mapping[str, str],
    ) -> None:
        self._project, self._store, self._specs, self._intake = project, store, specs, intake
        self._notify, self._faults, self._notes = notify, faults, notes
        self._workshop, self._errands = workshop, Errands(store)
        self._combining = threading.Lock()
        self._counter, self._lags = Counter(store), Lags(project, store)
        self._bodies = Bodies(project)

    def take_up(self, project: Project, specs: Mapping[str, JobSpec], intake: Intake) -> None:
        """Answer from another edition from now on."""
        self._project, self._specs, self._intake = project, specs, intake
        self._lags = Lags(project, self._store)
        self._bodies = Bodies(project)

    def close(self) -> None:
        """Leave undone what takes long, and say so."""
        self._errands.close()

    def receive(self, events: Sequence[Event]) -> dict[str, list[str]]:
        """Record events and what they start."""
        return self._take([received_over_http(event) for event in events])

    def _take(self, received: list[Received]) -> dict[str, list[str]]:
        recorded = self._intake.take(received)
        self._notify()
        return {
            "runs": [run for one in recorded for run in one.opened.values()],
            "existing": [run for one in recorded for run in one.existing.values()],
            "quarantined": [reason for one in recorded for reason in one.quarantined.values()],
        }

    def receive_body(self, trigger: str, body: bytes) -> dict[str, list[str]]:
        """Record what a body that is no CloudEvent starts, as the trigger declares it."""
        return self._take(self._bodies.received(trigger, body))

    def redrive(self, event: str | None, source: str | None, trigger: str | None) -> list[dict[str, Any]]:
        """Decide once more about one event that is held, or about all."""
        redriven = redrive(self._project, self._store, self._intake, event, source=source, trigger=trigger)
        self._notify()
        return [_plain(one) for one in redriven]

    def begin_replay(self, trigger: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Begin to put past events through a trigger again."""
        asked = read_past(f"Replaying trigger {trigger}", body, ReplayAsked)
        replay = Replay(
            self._workshop,
            trigger,
            since=asked.since_micros,
            until=asked.until_micros,
            name=asked.name,
            repin=asked.repin,
            from_topic=asked.from_topic,
            intake=self._intake,
        )
        return self._begun("replay", trigger, replay.name, asked, lambda: _plain(replay.run(dry_run=asked.dry_run)))

    def replay(self, trigger: str, name: str) -> dict[str, Any]:
        """Describe a replay: what its decisions are by now, and how far it is if it was begun here."""
        trigger_of(self._project, trigger)
        decided = recall.outcomes(self._store, f"{trigger}@{name}")
        errand = self._errands.look(_errand_name("replay", trigger, name))
        if errand is None and not decided:
            raise NotFound(
                f"Looking up replay {name!r} of trigger {trigger}: it must have decided about an event, or have been begun; it has not.",
                replay=name,
            )
        return _errand_document(errand, trigger=trigger, replay=name) | {"decided": decided}

    def begin_audit(self, trigger: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Begin to hold what a trigger's sources have against the store."""
        asked = read_past(f"Auditing trigger {trigger}", body, AuditAsked)
        audit = Audit(
            self._workshop,
            trigger,
            since=asked.since_micros,
            until=asked.until_micros,
            repair=asked.repair,
            intake=self._intake,
        )
        return self._begun("audit", trigger, new_run_id(self._store.now()), asked, lambda: _audited(audit.run()))

    def _begun(
        self, kind: str, trigger: str, name: str, asked: PastAsked, work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        def notifying() -> dict[str, Any]:
            done = work()
            self._notify()
            return done

        errand = self._errands.begin(_errand_name(kind, trigger, name), _plain(asked), notifying)
        return _errand_document(errand, **{"trigger": trigger, kind: name})

    def audit(self, trigger: str, name: str) -> dict[str, Any]:
        """Describe an audit, and what it found once it is done."""
        errand = self._errands.look(_errand_name("audit", trigger, name))
        if errand is None:
            raise NotFound(
                f"Looking up audit {name!r} of trigger {trigger}: it must have been begun over HTTP, and be among the last; it is not. Begin another.",
                audit=name,
            )
        return _errand_document(errand, trigger=trigger, audit=name)

    def jobs(self) -> list[dict[str, Any]]:
        """Describe the declared jobs."""
        return [job_document(spec) for _, spec in sorted(self._specs.items())]

    def job(self, name: str) -> dict[str, Any]:
        """Describe one job."""
        return job_document(self._spec(name))

    def submit(
        self, name: str, body: Mapping[str, Any], idempotency_key: str | None, requested_by: str
    ) -> tuple[dict[str, Any], bool]:
        """Open a run of a job."""
        spec = self._spec(name)
        points, rest = swept_points(body)
        parameters, options = option_values(rest, "sweep")
        request = ask(self._project, spec, parameters, points=points, **options)
        began = self._store.now()
        run = opening.open_run(
            self._store,
            request,
            code=spec.code,
            requested_by=requested_by,
            idempotency_key=idempotency_key,
            # What was sent, not what it means now: of `last` that is another time at every call.
            asked={"job": name, "body": body},
        )
        self._notify()
        return run_document(run), run.created_at >= began

    def runs(self, job: str | None, state: str | None, limit: int) -> list[dict[str, Any]]:
        """List runs."""
        found = register.list_runs(self._store, job=job, state=state_of(state) if state else None, limit=limit)
        return [self._document(run) for run in found]

    def run(self, run: str) -> dict[str, Any]:
        """Describe one run."""
        return self._document(register.get_run(self._store, run))

    def cancel(self, run: str) -> dict[str, Any]:
        """Ask for a run to be stopped."""
        return run_document(register.request_cancel(self._store, run))

    def retry(self, run: str) -> dict[str, Any]:
        """Open a new attempt."""
        retried = register.retry(self._store, run)
        self._notify()
        return run_document(retried)

    def rerun(self, run: str, body: Mapping[str, Any], requested_by: str) -> dict[str, Any]:
        """Open a new run on the snapshot of this one, or on the latest data, with the same or edited parameters."""
        again, body = again_values(body)
        parameters, options = option_values(body, *again)
        opened = rerun(
            self._project, self._store, run, parameters=parameters, requested_by=requested_by, **again, **options
        )
        self._notify()
        return run_document(opened)

    def facts(self, run: str, after: int) -> list[dict[str, Any]]:
        """List what happened to a run."""
        return facts_document(log.facts(self._store, run, after))

    def result(self, run: str) -> Path:
        """Find the published table of a run."""
        return self._folder(run) / "result.parquet"

    def partial(self, run: str) -> tuple[Path, dict[str, Any]]:
        """Combine what a run has done so far, in a child process: a file that the caller deletes, and the coverage."""
        from hindscan.anytime import partial_result, save_partial

        # One at a time: each takes a process of its own, and they may be asked for by many.
        with self._combining:
            found = partial_result(self._project, self._store, Partials(self._project.artefacts), run)
        return save_partial(found), msgspec.to_builtins(found.coverage) | {"incomplete": found.incomplete}

    def manifest(self, run: str) -> dict[str, Any]:
        """Give the manifest of a run's result."""
        return _plain(results.read_manifest(self._folder(run)))

    def histories(self) -> list[dict[str, Any]]:
        """Describe the declared histories."""
        return [{"history": name, **table} for name, table in sorted(self._project.history_tables.items())]

    def triggers(self) -> list[dict[str, Any]]:
        """Describe the declared triggers."""
        return [{"trigger": name, **table} for name, table in sorted(self._project.trigger_tables.items())]

    def events(self, quarantined: bool, limit: int) -> list[dict[str, Any]]:
        """List received events with their decisions."""
        return inbox.list_events(self._store, quarantined=quarantined, limit=limit)

    def figures(self) -> Figures:
        """Count events, runs and slices, and tell how far triggers are behind."""
        lags, clusters = self._lags.look()
        return msgspec.structs.replace(self._counter.read(), lags=lags, clusters=clusters)

    def faults(self) -> dict[str, str]:
        """Tell what keeps the dispatcher from being ready."""
        return dict(self._faults)

    def notes(self) -> dict[str, str]:
        """Tell what people should know though the dispatcher is ready: a change that is not in force."""
        return dict(self._notes)

    def _document(self, run: Run) -> dict[str, Any]:
        return run_document(run, why_waiting(self._store, run))

    def _spec(self, name: str) -> JobSpec:
        try:
            return self._specs[name]
        except KeyError:
            known = ", ".join(sorted(self._specs)) or "none"
            raise NotFound(
                f"Looking up job {name!r}: it must be declared; it is not. There are: {known}.", job=name
            ) from None

    def _folder(self, run: str) -> Path:
        found = register.get_run(self._store, run)
        register.refuse_forgotten(found, "Looking up the result of")
        if found.result is None:
            raise NotFound(
                f"Looking up the result of run {run}: it must have succeeded; it is {found.state}. {found.message or ''}".rstrip(),
                run=run,
                state=found.state,
            )
        return self._project.root / found.result


def _plain(value: object) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(value)
    return built


def _audited(done: Audited) -> dict[str, Any]:
    return _plain(done) | {"sound": done.sound}


def _errand_name(kind: str, trigger: str, name: str) -> str:
    return f"{kind} {trigger}@{name}"


def _errand_document(errand: Errand | None, **what: str) -> dict[str, Any]:
    """Describe an errand; its outcome's members stand beside its own."""
    if errand is None:
        return {**what, "state": None}
    told = {
        name: value for name, value in _plain(errand).items() if name not in ("name", "outcome") and value is not None
    }
    return {**what, **(errand.outcome or {}), **told}
