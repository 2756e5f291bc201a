"""Job files load one by one; whatever one of them does, the others are there and the fault has its name."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hindscan.jobs.code import load
from hindscan.jobs.registry import Registered, load_folder, load_folder_in_child, load_job

GOOD = """
import hindscan as hs
from _shared import N
print("said while loading")

@hs.job(history="bids")
def good(rows, n: int = N):
    return n
"""

Load = Callable[[Path], Registered]


def here(root: Path) -> Registered:
    return load_folder(root, root / "jobs")


def in_child(root: Path) -> Registered:
    return load_folder_in_child(root, root / "jobs", time_limit=20)


both = pytest.mark.parametrize("load_all", [here, in_child])


def write(root: Path, **files: str) -> None:
    (root / "jobs").mkdir(exist_ok=True)
    for name, text in files.items():
        (root / "jobs" / f"{name}.py").write_text(textwrap.dedent(text))


@both
def test_a_broken_file_hides_no_other(load_all: Load, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(
        tmp_path,
        _shared="N = 3",
        good=GOOD,
        syntax="def (:",
        raises="import hindscan\n\nraise ValueError('bad luck')",
        leaves="import sys\nsys.exit(3)",
        nothing="x = 1",
        missing="import not_there_at_all",
        badly="import hindscan as hs\n@hs.job(history='h')\ndef badly(rows, seed=1): ...",
        reads="open(__file__)",
    )
    found = load_all(tmp_path)
    assert list(found.jobs) == ["good"]
    spec, code = found.jobs["good"]
    assert (spec.file, spec.parameters[0].default) == ("jobs/good.py", 3)
    assert load(code)["slice"](None, n=4) == 4
    faults = {fault.file: fault for fault in found.faults}
    assert set(faults) == {
        f"jobs/{n}.py" for n in ("syntax", "raises", "leaves", "nothing", "missing", "badly", "reads")
    }
    assert "SyntaxError" in faults["jobs/syntax.py"].message
    assert "raised ValueError: bad luck" in faults["jobs/raises.py"].message
    first_frame = faults["jobs/raises.py"].traceback.splitlines()[1]
    assert first_frame.strip().startswith('File "jobs/raises.py@')
    assert "raised SystemExit: 3" in faults["jobs/leaves.py"].message
    assert "declares none" in faults["jobs/nothing.py"].message
    assert "No module named 'not_there_at_all'" in faults["jobs/missing.py"].message
    assert "`seed` of slice is an option" in faults["jobs/badly.py"].message
    assert "Job code has no __file__" in faults["jobs/reads.py"].message
    assert "said while loading" not in capfd.readouterr().out


@both
def test_a_name_declared_twice_is_nobodys(load_all: Load, tmp_path: Path) -> None:
    text = "import hindscan as hs\n@hs.job(history='h')\ndef same(rows): ...\n"
    write(tmp_path, first=text, second=text)
    found = load_all(tmp_path)
    assert not found.jobs
    assert [fault.file for fault in found.faults] == ["jobs/second.py"]
    assert "'same' is also declared in jobs/first.py" in found.faults[0].message


def test_a_job_imported_from_another_file_is_not_declared_twice(tmp_path: Path) -> None:
    write(
        tmp_path,
        fit="import hindscan as hs\n@hs.job(history='h')\ndef fit(rows): ...\n",
        price="import hindscan as hs\nfrom fit import fit\nfrom jobs.fit import fit as again\n@hs.simulation(calibrate=fit)\ndef price(block, model): ...\n",
    )
    found = here(tmp_path)
    assert not found.faults
    assert list(found.jobs) == ["fit", "price"]
    assert set(found.jobs["price"][0].steps) == {"slice", "calibrate"}


def test_a_file_that_ends_or_holds_up_its_process_is_a_fault_by_name(tmp_path: Path) -> None:
    write(
        tmp_path,
        _shared="N = 3",
        a_exits="import os\nos._exit(0)",
        b_crashes="import ctypes, sys\nprint('last words', file=sys.stderr, flush=True)\nctypes.string_at(0)",
        c_hangs="import time\nwhile True: time.sleep(1)",
        d_floods="import sys\nsys.stdout.write('x' * 1_000_000)\nsys.stdout.flush()\nimport os; os.write(1, b'y' * 1_000_000)\n"
        + GOOD,
        e_lingers="import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
        + GOOD.replace("good", "lingers"),
    )
    started = time.monotonic()
    found = load_folder_in_child(tmp_path, tmp_path / "jobs", time_limit=5)
    assert time.monotonic() - started < 40
    assert list(found.jobs) == ["good", "lingers"]
    messages = {fault.file: fault for fault in found.faults}
    assert "ended its process with exit code 0" in messages["jobs/a_exits.py"].message
    assert "killed its process with SIGSEGV" in messages["jobs/b_crashes.py"].message
    assert "last words" in messages["jobs/b_crashes.py"].traceback
    assert "was not done after 5 s" in messages["jobs/c_hangs.py"].message


def test_both_ways_give_the_same_digests_and_no_folder_gives_no_jobs(tmp_path: Path) -> None:
    write(tmp_path, _shared="N = 3", good=GOOD)
    assert here(tmp_path).jobs["good"] == in_child(tmp_path).jobs["good"]
    assert load_folder(tmp_path, tmp_path / "none") == Registered()
    assert load_folder_in_child(tmp_path, tmp_path / "none") == Registered()


def test_an_edited_file_is_seen_again_in_the_same_process(tmp_path: Path) -> None:
    write(tmp_path, _shared="N = 3", good=GOOD)
    before = here(tmp_path).jobs["good"]
    write(tmp_path, _shared="N = 4")
    after = here(tmp_path).jobs["good"]
    assert (before[0].parameters[0].default, after[0].parameters[0].default) == (3, 4)


def test_one_job_is_loaded_without_running_the_files_that_do_not_say_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    job = "import hindscan as hs\n@hs.job(history='h')\ndef {name}(h: hs.Data):\n    return h.arrow()\n"
    (folder / "one.py").write_text(job.format(name="first"))
    (folder / "two.py").write_text("raise SystemExit('it was run')\n")
    assert "it was run" in load_folder(tmp_path, folder).faults[0].message
    found = load_job(tmp_path, folder, "first")
    assert found == load_folder(tmp_path, folder).jobs["first"]
    # Only where that cannot be wrong: a name that two declare, or nobody, is for whoever looks at all files.
    (folder / "three.py").write_text(job.format(name="first"))
    assert load_job(tmp_path, folder, "first") is None
    assert load_job(tmp_path, folder, "second") is None
