"""What is tracked belongs to everybody: no machine's paths, no registry's address, no bulk."""

from __future__ import annotations

import json
import re
import tomllib
import zipfile
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

from hindscan.template import example_jobs

#: Home and system folders of a person or a runner, wherever they are; the brackets keep this file from finding itself.
MACHINE = re.compile(r"[/](home|root|Users|work|builds)[/][a-z]|[A-Z]:[\\]{1,2}Users")
#: Where a package comes from is the machine's matter: what builds the project names no host at all.
BUILD = {"pyproject.toml", "Makefile", "requirements.txt", "requirements-uv.txt", ".ci/run"}
TEXT = {
    ".py",
    ".md",
    ".toml",
    ".txt",
    ".json",
    ".ipynb",
    ".sql",
    ".html",
    ".js",
    ".css",
    ".yml",
    ".yaml",
    ".cfg",
    ".ini",
    ".csv",
    "",
}


def test_no_tracked_file_names_a_machine_s_path(tracked, root) -> None:
    faults = []
    for file in tracked:
        if file.suffix not in TEXT or file.name == "LICENSE":
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            faults += [f"{file.relative_to(root)}:{number}: {found[0]}" for found in MACHINE.finditer(line)]
    assert faults == []


def test_what_builds_the_project_names_no_host(root) -> None:
    assert [name for name in sorted(BUILD) if re.search(r"https?:", (root / name).read_text())] == []


def test_the_sample_data_is_under_2_mb_and_says_how_it_was_made(tracked, root) -> None:
    data = [file for file in tracked if file.is_relative_to(root / "data")]
    assert sum(file.stat().st_size for file in data) < 2_000_000
    if data:
        assert "hindscan generate auctions" in (root / "data" / "README.md").read_text()


def test_no_tracked_file_is_larger_than_a_megabyte(tracked, root) -> None:
    assert [str(file.relative_to(root)) for file in tracked if file.stat().st_size > 1_000_000] == []


def test_every_requirement_is_locked_by_hash(root) -> None:
    for name in ("requirements.txt", "requirements-uv.txt"):
        text = (root / name).read_text().replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        assert lines
        assert [line[:60] for line in lines if "--hash=sha256:" not in line] == []


def test_what_the_project_asks_for_is_in_the_lock(root) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())
    asked = [
        *project["project"]["dependencies"],
        *(line for extra in project["project"]["optional-dependencies"].values() for line in extra),
        *project["dependency-groups"]["dev"],
    ]
    locked = set(
        re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==", (root / "requirements.txt").read_text(), re.MULTILINE)
    )
    names = {re.split(r"[\[>=<~! ;]", line)[0].lower() for line in asked}
    assert sorted(names - {name.lower() for name in locked}) == []


def test_notebooks_are_stored_without_output(tracked) -> None:
    for file in tracked:
        if file.suffix == ".ipynb":
            cells = json.loads(file.read_text())["cells"]
            assert [cell["outputs"] for cell in cells if cell.get("outputs")] == [], file.name


def test_every_verb_of_the_makefile_says_what_it_does(root) -> None:
    text = (root / "Makefile").read_text()
    verbs = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert verbs is not None
    assert {"setup", "demo", "test", "lint", "types", "docs", "bench"} <= set(verbs[1].split())
    assert [verb for verb in verbs[1].split() if not re.search(rf"^{verb}:.* ## \S", text, re.MULTILINE)] == []


def test_what_ci_runs_is_executable(root) -> None:
    assert Path(root / ".ci" / "run").stat().st_mode & 0o111


def test_a_machine_s_path_is_seen_and_a_page_s_is_not() -> None:
    assert all(MACHINE.search(text) for text in ("/" + "home/ann/x", "in /" + "work/main", "C:" + "\\Users"))
    assert not any(MACHINE.search(text) for text in ("/jobs/NAME/runs", "data/homework", "~/.cache"))


def test_an_installed_hindscan_has_the_jobs_that_a_new_project_begins_with(root, tmp_path: Path) -> None:
    wheel = next(WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(wheel) as file:
        carried = {name.rpartition("/")[2] for name in file.namelist() if name.startswith("hindscan/template/jobs/")}
    assert carried >= {job.name for job in example_jobs().iterdir() if job.suffix in (".py", ".sql")} > set()
