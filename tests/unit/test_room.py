"""A statement that does not fit into the memory of its worker goes by way of the disk, and leaves nothing there (promises 8, 10 and 11)."""

from __future__ import annotations

import os
import queue
from pathlib import Path

import numpy as np
import pyarrow as pa

from hindscan.data import Data, TableSource
from hindscan.engine import database
from hindscan.tasks.process import ENGINE_SHARE, Frames, Inbox, start

#: What the worker may take: a part of it is the engine's.
MEMORY = 240 << 20
ROWS = 1_200_000


def sorting(frames: Frames) -> None:
    """Sort and group more than the engine may hold; a worker's program."""
    keys = np.random.default_rng(7).permutation(ROWS)
    data = Data("rows", {"rows": TableSource(pa.table({"k": keys, "a": keys * 3, "b": keys * 5, "c": keys % 1000}))})
    limit, folder = (
        database(os.getpid()).execute(f"SELECT current_setting('{name}')").fetchone()[0]
        for name in ("memory_limit", "temp_directory")
    )
    ordered = data.sql("SELECT * FROM rows ORDER BY k")
    spilled = Path(folder).is_dir()
    grouped = data.sql("SELECT k, sum(a)::BIGINT AS a, max(b) AS b FROM rows GROUP BY k ORDER BY k")
    right = ordered["k"].to_numpy().tolist() == list(range(ROWS)) and ordered["a"].equals(grouped["a"])
    right = right and grouped["b"].to_numpy().tolist() == list(range(0, 5 * ROWS, 5))
    frames.send((limit, folder, spilled, bool(right)))
    frames.receive()


def test_a_statement_that_does_not_fit_goes_by_way_of_the_disk_and_leaves_nothing_there():
    inbox: Inbox = queue.SimpleQueue()
    process = start(inbox, f"{Path(__file__).stem}:sorting", paths=[str(Path(__file__).parent)], memory=MEMORY)
    _, message = inbox.get(timeout=100)
    assert message is not None, process.reason()
    limit, folder, spilled, right = message
    assert limit == f"{MEMORY * ENGINE_SHARE / 2**20:.1f} MiB"
    assert spilled
    assert right
    assert Path(folder).parent.is_dir()
    process.close()  # which kills it
    assert not Path(folder).parent.exists()
