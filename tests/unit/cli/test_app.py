"""What was typed wrongly is told as every failure is: in one line, with what is required, and exit code 2."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from hindscan.cli.app import run_app
from small_project import JOB, add_bids, small_project


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("check", "Using `hindscan check`: it needs JOB; JOB is not given. `hindscan check --help` says what there is to give."),
        ("audit", "Using `hindscan audit`: it needs TRIGGER and --since; TRIGGER is not given. `hindscan audit --help`"),
        ("audit scan", "it needs TRIGGER and --since; --since is not given."),
        ("run scan -p", "Using `hindscan run`: Command \"run\" parameter -p requires an argument."),
        ("run scan --nope 1", "Using `hindscan run`: Unknown option: --nope."),
        ("plan scan --seed many", "Invalid value for --seed: It must be a whole number."),
        ("runs --limit 1.5", "Invalid value for --limit: It must be a whole number."),
        ("runs --limit -1", "--limit"),
        ("outbox --send 99999999999999999999", "--send"),
        ("emit --nope x", "There is no option --nope."),
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


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("run total -p category=cars --priority 99999999999999999999", "priority must be"),
        ("plan total -p category=cars --seed -1", "seed must be at least 0"),
        ("emit --type t --data {", "Reading --data: it must be JSON"),
        ("result total@latest -o X/result.txt", "a table is printed, and never a file"),
        ("result total@latest --format csv -o X/absent/result.csv", "must be a place that can be written to"),
        ("snapshot bids -o X", "must be a place that can be written to"),
        ("init X/hindscan.toml/project", "must be a place that can be written to"),
        ("generate auctions X/hindscan.toml/bids --bids 10", "must be a place that can be written to"),
    ],
)
def test_what_cannot_be_done_as_typed_is_told_without_a_traceback(
    typed: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    if typed.startswith("result"):
        assert run_app(["run", "total", "-p", "category=cars"]) == 0
        capsys.readouterr()
    assert run_app(typed.replace("X", str(tmp_path)).split()) == 2
    told = capsys.readouterr()
    assert told.err.startswith("UsageError: ")
    assert words in told.err


def test_a_dash_is_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    event = b'{"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}'
    small_project(tmp_path)
    for typed, said in (
        (["match", '{"exact": {"type": "t"}}', "-"], "1 matched, 0 unmatched"),
        # That nobody answers shows that the event was read.
        (["emit", "-", "--to", "http://127.0.0.1:1"], "a dispatcher must answer"),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(event)))
        run_app([*typed, "--project", str(tmp_path)])
        told = capsys.readouterr()
        assert said in told.out + told.err


def test_a_server_without_its_libraries_says_what_brings_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run_app(["serve"]) == 2
    assert capsys.readouterr().err == (
        "UsageError: Serving: it needs uvicorn, not installed here. `pip install 'hindscan[serve]'` brings what there is not.\n"
    )


def test_a_job_whose_own_file_is_broken_or_lacks_a_step_says_that_alone_and_in_the_words_of_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = small_project(tmp_path)
    add_bids(tmp_path, "second", [(2, 2)])
    (tmp_path / "jobs" / "broken.sql").write_text(JOB.replace("SELECT", "SELEC"))
    (tmp_path / "jobs" / "uncombined.sql").write_text(JOB.partition("-- name: combine")[0])
    for job, words in (
        ("broken", "its file must be one that can be loaded. Loading jobs/broken.sql: "),
        ("uncombined", 'it has no combine. Write `-- name: combine`, say combine="concat"'),
    ):
        assert run_app(["plan", job, "-p", "category=cars", "--project", str(project.root)]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert "There are:" not in said
