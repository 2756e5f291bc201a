"""What the doctor finds of a project's registries, schedules and folders of files."""

from __future__ import annotations

import re
from pathlib import Path

from hindscan.config_file import load_project
from hindscan.diagnosis import Finding, _sources, diagnose
from registry_server import RegistryServer


def registries(folder: Path, url: str) -> list[Finding]:
    (folder / "hindscan.toml").write_text(f'[registry.prod]\nurl = "{url}"\n')
    found: list[Finding] = []
    for finding in diagnose(load_project(folder, {})):
        if finding.what == "workers":
            break
        found += [finding] if finding.what.startswith("registry") else []
    return found


def test_a_registry_that_answers_is_well_and_another_is_not(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    with RegistryServer() as server:
        assert registries(tmp_path, server.url) == [Finding(what="registry prod", ok=True, found=server.url)]
    [finding] = registries(tmp_path, "http://me:hush@127.0.0.1:1")
    assert (finding.ok, finding.unreachable) == (False, True)
    assert "hush" not in finding.found
    assert finding.todo == 'Start the registry, or correct "url" in [registry.prod].'


def test_schedules_and_folders_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "a.parquet").touch()
    (tmp_path / "hindscan.toml").write_text(
        '[triggers.both]\njob = "j"\non = ["cron:0 6 * * *", "files:lake", "files:nowhere"]\ntime_zone = "Asia/Tokyo"\n'
    )
    project = load_project(tmp_path, {})
    found = _sources(project, project.triggers["both"])
    assert re.fullmatch(
        r"cron:0 6 \* \* \* in Asia/Tokyo, next at \d{4}-\d\d-\d\dT21:00:00Z; files:lake, 1 files; files:nowhere, 0 files",
        found,
    )
