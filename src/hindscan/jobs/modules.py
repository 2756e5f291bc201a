"""The project's own modules: which they are, where they are found, what they import.

Keeps promise 12: code that travels takes along every own module it may import, as source. An own module is a Python file of the
project that is neither installed nor of the standard library, and not hindscan itself. Imports are read from the sources, wherever they stand.

::

    project files -> Folders.find -> Module -> closure -> {key: Module} -> jobs.program, jobs.code
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from hindscan.errors import JobDefinitionError

__all__ = [
    "IMPORTERS",
    "INIT",
    "CalledImport",
    "Folders",
    "Import",
    "Module",
    "Modules",
    "closure",
    "dynamic_imports",
    "imports_of",
    "is_installed",
    "mentions",
]

#: Ways to import that no reading of the source can follow.
_UNFOLLOWED = frozenset(
    {"spec_from_file_location", "SourceFileLoader", "exec_module", "load_module", "run_path", "run_module"}
)

_CALLED_IMPORTERS = frozenset({"import_module", "__import__"})

#: Those that job code gets a stand-in for.
_ANSWERED = frozenset({"import_module"})

#: All names by which a module is imported other than by a statement.
IMPORTERS = _UNFOLLOWED | _CALLED_IMPORTERS

#: Ends the name of a package's own source, so that a set of sources by name says which of them are packages.
INIT = ".__init__"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """One own module as source."""

    #: As the project's code says it: ``jobs.bidder_scan``, ``_shared``; a package's own source without ``__init__``.
    name: str
    source: str
    is_package: bool = False

    @property
    def key(self) -> str:
        """Name in a set of sources."""
        return self.name + INIT if self.is_package else self.name

    @property
    def package(self) -> str:
        """What relative imports start from."""
        return self.name if self.is_package else self.name.rpartition(".")[0]

    @property
    def filename(self) -> str:
        """Name in tracebacks: where it lies in the project, and which version it is."""
        path = self.key.replace(".", "/") + ".py"
        return f"{path}@{hashlib.sha256(self.source.encode()).hexdigest()[:8]}"

    def may_import_by_call(self) -> bool:
        """Say whether it could import without an import statement: a quick look at the text."""
        return any(name in self.source for name in IMPORTERS)

    def tree(self) -> ast.Module:
        """Parse the source.

        Raises
        ------
        SyntaxError
            It is not Python.
        """
        return _parsed(self.source, self.filename)


@functools.lru_cache(maxsize=256)
def _parsed(source: str, filename: str) -> ast.Module:
    return ast.parse(source, filename)


class Modules(Protocol):
    """A place where own modules are found."""

    def find(self, name: str) -> Module | None:
        """Give the module, or None where nothing but a folder, or nothing of the project, has that name."""
        ...

    def owns(self, name: str) -> bool:
        """Say whether the name is the project's: a module, a package or a folder of modules."""
        ...

    def within(self, name: str) -> list[str]:
        """List the module of that name and all those under it."""
        ...


class Folders:
    """Own modules in folders of the project, as Python would find them with those folders first on its path.

    Parameters
    ----------
    search : sequence of Path
        The folders, first one first.
    """

    def __init__(self, search: Sequence[Path]) -> None:
        self._search = tuple(dict.fromkeys(folder.resolve() for folder in search if folder.is_dir()))
        self._tops: dict[str, tuple[Path, ...]] = {}
        self._found: dict[str, Module | None] = {}

    def owns(self, name: str) -> bool:
        """Say whether the name is the project's."""
        top, *rest = name.split(".")
        return any(self._exists(folder.joinpath(top, *rest)) for folder in self._homes(top))

    def find(self, name: str) -> Module | None:
        """Give the module, or None where there is none of that name."""
        if name not in self._found:
            self._found[name] = self._read(name)
        return self._found[name]

    def within(self, name: str) -> list[str]:
        """List the module of that name and all those under it."""
        top, *rest = name.split(".")
        found = {name} if self.find(name) is not None else set()
        for folder in self._homes(top):
            above = folder.joinpath(top, *rest)
            for path in above.rglob("*.py"):
                parts = (*path.relative_to(above).parent.parts, *(() if path.stem == "__init__" else (path.stem,)))
                if all(part.isidentifier() for part in parts):
                    found.add(".".join((name, *parts)))
        return sorted(found)

    def holds(self, file: Path) -> bool:
        """Say whether a file lies in one of the folders."""
        return any(file.resolve().is_relative_to(folder) for folder in self._search)

    def _read(self, name: str) -> Module | None:
        top, *rest = name.split(".")
        for folder in self._homes(top):
            path = folder.joinpath(top, *rest)
            for file, is_package in ((path / "__init__.py", True), (path.with_name(path.name + ".py"), False)):
                if file.is_file():
                    with file.open("rb") as opened:
                        source = importlib.util.decode_source(opened.read())
                    return Module(name=name, source=source, is_package=is_package)
            compiled = _compiled_files(path)
            if compiled:
                raise JobDefinitionError(
                    f"Collecting the project's modules: only Python sources travel to workers, and {name} is compiled "
                    f"({compiled[0].name}). Install it as a package where the workers run."
                )
        return None

    def _homes(self, top: str) -> tuple[Path, ...]:
        if top not in self._tops:
            self._tops[top] = self._homes_of(top)
        return self._tops[top]

    def _homes_of(self, top: str) -> tuple[Path, ...]:
        if top == "hindscan" or top in sys.stdlib_module_names or not top.isidentifier():
            return ()
        for folder in self._search:
            if (folder / top / "__init__.py").is_file() or (folder / f"{top}.py").is_file():
                return (folder,)
        folders = tuple(folder for folder in self._search if (folder / top).is_dir())
        # Any folder could be a namespace package; as in Python, a real module of that name comes first.
        if folders and not _is_importable(top):
            return folders
        return tuple(folder for folder in self._search if _compiled_files(folder / top))

    @staticmethod
    def _exists(path: Path) -> bool:
        return path.is_dir() or path.with_name(path.name + ".py").is_file() or bool(_compiled_files(path))


def _compiled_files(path: Path) -> list[Path]:
    files = [path.with_name(path.name + suffix) for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    return [file for file in files if file.is_file()]


def _is_importable(top: str) -> bool:
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def is_installed(file: str | None) -> bool:
    """Say whether a module's file belongs to Python or to an installed package: such modules are there on workers too."""
    if file is None:
        return True
    path = Path(file).resolve()
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return any(path.is_relative_to(home) for home in _homes_of_python())


@functools.cache
def _homes_of_python() -> tuple[Path, ...]:
    import sysconfig

    paths = sysconfig.get_paths()
    homes = [Path(paths[name]) for name in ("stdlib", "platstdlib", "scripts") if name in paths]
    # hindscan itself is a library to its users' code, also where it runs from a checkout (`python -m hindscan`).
    return tuple(home.resolve() for home in (*homes, Path(__file__).parents[1]))


# Imports ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """One import of one name, made absolute."""

    #: The module named after ``import`` or ``from``.
    module: str
    #: What is taken out of it; None for ``import module``, "*" for all.
    name: str | None
    #: What it is called afterwards.
    alias: str
    line: int = 0


def imports_of(node: ast.AST, package: str) -> Iterator[Import]:
    """List the imports anywhere under a node, those inside functions included."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            for one in child.names:
                alias = one.asname or one.name.partition(".")[0]
                # ``import a.b as c`` binds a.b itself, and ``import a.b`` binds a.
                yield Import(module=one.name, name=None, alias=alias, line=child.lineno)
        elif isinstance(child, ast.ImportFrom):
            module = child.module or ""
            if child.level:
                base = package.split(".")[: len(package.split(".")) - child.level + 1]
                module = ".".join([*base, *([module] if module else [])])
            for one in child.names:
                yield Import(module=module, name=one.name, alias=one.asname or one.name, line=child.lineno)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CalledImport:
    """An import that is a call."""

    line: int
    #: None where it is computed.
    name: str | None
    #: Whether a program can answer the call: ``import_module`` is one function, and all else reads files by itself.
    is_answered: bool


def dynamic_imports(node: ast.AST) -> Iterator[CalledImport]:
    """Find imports whose name is not written in an import statement."""
    literal: dict[int, tuple[int, str]] = {}
    for one in ast.walk(node):
        if isinstance(one, ast.Call) and _is_importer(one.func) and one.args and not _is_relative(one):
            first = one.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                literal[id(one.func)] = (one.lineno, first.value)
    for one in ast.walk(node):
        if _is_importer(one):
            line, name = literal.get(id(one), (getattr(one, "lineno", 0), None))
            yield CalledImport(line=line, name=name, is_answered=_is_named(one, _ANSWERED))
        elif _is_named(one, _UNFOLLOWED):
            yield CalledImport(line=getattr(one, "lineno", 0), name=None, is_answered=False)


def mentions(node: ast.AST, name: str) -> bool:
    """Tell whether a name, an attribute or an import says a name, anywhere under a node."""
    return any(
        _is_named(one, frozenset({name})) or (isinstance(one, ast.alias) and one.name == name) for one in ast.walk(node)
    )


def _is_named(node: ast.AST, names: frozenset[str]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in names
    return isinstance(node, ast.Attribute) and node.attr in names


def _is_importer(node: ast.AST) -> bool:
    return _is_named(node, _CALLED_IMPORTERS)


def _is_relative(call: ast.Call) -> bool:
    first = call.args[0]
    return isinstance(first, ast.Constant) and str(first.value).startswith(".")


def closure(names: Iterable[str], modules: Modules) -> dict[str, Module]:
    """Collect own modules with all that they import, by key.

    Imports are followed wherever they stand: at the top, in functions, under conditions; the packages a module lies in come too.

    Raises
    ------
    hindscan.errors.JobDefinitionError
        A compiled module of the project, which cannot travel.
    SyntaxError
        One of the modules is not Python.
    """
    found: dict[str, Module] = {}
    waiting = list(names)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if not name or name in seen:
            continue
        seen.add(name)
        waiting.append(name.rpartition(".")[0])  # also of what is not there: its package is, and says so
        module = modules.find(name) if modules.owns(name) else None
        if module is None:
            continue
        found[module.key] = module
        for one in _all_imports(module):
            waiting.append(one.module)
            if one.name == "*":
                waiting += [f"{one.module}.{name}" for name in _exported(modules.find(one.module))]
            elif one.name is not None:
                waiting.append(f"{one.module}.{one.name}")
    return dict(sorted(found.items()))


@functools.lru_cache(maxsize=256)
def _all_imports(module: Module) -> tuple[Import, ...]:
    tree = module.tree()
    called = dynamic_imports(tree) if module.may_import_by_call() else ()
    return (
        *imports_of(tree, module.package),
        *(Import(module=one.name, name=None, alias=one.name, line=one.line) for one in called if one.name),
    )


def _exported(module: Module | None) -> list[str]:
    """Names in a literal ``__all__``: ``import *`` imports submodules that are named there."""
    for node in module.tree().body if module else ():
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return [
                one.value
                for one in ast.walk(node.value)
                if isinstance(one, ast.Constant) and isinstance(one.value, str)
            ]
    return []
