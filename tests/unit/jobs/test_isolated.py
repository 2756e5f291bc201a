"""Files with requirements of their own: resolved once, loaded and run only where these are, beside others that want the opposite."""

from __future__ import annotations

import base64
import hashlib
import shutil
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from acceptance.command import hindscan
from hindscan.errors import CodeLoadError
from hindscan.jobs import isolated
from hindscan.jobs.code import load
from hindscan.jobs.registry import Registered, load_folder, load_folder_in_child

NAME = "hindscan_test_tiny"


def wheel(folder: Path, version: str) -> None:
    """Build a wheel of one module by hand: what an index would give."""
    folder.mkdir(exist_ok=True)
    info = f"{NAME}-{version}.dist-info"
    files = {
        f"{NAME}.py": f"VERSION = {version!r}\ndef double(x):\n    return 2 * x\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(text)}\n"
    with zipfile.ZipFile(folder / f"{NAME}-{version}-py3-none-any.whl", "w") as archive:
        for name, text in (files | {f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}).items():
            archive.writestr(name, text)


@pytest.fixture
def project(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project on a machine that has two versions of a tiny package, and no way to any index."""
    links = tmp_path_factory.mktemp("links")
    wheel(links, "1.0")
    wheel(links, "2.0")
    for name, value in {
        "UV_FIND_LINKS": str(links), "UV_OFFLINE": "1", "UV_NO_INDEX": "1",
        "UV_CACHE_DIR": str(tmp_path_factory.mktemp("uv")), "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "_shared.py").write_text("FACTOR = 10\n")
    (tmp_path / "hindscan.toml").write_text('[history.bids]\nparquet = "bids"\ntime = "t"\n')
    (tmp_path / "bids").mkdir()
    rows = pa.table({"x": [1, 2, 3], "t": pa.array([0, 1, 2], pa.timestamp("us", "UTC"))})
    for part, (first, count) in enumerate([(0, 2), (2, 1)]):
        pq.write_table(rows.slice(first, count), tmp_path / "bids" / f"{part}.parquet")
    return tmp_path


def write(project: Path, name: str, requirement: str, *, python: str = ">=3.11", body: str = "") -> Path:
    text = f"""
    # /// script
    # requires-python = "{python}"
    # dependencies = ["{requirement}"]
    # ///
    import {NAME} as tiny
    import hindscan as hs
    import pyarrow as pa
    import sys
    from _shared import FACTOR

    @hs.job(history="bids", combine="concat")
    def {name}(bids: hs.Data, add: int = 0) -> pa.Table:
        '''What a job may say.'''
        {body or 'print("said there")'}
        return bids.sql("SELECT $factor * $two * x + $add AS x, $version AS version, $prefix AS prefix FROM bids",
                        factor=FACTOR, two=tiny.double(1), add=add, version=tiny.VERSION, prefix=sys.prefix)
    """
    file = project / "jobs" / f"{name}.py"
    file.write_text(textwrap.dedent(text).lstrip())
    return file


def here(root: Path) -> Registered:
    return load_folder(root, root / "jobs")


def in_child(root: Path) -> Registered:
    return load_folder_in_child(root, root / "jobs")


def test_two_jobs_with_versions_that_exclude_each_other_run_in_one_project(project: Path) -> None:
    write(project, "old", f"{NAME}<2")
    write(project, "new", f"{NAME}>=2")
    found = {}
    for name in ("old", "new"):
        document = hindscan("run", name, "-p", "add=5", "--json", project=project).document
        found[name] = pq.read_table(document["result"]["path"])
        assert document["slices"] == {"total": 2, "reused": 0, "computed": 2}
    assert {name: table["x"].to_pylist() for name, table in found.items()} == {"old": [25, 45, 65], "new": [25, 45, 65]}
    assert {name: set(table["version"].to_pylist()) for name, table in found.items()} == {
        "old": {"1.0"},
        "new": {"2.0"},
    }
    prefixes = {name: set(table["prefix"].to_pylist()) for name, table in found.items()}
    assert prefixes["old"] != prefixes["new"]
    assert sys.prefix not in {prefix for each in prefixes.values() for prefix in each}
    assert NAME not in sys.modules
    again = hindscan("run", "old", "-p", "add=5", "--json", project=project).document
    assert again["slices"] == {"total": 2, "reused": 2, "computed": 0}


@pytest.mark.parametrize("load_all", [here, in_child])
def test_its_parameters_are_known_without_its_requirements_and_its_code_does_not_load_here(
    project: Path, load_all: Callable[[Path], Registered]
) -> None:
    write(project, "job", NAME)
    (project / "jobs" / "plain.py").write_text("import hindscan as hs\n@hs.job(history='bids')\ndef plain(bids): ...\n")
    found = load_all(project)
    assert found.faults == ()
    assert sorted(found.jobs) == ["job", "plain"]
    spec, code = found.jobs["job"]
    assert (spec.file, spec.doc, spec.combine) == ("jobs/job.py", "What a job may say.", "concat")
    assert [(p.name, p.type, p.default) for p in spec.parameters] == [("add", "int", 0)]
    with pytest.raises(CodeLoadError, match="only in the environment that its file requires"):
        load(code)
    assert NAME not in sys.modules


def test_what_was_resolved_first_is_kept_until_the_file_asks_for_something_else(project: Path) -> None:
    file = write(project, "job", f"{NAME}<2")
    first, code = here(project).jobs["job"]
    lock = file.with_name("job.py.lock")
    assert f"{NAME.replace('_', '-')}==1.0" in lock.read_text()
    assert "sha256:" in lock.read_text()
    # Another machine, with more versions and the lock: the same.
    kept = lock.read_text()
    same, _ = here(project).jobs["job"]
    assert (same.steps, lock.read_text()) == (first.steps, kept)
    file.write_text(file.read_text().replace(f"{NAME}<2", f"{NAME}>=1"))
    widened, _ = here(project).jobs["job"]
    assert f"{NAME.replace('_', '-')}==1.0" in lock.read_text()
    assert widened.steps == first.steps  # what is installed is the same, so nothing is computed again
    file.write_text(file.read_text().replace(f"{NAME}>=1", f"{NAME}>=2"))
    changed, other = here(project).jobs["job"]
    assert f"{NAME.replace('_', '-')}==2.0" in lock.read_text()
    assert changed.steps["slice"].digest != first.steps["slice"].digest
    assert other.digest != code.digest


def test_an_environment_is_made_once_and_again_where_it_is_gone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = isolated.environment_of(write(project, "job", NAME))
    python = isolated.ensured(environment)
    made = python.parent.stat().st_ino
    monkeypatch.setenv("UV_FIND_LINKS", "")  # nothing could be installed any more
    assert isolated.ensured(environment) == python
    assert python.parent.stat().st_ino == made
    shutil.rmtree(python.parents[1])
    monkeypatch.setenv("UV_CACHE_DIR", str(project / "empty"))
    with pytest.raises(CodeLoadError, match="what its lock names must be installable here"):
        isolated.ensured(environment)


FAULTS = {
    "no such package": (f"{NAME}>=9", ">=3.11", "must be there together"),
    "another version of what hindscan needs": (
        "pyarrow<2",
        ">=3.11",
        "with the versions that hindscan has in this project",
    ),
    "another Python": (NAME, ">=4", "the file requires >=4, and this is 3."),
    "no specifier": (NAME, "three", "must be a version specifier, and is 'three'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_requirements_that_cannot_be_met_are_a_fault_of_their_file_alone(project: Path, fault: str) -> None:
    requirement, python, told = FAULTS[fault]
    write(project, "job", requirement, python=python)
    (project / "jobs" / "plain.py").write_text("import hindscan as hs\n@hs.job(history='bids')\ndef plain(bids): ...\n")
    found = in_child(project)
    assert list(found.jobs) == ["plain"]
    (one,) = found.faults
    assert one.file == "jobs/job.py"
    assert told in one.message
    assert not (project / "jobs" / "job.py.lock").exists()


def test_without_uv_the_fault_says_how_to_get_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project, "job", NAME)
    monkeypatch.setenv("PATH", str(project))
    monkeypatch.setattr(sys, "executable", str(project / "python"))
    (one,) = here(project).faults
    assert "pip install 'hindscan[isolated]'" in one.message


def test_a_function_that_raises_or_ends_its_process_there_fails_as_it_would_here(project: Path) -> None:
    write(project, "raises", NAME, body="raise ValueError(tiny.VERSION + ' is too new')")
    write(project, "ends", NAME, body="import os; os._exit(3)")
    assert "ValueError: 2.0 is too new" in hindscan("run", "raises", project=project, check=1).err
    told = hindscan("run", "ends", project=project, check=1).err
    assert "ended with exit code 3" in told
    assert "the job's environment" in told


def test_only_a_block_as_the_specification_has_it_counts() -> None:
    block = "# /// script\n# dependencies = []\n# ///\n"
    assert isolated.is_isolated("import os\n" + block)
    assert not isolated.is_isolated(block.replace("script", "other"))
    assert not isolated.is_isolated("text = '''\n  # /// script\n'''\n# /// script\n# dependencies = []\n")
