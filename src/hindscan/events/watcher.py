"""A watcher: a thread that looks again and again, for sources that nobody sends from: clocks and folders (promise 4).

What a look finds is recorded before it ends, so that one that is ended anywhere is simply done again by the next one, in this process or another. An error ends no
watcher: it is shown until a look succeeds again, which is tried at growing distances.

::

    Watcher -> look -> Received, ... -> record;  seconds until the next look
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final, Self

from hindscan.errors import HindscanError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["Watcher"]

_FIRST_RETRY_SECONDS: Final = 0.2
_LAST_RETRY_SECONDS: Final = 10.0

_LOG = logging.getLogger("hindscan.events.watcher")


class Watcher:
    """Looks in a thread of its own, while entered.

    Parameters
    ----------
    name : str
        What it is called where faults are told, such as ``files scan_new``.
    look : Callable[[], float]
        Looks once, records what there is, and gives the seconds until it is to look again.
    """

    def __init__(self, name: str, look: Callable[[], float]) -> None:
        #: What it is called where faults are told.
        self.name = name
        self._look = look
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        #: What the last look failed with; None after one that succeeded.
        self.error: HindscanError | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name=f"watch-{self.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        retry_seconds = _FIRST_RETRY_SECONDS
        wait_seconds = 0.0
        while not self._stopping.wait(wait_seconds):
            try:
                wait_seconds = self._look()
            except HindscanError as error:
                self.error = error
                wait_seconds = retry_seconds
                _LOG.warning("%s: looking again in %.1f s: %s", self.name, wait_seconds, error)
            except Exception as error:  # noqa: BLE001 - whoever asks must hear of it, and it has no other way out of the thread
                _LOG.exception("%s", self.name)
                self.error = HindscanError(
                    f"While watching {self.name}: a look must raise nothing but errors of hindscan; it raised {type(error).__name__}: {error}. "
                    "This is a fault of hindscan: please report it with the log."
                )
                wait_seconds = retry_seconds
            else:
                self.error = None
                retry_seconds = _FIRST_RETRY_SECONDS
                continue
            retry_seconds = min(2 * retry_seconds, _LAST_RETRY_SECONDS)
