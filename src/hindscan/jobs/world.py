"""Whose code is it: the project's, an installed library's, or nobody's but this process's.

Keeps the distinctions on which `jobs.digest` and `jobs.code` both stand, so that what is digested and what travels are the same thing.
Own modules travel as sources and are digested as sources; libraries are named, with their version; everything else (notebook
cells, scripts, closures) travels and is digested by value.

::

    function, class, module -> World -> own (modules, name) | library (name, version) | neither
"""

from __future__ import annotations

import functools
import importlib.metadata
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hindscan.jobs.declare import Job
from hindscan.jobs.job import StepName
from hindscan.jobs.modules import Folders, Modules, is_installed
from hindscan.jobs.program import program_of

__all__ = ["CACHED", "Address", "World", "own_folders", "resolve", "version_of"]

#: What functools.lru_cache makes: pickle would name it, though its module may not be there.
CACHED = type(functools.lru_cache(len))

#: Module, qualified name in it, and the step where that name is a job.
Address = tuple[str, str, StepName | None]


def own_folders(root: Path, folder: Path | None = None) -> Folders:
    """Give the places where a project's modules are found.

    Parameters
    ----------
    root : Path
        The project's folder.
    folder : Path, optional
        Folder of the job files: their neighbours are found first, as those of a script are.
    """
    root = root.resolve()
    on_path = [Path(entry).resolve() for entry in sys.path if entry]
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    script = [] if is_installed(main) else [Path(str(main)).resolve().parent]
    inside = [path for path in on_path if path.is_relative_to(root) and not is_installed(str(path / "any.py"))]
    return Folders([*([folder] if folder else []), *script, root, root / "src", *inside])


class World:
    """Tells own code from libraries, in this process.

    Parameters
    ----------
    root : Path
        The project's folder.
    """

    def __init__(self, root: Path) -> None:
        self._folders = own_folders(root)
        self._homes: dict[int, tuple[Mapping[str, object], tuple[Modules, str] | None]] = {}

    @property
    def folders(self) -> Folders:
        """Own modules that are found in the project's folders."""
        return self._folders

    def home(self, namespace: Mapping[str, object]) -> tuple[Modules, str] | None:
        """Tell which own module has these globals."""
        known = self._homes.get(id(namespace))
        if known is None:
            known = self._homes[id(namespace)] = (namespace, self._home(namespace))
        return known[1]

    def _home(self, namespace: Mapping[str, object]) -> tuple[Modules, str] | None:
        known = program_of(namespace)
        if known is not None:
            return known[0], known[1].name
        name, file = namespace.get("__name__"), namespace.get("__file__")
        if not isinstance(name, str) or name == "__main__" or not isinstance(file, str) or is_installed(file):
            return None
        if getattr(sys.modules.get(name), "__dict__", None) is not namespace or self._folders.find(name) is None:
            return None
        return self._folders, name

    def owner(self, modules: Modules, name: str) -> types.ModuleType | None:
        """Give the module object in this process that has the name in that place."""
        loaded = getattr(modules, "load", None)
        return sys.modules.get(name) if loaded is None else loaded(name)

    def module_home(self, module: types.ModuleType) -> tuple[Modules, str] | None:
        """Tell which own module this is; a folder of own modules is one too."""
        found = self.home(module.__dict__)
        if found is None and getattr(module, "__file__", None) is None and self._folders.owns(module.__name__):
            # A namespace package has no file.
            return (self._folders, module.__name__) if hasattr(module, "__path__") else None
        return found

    def address(self, value: object) -> tuple[Modules, Address] | None:
        """Tell where in own modules a function or class is found again by name; None where it is not."""
        namespace = getattr(value, "__globals__", None)
        if namespace is None:
            module = sys.modules.get(str(getattr(value, "__module__", "")))
            namespace = getattr(module, "__dict__", {})
        found = self.home(namespace)
        name = getattr(value, "__qualname__", None)
        if found is None or not isinstance(name, str) or "<" in name:
            return None
        modules, module_name = found
        at: Any = types.SimpleNamespace(**{name.partition(".")[0]: namespace.get(name.partition(".")[0])})
        for part in name.split("."):
            at = getattr(at, part, None)
        if at is value:
            return modules, (module_name, name, None)
        if isinstance(at, Job):
            for step, function in at.steps.items():
                if function is value:
                    return modules, (module_name, name, step)
        return None

    def is_library(self, value: object) -> bool:
        """Say whether a function, class or module is there, under its name, wherever hindscan and the libraries are installed."""
        name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
        if not isinstance(name, str) or name == "__main__":
            return False
        module = sys.modules.get(name)
        if module is None or program_of(module.__dict__) is not None or self.module_home(module) is not None:
            return False
        if name.partition(".")[0] == "hindscan":
            return True
        file = getattr(module, "__file__", None)
        if file is None:
            return name in sys.builtin_module_names or getattr(module, "__spec__", None) is not None
        return is_installed(file) or not self._folders.holds(Path(file))


def resolve(module: types.ModuleType, qualified_name: str, step: StepName | None) -> Any:
    """Find what an address names.

    Raises
    ------
    AttributeError, KeyError
        There is nothing of that name.
    """
    value: Any = module
    for part in qualified_name.split("."):
        value = getattr(value, part)
    return value if step is None else value.steps[step]


@functools.cache
def version_of(module: str) -> str:
    """Name the installed version of a module's distribution: ``pyarrow 26.0.1``; the standard library has none."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("hindscan", "__main__"):
        # What hindscan does to a key is said where it does it.
        return top
    try:
        return f"{top} {importlib.metadata.version(top)}"
    except importlib.metadata.PackageNotFoundError:
        names = sorted(_distributions().get(top, ()))
    if names:
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"{top} {getattr(sys.modules.get(top), '__version__', 'of unknown version')}"


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    # Reads every distribution's file list: a tenth of a second, so only where the plain name does not lead there.
    return importlib.metadata.packages_distributions()
