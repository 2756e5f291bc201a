"""Jobs that are split by key: the same result as unsplit, whoever does the work, with each part on its own (promises 7, 8, 10)."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contract.running import ROWS, Site, make_site, write_numbers
from hindscan.config_file import load_project
from hindscan.driver import drive
from hindscan.errors import BadPartial, JobFailed
from hindscan.planning import ask
from hindscan.runs import codes, opening
from hindscan.runs.digest import table_digest
from hindscan.runs.partials import Partials
from hindscan.runs.results import read_manifest
from hindscan.tasks import outcome as outcome_module
from hindscan.tasks.dask import DaskExecutor
from hindscan.tasks.execution import Executed
from hindscan.tasks.executor import InlineExecutor
from hindscan.tasks.outcome import Merged, outcome
from hindscan.tasks.threads import ThreadsExecutor
from hindscan.workshop import open_workshop

SLICES = 40
BY = ("class", "kind")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path, SLICES)


def result(site: Site, done: Executed, by: tuple[str, ...] = BY) -> pa.Table:
    made = outcome(site.partials, done.results, by)
    assert isinstance(made, pa.Table), "a small one is a table at once"
    if by:
        assert Merged(site.partials, done.results, by).table().equals(made)
    return made


def test_a_split_job_gives_the_bits_of_the_unsplit_one_whoever_does_the_work(site: Site):
    wanted = table_digest(result(site, site.run(InlineExecutor(), "unsplit_sums"), ()))
    found = set()
    for make in (InlineExecutor, lambda: ThreadsExecutor(3), lambda: DaskExecutor(2)):
        with make() as executor:
            for grouping in (None, 7):
                done = site.run(executor, "split_sums", fresh=True, slices_per_task=grouping)
                found.add(table_digest(result(site, done)))
    assert found == {wanted}


@pytest.mark.parametrize("slices", [0, 1, 2, 17])
def test_a_split_result_is_what_duckdb_computes_however_few_slices_there_are(tmp_path: Path, slices: int):
    site = make_site(tmp_path, 1)
    if slices:
        write_numbers(site.root / "numbers", slices)
    done = site.run(InlineExecutor(), "split_sums", plan=None if slices else _without_rows(site))
    found = result(site, done).to_pylist()
    wanted = duckdb.sql(
        f"SELECT CASE WHEN i % 11 < 10 THEN i % 11 END AS class, 'k' || (i % 3) AS kind, fsum(x) AS total, count(*) AS rows "
        f"FROM '{site.root}/numbers/*.parquet' WHERE i < {slices * ROWS} GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert [(r["class"], r["kind"], r["rows"]) for r in found] == [(c, k, n) for c, k, _, n in wanted]
    assert [r["total"] for r in found] == pytest.approx([t for _, _, t, _ in wanted], rel=1e-9, abs=1e-3)


def _without_rows(site: Site):
    """Give a plan of a folder that is there and has no rows."""
    write_numbers(site.root / "numbers", 0)
    return site.plan("split_sums")


def test_rows_come_in_the_order_of_their_keys_whatever_order_the_steps_gave_them(site: Site):
    done = site.run(InlineExecutor(), "split_rows")
    assert result(site, done, ("i",))["i"].to_pylist() == list(range(SLICES * ROWS))


def test_a_part_that_is_missing_or_damaged_is_made_again_and_no_other(site: Site):
    done = site.run(InlineExecutor(), "split_sums")
    wanted = table_digest(result(site, done))
    stage = site.plan("split_sums").stages[0]
    made: list[str] = []
    write, partials = Partials.write, site.partials
    partials.remove(stage.parts[2].finished)
    node = next(node for node in stage.levels[0] if node.part == 2)
    partials.remove(stage.parts[2].combined)
    path = partials.path(node.key)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)

    def noted(self: Partials, key: str, *given: object, **named: object) -> tuple[str, int]:
        made.append(key)
        return write(self, key, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Partials, "write", noted)
        again = site.run(InlineExecutor(), "split_sums")
    assert again.computed == 0
    assert set(made) == {node.key, stage.parts[2].combined, stage.parts[2].finished}
    assert table_digest(result(site, again)) == wanted


def test_a_damaged_slice_is_computed_again(site: Site):
    wanted = table_digest(result(site, site.run(InlineExecutor(), "split_sums")))
    stage = site.plan("split_sums").stages[0]
    for node in (*stage.levels[0], *stage.levels[1]):
        site.partials.remove(node.key)
    path = site.partials.path(stage.keys[7])
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 4, len(content) // 2, 16):
        content[at] ^= 255
    path.write_bytes(content)
    again = site.run(InlineExecutor(), "split_sums")
    assert table_digest(result(site, again)) == wanted


def test_a_key_that_no_column_has_is_told_with_the_columns(site: Site):
    with pytest.raises(
        BadPartial, match=r"Splitting a table by absent: .*'absent' is not there, and the columns are \['i', 'n'\]"
    ):
        site.run(InlineExecutor(), "split_by_nothing")


def test_no_step_is_given_more_than_a_part_of_the_keys(site: Site):
    # Of 400 keys a part has 100, give or take; unsplit the root and the finish get all.
    with pytest.raises(JobFailed, match=r"MemoryError: (320|160|400) rows"):
        site.run(InlineExecutor(), "unsplit_few", most=150)
    done = site.run(InlineExecutor(), "split_few", most=150)
    assert result(site, done, ("i",))["i"].to_pylist() == list(range(SLICES * ROWS))


def test_a_slice_that_fails_and_may_is_left_out_of_every_part_and_of_no_complete_one(site: Site):
    left = site.run(InlineExecutor(), "split_raising", allow_failed=1)
    found = result(site, left, ("i",))["i"].to_pylist()
    assert found == [i for i in range(SLICES * ROWS) if i // ROWS != 3]
    assert left.stages[-1].coverage.slices_done == SLICES - 1
    stage = site.plan("split_raising").stages[0]
    assert {left.finished, *left.results}.isdisjoint({stage.finished, *stage.results})


# Published ----------------------------------------------------------------------------------------------------------

SQL = """-- /// job
-- history = "bids"
-- by = ["n"]
-- parts = 3
-- ///

-- name: slice
SELECT n, count(*) AS rows FROM bids GROUP BY ALL

-- name: combine
SELECT n, sum(rows)::BIGINT AS rows FROM partials GROUP BY ALL
"""


def test_a_large_result_is_written_in_batches_and_is_the_same_as_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "bids").mkdir()
    (tmp_path / "jobs" / "counted.sql").write_text(SQL)
    (tmp_path / "hindscan.toml").write_text('[history.bids]\nparquet = "bids"\n[compute]\nworkers = 1\n')
    count = 200_000
    pq.write_table(pa.table({"n": [number * 7919 % count for number in range(count)]}), tmp_path / "bids" / "a.parquet")
    project, found = load_project(tmp_path), []
    with open_workshop(project) as workshop:
        spec, code = workshop.job("counted")
        for most in (outcome_module.SMALL_BYTES, 0):
            monkeypatch.setattr(outcome_module, "SMALL_BYTES", most)
            digest = codes.save_code(workshop.store, spec, code)
            opened = opening.open_run(workshop.store, ask(project, spec, {}), code=digest, requested_by="test")
            done = drive(workshop, opened.id)
            assert done.result is not None, done.message
            folder = tmp_path / done.result
            table = pq.read_table(folder / "result.parquet")
            assert read_manifest(folder).result.digest == table_digest(table)
            found.append(table)
    assert found[0].equals(found[1])
    assert found[0].to_pydict() == {"n": list(range(count)), "rows": [1] * count}
