"""A program: a set of own modules, run apart from everything else in the process.

Keeps the loading half of promise 12. Code that travels must mean the same where it arrives, whatever that process has on its
`sys.path` and whatever it imported before. So own modules are run under a package named by the digest of all their sources, with an
`__import__` of their own that looks among them first. Two versions of a module live side by side; when one module changes, all of
them are another program. The registry loads job files the same way, so what is seen there is what workers see.

::

    {key: source} -> Program.of -> load -> module objects
"""

from __future__ import annotations

import builtins
import hashlib
import importlib.machinery
import linecache
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from typing import Any

from hindscan.jobs.modules import INIT, Module

__all__ = ["Program", "program_of"]


class _Loader:
    """Tells where a module of a program comes from: for `program_of`, and for whoever asks for its source."""

    def __init__(self, program: Program, module: Module) -> None:
        self.program = program
        self.module = module

    def get_source(self, _name: str) -> str:
        return self.module.source


class Program:
    """A set of own modules, imported together and apart from everything else in the process.

    Parameters
    ----------
    sources : mapping
        Sources by key: the module's name, for packages with ``.__init__`` after it.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.digest = _digest_of(sources)
        self.package = f"_hindscan_{self.digest[:16]}"
        self._modules = {
            key.removesuffix(INIT): Module(name=key.removesuffix(INIT), source=text, is_package=key.endswith(INIT))
            for key, text in sources.items()
        }
        names = list(self._modules)
        self._names = {".".join(name.split(".")[: i + 1]) for name in names for i in range(name.count(".") + 1)}
        self._lock = threading.RLock()
        self.builtins: dict[str, Any] = {**vars(builtins), "__import__": self._import}

    @classmethod
    def of(cls, sources: Mapping[str, str]) -> Program:
        """Give the program of these sources; in one process there is one."""
        made = cls(sources)
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
            return builtins.__import__(name, globals, locals, fromlist or (), 0)
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


def _digest_of(sources: Mapping[str, str]) -> str:
    hasher = hashlib.sha256()
    for key, text in sorted(sources.items()):
        for part in (key.encode(), text.encode()):
            hasher.update(len(part).to_bytes(8, "little") + part)
    return hasher.hexdigest()


def _compiled(module: Module) -> types.CodeType:
    # A loader-backed entry without a time: tracebacks show the version that ran, whatever the file holds by now.
    lines = module.source.splitlines(keepends=True)
    linecache.cache[module.filename] = (len(module.source), None, lines, module.filename)
    return compile(module.source, module.filename, "exec", dont_inherit=True)
