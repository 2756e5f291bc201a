"""Statements that are compiled once say to both databases what SQLAlchemy would."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from hindscan.runs import leases, schema, waiting
from hindscan.runs.opening import open_run
from hindscan.runs.register import get_run
from hindscan.runs.run import RunRequest
from hindscan.runs.statement import Statement, insert_many
from hindscan.runs.store import Store

NAMED = Statement(lambda _: sa.select(schema.limits).where(schema.limits.c.name == sa.bindparam("of")))
RAISE = Statement(
    lambda _: (
        sa.update(schema.limits).where(schema.limits.c.name == sa.bindparam("of")).values(total=sa.bindparam("to"))
    )
)
INSERT = Statement(lambda _: sa.insert(schema.limits))


def limits(*names: str) -> list[dict[str, object]]:
    return [{"name": name, "total": number, "per_key": None} for number, name in enumerate(names)]


def test_it_gives_rows_records_and_counts(store: Store) -> None:
    with store.write() as connection:
        INSERT.many(connection, limits("job:a", "job:b"))
        assert RAISE.run(connection, of="job:b", to=7) == 1
        assert RAISE.run(connection, of="job:c", to=7) == 0
    with store.read() as connection:
        assert NAMED.first(connection, of="job:c") is None
        assert NAMED.rows(connection, of="job:b") == [("job:b", 7, None)]
        assert NAMED.records(connection, of="job:a") == [{"name": "job:a", "total": 0, "per_key": None}]


def test_what_the_database_refuses_is_what_sqlalchemy_makes_of_it_and_nothing_is_written(store: Store) -> None:
    with pytest.raises(exc.IntegrityError), store.write() as connection:
        insert_many(connection, schema.limits, limits("job:a"))
        INSERT.many(connection, limits("job:b", "job:b"))
    with pytest.raises(exc.IntegrityError), store.write() as connection:
        RAISE.run(connection, of="job:a", to=1)
        INSERT.run(connection, **limits("job:a")[0])
        INSERT.run(connection, **limits("job:a")[0])
    with store.read() as connection:
        assert NAMED.rows(connection, of="job:a") == []


def test_a_claim_passes_by_more_keys_that_are_full_than_an_expression_may_be_deep(store: Store) -> None:
    many = 1_500
    first = open_run(store, RunRequest(job="scan", parameters={}), code="c")
    with store.read() as connection:
        row = dict(connection.execute(sa.select(schema.runs)).mappings().one())
    del row["seq"]
    busy = [row | {"id": f"r{n}", "state": "running", "trigger": "t", "key": f"k{n}"} for n in range(many)]
    last = row | {"id": "last", "trigger": "t", "key": None}
    full = row | {"id": "full", "trigger": "t", "key": "k7"}
    with store.write() as connection:
        insert_many(connection, schema.runs, [*busy, full, last])
    waiting.set_limits(store, {"trigger:t": waiting.Limit(per_key=1)})
    taken = [leases.claim(store, "me", 8) for _ in range(3)]
    assert [claimed and claimed.run.id for claimed in taken] == [first.id, "last", None]
    assert get_run(store, "full").state == "pending"
