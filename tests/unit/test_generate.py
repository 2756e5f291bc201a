"""The sample history is what the design says, the same for the same seed, and shows what real sites show."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindscan.catalogue import AUCTIONS, BIDS, CATEGORIES, CHANNELS, PERSONS
from hindscan.errors import Conflict, CorruptData, SourceMissing, UsageError
from hindscan.generate import Sample, generate_auctions
from hindscan.sample import found_site, parts

if TYPE_CHECKING:
    from collections.abc import Callable

N, SEED = 60_000, 3


def digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return generate_auctions(str(tmp_path_factory.mktemp("sample")), bids=N, seed=SEED)


@pytest.fixture(scope="module")
def ask(sample: Sample) -> Callable[[str], tuple[object, ...]]:
    """Ask DuckDB for one row over the three tables."""
    site = duckdb.connect()
    site.execute("SET TimeZone = 'UTC'")
    for name, files in (("bids", "*/*/*.parquet"), ("auctions", "*.parquet"), ("persons", "*.parquet")):
        site.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{sample.target}/{name}/{files}')")

    def one(query: str) -> tuple[object, ...]:
        row = site.execute(query).fetchone()
        assert row is not None
        return row

    return one


def number(ask: Callable[[str], tuple[object, ...]], query: str) -> float:
    (value,) = ask(query)
    return float(str(value))


def test_the_tables_have_the_schemas_of_the_design(sample: Sample) -> None:
    for name, schema in (("persons", PERSONS), ("auctions", AUCTIONS)):
        assert pq.read_schema(f"{sample.target}/{name}/part-0.parquet").equals(schema)
    for file in Path(sample.target, "bids").rglob("*.parquet"):
        assert pq.read_schema(file).equals(BIDS)
    written = [f"{field.name} {field.type}" for field in BIDS]
    assert written == [
        "auction int64",
        "bidder int64",
        "price int64",
        "channel string",
        "category string",
        "date_time timestamp[us, tz=UTC]",
    ]


def test_the_counts_are_those_asked_for_and_those_returned(
    sample: Sample, ask: Callable[[str], tuple[object, ...]]
) -> None:
    counts = ask("SELECT (FROM bids SELECT count(*)), (FROM auctions SELECT count(*)), (FROM persons SELECT count(*))")
    assert counts == (N, sample.auctions, sample.persons)


def test_each_file_holds_its_month_in_the_order_of_time_under_page_checksums(sample: Sample) -> None:
    files = list(Path(sample.target, "bids").rglob("*.parquet"))
    assert {str(file.relative_to(sample.target)) for file in files} == {
        f"bids/year={year}/month={month}/part-0.parquet" for year in (2017, 2018, 2019) for month in range(1, 13)
    }
    for file in files:
        year, month = (int(part.split("=")[1]) for part in file.parts[-3:-1])
        misplaced = duckdb.execute(
            f"SELECT count(*) FILTER (year(t) <> {year} OR month(t) <> {month}), count(*) FILTER (t < before) FROM "
            f"(SELECT t, lag(t) OVER (ORDER BY file_row_number) AS before FROM (SELECT file_row_number, "
            f"date_time AT TIME ZONE 'UTC' AS t FROM read_parquet('{file}', file_row_number = true)))"
        ).fetchall()
        assert misplaced == [(0, 0)]
    # A flipped byte in a page is found, which it is only where the checksum was written.
    broken = bytearray(files[0].read_bytes())
    broken[len(broken) // 3] ^= 0xFF
    copy = Path(sample.target).with_name("broken.parquet")
    copy.write_bytes(broken)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(copy, page_checksum_verification=True)


def test_a_large_file_is_cut_into_row_groups_that_can_be_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hindscan.generate.ROW_GROUP_ROWS", 500)
    generate_auctions(str(tmp_path), bids=N, seed=1)
    for file, time in (("bids/year=2019/month=11/part-0.parquet", 5), ("auctions/part-0.parquet", 7)):
        metadata = pq.read_metadata(tmp_path / file)
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        assert len(groups) >= 4
        assert max(group.num_rows for group in groups) == 500
        assert {group.num_rows for group in groups[:-1]} == {500}
        bounds = [(stats.min, stats.max) for group in groups if (stats := group.column(time).statistics)]
        assert len(bounds) == len(groups)
        assert bounds == sorted(bounds)


def test_every_row_keeps_the_rules_of_the_house(ask: Callable[[str], tuple[object, ...]]) -> None:
    broken = ask(
        "SELECT count(*) FILTER (b.date_time < a.date_time OR b.date_time >= a.expires), "
        "count(*) FILTER (b.category <> a.category), count(*) FILTER (b.bidder = a.seller), "
        "count(*) FILTER (b.price < a.initial_bid), count(*) FILTER (b.date_time < p.date_time), "
        "count(*) FILTER (a.id IS NULL OR p.id IS NULL) "
        "FROM bids b LEFT JOIN auctions a ON a.id = b.auction LEFT JOIN persons p ON p.id = b.bidder"
    )
    assert broken == (0, 0, 0, 0, 0, 0)
    strangers = ask(
        "SELECT count(*) FROM auctions a LEFT JOIN persons p ON p.id = seller WHERE p.id IS NULL OR p.date_time > a.date_time"
    )
    assert strangers == (0,)
    assert ask("SELECT min(id), max(id) - count(*), count(DISTINCT id) - count(*) FROM auctions") == (1, 0, 0)
    assert ask("SELECT min(date_time) >= '2017-01-01', max(date_time) < '2020-01-01' FROM bids") == (True, True)


def test_prices_rise_within_every_auction(ask: Callable[[str], tuple[object, ...]]) -> None:
    steps = "SELECT price - lag(price) OVER (PARTITION BY auction ORDER BY date_time, price) AS step FROM bids"
    assert number(ask, f"SELECT min(step) FROM ({steps})") >= 1


def test_cars_are_bid_on_in_every_year_and_every_category_and_channel_occurs(
    ask: Callable[[str], tuple[object, ...]],
) -> None:
    cars = ask("SELECT count(DISTINCT year(date_time)), count(*) FROM bids WHERE category = 'cars'")
    assert cars[0] == 3
    assert ask("SELECT list_sort(list(DISTINCT category)), list_sort(list(DISTINCT channel)) FROM bids") == (
        sorted(CATEGORIES),
        sorted(CHANNELS),
    )
    assert sum(kind.share for kind in CATEGORIES.values()) == pytest.approx(1.0)


def test_few_bidders_and_few_auctions_have_most_of_the_bids(ask: Callable[[str], tuple[object, ...]]) -> None:
    for column in ("auction", "bidder"):
        counts = f"SELECT count(*) AS n, ntile(100) OVER (ORDER BY count(*) DESC) AS slot FROM bids GROUP BY {column}"
        share = number(ask, f"SELECT sum(n) FILTER (slot <= 10) / sum(n) FROM ({counts})")
        assert share > 0.4, f"the busiest tenth by {column} has {share:.0%}"


def test_evenings_and_weekends_are_busier_and_bids_crowd_before_closing(
    ask: Callable[[str], tuple[object, ...]],
) -> None:
    evening, night = ask(
        "SELECT count(*) FILTER (hour(date_time) = 20), count(*) FILTER (hour(date_time) = 4) FROM bids"
    )
    assert int(str(evening)) > 5 * int(str(night))
    sunday, monday = ask(
        "SELECT count(*) FILTER (isodow(date_time) = 7), count(*) FILTER (isodow(date_time) = 1) FROM bids"
    )
    assert int(str(sunday)) > 1.2 * int(str(monday))
    last_hour = number(
        ask,
        "SELECT avg((a.expires - b.date_time < INTERVAL 1 HOUR)::INT) FROM bids b JOIN auctions a ON a.id = b.auction",
    )
    # Evenly spread over three days and more, it would be 1 or 2 %.
    assert last_hour > 0.15


def test_the_planted_ring_drives_up_its_sellers_auctions_and_wins_none(
    sample: Sample, ask: Callable[[str], tuple[object, ...]]
) -> None:
    ring = sample.shill_ring
    assert json.loads(Path(sample.target, "shill_ring.json").read_text()) == {
        "seller": ring.seller,
        "bidders": list(ring.bidders),
    }
    theirs = f"SELECT id FROM auctions WHERE seller = {ring.seller}"
    assert number(ask, f"SELECT count(*) FROM ({theirs})") >= 36
    assert number(ask, f"SELECT avg((bidder IN {ring.bidders})::INT) FROM bids WHERE auction IN ({theirs})") > 0.35
    assert number(ask, f"SELECT avg((auction IN ({theirs}))::INT) FROM bids WHERE bidder IN {ring.bidders}") > 0.7
    winners = f"SELECT arg_max(bidder, price) AS winner FROM bids WHERE auction IN ({theirs}) GROUP BY auction"
    assert ask(f"SELECT count(*) FILTER (winner IN {ring.bidders}), count(*) > 10 FROM ({winners})") == (0, True)


def test_the_ring_wins_nothing_of_its_sellers_even_when_its_members_bid_everywhere() -> None:
    site = found_site(bids=5_000, seed=SEED)
    weights = np.diff(site.bidding, prepend=0)
    weights[np.array(site.ring.bidders) - 1] = weights.sum()
    drawn = list(parts(dataclasses.replace(site, bidding=np.cumsum(weights))))
    bids = pa.concat_tables([part.bids for part in drawn]).unify_dictionaries()
    auctions = pa.concat_tables([part.auctions for part in drawn]).unify_dictionaries()
    winners = duckdb.execute(
        "SELECT seller = $1, count(*) FILTER (winner IN $2) FROM auctions JOIN "
        "(SELECT auction, arg_max(bidder, price) AS winner FROM bids GROUP BY auction) ON auction = id GROUP BY 1",
        [site.ring.seller, list(site.ring.bidders)],
    ).fetchall()
    elsewhere, theirs = (dict(winners)[seller] for seller in (False, True))
    assert len(bids) == 5_000
    assert len(auctions) == site.auctions
    assert theirs == 0
    assert elsewhere > 100


def test_the_same_seed_gives_the_same_bytes_in_another_process_and_another_seed_others(
    sample: Sample, tmp_path: Path
) -> None:
    code = "import sys; from hindscan.generate import generate_auctions as g; g(sys.argv[1], bids=int(sys.argv[2]), seed=int(sys.argv[3]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "same"), str(N), str(SEED)], check=True)
    assert digests(tmp_path / "same") == digests(Path(sample.target))
    generate_auctions(str(tmp_path / "other"), bids=N, seed=SEED + 1)
    assert not set(digests(tmp_path / "other").values()) & set(digests(Path(sample.target)).values())


def test_the_committed_sample_is_what_its_readme_says_and_its_command_makes(tmp_path: Path) -> None:
    committed = Path(__file__).parents[2] / "data"
    readme = (committed / "README.md").read_text()
    assert sum(file.stat().st_size for file in committed.rglob("*") if file.is_file()) < 2_000_000
    assert "generate auctions data --bids 120000 --seed 1" in readme
    again = generate_auctions(str(tmp_path), bids=120_000, seed=1)
    assert f"seller {again.shill_ring.seller}, bidders" in readme
    for name, rows in (("persons", again.persons), ("auctions", again.auctions), ("bids", again.bids)):
        assert f"| {rows:,} |" in readme
        # Rows, not bytes: another version of Arrow may write another footer.
        assert pq.read_table(committed / name).equals(pq.read_table(tmp_path / name))


@settings(max_examples=15)
@given(bids=st.integers(1, 3_000), seed=st.integers(0, 2**63))
def test_any_size_and_seed_gives_exactly_that_many_bids_in_the_order_of_time(bids: int, seed: int) -> None:
    latest, seen, opened = 0, 0, 0
    site = found_site(bids=bids, seed=seed)
    for part in parts(site):
        times = part.bids["date_time"].cast(pa.int64()).to_numpy()
        assert (times[:-1] <= times[1:]).all()
        if len(times):
            assert times[0] >= latest
            latest = int(times[-1])
        seen += len(times)
        opened += part.auctions.num_rows
    assert (seen, opened) == (bids, site.auctions)


def test_a_history_larger_than_a_part_is_drawn_in_bounded_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hindscan.sample.PART_BIDS", 2_000)
    sizes = [part.bids.num_rows for part in parts(found_site(bids=N, seed=SEED))]
    assert sum(sizes) == N
    assert len(sizes) > 60
    assert max(sizes) < 4_000


def test_progress_adds_up_to_the_bids(tmp_path: Path) -> None:
    seen: list[int] = []
    generate_auctions(str(tmp_path), bids=5_000, seed=0, on_progress=seen.append)
    assert sum(seen) == 5_000
    assert len(seen) > 10


def test_a_folder_that_holds_a_sample_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("ours")
    generate_auctions(str(tmp_path), bids=100, seed=0)
    before = digests(tmp_path)
    with pytest.raises(Conflict, match=r"it has persons, auctions, shill_ring\.json, bids\. Choose another folder"):
        generate_auctions(str(tmp_path), bids=100, seed=1)
    assert digests(tmp_path) == before


def test_a_failure_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(_rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_auctions(str(tmp_path), bids=100, seed=1, on_progress=fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ("folder", {}, "either a number of bids or a source"),
        ("folder", {"bids": 0}, "bids must be 1 or more, got 0"),
        ("folder", {"bids": 0, "seed": -1}, "got 0; seed must be 0 or more, got -1"),
        ("folder", {"source": "other"}, "a source folder goes to a topic only"),
        ("folder", {"bids": 1, "aborted": 2}, "only a topic has transactions, but aborted is 2"),
        ("s3://bucket/lake", {"bids": 1}, "must be a local folder or kafka:TOPIC"),
        ("kafka:", {"bids": 1, "kafka": {"bootstrap.servers": "x"}}, "name is missing"),
        ("kafka:bids", {"bids": 1}, "needs a cluster with bootstrap.servers"),
        ("kafka:bids", {"bids": 1, "partitions": 0, "aborted": -1}, "partitions must be 1 or more, got 0; aborted"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_every_fault(
    tmp_path: Path, target: str, options: dict[str, object], words: str
) -> None:
    where = str(tmp_path / target) if target == "folder" else target
    with pytest.raises(UsageError, match=words):
        generate_auctions(where, **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_is_no_sample_or_is_damaged_is_named(tmp_path: Path) -> None:
    cluster = {"bootstrap.servers": "127.0.0.1:1"}
    with pytest.raises(SourceMissing, match="auctions, shill_ring"):
        generate_auctions("kafka:bids", source=str(tmp_path), kafka=cluster)
    generate_auctions(str(tmp_path), bids=1_000, seed=0)
    broken = tmp_path / "bids/year=2018/month=3/part-0.parquet"
    broken.write_bytes(broken.read_bytes()[:-10])
    with pytest.raises(CorruptData, match=str(broken)):
        generate_auctions("kafka:bids", source=str(tmp_path), kafka=cluster)
