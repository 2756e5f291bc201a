"""Own modules: which they are, what comes along, and that a program imports them as Python would."""

from __future__ import annotations

import sys
import textwrap
import threading
import traceback
from pathlib import Path

import pytest

from hindscan.errors import JobDefinitionError
from hindscan.jobs.modules import Folders, closure, imports_of, is_installed
from hindscan.jobs.program import Program


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return root


def program(root: Path, *names: str, search: tuple[str, ...] = ("",)) -> Program:
    found = closure(names, Folders([root / folder for folder in search]))
    return Program.of({key: module.source for key, module in found.items()})


def test_a_folder_is_a_package_only_where_no_library_has_its_name(tmp_path: Path) -> None:
    write(tmp_path, {"numpy/x.py": "", "mine/x.py": "", "json.py": "", "hindscan/y.py": "", "pandas.py": ""})
    folders = Folders([tmp_path])
    assert [name for name in ("numpy", "mine", "mine.x", "json", "hindscan", "pandas", "absent", "mine.y") if folders.owns(name)] == [
        "mine", "mine.x", "pandas",
    ]  # fmt: skip
    assert folders.find("mine") is None
    assert folders.find("mine.x") is not None


def test_the_first_folder_comes_first(tmp_path: Path) -> None:
    write(tmp_path, {"a/one.py": "A = 1", "b/one.py": "A = 2", "b/two.py": "import one"})
    made = program(tmp_path, "two", search=("a", "b"))
    assert made.load("two").one.A == 1


def test_a_compiled_module_of_the_project_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": "import fast"})
    (tmp_path / "fast.abi3.so").write_bytes(b"")
    with pytest.raises(JobDefinitionError, match=r"fast is compiled \(fast.abi3.so\)"):
        program(tmp_path, "main")


def test_a_source_in_another_encoding_is_read_as_python_reads_it(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_bytes("# -*- coding: latin-1 -*-\nNAME = 'Zürich'\n".encode("latin-1"))
    assert program(tmp_path, "old").load("old").NAME == "Zürich"


def test_imports_mean_what_they_mean_in_python(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "main.py": """
                import pkg.sub.deep as deep
                import pkg.sub
                from pkg import sub, VALUE as value, late
                from pkg.star import *
                seen = (deep.NAME, pkg.sub.deep.NAME, sub.deep.NAME, value, late.NAME, PUBLIC, other.NAME)
                hidden = "_private" in globals()
            """,
            "pkg/__init__.py": "VALUE = 1\nfrom .sub import deep\n",
            "pkg/sub/__init__.py": "from . import deep\nfrom ..late import NAME as up\n",
            "pkg/sub/deep.py": "NAME = 'deep'\n",
            "pkg/late.py": "NAME = 'late'\n",
            "pkg/star/__init__.py": "__all__ = ['PUBLIC', 'other']\nPUBLIC = 2\n_private = 3\n",
            "pkg/star/other.py": "NAME = 'other'\n",
        },
    )
    main = program(tmp_path, "main").load("main")
    assert main.seen == ("deep", "deep", "deep", 1, "late", 2, "other")
    assert not main.hidden
    assert main.pkg.sub.up == "late"
    sys.path.insert(0, str(tmp_path))
    try:
        import main as python_main  # type: ignore[import-not-found]

        assert python_main.seen == main.seen
    finally:
        sys.path.remove(str(tmp_path))
        for name in [n for n in sys.modules if n == "main" or n.partition(".")[0] == "pkg"]:
            del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("from . import x", "beyond top-level|no known parent"),
        ("import pkg.absent", "No module named 'pkg.absent'"),
        ("from pkg import absent", "cannot import name 'absent'"),
        ("from pkg.inner import x", "beyond top-level"),
    ],
)
def test_an_import_that_fails_in_python_fails_here(text: str, error: str, tmp_path: Path) -> None:
    write(tmp_path, {"main.py": text, "pkg/__init__.py": "", "pkg/inner.py": "from ... import y"})
    with pytest.raises(ImportError, match=error):
        program(tmp_path, "main").load("main")


def test_modules_that_import_each_other_see_what_is_there_so_far(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "X = 1\nimport b\nY = b.Z", "b.py": "import a\nZ = a.X + 1"})
    assert program(tmp_path, "a").load("a").Y == 2


def test_a_module_that_failed_is_run_again(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "import sys\nif not hasattr(sys, 'hindscan_test_flag'): raise RuntimeError('not yet')"})
    made = program(tmp_path, "a")
    with pytest.raises(RuntimeError, match="not yet"):
        made.load("a")
    sys.hindscan_test_flag = True  # type: ignore[attr-defined]
    try:
        assert made.load("a")
    finally:
        del sys.hindscan_test_flag  # type: ignore[attr-defined]


def test_a_traceback_shows_the_lines_that_ran_though_the_file_has_changed(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "def f():\n    raise ValueError('first version')\n"})
    old = program(tmp_path, "a").load("a")
    write(tmp_path, {"a.py": "\n\n\ndef f():\n    raise ValueError('second')\n"})
    new = program(tmp_path, "a").load("a")
    for module, line, number in ((old, "raise ValueError('first version')", 2), (new, "raise ValueError('second')", 5)):
        with pytest.raises(ValueError, match=r"first|second") as caught:
            module.f()
        frame = traceback.extract_tb(caught.value.__traceback__)[-1]
        assert (frame.line, frame.lineno) == (line, number)
        assert frame.filename.startswith("a.py@")


def test_two_threads_run_a_module_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a.py": "import time\nCOUNT = []\ntime.sleep(0.05)\nCOUNT.append(1)",
            "b.py": "def f():\n    import a\n    return a.COUNT",
        },
    )
    f = program(tmp_path, "b").load("b").f
    seen: list[list[int]] = []
    threads = [threading.Thread(target=lambda: seen.append(f())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [[1]] * 4


def test_what_only_types_need_is_carried_but_never_run(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import b", "b.py": "raise RuntimeError"},
    )
    made = program(tmp_path, "a")
    assert set(made.sources()) == {"a", "b"}
    assert made.load("a")


def test_libraries_are_told_from_own_files(tmp_path: Path) -> None:
    import json

    import numpy as np

    import hindscan

    for module in (json, np, hindscan):
        assert is_installed(module.__file__), module
    assert not is_installed(str(tmp_path / "x.py"))


def test_imports_are_listed_wherever_they_stand() -> None:
    import ast

    tree = ast.parse("import a.b\nimport c as d\ndef f():\n    from ..g import h as i\n    from . import j\n")
    found = [(one.module, one.name, one.alias) for one in imports_of(tree, "p.q")]
    assert found == [("a.b", None, "a"), ("c", None, "d"), ("p.g", "h", "i"), ("p.q", "j", "j")]
