"""`hindscan leaktest`: does a run as of T see anything from T on?

Keeps promise 3 (as of), by trying to break it. A job runs as of T; then again, with the same seed and nothing reused, over histories in which all that is at or after T
was poisoned (`poison`). No bit of the result may change, and no file may be opened that there is a poisoned copy of. Where a bit does, each history and then each
column is poisoned alone, so that the answer names what leaks.

::

    pin as of T -> execute -> result;  cast_shadow -> pin as of T -> execute -> result;  the same? -> Leaktest
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from hindscan import times
from hindscan.errors import HindscanError, UsageError
from hindscan.opened import Opened
from hindscan.planning import pin, prepare
from hindscan.poison import Poisoning, cast_shadow, poison_readers
from hindscan.runs.digest import table_digest
from hindscan.runs.partials import Partials
from hindscan.tasks.execution import execute
from hindscan.tasks.outcome import Merged, outcome
from hindscan.tasks.threads import ThreadsExecutor

if TYPE_CHECKING:
    import os

    from hindscan.config import Project
    from hindscan.explore import Time
    from hindscan.history.snapshot import Reader
    from hindscan.jobs.declare import Job
    from hindscan.jobs.job import Code, JobSpec
    from hindscan.planning import Prepared
    from hindscan.runs.run import RunRequest

__all__ = ["Leaktest", "find_leaks", "leaktest"]

#: Files that are named in an answer.
_TOLD: Final = 5


class Leaktest(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    job: str
    #: T, microseconds since the epoch.
    as_of: int
    #: Rows of the result.
    rows: int
    #: Seed that both runs drew from; None: the job draws nothing.
    seed: int | None = None
    #: By history: how many rows were changed and how many added; None: as they were read.
    poisoned: dict[str, tuple[int, int] | None] = {}
    #: In words, what leaks; empty: nothing does.
    leaks: tuple[str, ...] = ()
    #: In words, what this test could not look at.
    unproven: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """No bit of the result changed, and no file was opened behind the histories."""
        return not self.leaks

    def __repr__(self) -> str:
        said = [f"LEAK: {leak}" for leak in self.leaks] or ["nothing at or after it is seen"]
        return "\n".join([f"{self.job} as of {times.to_text(self.as_of)}: {self.rows} rows", *said, *self.unproven])


def leaktest(
    job: str | Job,
    parameters: Mapping[str, Any] | None = None,
    *,
    as_of: Time,
    seed: int | None = None,
    draws: int | None = None,
    histories: Mapping[str, str] | None = None,
    project: str | os.PathLike[str] | None = None,
) -> Leaktest:
    """Run a job as of a time twice, the second time over poisoned histories, and compare bit by bit. Waits until it is done.

    Parameters
    ----------
    job : str or Job
        A name in the project's `jobs/`, or a job defined here.
    parameters : mapping, optional
        By name.
    as_of : str, date or datetime
        T: every row at or after it is poisoned.
    seed, draws : int, optional
        Of a simulation.
    histories : mapping, optional
        Other histories for the job's tables, by name.
    project : path, optional
        Folder of the project file. Default: the nearest upwards.

    Raises
    ------
    hindscan.errors.HindscanError
        The run over the histories as they are fails.
    """
    from hindscan.config_file import find_root, load_project
    from hindscan.explore import window_values
    from hindscan.planning import ask
    from hindscan.workshop import open_workshop

    loaded = load_project(find_root() if project is None else Path(project))
    with open_workshop(loaded) as workshop:
        if isinstance(job, str):
            spec, code = workshop.job(job)
        else:
            from hindscan.jobs.code import bundle

            spec, code = bundle(job, loaded.root)
    request = ask(
        loaded, spec, parameters or {}, **window_values(as_of=as_of, since=None, until=None, last=None),
        seed=seed, draws=draws, histories=dict(histories or {}),
    )  # fmt: skip
    return find_leaks(loaded, spec, code, request)


def find_leaks(project: Project, spec: JobSpec, code: Code, request: RunRequest) -> Leaktest:
    """Test one request; see `leaktest`.

    Raises
    ------
    hindscan.errors.UsageError
        It is not as of a time.
    hindscan.errors.HindscanError
        The run over the histories as they are fails.
    """
    if request.as_of is None:
        raise UsageError(
            f"Testing {spec.name} for leaks: a time must be given that it runs as of; none was. Say --as-of T."
        )
    with _Test(project, spec, code, request) as test:
        return _tested(test, spec.name, request.as_of)


def _tested(test: _Test, job: str, at: int) -> Leaktest:
    clean = test.run(None)
    if isinstance(clean.result, HindscanError):
        raise clean.result
    if clean.seed is not None:
        # The default is a digest of the data, too, and the data are others now.
        test.request = msgspec.structs.replace(test.request, seed=clean.seed)
    everything = Poisoning(at=at)
    found = test.run(everything)
    leaks = [f"the job opens {_listed(found.opened)} itself, behind hindscan's back"] if found.opened else []
    if found.differs(clean):
        leaks += _culprits(test, clean, everything) or [
            f"all histories together: {found.told(clean)}; none of them alone shows it"
        ]
    return Leaktest(
        job=job,
        as_of=at,
        rows=clean.result.num_rows,
        seed=clean.seed,
        poisoned={**found.rows, **dict.fromkeys(sorted(set(test.names.values()) - found.rows.keys()))},
        leaks=tuple(leaks),
        unproven=tuple(_unproven(test, found)),
    )


def _culprits(test: _Test, clean: _Ran, everything: Poisoning) -> list[str]:
    """Poison each history, and each column of one that leaks, alone."""
    leaks: list[str] = []
    blamed: set[str] = set()
    for name in test.suspects():
        # Histories may lie in the same files: then the first suspect is blamed for them.
        where = str(getattr(test.project.histories[name], "place", name))
        alone = msgspec.structs.replace(everything, history=name)
        ran = clean if where in blamed else test.run(alone)
        if not ran.differs(clean):
            continue
        blamed.add(where)
        own = "" if name in test.names.values() else ", which is none of the job's tables"
        parts = []
        for column in test.columns(name):
            one = test.run(msgspec.structs.replace(alone, column=column, adds=False))
            if one.differs(clean):
                parts.append(f"column {column}, values at or after T: {one.told(clean)}")
        more = test.run(msgspec.structs.replace(alone, changes=False))
        if more.differs(clean):
            parts.append(f"rows added at or after T: {more.told(clean)}")
        leaks += [f"history {name}{own}, {part}" for part in parts or [f"as a whole: {ran.told(clean)}"]]
    return leaks


def _unproven(test: _Test, found: _Ran) -> list[str]:
    said = []
    for name, history in test.project.histories.items():
        if getattr(history, "time", None) is None and name in found.rows:
            said.append(f"history {name} has no time column: rows were added to it, and none changed")
    if not found.watched:
        said.append("this system does not tell which files are opened: a file opened by an absolute path goes unseen")
    return said


class _Ran(msgspec.Struct, frozen=True, kw_only=True):
    """One run: its result, or what it failed with."""

    result: Any
    seed: int | None = None
    rows: dict[str, tuple[int, int]] = {}
    opened: tuple[Path, ...] = ()
    watched: bool = True

    def differs(self, clean: _Ran) -> bool:
        """Tell whether a bit of the result is another."""
        if isinstance(self.result, HindscanError):
            return True
        same_columns = self.result.schema.equals(clean.result.schema)
        return not same_columns or table_digest(self.result) != table_digest(clean.result)

    def told(self, clean: _Ran) -> str:
        """Tell the first difference."""
        if isinstance(self.result, HindscanError):
            return f"the job fails ({str(self.result).strip().splitlines()[-1]})"
        was, now = clean.result, self.result
        if was.schema != now.schema:
            return f"the result's columns are {now.schema.names} instead of {was.schema.names}"
        if was.num_rows != now.num_rows:
            return f"the result has {now.num_rows} rows instead of {was.num_rows}"
        for name in was.column_names:
            for row, (one, other) in enumerate(zip(was[name].to_pylist(), now[name].to_pylist(), strict=True)):
                if repr(one) != repr(other):
                    return f"row {row} of the result has {name} = {other!r} instead of {one!r}"
        return "the result has other bits"


class _Test:
    """Runs one request over clean and poisoned histories, each time with nothing to reuse."""

    def __init__(self, project: Project, spec: JobSpec, code: Code, request: RunRequest) -> None:
        self.project, self.request = project, request
        self._spec, self._code = spec, code
        declared = {table: name or "" for table, name in spec.histories.items()}
        #: Name of the history by the job's table.
        self.names = {
            table: request.histories.get(table, request.histories.get(name, name)) for table, name in declared.items()
        }
        self._lifetime = contextlib.ExitStack()
        self._executors: dict[Path, ThreadsExecutor] = {}

    def __enter__(self) -> Self:
        scratch = self._lifetime.enter_context(tempfile.TemporaryDirectory(prefix="hindscan-leaktest-"))
        self._scratch, self._root = Path(scratch), Path(scratch) / "project"
        self._root.mkdir()
        return self

    def __exit__(self, *fault: object) -> None:
        self._lifetime.close()

    def suspects(self) -> list[str]:
        """Give all histories, those first that the job reads and that are not cut at T."""
        histories, own = self.project.histories, set(self.names.values())
        return sorted(
            histories, key=lambda name: (name not in own or not getattr(histories[name], "ignores_as_of", False), name)
        )

    def columns(self, history: str) -> list[str]:
        """Give the columns of a history that can be poisoned."""
        from hindscan.history.snapshot import KafkaPin, ParquetPin, Window
        from hindscan.pinned import schema_of

        found = self.project.histories[history]
        pinned = found.pin(Window())
        assert isinstance(pinned, KafkaPin | ParquetPin)
        return [name for name in schema_of(pinned).names if name != getattr(found, "time", None)]

    def run(self, poisoning: Poisoning | None) -> _Ran:
        """Run once; None: over the histories as they are."""
        if poisoning is None:
            return self._execute(self.project, None)
        # The folder stays and what is in it goes: the workers stand in it.
        for entry in self._root.iterdir():
            entry.unlink() if entry.is_symlink() or entry.is_file() else shutil.rmtree(entry)
        shadow = cast_shadow(self.project, poisoning, self._root)
        with Opened(shadow.originals) as opened:
            ran = self._execute(shadow.project, poisoning)
        return msgspec.structs.replace(ran, rows=shadow.rows, opened=opened.files, watched=opened.watches)

    def _execute(self, project: Project, poisoning: Poisoning | None) -> _Ran:
        seed: int | None = None
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            try:
                prepared = self._prepared(project)
                seed = prepared.plan.seed
                readers: dict[str, Reader] = prepared.readers
                if poisoning is not None:
                    readers = poison_readers(self.project, self.names, readers, poisoning)
                partials = Partials(Path(folder))
                done = execute(
                    prepared.plan, run="leaktest", code=self._code, readers=readers, partials=partials,
                    executor=self._executor(project.root), observe=lambda _: None, stop=threading.Event(),
                )  # fmt: skip
                made = outcome(partials, done.results, self._spec.by)
                return _Ran(result=made.table() if isinstance(made, Merged) else made, seed=seed)
            except HindscanError as fault:
                return _Ran(result=fault, seed=seed)

    def _executor(self, folder: Path) -> ThreadsExecutor:
        """Give workers that stand in a folder."""
        if folder not in self._executors:
            executor = ThreadsExecutor(self.project.compute.workers, folder=folder)
            self._executors[folder] = self._lifetime.enter_context(executor)
        return self._executors[folder]

    def _prepared(self, project: Project) -> Prepared:
        snapshot = pin(project, self._spec, self.request)
        return prepare(project, self._spec, self.request, snapshot, frozenset(), workers=project.compute.workers)


def _listed(found: tuple[Path, ...]) -> str:
    more = f" and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    return ", ".join(str(path) for path in found[:_TOLD]) + more
