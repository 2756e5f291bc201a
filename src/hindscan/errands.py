"""Errands: long work that somebody asks for over HTTP and comes back to, one after another.

Replays and audits go through all of a past, which takes longer than a request may. Here they are done in a thread of `serve`, and looked at under their name. What
they do is in the store, transaction by transaction, and doing it again does nothing twice (promise 4). The store remembers the errands, too (`runs.errand`): one whose
server was stopped or died ends as failed, and says so to whoever comes back.

::

    POST -> Errands.begin -> store, queue -> thread -> store (running -> done | failed) <- look <- GET
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from hindscan.errors import HindscanError, StoreUnavailable
from hindscan.runs import errand as errands
from hindscan.runs.errand import Errand

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hindscan.runs.store import Store

__all__ = ["Errand", "Errands"]

#: How long after its last sign of life a server counts as alive, and how often it gives one while it has errands.
LEASE_SECONDS: Final = 20.0
SIGN_SECONDS: Final = 4.0

_logger = logging.getLogger("hindscan.errands")

_Work = Callable[[], "Mapping[str, Any]"]


class Errands:
    """Does what it is given in a thread of its own, which begins with the first; safe to call from several threads.

    Parameters
    ----------
    store : Store
        Remembers them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._owner = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[Errand, _Work]] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._begun = False

    def begin(self, name: str, asked: dict[str, Any], work: _Work) -> Errand:
        """Have something done, unless the same is under way: then give that.

        Parameters
        ----------
        name : str
            Of one name there is one at a time.
        asked : dict
            What was asked for.
        work : callable
            Does it and gives what came of it, JSON-able.

        Raises
        ------
        hindscan.errors.Conflict
            Something else of that name is under way, or too much waits.
        """
        errand, new = errands.begin(self._store, name, asked, self._owner, LEASE_SECONDS)
        if new:
            self._queue.put((errand, work))
            with self._lock:
                if not self._begun:
                    self._begun = True
                    for each in (self._work, self._live):
                        threading.Thread(target=each, name="errands", daemon=True).start()
        return errand

    def look(self, name: str) -> Errand | None:
        """Give what is known of an errand, whichever server began it; None: nothing."""
        return errands.look(self._store, name)

    def close(self) -> None:
        """Leave undone what is under way, and say so in the store."""
        self._closed.set()
        if self._begun:
            with contextlib.suppress(StoreUnavailable):  # its lease runs out
                errands.abandon(self._store, self._owner)

    def _live(self) -> None:
        while not self._closed.wait(SIGN_SECONDS):
            try:
                errands.alive(self._store, self._owner, LEASE_SECONDS)
            except StoreUnavailable as error:
                _logger.warning("%s", error)

    def _work(self) -> None:
        while not self._closed.is_set():
            errand, work = self._queue.get()
            if self._written(partial(errands.run, self._store, errand.name, self._owner)):
                self._written(partial(errands.end, self._store, _done(errand, work), self._owner))

    def _written(self, write: Callable[[], bool]) -> bool:
        """Write a move of an errand, as soon as the store is there."""
        while not self._closed.is_set():
            try:
                return write()
            except StoreUnavailable as error:
                _logger.warning("%s", error)
                self._closed.wait(1.0)
        return False


def _done(errand: Errand, work: _Work) -> Errand:
    try:
        return replace(errand, state="done", outcome=dict(work()))
    except HindscanError as error:
        return replace(errand, state="failed", error=type(error).__name__, message=str(error))
    except Exception:
        # It has no other way out of the thread; whoever asks must hear of it.
        _logger.exception("%s: an internal error", errand.name)
        return replace(
            errand, state="failed", error=HindscanError.__name__, message="An internal error; the log has it."
        )
