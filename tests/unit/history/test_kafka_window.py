"""Windows over a topic, without a broker: look-ups by time against a log that is written down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.data import Proof
from hindscan.errors import DataLost, OutOfOrder, SourceMissing, UsageError
from hindscan.history.kafka_window import Seen, check_lateness, choose_partitions, cut_at_offsets, cut_at_times
from hindscan.history.snapshot import KafkaSlice, PartitionPin, Window
from hindscan.history.window import make_window


class Record(NamedTuple):
    record_time: int
    event_time: int
    #: False: a transaction's marker, or a record that was aborted.
    visible: bool


def partition(start: int, end: int, number: int = 0, log_start: int = 0) -> PartitionPin:
    return PartitionPin(partition=number, start=start, end=end, log_start=log_start, high_watermark=end)


class Log:
    """A broker's side: what look-ups answer, over more than what is pinned."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    def lookup(self, partitions: Sequence[int], time: int) -> dict[int, int | None]:
        found = (offset for offset, record in enumerate(self.records) if record.record_time >= time)
        return dict.fromkeys(partitions, next(found, None))

    def look(self, _: int, offset: int) -> Seen | None:
        record = self.records[offset]
        return Seen(record.record_time, record.event_time) if record.visible else None


@st.composite
def orderly_logs(draw: st.DrawFn, *, own_time: bool) -> tuple[list[Record], int]:
    """Records whose visible ones keep the promise of the lateness they come with; what no reader sees has any time."""
    lateness = draw(st.integers(0, 12))
    records: list[Record] = []
    peak = draw(st.integers(0, 30))
    for _ in range(draw(st.integers(0, 25))):
        if draw(st.integers(0, 5)) == 0:
            records.append(Record(draw(st.integers(0, 200)), 0, visible=False))
            continue
        time = draw(st.integers(max(0, peak - lateness), peak + 8))
        peak = max(peak, time)
        event = time if own_time else draw(st.integers(peak - lateness, time + lateness))
        records.append(Record(time, event, visible=True))
    return records, lateness


@pytest.mark.parametrize("own_time", [True, False])
@given(data=st.data())
def test_no_row_of_the_window_is_left_out_and_what_is_said_to_be_inside_is(own_time: bool, data: st.DataObject) -> None:
    records, lateness = data.draw(orderly_logs(own_time=own_time))
    declared = data.draw(st.booleans())
    since = data.draw(st.none() | st.integers(0, 120))
    before = data.draw(st.none() | st.integers(0, 120))
    start, end = sorted((data.draw(st.integers(0, len(records))), data.draw(st.integers(0, len(records)))))
    log = Log(records)
    behind = lateness if declared else None
    (cut,) = cut_at_times(
        [partition(start, end)], since=since, before=before, ahead=0 if own_time else behind, behind=behind,
        lookup=log.lookup, look=log.look, topic="h",
    )  # fmt: skip
    assert start <= cut.start <= cut.end <= end or cut.start == cut.end
    for offset in range(start, end):
        if not records[offset].visible:
            continue
        time = records[offset].event_time
        inside = (since is None or time >= since) and (before is None or time < before)
        assert not inside or cut.start <= offset < cut.end
        assert since is None or cut.since_holds_from is None or offset < cut.since_holds_from or time >= since
        assert before is None or cut.before_holds_to is None or offset >= cut.before_holds_to or time < before
    if not declared and not own_time:
        assert (cut.start, cut.end, cut.since_holds_from, cut.before_holds_to) == (start, end, None, None)


def test_the_trap_of_looking_up_both_ends_is_not_fallen_into() -> None:
    """Measured on a broker: [2500, 5000) looked up at both ends is empty, although 3000 and 4000 are there."""
    log = Log([Record(t, t, visible=True) for t in (1000, 5000, 2000, 3000, 9000, 4000)])
    assert log.lookup([0], 2500) == log.lookup([0], 5000) == {0: 1}
    given_ = {"since": 2500, "before": 5000, "ahead": 0, "lookup": log.lookup, "look": log.look, "topic": "h"}
    (undeclared,) = cut_at_times([partition(0, 6)], behind=None, **given_)
    assert (undeclared.start, undeclared.end) == (1, 6)
    (declared,) = cut_at_times([partition(0, 6)], behind=5000, **given_)
    assert (declared.start, declared.end) == (1, 6)
    in_order = Log([Record(t, t, visible=True) for t in (1000, 2000, 3000, 4000, 5000, 9000)])
    (cut,) = cut_at_times(
        [partition(0, 6)],
        since=2500,
        before=4500,
        ahead=0,
        behind=500,
        lookup=in_order.lookup,
        look=in_order.look,
        topic="h",
    )
    assert (cut.start, cut.end, cut.since_holds_from, cut.before_holds_to) == (2, 4, 2, 4)


def test_a_marker_with_the_clock_of_the_broker_cuts_nothing_off() -> None:
    log = Log([Record(10, 10, visible=True), Record(10_000, 0, visible=False), Record(20, 20, visible=True)])
    (cut,) = cut_at_times(
        [partition(0, 3)], since=None, before=50, ahead=0, behind=5, lookup=log.lookup, look=log.look, topic="h"
    )
    assert (cut.start, cut.end) == (0, 3)


def test_records_written_long_after_they_happened_break_the_promise_where_the_end_is_cut() -> None:
    log = Log([Record(90_000_000_000, 1_000_000, visible=True)] * 3)
    with pytest.raises(
        OutOfOrder,
        match=r"topic 'h': .* at most 1s .* the record at 0:0 is .* out of order.*Raise `lateness`",
    ):
        cut_at_times(
            [partition(0, 3)], since=None, before=2_000_000, ahead=1_000_000, behind=1_000_000,
            lookup=log.lookup, look=log.look, topic="h",
        )  # fmt: skip


def read(start: int, proof: Proof, number: int = 0) -> tuple[KafkaSlice, Proof]:
    return KafkaSlice(position=0, partition=number, start=start, end=start + 10, rows=10, bytes=0), proof


def proof(least: int, latest: int, disorder: int | None = 0) -> Proof:
    return Proof(slice=0, records=10, least_time=least, latest_record_time=latest, disorder=disorder)


def test_a_broken_promise_is_seen_within_a_slice_and_across_slices() -> None:
    orderly = [read(0, proof(0, 100)), read(10, proof(80, 200)), read(0, proof(0, 5), number=1)]
    check_lateness(orderly, lateness=20_000, topic="bids")
    with pytest.raises(OutOfOrder, match=r"offsets \[10, 20\) of bids\[0\] is 21ms out of order"):
        check_lateness([read(0, proof(0, 100)), read(10, proof(80, 200, 20_001))], lateness=20_000, topic="bids")
    with pytest.raises(OutOfOrder, match=r"offsets \[10, 20\)"):
        # The slices come in any order; the log's order counts.
        check_lateness([read(10, proof(80, 200)), read(0, proof(0, 100))], lateness=19, topic="bids")
    with pytest.raises(OutOfOrder, match="has no time"):
        check_lateness([read(0, proof(0, 100, None))], lateness=20, topic="bids")


def test_nothing_is_checked_where_nothing_rests_on_it() -> None:
    check_lateness([read(0, proof(0, 100, 10**9))], lateness=None, topic="bids")
    check_lateness([read(0, Proof(slice=0, records=0))], lateness=5, topic="bids")


def test_offsets_are_taken_as_asked_for_or_refused_by_name() -> None:
    pinned = [
        partition(10, 100, log_start=10),
        PartitionPin(partition=1, start=0, end=50, log_start=0, high_watermark=60),
    ]
    cut = cut_at_offsets(pinned, make_window(offsets={0: (20, 30), 1: (None, 50)}), history="h")
    assert [(p.start, p.end) for p in cut] == [(20, 30), (0, 50)]
    with pytest.raises(DataLost, match=r"\[5, 30\) of partition 0: the log begins at 10"):
        cut_at_offsets(pinned[:1], make_window(offsets={0: (5, 30)}), history="h")
    with pytest.raises(UsageError, match=r"\[0, 101\) of partition 0: it can be read up to 100\. "):
        cut_at_offsets([partition(0, 100)], make_window(offsets={0: (0, 101)}), history="h")
    with pytest.raises(UsageError, match=r"\[0, 55\) of partition 1: .* up to 50, because an open transaction"):
        cut_at_offsets(pinned[1:], make_window(offsets={1: (0, 55)}), history="h")


def test_partitions_are_those_of_the_history_or_of_them_those_asked_for() -> None:
    def chosen(window: Window, declared: tuple[int, ...] | None = None) -> tuple[int, ...]:
        return choose_partitions(window, declared=declared, existing=(0, 1, 2), history="h", topic="t")

    assert chosen(Window()) == (0, 1, 2)
    assert chosen(Window(), (2, 0)) == (0, 2)
    assert chosen(Window(partitions=(1,))) == (1,)
    assert chosen(make_window(offsets={2: (0, 1), 0: (0, 1)})) == (0, 2)
    with pytest.raises(UsageError, match=r"among its own, 0, 2; 1 of topic 't' are not"):
        chosen(Window(partitions=(1,)), (0, 2))
    with pytest.raises(SourceMissing, match=r"partitions \[7\] of topic 't' must exist"):
        chosen(Window(), (7,))
