"""Past events through a trigger again, once for each name of a replay; and what an audit finds and repairs, in every store (promises 3 and 4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from hindscan import times
from hindscan.auditing import Audit
from hindscan.errors import ConfigError, NotFound, UsageError
from hindscan.events.event import event_from_json
from hindscan.events.received import received_over_http
from hindscan.replaying import Replay, Replayed, open_intake
from hindscan.runs import register, snapshots
from hindscan.workshop import Workshop, open_workshop
from small_project import add_bids, closing, day, small_project

#: When the first of the events came in; each of the next a second later.
CAME = 1_600_000_000_000_000

Reload = Callable[..., Workshop]


@pytest.fixture
def reload(tmp_path: Path, store_url: str) -> Iterator[Reload]:
    """Open the project, with more in its file."""
    opened: list[Workshop] = []

    def open_with(more: str = "", on: str = '"http"') -> Workshop:
        opened.append(open_workshop(small_project(tmp_path, on=on, more=more, HINDSCAN_STORE__URL=store_url)))
        return opened[-1]

    yield open_with
    for workshop in opened:
        workshop.close()


@pytest.fixture
def workshop(reload: Reload) -> Workshop:
    return reload()


def take(workshop: Workshop, *documents: dict[str, Any]) -> list[str | None]:
    """Receive events as `serve` does, a second after each other; give the run of each."""
    received = [
        replace(received_over_http(event_from_json(document)), received_at=CAME + number * 1_000_000)
        for number, document in enumerate(documents)
    ]
    return [one.opened.get("scan") for one in open_intake(workshop).take(received)]


def replayed(workshop: Workshop, trigger: str = "scan", **options: Any) -> Replayed:
    how = {name: options.pop(name) for name in ("dry_run", "activate") if name in options}
    return Replay(workshop, trigger, **({"since": CAME, "until": None, "name": "again"} | options)).run(**how)


def audited(workshop: Workshop, repair: bool = False, **options: Any) -> Any:
    return Audit(workshop, "scan", **({"since": CAME, "until": None} | options), repair=repair).run()


def execute(workshop: Workshop, statement: str) -> int:
    with workshop.store.write() as connection:
        return connection.execute(sa.text(statement)).rowcount


class TestReplay:
    def test_each_match_is_a_run_of_its_own_linked_to_the_original_in_order(self, workshop: Workshop) -> None:
        originals = take(workshop, closing("3"), closing("1"), closing("x", type="opened"), closing("2"))
        done = replayed(workshop)
        assert (done.events, done.matched, done.unmatched, done.opened, done.linked) == (4, 3, 1, 3, 3)
        runs = [register.get_run(workshop.store, run) for run in done.runs]
        assert [run.parent for run in runs] == [run for run in originals if run]
        assert [run.event_id for run in runs] == ["3", "1", "2"]
        assert {run.trigger for run in runs} == {"scan@again"}
        assert [run.id for run in reversed(register.list_runs(workshop.store, trigger="scan@again"))] == done.runs
        as_asked = [register.get_run(workshop.store, str(run)).request for run in originals if run]
        assert [run.request for run in runs] == as_asked

    def test_one_name_replays_once_and_another_again(self, workshop: Workshop) -> None:
        take(workshop, closing("1"), closing("2"))
        assert (replayed(workshop).opened, replayed(workshop).opened) == (2, 0)
        assert replayed(workshop).existing == 2
        assert replayed(workshop, name="other").opened == 2
        assert len(register.list_runs(workshop.store)) == 6

    def test_without_a_name_a_later_replay_takes_up_what_is_new(self, workshop: Workshop) -> None:
        take(workshop, closing("1"))
        assert replayed(workshop, name=None).opened == 1
        take(workshop, closing("1"), closing("2"))
        again = replayed(workshop, name=None)
        assert (again.replay, again.opened, again.existing) == ("since-2020-09-13T12:26:40Z", 1, 1)

    def test_only_what_came_in_between_since_and_until_is_replayed(self, workshop: Workshop) -> None:
        take(workshop, *(closing(str(number)) for number in range(5)))
        done = replayed(workshop, since=CAME + 1_000_000, until=CAME + 3_000_000)
        assert [register.get_run(workshop.store, run).event_id for run in done.runs] == ["1", "2"]

    def test_many_events_are_gone_through_in_parts_and_none_is_left_out(
        self, workshop: Workshop, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr("hindscan.runs.recall.BATCH", 7)
        take(workshop, *(closing(str(number)) for number in range(30)))
        assert replayed(workshop).opened == 30
        found = reversed(register.list_runs(workshop.store, trigger="scan@again"))
        assert [run.event_id for run in found] == [str(number) for number in range(30)]

    def test_it_reads_the_snapshot_of_the_original_unless_told_to_pin_anew(
        self, workshop: Workshop, tmp_path: Path
    ) -> None:
        from hindscan.planning import pin

        (original,) = take(workshop, closing("1"))
        run = register.get_run(workshop.store, str(original))
        spec, _ = workshop.job("total")
        pinned = snapshots.save_snapshot(workshop.store, run.id, pin(workshop.project, spec, run.request))
        add_bids(tmp_path, "late", [(2, 1000)])
        (same,) = replayed(workshop).runs
        assert snapshots.load_snapshot(workshop.store, same) == pinned
        (anew,) = replayed(workshop, name="anew", repin=True).runs
        assert snapshots.load_snapshot(workshop.store, anew) is None
        assert register.get_run(workshop.store, anew).parent == run.id
        assert register.get_run(workshop.store, anew).request.as_of == times.from_datetime(day(8))

    def test_an_event_without_an_original_run_is_to_be_pinned_as_of_its_time(self, reload: Reload) -> None:
        take(reload(), closing("1", type="reopened", on_day=4))
        wider = reload('[triggers.wide]\non = "http"\njob = "total"\nparameters = { category = "data.category" }\n')
        done = replayed(wider, "wide")
        (run,) = [register.get_run(wider.store, run) for run in done.runs]
        assert (done.newly, done.linked, run.parent) == (1, 0, None)
        assert run.request.as_of == times.from_datetime(day(4))
        assert snapshots.load_snapshot(wider.store, run.id) is None

    def test_what_could_not_be_decided_is_decided_again_by_the_same_replay_after_a_fix(self, reload: Reload) -> None:
        workshop = reload()
        take(workshop, closing("1", data={"kind": "cars"}), closing("2"))
        first = replayed(workshop)
        assert (first.quarantined, first.opened) == (1, 1)
        assert "category" in first.refused[0]["reason"]
        mended = reload()
        toml = mended.project.file.read_text().replace('"data.category"', '"data.category || data.kind"')
        mended.project.file.write_text(toml)
        from hindscan.config_file import load_project

        with open_workshop(load_project(mended.project.root, {"HINDSCAN_STORE__URL": mended.project.store.url})) as w:
            again = replayed(w)
            assert (again.opened, again.existing, again.quarantined) == (1, 1, 0)

    def test_a_dry_run_counts_and_plans_and_changes_nothing(self, reload: Reload) -> None:
        take(reload(), *(closing(str(number)) for number in range(5)), closing("x", type="opened"))
        changed = reload()
        changed.project.file.write_text(changed.project.file.read_text().replace('type = "closed"', 'type = "opened"'))
        from hindscan.config_file import load_project

        before = counts(changed)
        with open_workshop(load_project(changed.project.root, {"HINDSCAN_STORE__URL": changed.project.store.url})) as w:
            done = replayed(w, dry_run=True)
            assert (done.matched, done.unmatched, done.newly, done.no_longer, done.opened) == (1, 5, 1, 5, 0)
            (plan,) = done.plans
            # Two of the three rows lie before the event, and all are in one row group.
            assert (plan["id"], plan["slices"], plan["reused"], plan["rows_to_read"]) == ("x", 1, 0, 3)
        assert counts(changed) == before

    def test_what_cannot_be_asked_for_is_refused(self, workshop: Workshop) -> None:
        with pytest.raises(NotFound, match=r"trigger 'scam'.*Declared: scan"):
            replayed(workshop, "scam")
        with pytest.raises(UsageError, match="a replay's name"):
            replayed(workshop, name="a b")
        with pytest.raises(UsageError, match="must listen to a topic"):
            replayed(workshop, activate=True)

    def test_a_trigger_has_no_name_that_could_be_that_of_a_replay(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="a trigger's name has no '@'"):
            small_project(tmp_path, more='[triggers."scan@again"]\non = "http"\njob = "total"\n')


def counts(workshop: Workshop) -> dict[str, int]:
    with workshop.store.read() as connection:
        return {
            table: connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in ("events", "decisions", "runs", "quarantine", "positions", "snapshots")
        }


class TestAudit:
    def test_a_sound_ledger_is_found_sound(self, workshop: Workshop) -> None:
        take(workshop, closing("1"), closing("x", type="opened"), closing("2", data={}))
        replayed(workshop)
        done = audited(workshop)
        assert (done.findings, done.sound, done.events) == ([], True, 3)

    def test_an_event_without_a_decision_is_found_and_submitted_as_if_on_time(self, workshop: Workshop) -> None:
        take(workshop, closing("1"), closing("2", on_day=3))
        assert execute(workshop, "DELETE FROM runs WHERE event_id = '2'") == 1
        assert execute(workshop, "DELETE FROM decisions WHERE id = '2'") == 1
        found = audited(workshop)
        assert [(f.kind, f.source, f.id, f.repaired) for f in found.findings] == [
            ("no decision", "/auctions", "2", False)
        ]
        assert not found.sound
        repaired = audited(workshop, repair=True)
        assert [(f.kind, f.id, f.repaired) for f in repaired.findings] == [("no decision", "2", True)]
        assert repaired.sound
        (run,) = register.list_runs(workshop.store, event=("/auctions", "2"))
        assert (run.trigger, run.request.as_of, run.parent) == ("scan", times.from_datetime(day(3)), None)
        assert audited(workshop).findings == []

    def test_a_decision_whose_run_is_gone_gets_that_run_again(self, workshop: Workshop) -> None:
        _, lost = take(workshop, closing("1"), closing("2"))
        execute(workshop, "DELETE FROM runs WHERE event_id = '2'")
        assert [(f.kind, f.id, f.runs) for f in audited(workshop).findings] == [("no run", "2", (lost,))]
        assert audited(workshop, repair=True).sound
        run = register.get_run(workshop.store, str(lost))
        assert (run.state, run.trigger, run.event_id, run.request.parameters) == (
            "pending",
            "scan",
            "2",
            {"category": "cars"},
        )
        assert audited(workshop).findings == []
        assert len(register.list_runs(workshop.store)) == 2

    def test_an_event_with_two_runs_is_found_and_not_repaired(self, workshop: Workshop) -> None:
        (run, _) = take(workshop, closing("1"), closing("2"))
        execute(
            workshop,
            "INSERT INTO runs (id, job, state, request, created_at, updated_at, trigger, event_source, event_id) "
            f"SELECT 'twin', job, state, request, created_at, updated_at, trigger, event_source, event_id FROM runs WHERE id = '{run}'",
        )
        done = audited(workshop, repair=True)
        assert [(f.kind, f.id, f.runs, f.repaired) for f in done.findings] == [("two runs", "1", (run, "twin"), False)]
        assert not done.sound

    def test_a_decision_whose_event_is_gone_is_found(self, workshop: Workshop) -> None:
        take(workshop, closing("1"), closing("2"))
        execute(workshop, "DELETE FROM events WHERE id = '1'")
        done = audited(workshop, repair=True)
        assert [(f.kind, f.id, f.repaired) for f in done.findings] == [("no event", "1", False)]

    def test_what_came_before_the_trigger_was_there_is_not_its_business(self, reload: Reload) -> None:
        take(reload(), closing("1"))
        both = reload('[triggers.late]\non = "http"\njob = "total"\nparameters = { category = "data.category" }\n')
        late = Audit(both, "late", since=None, until=None)
        assert late.run().findings == []
        open_intake(both).take([received_over_http(event_from_json(closing("2")))])
        assert Audit(both, "late", since=None, until=None).run().findings == []

    def test_an_event_over_http_is_missed_though_no_decision_of_its_trigger_is_left(self, reload: Reload) -> None:
        take(reload(), closing("1"))
        both = reload('[triggers.Scan]\non = "http"\njob = "total"\nparameters = { category = "data.category" }\n')
        open_intake(both).take([received_over_http(event_from_json(closing("2")))])
        for trigger in ("scan", "Scan"):
            execute(both, f"DELETE FROM decisions WHERE trigger = '{trigger}'")
            execute(both, f"DELETE FROM runs WHERE trigger = '{trigger}'")
        for trigger, missed in (("scan", ["1", "2"]), ("Scan", ["2"])):
            done = Audit(both, trigger, since=None, until=None, repair=True).run()
            assert [(f.kind, f.id, f.repaired) for f in done.findings] == [("no decision", id, True) for id in missed]
            assert Audit(both, trigger, since=None, until=None).run().findings == []
            assert len(register.list_runs(both.store, trigger=trigger)) == len(missed)

    def test_only_the_time_asked_for_is_audited(self, workshop: Workshop) -> None:
        take(workshop, closing("1"), closing("2"), closing("3"))
        execute(workshop, "DELETE FROM decisions WHERE id IN ('1', '3')")
        found = audited(workshop, since=CAME + 1_000_000)
        assert [f.id for f in found.findings] == ["3"]

    def test_a_repair_of_what_would_not_match_now_submits_nothing_and_says_so(self, reload: Reload) -> None:
        workshop = reload()
        take(workshop, closing("1"))
        execute(workshop, "DELETE FROM runs")
        workshop.project.file.write_text(workshop.project.file.read_text().replace('"closed"', '"never"'))
        from hindscan.config_file import load_project

        env = {"HINDSCAN_STORE__URL": workshop.project.store.url}
        with open_workshop(load_project(workshop.project.root, env)) as changed:
            done = audited(changed, repair=True)
            assert [(f.kind, f.repaired) for f in done.findings] == [("no run", False)]
        assert json.loads(json.dumps(counts(workshop)))["runs"] == 0
