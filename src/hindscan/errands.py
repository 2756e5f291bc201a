"""Errands: long work that somebody asks for over HTTP and comes back to, one after another.

Replays and audits go through all of a past, which takes longer than a request may. Here they are done in a thread of `serve`, and looked at under their name. What
they do is in the store, transaction by transaction, and doing it again does nothing twice (promise 4); so an errand needs no memory beyond its process: who finds
it gone asks again.

::

    POST -> Errands.begin -> queue -> thread -> Errand(running -> done | failed) <- look <- GET
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from hindscan.errors import Conflict, HindscanError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Errand", "Errands"]

#: How many are remembered after their end.
KEPT: Final = 100
#: How many may wait: each holds little, but whoever asks for more will not come back for all.
WAITING_MOST: Final = 100

_logger = logging.getLogger("hindscan.errands")


class Errand(msgspec.Struct, kw_only=True):
    """One piece of work."""

    #: What it is called: "replay scan again".
    name: str
    #: What was asked for, JSON-able.
    asked: dict[str, Any]
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    #: What came of it, once it is done.
    outcome: dict[str, Any] | None = None
    #: Name of the class in `hindscan.errors`, and its text, once it has failed.
    error: str | None = None
    message: str | None = None


class Errands:
    """Does what it is given in a thread of its own, which begins with the first; safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Errand] = OrderedDict()
        self._queue: queue.SimpleQueue[tuple[Errand, Callable[[], Mapping[str, Any]]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, name: str, asked: dict[str, Any], work: Callable[[], Mapping[str, Any]]) -> Errand:
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
        with self._lock:
            known = self._known.get(name)
            under_way = [one for one in self._known.values() if one.state in ("waiting", "running")]
            if known is not None and known in under_way:
                if known.asked == asked:
                    return known
                raise Conflict(f"Beginning {name}: one of that name is under way with other settings. Wait for its end, or give another name.")  # fmt: skip
            if len(under_way) >= WAITING_MOST:
                raise Conflict(f"Beginning {name}: {len(under_way)} others are under way, and no more may wait. Come back when some are done.")  # fmt: skip
            errand = Errand(name=name, asked=asked)
            self._known[name] = errand
            self._known.move_to_end(name)
            for old in [key for key, one in self._known.items() if one.state in ("done", "failed")][:-KEPT]:
                del self._known[old]
            self._queue.put((errand, work))
            if self._thread is None:
                # Whatever it is at when the process ends is done again by whoever asks again.
                self._thread = threading.Thread(target=self._run, name="errands", daemon=True)
                self._thread.start()
            return errand

    def look(self, name: str) -> Errand | None:
        """Give what is known of an errand; None: nothing, in this process."""
        with self._lock:
            return self._known.get(name)

    def _run(self) -> None:
        while True:
            errand, work = self._queue.get()
            errand.state = "running"
            try:
                errand.outcome = dict(work())
            except HindscanError as error:
                self._failed(errand, type(error).__name__, str(error))
            except Exception:
                # It has no other way out of the thread; whoever asks must hear of it.
                _logger.exception("%s: an internal error", errand.name)
                self._failed(errand, HindscanError.__name__, "An internal error; the log has it.")
            else:
                errand.state = "done"

    @staticmethod
    def _failed(errand: Errand, error: str, message: str) -> None:
        errand.error, errand.message = error, message
        errand.state = "failed"
