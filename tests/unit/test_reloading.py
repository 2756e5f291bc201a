"""A change of the project's files is seen when they have come to rest, and given whole."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hindscan.config_file import load_project
from hindscan.errors import ConfigError
from hindscan.jobs.registry import load_folder
from hindscan.reloading import Edition, Watch

FILE = """
[history.numbers]
parquet = "numbers"
"""
JOB = """
import hindscan as hs
{imports}

@hs.job(history="numbers", combine="concat")
def {name}(numbers: hs.Data):
    return {{"n": {value}}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "hindscan.toml").write_text(FILE)
    write(tmp_path / "jobs/one.py", JOB.format(imports="from shared import N", name="one", value="N"))
    write(tmp_path / "jobs/two.py", JOB.format(imports="", name="two", value="2"))
    write(tmp_path / "shared.py", "N = 1\n")
    return tmp_path


def write(file: Path, text: str) -> None:
    """Write, with a time that no earlier writing had: a disk's clock may be coarse."""
    file.write_text(text)
    now = time.time_ns()
    os.utime(file, ns=(now, now))


def begin(folder: Path) -> tuple[Watch, Edition]:
    edition = Edition(project=load_project(folder, {}), jobs=load_folder(folder, folder / "jobs").jobs)
    return Watch(edition), edition


def rested(watch: Watch) -> Edition | None:
    """Look twice, as time goes by; the first look only sees that something moved."""
    assert watch.look() is None
    return watch.look()


def test_nothing_is_given_while_nothing_changes_and_a_change_is_given_once(project: Path) -> None:
    watch, _ = begin(project)
    assert [watch.look() for _ in range(3)] == [None] * 3
    (project / "hindscan.toml").write_text(FILE + '[history.letters]\nparquet = "letters"\n')
    found = rested(watch)
    assert found is not None
    assert sorted(found.project.histories) == ["letters", "numbers"]
    watch.accept(found)
    assert [watch.look() for _ in range(3)] == [None] * 3


def test_files_that_still_move_are_not_read(project: Path) -> None:
    watch, _ = begin(project)
    for round_ in range(4):
        write(project / "hindscan.toml", FILE + "#" * round_)
        assert watch.look() is None
    assert watch.look() is not None


@pytest.mark.parametrize("file", ["jobs/one.py", "shared.py"])
def test_a_job_is_new_when_its_file_or_what_it_imports_changes(project: Path, file: str) -> None:
    watch, before = begin(project)
    write(project / file, (project / file).read_text().replace("N = 1", "N = 2").replace('"n": N', '"n": N + 1'))
    found = rested(watch)
    assert found is not None
    assert found.specs["one"].steps["slice"].digest != before.specs["one"].steps["slice"].digest
    assert found.specs["two"] == before.specs["two"]


def test_a_declared_file_is_looked_at_and_no_other(project: Path) -> None:
    write(project / "rates.csv", "1")
    write(project / "other.csv", "1")
    job = JOB.replace('combine="concat"', 'combine="concat", depends=["rates.csv"]')
    write(
        project / "jobs/two.py", job.format(imports="", name="two", value='int(hs.resource("rates.csv").read_text())')
    )
    watch, edition = begin(project)
    write(project / "other.csv", "2")
    assert [watch.look() for _ in range(3)] == [None] * 3
    write(project / "rates.csv", "2")
    found = rested(watch)
    assert found is not None
    assert found.jobs["two"][0].steps["slice"].digest != edition.jobs["two"][0].steps["slice"].digest


def test_jobs_come_and_go_with_their_files(project: Path) -> None:
    watch, _ = begin(project)
    (project / "jobs/two.py").unlink()
    write(project / "jobs/three.py", JOB.format(imports="", name="three", value="3"))
    found = rested(watch)
    assert found is not None
    assert sorted(found.jobs) == ["one", "three"]
    assert found.waiting == ()


def test_a_broken_job_file_keeps_what_it_gave_before_and_hides_no_other(project: Path) -> None:
    watch, before = begin(project)
    write(project / "jobs/one.py", "def broken(:\n")
    write(project / "jobs/two.py", JOB.format(imports="", name="two", value="22"))
    found = rested(watch)
    assert found is not None
    assert found.specs["one"] == before.specs["one"]
    assert found.specs["two"] != before.specs["two"]
    (said,) = found.waiting
    assert "jobs/one.py" in said
    assert "stays in force" in said


def test_an_invalid_project_file_is_refused_once_and_is_read_again_when_it_changes(project: Path) -> None:
    watch, _ = begin(project)
    write(project / "hindscan.toml", "[history.numbers]\nparquett = 1\n")
    assert watch.look() is None
    with pytest.raises(ConfigError, match="parquett"):
        watch.look()
    assert watch.look() is None
    write(project / "hindscan.toml", FILE + "# corrected\n")
    assert rested(watch) is not None


def test_what_is_opened_at_the_start_waits_for_the_next_and_is_named(project: Path) -> None:
    watch, before = begin(project)
    write(project / "hindscan.toml", FILE + '[store]\nurl = "sqlite:///other.db"\n[compute]\nruns = 7\nworkers = 1\n')
    found = rested(watch)
    assert found is not None
    assert found.project.store == before.project.store
    assert found.project.compute.workers == 1
    assert [text.split(" has")[0] for text in found.waiting] == ["[store]", "[compute].runs"]
