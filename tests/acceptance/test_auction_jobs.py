"""The jobs of an auction site against DuckDB over the same files: several slices, one engine of another's."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from acceptance.command import hindscan, same_rows
from hindscan.config_file import load_project
from hindscan.generate import generate_auctions
from hindscan.planning import ask, pin, prepare
from hindscan.tasks.execution import execute
from hindscan.tasks.executor import InlineExecutor
from hindscan.tasks.outcome import Merged, outcome
from hindscan.template import write_project
from hindscan.workshop import open_workshop

if TYPE_CHECKING:
    from hindscan.testing import KafkaCluster

BIDS = 60_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose history is another than the committed one."""
    folder = tmp_path_factory.mktemp("auctions")
    write_project(folder, bids=0)
    generate_auctions(str(folder / "data"), bids=BIDS, seed=11)
    return folder


@pytest.fixture(scope="module")
def oracle(site: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, files in (
            ("bids", "bids/**/*.parquet"),
            ("auctions", "auctions/*.parquet"),
            ("persons", "persons/*.parquet"),
        ):
            connection.execute(
                f"CREATE TABLE {name} AS FROM read_parquet('{site}/data/{files}', hive_partitioning = false)"
            )
        yield connection


def result(
    site: Path,
    job: str,
    *,
    env: dict[str, str] | None = None,
    histories: dict[str, str] | None = None,
    **parameters: Any,
) -> pa.Table:
    """Run a job by the calls that the command makes, here: what a worker process adds is tested elsewhere."""
    project = load_project(site, env)
    with open_workshop(project) as workshop, InlineExecutor() as executor:
        spec, code = workshop.job(job)
        request = ask(project, spec, parameters, histories=histories)
        prepared = prepare(project, spec, request, pin(project, spec, request), workshop.partials.has, workers=1)
        assert prepared.cost.slices > 3
        done = execute(
            prepared.plan, run="run", code=code, readers=prepared.readers, partials=workshop.partials, executor=executor,
            observe=lambda _: None, stop=threading.Event(),
        )  # fmt: skip
        made = outcome(workshop.partials, done.results, spec.by)
        return made.table() if isinstance(made, Merged) else made


def test_bidders_denormalised(site: Path, oracle: duckdb.DuckDBPyConnection) -> None:
    wanted = oracle.sql(
        """
        SELECT b.bidder, p.name, p.city, p.state, b.auction, a.item, a.seller, s.name AS seller_name, count(*) AS bids,
               max(b.price) AS top, max(b.date_time) AS last
        FROM bids AS b LEFT JOIN auctions AS a ON a.id = b.auction LEFT JOIN persons AS p ON p.id = b.bidder
             LEFT JOIN persons AS s ON s.id = a.seller
        WHERE b.category = 'books' GROUP BY ALL ORDER BY b.bidder, b.auction
        """
    ).to_arrow_table()
    assert wanted.num_rows > 100
    same_rows(result(site, "bidders_denormalised", category="books"), wanted)


def test_winning_bids(site: Path, oracle: duckdb.DuckDBPyConnection) -> None:
    wanted = oracle.sql(
        """
        WITH won AS (
            SELECT * FROM bids QUALIFY row_number() OVER (PARTITION BY auction ORDER BY price DESC, date_time, bidder) = 1
        )
        SELECT auction, item, a.category, seller, bidder, price, won.date_time, price >= reserve AS sold
        FROM won JOIN auctions AS a ON a.id = auction WHERE expires <= (SELECT max(date_time) FROM won) ORDER BY auction
        """
    ).to_arrow_table()
    assert 100 < wanted.num_rows < oracle.sql("SELECT count(DISTINCT auction) FROM bids").fetchall()[0][0]
    assert set(wanted["sold"].to_pylist()) == {True, False}
    same_rows(result(site, "winning_bids"), wanted)


@pytest.mark.parametrize("least_bids", [0, 4])
def test_auction_outcomes(site: Path, oracle: duckdb.DuckDBPyConnection, least_bids: int) -> None:
    # Another way to the winner than the job's, over both tables at once.
    wanted = oracle.sql(
        """
        WITH ranked AS (
            SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC, date_time, bidder) AS rank,
                count(*) OVER (PARTITION BY auction) AS bids FROM bids
        )
        SELECT a.id AS auction, a.category, seller, coalesce(bids, 0) AS bids, coalesce(price >= reserve, false) AS sold,
            if(price >= reserve, bidder, NULL) AS winner, if(price >= reserve, price, NULL) AS price
        FROM auctions AS a LEFT JOIN (FROM ranked WHERE rank = 1) AS won ON won.auction = a.id
        WHERE coalesce(bids, 0) >= $least ORDER BY a.id
        """,
        params={"least": least_bids},
    ).to_arrow_table()
    auctions = oracle.sql("SELECT count(*) FROM auctions").fetchall()[0][0]
    assert wanted.num_rows == auctions if not least_bids else 100 < wanted.num_rows < auctions
    assert set(wanted["sold"].to_pylist()) == {True, False}
    assert None in wanted["winner"].to_pylist()
    assert (0 in wanted["bids"].to_pylist()) == (not least_bids)
    same_rows(result(site, "auction_outcomes", least_bids=least_bids), wanted)


#: The same join in SQL, with a broadcast table on the side that is joined.
SOLD_IN_SQL = """\
-- /// job
-- history = "bids"
-- by = "auction"
-- parts = 3
-- [join.lots]
-- history = "auctions"
-- by = "id"
-- combine = "concat"
-- tables = { people = "persons" }
-- [parameters]
-- state = { type = "str | None" }
-- ///
-- name: slice
SELECT auction, max(price) AS price FROM bids GROUP BY auction
-- name: combine
SELECT auction, max(price) AS price FROM partials GROUP BY auction
-- name: lots.slice
SELECT auctions.id, reserve, people.state FROM auctions JOIN people ON people.id = seller WHERE $state IS NULL OR people.state = $state
-- name: finish
SELECT id AS auction, state, price FROM lots JOIN combined ON id = auction WHERE price >= reserve
"""


def test_a_join_is_written_in_sql_and_reused_side_by_side(sample: Path) -> None:
    (sample / "jobs" / "sold.sql").write_text(SOLD_IN_SQL)
    first = result(sample, "sold")
    document = hindscan("run", "sold", "-p", "state=CA", "--json", project=sample).document
    slices = document["slices"]["total"] - 1
    assert document["slices"] == {"total": slices + 1, "reused": slices, "computed": 1}
    data = sample / "data"
    for found, state in ((first, None), (pq.read_table(document["result"]["path"]), "CA")):
        wanted = duckdb.sql(
            f"""
            SELECT a.id AS auction, state, max(price) AS price
            FROM '{data}/auctions/*.parquet' AS a JOIN '{data}/bids/**/*.parquet' AS b ON a.id = b.auction
                JOIN '{data}/persons/*.parquet' AS p ON p.id = a.seller
            WHERE $state IS NULL OR state = $state GROUP BY ALL HAVING max(price) >= any_value(reserve) ORDER BY a.id
            """,
            params={"state": state},
        ).to_arrow_table()
        assert wanted.num_rows > 50
        same_rows(found, wanted)
    manifest = json.loads(Path(document["manifest"]).read_text())
    assert [pin["table"] for pin in manifest["snapshot"]] == ["bids", "lots", "lots.people"]
    proofs = pq.read_table(Path(document["manifest"]).with_name("snapshot.parquet"))
    assert Counter(proofs["stage"].to_pylist()) == {"lots.slice": 1, "slice": slices}
    assert None not in proofs["records"].to_pylist()


def test_sellers_revenue(site: Path, oracle: duckdb.DuckDBPyConnection) -> None:
    bids, auctions, persons = (
        oracle.sql(f"FROM {name}").to_arrow_table().to_pandas() for name in ("bids", "auctions", "persons")
    )
    # Another library than the job's, over all rows at once.
    ended = auctions[(auctions.expires >= "2017-01-01") & (auctions.expires < "2018-01-01")]
    closed = ended.merge(bids.groupby("auction").price.max().rename("price"), left_on="id", right_index=True)
    closed["revenue"] = closed.price.where(closed.price >= closed.reserve)
    wanted = closed.groupby("seller").agg(
        auctions=("price", "size"), sales=("revenue", "count"), revenue=("revenue", "sum"), best=("revenue", "max")
    )
    wanted = wanted.reset_index().merge(persons[["id", "name"]], left_on="seller", right_on="id", how="left")
    wanted = wanted.sort_values(["revenue", "seller"], ascending=[False, True])
    found = result(site, "sellers_revenue", year=2017)
    assert found.num_rows == len(wanted) > 50
    for name in ("seller", "name", "auctions", "sales", "revenue"):
        assert found[name].to_pylist() == wanted[name].tolist()
    assert found["best"].to_pylist() == [None if best != best else int(best) for best in wanted["best"]]  # noqa: PLR0124 (is no number)


@pytest.mark.parametrize("category", [None, "cars"])
def test_new_bidders(site: Path, oracle: duckdb.DuckDBPyConnection, category: str | None) -> None:
    first: dict[int, datetime] = {}
    rows = oracle.sql(
        "SELECT bidder, date_time FROM bids WHERE $category IS NULL OR category = $category",
        params={"category": category},
    ).to_arrow_table()
    for bidder, time in zip(*(rows[name].to_pylist() for name in ("bidder", "date_time")), strict=True):
        first[bidder] = min(first.get(bidder, time), time)
    weeks = sorted(Counter(time.date() - timedelta(days=time.weekday()) for time in first.values()).items())
    found = result(site, "new_bidders", category=category)
    assert [week.date() for week in found["week"].to_pylist()] == [week for week, _ in weeks]
    assert found["new_bidders"].to_pylist() == [count for _, count in weeks]
    assert found["bidders"].to_pylist() == list(accumulate(count for _, count in weeks))
    assert found.num_rows > 20


@pytest.mark.parametrize("seed", [11, 3])
def test_shill_ring_finds_the_planted_ring(site: Path, tmp_path: Path, seed: int) -> None:
    if seed != 11:
        write_project(tmp_path, bids=0)
        generate_auctions(str(tmp_path / "data"), bids=40_000, seed=seed)
        site = tmp_path
    ring = json.loads((site / "data" / "shill_ring.json").read_text())
    planted = {(ring["seller"], bidder) for bidder in ring["bidders"]}
    found = {(row["seller"], row["bidder"]) for row in result(site, "shill_ring").to_pylist()}
    recall, precision = len(found & planted) / len(planted), len(found & planted) / max(len(found), 1)
    assert recall >= 0.9
    assert precision >= 0.9


def test_bids_per_hour(site: Path, oracle: duckdb.DuckDBPyConnection) -> None:
    wanted = oracle.sql(
        "SELECT hour(date_time) AS hour, count(*) AS bids, avg(price) AS average, max(price) AS top FROM bids WHERE category = 'cars' GROUP BY ALL ORDER BY hour"
    ).to_arrow_table()
    found = result(site, "bids_per_hour", category="cars")
    assert wanted.num_rows == 24
    for name in ("hour", "bids", "top"):
        assert found[name].to_pylist() == wanted[name].to_pylist()
    assert found["average"].to_pylist() == pytest.approx(wanted["average"].to_pylist(), rel=1e-12)


def test_a_whole_job_is_run_planned_and_reused_by_the_command(sample: Path) -> None:
    first = hindscan("run", "bids_per_hour", "--json", project=sample).document
    total = first["slices"]["total"]
    assert first["slices"] == {"total": total, "reused": 0, "computed": total}
    planned = hindscan("plan", "bids_per_hour", "--json", project=sample).document
    assert (planned["slices"], planned["reused"], planned["tasks"]) == (total, total, 0)
    second = hindscan("run", "bids_per_hour", "--json", project=sample).document
    assert second["slices"] == {"total": total, "reused": total, "computed": 0}
    assert second["result"]["digest"] == first["result"]["digest"]
    # The proof of each slice is beside the result, whether it was computed or reused.
    for document in (first, second):
        slices = pq.read_table(Path(document["result"]["path"]).with_name("snapshot.parquet"))
        assert slices.num_rows == total
    told = [json.loads(Path(document["manifest"]).read_text())["slices"] for document in (first, second)]
    assert told[0] != told[1]


@pytest.mark.kafka
def test_a_topic_gives_a_sql_job_and_a_whole_job_the_same_rows_as_files(
    site: Path, kafka_cluster: KafkaCluster
) -> None:
    cluster = {"bootstrap.servers": kafka_cluster.bootstrap}
    # A topic of its own: other tests fill `bids`, and the cluster may be theirs, too.
    generate_auctions("kafka:bids-for-jobs", source=str(site / "data"), kafka=cluster, partitions=3, aborted=5)
    env = {
        "HINDSCAN_KAFKA__DEFAULT__BOOTSTRAP_SERVERS": f'"{kafka_cluster.bootstrap}"',
        "HINDSCAN_HISTORY__BIDS_LOG__TOPIC": '"bids-for-jobs"',
    }
    for job in ("closing_price_by_category", "bids_per_hour"):
        document = hindscan("run", job, "--history", "bids=bids_log", "--json", project=site, **env).document
        found, wanted = pq.read_table(document["result"]["path"]), result(site, job)
        assert found.num_rows == wanted.num_rows > 5
        for name in wanted.column_names:
            assert (
                found[name].to_pylist() == pytest.approx(wanted[name].to_pylist(), rel=1e-12)
                if name == "average"
                else (found[name].to_pylist() == wanted[name].to_pylist())
            )
        manifest = json.loads(Path(document["manifest"]).read_text())
        assert manifest["slices"]["computed"] == document["slices"]["total"] > 0
    # A topic joined with files.
    joined = result(site, "auction_outcomes", env=env, histories={"bids": "bids_log"})
    assert joined.equals(result(site, "auction_outcomes"))
