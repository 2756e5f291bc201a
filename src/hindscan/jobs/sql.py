"""A job written in SQL: one file, a header and up to three statements.

Keeps promises 7 and 12: a SQL job is a `JobSpec` and a `Code` like any other, and neither making nor doing it runs Python of the project. The header is TOML
between two fences of comments, what stands above it is the documentation, and ``-- name: STEP`` begins the statement of a step::

    -- Bids of each bidder on one category.
    --
    -- /// job
    -- history = "bids"
    -- [parameters]
    -- category = { default = "cars", doc = "Which category." }
    -- ///
    -- name: slice
    SELECT bidder, count(*) AS bids FROM bids WHERE category = $category GROUP BY bidder
    -- name: combine
    SELECT bidder, sum(bids)::BIGINT AS bids FROM partials GROUP BY bidder ORDER BY bidder

The slice has the name of its history (or ``table``), the partials to combine are ``partials``, the combined ones ``combined``. A file without ``-- name:`` is one
statement, that of the slice. What a job that is split by key (``by``) is joined with is declared in the same file: ``[join.NAME]`` in the header says of which history,
``-- name: NAME.STEP`` begins a statement over it, and finish reads what comes of it as the table ``NAME``. All faults of a file are found when it is loaded, each
with its line and column.

::

    jobs/NAME.sql -> read_sql -> header + Statements -> JobSpec (digests) + Code
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from hindscan.errors import JobDefinitionError, ParameterError
from hindscan.jobs.code import MEANING
from hindscan.jobs.digest import digest_of
from hindscan.jobs.job import PARTS, Code, JobSpec, Parameter, Step, StepName
from hindscan.jobs.language import describe, parse
from hindscan.jobs.options import MOST_PARTS, NAME, keys_of
from hindscan.jobs.parameters import NAMED_OPTIONS, validate
from hindscan.jobs.statement import FORM, Misplaced, Statement, pack, read_statement
from hindscan.jobs.world import version_of

__all__ = ["read_sql"]

_FENCE: Final = re.compile(r"--\s*///\s*job\s*")
_FENCE_END: Final = re.compile(r"--\s*///\s*")
_SECTION: Final = re.compile(r"--\s*name:\s*(\S+)\s*")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

#: Names of what the later steps work on.
_WORKS_ON: Final[dict[str, str]] = {"combine": "partials", "finish": "combined"}

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Name = Annotated[str, msgspec.Meta(pattern=f"^{_IDENTIFIER.pattern}$")]
_Keys = _Text | Annotated[list[_Text], msgspec.Meta(min_length=1)]


class _Join(msgspec.Struct, forbid_unknown_fields=True):
    """What a header says of a history that is joined; keys as those of the header itself."""

    history: _Text
    by: _Keys
    table: _Name | None = None
    tables: dict[_Text, _Text] = {}
    combine: Literal["concat"] | None = None


#: Keys of the header and what they may be.
_HEADER: Final[dict[str, Any]] = {
    "name": Annotated[str, msgspec.Meta(pattern=f"^{NAME.pattern}$")],
    "history": _Text,
    "table": _Name,
    "tables": dict[_Text, _Text],
    "combine": Literal["concat"],
    "by": _Keys,
    "parts": Annotated[int, msgspec.Meta(ge=1, le=MOST_PARTS)],
    "join": dict[_Name, _Join],
    "parameters": dict[str, Any],
    "max_bytes": _Count,
    "max_slices": _Count,
    "time_limit": Annotated[float, msgspec.Meta(gt=0)],
    "concurrency": _Count,
}


class _Declared(msgspec.Struct, forbid_unknown_fields=True):
    """One parameter of a header; a bare value is its default."""

    type: str | None = None
    default: Any = msgspec.UNSET
    doc: str = ""


def read_sql(text: str, stem: str, *, file: str = "") -> tuple[JobSpec, Code]:
    """Make a job of the text of a file; parses SQL and runs none.

    Parameters
    ----------
    text : str
        The file's text.
    stem : str
        Name of the job if the header gives none.
    file : str
        Where it was loaded from, relative to the project's folder.

    Raises
    ------
    hindscan.errors.JobDefinitionError
        All that is wrong with it, each with line and column.
    """
    read = _File(text, stem)
    if read.faults:
        listed = [f"line {line}, column {column}: {fault}" for line, column, fault in sorted(read.faults)]
        raise JobDefinitionError(
            f"Reading the SQL job {read.name!r}: {'; '.join(listed)}. Correct the file.", job=read.name, faults=listed
        )
    return read.job(file)


class _File:
    """A file taken apart, and all that is wrong with it."""

    def __init__(self, text: str, stem: str) -> None:
        # Not splitlines: what else it takes for the end of a line may stand in a literal.
        self._lines = text.replace("\r\n", "\n").split("\n")
        self.faults: list[tuple[int, int, str]] = []
        self.name = stem
        self._first, self._last = self._fences()
        self._header = self._checked_header()
        self.name = self._header.get("name", stem)
        self._history: str = self._header.get("history", "")
        self._table: str = self._header.get("table", self._history)
        self._tables: dict[str, str] = self._header.get("tables", {})
        self._joins: dict[str, _Join] = self._header.get("join", {})
        self._parameters = tuple(self._checked_parameters())
        self._statements = dict(self._checked_statements())
        if not self.faults:
            self._whole()

    def job(self, file: str) -> tuple[JobSpec, Code]:
        """Give the job; only where nothing is wrong."""
        joined = {name: self._joined(name, join) for name, join in self._joins.items()}
        steps, code = self._steps(None, {name: code for name, (_, code) in joined.items()})
        spec = JobSpec(
            name=self.name,
            kind="scan",
            table=self._table,
            history=self._history,
            tables=self._tables,
            parameters=self._parameters,
            steps=steps,
            combine="function" if "combine" in steps else self._header.get("combine", "none"),
            by=keys_of(self._header),
            parts=self._header.get("parts", PARTS),
            joins={name: spec for name, (spec, _) in joined.items()},
            max_bytes=self._header.get("max_bytes"),
            max_slices=self._header.get("max_slices"),
            time_limit=self._header.get("time_limit"),
            concurrency=self._header.get("concurrency"),
            doc=self._doc(),
            code=code.digest,
            file=file,
        )
        return spec, code

    def _joined(self, name: str, join: _Join) -> tuple[JobSpec, Code]:
        """Give what is joined under a name as the job it is."""
        steps, code = self._steps(name, {})
        named = {parameter for step in steps.values() for parameter in step.parameters}
        spec = JobSpec(
            name=name,
            kind="scan",
            table=join.table or join.history,
            history=join.history,
            tables=join.tables,
            parameters=tuple(p for p in self._parameters if p.name in named),
            steps=steps,
            combine="function" if "combine" in steps else join.combine or "none",
            by=keys_of({"by": join.by}),
            parts=self._header.get("parts", PARTS),
            code=code.digest,
        )
        return spec, code

    def _steps(self, join: str | None, joins: dict[str, Code]) -> tuple[dict[str, Step], Code]:
        """Make steps and code of the statements of the job itself, or of one that it is joined with."""
        types = {p.name: str(dataclasses.replace(parse(p.type), bounds=())) for p in self._parameters}
        statements = {step: made for (of, step), made in self._statements.items() if of == join}
        steps: dict[str, Step] = {}
        for step, made in statements.items():
            bound = {name: types[name] for name in made.parameters}
            meaning = ["sql", MEANING, version_of("duckdb"), version_of("pyarrow"), made.table, made.meaning]
            digest = digest_of([*meaning, [[name, bound[name]] for name in sorted(bound)]])
            tables = tuple(name for name in made.tables if name not in joins)
            taken = tuple(name for name in made.tables if name in joins)
            steps[step] = Step(digest=digest, parameters=made.parameters, tables=tables, joins=taken, is_sql=True)
        of_joins = [[name, joins[name].digest] for name in sorted(joins)]
        digests = [
            [[step, steps[step].digest] for step in sorted(steps)],
            FORM.decode(),
            *([of_joins] if joins else []),
        ]
        return steps, Code(digest=digest_of(digests), modules={}, payload=pack(statements), joins=joins)

    def _wrong(self, line: int, fault: str, column: int = 1) -> None:
        self.faults.append((line, column, fault))

    # The header ------------------------------------------------------------------------------------------------------

    def _fences(self) -> tuple[int, int]:
        """Find the lines of the fences; positions in the list of lines."""
        first = next((at for at, line in enumerate(self._lines) if _FENCE.fullmatch(line)), None)
        if first is None:
            self._wrong(1, "a SQL job begins with a header of comments, from '-- /// job' to '-- ///'; there is none")
            return 0, -1
        for at in range(first + 1, len(self._lines)):
            if _FENCE_END.fullmatch(self._lines[at]):
                return first, at
            if not self._lines[at].startswith("--"):
                break
        self._wrong(first + 1, "the header must consist of comments and end with '-- ///'")
        return first, first

    def _doc(self) -> str:
        """First paragraph of the comments above the header, on one line."""
        above = "\n".join(line.removeprefix("--").strip() for line in self._lines[: self._first])
        return " ".join(above.strip().split("\n\n", 1)[0].split())

    def _checked_header(self) -> dict[str, Any]:
        lines = [line.removeprefix("--").removeprefix(" ") for line in self._lines[self._first + 1 : self._last]]
        try:
            given = tomllib.loads("\n".join(lines))
        except tomllib.TOMLDecodeError as error:
            at = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
            line, column = (int(at[1]), int(at[2])) if at else (len(lines), len(lines[-1]) + 1 if lines else 1)
            self._wrong(self._first + 1 + line, f"the header is no TOML: {str(error).split(' (at')[0]}", column + 3)
            return {}
        header: dict[str, Any] = {}
        for key, value in given.items():
            if key not in _HEADER:
                near = difflib.get_close_matches(key, _HEADER, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                self._wrong(self._line_of(key), f"{key!r} is no key of a header ({', '.join(_HEADER)}){hint}")
                continue
            try:
                header[key] = msgspec.convert(value, _HEADER[key])
            except msgspec.ValidationError as error:
                self._wrong(self._line_of(key), f"{key}: {error}")
        if "history" not in given and self._last > self._first:
            self._wrong(
                self._first + 1, "the header must name the history that is cut into slices; write history = ..."
            )
        return header

    def _line_of(self, key: str) -> int:
        """Find where the header says something of a key."""
        said = re.compile(rf"(?<![\w-])\"?{re.escape(key)}\"?\s*[.=\]]")
        found = (at for at in range(self._first, self._last) if said.search(self._lines[at]))
        return next(found, self._first) + 1

    def _checked_parameters(self) -> Iterator[Parameter]:
        for name, given in self._header.get("parameters", {}).items():
            try:
                yield _parameter(name, given)
            except ValueError as error:
                self._wrong(self._line_of(name), f"the parameter {name!r} {error}")

    def _whole(self) -> None:
        """Check what only the header and the statements together show."""
        if (None, "combine") in self._statements and "combine" in self._header:
            self._wrong(self._line_of("combine"), "the job has both combine = 'concat' and a statement; leave one out")
        named = {name for made in self._statements.values() for name in made.parameters}
        read = {(of, name) for (of, _), made in self._statements.items() for name in made.tables}
        tables: list[tuple[str | None, str]] = [(None, name) for name in (*self._tables, *self._joins)]
        tables += [(of, name) for of, join in self._joins.items() for name in join.tables]
        unnamed = [("parameter", p.name) for p in self._parameters if p.name not in named]
        unnamed += [("table", name) for of, name in tables if (of, name) not in read]
        for what, name in unnamed:
            self._wrong(self._line_of(name), f"the {what} {name!r} is named by no statement")
        by = keys_of(self._header)
        if len(set(by)) < len(by):
            self._wrong(self._line_of("by"), "by must name different columns")
        for name, join in self._joins.items():
            if len(keys_of({"by": join.by})) != len(by):
                self._wrong(
                    self._line_of(name),
                    f"what is joined is split by as many columns as the job: {join.by!r} and {by!r} are not",
                )
            if (name, "combine") in self._statements and join.combine:
                self._wrong(self._line_of(name), f"{name} has both combine = 'concat' and a statement; leave one out")

    # The statements --------------------------------------------------------------------------------------------------

    def _checked_statements(self) -> Iterator[tuple[tuple[str | None, StepName], Statement]]:
        for table in (self._table, *(join.table or join.history for join in self._joins.values())):
            if not _IDENTIFIER.fullmatch(table) and self._history:
                self._wrong(self._line_of("history"), f"{table!r} is no name for a table; write table = ...")
        taken = [self._table, *_WORKS_ON.values()]
        for name in (*self._tables, *self._joins):
            if name in taken:
                self._wrong(
                    self._line_of(name), f"{name!r} is what a step works on, or is there twice; take another name"
                )
            taken.append(name)
        for of, step, text in self._sections():
            join = None if of is None else self._joins[of]
            table = self._table if join is None else join.table or join.history
            tables = list(self._tables if join is None else join.tables)
            faults: list[Misplaced] = []
            made = read_statement(
                text,
                _WORKS_ON.get(step, table),
                tables=[*tables, *self._joins] if (of, step) == (None, "finish") else tables,
                parameters=list(self._header.get("parameters", {})),
                faults=faults,
            )
            for one in faults:
                before = text.encode()[: one.offset].decode(errors="replace")
                self._wrong(before.count("\n") + 1, one.fault, len(before) - before.rfind("\n"))
            if made is not None:
                yield (of, step), made

    def _sections(self) -> Iterator[tuple[str | None, StepName, str]]:
        """Give each step's statement, of the job itself or of a join, with empty lines for all that stands before it, so that its places are the file's."""
        body = range(self._last + 1, len(self._lines))
        marks = [(at, match[1]) for at in body if (match := _SECTION.fullmatch(self._lines[at]))]
        if not marks and not self._joins:
            yield None, "slice", self._blank(self._last + 1, len(self._lines))
            return
        for at in range(self._last + 1, marks[0][0] if marks else len(self._lines)):
            if self._lines[at].strip() and not self._lines[at].startswith("--"):
                self._wrong(at + 1, "what stands before the first '-- name:' belongs to no step")
        seen: set[str] = set()
        bounds = [*(at for at, _ in marks), len(self._lines)]
        own = ("slice", *_WORKS_ON)
        known = {step: (None, step) for step in own} | {
            f"{name}.{step}": (name, step) for name in self._joins for step in own
        }
        for (at, step), end in zip(marks, bounds[1:], strict=True):
            if step not in known:
                self._wrong(at + 1, f"{step!r} is no step of a SQL job; there are {', '.join(known)}")
            elif step in seen:
                self._wrong(at + 1, f"there are two statements for {step}")
            else:
                seen.add(step)
                of, name = known[step]
                yield of, typing.cast("StepName", name), self._blank(at + 1, end)
        for step in (step for step, (_, name) in known.items() if name == "slice" and step not in seen):
            self._wrong((marks[0][0] if marks else self._last) + 1, f"there is no statement for {step}")

    def _blank(self, first: int, last: int) -> str:
        """Give some lines with as many empty ones before them as there are lines before them."""
        return "\n" * first + "\n".join(self._lines[first:last])


def _parameter(name: str, given: object) -> Parameter:
    """Make a parameter of what the header says of it.

    Raises
    ------
    ValueError
        Worded to follow the parameter's name.
    """
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError("must be letters, digits and _")
    if name in NAMED_OPTIONS:
        raise ValueError("is an option of every run; rename it")
    try:
        said = msgspec.convert(given if isinstance(given, Mapping) else {"default": given}, _Declared)
    except msgspec.ValidationError as error:
        raise ValueError(f"is declared by type, default and doc: {error}") from error
    if said.type is None and said.default is msgspec.UNSET:
        raise ValueError("has neither a type nor a default to tell it")
    kind = parse(said.type) if said.type is not None else describe(type(said.default))
    # TOML has no null: what may be null is null unless it says otherwise.
    required = said.default is msgspec.UNSET and not kind.optional
    made = Parameter(name=name, type=str(kind), required=required, doc=said.doc)
    if said.default is msgspec.UNSET:
        return made
    try:
        default = validate([made], {name: said.default})[name]
    except ParameterError as error:
        faults = typing.cast("list[dict[str, str]]", error.details["faults"])
        raise ValueError(f"has a default that {faults[0]['fault']}") from error
    return msgspec.structs.replace(made, default=default)
