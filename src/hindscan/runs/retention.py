"""Retention: bodies of events and records of topics are kept for a declared time, the identity of events for ever.

What is left of promise 4 when the data is gone: an event whose body was deleted still has its identity, digest and decisions, so it opens no second run when it comes
again. A redrive or a replay needs the body, and says so by name (`Gone`).

::

    dispatcher's janitor -> Retention.enforce -> expire -> events, quarantine without bodies
                         -> KeptRecords.enforce -> snapshots that count -> materialised.sweep
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hindscan.history.materialised import USED_SECONDS, Size, sweep
from hindscan.history.snapshot import KafkaPin
from hindscan.runs import schema
from hindscan.runs.snapshots import snapshots_in_use

if TYPE_CHECKING:
    from pathlib import Path

    from hindscan.runs.store import Store

__all__ = ["KeptRecords", "Retention", "expire"]

#: Rows of one transaction: others want to write too.
ROWS_AT_ONCE: Final = 1_000
#: How often it is looked for what is too old.
LOOK_SECONDS: Final = 30.0
SWEEP_SECONDS: Final = 600.0
#: An event may be recorded that long after it came in (the store was away) and still be found by the next look, in microseconds.
LATEST_MICROS: Final = 3_600_000_000


class Retention:
    """Deletes what is older than a declared time, when asked from time to time.

    Parameters
    ----------
    kept_micros : int or None
        How long bodies are kept; None: for ever.
    """

    def __init__(self, store: Store, kept_micros: int | None) -> None:
        self._store, self._kept = store, kept_micros
        self._looked: float | None = None
        self._done = 0

    def enforce(self) -> int:
        """Delete what is too old, if it is time to look; give how many bodies were deleted.

        Raises
        ------
        hindscan.errors.StoreUnavailable
            The store does not answer; it is looked again next time.
        """
        now = time.monotonic()
        if self._kept is None or (self._looked is not None and now - self._looked < LOOK_SECONDS):
            return 0
        before = self._store.now() - self._kept
        deleted = expire(self._store, before, since=self._done)
        self._looked, self._done = now, max(self._done, before - LATEST_MICROS)
        return deleted


class KeptRecords:
    """Removes records that were kept as they were first read (``materialise``), when nothing has read them for a declared time.

    What a run that is not over has pinned stays, and so does what was pinned or moved within that time: such a run can be retried, run again or replayed, and
    reads what it read. Whoever does that later reads what the topic has by then.

    Parameters
    ----------
    folder : Path
        Where records are kept.
    kept_micros : int or None
        For how long; None: for ever.
    """

    def __init__(self, store: Store, folder: Path, kept_micros: int | None) -> None:
        self._store, self._folder, self._kept = store, folder, kept_micros
        self._looked: float | None = None

    def enforce(self) -> Size:
        """Remove what is too old, if it is time to look.

        Raises
        ------
        hindscan.errors.StoreUnavailable
            The store does not answer: nothing is removed.
        """
        now = time.monotonic()
        if self._kept is None or (self._looked is not None and now - self._looked < SWEEP_SECONDS):
            return Size(0, 0)
        self._looked = now
        if not self._folder.is_dir():
            return Size(0, 0)
        before = self._store.now() - self._kept
        pins = [
            pin
            for snapshot in snapshots_in_use(self._store, before)
            for pin in snapshot.pins.values()
            if isinstance(pin, KafkaPin)
        ]
        # A file's time may be an hour older than its last reading.
        return sweep(self._folder, before / 1_000_000 - USED_SECONDS, pins)


def expire(store: Store, before: int, *, since: int = 0) -> int:
    """Delete the bodies of all that was received in a time, some at once; give how many.

    Parameters
    ----------
    before : int
        What came in earlier than this, microseconds since the epoch.
    since : int
        What came in before this is known to be done.
    """
    deleted = 0
    bodies: list[tuple[sa.Table, dict[str, Any]]] = [
        (schema.events, {"data": None}),
        (schema.quarantine, {"body": None, "key": None, "headers": "[]"}),
    ]
    for table, cleared in bodies:
        old = (table.c.received_at >= since, table.c.received_at < before, table.c.gone.is_(None))
        some = sa.select(table.c.seq).where(*old).order_by(table.c.received_at).limit(ROWS_AT_ONCE)
        while True:
            with store.read() as connection:
                found = connection.execute(some).scalars().all()
            if not found:
                break
            with store.write() as connection:
                changed = sa.update(table).where(table.c.seq.in_(found), table.c.gone.is_(None))
                deleted += connection.execute(changed.values(gone="expired", **cleared)).rowcount
    return deleted
