"""One result, whoever did the work, however it was grouped, in whatever order, and whatever was there before (promises 7 and 8)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.running import Shuffled, Site, make_site
from hindscan.tasks.dask import DaskExecutor
from hindscan.tasks.executor import Executor, InlineExecutor
from hindscan.tasks.threads import ThreadsExecutor

#: Two rows for each slice.
SLICE = 2

ROWS = st.lists(
    st.tuples(
        st.sampled_from([None, "", "a", "b", "ä"]),
        st.none() | st.floats(allow_nan=True, allow_infinity=False, width=32) | st.just(-0.0),
        st.none() | st.integers(-(2**62), 2**62),
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def executors() -> Iterator[dict[str, Executor]]:
    with ThreadsExecutor(1) as one, ThreadsExecutor(3) as three, DaskExecutor(2) as processes:
        yield {"threads-1": one, "threads-3": three, "processes-2": processes, "inline": InlineExecutor()}


def write(site: Site, tables: list[list[tuple[str | None, float | None, int | None]]]) -> None:
    for at, rows in enumerate(tables):
        group, value, whole = zip(*rows, strict=True) if rows else ((), (), ())
        table = pa.table(
            {"g": pa.array(group, pa.string()), "v": pa.array(value, pa.float64()), "w": pa.array(whole, pa.int64())}
        )
        pq.write_table(table, site.root / "numbers" / f"{at}.parquet", row_group_size=SLICE)


def oracle(
    tables: list[list[tuple[str | None, float | None, int | None]]],
) -> dict[str | None, tuple[int, int, int, float]]:
    """Counts of rows, of values and of NaN, and the exact sum of the rest, by group, in plain Python."""
    rows = [row for table in tables for row in table]
    found = {}
    for group in {row[0] for row in rows}:
        values = [value for name, value, _ in rows if name == group and value is not None]
        finite = [value for value in values if not math.isnan(value)]
        of_group = sum(name == group for name, _, _ in rows)
        found[group] = (of_group, len(values), len(values) - len(finite), math.fsum(finite))
    return found


@given(tables=st.lists(ROWS, min_size=1, max_size=5), data=st.data())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_results_do_not_depend_on_how_they_came_about(executors, tables, data):
    with tempfile.TemporaryDirectory() as folder:
        site = make_site(Path(folder), 0)
        (site.root / "numbers" / "numbers.parquet").unlink()
        write(site, tables)
        first = site.run(Shuffled(data), "groups", slice_rows=SLICE, slices_per_task=data.draw(st.integers(1, 4)))
        wanted = site.partials.read_meta(first.finished).digest
        rows = site.partials.read(first.finished).to_pylist()
        assert {r["g"]: (r["rows"], r["valued"], r["nans"]) for r in rows} == {
            group: counts[:3] for group, counts in oracle(tables).items()
        }
        for row in rows:
            assert row["total"] == pytest.approx(oracle(tables)[row["g"]][3], rel=1e-9, abs=1e-3)
        plan = site.plan("groups", slice_rows=SLICE)
        for name in data.draw(st.permutations([*executors, "shuffled"])):
            executor = Shuffled(data) if name == "shuffled" else executors[name]
            fresh = data.draw(st.booleans())
            if not fresh:  # some of what was stored has gone since
                for key in [*plan.stages[0].keys, plan.stages[0].combined, plan.stages[0].finished]:
                    if data.draw(st.booleans()):
                        site.partials.remove(key)
            grouping = data.draw(st.none() | st.integers(1, 4))
            done = site.run(executor, "groups", slice_rows=SLICE, fresh=fresh, slices_per_task=grouping)
            assert done.finished == first.finished
            assert site.partials.read_meta(done.finished).digest == wanted
