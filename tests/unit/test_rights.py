"""The least rights of a project, read off its file."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from hindscan.cli.options import Options
from hindscan.cli.service import doctor
from hindscan.config_file import load_project
from hindscan.rights import acl_commands, needed_rights

TEXT = """
[serve]
group = "site one"
[kafka.default]
"bootstrap.servers" = "a:1,b:2"
[kafka.prod]
"bootstrap.servers" = "p:1"
"sasl.password" = "${SECRET}"
[history.files]
parquet = "data"
[history.bids]
topic = "prod:bids"
[history.same]
topic = "prod:bids"
[triggers.one]
on = ["kafka:closed", "http"]
job = "j"
[triggers.two]
on = "kafka:prod:closed"
job = "j"
"""


def test_each_topic_and_group_is_named_once_with_what_it_is_for(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text(TEXT)
    rights = needed_rights(load_project(tmp_path, {"SECRET": "hush"}))
    assert [(r.cluster, r.kind, r.name, r.operation) for r in rights if r.needed] == [
        ("default", "group", "site one", "READ"),
        ("default", "topic", "closed", "READ"),
        ("prod", "group", "site one", "READ"),
        ("prod", "topic", "bids", "READ"),
        ("prod", "topic", "closed", "READ"),
    ]
    assert [(r.cluster, r.name, r.operation) for r in rights if not r.needed] == [
        ("default", "closed", "WRITE"),
        ("prod", "bids", "CREATE"),
        ("prod", "bids", "DESCRIBE_CONFIGS"),
        ("prod", "bids", "WRITE"),
        ("prod", "closed", "WRITE"),
    ]
    assert all(right.purpose for right in rights)


def test_a_project_without_kafka_needs_none(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text('[history.files]\nparquet = "data"\n')
    assert needed_rights(load_project(tmp_path, {})) == ()


def test_a_line_is_ready_for_a_shell_and_holds_no_secret(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text(TEXT)
    project = load_project(tmp_path, {"SECRET": "hush"})
    first, *others = acl_commands(project, needed_rights(project), "CN=site, O=us")
    assert shlex.split(first) == [
        "kafka-acls.sh", "--bootstrap-server", "a:1,b:2", "--command-config", "admin.properties", "--add", "--allow-principal",
        "User:CN=site, O=us", "--operation", "Read", "--group", "site one",
    ]  # fmt: skip
    assert "hush" not in "".join(others)
    assert any("--operation DescribeConfigs --topic bids" in line for line in others)


def test_the_command_prints_what_is_for_what_and_the_lines_by_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hush")
    (tmp_path / "hindscan.toml").write_text(TEXT)
    assert doctor(acls=True, principal="me", options=Options(project=tmp_path)) == 0
    printed = capsys.readouterr().out
    table, needed, optional = printed.split("\n# ")
    assert "prod     topic     bids      READ                        pin and read history bids" in table
    assert [needed.splitlines()[0], optional.splitlines()[0]] == ["needed", "optional: run those that you need"]
    assert [
        len([line for line in part.splitlines() if line.startswith("kafka-acls.sh")]) for part in (needed, optional)
    ] == [5, 5]
    assert "--allow-principal User:me --operation Read --topic bids" in needed
    assert "hush" not in printed


def test_a_topic_that_events_of_runs_go_to_must_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text(
        TEXT + '[publish.told]\nto = "kafka:prod:run-events"\n[publish.hook]\nto = "http://127.0.0.1:1/"\n'
    )
    rights = needed_rights(load_project(tmp_path, {"SECRET": "hush"}))
    (one,) = [right for right in rights if right.name == "run-events"]
    assert (one.cluster, one.operation, one.needed, "outlet told" in one.purpose) == ("prod", "WRITE", True, True)
