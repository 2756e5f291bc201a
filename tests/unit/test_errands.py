"""What takes long is done one after another, found under its name, never begun twice at once, and told of after its server is gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from clock import Clock, until
from hindscan.errands import LEASE_SECONDS, Errand, Errands
from hindscan.errors import Conflict, NotFound
from hindscan.runs.errand import KEPT
from hindscan.runs.store import Store


@pytest.fixture
def clock() -> Clock:
    return Clock(tick=1)


@pytest.fixture
def errands(store: Store) -> Iterator[Errands]:
    made = Errands(store)
    yield made
    made.close()


def ended(errands: Errands, name: str) -> Errand:
    def look() -> Errand | None:
        found = errands.look(name)
        return found if found is not None and found.state in ("done", "failed") else None

    found: Errand = until(look, "its end")
    return found


def test_the_same_is_begun_once_at_a_time_and_a_failure_is_told(errands: Errands) -> None:
    go, begun = threading.Event(), []

    def work() -> dict[str, int]:
        begun.append(1)
        assert go.wait(60)
        return {"n": 1}

    assert errands.begin("a", {"x": 1}, work).state == "waiting"
    until(lambda: errands.look("a").state == "running", "its beginning")
    assert errands.begin("a", {"x": 1}, work).state == "running"
    with pytest.raises(Conflict, match="under way with other settings"):
        errands.begin("a", {"x": 2}, work)

    def fail() -> dict[str, int]:
        raise NotFound("no such thing")

    def break_down() -> dict[str, int]:
        raise ZeroDivisionError

    errands.begin("b", {}, fail)
    assert errands.begin("c", {}, break_down).state == "waiting"
    go.set()
    failed, broken = ended(errands, "b"), ended(errands, "c")
    assert (ended(errands, "a").outcome, begun) == ({"n": 1}, [1])
    assert (failed.error, failed.message) == ("NotFound", "no such thing")
    assert (broken.error, "the log has it" in str(broken.message)) == ("HindscanError", True)
    errands.begin("a", {"x": 2}, lambda: {"n": 2})
    assert ended(errands, "a").outcome == {"n": 2}


def test_what_ended_long_ago_is_forgotten(errands: Errands) -> None:
    for number in range(KEPT + 2):
        errands.begin(str(number), {}, dict)
        ended(errands, str(number))
    errands.begin("last", {}, dict)
    assert errands.look("0") is None
    assert errands.look(str(KEPT)) is not None


def test_an_errand_whose_server_is_gone_has_failed_and_can_be_asked_for_again(store: Store, clock: Clock) -> None:
    go, entered = threading.Event(), threading.Event()

    def work() -> dict[str, int]:
        entered.set()
        assert go.wait(60)
        return {"n": 1}

    stopped, killed, other = Errands(store), Errands(store), Errands(store)
    try:
        stopped.begin("a", {}, work)
        assert entered.wait(60)
        stopped.close()
        assert other.look("a").state == "failed"
        # One that was killed gives no more signs of life; until its lease is over it may be alive.
        killed._live = lambda: None
        killed.begin("b", {}, work)
        until(lambda: other.look("b").state == "running", "its beginning")
        assert other.begin("b", {}, dict).state == "running"
        clock.now += int(LEASE_SECONDS * 1e6)
        told = other.look("b")
        assert (told.state, told.error) == ("failed", "ExecutionError")
        assert "stopped or restarted before its end" in told.message
        assert other.begin("b", {}, lambda: {"n": 2}).state == "waiting"
        assert ended(other, "b").outcome == {"n": 2}
    finally:
        go.set()
        for each in (stopped, killed, other):
            each.close()
    # Who was thought dead says nothing more about what is another's now.
    assert ended(other, "b").outcome == {"n": 2}
