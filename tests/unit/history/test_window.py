"""From options to a window: what is resolved, and every fault at once."""

from __future__ import annotations

import pytest

from hindscan import times
from hindscan.errors import UsageError
from hindscan.history.snapshot import Window
from hindscan.history.window import make_window, refuse_topic_options

DAY = times.duration("1d")


def test_last_counts_back_from_as_of_else_from_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "now", lambda: 100 * DAY)
    assert make_window(last=7 * DAY) == Window(since=93 * DAY)
    assert make_window(last=7 * DAY, as_of=50 * DAY) == Window(since=43 * DAY, as_of=50 * DAY)


def test_keys_and_partitions_are_the_same_in_any_order() -> None:
    assert make_window(keys=["b", b"a", "b"]) == make_window(keys=[b"a", b"b"]) == Window(keys=(b"a", b"b"))
    assert make_window(partitions=[3, 0, 3]) == Window(partitions=(0, 3))


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        make_window(
            last=DAY, since=5, until=5, offsets={0: (7, 3), 1: (-1, None)}, partitions=[-1, 0], keys=[], doing="Asking"
        )
    text = str(caught.value)
    assert text.startswith("Asking: last and since both say")
    for part in (
        "since (1970-01-01T00:00:00.000005Z) must be before until",
        "there is no -1",
        "leave partitions out",
        "offsets of partition 0: the start (7) must not be after the end (3)",
        "offsets of partition 1: partitions and offsets count from 0",
        "keys must name at least one",
    ):
        assert part in text
    with pytest.raises(UsageError, match=r"since .* must be before as_of"):
        make_window(since=9, as_of=9)
    with pytest.raises(UsageError, match="longer than nothing"):
        make_window(last=0)


@pytest.mark.parametrize(("window", "name"), [({"offsets": {0: (0, 1)}}, "offsets"), ({"keys": ["k"]}, "keys")])
def test_what_only_a_topic_has_is_refused_for_files(window: dict[str, object], name: str) -> None:
    with pytest.raises(UsageError, match=rf"history h: {name} choose .* lies in files"):
        refuse_topic_options(make_window(**window), "h")  # type: ignore[arg-type]
