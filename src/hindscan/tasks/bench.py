"""What a worker has before it for one assignment: the steps' functions, the open broadcast tables, the model.

Keeps promises 2, 7 and 8. A step gets exactly what it names: its table, the broadcast tables and the parameters of its signature; so nothing can reach a partial
that its key does not cover. What it returns becomes one Arrow table. A partial is stored only after every table it was made from has been proven.

::

    Assignment -> Bench.slice / fold / close / empty / whole / combine / finish -> partial stored -> Done
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from typing import Any

import msgspec
import pyarrow as pa

from hindscan.data import Data, Proof, Source, TableSource
from hindscan.errors import BadPartial, CorruptPartial
from hindscan.history.snapshot import DrawSlice, Slice
from hindscan.jobs import estimates, statistics, totals
from hindscan.jobs.code import load
from hindscan.jobs.job import JobSpec, StepName
from hindscan.jobs.parameters import python_values
from hindscan.jobs.returned import to_model, to_model_table, to_table
from hindscan.jobs.simulation import simulate
from hindscan.jobs.state import check_next, from_state, to_state
from hindscan.plans.plan import Node
from hindscan.runs.partials import PROOFS, Partials
from hindscan.runs.parts import check_joinable, sort_by_key, split
from hindscan.tasks.broadcast import BroadcastTable
from hindscan.tasks.task import Assignment, Broadcast, Done
from hindscan.tasks.whole import Whole, computed

__all__ = ["Bench", "finished", "found"]

#: Broadcast tables this process has open, by their digests: the stages of a run, and its next run, share them.
_tables: dict[str, BroadcastTable] = {}
_lock = threading.Lock()


class Bench:
    """Makes the partials of one assignment.

    Parameters
    ----------
    assignment : Assignment
        Its code is loaded at once.

    Raises
    ------
    hindscan.errors.CodeLoadError
        The code cannot be loaded here.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._functions = load(assignment.code)
        keep_tables({table.digest for table in assignment.tables.values()})
        self._lock = threading.Lock()
        self._models: list[Any] = []
        self._schemas: dict[str, pa.Schema] = {}

    @property
    def job(self) -> str:
        """Name of the job."""
        return self._assignment.job.name

    def slice(self, piece: Slice, key: str) -> Done:
        """Compute one slice."""
        if isinstance(piece, DrawSlice):
            return self._store(key, piece.position, self._draw(piece))
        return self._scan((piece,), piece.position, key)

    def stored(self, piece: Slice, key: str) -> Done | None:
        """Give a slice whose partial is there, without computing it."""
        return found(self._assignment.partials, piece.position, key)

    def whole(self, pieces: tuple[Slice, ...], key: str) -> Done:
        """Compute a job over its history as a whole."""
        assignment = self._assignment
        assert assignment.reader is not None
        assert assignment.job.table is not None
        whole = Whole(assignment.job.table, assignment.reader, pieces)
        named = self._named("slice", self._sources("slice"))
        made = to_table(computed(lambda: self._functions["slice"](whole, **named)), "slice")
        return self._store(key, 0, made.replace_schema_metadata({PROOFS: msgspec.json.encode(whole.proofs())}))

    def empty(self, key: str) -> Done:
        """Compute the step over no rows: its table then has the columns it always has."""
        if self._assignment.job.order is not None:
            return self.fold((), 0, key, self.state(None), None)[0]
        return self._scan((), 0, key)

    def state(self, key: str | None) -> pa.Table:
        """Give the state that a checkpoint holds; without a key the one that a partition begins with."""
        if key is None:
            return to_state(self._functions["start"](**self._named("start", self._sources("start"))), "start")
        return self._read_said(key).combine_chunks()

    def fold(
        self, pieces: tuple[Slice, ...], position: int, key: str, state: pa.Table, after: str | None
    ) -> tuple[Done, pa.Table]:
        """Compute one slice of an ordered job: its partial is stored, and before that the state it leaves, under `after`."""
        assignment = self._assignment
        assert assignment.reader is not None
        with closing(assignment.reader.open(pieces)) as source:
            value = self._call_with_state("slice", state, source)
            if not isinstance(value, tuple) or len(value) != 2:
                raise BadPartial(
                    f"Taking what the step 'slice' returned: an ordered job returns a pair, its partial and the state for the next slice; it gave a "
                    f"{type(value).__name__}. Return both.",
                    step="slice",
                )
            made = to_table(value[0], "slice")
            left = to_state(value[1].arrow() if isinstance(value[1], Data) else value[1], "slice")
            check_next(state, left)
            proofs = source.proofs()
        if after is not None:
            self._store(after, position, left)
        return self._store_leaf(key, position, made, proofs[0] if proofs else None), left

    def close(self, state: str, key: str) -> Done:
        """Make the closing partial of a partition out of the state it ends with."""
        return self._store_leaf(key, 0, to_table(self._call_with_state("close", self.state(state)), "close"))

    def combine(self, node: Node) -> Done:
        """Combine the partials below a node, in their order."""
        partials = self._assignment.partials
        part = node.part
        given = [partials.read(key) if part is None else partials.read_part(key, part) for key in node.children]
        match self._assignment.how if len(given) > 1 else "concat":
            case "concat":
                made = one_table(given, node.children)
            case "statistics":
                made = (totals if self._assignment.job.statistics else statistics).merge(given)
            case _:
                table = one_table(given, node.children)
                made = self._call(self._assignment.combine, table)
                check_same(table.schema, made.schema, step=self._assignment.combine)
        return self._store(node.key, node.index, made)

    def finish(self, combined: str, key: str, part: int) -> Done:
        """Make the finished table out of the combined one, and of what this part is joined with."""
        partials = self._assignment.partials
        table = partials.read(combined)
        joined = {name: TableSource(partials.read(keys[part])) for name, keys in self._assignment.joined.items()}
        self._check_joinable(table.schema, {name: source.schema for name, source in joined.items()})
        if self._assignment.how == "statistics":
            # What a finish of the job's own gets, too: the form in which statistics are merged is nobody else's.
            table = finished(self._assignment.job, table)
        step = self._assignment.finish
        made = self._call(step, table, joined) if step in self._functions else table
        by = self._assignment.job.by
        return self._store(key, 0, sort_by_key(made, by) if by else made)

    def _scan(self, pieces: tuple[Slice, ...], position: int, key: str) -> Done:
        assignment = self._assignment
        assert assignment.reader is not None
        assert assignment.job.table is not None
        with closing(assignment.reader.open(pieces)) as source:
            made = self._apply(assignment.each, assignment.job.table, source)
            # Before the partial is visible: what was read must be what was pinned, and all of it.
            proofs = source.proofs()
        return self._store_leaf(key, position, made, proofs[0] if proofs else None)

    def _draw(self, piece: DrawSlice) -> pa.Table:
        assignment = self._assignment
        assert assignment.draws is not None
        named = self._named("slice", self._sources("slice"))
        leading = () if assignment.model is None else (self._model(assignment.model),)
        return simulate(
            lambda block: self._functions["slice"](block, *leading, **named),
            piece,
            assignment.draws,
            built_in=assignment.how == "statistics",
            name=assignment.job.name,
            wanted=assignment.job.statistics,
            model=leading[0] if leading else None,
            parameters={name: named[name] for name in assignment.job.steps["slice"].parameters},
        )

    def _model(self, key: str) -> Any:
        """Give the model as the function gets it; read once."""
        with self._lock:
            if not self._models:
                self._models.append(to_model(self._read_said(key)))
            return self._models[0]

    def _read_said(self, key: str) -> pa.Table:
        """Read a partial with what its table said of itself."""
        table = self._assignment.partials.read(key)
        return table.replace_schema_metadata(dict(self._assignment.partials.read_meta(key).metadata) or None)

    def _call_with_state(self, step: StepName, state: pa.Table, *rows: Source) -> Any:
        """Call a step with its slice, if it has one, and the state: a table under its parameter's name, or the dict it was."""
        names = list(inspect.signature(self._functions[step]).parameters)
        given = from_state(state)
        leading = [*rows, TableSource(given)] if isinstance(given, pa.Table) else list(rows)
        sources = self._sources(step) | dict(zip(names, leading, strict=False))
        tables = [Data(name, sources) for name, _ in zip(names, leading, strict=False)]
        arguments = tables if isinstance(given, pa.Table) else [*tables, given]
        return self._functions[step](*arguments, **self._named(step, sources))

    def _call(self, step: StepName, table: pa.Table, joined: Mapping[str, Source] | None = None) -> pa.Table:
        """Call a step over a table in memory, which has the name of the step's first parameter, and over what is joined with it."""
        name = next(iter(inspect.signature(self._functions[step]).parameters))
        return self._apply(step, name, TableSource(table), joined or {})

    def _apply(self, step: StepName, name: str, source: Source, joined: Mapping[str, Source] | None = None) -> pa.Table:
        sources = self._sources(step) | dict(joined or {}) | {name: source}
        value = self._functions[step](Data(name, sources), **self._named(step, sources))
        return to_model_table(value, step) if self._makes_model(step) else to_table(value, step)

    def _sources(self, step: StepName) -> dict[str, Source]:
        """Open the broadcast tables a step names."""
        assigned = self._assignment
        return {
            table: open_table(assigned.tables[table], assigned.partials) for table in assigned.job.steps[step].tables
        }

    def _named(self, step: StepName, sources: Mapping[str, Source]) -> dict[str, Any]:
        """Give what a step names beside what it works on: broadcast and joined tables, and parameters as the Python values it asks for."""
        job = self._assignment.job
        tables = {table: Data(table, sources) for table in (*job.steps[step].tables, *job.steps[step].joins)}
        parameters = [p for p in job.parameters if p.name in job.steps[step].parameters]
        return {
            **tables,
            **python_values(
                parameters, {p.name: self._assignment.parameters[p.name] for p in parameters}, self._functions[step]
            ),
        }

    def _makes_model(self, step: StepName) -> bool:
        """Tell whether what a step returns is a simulation's model: a dict then keeps its shapes, and is not rows."""
        if step == "calibrate":
            return self._assignment.how == "none" and "calibrate_finish" not in self._functions
        return step == "calibrate_finish"

    def _store_leaf(self, key: str, position: int, table: pa.Table, proof: Proof | None = None) -> Done:
        """Store what is combined: split, where the job is split by key."""
        job = self._assignment.job
        if not job.by:
            return self._store(key, position, table, proof)
        if job.joins:
            # With the first slice, not when all are done.
            self._check_joinable(table.schema, self._joined_schemas())
        parts = split(table, job.by, job.parts)
        return _done(position, key, table, self._assignment.partials.write_parts(key, parts, proof), proof)

    def _joined_schemas(self) -> Mapping[str, pa.Schema]:
        """Give the columns of what the job is joined with; read once."""
        with self._lock:
            if not self._schemas:
                joined = self._assignment.joined.items()
                self._schemas = {name: self._assignment.partials.read_schema(keys[0]) for name, keys in joined}
            return self._schemas

    def _check_joinable(self, schema: pa.Schema, joined: Mapping[str, pa.Schema]) -> None:
        job = self._assignment.job
        for name, other in joined.items():
            check_joinable(schema, job.by, other, job.joins[name].by, name=name)

    def _store(self, key: str, position: int, table: pa.Table, proof: Proof | None = None) -> Done:
        # Metadata is no content, so what a model's table says of itself is kept beside it.
        said = {name.decode(): text.decode() for name, text in (table.schema.metadata or {}).items()}
        return _done(position, key, table, self._assignment.partials.write(key, table, proof, metadata=said), proof)


def found(partials: Partials, position: int, key: str) -> Done | None:
    """Give what is stored under a key as done; None where there is nothing, or what it says of itself is damaged. Its content is verified by whoever reads it."""
    if not partials.has(key):
        return None
    try:
        meta, size = partials.read_meta(key), partials.path(key).stat().st_size
    except (CorruptPartial, FileNotFoundError):
        return None
    proof = None if meta.proof is None else msgspec.structs.replace(meta.proof, slice=position)
    return Done(
        position=position, key=key, rows=meta.rows, bytes=size, digest=meta.digest, seconds=0.0, cpu_seconds=0.0, proof=proof
    )  # fmt: skip


def finished(job: JobSpec, table: pa.Table) -> pa.Table:
    """Make estimates out of the merged statistics of a simulation."""
    return estimates.finish(job.statistics, table) if job.statistics else statistics.finish(table)


def _done(position: int, key: str, table: pa.Table, stored: tuple[str, int], proof: Proof | None) -> Done:
    """Say what was stored; how long it took is measured around it."""
    digest, size = stored
    return Done(
        position=position,
        key=key,
        rows=table.num_rows,
        bytes=size,
        digest=digest,
        seconds=0.0,
        cpu_seconds=0.0,
        proof=proof,
    )


def open_table(table: Broadcast, partials: Partials) -> BroadcastTable:
    """Give a broadcast table, opened once in this process; its proof is stored when it has been read."""

    def keep(proof: Proof) -> None:
        if table.proof_key is not None and not partials.has(table.proof_key):
            partials.write(table.proof_key, pa.table({}), proof)

    with _lock:
        if table.digest not in _tables:
            _tables[table.digest] = BroadcastTable(table.reader, table.slices, keep)
        return _tables[table.digest]


def keep_tables(digests: Collection[str]) -> None:
    """Let go of broadcast tables that the work at hand does not name: what a plan may hold is bounded, what all plans have held is not."""
    with _lock:
        for digest in [digest for digest in _tables if digest not in digests]:
            del _tables[digest]


def one_table(tables: Sequence[pa.Table], keys: Sequence[str]) -> pa.Table:
    """Put partials one after another. A column that is all null in one takes the type it has in the others.

    Raises
    ------
    hindscan.errors.BadPartial
        Columns differ in name, order or type.
    """
    first = tables[0].schema
    fields = list(first)
    for table, key in zip(tables, keys, strict=True):
        check_same(first, table.schema, step="slice", key=key)
        fields = [old if not pa.types.is_null(old.type) else new for old, new in zip(fields, table.schema, strict=True)]
    schema = pa.schema([pa.field(field.name, field.type) for field in fields])
    return pa.concat_tables([table.cast(schema) for table in tables])


def check_same(wanted: pa.Schema, found: pa.Schema, *, step: str, key: str = "") -> None:
    """Refuse columns that are not those of the other partials.

    Raises
    ------
    hindscan.errors.BadPartial
        Naming every column that differs.
    """
    faults = []
    if wanted.names != found.names:
        faults.append(f"columns are {found.names}, and must be {wanted.names}, in this order")
    else:
        faults = [
            f"column {one.name!r} is {other.type}, and must be {one.type}"
            for one, other in zip(wanted, found, strict=True)
            if one.type != other.type and not pa.types.is_null(one.type) and not pa.types.is_null(other.type)
        ]
    if faults:
        what = f"partial {key}" if key else f"what {step} returned"
        raise BadPartial(
            f"Combining partials: all have the same columns, and combine gives them back as it got them; of {what} {'; '.join(faults)}. "
            "Cast in the step (in SQL, sum of integers widens: write sum(x)::BIGINT), and give empty tables their types.",
            faults=faults,
        )
