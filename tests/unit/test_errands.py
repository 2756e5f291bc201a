"""What takes long is done one after another, found under its name, and never begun twice at once."""

from __future__ import annotations

import threading

import pytest

from acceptance.serving import until
from hindscan.errands import KEPT, Errands
from hindscan.errors import Conflict, NotFound


def test_the_same_is_begun_once_at_a_time_and_a_failure_is_told() -> None:
    errands, go = Errands(), threading.Event()

    def work() -> dict[str, int]:
        assert go.wait(60)
        return {"n": 1}

    first = errands.begin("a", {"x": 1}, work)
    assert errands.begin("a", {"x": 1}, work) is first
    with pytest.raises(Conflict, match="under way with other settings"):
        errands.begin("a", {"x": 2}, work)

    def fail() -> dict[str, int]:
        raise NotFound("no such thing")

    def break_down() -> dict[str, int]:
        raise ZeroDivisionError

    failed, broken = errands.begin("b", {}, fail), errands.begin("c", {}, break_down)
    assert {first.state, failed.state} <= {"waiting", "running"}
    go.set()
    until(lambda: broken.state == "failed", "the last")
    assert (first.state, first.outcome) == ("done", {"n": 1})
    assert (failed.error, failed.message) == ("NotFound", "no such thing")
    assert (broken.error, "the log has it" in str(broken.message)) == ("HindscanError", True)
    assert errands.begin("a", {"x": 2}, work) is not first


def test_what_ended_long_ago_is_forgotten() -> None:
    errands = Errands()
    for number in range(KEPT + 20):
        one = errands.begin(str(number), {}, dict)
        until(lambda one=one: one.state == "done", "its end")
    assert errands.look("0") is None
    assert errands.look(str(KEPT + 19)) is not None
