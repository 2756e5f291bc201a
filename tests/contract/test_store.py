"""A store opens quickly, is brought up to date or refused by name, and many may write to it at once."""

from __future__ import annotations

import random
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from at_once import at_once
from hindscan.errors import ConfigError, StoreTooNew, StoreUnavailable
from hindscan.events.event import Event
from hindscan.runs import leases, migration, opening, register, schema
from hindscan.runs.ledger import Decision, Entry, record
from hindscan.runs.run import RunRequest
from hindscan.runs.store import Store, open_store

EVENTS = 400


def entries(numbers: list[int]) -> list[Entry]:
    decision = Decision(trigger="scan", outcome="matched", request=RunRequest(job="j"))
    return [
        Entry(event=Event(id=f"e{n}", source="/a", type="t", data={"n": n}), way="http", decisions=(decision,))
        for n in numbers
    ]


def record_all(store: Store, seed: int) -> int:
    """Record all events in an order of one's own, in batches of one's own size; give how many runs this opened."""
    numbers = list(range(EVENTS))
    chance = random.Random(seed)
    chance.shuffle(numbers)
    won, at = 0, 0
    while at < EVENTS:
        size = chance.choice([1, 7, 50])
        won += sum(len(one.opened) for one in record(store, entries(numbers[at : at + size])))
        at += size
    return won


class TestOpening:
    def test_a_store_that_was_closed_is_there_when_it_is_opened_again(self, store_url: str, tmp_path: Path) -> None:
        with open_store(store_url, tmp_path) as store:
            run = opening.open_run(store, RunRequest(job="j"))
        with open_store(store_url, tmp_path) as store:
            assert register.get_run(store, run.id) == run

    def test_two_processes_and_many_threads_create_one_store(self, store_url: str, tmp_path: Path) -> None:
        script = (
            "import sys\nfrom hindscan.runs.store import open_store\nfrom hindscan.runs import opening, register\nfrom hindscan.runs.run import RunRequest\n"
            "sys.stdin.read(1)\nwith open_store(sys.argv[1], sys.argv[2]) as store: opening.open_run(store, RunRequest(job='j'))"
        )
        started = [
            subprocess.Popen([sys.executable, "-c", script, store_url, str(tmp_path)], stdin=subprocess.PIPE)
            for _ in range(2)
        ]
        faults: list[BaseException] = []

        def create() -> None:
            try:
                with open_store(store_url, tmp_path) as store:
                    opening.open_run(store, RunRequest(job="j"))
            except BaseException as fault:
                faults.append(fault)

        threads = [threading.Thread(target=create) for _ in range(6)]
        for process in started:
            process.communicate(b"go", timeout=1) if process.poll() is not None else process.stdin.write(b"g")  # type: ignore[union-attr]
            process.stdin.close()  # type: ignore[union-attr]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [process.wait(60) for process in started] == [0, 0]
        assert faults == []
        with open_store(store_url, tmp_path) as store:
            assert len(register.list_runs(store)) == 8

    def test_a_store_of_a_newer_hindscan_is_refused_with_both_versions(self, store_url: str, tmp_path: Path) -> None:
        with open_store(store_url, tmp_path) as store, store.write() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '0777'"))
            connection.execute(sa.text("UPDATE store SET value = '9.9.9' WHERE name = 'hindscan'"))
        with pytest.raises(
            StoreTooNew,
            match=rf"knows its revisions up to {schema.REVISION}; found 0777, written by hindscan 9\.9\.9\. Upgrade",
        ):
            open_store(store_url, tmp_path)

    def test_the_revisions_lead_to_the_tables_of_the_schema(self, store_url: str, tmp_path: Path) -> None:
        from alembic.autogenerate import compare_metadata
        from alembic.runtime.migration import MigrationContext

        with open_store(store_url, tmp_path) as store:
            with store.write() as connection:
                schema.metadata.drop_all(connection)
                connection.execute(sa.text("DELETE FROM alembic_version"))
                migration._migrate(connection)
            with store.read() as connection:
                context = MigrationContext.configure(connection, opts={"compare_type": True})
                assert compare_metadata(context, schema.metadata) == []
                assert (
                    connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == schema.REVISION
                )
            assert record_all(store, 1) == EVENTS

    def test_the_revisions_make_the_same_sqlite_statements_as_the_schema(self, tmp_path: Path) -> None:
        # Alembic's comparison does not see defaults, checks, partial indexes and WITHOUT ROWID. A column that was added stands after the constraints,
        # so the parts of a statement are compared in any order.
        def statements(store: Store) -> set[tuple[str, ...]]:
            with store.read() as connection:
                found = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")).scalars()
                return {tuple(sorted(parts(" ".join(re.sub(r"([(),])", r" \1 ", text).split())))) for text in found}

        def parts(statement: str) -> Iterator[str]:
            depth, part = 0, ""
            for word in statement.split():
                depth += (word == "(") - (word == ")")
                if (depth == 1 and word in ("(", ",")) or depth == 0:
                    yield part
                    part = word if depth == 0 else ""
                else:
                    part += f" {word}"
            yield part

        with open_store("sqlite:///a.db", tmp_path) as made, open_store("sqlite:///b.db", tmp_path) as led:
            with led.write() as connection:
                schema.metadata.drop_all(connection)
                connection.execute(sa.text("DROP TABLE alembic_version"))
                migration._migrate(connection)
            assert statements(made) == statements(led)

    def test_an_older_store_is_led_to_the_newest_revision_in_one_transaction(
        self, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps: list[str] = []

        def migrate(connection: sa.Connection) -> None:
            connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{schema.REVISION}'"))
            steps.append("migrated")
            if len(steps) == 1:
                raise KeyboardInterrupt

        with open_store(store_url, tmp_path) as store, store.write() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '0000'"))
        monkeypatch.setattr(migration, "REVISIONS", ("0000", *migration.REVISIONS))
        monkeypatch.setattr(migration, "_migrate", migrate)
        with pytest.raises(KeyboardInterrupt):
            open_store(store_url, tmp_path)
        for _ in range(2):
            open_store(store_url, tmp_path).close()
        assert steps == ["migrated", "migrated"], (
            "the interrupted one left the old store, the second did it, the third had nothing to do"
        )


class TestSQLite:
    def test_an_up_to_date_store_opens_in_less_than_20_milliseconds_without_alembic(self, tmp_path: Path) -> None:
        open_store("sqlite:///s.db", tmp_path).close()
        script = (
            "import sys, time\nfrom hindscan.runs.store import open_store\nbest = 9.0\n"
            "for _ in range(5):\n    began = time.perf_counter(); open_store('sqlite:///s.db', sys.argv[1]).close(); best = min(best, time.perf_counter() - began)\n"
            "print(best, 'alembic' in sys.modules)"
        )
        seconds, alembic = subprocess.check_output([sys.executable, "-c", script, str(tmp_path)], text=True).split()
        assert float(seconds) < 0.020
        assert alembic == "False"

    def test_a_write_that_need_not_be_durable_leaves_the_next_one_durable(self, tmp_path: Path) -> None:
        with open_store("sqlite:///s.db", tmp_path) as store:
            for durable, level in ((False, 1), (True, 2), (False, 1), (True, 2)):
                with store.write(durable=durable) as connection:
                    assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == level
            with pytest.raises(KeyError), store.write(durable=False):
                raise KeyError
            with store.write() as connection:
                assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2

    def test_writes_are_flushed_and_the_log_is_written_ahead(self, tmp_path: Path) -> None:
        with open_store("sqlite:///s.db", tmp_path) as store, store.read() as connection:
            pragmas = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
            ]
        assert pragmas == ["wal", 2]

    def test_a_writer_that_cannot_have_its_turn_says_so_and_wrote_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("hindscan.runs.sqlite.BUSY_SECONDS", 0.2)
        with open_store("sqlite:///s.db", tmp_path) as store:
            other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreUnavailable, match="database is locked"):
                record(store, entries([1]))
            other.execute("ROLLBACK")
            other.close()
            (recorded,) = record(store, entries([1]))
            assert recorded.opened

    def test_a_full_store_loses_nothing_that_was_acknowledged(self, tmp_path: Path) -> None:
        with open_store("sqlite:///s.db", tmp_path) as store:
            acknowledged = len(record(store, entries(list(range(50)))))
            with store._engine.connect() as connection:
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            store.close()  # the pool: the limit counts for each connection
            sa.event.listen(
                store._engine, "connect", lambda c, _: c.execute(f"PRAGMA max_page_count={pages}").fetchone()
            )
            with pytest.raises(StoreUnavailable, match="full"):
                record(store, entries(list(range(50, 5000))))
        with open_store("sqlite:///s.db", tmp_path) as store, store.read() as connection:
            assert connection.execute(sa.text("SELECT count(*) FROM runs")).scalar() == acknowledged
            assert connection.execute(sa.text("PRAGMA integrity_check")).scalar() == "ok"

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreUnavailable, match="file"):
            open_store("sqlite:///file/s.db", tmp_path)

    def test_a_file_that_is_no_database_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "s.db").write_bytes(b"no database at all" * 100)
        with pytest.raises(StoreUnavailable, match="not a database"):
            open_store("sqlite:///s.db", tmp_path)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://me:geheim@host/db", "no url: geheim"])
def test_a_url_of_no_store_is_refused_without_showing_a_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[store\]\.url") as caught:
        open_store(url, tmp_path)
    assert "geheim" not in str(caught.value)


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        open_store("postgresql+psycopg://me:geheim@127.0.0.1:9/none?connect_timeout=2", tmp_path)
    assert "geheim" not in str(caught.value)
    assert "me:***@127.0.0.1:9" in str(caught.value)


class TestTogether:
    def test_threads_that_record_the_same_events_open_each_run_once(self, store: Store) -> None:
        won: list[int] = []
        barrier = threading.Barrier(8)

        def work(seed: int) -> None:
            barrier.wait()
            won.append(record_all(store, seed))

        at_once(*(partial(work, seed) for seed in range(8)))
        assert sum(won) == EVENTS
        with store.read() as connection:
            counts = [
                connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar()
                for table in ("events", "decisions", "runs", "quarantine")
            ]
        assert counts == [EVENTS, EVENTS, EVENTS, 0]

    def test_processes_that_record_the_same_events_open_each_run_once(
        self, store: Store, store_url: str, tmp_path: Path
    ) -> None:
        script = (
            "import sys\nsys.path.append(sys.argv[1])\nfrom contract import test_store as suite\n"
            "with suite.open_store(sys.argv[2], sys.argv[3]) as store:\n"
            "    print('ready', flush=True); sys.stdin.readline(); print(suite.record_all(store, int(sys.argv[4])))"
        )
        started = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(Path(__file__).parents[1]), store_url, str(tmp_path), str(seed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for seed in range(3)
        ]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        answers = []
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in started:
            answers.append(int(process.communicate(timeout=100)[0]))
            assert process.returncode == 0
        assert sum(answers) == EVENTS
        with store.read() as connection:
            assert connection.execute(sa.text("SELECT count(*) FROM runs")).scalar() == EVENTS
            unclaimed = "SELECT count(*) FROM decisions d JOIN runs r ON r.id = d.run AND r.event_id = d.id"
            assert connection.execute(sa.text(unclaimed)).scalar() == EVENTS

    def test_threads_that_claim_get_each_run_once_and_one_of_a_key_at_a_time(self, store: Store) -> None:
        keyed = [opening.open_run(store, RunRequest(job="j"), order_key=f"k{n % 3}").id for n in range(30)]
        free = [opening.open_run(store, RunRequest(job="j")).id for _ in range(30)]
        running: dict[str, int] = {}
        took: list[str] = []
        faults: list[BaseException] = []
        lock = threading.Lock()

        def work(name: str) -> None:
            try:
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline and len(took) < 60:
                    taken = leases.claim(store, name, 60)
                    if taken is None:
                        continue
                    key = taken.run.order_key
                    with lock:
                        took.append(taken.run.id)
                        if key:
                            running[key] = running.get(key, 0) + 1
                            assert running[key] == 1, "two runs of one key at a time"
                    leases.heartbeat(store, taken, 60)
                    if key:
                        with lock:
                            running[key] -= 1
                    register.move(store, taken.run.id, "succeeded", token=taken.token, result=name)
            except BaseException as fault:
                faults.append(fault)

        threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        assert sorted(took) == sorted(keyed + free)
        for key in range(3):
            of_key = [run for run in took if run in keyed[key::3]]
            assert of_key == keyed[key::3], "in the order they were opened"

    def test_one_of_many_cancels_and_claims_wins(self, store: Store) -> None:
        for _ in range(20):
            run = opening.open_run(store, RunRequest(job="j")).id
            barrier = threading.Barrier(2)
            got: dict[str, Any] = {}

            def cancel(run: str = run, barrier: threading.Barrier = barrier, got: dict[str, Any] = got) -> None:
                barrier.wait()
                got["cancel"] = register.request_cancel(store, run)

            thread = threading.Thread(target=cancel)
            thread.start()
            barrier.wait()
            taken = leases.claim(store, "me", 10, run)
            thread.join()
            now = register.get_run(store, run)
            if taken is None:
                assert now.state == "cancelled"
            else:
                assert (now.state, now.cancel_requested) == ("running", True)
                assert leases.heartbeat(store, taken, 10) is True
