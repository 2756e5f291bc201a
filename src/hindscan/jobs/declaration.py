"""What a job in any language says of itself: the TOML file, read and checked.

Keeps the declaring half of promise 12 for jobs that are no Python: a declaration is data, and reading it runs nothing. All that is wrong with it is said at once.

::

    jobs/NAME.toml -> read_declaration -> Declaration -> spec_of -> JobSpec;  jobs.command packs what the steps run
"""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from hindscan.errors import JobDefinitionError, ParameterError
from hindscan.history.columns import column_faults, schema_from_columns
from hindscan.jobs.job import JobSpec, Parameter, Step, StepName
from hindscan.jobs.language import parse
from hindscan.jobs.lines import faulty_columns
from hindscan.jobs.parameters import NAMED_OPTIONS, validate
from hindscan.retries import retries_from

__all__ = ["Declaration", "Streams", "read_declaration", "spec_of"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
#: What a combining and a finishing statement reads from.
_WORKS_ON: Final[Mapping[StepName, str]] = {"combine": "partials", "finish": "combined"}

Format = Literal["arrow", "ndjson"]


class Streams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How rows are told to commands and by them."""

    input: Format = "arrow"
    output: Format = "arrow"
    #: How lines of JSON spell integers of 64 bits.
    integers: Literal["number", "text"] = "number"


class DeclaredParameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One parameter: a type of the language of `jobs.language`, and a default unless it must be given."""

    type: str
    default: Any = msgspec.UNSET
    doc: str = ""


class DeclaredStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step: a command or a statement."""

    command: list[str] = []
    sql: str = ""
    output: dict[str, Any] = {}
    #: Names of the parameters and tables it sees. Default: of a command all, of a statement those it names.
    parameters: list[str] | None = None
    tables: list[str] | None = None
    time_limit: float | None = None


class Declaration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    history: str
    slice: DeclaredStep
    combine: DeclaredStep | Literal["concat"] | None = None
    finish: DeclaredStep | None = None
    name: str = ""
    doc: str = ""
    #: What the rows are called, in SQL and in messages.
    table: str = "rows"
    columns: list[str] | None = None
    tables: dict[str, str] = {}
    parameters: dict[str, DeclaredParameter] = {}
    format: Format | Streams = "arrow"
    #: Files of the project that the commands open without naming them; patterns with * and **.
    depends: list[str] = []
    #: Variables of the worker's environment that commands see.
    env: list[str] = []
    max_bytes: int | None = None
    max_slices: int | None = None
    time_limit: float | None = None
    #: As of `hs.job`.
    retries: int | dict[str, Any] | None = None
    concurrency: int | None = None

    @property
    def streams(self) -> Streams:
        """How rows are told."""
        return self.format if isinstance(self.format, Streams) else Streams(input=self.format, output=self.format)

    def steps(self) -> Iterator[tuple[StepName, DeclaredStep]]:
        """Give the steps that are declared."""
        yield "slice", self.slice
        if isinstance(self.combine, DeclaredStep):
            yield "combine", self.combine
        if self.finish is not None:
            yield "finish", self.finish

    def output_of(self, name: StepName) -> dict[str, str]:
        """Give the columns that a step writes; a combining command gives back those of the partials."""
        step = dict(self.steps())[name]
        return self.slice.output if name == "combine" and step.command and not step.output else step.output

    def table_of(self, name: StepName) -> str:
        """Give the name of what a step works on."""
        return _WORKS_ON.get(name, self.table)

    def parameters_of(self, name: StepName) -> tuple[str, ...]:
        """Give the parameters that a step sees."""
        step = dict(self.steps())[name]
        if step.parameters is not None:
            return tuple(step.parameters)
        return tuple(one for one in self.parameters if not step.sql or re.search(rf"\${one}\b", step.sql))

    def tables_of(self, name: StepName) -> tuple[str, ...]:
        """Give the broadcast tables that a step sees; only the slice's unless it says so."""
        step = dict(self.steps())[name]
        if step.tables is not None:
            return tuple(step.tables)
        return tuple(self.tables) if name == "slice" else ()


def read_declaration(file: Path) -> Declaration:
    """Read a declaration.

    Raises
    ------
    hindscan.errors.JobDefinitionError
        With all that is wrong with it.
    """
    try:
        read = tomllib.loads(file.read_text(encoding="utf-8"))
        declared = msgspec.convert(read, Declaration)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise JobDefinitionError(
            "Reading the declaration: it must be TOML that says history and [slice], and perhaps combine, [finish], [parameters.NAME], and is "
            f"not: {error}. Correct the file."
        ) from error
    declared = msgspec.structs.replace(declared, name=declared.name or file.stem)
    faults = [*_faulty_names(declared), *_faulty_parameters(declared)]
    for name, step in declared.steps():
        faults += _faulty_step(declared, name, step)
    if faults:
        raise JobDefinitionError(
            f"Declaring the job {declared.name!r}: {'; '.join(faults)}. Change the declaration, then load it again.",
            job=declared.name,
            faults=faults,
        )
    return declared


def spec_of(declared: Declaration, digests: Mapping[StepName, str]) -> JobSpec:
    """Give the declaration as the job that all others know; the code's digest and the file are still missing."""
    combine: Any = "function" if isinstance(declared.combine, DeclaredStep) else (declared.combine or "none")
    return JobSpec(
        name=declared.name,
        kind="scan",
        table=declared.table,
        history=declared.history,
        tables=declared.tables,
        parameters=tuple(_parameter(name, one) for name, one in declared.parameters.items()),
        steps={
            name: Step(digest=digests[name], parameters=declared.parameters_of(name), tables=declared.tables_of(name))
            for name, _ in declared.steps()
        },
        combine=combine,
        max_bytes=declared.max_bytes,
        max_slices=declared.max_slices,
        time_limit=declared.time_limit,
        retries=None if declared.retries is None else retries_from(declared.retries),
        concurrency=declared.concurrency,
        doc=" ".join(declared.doc.split("\n\n", 1)[0].split()),
        code="",
    )


def _parameter(name: str, declared: DeclaredParameter) -> Parameter:
    """Make a parameter.

    Raises
    ------
    ValueError, hindscan.errors.ParameterError
        The type is none, or the default is none of it.
    """
    made = Parameter(
        name=name,
        type=str(parse(declared.type)),
        required=declared.default is msgspec.UNSET,
        doc=" ".join(declared.doc.split()),
    )
    if made.required:
        # TOML has no null: what may be null and is not given is.
        return msgspec.structs.replace(made, required=False) if parse(declared.type).optional else made
    return msgspec.structs.replace(made, default=validate([made], {name: declared.default})[name])


def _faulty_names(declared: Declaration) -> Iterator[str]:
    if not _NAME.fullmatch(declared.name):
        yield f"its name must be letters, digits, _ and -, and is {declared.name!r}; give name"
    if not declared.history:
        yield "history must name a history, and is empty"
    for what, names in (("table", [declared.table]), ("tables", declared.tables), ("env", declared.env)):
        for name in names:
            if not _WORD.fullmatch(name):
                yield f"{what} must be names of letters, digits and _, and one is {name!r}"
    if declared.table in declared.tables:
        yield f"tables has {declared.table!r}, which is what the sliced rows are called"
    for name in declared.env:
        if name.startswith("HINDSCAN_") or name in ("PATH", "HOME", "TMPDIR"):
            yield f"env names {name}, which is given by hindscan"
    if declared.columns is not None and (not declared.columns or len(set(declared.columns)) < len(declared.columns)):
        yield "columns must name at least one column, and none twice"
    if declared.retries is not None:
        try:
            retries_from(declared.retries)
        except ValueError as fault:
            yield f"retries cannot be: {fault}"
    for option in ("max_bytes", "max_slices", "time_limit", "concurrency"):
        value = getattr(declared, option)
        if value is not None and value <= 0:
            yield f"{option} must be positive, and is {value!r}"


def _faulty_parameters(declared: Declaration) -> Iterator[str]:
    upper = [name.upper() for name in declared.parameters]
    for name, one in declared.parameters.items():
        if not _WORD.fullmatch(name):
            yield f"parameters must have names of letters, digits and _, and one is {name!r}"
        elif name in NAMED_OPTIONS:
            yield f"parameter {name!r} is an option of every run; rename it"
        elif name in declared.tables or name == declared.table:
            yield f"parameter {name!r} has the name of a table"
        elif upper.count(name.upper()) > 1:
            yield f"parameter {name!r} differs from another only in case, and HINDSCAN_PARAM_{name.upper()} can be only one"
        try:
            _parameter(name, one)
        except ParameterError as error:
            faults = typing.cast("list[dict[str, str]]", error.details["faults"])
            yield f"parameter {name!r} has a default that {faults[0]['fault']}"
        except ValueError as error:
            yield f"parameter {name!r} has a type that is none: {error}"


def _faulty_step(declared: Declaration, name: StepName, step: DeclaredStep) -> Iterator[str]:
    if bool(step.command) == bool(step.sql):
        yield f"{name} must have either a command, a list of the program and its arguments, or sql"
    if any("\0" in argument for argument in step.command) or (step.command and not step.command[0]):
        yield f"the command of {name} must be a program and its arguments, and is {step.command!r}"
    if step.sql and (step.output or step.time_limit is not None):
        yield f"{name} is a statement, so output and time_limit mean nothing; leave them out"
    if step.time_limit is not None and not step.time_limit > 0:
        yield f"time_limit of {name} must be a positive number of seconds, and is {step.time_limit!r}"
    for what, given, known in (
        ("parameters", step.parameters, declared.parameters),
        ("tables", step.tables, declared.tables),
    ):
        for one in given or ():
            if one not in known:
                yield f"{what} of {name} names {one!r}, which is not declared in {what}"
    if not step.command:
        return
    output = declared.output_of(name)
    if not output:
        yield f'{name} is a command, so output must declare the columns it writes, such as output = {{ bidder = "int64" }}'
        return
    faults = column_faults(output)
    for place, text in faults:
        yield f"output of {name}: {place.removeprefix('columns.')} {text}"
    if not faults and declared.streams.output == "ndjson":
        for column in faulty_columns(schema_from_columns(output)):
            yield f'output of {name}: {column} has a type that lines of JSON cannot give; say format = {{ output = "arrow" }}'
