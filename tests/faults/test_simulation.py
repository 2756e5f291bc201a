"""Promises 4 and 6 under thousands of seeded schedules: crashes, rebalances, redeliveries and failures of the store break no promise."""

from __future__ import annotations

import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from faults.simulation import prepare, simulate

#: Fewer or more by HINDSCAN_SCHEDULES; one again by HINDSCAN_SEED.
SCHEDULES = int(os.environ.get("HINDSCAN_SCHEDULES", "10000"))
#: Schedules that share a store: what one leaves behind is in the way of the next.
SHARED = 100


# All of it takes two idle cores well under a minute; what runs beside it may take most of them.
@pytest.mark.timeout(1200)
def test_schedules_of_failures_break_no_promise(tmp_path: Path) -> None:
    prepare(tmp_path)
    if "HINDSCAN_SEED" in os.environ:
        seed = int(os.environ["HINDSCAN_SEED"])
        simulate(tmp_path, range(seed, seed + 1))
        return
    parts = [range(SCHEDULES)[first : first + SHARED] for first in range(0, SCHEDULES, SHARED)]
    # Processes of its own, so that all cores work whether or not this file is alone.
    context, quiet = multiprocessing.get_context("spawn"), partial(logging.disable, logging.WARNING)
    with ProcessPoolExecutor(mp_context=context, initializer=quiet) as pool:
        for _ in pool.map(partial(simulate, tmp_path), parts):
            pass
