"""Files of the project on their way to workers: read once, digested, and lying there under the paths that they have in the project.

Keeps the files' part of promises 7 and 12. What a job opens beside its histories (programs, lookup tables, models) travels as bytes in the job's code, so what was
read is what was digested: a file that is written anew while a run goes on changes nothing of that run, and no worker needs the project's folder.

::

    patterns -> matching -> carried -> {path: CarriedFile} in Code -> Folder.path: written once for each process
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from hindscan.jobs.child import starting
from hindscan.jobs.job import CarriedFile
from hindscan.jobs.scratch import home

__all__ = ["FILES_BYTES_MOST", "Folder", "carried", "matching", "token_of", "too_large"]

#: All files of a job together: they go to the workers with each task.
FILES_BYTES_MOST: Final = 64 << 20


def token_of(files: Mapping[str, CarriedFile]) -> list[object]:
    """Give what of files counts in a digest."""
    return [[name, one.executable, hashlib.sha256(one.content).hexdigest()] for name, one in sorted(files.items())]


def matching(root: Path, pattern: str) -> list[Path]:
    """List the files of the project that a pattern names; links that lead out of it are none.

    Parameters
    ----------
    root : Path
        The project's folder, resolved.
    pattern : str
        A path relative to it, perhaps with ``*`` and ``**``.
    """
    if not pattern or ".." in Path(pattern).parts or Path(pattern).is_absolute():
        return []
    return sorted(
        path
        for path in root.glob(pattern)
        if path.is_file() and path.resolve().is_relative_to(root) and "__pycache__" not in path.parts
    )


def carried(root: Path, path: Path) -> tuple[str, CarriedFile]:
    """Read a file: its path in the project, and what travels."""
    return path.relative_to(root).as_posix(), CarriedFile(
        content=path.read_bytes(), executable=os.access(path, os.X_OK)
    )


def too_large(files: Mapping[str, CarriedFile]) -> str | None:
    """Say what is wrong with the size of a job's files, if it is."""
    size = sum(len(one.content) for one in files.values())
    return (
        None
        if size <= FILES_BYTES_MOST
        else f"its files are {size:,} bytes, and at most {FILES_BYTES_MOST:,} travel to the workers"
    )


class Folder:
    """Files of a job as this process has them: written when they are first asked for.

    Parameters
    ----------
    name : str
        Equal for equal files.
    files : mapping of str to CarriedFile
        By their paths in the project.
    """

    def __init__(self, name: str, files: Mapping[str, CarriedFile]) -> None:
        self._name, self._files = name, files
        self._lock = threading.Lock()

    def __contains__(self, name: str) -> bool:
        return os.path.normpath(name) in self._files

    def holds(self, folder: str) -> bool:
        """Tell whether files lie in a folder of that name."""
        inside = PurePosixPath(os.path.normpath(folder))
        return any(inside in PurePosixPath(name).parents for name in self._files)

    def path(self) -> Path:
        """Give the folder that they are in."""
        with self._lock:
            return _written(home() / f"files-{self._name[:32]}", self._files)


def _written(folder: Path, files: Mapping[str, CarriedFile]) -> Path:
    if folder.is_dir():
        return folder
    with starting:
        made = folder.with_name(f"{folder.name}-{os.getpid()}-new")
        made.mkdir()
        for name, one in files.items():
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(one.content)
            path.chmod(0o555 if one.executable else 0o444)
        made.rename(folder)
    return folder
