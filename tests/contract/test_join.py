"""Two histories joined by key: what DuckDB joins, whoever does the work, with each side reused on its own (promises 2, 7, 8, 10)."""

from __future__ import annotations

import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.running import ROWS, Shuffled, Site, Unreliable, make_site, write_numbers
from hindscan.errors import BadPartial, JobFailed
from hindscan.jobs.declare import Job, job
from hindscan.plans.incomplete import covered_together, without_slices
from hindscan.plans.reuse import why_not_reused
from hindscan.runs.digest import table_digest
from hindscan.tasks.dask import DaskExecutor
from hindscan.tasks.execution import Executed
from hindscan.tasks.executor import Executor, InlineExecutor
from hindscan.tasks.outcome import Merged, outcome
from hindscan.tasks.threads import ThreadsExecutor

SLICES = 18
OTHER_SLICES = 6


def write_others(root: Path, *, more: bool = False) -> None:
    """Write what the numbers are joined with: keys of another width, some null, some twice, some that no number has; one more slice of them."""
    (root / "others").mkdir(exist_ok=True)
    rows = range(OTHER_SLICES * ROWS) if not more else range(1000, 1000 + ROWS)
    keys = [None if o % 11 == 0 else o * 7 % 50 for o in rows]
    table = pa.table({"k": pa.array(keys, pa.int32()), "o": pa.array(rows, pa.int64())})
    pq.write_table(table, root / "others" / f"{'b' if more else 'a'}.parquet", row_group_size=ROWS)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    write_others(tmp_path)
    return make_site(tmp_path, SLICES)


def result(site: Site, done: Executed) -> pa.Table:
    return Merged(site.partials, done.results, ("key",)).table()


def wanted(site: Site, *, numbers: str = "true", others: str = "true") -> Counter[tuple[Any, ...]]:
    """Join in DuckDB, where nothing is split."""
    return Counter(
        duckdb.sql(f"""
            WITH sums AS (SELECT CASE WHEN i % 37 < 36 THEN i % 37 END AS key, count(*) AS rows
                FROM '{site.root}/numbers/*.parquet' WHERE {numbers} GROUP BY ALL)
            SELECT coalesce(key, k), rows, sum(o)::BIGINT, count(o)
            FROM sums FULL JOIN (FROM '{site.root}/others/*.parquet' WHERE {others}) ON k = key GROUP BY key, k, rows
        """).fetchall()
    )


def rows_of(table: pa.Table) -> Counter[tuple[Any, ...]]:
    names = ("key", "rows", "o", "others")
    return Counter(zip(*(table[name].to_pylist() for name in names), strict=True))


def computed(site: Site, name: str = "joined", **parameters: object) -> dict[str, int]:
    """Tell how many slices of each history a run would compute."""
    return {s.step: len(s.slices) - len(s.reused) for s in site.plan(name, **parameters).stages}


# Against DuckDB ---------------------------------------------------------------------------------------------------

#: Types of the two key columns; values of one kind are equal whatever their width or layout.
TYPES = [
    (pa.int32(), pa.int64()),
    (pa.uint8(), pa.int16()),
    (pa.string(), pa.dictionary(pa.int8(), pa.string())),
    (pa.string_view(), pa.large_string()),
    (pa.timestamp("s", "UTC"), pa.timestamp("us", "UTC")),
    (pa.float32(), pa.float64()),
    (pa.bool_(), pa.bool_()),
]
_keys = st.none() | st.integers(0, 5)
_file = st.lists(_keys, max_size=6)


def key_array(keys: list[int | None], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind) or pa.types.is_large_string(kind) or str(kind).startswith("string"):
        return pa.array([None if key is None else f"key {key}" for key in keys]).cast(kind)
    if pa.types.is_boolean(kind):
        return pa.array([None if key is None else key > 2 for key in keys], kind)
    whole = pa.array(keys, pa.int64())
    return whole.cast(kind)


def left_rows(left: Any) -> pa.Table:
    table: pa.Table = left.arrow()
    return table


def right_rows(right: Any) -> pa.Table:
    table: pa.Table = right.arrow()
    return table


def joined_rows(combined: Any, right: Any, how: str = "INNER", equal: str = "=") -> pa.Table:
    table: pa.Table = combined.sql(
        f'SELECT coalesce(l, r) AS l, r, n, m FROM combined {how} JOIN "right" ON l {equal} r'
    )
    return table


def as_rows(table: pa.Table) -> Counter[tuple[Any, ...]]:
    return Counter(zip(*(column.to_pylist() for column in table.columns), strict=True))


@cache
def join_of(parts: int) -> Job:
    right = job(history="right", by="r", parts=parts, combine="concat")(right_rows)
    made = job(history="left", by="l", parts=parts, combine="concat", join={"right": right})(left_rows)
    made.finish(joined_rows)
    return made


@settings(max_examples=20)
@given(
    left=st.lists(_file, max_size=4),
    right=st.lists(_file, max_size=4),
    kinds=st.sampled_from(TYPES),
    parts=st.sampled_from([1, 2, 5]),
    how=st.sampled_from(["INNER", "LEFT", "FULL"]),
    equal=st.sampled_from(["=", "IS NOT DISTINCT FROM"]),
    data=st.data(),
)
def test_a_join_of_parts_is_the_join_of_the_whole_however_it_came_about(
    left: list[list[int | None]], right: list[list[int | None]], kinds: Any, parts: int, how: str, equal: str, data: Any
):
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as oracle:
        site = Site(root=Path(folder))
        for name, files, key, value, kind in (("left", left, "l", "n", kinds[0]), ("right", right, "r", "m", kinds[1])):
            (site.root / name).mkdir()
            whole = []
            for at, keys in enumerate([*files, []]):  # one without rows always, or there would be no columns
                numbers = pa.array(range(at * 10, at * 10 + len(keys)), pa.int64())
                whole.append(pa.table({key: key_array(keys, kind), value: numbers}))
                pq.write_table(whole[-1], site.root / name / f"{at}.parquet")
            oracle.register(name, pa.concat_tables([part.unify_dictionaries() for part in whole]))
        made = join_of(parts)
        found = ran(site, made, Shuffled(data), slices_per_task=data.draw(st.integers(1, 3)), how=how, equal=equal)
        asked = f'SELECT coalesce(l, r), r, n, m FROM "left" {how} JOIN "right" ON l {equal} r'
        assert as_rows(found) == as_rows(oracle.sql(asked).to_arrow_table())
        stored = sorted(path.stem for path in site.root.rglob("*.arrow"))
        for key in data.draw(st.lists(st.sampled_from(stored), unique=True)):
            site.partials.remove(key)
        assert table_digest(ran(site, made, Shuffled(data), how=how, equal=equal)) == table_digest(found)


def ran(site: Site, made: Job, executor: Executor, **given: Any) -> pa.Table:
    merged = outcome(site.partials, site.run(executor, made, **given).results, ("l",))
    return merged.table() if isinstance(merged, Merged) else merged


# The same whoever does it -----------------------------------------------------------------------------------------


def test_a_join_has_the_same_bits_whoever_does_the_work_and_in_whatever_order(site: Site):
    first = result(site, site.run(InlineExecutor(), "joined"))
    assert rows_of(first) == wanted(site)
    for lent, grouping in ((Unreliable(3), 1), (Unreliable(4), 5), (ThreadsExecutor(3), None), (DaskExecutor(2), 3)):
        with lent as executor:
            done = site.run(executor, "joined", fresh=True, slices_per_task=grouping)
        assert table_digest(result(site, done)) == table_digest(first)


@pytest.mark.parametrize("empty", ["numbers", "others", "both"])
def test_a_side_may_be_empty(site: Site, empty: str):
    if empty in ("numbers", "both"):
        write_numbers(site.root / "numbers", 0)
    if empty in ("others", "both"):
        schema = pq.read_schema(site.root / "others" / "a.parquet")
        pq.write_table(schema.empty_table(), site.root / "others" / "a.parquet")
    found = result(site, site.run(InlineExecutor(), "joined"))
    assert rows_of(found) == wanted(site)


def test_one_hot_key_meets_all_of_its_rows(site: Site):
    table = pa.table({"k": pa.array([7] * 5_000, pa.int32()), "o": pa.array(range(5_000), pa.int64())})
    pq.write_table(table, site.root / "others" / "a.parquet", row_group_size=500)
    assert rows_of(result(site, site.run(InlineExecutor(), "joined"))) == wanted(site)


# Reuse ------------------------------------------------------------------------------------------------------------


def test_only_the_side_that_changed_is_computed_and_only_where_it_changed(site: Site):
    inline = InlineExecutor()
    assert computed(site) == {"others.slice": OTHER_SLICES, "slice": SLICES}
    site.run(inline, "joined")
    assert computed(site) == {"others.slice": 0, "slice": 0}
    # Parameters of one side, of the other, and of the join.
    assert computed(site, every=2) == {"others.slice": 0, "slice": SLICES}
    assert computed(site, bad_other=-2) == {"others.slice": OTHER_SLICES, "slice": 0}
    before, after = site.plan("joined"), site.plan("joined", bad_other=-2)
    assert why_not_reused(after, before) == {"parameter bad_other changed": OTHER_SLICES}
    assert computed(site, times=5) == {"others.slice": 0, "slice": 0}
    write_others(site.root, more=True)
    assert computed(site) == {"others.slice": 1, "slice": 0}
    assert why_not_reused(site.plan("joined"), before) == {"new data": 1}
    done = site.run(inline, "joined")
    assert done.computed == 1
    assert rows_of(result(site, done)) == wanted(site)
    write_numbers(site.root / "numbers", SLICES + 1)
    assert computed(site)["others.slice"] == 0
    again = site.run(inline, "joined", times=2)
    doubled = [(key, n, None if o is None else 2 * o, c) for key, n, o, c in wanted(site).elements()]
    assert rows_of(result(site, again)) == Counter(doubled)


def test_what_a_joined_job_has_computed_alone_is_not_computed_again(site: Site):
    site.run(InlineExecutor(), "other_rows")
    assert computed(site) == {"others.slice": 0, "slice": SLICES}
    done = site.run(InlineExecutor(), "joined")
    assert (done.computed, done.reused) == (SLICES, OTHER_SLICES)


def test_a_damaged_part_of_either_side_is_made_again(site: Site):
    first = site.run(InlineExecutor(), "joined")
    digest = table_digest(result(site, first))
    others, numbers = site.plan("joined").stages
    for key in (others.keys[2], others.parts[1].combined, numbers.parts[1].combined):
        for finished in numbers.results:
            site.partials.remove(finished)
        for part in others.parts:
            if key == others.keys[2]:
                site.partials.remove(part.combined)
        path = site.partials.path(key)
        content = bytearray(path.read_bytes())
        for at in range(len(content) // 4, len(content) // 2, 16):
            content[at] ^= 255
        path.write_bytes(content)
        assert table_digest(result(site, site.run(InlineExecutor(), "joined"))) == digest


def test_a_slice_that_is_computed_anew_is_joined_anew(site: Site):
    site.run(InlineExecutor(), "joined")
    plan = site.plan("joined", anew=[4])
    assert set(plan.stages[-1].results) <= plan.anew
    assert set(plan.stages[0].keys).isdisjoint(plan.anew)


# Incomplete, refused ----------------------------------------------------------------------------------------------


def test_what_fails_on_either_side_is_left_out_and_never_taken_for_the_whole(site: Site):
    complete = site.plan("joined").stages[-1]
    everything = wanted(site)
    for bad, numbers, others in (
        ({"bad": 3}, "n <> 3", "true"),
        ({"bad_other": 25}, "true", "o NOT BETWEEN 20 AND 29"),
        ({"bad": 3, "bad_other": 25}, "n <> 3", "o NOT BETWEEN 20 AND 29"),
    ):
        with pytest.raises(JobFailed, match="is bad"):
            site.run(InlineExecutor(), "joined", **bad)
        planned = site.plan("joined", **bad).stages
        before = {path.stem for path in site.root.rglob("*.arrow")}
        done = site.run(InlineExecutor(), "joined", allow_failed=1, **bad)
        assert rows_of(result(site, done)) == wanted(site, numbers=numbers, others=others) != everything
        assert {*complete.results, *planned[-1].results}.isdisjoint(done.results)
        coverage = covered_together([(stage.join, stage.coverage) for stage in done.stages])
        assert coverage.slices - coverage.slices_done == len(bad)
        assert set(coverage.parts) == {"others: a.parquet", "numbers.parquet"}
        # Whoever forgets the run finds all that it has stored.
        missing = [[failed.position for failed in stage.failed] for stage in done.stages]
        left = without_slices(planned, missing, purpose="tolerated")
        assert left is not None
        assert {path.stem for path in site.root.rglob("*.arrow")} - before <= left[0].made | left[1].made
    assert rows_of(result(site, site.run(InlineExecutor(), "joined"))) == everything


def test_keys_of_two_kinds_are_refused_with_the_first_slice(site: Site):
    with pytest.raises(BadPartial, match=r"'key' is int64 \(whole number\) and 'k' of others is string \(text\)"):
        site.run(InlineExecutor(), "unjoinable", slices_per_task=1)
    keys = site.plan("unjoinable").stages[-1].keys
    assert not site.partials.exists(keys)
