"""What is printed is what is there: values that look like markup are values."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest

from hindscan.cli.output import SHOWN_FAILURES, Progress, print_arrow, print_table
from hindscan.progress import SliceFailed


def test_brackets_in_values_and_names_are_printed_as_they_are() -> None:
    printed = io.StringIO()
    print_table(["name [x]", "hint"], [("[red]", "set lateness in [history.bids]"), ("[/]", ":warning:")], to=printed)
    lines = printed.getvalue().splitlines()
    assert [line.split() for line in lines] == [
        ["name", "[x]", "hint"],
        ["[red]", "set", "lateness", "in", "[history.bids]"],
        ["[/]", ":warning:"],
    ]


def test_a_result_with_brackets_is_printed_as_it_is() -> None:
    printed = io.StringIO()
    print_arrow(pa.table({"channel": ["[bold]web[/bold]", None], "bids": [1, 20]}), to=printed)
    assert [line.split() for line in printed.getvalue().splitlines()] == [
        ["channel", "bids"],
        ["[bold]web[/bold]", "1"],
        ["20"],
    ]


def test_what_has_parts_is_printed_as_json() -> None:
    printed = io.StringIO()
    print_table(["trigger", "filter"], [("scan", {"exact": {"type": "auction.closed"}})], to=printed)
    assert printed.getvalue().splitlines()[1].split() == ["scan", '{"exact":{"type":"auction.closed"}}']


def test_slices_that_fail_alike_are_told_of_once_or_twice_by_what_was_raised(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = "Traceback (most recent call last):\n  File ...\nValueError: no\n\nWhile computing slice {}: it raised ValueError: no."
    with Progress() as progress:
        for n in range(SHOWN_FAILURES + 30):
            progress(SliceFailed(run="r", stage="slice", slice=n, error="JobFailed", message=said.format(n)))
    assert capsys.readouterr().err.splitlines() == [
        *(f"slice {n} failed: JobFailed: While computing slice {n}: it raised ValueError: no." for n in range(SHOWN_FAILURES)),
        "30 more slices failed",
    ]  # fmt: skip
