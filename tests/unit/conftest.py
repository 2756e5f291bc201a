"""What units that remember share: an open store on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clock import Clock
from hindscan.runs.store import Store, open_store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with open_store("sqlite:///s.db", tmp_path, clock) as opened:
        yield opened
