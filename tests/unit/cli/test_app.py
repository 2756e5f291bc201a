"""What was typed wrongly is told as every failure is: in one line, with what is required, and exit code 2."""

from __future__ import annotations

import json

import pytest

from hindscan.cli.app import run_app


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("check", "Using `hindscan check`: it needs JOB; JOB is not given. `hindscan check --help` says what there is to give."),
        ("audit", "Using `hindscan audit`: it needs TRIGGER and --since; TRIGGER is not given. `hindscan audit --help`"),
        ("audit scan", "it needs TRIGGER and --since; --since is not given."),
        ("run scan -p", "Using `hindscan run`: Command \"run\" parameter -p requires an argument."),
        ("run scan --nope 1", "Using `hindscan run`: Unknown option: --nope."),
        ("plan scan --seed many", "unable to convert \"many\" into int"),
        ("nope", "Using `hindscan`: Unknown command \"nope\"."),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line(typed: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(typed.split()) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert told.err.startswith("UsageError: Using `hindscan")
    assert words in told.err
    assert run_app([*typed.split(), "--json"]) == 2
    told = capsys.readouterr()
    assert told.err == ""
    document = json.loads(told.out)
    assert document["error"] == "UsageError"
    assert "Using `hindscan" in document["message"]
