"""A run from Python: what it is doing, what became of it, and doing it again.

A handle holds nothing but the run's id: every look is at the store, so that it is the same from any process, and outlives the kernel that made it.

::

    api.run, api.runs -> RunHandle -> wait, cancel, retry, rerun, extend, plan, partial
                                   -> result -> Result: SQL, pandas, Arrow, Polars, manifest
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hindscan import errors, times
from hindscan.errors import ExecutionError, NotFound
from hindscan.runs.run import FINAL, Run, State
from hindscan.words import asker, headline, html_table

if TYPE_CHECKING:
    from subprocess import Popen

    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from hindscan.anytime import PartialResult
    from hindscan.config import Project
    from hindscan.plans.plan import Plan
    from hindscan.runs.results import Manifest
    from hindscan.workshop import Workshop

__all__ = ["Result", "RunHandle", "RunList"]


class RunHandle:
    """One run, by its id. Made by `api.run` and `api.runs`."""

    def __init__(self, project: Project, id: str, *, driver: Popen[bytes] | None = None) -> None:
        self._project = project
        self.id = id
        #: The process that this handle has started for it, if any.
        self._driver = driver

    def __repr__(self) -> str:
        found = self._run()
        return f"<run {self.id} of {found.job}: {found.state}>"

    def _repr_html_(self) -> str:
        return html_table(item for item in self.describe().items() if item[1] not in (None, "", {}, []))

    @property
    def state(self) -> State:
        """Where it is: pending, running, succeeded, failed or cancelled."""
        return self._run().state

    def describe(self) -> dict[str, Any]:
        """Tell all the store knows of it, as `hindscan show --json` does."""
        from hindscan.words import run_document

        return run_document(self._run())

    def wait(self, timeout: float | None = None, *, progress: bool = True) -> RunHandle:
        """Wait until it is final. Whoever interrupts that stops waiting, and not the run.

        Parameters
        ----------
        timeout : float, optional
            Seconds. Default: for ever.
        progress : bool
            Show it on standard error.

        Raises
        ------
        TimeoutError
            It is not final yet; it goes on.
        hindscan.errors.HindscanError
            It failed or was cancelled: an error of the class that the run itself has, such as `JobFailed`, with its message, the user's traceback first.
        """
        from hindscan.cli.output import Progress
        from hindscan.driver import follow

        try:
            with self._workshop() as workshop, Progress(quiet=not progress) as shown:
                found = follow(workshop, self.id, observe=shown, seconds=timeout, driver=self._driver)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"run {self.id} goes on: wait() watches it again, cancel() stops it") from None
        if found.state not in FINAL:
            raise TimeoutError(f"run {self.id} is {found.state} after {timeout:g} s")
        if found.state != "succeeded":
            kind = getattr(errors, found.error or "", ExecutionError)
            raise kind(f"{found.message or ''}\nrun {self.id} {found.state}".lstrip("\n"), run=self.id)
        return self

    def cancel(self) -> None:
        """Ask for it to be stopped; the work on its workers ends within seconds."""
        from hindscan.runs.leases import release_expired
        from hindscan.runs.register import request_cancel

        with self._workshop() as workshop:
            release_expired(workshop.store)
            request_cancel(workshop.store, self.id)

    def retry(self) -> RunHandle:
        """Try again what failed or is missing, on the same snapshot and with the same code: a job that was edited is run anew."""
        from hindscan.driver import hand_over, try_again

        with self._workshop() as workshop:
            try_again(workshop, self.id)
        self._driver = hand_over(self._project, self.id)
        return self

    def rerun(
        self,
        parameters: Mapping[str, Any] | None = None,
        *,
        latest: bool = False,
        slices: Sequence[int] = (),
        workers: int | None = None,
        fresh: bool | None = None,
    ) -> RunHandle:
        """Start a new run that does this one's work again, with the same or edited parameters; only what is not there is computed.

        Parameters
        ----------
        parameters : mapping, optional
            Those that are to be different.
        latest : bool
            Pin the histories anew instead of reading what this run has read.
        slices : sequence of int
            Positions of slices that are computed although their partials exist, with all that is made of them.
        workers : int, optional
            How many.
        fresh : bool, optional
            Compute everything anew.

        Raises
        ------
        hindscan.errors.UsageError
            A parameter is wrong; nothing was started.
        hindscan.errors.Conflict
            This run never got as far as a snapshot.
        """
        from hindscan.driver import hand_over
        from hindscan.rerunning import rerun

        with self._workshop() as workshop:
            opened = rerun(
                self._project, workshop.store, self.id, parameters=parameters, latest=latest, slices=slices,
                requested_by=asker("python"), workers=workers, fresh=fresh,
            )  # fmt: skip
        return RunHandle(self._project, opened.id, driver=hand_over(self._project, opened.id))

    def extend(self, *, draws: int) -> RunHandle:
        """Start a new run of this simulation with more draws: the same seed and snapshot, so only what is new is computed.

        Raises
        ------
        hindscan.errors.UsageError
            It is no finished simulation, or has as many draws already.
        """
        from hindscan.driver import hand_over
        from hindscan.rerunning import extend

        manifest = self.result.manifest
        with self._workshop() as workshop:
            opened = extend(
                self._project,
                workshop.store,
                self.id,
                draws=draws,
                seed=manifest.seed,
                drawn=manifest.draws,
                requested_by=asker("python"),
            )
        return RunHandle(self._project, opened.id, driver=hand_over(self._project, opened.id))

    @property
    def plan(self) -> Plan:
        """The plan over the run's snapshot, with what could be reused now.

        Raises
        ------
        hindscan.errors.NotFound
            Nothing was pinned yet.
        """
        from hindscan.planning import prepare
        from hindscan.runs import codes, snapshots

        found = self._run()
        with self._workshop() as workshop:
            snapshot = snapshots.load_snapshot(workshop.store, self.id)
            if snapshot is None:
                raise NotFound(f"Looking up the plan of run {self.id}: its histories must be pinned; they are not yet.")
            spec, _ = codes.load_code(workshop.store, found.code, found.job)
            return prepare(
                self._project,
                spec,
                found.request,
                snapshot,
                workshop.partials.has,
                proofs=workshop.partials.find_proof,
                workers=self._project.compute.workers,
            ).plan

    @property
    def result(self) -> Result:
        """The published result.

        Raises
        ------
        hindscan.errors.NotFound
            There is none (yet).
        """
        from hindscan.runs import register

        found = self._run()
        register.refuse_forgotten(found, "Looking up the result of")
        if found.result is None:
            raise NotFound(
                f"Looking up the result of run {self.id}: it must have succeeded; it is {found.state}. {headline(found.message) or 'Wait for it: run.wait().'}",
                run=self.id,
            )
        return Result(self._project.root / found.result)

    def partial(self) -> PartialResult:
        """Combine what is done so far, in a process of its own: while the run goes on, and after a failure or a cancel.

        Returns
        -------
        PartialResult
            The table, which says of itself that it is incomplete, and its coverage by partition or file. Nothing is published.

        Raises
        ------
        hindscan.errors.NotFound
            Nothing is done yet.
        """
        from hindscan.anytime import partial_result

        with self._workshop() as workshop:
            return partial_result(self._project, workshop.store, workshop.partials, self.id)

    @contextmanager
    def _workshop(self) -> Iterator[Workshop]:
        from hindscan.workshop import open_workshop

        with open_workshop(self._project) as workshop:
            yield workshop

    def _run(self) -> Run:
        from hindscan.runs.register import get_run

        with self._workshop() as workshop:
            return get_run(workshop.store, self.id)


class RunList(Sequence[RunHandle]):
    """Runs, newest first; made by `api.runs`. Any run of the store is found by its id, too."""

    def __init__(self, project: Project, found: Sequence[Run]) -> None:
        self._project, self._found = project, found

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return RunList(self._project, self._found[index])
        if isinstance(index, str):
            handle = RunHandle(self._project, index)
            _ = handle.state  # an id that there is not is an error here, not later
            return handle
        return RunHandle(self._project, self._found[index].id)

    def __repr__(self) -> str:
        return "\n".join(f"{found.id}  {found.job}  {found.state}" for found in self._found) or "no runs"

    def _repr_html_(self) -> str:
        cells = [
            (found.id, found.job, found.state, found.request.parameters, times.to_text(found.created_at)[:19], headline(found.message))
            for found in self._found
        ]  # fmt: skip
        return html_table([("run", "job", "state", "parameters", "created", "message"), *cells])

    def to_pandas(self) -> pd.DataFrame:
        """Give one row per run."""
        import pandas as pd

        from hindscan.words import run_document

        return pd.DataFrame([run_document(found) for found in self._found])


class Result:
    """The table a run published, and its manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: The table's file.
        self.path = folder / "result.parquet"

    def __repr__(self) -> str:
        manifest = self.manifest
        return f"<result of {manifest.job}: {manifest.result.rows} rows in {self.path}>"

    @property
    def manifest(self) -> Manifest:
        """How the result came about."""
        from hindscan.runs.results import read_manifest

        return read_manifest(self.folder)

    def sql(self, query: str, /, **values: Any) -> pa.Table:
        """Query it in SQL; it is the table `result`, and $name is bound."""
        from hindscan.data import Data, TableSource

        return Data("result", {"result": TableSource(self.to_arrow())}).sql(query, **values)

    def to_arrow(self) -> pa.Table:
        """Give the table as Arrow."""
        import pyarrow.parquet as pq

        return pq.read_table(self.path)

    def to_pandas(self) -> pd.DataFrame:
        """Give the table as a pandas data frame."""
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def to_polars(self) -> pl.DataFrame:
        """Give the table as a Polars data frame."""
        import polars as pl

        return pl.read_parquet(self.path)
