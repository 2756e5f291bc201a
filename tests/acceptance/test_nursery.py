"""A command that is forked answers as one that is a new interpreter."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

import nursery
from acceptance.command import hindscan


@pytest.mark.parametrize(
    ("typed", "env"),
    [
        (("histories", "--json"), {}),
        (("histories",), {"HINDSCAN_HISTORY__BIDS__PARQUET": '"elsewhere"'}),
        (("show", "nothing"), {}),
        (("nothing",), {}),
        (("run", "bidder_scan"), {"HINDSCAN_FAULT": "store.opened"}),
    ],
    ids=["right", "environment", "wrong", "unknown", "killed"],
)
def test_a_fork_prints_and_ends_as_a_new_interpreter_does(sample: Path, monkeypatch, typed, env) -> None:
    monkeypatch.setattr(nursery, "_begun", set())
    anew, forked = (hindscan(*typed, project=sample, check=None, **env) for _ in range(2))
    assert forked == anew
    assert (anew.code == -signal.SIGKILL) is ("HINDSCAN_FAULT" in env)


def test_one_that_takes_too_long_is_ended(sample: Path, monkeypatch) -> None:
    monkeypatch.setattr(nursery, "_begun", {"serve"})
    with pytest.raises(subprocess.TimeoutExpired):
        hindscan("serve", "--port", "0", project=sample, timeout=0.5)
