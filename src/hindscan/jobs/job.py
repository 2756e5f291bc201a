"""A job: a named function with typed parameters, as data.

`JobSpec` is all the rest of hindscan knows of a job, and it is data: it goes through JSON, is kept with the run, and lets
`hindscan serve` validate and plan without ever loading user code (promise 12). The functions themselves are in the job's
`Code`, which only workers open. The decorators that make both live in `jobs.declare`; parameters in `jobs.parameters`.

A job is a set of steps. Each step names what it sees; its digest covers the function and everything it reaches in the project, so that
a change of `finish` recomputes no slice (promise 7).

::

    @hs.job -> Job (functions) -> jobs.code -> JobSpec + Code -> plans -> tasks -> workers load Code
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from hindscan.jobs.estimators import Statistic
from hindscan.jobs.sampling import Sampling
from hindscan.jobs.streams import GeneratorName
from hindscan.retries import Retries

__all__ = ["PARTS", "CarriedFile", "Code", "JobSpec", "Parameter", "Step", "StepName", "is_allowance", "pinned_as"]

#: Parts of a job that is split by key and says nothing of them.
PARTS: Final = 16

#: What can be called: once per slice, per node of the tree, once at the end; the same three for a simulation's model; at the two ends of a
#: partition of an ordered job.
StepName = Literal["slice", "combine", "finish", "calibrate", "calibrate_combine", "calibrate_finish", "start", "close"]


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter of a job. Everything needed to validate a value, as data."""

    name: str
    #: Annotation in a closed little language: ``int``, ``float``, ``str``, ``bool``, ``date``, ``datetime``,
    #: ``literal["a", "b"]``, ``list[T]``, ``T | None``, with bounds; see `jobs.parameters`.
    type: str
    required: bool
    #: JSON value; meaningless if required.
    default: object = None
    doc: str = ""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One function of a job, as far as the rest of hindscan must know it."""

    digest: str
    #: Names of the job's parameters that it takes.
    parameters: tuple[str, ...] = ()
    #: Names of the broadcast tables that it takes.
    tables: tuple[str, ...] = ()
    #: Names of the joined jobs whose tables it takes; of "finish" only.
    joins: tuple[str, ...] = ()
    #: All it does is to give what one statement of SQL gives, so that it works without the interpreter's lock.
    is_sql: bool = False


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A job as data."""

    name: str
    #: "scan": slices of a history. "simulation": draws, with an optional model calibrated on a history.
    kind: Literal["scan", "simulation"]
    #: Name of the function's parameter that gets the sliced history ("bids"), and the history it means by default.
    table: str | None
    history: str | None
    #: Broadcast tables: parameter name to history name.
    tables: dict[str, str] = {}
    parameters: tuple[Parameter, ...] = ()
    #: By step name; "slice" is always there. For a simulation without its own, "combine" and "finish" are the built-in statistics.
    steps: dict[str, Step]
    #: How several partials become one: the job's function, plain concatenation in slice order, built-in statistics, or not at all.
    combine: Literal["function", "concat", "statistics", "none"]
    #: The same for the calibration.
    calibrate_combine: Literal["function", "concat", "none"] = "none"
    #: "partition": the slices of a partition are computed one after another, each with the state its predecessor left.
    order: Literal["partition"] | None = None
    #: Key columns by which partials are split, each part being combined and finished without the others; empty: not split.
    by: tuple[str, ...] = ()
    #: Into how many parts.
    parts: int = PARTS
    #: Other jobs, split by as many keys into as many parts: "finish" of a part gets, by these names, what they give for the same part. Their tables are
    #: their own, their parameters are the job's, too.
    joins: dict[str, JobSpec] = {}
    #: The function gets the history as a whole, once, and returns the result.
    whole: bool = False
    #: Draws per stream of a simulation.
    block_size: int = 65_536
    #: Draws if the run names none.
    draws: int = 1_000_000
    #: What blocks draw with, how numbers are made points, and what is estimated; none: a summary of each quantity.
    generator: GeneratorName = "PCG64DXSM"
    sampling: Sampling | None = None
    statistics: dict[str, Statistic] = {}
    #: Names of what a block returns, where the function's source says them; empty: not known before it is called.
    quantities: tuple[str, ...] = ()
    #: Limits of the plan; None: the project's.
    max_bytes: int | None = None
    max_slices: int | None = None
    max_seconds: float | None = None
    #: Seconds a run may take; None: no limit.
    time_limit: float | None = None
    #: Whether a run that fails is tried again; None: it is not.
    retries: Retries | None = None
    #: How many of its runs may run at once; None: any number.
    concurrency: int | None = None
    #: Slices that may fail for good: a share of all (a float below 1) or a number; None: the project's.
    allow_failed: int | float | None = None
    doc: str = ""
    #: Digest of the code bundle.
    code: str
    #: Project file the job was loaded from, relative; empty for a notebook cell.
    file: str = ""

    @property
    def histories(self) -> dict[str, str | None]:
        """Name of each history it reads, by the name that it is pinned under.

        Own ones are pinned under their tables' names; what a joined job slices under the name of the join, its broadcast tables as ``JOIN.TABLE``.
        """
        found: dict[str, str | None] = {} if self.table is None else {self.table: self.history}
        found |= self.tables
        for name, job in self.joins.items():
            found[name] = job.history
            found |= {pinned_as(name, table): history for table, history in job.tables.items()}
        return found

    @property
    def broadcast(self) -> tuple[str, ...]:
        """Names under which the broadcast tables are pinned, those of joined jobs included."""
        joined = (pinned_as(name, table) for name, job in self.joins.items() for table in job.tables)
        return (*self.tables, *joined)


class CarriedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the project, on its way to a worker."""

    content: bytes
    executable: bool = False


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """What travels to workers: opaque here, opened only by `jobs.code.load`."""

    digest: str
    #: Sources of the project modules the job reaches, by module name.
    modules: dict[str, str]
    #: Files that it declares, by their paths in the project.
    files: dict[str, CarriedFile] = {}
    #: Installed modules that it may import by a call.
    libraries: tuple[str, ...] = ()
    #: Own cloudpickle bytes of the steps' functions by step name; project modules inside are references into `modules`.
    payload: bytes
    #: Code of the joined jobs, by the names of the joins.
    joins: dict[str, Code] = {}


def pinned_as(join: str | None, table: str) -> str:
    """Give the name under which a broadcast table is pinned: of a joined job ``JOIN.TABLE``, because its names are its own."""
    return table if join is None else f"{join}.{table}"


def is_allowance(value: object) -> bool:
    """Tell whether a value can say how many slices may fail: a share of all (a float below 1), or a whole number."""
    if isinstance(value, bool):
        return False
    return value >= 0 if isinstance(value, int) else isinstance(value, float) and 0 <= value < 1
