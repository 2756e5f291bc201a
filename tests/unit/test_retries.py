"""A run that failed is tried again by the class of its error, later and later, spread by a lot that anybody can draw again."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from hindscan import errors
from hindscan.retries import Retries, retries_from

CLASSES = sorted(name for name in errors.__all__ if getattr(errors, name).retryable)


def test_what_is_retryable_is_tried_again_and_faults_of_jobs_are_not() -> None:
    retries = retries_from(1)
    assert {name for name in errors.__all__ if retries.wait("r", 1, name) is not None} == set(CLASSES)
    assert {"ServiceUnavailable", "BrokerUnavailable", "WorkerDied", "ReadIncomplete"} <= set(CLASSES)
    for name in ("JobFailed", "ParameterError", "TimeLimitExceeded", "InternalError", "HistoryError"):
        assert retries.wait("r", 1, name) is None


def test_classes_that_are_named_count_with_those_below_them_and_no_others() -> None:
    retries = retries_from({"attempts": 2, "on": ["HistoryError", "JobFailed"]})
    assert retries.wait("r", 1, "DataLost") is not None
    assert retries.wait("r", 1, "JobFailed") is not None
    assert retries.wait("r", 1, "WorkerDied") is None


def test_a_number_is_the_number_of_further_tries() -> None:
    assert [retries_from(2).wait("r", failures, "WorkerDied") is not None for failures in (1, 2, 3)] == [
        True,
        True,
        False,
    ]
    assert retries_from(0).wait("r", 1, "WorkerDied") is None


@given(run=st.text(max_size=20), failures=st.integers(1, 99), jitter=st.floats(0, 1))
def test_the_wait_doubles_up_to_the_longest_and_lies_between_the_jitters_bounds(
    run: str, failures: int, jitter: float
) -> None:
    retries = Retries(attempts=100, backoff=3_000_000, longest=100_000_000, jitter=jitter)
    whole = min(100_000_000, 3_000_000 * 2 ** (failures - 1))
    waits = {retries.wait(run, failures, "WorkerDied") for _ in range(2)}
    assert len(waits) == 1, "drawn again it is the same"
    (wait,) = waits
    assert wait is not None
    assert whole * (1 - jitter) - 1 <= wait <= whole


def test_a_thousand_runs_that_failed_together_do_not_come_back_together() -> None:
    waits = sorted(
        retries_from({"attempts": 2, "backoff": "10s"}).wait(f"run-{n}", 1, "WorkerDied") or 0 for n in range(1000)
    )
    assert waits[0] < 5_100_000
    assert waits[-1] > 9_900_000
    for least in range(5_000_000, 10_000_000, 500_000):
        assert 50 <= sum(least <= wait < least + 500_000 for wait in waits) <= 160


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "a number of further tries"),
        ("3", "a number of further tries"),
        ({"attempts": 101}, "attempts must be from 1 to 100"),
        ({"backof": 1}, "backof"),
        ({"backoff": "soon"}, "must be a number with a unit"),
        ({"on": ["RunCancelled"]}, "none are tried again of RunCancelled"),
        ({"on": ["Path"]}, "none are tried again of Path"),
    ],
)
def test_what_is_no_rule_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retries_from(value)
