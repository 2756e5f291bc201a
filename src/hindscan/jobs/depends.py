"""What a job says that it uses beside what its code shows: ``depends=["pricing.models", "tables/rates.csv"]``.

Keeps promise 7 where reading the source cannot: a module whose name is computed and imported by a call, and files that are opened. What is declared travels
and counts in the digest of every step that can come to use it: modules in those that reach such a call, files in those that say ``resource``. An entry is
an own module, a package or folder with all its modules, an installed module (which counts with its version), or files as a pattern.

::

    depends= -> read_depends -> Depends -> jobs.digest (what counts), jobs.code (what travels);  written_out -> jobs.registry (what a file needs to load)
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hindscan.jobs.carried import carried, matching, too_large
from hindscan.jobs.job import CarriedFile
from hindscan.jobs.modules import Modules

__all__ = ["Depends", "read_depends", "written_out"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Depends:
    """What is declared, found."""

    #: Own modules, those under packages included, with the place where each was found.
    modules: Mapping[str, Modules] = dataclasses.field(default_factory=dict)
    #: Installed modules.
    libraries: tuple[str, ...] = ()
    files: Mapping[str, CarriedFile] = dataclasses.field(default_factory=dict)
    faults: tuple[str, ...] = ()

    @property
    def answers_calls(self) -> bool:
        """Whether a module may be imported by a call at all."""
        return bool(self.modules or self.libraries)


def read_depends(entries: Iterable[str], places: Sequence[Modules], root: Path) -> Depends:
    """Find what entries name.

    Parameters
    ----------
    entries : iterable of str
        As declared.
    places : sequence of Modules
        Where own modules are found; of those that have a name the first counts.
    root : Path
        The project's folder, which files are relative to.
    """
    root = root.resolve()
    modules: dict[str, Modules] = {}
    libraries: list[str] = []
    files: dict[str, CarriedFile] = {}
    faults: list[str] = []
    for entry in dict.fromkeys(entries):
        is_name = all(part.isidentifier() for part in entry.split("."))
        # A program that was loaded may have only some of a package's modules; those it has count as they were loaded.
        own = {name: place for place in reversed(places) if is_name for name in place.within(entry)}
        if own:
            modules |= own
        elif matched := matching(root, entry):
            files |= dict(carried(root, path) for path in matched)
        elif is_name and _is_installed(entry):
            libraries.append(entry)
        else:
            faults.append(
                f"depends= names {entry!r}, which must be a module of the project or an installed one, or match files of the project, and is none"
            )
    fault = too_large(files)
    if fault is not None:
        faults.append(f"{fault}; make what is large a history, and broadcast it with tables=")
    return Depends(modules=modules, libraries=tuple(libraries), files=files, faults=tuple(faults))


def written_out(tree: ast.Module) -> list[str]:
    """Collect the entries of every ``depends=[...]`` that is written out in a file: what it may use while it is loaded."""
    return [
        one.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "depends" and isinstance(keyword.value, ast.List | ast.Tuple)
        for one in keyword.value.elts
        if isinstance(one, ast.Constant) and isinstance(one.value, str)
    ]


def _is_installed(name: str) -> bool:
    if name.partition(".")[0] in sys.stdlib_module_names:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
