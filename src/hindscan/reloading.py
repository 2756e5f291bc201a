"""The project file and the jobs as they are now: changes are taken up while `serve` runs.

Keeps promises 4, 5 and 12. What is in force is one value, an `Edition`: the project and its jobs, checked together. A change is looked at only when the
files have come to rest, and is taken whole or not at all: what is not valid is refused with its reason, and the edition before stays in force. Of job
files each stands for itself: a broken one keeps the jobs it gave before. Job files are loaded in a child. Runs that are recorded have code and parameters
of their own, so no change touches them.

::

    hindscan.toml, jobs/ --Watch.look--> Edition | refusal -> Dispatcher
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from hindscan.config import Project
from hindscan.config_file import load_project
from hindscan.jobs.registry import load_folder_in_child

if TYPE_CHECKING:
    from hindscan.jobs.job import Code, JobSpec

__all__ = ["Edition", "Watch"]

#: What is opened once, when the server starts: a change waits for the next start, and is said so.
AT_START: Final = ("store", "serve", "jobs")

_Looks = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Edition:
    """What is in force.

    Parameters
    ----------
    project : Project
        As loaded.
    jobs : mapping of str to (JobSpec, Code)
        The declared jobs.
    waiting : tuple of str
        What of the change is not in force yet, for people.
    """

    project: Project
    jobs: Mapping[str, tuple[JobSpec, Code]]
    waiting: tuple[str, ...] = ()

    @property
    def specs(self) -> dict[str, JobSpec]:
        """The jobs as far as they are data, by name."""
        return {name: spec for name, (spec, _) in self.jobs.items()}


class Watch:
    """Sees when files of a project change.

    Parameters
    ----------
    edition : Edition
        What is in force.
    """

    def __init__(self, edition: Edition) -> None:
        self._edition = edition
        self._known = self._last = _looks(edition)

    def look(self) -> Edition | None:
        """Give what the files say now, if they changed since the last time that was asked and have not changed between the last two looks.

        Returns
        -------
        Edition or None
            None where nothing changed, or something still does.

        Raises
        ------
        hindscan.errors.HindscanError
            The project file is not valid.
        """
        before, self._last = self._last, _looks(self._edition)
        if self._last == self._known or self._last != before:
            return None
        self._known = self._last  # what is refused is refused once, until it changes again
        return self._read()

    def accept(self, edition: Edition) -> None:
        """Go on from an edition that is in force now."""
        self._edition = edition
        # Files that only the new code reaches are looked at from now on.
        self._known = self._last = _looks(edition)

    def _read(self) -> Edition:
        old = self._edition
        project = load_project(old.project.root)
        waiting = [
            f"[{section}] has changed and is taken up at the next start"
            for section in AT_START
            if getattr(project, section) != getattr(old.project, section)
        ]
        project = msgspec.structs.replace(project, **{section: getattr(old.project, section) for section in AT_START})
        if project.compute.runs != old.project.compute.runs:
            waiting.append("[compute].runs has changed and is taken up at the next start")
        registered = load_folder_in_child(project.root, project.root / project.jobs.folder)
        broken = {fault.file for fault in registered.faults}
        kept = {name: job for name, job in old.jobs.items() if job[0].file in broken}
        waiting += [f"{fault.message} What it declared before stays in force." for fault in registered.faults]
        return Edition(project=project, jobs={**kept, **registered.jobs}, waiting=tuple(waiting))


def _looks(edition: Edition) -> _Looks:
    """Tell size and time of every file an edition comes from; one that is missing is not among them."""
    found = {}
    for file in sorted(set(_files(edition))):
        try:
            status = file.stat()
        except FileNotFoundError:
            continue  # between two looks it may go, which is a change like others
        found[str(file)] = (status.st_mtime_ns, status.st_size)
    return found


def _files(edition: Edition) -> Iterator[Path]:
    project = edition.project
    yield project.file
    yield from _visible(project.root / project.jobs.folder)
    for _, code in edition.jobs.values():
        for module in code.modules:
            inside = module.replace(".", "/") + ".py"
            yield from (project.root / inside, project.root / "src" / inside)
        yield from (project.root / name for name in code.files)


def _visible(folder: Path) -> Iterator[Path]:
    for path in folder.glob("*"):
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        if path.is_dir():
            yield from _visible(path)
        else:
            yield path
