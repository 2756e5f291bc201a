"""Workers, scheduler and dispatcher die while a run goes on: it ends right and computes little twice (promise 6). The full form is `faults.chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.chaos import Chaos


@pytest.mark.timeout(300)  # some twenty processes are started one after the other
def test_a_run_outlives_its_workers_its_scheduler_and_its_dispatcher(tmp_path: Path):
    report = Chaos(tmp_path, slices=300, slices_per_task=5, seconds=0.03).run(kill_every=80)
    assert report.state == "succeeded", report.message
    assert report.right
    assert report.workers_killed >= 2
    assert report.extra <= report.extra_most
