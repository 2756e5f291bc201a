"""The dispatcher: what `hindscan serve` is, where all folders meet.

Keeps promises 4, 5, 6 and 12 together. Listeners hand what they receive to the `Intake`, which records it; slots claim pending runs and carry them out, each with warm
workers of its own; a janitor gives back runs whose owner died. State is in the store alone: two dispatchers on one store share the runs, and one that is
killed anywhere loses nothing. No user code runs in this process: jobs are loaded in a child and computed in workers. A changed project file or job is taken up
whole or refused; listeners are begun anew only where what they listen to has changed, and go on where the store says.

The HTTP edge sees none of this but a `desk.StoreDesk`.

::

    Kafka, HTTP -> Intake -> store -> slots -> runner -> result
                                     `-> senders -> topics, webhooks
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from hindscan import logs
from hindscan.desk import StoreDesk
from hindscan.errors import Fenced, HindscanError, ServiceUnavailable
from hindscan.intake import Intake, limits_of_runs
from hindscan.outgoing import Sender
from hindscan.reloading import Edition, Watch
from hindscan.runner import LEASE_SECONDS, carry_out
from hindscan.runs import codes, leases, outbox, waiting
from hindscan.runs.retention import KeptRecords, Retention

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hindscan.config import Project
    from hindscan.events.kafka import KafkaListener
    from hindscan.events.received import Received, Unread
    from hindscan.events.watcher import Watcher
    from hindscan.workshop import Workshop

__all__ = ["Dispatcher"]

#: How long an idle slot waits before it looks for a run again, if nobody wakes it.
IDLE_SECONDS: Final = 0.25
#: How often runs of dead owners are looked for.
JANITOR_SECONDS: Final = 1.0
#: How often it is looked for what was sent long ago.
PURGE_SECONDS: Final = 60.0
#: How often it is looked whether files of the project have changed.
RELOAD_SECONDS: Final = 0.5

_logger = logging.getLogger("hindscan.dispatcher")


class Dispatcher:
    """A running dispatcher; a context manager. Leaving it stops listeners and slots; unfinished runs go back to wait.

    Parameters
    ----------
    workshop : Workshop
        Open, with `jobs_in_child`.

    Raises
    ------
    hindscan.errors.NotFound
        A trigger names a job that there is not.
    hindscan.errors.BrokerUnavailable
        A cluster with triggers cannot be reached when a new trigger's start must be resolved.
    """

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._store = workshop.store
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._edition = Edition(project=workshop.project, jobs=workshop.registered.jobs)
        self._intake = self._intake_of(self._edition)
        self._shutdown = threading.Event()
        self._wake = threading.Condition()
        #: How often there was something new to look for.
        self._news = 0
        self._threads: list[threading.Thread] = []
        self._faults: dict[str, str] = {}
        self._notes: dict[str, str] = {}
        self._listeners: list[KafkaListener | Watcher] = []
        #: Ends those who send the events of runs; what is not sent then stays in the outbox.
        self._unsent = threading.Event()
        self.desk = StoreDesk(
            self._project,
            self._store,
            self._edition.specs,
            self._intake,
            workshop=workshop,
            notify=self._notify,
            faults=self._faults,
            notes=self._notes,
        )

    @property
    def _project(self) -> Project:
        return self._edition.project

    # --- Life -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._limit(self._edition)
        self._open_outlets()
        self._listen()
        for slot in range(self._project.compute.runs):
            self._begin(self._slot, f"slot-{slot}")
        self._begin(self._warm, "warm")
        self._begin(self._janitor, "janitor")
        if self._project.serve.reload:
            self._begin(self._reload, "reload")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shutdown.set()
        self._unsent.set()
        with self._wake:
            self._news += 1
            self._wake.notify_all()
        self.desk.close()
        for thread in self._threads:
            thread.join()
        self._silence()

    def _begin(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _slot(self) -> None:
        """Claim and carry out runs until the shutdown."""
        name = f"{self._owner}:{threading.current_thread().name}"
        while not self._shutdown.is_set():
            try:
                seen = self._news
                held = [trigger.name for trigger in self._project.triggers.values() if trigger.paused]
                claimed = leases.claim(self._store, name, LEASE_SECONDS, held=held)
                if claimed is None:
                    with self._wake:
                        # What came while the store was asked is not slept over.
                        self._wake.wait_for(partial(self._is_news_since, seen), IDLE_SECONDS)
                    continue
                about = logs.about_run(claimed.run)
                _logger.info("run %s of %s begins", claimed.run.id, claimed.run.job, extra=about)
                carry_out(self._workshop, claimed, observe=logs.observer(claimed.run), shutdown=self._shutdown)
                self._faults.pop("store", None)
            except Fenced as error:
                _logger.warning("%s", error)
            except ServiceUnavailable as error:
                self._faults["store"] = str(error)
                self._shutdown.wait(1.0)

    def _warm(self) -> None:
        """Start the workers of small runs before the first event comes."""
        for _ in range(self._project.compute.runs):
            self._workshop.warm("threads", self._project.compute.workers)

    def _janitor(self) -> None:
        """Give back runs whose owner died; delete bodies of events, kept records, and what was sent, that are too old."""
        retention = Retention(self._store, self._project.event_retention)
        records = KeptRecords(self._store, self._project.materialised, self._project.record_retention)
        purge_at = 0.0
        while not self._shutdown.wait(JANITOR_SECONDS):
            self._watch_listeners()
            try:
                for run in leases.release_expired(self._store):
                    _logger.warning("run %s lost its owner and is %s", run.id, run.state, extra=logs.about_run(run))
                    self._notify()
                if deleted := retention.enforce():
                    _logger.info("deleted the bodies of %d events by event_retention", deleted)
                if (swept := records.enforce()).files:
                    _logger.info("removed %d files of kept records, %d bytes, by record_retention", *swept)
                if time.monotonic() >= purge_at:
                    purge_at = time.monotonic() + PURGE_SECONDS
                    outbox.purge(self._store, self._store.now() - self._project.outbox_retention)
            except ServiceUnavailable as error:
                self._faults["store"] = str(error)

    def _is_news_since(self, seen: int) -> bool:
        return self._news != seen

    def _notify(self) -> None:
        with self._wake:
            self._news += 1
            self._wake.notify()

    def _listen(self) -> None:
        """Enter one listener for each cluster with triggers; runs are worked on only while events are taken."""
        from hindscan.listening import listeners
        from hindscan.watching import watchers

        all_of_them: list[KafkaListener | Watcher] = [
            *listeners(self._project, self._store, self._take),
            *watchers(self._project, self._store, self._take),
        ]
        for listener in all_of_them:
            listener.__enter__()
            self._listeners.append(listener)

    def _take(
        self, batch: Sequence[Received | Unread], starts: Mapping[tuple[str, str, int], int] | None = None
    ) -> None:
        self._intake.take(batch, starts)
        self._notify()

    def _open_outlets(self) -> None:
        """Have moves of runs announced, from before the first event on, and send what is announced."""
        outlets = self._project.outlets
        outbox.declare(self._store, {outlet.name: outlet.source for outlet in outlets.values()})
        self._unsent = threading.Event()
        for outlet in outlets.values():
            sender = Sender(self._project, self._store, outlet, owner=self._owner)
            self._begin(partial(sender.run, self._unsent), f"send-{outlet.name}")

    def _silence(self) -> None:
        """Leave the listeners; what they have not recorded is heard again by those that come."""
        for listener in self._listeners:
            listener.__exit__(None, None, None)
        self._listeners.clear()

    def _watch_listeners(self) -> None:
        for listener in tuple(self._listeners):
            if listener.error is not None:
                self._faults[listener.name] = str(listener.error)
            else:
                self._faults.pop(listener.name, None)

    # --- Change -----------------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Take up changes of the project's files."""
        watch = Watch(self._edition)
        change: Edition | None = None
        while not self._shutdown.wait(RELOAD_SECONDS):
            try:
                change = watch.look() or change
                if change is not None:
                    self._take_up(change)
                    watch.accept(change)
                    change = None
            except ServiceUnavailable as error:
                self._refuse(error)  # and try again
            except HindscanError as error:
                self._refuse(error)
                change = None

    def _refuse(self, error: HindscanError) -> None:
        said = f"the change is not in force, what was before is: {error}"
        if self._notes.get("reload") != said:
            _logger.error("%s", said)
        self._notes["reload"] = said

    def _take_up(self, change: Edition) -> None:
        """Put an edition in force, or leave everything as it is and raise."""
        intake = self._intake_of(change)
        before, decided = self._edition, self._intake
        deaf = _heard(change.project) != _heard(before.project)
        if deaf:
            # First: a trigger that takes over from another begins where that one stands in the end.
            self._silence()
        # Before anything is heard: what a new trigger hears must not be decided without it.
        self._edition, self._intake = change, intake
        try:
            if deaf:
                self._listen()
        except BaseException:
            self._silence()
            self._edition, self._intake = before, decided
            self._listen()
            raise
        self._limit(change)
        if change.project.outlets != before.project.outlets:
            self._unsent.set()
            self._open_outlets()
        self._workshop.take_up(change.project)
        self.desk.take_up(change.project, change.specs, intake)
        self._say(before.project, change)
        self._notify()

    def _say(self, before: Project, change: Edition) -> None:
        """Say what is in force now, and what becomes of triggers that are gone."""
        _logger.info("changes are in force: %d jobs, %d triggers", len(change.jobs), len(change.project.triggers))
        gone = set(before.triggers) - set(change.project.triggers)
        told = list(change.waiting)
        told += [
            f"trigger {name} is gone: its recorded runs are carried out still, events that come now are not its own any more, "
            "and declared again it goes on where it stood in its topics"
            for name in sorted(gone - {trigger.was for trigger in change.project.triggers.values()})
        ]
        for text in told:
            _logger.warning("%s", text)
        self._notes.pop("reload", None)
        if told:
            self._notes["reload"] = "; ".join(told)

    def _limit(self, edition: Edition) -> None:
        waiting.set_limits(self._store, limits_of_runs(edition.project, edition.specs))

    def _intake_of(self, edition: Edition) -> Intake:
        intake = Intake(edition.project, self._store, edition.specs)
        for spec, code in edition.jobs.values():
            codes.save_code(self._store, spec, code)
        return intake


def _heard(project: Project) -> object:
    """Give all that listeners depend on; equal for two projects whose listeners are the same."""
    return project.clusters, project.registries, project.object_stores, {
        name: (
            trigger.sources, trigger.start, trigger.was, trigger.wrapping, trigger.time_zone, trigger.missed, trigger.every,
        )
        for name, trigger in project.triggers.items()
    }  # fmt: skip
