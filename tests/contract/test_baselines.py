"""What was there when a trigger of files began is stored once, and with what was recorded since it is all that is not new; in every store."""

from __future__ import annotations

from hindscan.events.event import Event
from hindscan.runs.baselines import begin, known
from hindscan.runs.ledger import Decision, Entry, record
from hindscan.runs.store import Store


def test_the_first_list_counts_and_what_is_recorded_is_added(store: Store) -> None:
    assert known(store, "t", "lake", "files:lake") is None
    begin(store, "t", "lake", ["a@1-2", "b\nc@1-2"])
    begin(store, "t", "lake", ["later@1-2"])
    begin(store, "other", "lake", [])
    arrived = Event(id="new@3-4", source="files:lake", type="hindscan.file")
    decided = Decision(trigger="t", outcome="unmatched", reason="no")
    record(store, [Entry(event=arrived, way="files", decisions=(decided,))])
    assert known(store, "t", "lake", "files:lake") == {"a@1-2", "b\nc@1-2", "new@3-4"}
    assert known(store, "other", "lake", "files:lake") == set()
    assert known(store, "t", "pond", "files:pond") is None
