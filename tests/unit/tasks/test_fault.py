"""Faults are told in the words of the one who has to mend them."""

from __future__ import annotations

import sys

import msgspec
import pyarrow as pa
import pytest

from hindscan.data import Data, TableSource
from hindscan.errors import DataLost, ReadIncomplete
from hindscan.tasks.fault import failed
from hindscan.tasks.task import Failed


def caught(function) -> Failed:
    try:
        function()
    except BaseException as fault:
        told = failed(fault, doing="computing slice 3 of job scan", position=3, key="k")
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=Failed) == told
        return told
    raise AssertionError


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_the_users_traceback_comes_first_and_says_what_was_being_done():
    def job():
        return {}["category"]

    told = caught(job)
    assert (told.error, told.retryable, told.details) == ("JobFailed", False, {"exception": "KeyError"})
    assert told.message.startswith("Traceback (most recent call last):")
    assert told.traceback.endswith("KeyError: 'category'\n")
    assert (
        "While computing slice 3 of job scan: the job's function must return, and it raised KeyError: 'category'."
        in told.message
    )


def test_causes_are_shown_and_frames_of_hindscan_are_not():
    def job():
        try:
            Data("t", {"t": TableSource(pa.table({"a": [1]}))}).sql("SELECT b FROM t")
        except Exception as cause:
            raise ValueError("no such column") from cause

    told = caught(job)
    assert "BinderException" in told.traceback
    assert "in job\n" in told.traceback
    assert "hindscan/data.py" not in told.traceback


def test_a_wrong_statement_is_the_jobs_fault():
    told = caught(lambda: Data("t", {"t": TableSource(pa.table({"a": [1]}))}).sql("DROP TABLE t"))
    assert told.error == "JobFailed"
    assert "exactly one statement that reads" in told.message


@pytest.mark.parametrize(("fault", "retryable"), [(ReadIncomplete("cut", topic="t"), True), (DataLost("gone"), False)])
def test_faults_of_the_data_keep_their_class_and_details(fault, retryable):
    def reading():
        raise fault

    told = caught(reading)
    assert (told.error, told.retryable, told.message) == (type(fault).__name__, retryable, str(fault))
    assert told.details == fault.details


def test_anything_can_be_told():
    def endless():
        raise ValueError("x" * 10_000_000)

    def unspeakable():
        raise Unspeakable

    def half():
        raise ValueError("\ud800")

    def odd():
        raise ReadIncomplete("cut", where=object(), at={1: {2}})

    def recursive():
        return recursive()

    assert len(caught(endless).message) < 50_000
    assert "Unspeakable" in caught(unspeakable).message
    assert "ValueError: ?" in caught(half).message
    assert caught(odd).details["at"] == {"1": [2]}
    assert "RecursionError" in caught(recursive).message
    assert caught(lambda: sys.exit(3)).error == "JobFailed"
