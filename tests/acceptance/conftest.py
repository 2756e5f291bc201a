"""What acceptance tests share: a project over the committed sample, and one of two million bids."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from acceptance.command import CHECKOUT
from hindscan.template import write_project

#: Large enough that a run is cut, grouped and spread.
BIDS = 2_000_000


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A project over a copy of the committed sample."""
    for name in ("data", "jobs"):
        shutil.copytree(CHECKOUT / name, tmp_path / name)
    shutil.copy(CHECKOUT / "hindscan.toml", tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two million generated bids; runs of one test are seen by the next, so tests say `--fresh` where they mean it."""
    folder = tmp_path_factory.mktemp("site")
    write_project(folder, bids=BIDS)
    return folder
