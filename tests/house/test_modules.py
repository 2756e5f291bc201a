"""Every module says what it promises, and exports what it says."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

#: Drawers that hide what is in them.
DRAWERS = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc", "core"}


def exports(module) -> list[str] | None:
    for node in module.tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return list(ast.literal_eval(node.value))
    return None


def in_order(names: list[str]) -> list[str]:
    """Constants, then classes, then functions, each by name: the order the linter writes."""
    return sorted(set(names), key=lambda name: (not name.isupper(), not name[:1].isupper(), name))


def defined(module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return names


def words_due(module) -> int:
    """A folder's __init__ says in a line what it answers, a file of commands lists them; a module says what it promises and how."""
    return 5 if module.is_package or module.part in {"__main__", "cli"} else 20


def test_every_module_begins_with_a_docstring_of_substance(modules) -> None:
    thin = [name for name, module in modules.items() if len(module.docstring.split()) < words_due(module)]
    assert thin == []


def test_a_folder_s_init_holds_only_its_docstring(modules) -> None:
    assert [name for name, m in modules.items() if m.is_package and m.part and len(m.tree.body) != 1] == []


def test_exports_are_sorted_unique_and_there(modules) -> None:
    faults = []
    for name, module in modules.items():
        listed = exports(module)
        # The root groups its names under headings and resolves them lazily; the next test asks for each of them.
        if listed is None or name == "hindscan":
            continue
        if listed != in_order(listed):
            faults.append(f"{name}: __all__ is not sorted")
        faults += [f"{name}: __all__ names {missing}" for missing in sorted(set(listed) - defined(module))]
    assert faults == []


def test_a_module_with_public_names_lists_them(modules) -> None:
    silent = []
    for name, module in modules.items():
        if module.is_package or exports(module) is not None or "migrations" in name:
            continue
        public = [
            node.name
            for node in module.tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
        ]
        if public:
            silent.append(f"{name}: {public}")
    assert silent == []


def test_every_name_of_the_root_can_be_had() -> None:
    import hindscan

    for name in getattr(hindscan, "__all__", ()):
        assert getattr(hindscan, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hindscan.no_such_name


def test_no_module_is_a_drawer(modules) -> None:
    assert [name for name in modules if name.rpartition(".")[2] in DRAWERS] == []


def test_importing_hindscan_is_fast_and_opens_nothing() -> None:
    program = (
        "import sys, time\n"
        "opened = []\n"
        "def watch(event, args):\n"
        "    if event in {'socket.connect', 'socket.bind', 'subprocess.Popen', 'os.mkdir', 'sqlite3.connect'}:\n"
        "        opened.append((event, str(args)))\n"
        "    if event == 'open' and isinstance(args[1], str) and set(args[1]) & set('wax+'):\n"
        "        opened.append((event, str(args)))\n"
        "sys.dont_write_bytecode = True\n"
        "sys.addaudithook(watch)\n"
        "begin = time.perf_counter()\n"
        "import hindscan\n"
        "seconds = time.perf_counter() - begin\n"
        "heavy = {'pandas', 'pyarrow', 'numpy', 'duckdb', 'distributed', 'dask', 'sqlalchemy', 'fastapi', 'confluent_kafka'}\n"
        "print(opened, sorted(heavy & set(sys.modules)), seconds < 0.5)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] [] True"


def test_help_is_answered_without_the_heavy_libraries() -> None:
    program = (
        "import sys\n"
        "from hindscan.cli.app import run_app\n"
        "code = run_app(['--help'])\n"
        "heavy = {'pandas', 'pyarrow', 'numpy', 'duckdb', 'distributed', 'dask', 'sqlalchemy', 'fastapi', 'confluent_kafka'}\n"
        "print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "0 []"
    assert "generate" in done.stdout
