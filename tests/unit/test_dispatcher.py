"""A slot that looks for a run in vain is woken by what comes meanwhile: also by what came while it looked."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from hindscan import dispatcher
from hindscan.workshop import open_workshop
from small_project import small_project


def test_what_comes_while_the_store_is_asked_is_not_slept_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "IDLE_SECONDS", 3600.0)
    asked: list[str] = []
    again = threading.Event()

    def claim(store: Any, name: str, seconds: float, *, held: Any) -> None:
        asked.append(name)
        if len(asked) == 1:
            # Between the look and the wait: a notification that nobody waits for yet.
            serving._notify()
        else:
            again.set()

    monkeypatch.setattr(dispatcher.leases, "claim", claim)
    with open_workshop(small_project(tmp_path)) as workshop:
        serving = dispatcher.Dispatcher(workshop)
        with serving:
            assert again.wait(20)
