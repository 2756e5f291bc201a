"""The job files of a project, each loaded on its own.

Keeps promise 12: `hindscan serve` never runs user code in its own process. `load_folder` runs the files here, for the command line and for
notebooks; `load_folder_in_child` has a child process do it and takes only data from it, so that a file which prints, hangs, exits or crashes is
an error with that file's name while all others load. A file is loaded as the program of all the project's modules it imports,
exactly as on a worker: what works here works there. The suffix of a file says how it is read (`_LOADERS`): Python, SQL, or the declaration of commands.

A SQL file runs nothing at all when it is loaded. Files whose name begins with ``_`` are not jobs; jobs may import them.

::

    jobs/*.py   -> load_file -> Job -> jobs.code.bundle -> Registered {name: (JobSpec, Code)} + faults
    jobs/*.toml -> jobs.command.command_job             ->
    jobs/*.sql  -> jobs.sql.read_sql                    ->
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from hindscan.errors import HindscanError
from hindscan.jobs import isolated
from hindscan.jobs.code import bundle
from hindscan.jobs.command import command_job
from hindscan.jobs.declare import Job
from hindscan.jobs.depends import read_depends, written_out
from hindscan.jobs.job import Code, JobSpec
from hindscan.jobs.modules import closure
from hindscan.jobs.program import Program
from hindscan.jobs.sql import read_sql
from hindscan.jobs.world import own_folders

__all__ = ["Fault", "Registered", "job_files", "load_file", "load_folder", "load_folder_in_child", "load_job"]

#: Seconds one file may take to load in a child.
TIME_LIMIT = 60.0

#: Where hindscan lies.
_ROOT = str(Path(__file__).resolve().parents[2])


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Why a file gave no job."""

    #: Relative to the project's folder.
    file: str
    message: str
    #: The user's traceback, where there is one.
    traceback: str = ""


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs of a folder, and what is wrong with the files that gave none."""

    jobs: dict[str, tuple[JobSpec, Code]] = {}
    faults: tuple[Fault, ...] = ()


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """What one file gave."""

    jobs: tuple[tuple[JobSpec, Code], ...] = ()
    faults: tuple[Fault, ...] = ()


def job_files(folder: Path) -> list[Path]:
    """List the files of a folder that are jobs, by name."""
    return sorted(path for path in folder.glob("*") if path.suffix in _LOADERS and not path.name.startswith(("_", ".")))


def load_file(root: Path, file: Path) -> list[Job]:
    """Run one job file in Python and give the jobs it declares.

    Parameters
    ----------
    root : Path
        The project's folder.
    file : Path
        The file, in a folder of job files.

    Raises
    ------
    Exception
        Whatever the file raises.
    """
    root, file = root.resolve(), file.resolve()
    folder = file.parent
    inside = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
    package = ".".join(inside) if all(part.isidentifier() for part in inside) else ""
    name = f"{package}.{file.stem}" if package else file.stem
    folders = own_folders(root, folder)
    own = folders.find(name)
    # What is wrong with an entry, `bundle` says of the job.
    depends = read_depends(written_out(own.tree()) if own is not None else (), [folders], root)
    sources = {key: module.source for key, module in closure([name, *depends.modules], folders).items()}
    program = Program.of(sources, depends.files, depends.libraries)
    module = program.load(name)
    neighbours = {path.stem for path in job_files(folder) if path.suffix == ".py"} - {file.stem}
    others = {f"{program.package}.{prefix}{stem}" for prefix in ("", f"{package}.") for stem in neighbours}
    found = [value for value in vars(module).values() if isinstance(value, Job)]
    return [job for job in dict.fromkeys(found) if getattr(job.steps["slice"], "__module__", "") not in others]


def load_folder(root: Path, folder: Path) -> Registered:
    """Load all job files in this process.

    What they print goes to standard error: standard output belongs to the command.

    Parameters
    ----------
    root : Path
        The project's folder.
    folder : Path
        The folder of job files; one that does not exist has no jobs.

    Returns
    -------
    Registered
        Jobs and faults; a broken file hides no other.
    """
    with contextlib.redirect_stdout(sys.stderr):
        return _registered(_loaded(root, path) for path in job_files(folder))


def load_job(root: Path, folder: Path, name: str) -> tuple[JobSpec, Code] | None:
    """Load one job in this process without running the files that cannot declare it.

    Returns
    -------
    (JobSpec, Code) or None
        None where it cannot be told so: no file that says the name declares it, several do, or one of them has a fault. Then `load_folder` tells.
    """
    with contextlib.redirect_stdout(sys.stderr):
        found = _registered(
            _loaded(root, path)
            for path in job_files(folder)
            if name in path.read_text(encoding="utf-8", errors="replace")
        )
    return None if found.faults else found.jobs.get(name)


def _shown(root: Path, path: Path) -> str:
    path = path.resolve()
    return path.relative_to(root.resolve()).as_posix() if path.is_relative_to(root.resolve()) else path.name


def _loaded(root: Path, path: Path) -> _File:
    shown = _shown(root, path)
    try:
        return _LOADERS[path.suffix](root, path, shown)
    except HindscanError as error:
        return _File(faults=(Fault(file=shown, message=f"Loading {shown}: {error}"),))
    except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever a file does is its own fault)
        told = "".join(traceback.format_exception(error.with_traceback(_own_part(error))))
        hint = (
            " Job code has no __file__: it also runs where the project's files are not."
            if "__file__" in str(error)
            else ""
        )
        message = f"Loading {shown}: it must run to its end, and raised {type(error).__name__}: {error}.{hint} Correct the file."
        return _File(faults=(Fault(file=shown, message=message, traceback=told),))


def _python(root: Path, path: Path, shown: str) -> _File:
    if _needs_another_python(path):
        return _isolated(root, path)
    jobs = load_file(root, path)
    if not jobs:
        message = (
            f"Loading {shown}: a job file declares a job with @hs.job or @hs.simulation, and this one declares none. "
            "Begin its name with _ if jobs only import it."
        )
        return _File(faults=(Fault(file=shown, message=message),))
    return _File(jobs=tuple(bundle(job, root, file=shown) for job in jobs))


def _needs_another_python(path: Path) -> bool:
    if path.suffix != ".py" or isolated.inside():
        return False
    try:
        return isolated.is_isolated(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False  # whoever loads it says what is wrong


def _isolated(root: Path, path: Path) -> _File:
    """Have a file with requirements of its own loaded where they are."""
    environment = isolated.environment_of(path)
    python = isolated.ensured(environment)
    (loaded,) = _loaded_in_child(root, [path], str(python), TIME_LIMIT, isolated.project_paths())
    jobs = tuple(isolated.wrapped(environment, spec, code) for spec, code in loaded.jobs)
    return _File(jobs=jobs, faults=loaded.faults)


def _commands(root: Path, path: Path, shown: str) -> _File:
    return _File(jobs=(command_job(root, path, shown),))


def _sql(_root: Path, path: Path, shown: str) -> _File:
    return _File(jobs=(read_sql(path.read_text(encoding="utf-8"), path.stem, file=shown),))


#: What reads a job file, by its suffix.
_LOADERS: Mapping[str, Callable[[Path, Path, str], _File]] = {".py": _python, ".sql": _sql, ".toml": _commands}


def _own_part(error: BaseException) -> types.TracebackType | None:
    """Leave out of a traceback the frames before the first one of the project's code."""
    at = error.__traceback__
    while at is not None and "@" not in at.tb_frame.f_code.co_filename:
        at = at.tb_next
    return at


def _registered(loaded: Iterable[_File]) -> Registered:
    jobs: dict[str, tuple[JobSpec, Code]] = {}
    faults: list[Fault] = []
    twice: set[str] = set()
    for one in loaded:
        faults += one.faults
        for spec, code in one.jobs:
            if spec.name not in jobs:
                jobs[spec.name] = (spec, code)
                continue
            twice.add(spec.name)
            message = (
                f"Loading {spec.file}: names of jobs must be unique, and {spec.name!r} is also declared in "
                f"{jobs[spec.name][0].file}. Give one of them another name=."
            )
            faults.append(Fault(file=spec.file, message=message))
    # Which of two is meant must not depend on the order of the files: neither is.
    kept = {name: jobs[name] for name in sorted(jobs) if name not in twice}
    return Registered(jobs=kept, faults=tuple(faults))


# In a child ------------------------------------------------------------------------------------------------------


def load_folder_in_child(
    root: Path, folder: Path, *, python: str = sys.executable, time_limit: float = TIME_LIMIT
) -> Registered:
    """Load all job files in a child process and take only data from it.

    Parameters
    ----------
    root, folder : Path
        As for `load_folder`.
    python : str
        The interpreter that has hindscan and the project's libraries.
    time_limit : float
        Seconds each file may take.

    Returns
    -------
    Registered
        Jobs and faults. A file that ends its process, or takes too long, is a fault; the child is started again for the files after it.
    """
    files = job_files(folder)
    loaded: list[_File] = []
    while len(loaded) < len(files):
        left = files[len(loaded) :]
        if _needs_another_python(left[0]):
            loaded.append(_loaded(root, left[0]))  # in a child of its own
            continue
        here = list(itertools.takewhile(lambda path: not _needs_another_python(path), left))
        loaded += _loaded_in_child(root, here, python, time_limit)
    return _registered(loaded)


def _loaded_in_child(
    root: Path, files: list[Path], python: str, time_limit: float, paths: Sequence[str] = ()
) -> Iterator[_File]:
    """Load files until one of them ends the child; that one is a fault."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as errors, os.fdopen(reading, "rb") as results:
        command = [
            python,
            "-P",
            "-c",
            # Behind its own: an interpreter of another environment has hindscan from here.
            f"import sys; sys.path += {[*paths, _ROOT]!r}; from hindscan.jobs.registry import _child; _child()",
            str(writing),
            str(root),
            *map(str, files),
        ]
        child = subprocess.Popen(
            command, cwd=root, pass_fds=[writing], stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
        )
        os.close(writing)
        try:
            for path in files:
                received = _received(results.fileno(), time.monotonic() + time_limit)
                if isinstance(received, _File):
                    yield received
                    continue
                ended = child.wait(10) if received == "end" else None
                errors.seek(max(0, errors.seek(0, os.SEEK_END) - 4096))
                yield _ended(_shown(root, path), ended, time_limit, errors.read().decode(errors="replace"))
                return
        finally:
            child.kill()
            child.wait()


def _ended(shown: str, code: int | None, time_limit: float, output: str) -> _File:
    if code is None:
        happened = f"was not done after {time_limit:g} s"
    elif code < 0:
        happened = f"killed its process with {signal.Signals(-code).name}"
    else:
        happened = f"ended its process with exit code {code}"
    message = f"Loading {shown}: it must run to its end, and it {happened}. Correct the file."
    return _File(faults=(Fault(file=shown, message=message, traceback=output),))


def _received(descriptor: int, deadline: float) -> _File | str:
    """Read one file's document: eight bytes of length, then MessagePack. Else "end" or "late"."""
    data = b""
    wanted = 8
    while len(data) < wanted:
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return "late"
        piece = os.read(descriptor, min(wanted - len(data), 1 << 20))
        if not piece:
            return "end"
        data += piece
        if len(data) == 8 and wanted == 8:
            wanted = 8 + int.from_bytes(data, "little")
    return msgspec.msgpack.decode(data[8:], type=_File)


def _child() -> None:
    """Load the files named in the arguments and send what each gave; what user code prints goes elsewhere."""
    descriptor, root, *files = sys.argv[1:]
    for file in files:
        document = msgspec.msgpack.encode(_loaded(Path(root), Path(file)))
        data = len(document).to_bytes(8, "little") + document
        while data:
            data = data[os.write(int(descriptor), data) :]
    # Threads or exit handlers of user code must not hold up whoever waits.
    os._exit(0)
