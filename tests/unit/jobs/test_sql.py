"""A SQL job is a header and up to three SELECTs: what they name is what they see, and whatever else they are is refused with its place."""

from __future__ import annotations

import datetime as dt
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from hindscan.data import Data, TableSource
from hindscan.errors import JobDefinitionError
from hindscan.jobs.code import load
from hindscan.jobs.parameters import json_schema
from hindscan.jobs.registry import load_folder, load_folder_in_child
from hindscan.jobs.sql import read_sql

WHOLE = """\
-- Highest bids
-- of each auction.
--
-- More about it.
--
-- /// job
-- history = "bids"
-- tables = { auctions = "all_auctions" }
-- max_slices = 9
-- [parameters]
-- category = { type = 'literal["cars", "art"]', default = "cars", doc = "Which category." }
-- day = 2018-01-01
-- least = { type = "int(ge=1) | None" }
-- top = { type = "int" }
-- ///

-- name: slice
SELECT auction, max(price) AS price FROM bids
WHERE category = $category AND date_time >= $day AND ($least IS NULL OR price >= $least)
GROUP BY auction

-- name: combine
SELECT auction, max(price) AS price FROM partials GROUP BY auction

-- name: finish
WITH named AS (SELECT item, price FROM combined JOIN auctions ON id = auction)
SELECT * FROM named ORDER BY price DESC LIMIT $top;
"""

JOINED = "-- /// job\n-- history = 'bids'\n-- by = 'k'\n-- [join.y]\n-- history = 'x'\n-- by = 'k'\n-- ///\n"
READS = "-- name: slice\nFROM bids\n-- name: y.slice\nFROM x\n-- name: finish\nFROM combined JOIN y USING (k)"
PLAIN = "-- /// job\n-- history = 'bids'\n-- ///\n"


def faults(text: str) -> list[tuple[int, int, str]]:
    with pytest.raises(JobDefinitionError) as raised:
        read_sql(text, "job")
    told = raised.value.details["faults"]
    assert isinstance(told, list)
    assert all(fault in str(raised.value) for fault in told)
    places = [re.fullmatch(r"line (\d+), column (\d+): (.*)", fault, re.DOTALL) for fault in told]
    return [(int(place[1]), int(place[2]), place[3]) for place in places if place]


def digests(text: str) -> dict[str, str]:
    return {name: step.digest for name, step in read_sql(text, "job")[0].steps.items()}


def test_a_file_is_a_job_as_data() -> None:
    spec, code = read_sql(WHOLE, "highest", file="jobs/highest.sql")
    assert (spec.name, spec.kind, spec.table, spec.history, spec.file) == (
        "highest", "scan", "bids", "bids", "jobs/highest.sql",
    )  # fmt: skip
    assert (spec.doc, spec.combine, spec.max_slices) == ("Highest bids of each auction.", "function", 9)
    assert spec.tables == {"auctions": "all_auctions"}
    assert {p.name: (p.type, p.required, p.default, p.doc) for p in spec.parameters} == {
        "category": ('literal["cars", "art"]', False, "cars", "Which category."),
        "day": ("date", False, "2018-01-01", ""),
        "least": ("int(ge=1) | None", False, None, ""),
        "top": ("int", True, None, ""),
    }
    assert json_schema(spec)["required"] == ["top"]
    # What each statement names, and nothing else, is what it sees.
    assert {name: (step.parameters, step.tables) for name, step in spec.steps.items()} == {
        "slice": (("category", "day", "least"), ()),
        "combine": ((), ()),
        "finish": (("top",), ("auctions",)),
    }
    assert not code.modules
    assert spec.code == code.digest


def test_the_functions_of_a_sql_job_bind_what_they_are_given() -> None:
    _, code = read_sql(WHOLE, "highest")
    steps = load(code)
    bids = pa.table(
        {
            "auction": [1, 1, 2, 3],
            "price": [5, 9, 7, 99],
            "category": ["cars'; --", "cars'; --", "cars'; --", "art"],
            "date_time": pa.array([dt.datetime(2018, 1, 1, tzinfo=dt.UTC)] * 4, pa.timestamp("us", "UTC")),
        }
    )
    rows = Data("bids", {"bids": TableSource(bids)})
    found = steps["slice"](rows, category="cars'; --", day=dt.date(2018, 1, 1), least=None)
    assert sorted(found.to_pylist(), key=str) == [{"auction": 1, "price": 9}, {"auction": 2, "price": 7}]
    auctions = TableSource(pa.table({"id": [1, 2], "item": ["one", "two"]}))
    combined = Data("combined", {"combined": TableSource(found), "auctions": auctions})
    assert steps["finish"](combined, auctions=None, top=1).to_pylist() == [{"item": "one", "price": 9}]


def test_layout_comments_and_documentation_are_in_no_digest() -> None:
    edited = (
        WHOLE.replace("SELECT auction, max(price)", "select auction,   -- the auction\n  max( price )")
        .replace("More about it.", "Else.")
        .replace("Which category.", "The one.")
        .replace("int(ge=1)", "int(ge=2)")
    )
    assert edited != WHOLE
    assert digests(edited) == digests(WHOLE)


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("LIMIT $top", "LIMIT $top + 1", {"finish"}),
        ("max(price) AS price FROM partials", "min(price) AS price FROM partials", {"combine"}),
        ("price >= $least)", "price > $least)", {"slice"}),
        # The same JSON value is bound as a time instead of a date.
        ("day = 2018-01-01", "day = 2018-01-01T00:00:00Z", {"slice"}),
        ("ORDER BY price DESC", "ORDER BY price", {"finish"}),
        ("'literal", "'literal", set()),
    ],
)
def test_a_change_is_in_the_digest_of_its_statement_alone(old: str, new: str, changed: set[str]) -> None:
    before, after = digests(WHOLE), digests(WHOLE.replace(old, new))
    assert {step for step in before if before[step] != after[step]} == changed


def test_a_file_without_names_is_the_statement_of_the_slice() -> None:
    spec, _ = read_sql(PLAIN + "-- All of them.\nSELECT * FROM bids", "all")
    assert (list(spec.steps), spec.combine) == (["slice"], "none")
    concat, _ = read_sql(PLAIN.replace("'bids'", "'bids'\n-- combine = 'concat'") + "SELECT * FROM bids", "all")
    assert concat.combine == "concat"


def test_a_literal_may_look_like_a_comment() -> None:
    _, code = read_sql(PLAIN + "SELECT 'a\n-- b' AS text FROM bids", "odd")
    rows = Data("bids", {"bids": TableSource(pa.table({"a": [1]}))})
    assert load(code)["slice"](rows).to_pylist() == [{"text": "a\n-- b"}]


@pytest.mark.parametrize(
    ("statement", "place", "told"),
    [
        ("SELECT *\nFROM bids\nWHERE prize > $least", (6, 15), "$least is no parameter"),
        ("SELECT * FROM bids WHERE price > ?", (4, 34), "$1 is no parameter"),
        ("SELECT 'ä', *\nFROM\n  auctions", (6, 3), "auctions is no table of this statement"),
        ("SELECT * FROM 'data/bids.parquet'", (4, 15), "data/bids.parquet is no table"),
        ("SELECT * FROM read_parquet('data/bids.parquet')", (4, 15), "read_parquet() reads something"),
        ("SELECT * FROM query('SELECT 1')", (4, 15), "query() reads something"),
        ("SELECT * FROM information_schema.tables", (4, 15), "information_schema.tables is no table"),
        ("SELECT (SELECT max(a) FROM glob('*')) FROM bids", (4, 28), "glob() reads something"),
        ("SELECT random() FROM bids", (4, 8), "random() answers differently"),
        ("SELECT * FROM bids WHERE date_time > NOW()", (4, 38), "answers differently"),
        ("SELECT current_date FROM bids", (4, 8), "current_date is the time of the query"),
        ("SELECT * FROM bids USING SAMPLE 10", (4, 1), "a sample is another one"),
        ("SELECT * FROM bids TABLESAMPLE 10%", (4, 15), "a sample is another one"),
        ("SELECT * FRM bids b c", (4, 14), "syntax error"),
        ("DESCRIBE bids", (4, 1), "DESCRIBE, SHOW and SUMMARIZE are none"),
        ("\nATTACH 'x.db' AS x", (5, 1), "found is ATTACH"),
        ("COPY bids TO 'x.csv'", (4, 1), "found is COPY"),
        ("INSTALL httpfs", (4, 1), "found is LOAD"),
        ("PRAGMA version", (4, 1), "found is PRAGMA"),
        ("SET threads = 4", (4, 1), "found is"),
        ("CREATE TABLE t AS SELECT 1", (4, 1), "found is CREATE"),
        ("SELECT 1; SELECT 2", (4, 1), "found is SELECT and SELECT"),
        ("-- nothing", (4, 1), "found is none"),
        ("PIVOT bids ON category USING sum(price)", (4, 1), "a PIVOT needs its values"),
    ],
)
def test_anything_but_one_select_over_the_pinned_tables_is_refused(
    statement: str, place: tuple[int, int], told: str
) -> None:
    ((line, column, fault),) = faults(PLAIN + statement)
    assert told in fault
    assert (line, column) == place


@pytest.mark.parametrize(
    ("header", "place", "told"),
    [
        ("history = 'bids'\n-- historie = 1", (3, 1), "'historie' is no key of a header"),
        ("history = 3", (2, 1), "history: Expected `str`"),
        ("combine = 'concat'", (1, 1), "must name the history"),
        ("history = 'bids'\n-- max_slices = 0", (3, 1), "max_slices: Expected `int` >= 1"),
        ("history = 'bids'\n-- [parameters]\n-- least = 1", (4, 1), "'least' is named by no statement"),
        ("history = 'bids'\n-- [parameters]\n-- seed = 1", (4, 1), "is an option of every run"),
        ("history = 'bids'\n-- [parameters]\n-- p = { type = 'money' }", (4, 1), "unknown type 'money'"),
        ("history = 'bids'\n-- [parameters]\n-- p = { type = 'int', default = 'a' }", (4, 1), "has a default that must be"),
        ("history = 'bids'\n-- [parameters]\n-- p = { typ = 'int' }", (4, 1), "unknown field `typ`"),
        ("history = 'bids'\n-- [parameters]\n-- p = {}", (4, 1), "neither a type nor a default"),
        ("history = 'bids'\n-- tables = { partials = 'x' }", (3, 1), "is what a step works on"),
        ("history = 'bids'\n-- tables = { x = 'x' }", (3, 1), "the table 'x' is named by no statement"),
        ("history = 'my-bids'", (2, 1), "write table = ..."),
        ("history = 'bids'\n-- by = ['a', 'a']", (3, 1), "by must name different columns"),
        ("history = 'bids'\n-- [join.x]\n-- history = 'y'", (3, 1), "missing required field `by`"),
        ("history = 'bids'\n-- [join.bids]\n-- history = 'y'\n-- by = 'z'", (3, 1), "is what a step works on, or is there twice"),
        ("history = ", (2, 14), "the header is no TOML"),
    ],
)  # fmt: skip
def test_a_fault_of_the_header_has_its_line(header: str, place: tuple[int, int], told: str) -> None:
    found = faults(f"-- /// job\n-- {header}\n-- ///\nSELECT 1 AS one")
    assert any((line, column) == place and told in fault for line, column, fault in found), found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("SELECT * FROM bids", "begins with a header"),
        ("-- /// job\n-- history = 'bids'\nSELECT * FROM bids", "must consist of comments and end"),
        (PLAIN + "SELECT 1\n-- name: slice\nSELECT 1 AS x", "belongs to no step"),
        (PLAIN + "-- name: sliced\nSELECT 1 AS x", "'sliced' is no step"),
        (PLAIN + "-- name: finish\nSELECT * FROM combined", "no statement for slice"),
        (
            JOINED + "-- name: slice\nFROM bids\n-- name: finish\nFROM combined JOIN y USING (k)",
            "no statement for y.slice",
        ),
        (
            JOINED + "-- name: slice\nFROM bids\n-- name: y.slice\nFROM bids",
            "bids is no table of this statement, which can read x",
        ),
        (JOINED + "-- name: slice\nFROM y\n-- name: y.slice\nFROM x", "y is no table of this statement"),
        (
            JOINED.replace("by = 'k'", "by = ['k', 'l']", 1) + READS,
            "split by as many columns as the job: 'k' and ('k', 'l') are not",
        ),
        (JOINED + READS.replace(" JOIN y USING (k)", ""), "the table 'y' is named by no statement"),
        (JOINED + "-- name: z.slice\nFROM x", "there are slice, combine, finish, y.slice, y.combine, y.finish"),
        (PLAIN + "-- name: slice\nSELECT 1 AS x\n-- name: slice\nSELECT 1 AS x", "two statements for slice"),
        (
            PLAIN.replace("'bids'", "'bids'\n-- combine = 'concat'")
            + "-- name: slice\nSELECT 1 AS x\n-- name: combine\nFROM partials",
            "leave one out",
        ),
    ],
)
def test_a_file_of_another_form_is_refused(text: str, told: str) -> None:
    assert any(told in fault for _, _, fault in faults(text))


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "bad.sql").write_text(PLAIN + "SELECT random(), $x FROM nowhere")
    (tmp_path / "jobs" / "good.sql").write_text(PLAIN + "SELECT * FROM bids")
    for found in (load_folder(tmp_path, tmp_path / "jobs"), load_folder_in_child(tmp_path, tmp_path / "jobs")):
        assert list(found.jobs) == ["good"]
        (fault,) = found.faults
        assert fault.file == "jobs/bad.sql"
        for told in ("line 4, column 8: random()", "line 4, column 18: $x", "line 4, column 26: nowhere"):
            assert told in fault.message


def test_a_worker_runs_no_python_of_the_project_for_a_sql_job(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "one.sql").write_text(PLAIN + "SELECT count(*) AS n FROM bids")
    for name in ("one", "bids", "hindscan_project"):
        (tmp_path / "jobs" / f"_{name}.py").write_text("raise SystemExit('ran')")
        (tmp_path / f"{name}.py").write_text("raise SystemExit('ran')")
    program = (
        "from pathlib import Path\nimport sys\nfrom hindscan.jobs.registry import load_folder\nfrom hindscan.jobs.code import load\n"
        "before = set(sys.modules)\nfound = load_folder(Path('.'), Path('jobs'))\nload(found.jobs['one'][1])\n"
        "print([n for n in set(sys.modules) - before if str(Path('.').resolve()) in str(getattr(sys.modules[n], '__file__', ''))])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
