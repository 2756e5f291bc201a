"""Entries: what the ledger is given, one for each thing received, and what it says became of it.

Values only, made for every event of a storm: that is why they are structs without a collector. `intake`, replays and audits make entries; `ledger.record` writes them.

::

    Decision, Decision, ... -> Entry | Unreadable -> ledger.record -> Recorded
"""

from __future__ import annotations

from typing import Literal

import msgspec

from hindscan.events.event import Event
from hindscan.history.snapshot import Position
from hindscan.runs.run import RunRequest
from hindscan.runs.waiting import Quiet

__all__ = ["Decision", "Entry", "Outcome", "Recorded", "Unreadable"]

Outcome = Literal["matched", "unmatched", "quarantined"]


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one trigger made of one event.

    Raises
    ------
    ValueError
        A match without a request, or a request without a match.
    """

    trigger: str
    outcome: Outcome
    #: Why not, or what failed; empty for a match.
    reason: str = ""
    #: What to run; only for a match.
    request: RunRequest | None = None
    #: Code bundle the run is opened with.
    code: str = ""
    #: Runs with one key go one after another.
    order_key: str | None = None
    #: The run starts no earlier than this.
    not_before: int = 0
    #: Of a replay: the run of the original, and the digest of the snapshot it is to read; None: it pins its own.
    parent: str | None = None
    snapshot: str | None = None
    #: While the run is failed no later run of its order key starts.
    blocks: bool = False
    #: What runs of the trigger are counted, replaced and gathered by.
    key: str | None = None
    #: The run takes the place of those of its key that wait.
    supersede: bool = False
    #: The event shares the run of its key that waits for quiet, or opens one that does.
    quiet: Quiet | None = None

    def __post_init__(self) -> None:
        if (self.outcome == "matched") != (self.request is not None):
            raise ValueError(f"a decision has a request if and only if it is matched; found {self.outcome}")
        if (self.supersede or self.quiet is not None) and self.key is None:
            raise ValueError("a run that takes the place of others, or is shared, needs the key it does so by")


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event with all that was decided about it."""

    event: Event
    #: "kafka", "http", "schedule", "files".
    way: str
    decisions: tuple[Decision, ...] = ()
    #: Where it stands in its topic, if it came from one.
    position: Position | None = None
    #: Time of its record in the topic.
    record_time: int | None = None
    #: When it was received; None: now.
    received_at: int | None = None
    #: Row of the quarantine that it was read from, which it takes the place of.
    resolves: int | None = None
    #: It comes out of the past: its triggers stand where they stand.
    past: bool = False


class Unreadable(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something received that is no event: its bytes, and why not."""

    reason: str
    #: Name of the class in `hindscan.errors`.
    error: str
    way: str
    body: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    key: bytes | None = None
    position: Position | None = None
    #: Time of its record in the topic.
    record_time: int | None = None
    received_at: int | None = None
    #: The triggers that listen where it came from: they have now gone past it.
    triggers: tuple[str, ...] = ()


class Recorded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of one entry. The mappings go from the trigger's name to its run, or to the reason."""

    identity: tuple[str, str] | None
    opened: dict[str, str] = {}
    existing: dict[str, str] = {}
    #: The name is empty where the event as a whole is in quarantine.
    quarantined: dict[str, str] = {}
    #: Another body came under this identity before; that one counts.
    conflict: bool = False
