"""Jobs in any language: a TOML file that says which commands make the steps.

Keeps promises 7, 11 and 12 for code that is no Python. A step is a program that reads rows on its standard input and writes rows on its standard output, or a
statement of SQL. The project's files that its command names travel to the workers as bytes, inside the job's code, and run from there: what ran is what was
digested, and a program that is built anew while a run goes on changes nothing of that run. A command gets a minimal environment: no secret is in it unless it is
declared there. Its rows are checked against the declared columns before anything is stored.

::

    jobs/NAME.toml -> command_job -> JobSpec + Code -> worker: command_steps -> {step: CommandStep} -> jobs.child.converse
"""

from __future__ import annotations

import datetime as dt
import functools
import inspect
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, cast

import msgspec
import pyarrow as pa

from hindscan.data import Data
from hindscan.errors import BadPartial, CodeLoadError, JobDefinitionError
from hindscan.history.columns import schema_from_columns
from hindscan.jobs.carried import Folder, carried, matching, token_of, too_large
from hindscan.jobs.child import converse
from hindscan.jobs.declaration import Declaration, Streams, read_declaration, spec_of
from hindscan.jobs.digest import digest_of
from hindscan.jobs.job import CarriedFile, Code, JobSpec, StepName
from hindscan.jobs.lines import read_lines, write_lines
from hindscan.jobs.scratch import scratch
from hindscan.jobs.world import version_of

__all__ = ["FORM", "CommandStep", "command_job", "command_steps"]

#: First word of the payload of such code.
FORM: Final = b"command"
#: The form of the payload, and what hindscan does around a command. Raised when that changes meaning: it recomputes everything.
_MEANING: Final = 1
#: Longest value of one variable; Linux refuses more than 128 kB. Files have all of it.
_VARIABLE_BYTES_MOST: Final = 100_000


class PackedStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step as a worker needs it."""

    command: tuple[str, ...] = ()
    sql: str = ""
    #: Declared columns of what the command writes, by name.
    output: dict[str, str] = {}
    #: Columns that it reads; None: all.
    columns: tuple[str, ...] | None = None
    streams: Streams
    environment: tuple[str, ...] = ()
    #: Name of what it works on, and of the parameters and tables it takes.
    table: str
    parameters: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    time_limit: float | None = None


class _Packed(msgspec.Struct, frozen=True, kw_only=True):
    job: str
    steps: dict[StepName, PackedStep]
    files: dict[str, CarriedFile]


# Leaving ---------------------------------------------------------------------------------------------------------


def command_job(root: Path, file: Path, shown: str) -> tuple[JobSpec, Code]:
    """Read a declaration and pack the files it names; runs nothing.

    Parameters
    ----------
    root : Path
        The project's folder: what commands name is relative to it.
    file : Path
        The declaration.
    shown : str
        Its name in messages and in the spec.

    Raises
    ------
    hindscan.errors.JobDefinitionError
        All that is wrong with it.
    """
    root = root.resolve()
    declared = read_declaration(file)
    faults: list[str] = []
    depends = {path for pattern in declared.depends for path in _matching(root, pattern, faults)}
    files: dict[str, CarriedFile] = {}
    tokens: dict[StepName, list[object]] = {}
    steps: dict[StepName, PackedStep] = {}
    for name, step in declared.steps():
        steps[name] = packed = _packed(declared, name)
        own = set(_named(root, step.command, name, faults)) | (depends if step.command else set())
        of_step = dict(carried(root, path) for path in sorted(own))
        files |= of_step
        tokens[name] = _meaning(packed, of_step)
    fault = too_large(files)
    if fault is not None:
        faults.append(f"{fault}; install the program where they run and name it without a path")
    if faults:
        raise JobDefinitionError(
            f"Declaring the job {declared.name!r}: {'; '.join(faults)}. Change the declaration, then load it again.",
            job=declared.name,
            faults=faults,
        )
    content = msgspec.msgpack.encode(_Packed(job=declared.name, steps=steps, files=files))
    digests = {name: digest_of(token) for name, token in tokens.items()}
    # Limits are in no digest of a step: they change no row. The code that travels has them, so they are in its own.
    limits = {name: step.time_limit for name, step in steps.items()}
    code = Code(
        digest=digest_of([_MEANING, digests, limits]),
        modules={},
        payload=FORM + f" {_MEANING}\n".encode() + zlib.compress(content, 1),
    )
    return msgspec.structs.replace(spec_of(declared, digests), code=code.digest, file=shown), code


def _packed(declared: Declaration, name: StepName) -> PackedStep:
    step = dict(declared.steps())[name]
    return PackedStep(
        command=tuple(step.command),
        sql=step.sql,
        output=declared.output_of(name),
        columns=tuple(declared.columns) if name == "slice" and declared.columns is not None else None,
        streams=declared.streams,
        environment=tuple(declared.env),
        table=declared.table_of(name),
        parameters=declared.parameters_of(name),
        tables=declared.tables_of(name),
        time_limit=step.time_limit,
    )


def _meaning(step: PackedStep, files: Mapping[str, CarriedFile]) -> list[object]:
    """Say all that a step's rows depend on, whatever its time limit."""
    said = msgspec.to_builtins(msgspec.structs.replace(step, time_limit=None))
    # The order of the declared columns is that of the partial's.
    said["output"] = list(step.output.items())
    return ["command", _MEANING, said, token_of(files), version_of("pyarrow"), version_of("duckdb") if step.sql else ""]


def _named(root: Path, command: Iterable[str], step: str, faults: list[str]) -> Iterator[Path]:
    """Give the files of the project that a command names."""
    for index, argument in enumerate(command):
        path = _inside(root, argument)
        if path is not None and path.is_file():
            yield path
        elif index == 0 and "/" in argument and not Path(argument).is_absolute():
            faults.append(
                f"the command of {step} names {argument!r}, which must be a file of the project and is none; build it first"
            )


def _inside(root: Path, name: str) -> Path | None:
    """Give the path in the project that a name means; links that lead out of it are none."""
    if not name or "\0" in name or len(name) > 1000 or Path(name).is_absolute():
        return None
    path = root / name
    return path if ".." not in path.parts and path.resolve().is_relative_to(root) else None


def _matching(root: Path, pattern: str, faults: list[str]) -> list[Path]:
    found = matching(root, pattern)
    if not found:
        faults.append(f"depends names {pattern!r}, which must match files of the project, and matches none")
    return found


# Arriving --------------------------------------------------------------------------------------------------------


def command_steps(code: Code) -> dict[StepName, CommandStep]:
    """Make the steps of a job out of its code; its files are written when the first of them runs.

    Raises
    ------
    hindscan.errors.CodeLoadError
        It was packed by a hindscan that packs otherwise.
    """
    form, _, content = code.payload.partition(b"\n")
    if form != FORM + f" {_MEANING}".encode():
        raise CodeLoadError(
            f"Loading the job's code {code.digest[:12]}: it was packed in form {form[:16]!r}, and this worker reads commands of form {_MEANING}. "
            "Run workers with the version of hindscan that the project has.",
            code=code.digest,
        )
    packed = msgspec.msgpack.decode(zlib.decompress(content), type=_Packed)
    files = Folder(code.digest, packed.files)
    return {name: CommandStep(packed.job, name, step, files) for name, step in packed.steps.items()}


class CommandStep:
    """One step: called as a function is, with rows, broadcast tables and parameters by name.

    Parameters
    ----------
    job : str
        Name of the job, for messages.
    name : str
        Name of the step.
    step : PackedStep
        What it is.
    files : Folder
        The project's files it may run.
    """

    def __init__(self, job: str, name: str, step: PackedStep, files: Folder) -> None:
        self._doing = f"the step {name!r} of job {job}"
        self._job, self._name, self._step, self._files = job, name, step, files
        kinds = inspect.Parameter
        leading = kinds(step.table, kinds.POSITIONAL_OR_KEYWORD)
        named = [kinds(one, kinds.KEYWORD_ONLY, annotation=object) for one in (*step.tables, *step.parameters)]
        self.__signature__ = inspect.Signature([leading, *named])

    def __call__(self, rows: Data, **named: Any) -> pa.Table:
        """Run the step over some rows."""
        if self._step.sql:
            return rows.sql(self._step.sql, **{name: named[name] for name in self._step.parameters})
        with scratch() as folder:
            tables = {name: self._table(named[name], name, folder) for name in self._step.tables}
            parameters = {name: _plain(named[name]) for name in self._step.parameters}
            return converse(
                [self._placed(argument) for argument in self._step.command],
                folder=folder,
                environment=self._environment(folder, tables, parameters),
                seconds=self._step.time_limit,
                doing=self._doing,
                feed=lambda out: self._write(rows, self._step.columns, out),
                take=self._read,
            )

    def _placed(self, argument: str) -> str:
        """Give an argument as the command gets it: a file of the project as it lies here."""
        return str(self._files.path() / argument) if argument in self._files else argument

    def _environment(self, folder: Path, tables: Mapping[str, Path], parameters: Mapping[str, Any]) -> dict[str, str]:
        text = msgspec.json.encode(parameters).decode()
        file = folder / "parameters.json"
        file.write_text(text, encoding="utf-8")
        given = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            # One thread for each slice, in libraries that heed it: sums of floats must not depend on a pool's size.
            **{name: value for name, value in os.environ.items() if name.endswith("_THREADS")},
            **{name: os.environ[name] for name in self._step.environment if name in os.environ},
            "HINDSCAN_JOB": self._job,
            "HINDSCAN_STEP": self._name,
            "HINDSCAN_FILES": str(self._files.path()),
            "HINDSCAN_PARAMS": text,
            "HINDSCAN_PARAMS_FILE": str(file),
            **{
                f"HINDSCAN_PARAM_{name.upper()}": _shown(value)
                for name, value in parameters.items()
                if value is not None
            },
            **{f"HINDSCAN_TABLE_{name.upper()}": str(path) for name, path in tables.items()},
        }
        return {
            name: value for name, value in given.items() if len(value) <= _VARIABLE_BYTES_MOST and "\0" not in value
        }

    def _table(self, rows: Data, name: str, folder: Path) -> Path:
        """Write a broadcast table where the command can open it."""
        path = folder / f"{name}.{'arrows' if self._step.streams.input == 'arrow' else 'ndjson'}"
        with path.open("wb") as out:
            self._write(rows, None, out)
        return path

    def _write(self, rows: Data, columns: tuple[str, ...] | None, out: IO[bytes]) -> None:
        absent = [name for name in columns or () if name not in rows.schema.names]
        if absent:
            raise JobDefinitionError(
                f"Reading for {self._doing}: `columns` must be columns of the history, and {absent} are none of {rows.schema.names}. "
                "Change the declaration.",
                columns=absent,
            )
        if self._step.streams.input == "ndjson":
            write_lines(rows.batches(columns), out, integers=self._step.streams.integers)
            return
        schema = rows.schema if columns is None else pa.schema([rows.schema.field(name) for name in columns])
        with pa.ipc.new_stream(cast("Any", out), schema) as stream:
            for batch in rows.batches(columns):
                stream.write_batch(batch)

    def _read(self, source: IO[bytes]) -> pa.Table:
        schema = _schema(tuple(self._step.output.items()))
        if self._step.streams.output == "ndjson":
            return read_lines(source, schema, integers=self._step.streams.integers)
        try:
            with pa.ipc.open_stream(cast("Any", source)) as stream:
                _check(schema, stream.schema, self._doing)
                table = stream.read_all()
        except (pa.ArrowException, OSError, EOFError) as error:
            raise BadPartial(
                f"Reading what {self._doing} wrote: it must be one stream of Arrow IPC, and is not: {error}. "
                "Write nothing else to standard output."
            ) from error
        return _checked_nulls(table, schema, self._doing)


@functools.lru_cache(maxsize=256)
def _schema(output: tuple[tuple[str, str], ...]) -> pa.Schema:
    return schema_from_columns(dict(output))


def _check(wanted: pa.Schema, found: pa.Schema, doing: str) -> None:
    faults = [
        f"column {one.name!r} is {found.field(one.name).type}, and {one.type} is declared"
        for one in wanted
        if one.name in found.names and found.field(one.name).type != one.type
    ]
    if wanted.names != found.names:
        faults.insert(0, f"columns are {found.names}, and {wanted.names} are declared, in this order")
    if faults:
        raise BadPartial(
            f"Reading what {doing} wrote: it must have the columns that `output` declares; {'; '.join(faults)}. Change one of them.",
            faults=faults,
        )


def _checked_nulls(table: pa.Table, schema: pa.Schema, doing: str) -> pa.Table:
    for field in schema:
        if not field.nullable and table[field.name].null_count:
            row = table[field.name].is_null().to_pylist().index(True)
            raise BadPartial(
                f"Reading what {doing} wrote: column {field.name!r} is declared `not null`, and row {row:,} has none. Change one of them.",
                column=field.name,
                row=row,
            )
    return table


def _plain(value: Any) -> Any:
    """Give a parameter as JSON has it, in the form the run's own document has."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dt.datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, dt.date) else value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
