"""The package as its source text tells it, for the tests of the house."""

from __future__ import annotations

import ast
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "hindscan"


@dataclass(frozen=True)
class Import:
    """One imported module, and the line that names it."""

    target: str
    line: int
    typing_only: bool = False


@dataclass(frozen=True)
class Module:
    """One file of the package, parsed and never imported."""

    name: str
    file: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.file.read_text(encoding="utf-8"), str(self.file))

    @property
    def is_package(self) -> bool:
        return self.file.name == "__init__.py"

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""

    @property
    def part(self) -> str:
        """The first name below the package: a folder, a foundation, something on top; empty for the root."""
        return self.name.partition(".")[2].partition(".")[0]

    def imports(self, modules: dict[str, Module]) -> list[Import]:
        """Return everything imported anywhere in the file, in functions and under TYPE_CHECKING too.

        `from hindscan.events import event` names the module `hindscan.events.event`, not the package.
        """
        typing = {
            inner
            for node in ast.walk(self.tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for statement in node.body
            for inner in ast.walk(statement)
        }
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [Import(alias.name, node.lineno, node in typing) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                for alias in node.names:
                    deeper = f"{base}.{alias.name}"
                    found.append(Import(deeper if deeper in modules else base, node.lineno, node in typing))
        return found


def read_package(folder: Path, name: str) -> dict[str, Module]:
    modules = {}
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        dotted = ".".join([name, *(parts[:-1] if parts[-1] == "__init__" else parts)])
        modules[dotted] = Module(dotted, file)
    return modules


@pytest.fixture(scope="session")
def modules() -> dict[str, Module]:
    return read_package(SOURCE, "hindscan")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def tracked(root: Path) -> list[Path]:
    """Every file that git tracks."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True)
    files = [root / name for name in listed.stdout.decode().split("\0") if name]
    return [file for file in files if file.is_file()]


@pytest.fixture
def parse(tmp_path: Path):
    """Make a small package from a mapping of file to text, to see the rules fail."""

    def make(files: dict[str, str]) -> dict[str, Module]:
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return read_package(tmp_path, "hindscan")

    return make
