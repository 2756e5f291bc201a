"""What the doctor finds of a project's registries."""

from __future__ import annotations

from pathlib import Path

from hindscan.config import load_project
from hindscan.diagnosis import Finding, diagnose
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
