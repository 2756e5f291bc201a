"""Code that travels: it means the same in another process, in another folder, without a path to the project."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hindscan.errors import CodeLoadError, JobDefinitionError
from hindscan.jobs.code import bundle, load
from hindscan.jobs.declare import Job, job
from hindscan.jobs.job import Code, JobSpec
from hindscan.jobs.modules import closure
from hindscan.jobs.program import Program
from hindscan.jobs.registry import load_file
from hindscan.jobs.world import own_folders

PROJECT = {
    "jobs/scan.py": """
        import math
        import hindscan as hs
        import _shared
        from lib.rates import RATE
        from . import neighbour

        @hs.job(history="bids")
        def scan(rows, factor: int = 2):
            from lib.late import late       # only here
            return [_shared.twice(r) * factor * RATE + late() + neighbour.nothing() + math.floor(0.5) for r in rows]

        @scan.combine
        def merge(partials):
            return sum(partials, [])
    """,
    "jobs/_shared.py": "def twice(x):\n    return 2 * x\n",
    "jobs/neighbour.py": "def nothing():\n    return 0\n",
    "lib/__init__.py": "",
    "lib/rates.py": "from .deep.numbers import TEN as RATE\n",
    "lib/deep/numbers.py": "TEN = 10\n",
    "lib/late.py": "import lib.rates\ndef late():\n    return lib.rates.RATE\n",
    "lib/unused.py": "raise RuntimeError('nobody imports me')\n",
}

WORKER = """
import json, sys, traceback, msgspec
from hindscan.jobs.code import load
from hindscan.jobs.job import Code, JobSpec
for line in sys.stdin:
    code = msgspec.json.decode(line, type=Code)
    steps = load(code)
    try:
        print(json.dumps(steps["slice"]([1, 2])), flush=True)
    except Exception:
        print(json.dumps(traceback.format_exc()), flush=True)
"""


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def loaded(root: Path, name: str = "jobs.scan") -> Job:
    """Import a job file as the registry does."""
    folders = own_folders(root, root / "jobs")
    module = Program.of({key: m.source for key, m in closure([name], folders).items()}).load(name)
    (found,) = [value for value in vars(module).values() if isinstance(value, Job)]
    return found


@pytest.fixture
def worker(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A process in another folder that has hindscan and nothing of the project."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        cwd=elsewhere,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:

        def ask(code: Code) -> object:
            process.stdin.write(msgspec.json.encode(code).decode() + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            return json.loads(process.stdout.readline())  # type: ignore[union-attr]

        yield ask
        process.stdin.close()
        assert process.wait(20) == 0


def test_a_job_arrives_with_its_neighbours_packages_and_late_imports(tmp_path: Path, worker: Any) -> None:
    write(tmp_path, PROJECT)
    spec, code = bundle(loaded(tmp_path), tmp_path, file="jobs/scan.py")
    assert sorted(code.modules) == [
        "_shared", "jobs.neighbour", "jobs.scan", "lib.__init__", "lib.deep.numbers", "lib.late", "lib.rates",
    ]  # fmt: skip
    assert worker(code) == [50, 90]
    assert (spec.code, spec.file) == (code.digest, "jobs/scan.py")


STEPS = """
    import hindscan as hs
    ONE = "SELECT 1"

    @hs.job(history="bids")
    def scan(bids, least: int = 1):
        "What it is."
        return bids.sql(ONE + "", least=int(least))

    @scan.combine
    def merge(partials):
        BODY
"""


@pytest.mark.parametrize(
    ("body", "is_sql"),
    [
        ("return partials.sql('FROM partials')", True),
        ("return partials.arrow()", False),
        ("return sorted(partials.sql('FROM partials'))", False),
        ("made = partials.sql('FROM partials'); return made", False),
        ("return other.sql('FROM partials')", False),
        ("pass", False),
    ],
)
def test_a_step_that_is_one_statement_is_known_to_be_no_more(tmp_path: Path, body: str, is_sql: bool) -> None:
    write(tmp_path, {"jobs/scan.py": STEPS.replace("BODY", body)})
    spec, _ = bundle(loaded(tmp_path), tmp_path)
    assert {name: step.is_sql for name, step in spec.steps.items()} == {"slice": True, "combine": is_sql}


def test_a_changed_module_is_another_program_in_the_same_worker(tmp_path: Path, worker: Any) -> None:
    write(tmp_path, PROJECT)
    _, before = bundle(loaded(tmp_path), tmp_path)
    write(tmp_path, {"lib/deep/numbers.py": "TEN = 100\n"})
    _, after = bundle(loaded(tmp_path), tmp_path)
    assert before.digest != after.digest
    assert [worker(before), worker(after), worker(before)] == [[50, 90], [500, 900], [50, 90]]


def test_the_same_holds_in_this_process(tmp_path: Path) -> None:
    write(tmp_path, PROJECT)
    _, before = bundle(loaded(tmp_path), tmp_path)
    write(tmp_path, {"jobs/_shared.py": "def twice(x):\n    return 20 * x\n"})
    _, after = bundle(loaded(tmp_path), tmp_path)
    assert [load(code)["slice"]([1], factor=1) for code in (before, after, before)] == [[30], [210], [30]]
    assert load(before)["slice"] is load(before)["slice"]
    assert not any(name in sys.modules for name in ("_shared", "lib", "jobs.scan"))


def made_with(n: int) -> Job:
    captured = {"n": n}

    def scale(rows: Any) -> Any:
        return [r * captured["n"] for r in rows]

    return job(history="h")(scale)


def test_a_closure_goes_by_value(worker: Any, tmp_path: Path) -> None:
    spec, code = bundle(made_with(3), tmp_path)
    assert worker(code) == [3, 6]
    assert spec.steps["slice"].digest == bundle(made_with(3), tmp_path)[0].steps["slice"].digest
    assert spec.steps["slice"].digest != bundle(made_with(4), tmp_path)[0].steps["slice"].digest


def test_a_closure_made_in_an_own_module_shares_that_modules_names(worker: Any, tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "jobs/scan.py": """
                import hindscan as hs
                BASE = 5
                def made(n):
                    def scale(rows):
                        from _late import more
                        return [r * n + BASE + more for r in rows]
                    return scale
                it = hs.job(history="h")(made(2))
            """,
            "jobs/_late.py": "more = 100",
        },
    )
    spec, code = bundle(loaded(tmp_path), tmp_path)
    assert worker(code) == [107, 109]
    write(tmp_path, {"jobs/scan.py": (tmp_path / "jobs/scan.py").read_text().replace("BASE = 5", "BASE = 6")})
    assert bundle(loaded(tmp_path), tmp_path)[0].steps["slice"].digest != spec.steps["slice"].digest


SCRIPT = """
import sys, msgspec
import pyarrow as pa, pyarrow.compute
import hindscan as hs
from lib.rates import RATE
FACTOR = 7
class Kept:
    def __init__(self, n): self.n = n
    def times(self, x):
        import lib.late
        return self.n * x + lib.late.late()
KEPT = Kept(FACTOR)
def helper(x): return KEPT.times(x)
@hs.job(history="h")
def scan(rows):
    def inner(r):
        from lib.deep.numbers import TEN
        return helper(r) + TEN + RATE
    return [inner(r) for r in pa.compute.add(pa.array(rows), 0).to_pylist()]
from pathlib import Path
from hindscan.jobs.code import bundle
spec, code = bundle(scan, Path("."))
sys.stdout.write(spec.steps["slice"].digest + "\\n" + msgspec.json.encode(code).decode() + "\\n")
"""


@pytest.mark.parametrize("way", ["file", "-c", "stdin"])
def test_a_job_of_a_script_travels_however_the_script_is_run(way: str, worker: Any, tmp_path: Path) -> None:
    write(tmp_path, PROJECT)
    (tmp_path / "script.py").write_text(SCRIPT)
    digests = set()
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, *{"file": ["script.py"], "-c": ["-c", SCRIPT], "stdin": ["-"]}[way]],
            input=SCRIPT if way == "stdin" else None,
            cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        digest, line = run.stdout.splitlines()
        digests.add(digest)
    assert len(digests) == 1
    code = msgspec.json.decode(line, type=Code)
    assert worker(code) == [37, 44]
    assert "lib.late" in code.modules


def test_what_fails_to_load_is_an_ordinary_error_with_the_projects_traceback(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"jobs/scan.py": "import hindscan as hs\nX = 1\n@hs.job(history='h')\ndef scan(rows):\n    return X\n"},
    )
    _, code = bundle(loaded(tmp_path), tmp_path)
    broken = msgspec.structs.replace(
        code, digest="x", modules={"jobs.scan": code.modules["jobs.scan"].replace("X = 1", "X = 1 / 0")}
    )
    with pytest.raises(CodeLoadError, match=r"(?s)X = 1 / 0.*ZeroDivisionError: division by zero") as caught:
        load(broken)
    assert 'File "jobs/scan.py@' in str(caught.value)
    missing = msgspec.structs.replace(code, digest="y", modules={"jobs.scan": "import not_there_at_all"})
    with pytest.raises(CodeLoadError, match="Install not_there_at_all where the workers run"):
        load(missing)
    with pytest.raises(CodeLoadError, match="packed in form"):
        load(msgspec.structs.replace(code, digest="z", payload=b"2.7\n" + code.payload))
    beside = msgspec.structs.replace(code, digest="w", modules={"jobs.scan": "open(__file__)"})
    with pytest.raises(CodeLoadError, match="Job code has no __file__"):
        load(beside)


def test_the_form_of_a_payload_is_part_of_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Stored code is found again by its digest: bytes of another form must not be.
    _, before = bundle(made_with(3), tmp_path)
    monkeypatch.setattr("hindscan.jobs.code._FORM", "3 Python 9.9")
    _, after = bundle(made_with(3), tmp_path)
    assert before.digest != after.digest


def test_what_cannot_travel_is_refused_by_its_name(tmp_path: Path) -> None:
    import threading

    lock, stream = threading.Lock(), (n for n in [1])

    def scan(rows: Any) -> Any:
        with lock:
            return next(stream)

    with pytest.raises(JobDefinitionError) as caught:
        bundle(job(history="h")(scan), tmp_path)
    assert "`lock` of `scan` is a _thread.lock, which cannot be digested" in str(caught.value)
    assert "`stream` of `scan` is a builtins.generator" in str(caught.value)


CELLS = [
    "import hindscan as hs\nimport functools\nfrom lib.rates import RATE\nFACTOR = 7",
    "@functools.lru_cache\ndef slow(x):\n    return x * FACTOR",
    "%time 1\n@hs.job(history='h')\ndef scan(rows):\n    import lib.late\n    return [slow(r) + RATE + lib.late.late() for r in rows]",
    "scale = lambda x, y=2: x * y\n@hs.job(history='h', name='short')\ndef short(rows):\n    return [scale(r) for r in rows]",
    "@hs.job(history='h')\ndef fails(rows):\n    # a remark\n    return rows / 0",
]

NOTEBOOK = """
import sys, json, msgspec
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
from hindscan.jobs.code import bundle
shell = InteractiveShell.instance()
def run(cells):
    for cell in cells:
        assert shell.run_cell(cell).success
    found = [bundle(shell.user_ns[name], Path(".")) for name in ("scan", "short", "fails")]
    return [[spec.steps["slice"].digest, msgspec.json.encode(code).decode()] for spec, code in found]
cells = json.loads(sys.argv[1])
print("RESULT", json.dumps([run(cells), run([c.replace("RATE + ", "RATE   +  # sum\\n ") for c in cells]), run([c.replace("y=2", "y=3") for c in cells])]))
"""


def test_a_job_of_a_notebook_cell_travels_and_a_cell_run_again_keeps_its_digest(worker: Any, tmp_path: Path) -> None:
    write(tmp_path, PROJECT)
    run = subprocess.run(
        [sys.executable, "-c", NOTEBOOK, json.dumps(CELLS)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    first, again, other = json.loads(run.stdout.rpartition("RESULT")[2])
    codes = [msgspec.json.decode(text, type=Code) for _, text in (*first, other[1])]
    scanned, short, failed, longer = (worker(code) for code in codes)
    assert (scanned, short, longer) == ([27, 34], [2, 4], [3, 6])
    assert "line 4, in fails\n    return rows / 0\n" in str(failed)
    assert [d for d, _ in first] == [d for d, _ in again]
    assert (first[0][0], first[1][0]) == (other[0][0], first[1][0])
    assert first[1][0] != other[1][0]


# What is declared ------------------------------------------------------------------------------------------------

DECLARING = {
    "jobs/scan.py": """
        import csv
        import importlib
        from importlib import import_module as load
        import hindscan as hs

        def factor(kind):
            return importlib.import_module(f"pricing.{kind}").FACTOR + load("." + kind, "pricing").FACTOR

        def rate(kind):
            with hs.resource("tables/rates.csv").open() as rows:
                return int(dict(csv.reader(rows))[kind])

        @hs.job(history="bids", depends=["pricing", "tables/*.csv"])
        def scan(rows, kind: str = "cars"):
            return [r * factor(kind) * rate(kind) for r in rows]

        @scan.combine
        def merge(partials):
            return sum(partials, [])

        @scan.finish
        def priced(combined):
            return [rate("cars")]
    """,
    "pricing/__init__.py": "",
    "pricing/cars.py": "from .base import ONE as FACTOR\n",
    "pricing/base.py": "ONE = 1\n",
    "pricing/deep/bikes.py": "FACTOR = 9\n",
    "tables/rates.csv": "cars,5\n",
    "tables/more.csv": "",
    "tables/notes.txt": "",
}


def declared(root: Path, **files: str) -> tuple[JobSpec, Code]:
    write(root, DECLARING | files)
    (found,) = load_file(root, root / "jobs/scan.py")
    return bundle(found, root, file="jobs/scan.py")


def test_declared_modules_and_files_arrive_where_nothing_of_the_project_is(tmp_path: Path, worker: Any) -> None:
    _, code = declared(tmp_path)
    assert sorted(code.modules) == [
        "jobs.scan", "pricing.__init__", "pricing.base", "pricing.cars", "pricing.deep.bikes",
    ]  # fmt: skip
    assert sorted(code.files) == ["tables/more.csv", "tables/rates.csv"]
    assert worker(code) == [10, 20]
    _, after = declared(tmp_path, **{"tables/rates.csv": "cars,7\n"})
    _, other = declared(tmp_path, **{"pricing/base.py": "ONE = 2\n"})
    # Each version in the same process, whatever the project's folder holds by now.
    assert [worker(one) for one in (after, code, other, after)] == [[14, 28], [10, 20], [20, 40], [14, 28]]


@pytest.mark.parametrize(
    ("file", "text", "steps"),
    [
        ("tables/rates.csv", "cars,6\n", {"slice", "finish"}),
        ("tables/more.csv", "x", {"slice", "finish"}),
        ("tables/notes.txt", "x", set()),
        ("pricing/base.py", "ONE = 2\n", {"slice"}),
        ("pricing/base.py", "# a remark\nONE  =  1\n", set()),
        ("pricing/deep/bikes.py", "FACTOR = 8\n", {"slice"}),
        ("pricing/new.py", "FACTOR = 8\n", {"slice"}),
        ("other/far.py", "FACTOR = 8\n", set()),
    ],
)
def test_what_is_declared_counts_in_the_steps_that_can_use_it(
    file: str, text: str, steps: set[str], tmp_path: Path
) -> None:
    before, _ = declared(tmp_path)
    after, _ = declared(tmp_path, **{file: text})
    assert {name for name, step in after.steps.items() if step.digest != before.steps[name].digest} == steps


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"pricing", ', "", r"jobs/scan.py line 8 imports a module whose name is computed.*depends=\["),
        ('"pricing", ', '"prices", ', "depends= names 'prices', which must be a module of the project"),
        ('"tables/*.csv"', '"../tables"', "depends= names '../tables'"),
        ('["pricing", "tables/*.csv"]', '"pricing"', "depends= must be a list"),
        (
            "importlib.import_module(f",
            "__import__(f",
            "import by `importlib.import_module` and name what it may import",
        ),
    ],
)
def test_what_is_not_declared_is_refused_and_the_message_names_depends(
    old: str, new: str, fault: str, tmp_path: Path
) -> None:
    with pytest.raises(JobDefinitionError, match=fault):
        declared(tmp_path, **{"jobs/scan.py": DECLARING["jobs/scan.py"].replace(old, new)})


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("tables/*.csv", "tables/more.csv", r'depends=\["tables/rates.csv"\]'),
        ('"pricing"', '"pricing.base"', "No module named 'pricing.cars' among the project's modules.*depends="),
        ("pricing.{kind}", "msgs{kind}", r"Importing 'msgscars' by a call.*depends=\[\"msgscars\"\]"),
    ],
)
def test_what_a_job_asks_for_beyond_its_declaration_fails_by_name(
    old: str, new: str, fault: str, tmp_path: Path, worker: Any
) -> None:
    write(tmp_path, {"msgscars.py": "FACTOR = 1"})
    _, code = declared(tmp_path, **{"jobs/scan.py": DECLARING["jobs/scan.py"].replace(old, new)})
    assert re.search(fault, str(worker(code)))


def test_a_declaration_that_is_computed_has_all_of_a_package_that_the_file_imports_in_part(
    tmp_path: Path, worker: Any
) -> None:
    text = DECLARING["jobs/scan.py"].replace(
        "import csv", "import csv\n        import pricing.base\n        ALL = ['pricing', 'tables/*.csv']"
    )
    text = text.replace('depends=["pricing", "tables/*.csv"]', "depends=ALL")
    _, code = declared(tmp_path, **{"jobs/scan.py": text})
    assert worker(code) == [10, 20]


def test_a_job_file_reads_what_it_declares_while_it_is_loaded(tmp_path: Path, worker: Any) -> None:
    text = """
        import importlib
        import hindscan as hs
        KINDS = {name: importlib.import_module(f"pricing.{name}") for name in ["cars"]}
        RATE = int(hs.resource("tables/rates.csv").read_text().split(",")[1])
        FOLDER = hs.resource("tables")
        @hs.job(history="bids", depends=["pricing", "tables/rates.csv", "xxhash"])
        def scan(rows):
            return [KINDS["cars"].FACTOR * RATE * len(list(FOLDER.iterdir())), importlib.import_module("xx" + "hash").xxh32_intdigest(b"")]
    """
    _, code = declared(tmp_path, **{"jobs/scan.py": text})
    assert worker(code) == [5, 46947589]
    with pytest.raises(JobDefinitionError, match=r'depends=\["tables/rates.csv"\]'):
        declared(tmp_path, **{"jobs/scan.py": text.replace('"tables/rates.csv", ', "")})


SCRIPT_DECLARING = """
import sys, msgspec
import importlib
import hindscan as hs
from importlib import import_module
LOAD = import_module
@hs.job(history="h", depends=["pricing.cars", "tables/rates.csv"])
def scan(rows):
    kind = "cars"
    rate = int(hs.resource("tables/rates.csv").read_text().split(",")[1])
    return [rate * importlib.import_module("pricing." + kind).FACTOR * LOAD("pricing." + kind).FACTOR, importlib.import_module("xxhash").xxh32_intdigest(b"")]
from pathlib import Path
from hindscan.jobs.code import bundle
assert scan([1]) == [5, 46947589]      # called as it stands, it reads the project's own files
spec, code = bundle(scan, Path("."))
sys.stdout.write(msgspec.json.encode(code).decode())
"""


def test_a_job_of_a_script_declares_as_a_job_file_does(tmp_path: Path, worker: Any) -> None:
    write(tmp_path, DECLARING)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT_DECLARING],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert worker(msgspec.json.decode(run.stdout, type=Code)) == [5, 46947589]
