"""A watcher looks until it is left; an error is shown until a look succeeds, and ends nothing."""

from __future__ import annotations

import queue

from hindscan.errors import StoreUnavailable
from hindscan.events.watcher import Watcher

SECONDS = 60


def test_it_looks_again_until_it_is_left() -> None:
    looks: queue.Queue[int] = queue.Queue()

    def look() -> float:
        looks.put(1)
        return 0.0

    with Watcher("files a", look) as watcher:
        for _ in range(5):
            looks.get(timeout=SECONDS)
        assert (watcher.name, watcher.error) == ("files a", None)
    while not looks.empty():
        looks.get()
    assert looks.empty()


def test_an_error_is_shown_until_it_is_over() -> None:
    todo: queue.Queue[Exception | None] = queue.Queue()
    seen: queue.Queue[str] = queue.Queue()

    def look() -> float:
        seen.put(str(watcher.error))
        fault = todo.get(timeout=SECONDS)
        if fault is not None:
            raise fault
        return 0.0

    watcher = Watcher("schedule", look)
    with watcher:
        for fault in (StoreUnavailable("the store is away"), ValueError("broken"), None):
            todo.put(fault)
        said = [seen.get(timeout=SECONDS) for _ in range(4)]
        todo.put(None)
    assert said[0] == "None"
    assert said[1] == "the store is away"
    assert "it raised ValueError: broken. This is a fault of hindscan" in said[2]
    assert said[3] == "None"
