"""The tree of errors: what a caller, the command line, the HTTP edge and the retry rule read off a class."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan import errors
from hindscan.errors import (
    BadRecord,
    BrokerUnavailable,
    HindscanError,
    JobFailed,
    NotFound,
    ReadIncomplete,
    ServiceUnavailable,
    UsageError,
    WorkerDied,
)

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, HindscanError)]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(kind=st.sampled_from(KINDS), message=st.text(), details=st.dictionaries(st.text(), json_values, max_size=4))
def test_an_error_that_crosses_a_process_keeps_its_class_message_and_details(kind, message, details) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        arrived = pickle.loads(pickle.dumps(kind(message, **details), protocol))
        assert (type(arrived), str(arrived), arrived.details) == (kind, message, details)


def test_a_detail_may_be_called_like_the_message() -> None:
    error = NotFound("no such job", message="m", self="s", kind="k")
    assert copy.copy(error).details == {"message": "m", "self": "s", "kind": "k"}


def test_an_error_raised_in_another_process_arrives_with_its_details() -> None:
    program = (
        "import pickle, sys\nfrom hindscan.errors import BadRecord\n"
        "sys.stdout.buffer.write(pickle.dumps(BadRecord('bids[3]@17 is no JSON', topic='bids', partition=3, offset=17)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    arrived = pickle.loads(done.stdout)
    assert isinstance(arrived, BadRecord)
    assert arrived.details == {"topic": "bids", "partition": 3, "offset": 17}


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_message_the_first_line_of_the_docstring_is_one(kind) -> None:
    assert str(kind()) == inspect.getdoc(kind).split("\n")[0]
    assert str(kind()).endswith(".")
    assert str(kind("")) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_the_exit_code_follows_from_whose_fault_it_is(kind) -> None:
    asked_wrongly, unreachable = issubclass(kind, UsageError), issubclass(kind, ServiceUnavailable)
    assert kind.exit_code == (2 if asked_wrongly else 3 if unreachable else 1)
    assert 400 <= kind.status < 500 if asked_wrongly else kind.status == 503 if unreachable else kind.status >= 400


def test_what_may_go_better_by_itself_is_retried_and_what_was_asked_wrongly_is_not() -> None:
    assert all(kind.retryable for kind in (ReadIncomplete, WorkerDied, BrokerUnavailable))
    assert not any(kind.retryable for kind in KINDS if issubclass(kind, UsageError | JobFailed))


def test_details_go_into_a_problem_document_as_they_are() -> None:
    details = NotFound("no such run", run="r1", known=["r2", "r3"], count=2).details
    assert json.loads(json.dumps(details)) == {"run": "r1", "known": ["r2", "r3"], "count": 2}
