"""What others say CESQL is: the specification's own compatibility kit, case by case.

It is read from `../shared/authorities` beside the project, or from where `HINDSCAN_AUTHORITIES` points; its absence is a failure in CI.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hindscan.errors import CesqlError
from hindscan.events.cesql import cesql

BESIDE = Path(__file__).parents[3] / "shared" / "authorities"
#: The kit has a cast error here; the specification's table of casts makes every whole number but 0 true, and so does the kit itself for BOOL(100).
BY_THE_TABLE = {"NOT 10": False}


@pytest.fixture(scope="module")
def cases() -> list[dict]:
    file = Path(os.environ.get("HINDSCAN_AUTHORITIES", BESIDE)) / "cesql_tck" / "cases.jsonl"
    if not file.is_file():
        message = f"the CESQL compatibility kit is not at {file}: set HINDSCAN_AUTHORITIES"
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_case_of_the_compatibility_kit(cases: list[dict]) -> None:
    assert len(cases) == 275
    wrong = []
    for case in cases:
        expression = case["expression"]
        wanted = (case["error"], None if case["error"] else case["result"])
        if expression in BY_THE_TABLE:
            wanted = (None, BY_THE_TABLE[expression])
        try:
            found = (None, cesql(expression).evaluate(case["event"]))
        except CesqlError as fault:
            found = (fault.kind, None)
        if found != wanted or type(found[1]) is not type(wanted[1]):
            wrong.append(f"{case['file']}: {expression}: {found} for {wanted}")
    assert not wrong, "\n".join(wrong)
