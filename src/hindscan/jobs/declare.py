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
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from hindscan.errors import JobDefinitionError, ParameterError
from hindscan.jobs.estimators import Statistic
from hindscan.jobs.estimators import faults_of as statistics_faults
from hindscan.jobs.job import JobSpec, Parameter, Step, StepName, is_allowance
from hindscan.jobs.language import describe
from hindscan.jobs.parameters import NAMED_OPTIONS, evaluated, validate
from hindscan.jobs.sampling import Sampling, sampling_faults
from hindscan.jobs.streams import GeneratorName
from hindscan.retries import retries_from

__all__ = ["NAME", "Function", "Job", "job", "simulation"]

Function = Callable[..., Any]

#: What the steps of a calibration job are in the simulation.
_CALIBRATION: dict[StepName, StepName] = {
    "slice": "calibrate",
    "combine": "calibrate_combine",
    "finish": "calibrate_finish",
}

#: What a step of an ordered job works on, where it is not one thing.
_ORDERED: dict[str, tuple[str, ...]] = {"slice": ("the slice", "the state"), "start": (), "close": ("the state",)}

#: Parts of a split: each is a batch in every partial, and a table to finish.
MOST_PARTS = 4096

#: What jobs may be called.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")


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
        self._own: dict[StepName, Function] = {"slice": function}
        if calibrate is not None and self.calibration is None:
            self._own["calibrate"] = calibrate
        if self.options.get("state") is not None:
            self._own["start"] = self.options["state"]
        functools.update_wrapper(self, function)
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
    def tables(self) -> dict[str, str]:
        """Broadcast tables of all steps: name of the parameter to name of the history."""
        return (self.calibration.tables if self.calibration else {}) | dict(self.options["tables"] or {})


def job(
    *,
    history: str,
    tables: Mapping[str, str] | None = None,
    combine: Literal["concat"] | None = None,
    by: str | Sequence[str] | None = None,
    parts: int = 16,
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

    Returns
    -------
    callable
        The decorator.
    """
    options = {
        "history": history, "tables": tables, "combine": combine, "by": by, "parts": parts, "order": order, "state": state, "whole": whole,
        "name": name, "max_bytes": max_bytes, "max_slices": max_slices, "max_seconds": max_seconds, "time_limit": time_limit,
        "retries": retries, "concurrency": concurrency, "allow_failed": allow_failed,
    }  # fmt: skip
    return lambda function: Job(kind="scan", function=function, options=options)


def simulation(
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
) -> Callable[[Function], Job]:
    """Make a simulation of a function that is called for each block of draws.

    Parameters
    ----------
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

    Returns
    -------
    callable
        The decorator.
    """
    options = {
        "history": history, "tables": tables, "combine": combine, "name": name, "block_size": block_size, "draws": draws,
        "statistics": {} if statistics is None else statistics, "generator": generator, "sampling": sampling,
        "max_bytes": max_bytes, "max_slices": max_slices, "max_seconds": max_seconds, "time_limit": time_limit,
        "retries": retries, "concurrency": concurrency,
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
        seen = _Signature(step, function, _works_on(declared, step), tables, faults)
        steps[step] = Step(digest="", parameters=tuple(seen.parameters), tables=tuple(seen.tables))
        leading[step] = seen.leading
        for name, parameter in seen.parameters.items():
            known = parameters.setdefault(name, parameter)
            if (known.type, known.required, known.default) != (parameter.type, parameter.required, parameter.default):
                faults.append(
                    f"`{name}` is `{_declaration(parameter)}` in {step} and `{_declaration(known)}` in an earlier step; "
                    "a parameter has one type and one default"
                )
            elif parameter.doc and not known.doc:
                parameters[name] = parameter
    sliced = "calibrate" if declared.kind == "simulation" else "slice"
    table = next(iter(leading.get(sliced, ())), None)
    history = options["history"]
    if declared.calibration is not None:
        own = declared.calibration.spec.history
        if history not in (None, own):
            faults.append(f"its calibration is a job on history {own!r}, and history= says {history!r}; leave one out")
        history = own
    faults += _faulty_tables(tables, table, steps if whole else None)
    faults += _faulty_options(declared, history, table)
    faults += _faulty_keys(declared)
    faults += _faulty_order(declared, leading.get("slice", ()))
    faults += _faulty_whole(declared)
    faults += _faulty_statistics(declared)
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
        by=_keys_of(options),
        parts=options.get("parts", 16),
        whole=bool(options.get("whole")),
        **{
            key: options[key]
            for key in ("block_size", "draws", "statistics", "generator", "sampling")
            if key in options
        },
        max_bytes=options["max_bytes"],
        max_slices=options["max_slices"],
        max_seconds=options["max_seconds"],
        time_limit=options["time_limit"],
        retries=None if options["retries"] is None else retries_from(options["retries"]),
        concurrency=options["concurrency"],
        allow_failed=options.get("allow_failed"),
        doc=_summary(declared.steps["slice"]),
        code="",
    )


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


def _faulty_tables(tables: Mapping[str, str], table: str | None, steps: Mapping[str, Step] | None) -> Iterator[str]:
    taken = set(tables) if steps is None else {name for step in steps.values() for name in step.tables}
    for name, history in tables.items():
        if name == table:
            yield f"`{name}` in tables= is the first parameter, which gets the sliced history"
        elif name not in taken:
            yield f"`{name}` in tables= is no parameter of any step"
        if not isinstance(history, str) or not history:
            yield f"`{name}` in tables= must name a history, and is {history!r}"


def _faulty_options(declared: Job, history: object, table: str | None) -> Iterator[str]:
    options = declared.options
    if not isinstance(declared.name, str) or not NAME.fullmatch(declared.name):
        yield f"its name must be letters, digits, _ and -, and is {declared.name!r}; give name="
    if (history is not None or declared.kind == "scan") and (not isinstance(history, str) or not history):
        yield f"history= must name a history, and is {history!r}"
    if declared.kind == "simulation" and (history is None) != (table is None):
        yield "history= and calibrate= belong together: the history is what the model is calibrated on"
    if options["combine"] not in (None, "concat"):
        yield f"combine= must be 'concat' or left out, and is {options['combine']!r}; an own one is declared with @{declared.name}.combine"
    elif options["combine"] and "combine" in declared.steps:
        yield "it has both combine='concat' and a combine of its own; leave one out"
    if options["retries"] is not None:
        try:
            retries_from(options["retries"])
        except ValueError as fault:
            yield f"retries= cannot be: {fault}"
    for option in ("max_bytes", "max_slices", "block_size", "draws", "concurrency"):
        value = options.get(option)
        if value is not None and (type(value) is not int or value < 1):
            yield f"{option}= must be a positive whole number, and is {value!r}"
    for option in ("max_seconds", "time_limit"):
        limit = options[option]
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0):
            yield f"{option}= must be a positive number of seconds, and is {limit!r}"
    allowed = options.get("allow_failed")
    if allowed is not None and not is_allowance(allowed):
        yield f"allow_failed= must be a share below 1 (0.01) or a whole number of slices, and is {allowed!r}"
    elif allowed and options.get("order"):
        yield "allow_failed= is for slices that know nothing of each other, and order= makes each need the one before it; leave one out"


def _keys_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    by = options.get("by")
    return () if by is None else (by,) if isinstance(by, str) else tuple(by)


def _faulty_keys(declared: Job) -> Iterator[str]:
    options, calibration = declared.options, declared.calibration
    by, parts = options.get("by"), options.get("parts", 16)
    if by is not None:
        keys = [by] if isinstance(by, str) else list(by) if isinstance(by, Sequence) else []
        if not keys or len(set(map(str, keys))) < len(keys) or not all(isinstance(key, str) and key for key in keys):
            yield f"by= must name one column or a list of different ones, and is {by!r}"
    if type(parts) is not int or not 1 <= parts <= MOST_PARTS:
        yield f"parts= must be a whole number from 1 to {MOST_PARTS}, and is {parts!r}"
    if calibration is not None and calibration.options.get("by") is not None:
        yield f"its calibration {calibration.name!r} is split by key, and a model is one table; leave out by="


def _faulty_order(declared: Job, leading: tuple[str, ...]) -> Iterator[str]:
    options, calibration = declared.options, declared.calibration
    order, state = options.get("order"), options.get("state")
    if order not in (None, "partition"):
        yield f"order= must be 'partition' or left out, and is {order!r}"
    if (order is None) != (state is None):
        yield "order= and state= belong together: the state is what one slice of a partition leaves to the next"
    if order is None and "close" in declared.steps:
        yield f"@{declared.name}.close is for ordered jobs: it gets the state a partition ends with; say order='partition' and state="
    if len(leading) == 2 and leading[1] in declared.tables:
        yield f"`{leading[1]}` in tables= is the second parameter, which gets the state"
    if calibration is not None and calibration.options.get("order") is not None:
        yield f"its calibration {calibration.name!r} is an ordered job, and slices of a calibration know nothing of each other"


def _faulty_whole(declared: Job) -> Iterator[str]:
    options, calibration = declared.options, declared.calibration
    if calibration is not None and calibration.options.get("whole"):
        yield f"its calibration {calibration.name!r} gets the history as a whole, and a calibration is computed slice by slice"
    if not options.get("whole"):
        return
    if options["order"] is not None:
        yield "it has both whole=True and order=; a whole history has no slices that follow on one another"
    if options["combine"] or {"combine", "finish"} & set(declared.steps):
        yield "with whole=True what the function returns is the result, so it has neither combine nor finish"
    if options.get("by") is not None or options.get("allow_failed"):
        yield "with whole=True there are no partials that could be split or left out, so it takes neither by= nor allow_failed="


def _faulty_statistics(declared: Job) -> Iterator[str]:
    options, size = declared.options, declared.options.get("block_size")
    if declared.kind != "simulation" or type(size) is not int or size < 1:
        return
    yield from sampling_faults(options["generator"], options["sampling"], size)
    yield from statistics_faults(options["statistics"], size)
    if options["statistics"] and (options["combine"] or "combine" in declared.steps):
        yield "it has both statistics= and a combine; leave one out"
    if options["sampling"] is not None and not options["statistics"]:
        yield "with sampling= draws depend on each other, and the built-in summary takes them for independent; declare statistics="


class _Signature:
    """What one step's function takes."""

    def __init__(
        self, step: str, function: object, leading: tuple[str, ...], tables: Mapping[str, str], faults: list[str]
    ) -> None:
        self.leading: tuple[str, ...] = ()
        self.parameters: dict[str, Parameter] = {}
        self.tables: list[str] = []
        if not callable(function):
            faults.append(f"{step} must be a function, and is {function!r}")
            return
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            faults.append(f"{step} must return a table, and is a coroutine or a generator")
        try:
            taken = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError) as error:
            faults.append(f"{step} has no signature that could be read ({error})")
            return
        faults += [
            f"`{one}` of {step} is {one.kind.description}; every parameter is given by its name"
            for one in taken
            if one.kind in (one.POSITIONAL_ONLY, one.VAR_POSITIONAL, one.VAR_KEYWORD)
        ]
        named = [one for one in taken if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        first = [one for one in named[: len(leading)] if one.kind is not one.KEYWORD_ONLY]
        self.leading = tuple(one.name for one in first)
        if len(first) < len(leading):
            faults.append(
                f"{step} must take {' and '.join(leading)} first, and takes ({', '.join(one.name for one in named)})"
            )
        namespace = getattr(inspect.unwrap(function), "__globals__", {})
        notes = _documented(function)
        for one in named[len(first) :]:
            if one.name in tables:
                self.tables.append(one.name)
            elif one.name in NAMED_OPTIONS:
                faults.append(f"`{one.name}` of {step} is an option of every run; rename the parameter")
            else:
                try:
                    self.parameters[one.name] = _parameter(one, namespace, notes)
                except (ValueError, ParameterError) as error:
                    faults.append(f"`{one.name}` of {step} {error}")


def _parameter(one: inspect.Parameter, namespace: Mapping[str, Any], notes: Mapping[str, str]) -> Parameter:
    required = one.default is one.empty
    annotation = one.annotation
    if annotation is one.empty:
        if required or one.default is None:
            raise ValueError("has neither an annotation nor a default to tell its type; annotate it")
        annotation = type(one.default)
    annotation = evaluated(annotation, namespace)
    if getattr(annotation, "__module__", "") == "hindscan.data":
        raise ValueError("is a table, and tables= does not name its history; add it there")
    try:
        described = describe(annotation)
    except ValueError as error:
        raise ValueError(f"has an annotation that no parameter can have: {error}") from error
    doc = next(
        (
            m.description
            for m in getattr(annotation, "__metadata__", ())
            if isinstance(m, msgspec.Meta) and m.description
        ),
        notes.get(one.name, ""),
    )
    made = Parameter(name=one.name, type=str(described), required=required, doc=doc)
    if required:
        return made
    try:
        default = validate([made], {one.name: one.default})[one.name]
    except ParameterError as error:
        faults = typing.cast("list[dict[str, str]]", error.details["faults"])
        raise ValueError(f"has a default that {faults[0]['fault']}") from error
    return msgspec.structs.replace(made, default=default)


def _summary(function: Function) -> str:
    """First paragraph of the docstring, on one line."""
    return " ".join((inspect.getdoc(function) or "").split("\n\n", 1)[0].split())


def _documented(function: Function) -> dict[str, str]:
    """Sentences of a numpydoc ``Parameters`` section, by parameter."""
    doc = inspect.getdoc(function) or ""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-{3,}$|\Z)", doc, re.MULTILINE | re.DOTALL)
    notes: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", section[1] if section else ""):
        head, _, body = entry.partition("\n")
        for name in head.split(":")[0].split(","):
            if name.strip():
                notes[name.strip()] = " ".join(body.split())
    return notes
