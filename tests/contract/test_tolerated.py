"""Failures that were tolerated: left out, told, and never mistaken for the whole (promises 2, 6 and 7)."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.running import ROWS, Site, make_site
from hindscan.errors import DataLost, JobFailed
from hindscan.history.parquet_reader import ParquetReader
from hindscan.jobs.declare import job
from hindscan.progress import SliceFailed
from hindscan.tasks.executor import Executor, InlineExecutor
from hindscan.tasks.threads import ThreadsExecutor

SLICES = 40


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path, SLICES)


@pytest.fixture
def inline() -> Executor:
    return InlineExecutor()


def test_a_slice_that_fails_is_left_out_where_that_is_allowed(site: Site, inline: Executor):
    facts = []
    done = site.run(inline, "raising", allow_failed=1, facts=facts)
    assert site.partials.read(done.finished)["n"].to_pylist() == [n for n in range(SLICES) if n != 3]
    (stage,) = done.stages
    assert [(f.position, f.error) for f in stage.failed] == [(3, "JobFailed")]
    assert "LookupError: slice 3 is bad" in stage.failed[0].message
    assert (stage.coverage.slices_done, stage.coverage.slices) == (SLICES - 1, SLICES)
    assert (stage.coverage.rows_done, stage.coverage.rows) == ((SLICES - 1) * ROWS, SLICES * ROWS)
    assert (done.computed, done.reused) == (SLICES - 1, 0)
    assert [f.slice for f in facts if isinstance(f, SliceFailed)] == [3]


def test_an_incomplete_combination_is_never_taken_for_the_whole(site: Site, inline: Executor):
    plan = site.plan("raising")
    done = site.run(inline, "raising", allow_failed=0.025)
    stage = plan.stages[0]
    assert done.finished not in (stage.finished, stage.combined)
    assert not site.partials.has(stage.combined)
    with pytest.raises(JobFailed, match="slice 3 is bad"):
        site.run(inline, "raising")
    again = site.run(inline, "raising", allow_failed=0.025)
    assert (again.computed, again.reused, again.finished) == (0, SLICES - 1, done.finished)


def test_beyond_what_is_allowed_the_run_fails(site: Site, inline: Executor):
    with pytest.raises(JobFailed, match="slice 3 is bad"):
        site.run(inline, "raising", allow_failed=0.024)
    with pytest.raises(JobFailed, match="always"):
        site.run(inline, "always", allow_failed=SLICES)  # nothing is left that could be combined


def test_a_worker_killed_by_a_slice_every_time_is_tolerated_too(site: Site):
    with ThreadsExecutor(2) as executor:
        done = site.run(executor, "deadly", folder=str(site.root / "marks"), allow_failed=1)
    assert [(f.position, f.error) for f in done.stages[0].failed] == [(3, "WorkerDied")]
    assert site.partials.read(done.finished)["n"].to_pylist() == [n for n in range(SLICES) if n != 3]


def test_lost_data_is_never_tolerated(site: Site, inline: Executor, monkeypatch):
    opened = ParquetReader.open

    def lost(self, slices):
        if slices[0].position == 5:
            raise DataLost("Reading the numbers: rows 50 to 60 must be there; they are gone.")
        return opened(self, slices)

    monkeypatch.setattr(ParquetReader, "open", lost)
    with pytest.raises(DataLost, match="they are gone"):
        site.run(inline, "rows", allow_failed=SLICES)


def test_a_later_damage_below_is_repaired_in_an_incomplete_combination_too(site: Site, inline: Executor):
    done = site.run(inline, "raising", allow_failed=1)
    wanted = site.partials.read_meta(done.finished).digest
    site.partials.remove(done.finished)
    key = site.plan("raising").stages[0].keys[7]
    content = bytearray(site.partials.path(key).read_bytes())
    content[len(content) // 2] ^= 255
    site.partials.path(key).write_bytes(content)
    again = site.run(inline, "raising", allow_failed=1)
    assert site.partials.read_meta(again.finished).digest == wanted
    assert [f.position for f in again.stages[0].failed] == [3]


@pytest.mark.parametrize("wrong", [1.0, 1.5, -1, True, "0.1"])
def test_what_is_allowed_is_a_share_or_a_number(wrong):
    with pytest.raises(Exception, match="allow_failed= must be a share below 1"):
        job(history="numbers", combine="concat", allow_failed=wrong)(lambda numbers: {})
