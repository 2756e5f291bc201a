"""The dispatcher: what `hindscan serve` is, where all folders meet.

Keeps promises 4, 5, 6 and 12 together. Listeners hand what they receive to the `Intake`, which records it; slots claim pending runs and carry them out, each with warm
workers of its own; a janitor gives back runs whose owner died. State is in the store alone: two dispatchers on one store share the runs, and one that is
killed anywhere loses nothing. No user code runs in this process: jobs are loaded in a child and computed in workers.

The HTTP edge sees none of this but a `desk.StoreDesk`.

::

    Kafka, HTTP, schedules, files -> Intake -> store -> slots -> runner -> result
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from hindscan.desk import StoreDesk
from hindscan.errors import Fenced, ServiceUnavailable
from hindscan.intake import Intake
from hindscan.runner import LEASE_SECONDS, carry_out
from hindscan.runs import codes, leases

if TYPE_CHECKING:
    from hindscan.events.kafka import KafkaListener
    from hindscan.events.received import Received
    from hindscan.events.watcher import Watcher
    from hindscan.workshop import Workshop

__all__ = ["Dispatcher"]

#: How long an idle slot waits before it looks for a run again, if nobody wakes it.
IDLE_SECONDS: Final = 0.25
#: How often runs of dead owners are looked for.
JANITOR_SECONDS: Final = 1.0

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
        self._project = workshop.project
        self._store = workshop.store
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._jobs = dict(workshop.registered.jobs)
        for spec, code in self._jobs.values():
            codes.save_code(self._store, spec, code)
        specs = {name: spec for name, (spec, _) in self._jobs.items()}
        self._intake = Intake(self._project, self._store, specs)
        self._shutdown = threading.Event()
        self._wake = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._faults: dict[str, str] = {}
        self._listeners: list[KafkaListener | Watcher] = []
        self.desk = StoreDesk(self._project, self._store, specs, self._intake, notify=self._notify, faults=self._faults)

    # --- Life -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._listen()
        for slot in range(self._project.compute.runs):
            self._begin(self._slot, f"slot-{slot}")
        self._begin(self._warm, "warm")
        self._begin(self._janitor, "janitor")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shutdown.set()
        with self._wake:
            self._wake.notify_all()
        for listener in self._listeners:
            listener.__exit__(None, None, None)
        for thread in self._threads:
            thread.join()

    def _begin(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _slot(self) -> None:
        """Claim and carry out runs until the shutdown."""
        name = f"{self._owner}:{threading.current_thread().name}"
        while not self._shutdown.is_set():
            try:
                claimed = leases.claim(self._store, name, LEASE_SECONDS)
                if claimed is None:
                    with self._wake:
                        self._wake.wait(IDLE_SECONDS)
                    continue
                _logger.info("run %s of %s begins", claimed.run.id, claimed.run.job)
                run = carry_out(self._workshop, claimed, shutdown=self._shutdown)
                _logger.info("run %s is %s", run.id, run.state)
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
        """Give back runs whose owner died."""
        while not self._shutdown.wait(JANITOR_SECONDS):
            self._watch_listeners()
            try:
                for run in leases.release_expired(self._store):
                    _logger.warning("run %s lost its owner and is %s", run.id, run.state)
                    self._notify()
            except ServiceUnavailable as error:
                self._faults["store"] = str(error)

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify()

    def _listen(self) -> None:
        """Enter one listener for each cluster with triggers, one for schedules and one for each trigger of files; runs are worked on only while events are taken."""
        from hindscan.listening import listeners
        from hindscan.watching import watchers

        all_of_them: list[KafkaListener | Watcher] = [
            *listeners(self._project, self._store, self._intake),
            *watchers(self._project, self._store, self._take),
        ]
        for listener in all_of_them:
            listener.__enter__()
            self._listeners.append(listener)

    def _take(self, batch: Sequence[Received]) -> None:
        self._intake.take(batch)
        self._notify()

    def _watch_listeners(self) -> None:
        for listener in self._listeners:
            if listener.error is not None:
                self._faults[listener.name] = str(listener.error)
            else:
                self._faults.pop(listener.name, None)
