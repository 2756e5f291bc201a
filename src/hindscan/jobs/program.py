"""A program: a set of own modules, run apart from everything else in the process.

Keeps the loading half of promise 12. Code that travels must mean the same where it arrives, whatever that process has on its
`sys.path` and whatever it imported before. So own modules are run under a package named by the digest of all their sources, with an
`__import__` of their own that looks among them first, and an `importlib` whose `import_module` does. Files that were declared lie in
a folder of the program. Two versions of a module live side by side; when one module changes, all of
them are another program. The registry loads job files the same way, so what is seen there is what workers see.

::

    {key: source} -> Program.of -> load -> module objects
"""

from __future__ import annotations

import builtins
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.util
import linecache
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from hindscan.errors import JobDefinitionError
from hindscan.jobs.carried import Folder, token_of
from hindscan.jobs.job import CarriedFile
from hindscan.jobs.modules import INIT, Module, dynamic_imports

__all__ = ["Importlib", "Program", "imports_by_call", "program_in", "program_of"]

#: Name among the builtins of a program under which they say whose they are.
_WHOSE: Final = "__hindscan_program__"


class _Loader:
    """Tells where a module of a program comes from: for `program_of`, and for whoever asks for its source."""

    def __init__(self, program: Program, module: Module) -> None:
        self.program = program
        self.module = module

    def get_source(self, _name: str) -> str:
        return self.module.source


class Importlib(types.ModuleType):
    """What `import importlib` gives in a program: the same, but for what looks for modules.

    Parameters
    ----------
    program : Program
        The program.
    """

    def __init__(self, program: Program) -> None:
        super().__init__("importlib", importlib.__doc__)
        self.import_module = program.import_module

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib, name)


class Program:
    """A set of own modules, imported together and apart from everything else in the process.

    Parameters
    ----------
    sources : mapping
        Sources by key: the module's name, for packages with ``.__init__`` after it.
    files : mapping of str to CarriedFile
        Files that its code may open, by their paths in the project.
    libraries : sequence of str
        Installed modules that its code may import by a call, beside those that calls name in full.
    """

    def __init__(
        self, sources: Mapping[str, str], files: Mapping[str, CarriedFile] | None = None, libraries: Sequence[str] = ()
    ) -> None:
        self.digest = _digest_of(sources, files or {}, libraries)
        self.package = f"_hindscan_{self.digest[:16]}"
        self._modules = {
            key.removesuffix(INIT): Module(name=key.removesuffix(INIT), source=text, is_package=key.endswith(INIT))
            for key, text in sources.items()
        }
        names = list(self._modules)
        self._names = {".".join(name.split(".")[: i + 1]) for name in names for i in range(name.count(".") + 1)}
        self._lock = threading.RLock()
        self.builtins: dict[str, Any] = {**vars(builtins), "__import__": self._import, _WHOSE: self}
        self.importlib = Importlib(self)
        self._files = Folder(self.digest, files or {})
        self._libraries = frozenset(libraries)

    @classmethod
    def of(
        cls, sources: Mapping[str, str], files: Mapping[str, CarriedFile] | None = None, libraries: Sequence[str] = ()
    ) -> Program:
        """Give the program of these sources and files; in one process there is one."""
        made = cls(sources, files, libraries)
        with _PROGRAMS_LOCK:
            root = sys.modules.get(made.package)
            if root is None:
                root = types.ModuleType(made.package, "A program of the project's own modules.")
                root.__path__ = []
                root.__dict__["__program__"] = made
                sys.modules[made.package] = root
            program: Program = root.__dict__["__program__"]
            return program

    def sources(self) -> dict[str, str]:
        """Give all sources by key."""
        return {module.key: module.source for module in self._modules.values()}

    def find(self, name: str) -> Module | None:
        """Give the module, or None where there is none of that name."""
        return self._modules.get(name)

    def owns(self, name: str) -> bool:
        """Say whether the name is one of the program's."""
        return name in self._names

    def within(self, name: str) -> list[str]:
        """List the module of that name and all those under it."""
        return sorted(one for one in self._modules if one == name or one.startswith(f"{name}."))

    def resource(self, name: str) -> Path:
        """Give the path of a declared file, or of a folder of such files.

        Raises
        ------
        hindscan.errors.JobDefinitionError
            It is not declared.
        """
        if name in self._files or self._files.holds(name):
            return self._files.path() / name
        raise JobDefinitionError(
            f"Opening {name!r}: a job opens only files that it declares, and this one does not name it. "
            f'Say depends=["{name}"] in its declaration; the path is relative to the project file.',
            path=name,
        )

    def import_module(self, name: str, package: str | None = None) -> types.ModuleType:
        """Import a module by a call, as `importlib.import_module` does.

        Raises
        ------
        ModuleNotFoundError
            It would be one of the program's, and is not among them.
        hindscan.errors.JobDefinitionError
            It is none of the program's, and not declared.
        """
        absolute = importlib.util.resolve_name(name, package)
        absolute = absolute.removeprefix(f"{self.package}.")
        if self.owns(absolute):
            return self.load(absolute)
        top = absolute.partition(".")[0]
        if self.owns(top):
            raise ModuleNotFoundError(
                f"No module named {absolute!r} among the project's modules that travel; name it in depends=",
                name=absolute,
            )
        if top in sys.stdlib_module_names or top == "hindscan" or absolute in self._called:
            return importlib.import_module(absolute)
        if not any(absolute == one or absolute.startswith(f"{one}.") for one in self._libraries):
            raise JobDefinitionError(
                f"Importing {absolute!r} by a call: a job imports only modules that its import statements or its depends= name, and neither does. "
                f'Say depends=["{absolute}"] in its declaration.',
                module=absolute,
            )
        return importlib.import_module(absolute)

    @functools.cached_property
    def _called(self) -> frozenset[str]:
        """Modules that calls in the sources name in full: they are read off there, as import statements are."""
        return frozenset(
            one.name
            for module in self._modules.values()
            if module.may_import_by_call()
            for one in dynamic_imports(module.tree())
            if one.name is not None
        )

    def load(self, name: str) -> types.ModuleType:
        """Import one of the modules, as an import statement would.

        Raises
        ------
        ModuleNotFoundError
            The program has no such module.
        BaseException
            Whatever the module raises.
        """
        full = f"{self.package}.{name}"
        with self._lock:
            known = sys.modules.get(full)
            if known is not None:
                return known
            if name not in self._names:
                raise ModuleNotFoundError(f"No module named {name!r} among the project's modules", name=name)
            parent, _, last = name.rpartition(".")
            if parent:
                self.load(parent)
                if full in sys.modules:  # the package itself imported it
                    return sys.modules[full]
            module = self._made(name, full)
            sys.modules[full] = module
            found = self._modules.get(name)
            if found is not None:
                try:
                    exec(_compiled(found), module.__dict__)  # noqa: S102 (running the project's own code is what this is for)
                except BaseException:
                    sys.modules.pop(full, None)
                    raise
            setattr(sys.modules[f"{self.package}.{parent}" if parent else self.package], last or name, module)
            return sys.modules[full]

    def _made(self, name: str, full: str) -> types.ModuleType:
        found = self._modules.get(name)
        is_package = found is None or found.is_package
        module = types.ModuleType(full)
        loader: Any = _Loader(self, found or Module(name=name, source="", is_package=True))
        # No __file__: there is no file where the code arrives, and what reads beside it must fail here, not there.
        module.__spec__ = importlib.machinery.ModuleSpec(full, loader, is_package=is_package)
        module.__loader__ = loader
        module.__package__ = full if is_package else full.rpartition(".")[0]
        if is_package:
            module.__path__ = []
        module.__dict__["__builtins__"] = self.builtins
        return module

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 (the signature of __import__)
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        absolute = name
        if level:
            package = str((globals or {}).get("__package__") or "")
            base = package.split(".")
            if base[0] != self.package:
                return builtins.__import__(name, globals, locals, fromlist or (), level)
            if level >= len(base):
                raise ImportError("attempted relative import beyond top-level package")
            absolute = ".".join([*base[1 : len(base) - level + 1], *([name] if name else [])])
        if not self.owns(absolute.partition(".")[0]):
            if level:
                raise ModuleNotFoundError(f"No module named {absolute!r} among the project's modules", name=absolute)
            found = builtins.__import__(name, globals, locals, fromlist or (), 0)
            return self.importlib if found is importlib else found
        module = self.load(absolute)
        if not fromlist:
            return module if level else self.load(absolute.partition(".")[0])
        wanted = [n for n in fromlist if n != "*"]
        if "*" in fromlist:
            wanted += getattr(module, "__all__", [])
        for one in wanted:
            if not hasattr(module, one) and self.owns(f"{absolute}.{one}"):
                self.load(f"{absolute}.{one}")
        return module


_PROGRAMS_LOCK = threading.Lock()


def program_of(namespace: Mapping[str, object]) -> tuple[Program, Module] | None:
    """Tell which program's module has these globals."""
    loader = namespace.get("__loader__")
    return (loader.program, loader.module) if isinstance(loader, _Loader) else None


def imports_by_call(value: object) -> bool:
    """Tell whether a value is some program's `import_module`."""
    return isinstance(value, types.MethodType) and value.__func__ is Program.import_module


def program_in(names: Mapping[str, object]) -> Program | None:
    """Tell which program's builtins these are."""
    found = names.get(_WHOSE)
    return found if isinstance(found, Program) else None


def _digest_of(sources: Mapping[str, str], files: Mapping[str, CarriedFile], libraries: Sequence[str]) -> str:
    hasher = hashlib.sha256()
    for key, text in sorted(sources.items()):
        for part in (key.encode(), text.encode()):
            hasher.update(len(part).to_bytes(8, "little") + part)
    if files or libraries:
        hasher.update(msgspec.json.encode([token_of(files), sorted(libraries)]))
    return hasher.hexdigest()


def _compiled(module: Module) -> types.CodeType:
    # A loader-backed entry without a time: tracebacks show the version that ran, whatever the file holds by now.
    lines = module.source.splitlines(keepends=True)
    linecache.cache[module.filename] = (len(module.source), None, lines, module.filename)
    return compile(module.source, module.filename, "exec", dont_inherit=True)
