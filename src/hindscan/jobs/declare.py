"""How a user says that a function is a job.

Keeps the declaring half of promise 12: `job` and `simulation` turn functions into a `Job`, whose `spec` is the declaration as pure
data. Everything that can be wrong with a declaration is found here, all of it at once, when the decorator runs: what a step may take is
decided by its signature alone. The digests of the steps, and the code that travels, are added by `jobs.code.bundle`.

A step's first parameter is what it works on (for a simulation two: the block and, if there is a calibration, the model; for an ordered job two:
the slice and the state; `state=` itself works on nothing). Each other parameter is a broadcast table if `tables` has its name, else a parameter of the job.

::

    functions -> Job -> spec (no digests yet) -> jobs.code.bundle -> JobSpec + Code
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from hindscan.errors import JobDefinitionError
from hindscan.jobs.estimators import Statistic
from hindscan.jobs.job import PARTS, JobSpec, Parameter, Step, StepName
from hindscan.jobs.options import join_faults, keys_of, option_faults, table_faults
from hindscan.jobs.quantities import quantity_names
from hindscan.jobs.sampling import Sampling
from hindscan.jobs.signature import Signature, summary
from hindscan.jobs.streams import GeneratorName
from hindscan.retries import retries_from

__all__ = ["Function", "Job", "job", "simulation"]

Function = Callable[..., Any]

#: What the steps of a calibration job are in the simulation.
_CALIBRATION: dict[StepName, StepName] = {
    "slice": "calibrate",
    "combine": "calibrate_combine",
    "finish": "calibrate_finish",
}

#: What a step of an ordered job works on, where it is not one thing.
_ORDERED: dict[str, tuple[str, ...]] = {"slice": ("the slice", "the state"), "start": (), "close": ("the state",)}


class Job:
    """A declared job: callable like its function, with decorators for its further steps.

    Attributes
    ----------
    name : str
        What the job is called everywhere.
    options : dict
        What the decorator was given.
    calibration : Job, optional
        The job that makes a simulation's model.
    joins : dict of Job
        The jobs it is joined with, by name.
    quantities : tuple of str
        What a simulation returns, as far as it is known (`jobs.quantities`).
    """

    def __init__(
        self,
        *,
        kind: Literal["scan", "simulation"],
        function: Function,
        options: Mapping[str, Any],
        calibrate: Function | Job | None = None,
    ) -> None:
        self.kind = kind
        self.name: str = options.get("name") or str(getattr(function, "__name__", ""))
        self.options = dict(options)
        self.calibration = calibrate if isinstance(calibrate, Job) else None
        join = options.get("join")
        self.joins: dict[str, Job] = dict(join) if isinstance(join, Mapping) else {}
        self._own: dict[StepName, Function] = {"slice": function}
        if calibrate is not None and self.calibration is None:
            self._own["calibrate"] = calibrate
        if self.options.get("state") is not None:
            self._own["start"] = self.options["state"]
        functools.update_wrapper(self, function)
        # Now, while the source is that of the function: a file may be edited later.
        self.quantities = quantity_names(function, self.name) if kind == "simulation" else ()
        _declared(self, whole=False)  # raises what is wrong while the user looks at the decorator

    def __call__(self, *args: Any, **values: Any) -> Any:
        """Call the function for one slice, as if it had no decorator."""
        return self.steps["slice"](*args, **values)

    def __repr__(self) -> str:
        return f"<hindscan job {self.name!r}: {', '.join(self.steps)}>"

    def combine(self, function: Function) -> Function:
        """Declare how several partials become one: same schema in and out, associative, called in slice order."""
        return self._with_step("combine", function)

    def finish(self, function: Function) -> Function:
        """Declare how the combined table becomes the result; called once."""
        return self._with_step("finish", function)

    def close(self, function: Function) -> Function:
        """Declare what an ordered job gives for the state that a partition ends with: one more partial of that partition."""
        return self._with_step("close", function)

    def _with_step(self, step: StepName, function: Function) -> Function:
        before = self._own
        # A cell of a notebook is run again and again: the last definition counts.
        self._own = {**before, step: function}
        try:
            _declared(self, whole=False)
        except JobDefinitionError:
            self._own = before
            raise
        return function

    @property
    def spec(self) -> JobSpec:
        """The declaration as data; the digests are still empty.

        Raises
        ------
        hindscan.errors.JobDefinitionError
            All that is wrong with the declaration.
        """
        return _declared(self, whole=True)

    @property
    def steps(self) -> dict[StepName, Function]:
        """The functions, by step name; those of the calibration job as it is now."""
        if self.calibration is None:
            return dict(self._own)
        steps = self.calibration.steps.items()
        return self._own | {_CALIBRATION[step]: made for step, made in steps if step in _CALIBRATION}

    @property
    def depends(self) -> tuple[str, ...]:
        """What it declares beside what its code shows, that of the calibration job first."""
        return (*(self.calibration.depends if self.calibration else ()), *self.options.get("depends", ()))

    @property
    def tables(self) -> dict[str, str]:
        """Broadcast tables of all steps: name of the parameter to name of the history."""
        return (self.calibration.tables if self.calibration else {}) | dict(self.options["tables"] or {})


def job(
    *,
    history: str,
    tables: Mapping[str, str] | None = None,
    combine: Literal["concat"] | None = None,
    by: str | Sequence[str] | None = None,
    parts: int = PARTS,
    join: Mapping[str, Job] | None = None,
    order: Literal["partition"] | None = None,
    state: Function | None = None,
    whole: bool = False,
    name: str | None = None,
    max_bytes: int | None = None,
    max_slices: int | None = None,
    max_seconds: float | None = None,
    time_limit: float | None = None,
    retries: int | Mapping[str, Any] | None = None,
    concurrency: int | None = None,
    allow_failed: float | None = None,
    depends: Sequence[str] = (),
) -> Callable[[Function], Job]:
    """Make a job of a function that is called for each slice of a history.

    Parameters
    ----------
    history : str
        Name of the history that is cut into slices; the function's first parameter gets one slice.
    tables : mapping, optional
        Broadcast tables, given whole to each call: name of the function's parameter to name of the history.
    combine : "concat", optional
        Several partials are concatenated in slice order. Default: the job's own `combine`, or one slice only.
    by : str or sequence of str, optional
        Key columns of what every step returns. Partials are split by them into parts: `combine` and `finish` are called for each part, with all rows of the keys in it,
        and parts are worked on in parallel, so that no worker holds the table of all keys. The result is sorted by these columns (nulls last); rows of
        one key stay in the order `finish` gave them. Default: not split.
    parts : int
        With `by`: how many parts, at most 4096. A worker holds up to 16 partials' rows of one part.
    join : mapping of Job, optional
        With `by`: jobs over other histories, split by as many keys into as many parts, by the name of a parameter of `finish`. `finish` is called for each
        part with what both sides have for the keys in it, and says how they are joined; so neither history is ever held whole. Parameters of one name are one
        parameter. The joined jobs are read as of the same time, and whole otherwise: a window is the job's own. Default: nothing is joined.
    order : "partition", optional
        The slices of one partition are computed one after another, in the order of their offsets (files of a Parquet history: of their times), and
        partitions in parallel. The function then gets a state as its second parameter and returns a pair: its partial, and the
        state for the next slice. Default: slices know nothing of each other.
    state : callable, optional
        With `order`: gives the state a partition begins with, a table or a dict of arrays and JSON values. A table comes as `hs.Data`, which SQL can
        name, too. Takes parameters and broadcast tables by name, as any step does.
    whole : bool
        The function is called once and gets the history as a whole (`hs.Whole`), for Dask code: data frames, bags and delayed tables with one partition for
        each slice. What it returns is the result; collections are computed. Default: called for each slice.
    name : str, optional
        Name of the job. Default: the function's.
    max_bytes, max_slices : int, optional
        A plan over these is refused. Default: the project's.
    max_seconds : float, optional
        A plan that would take a worker longer, as earlier runs of the job tell, is refused. Default: the project's.
    time_limit : float, optional
        Seconds a run may take. Default: no limit.
    retries : int or mapping, optional
        Further tries of a run that fails, or attempts, backoff, longest, jitter and on (see settings). Default: none.
    concurrency : int, optional
        How many of its runs a server runs at once. Default: any number.
    allow_failed : int or float, optional
        Slices that may fail for good and are then left out of the result, which says so: a share of all (below 1) or a number. Default: the project's, none.
    depends : sequence of str
        What the code uses and does not show: own modules, packages or installed modules that are imported by a call, and files of the project (patterns,
        relative to the project file) that are opened by `hs.resource`. They travel, and count in the digest of the steps that can come to use them.

    Returns
    -------
    callable
        The decorator.
    """
    options = {
        "history": history, "tables": tables, "combine": combine, "by": by, "parts": parts, "join": join, "order": order, "state": state, "whole": whole,
        "name": name, "max_bytes": max_bytes, "max_slices": max_slices, "max_seconds": max_seconds, "time_limit": time_limit,
        "retries": retries, "concurrency": concurrency, "allow_failed": allow_failed, "depends": depends,
    }  # fmt: skip
    return lambda function: Job(kind="scan", function=function, options=options)


def simulation(
    bare: object = None,
    /,
    *,
    history: str | None = None,
    calibrate: Function | Job | None = None,
    tables: Mapping[str, str] | None = None,
    combine: Literal["concat"] | None = None,
    name: str | None = None,
    block_size: int = 65_536,
    draws: int = 1_000_000,
    statistics: Mapping[str, Statistic] | None = None,
    generator: GeneratorName = "PCG64DXSM",
    sampling: Sampling | None = None,
    max_bytes: int | None = None,
    max_slices: int | None = None,
    max_seconds: float | None = None,
    time_limit: float | None = None,
    retries: int | Mapping[str, Any] | None = None,
    concurrency: int | None = None,
    depends: Sequence[str] = (),
) -> Callable[[Function], Job]:
    """Make a simulation of a function that is called for each block of draws.

    Parameters
    ----------
    bare : object
        Nothing: it is there so that a decorator without parentheses is told to have some.
    history : str, optional
        Name of the history the model is calibrated on. Default: that of `calibrate`, if it is a job.
    calibrate : callable or Job, optional
        Makes the model, a table or a dict of arrays, from the history; a job with `combine` where the history has several slices. The
        function then gets the model as its second parameter.
    tables : mapping, optional
        Broadcast tables: name of the parameter to name of the history.
    combine : "concat", optional
        Keep the tables of all blocks, in order. Default: the built-in statistics of each quantity, or the job's own `combine`.
    name : str, optional
        Name of the job. Default: the function's.
    block_size : int
        Draws of one stream; another value gives other numbers.
    draws : int
        Draws of a run that names none.
    statistics : mapping, optional
        What is estimated of the quantities a block returns, by name: ``{"price": hs.Mean("payoff")}``. Default: a summary of each quantity.
    generator : str
        "PCG64DXSM", "Philox" or "SFC64"; another one gives other numbers.
    sampling : Sampling, optional
        How `block.uniforms` and `block.normals` choose their points: `hs.Antithetic`, `hs.Stratified`, `hs.Sobol` or `hs.Halton`. Default: at random.
    max_bytes, max_slices : int, optional
        A plan over these is refused. Default: the project's.
    max_seconds : float, optional
        A plan that would take a worker longer, as earlier runs of the job tell, is refused. Default: the project's.
    time_limit : float, optional
        Seconds a run may take. Default: no limit.
    retries : int or mapping, optional
        Further tries of a run that fails, or attempts, backoff, longest, jitter and on (see settings). Default: none.
    concurrency : int, optional
        How many of its runs a server runs at once. Default: any number.
    depends : sequence of str
        What the code uses and does not show: own modules, packages or installed modules that are imported by a call, and files of the project (patterns,
        relative to the project file) that are opened by `hs.resource`. They travel, and count in the digest of the steps that can come to use them.

    Returns
    -------
    callable
        The decorator.
    """
    if bare is not None:
        called = getattr(bare, "__name__", "")
        raise JobDefinitionError(f"Declaring the job {called!r}: write @hs.simulation(), with parentheses.", job=called)
    options = {
        "history": history, "tables": tables, "combine": combine, "name": name, "block_size": block_size, "draws": draws,
        "statistics": {} if statistics is None else statistics, "generator": generator, "sampling": sampling,
        "max_bytes": max_bytes, "max_slices": max_slices, "max_seconds": max_seconds, "time_limit": time_limit,
        "retries": retries, "concurrency": concurrency, "depends": depends,
    }  # fmt: skip
    return lambda function: Job(kind="simulation", function=function, options=options, calibrate=calibrate)


# From functions to a spec ----------------------------------------------------------------------------------------


def _declared(declared: Job, *, whole: bool) -> JobSpec:
    """Make the spec; `whole` is false while steps may still come."""
    faults: list[str] = []
    options = declared.options
    tables = declared.tables
    steps: dict[str, Step] = {}
    parameters: dict[str, Parameter] = {}
    leading: dict[str, tuple[str, ...]] = {}
    for step, function in declared.steps.items():
        seen = Signature(step, function, _works_on(declared, step), tables, declared.joins, faults)
        steps[step] = Step(
            digest="", parameters=tuple(seen.parameters), tables=tuple(seen.tables), joins=tuple(seen.joins)
        )
        leading[step] = seen.leading
        faults += _gathered(parameters, seen.parameters.values(), step)
    joined = {name: other.spec for name, other in declared.joins.items() if isinstance(other, Job)}
    for name, spec in joined.items():
        faults += _gathered(parameters, spec.parameters, f"the joined job {name}")
    sliced = "calibrate" if declared.kind == "simulation" else "slice"
    table = next(iter(leading.get(sliced, ())), None)
    history = options["history"]
    if declared.calibration is not None:
        own = declared.calibration.spec.history
        if history not in (None, own):
            faults.append(f"its calibration is a job on history {own!r}, and history= says {history!r}; leave one out")
        history = own
    faults += table_faults(tables, table, steps if whole else None)
    faults += join_faults(declared, table, steps if whole else None)
    faults += option_faults(declared, history, leading, table)
    if faults:
        raise JobDefinitionError(
            f"Declaring the job {declared.name!r}: {'; '.join(faults)}. Change the declaration, then load it again.",
            job=declared.name,
            faults=faults,
        )
    combine = _combined(declared, "combine", options["combine"])
    if combine == "none" and declared.kind == "simulation":
        combine = "statistics"
    calibrated = declared.calibration.options["combine"] if declared.calibration else None
    return JobSpec(
        name=declared.name,
        kind=declared.kind,
        table=table,
        history=history,
        tables=tables,
        parameters=tuple(parameters.values()),
        steps=steps,
        combine=combine,
        calibrate_combine=typing.cast("Any", _combined(declared, "calibrate_combine", calibrated)),
        order=options.get("order"),
        by=keys_of(options),
        parts=options.get("parts", PARTS),
        joins=joined,
        whole=bool(options.get("whole")),
        **{key: options[key] for key in ("block_size", "draws", "generator", "sampling") if key in options},
        # In the order of their names, as data has no other.
        statistics=dict(sorted(options.get("statistics", {}).items())),
        quantities=declared.quantities if combine == "statistics" else (),
        max_bytes=options["max_bytes"],
        max_slices=options["max_slices"],
        max_seconds=options["max_seconds"],
        time_limit=options["time_limit"],
        retries=None if options["retries"] is None else retries_from(options["retries"]),
        concurrency=options["concurrency"],
        allow_failed=options.get("allow_failed"),
        doc=summary(declared.steps["slice"]),
        code="",
    )


def _gathered(known: dict[str, Parameter], found: Iterable[Parameter], where: str) -> Iterator[str]:
    """Take in parameters; tell of those that are something else elsewhere."""
    for parameter in found:
        before = known.setdefault(parameter.name, parameter)
        if (before.type, before.required, before.default) != (parameter.type, parameter.required, parameter.default):
            yield (
                f"`{parameter.name}` is `{_declaration(parameter)}` in {where} and `{_declaration(before)}` in an earlier step; "
                "a parameter has one type and one default"
            )
        elif parameter.doc and not before.doc:
            known[parameter.name] = parameter


def _combined(declared: Job, step: StepName, option: str | None) -> Literal["function", "concat", "statistics", "none"]:
    if step in declared.steps:
        return "function"
    return "concat" if option == "concat" else "none"


def _works_on(declared: Job, step: str) -> tuple[str, ...]:
    """Say what a step is given before its named parameters."""
    if declared.options.get("order") and step in _ORDERED:
        return _ORDERED[step]
    if step == "slice" and declared.kind == "simulation" and "calibrate" in declared.steps:
        return ("the block", "the model")
    return () if step == "start" else ("what it works on",)


def _declaration(parameter: Parameter) -> str:
    return parameter.type if parameter.required else f"{parameter.type} = {parameter.default!r}"
