"""What a plan costs, whether that is allowed, and how its slices are handed out.

Keeps promise 10 (bounded). A plan over a declared limit is refused before it starts, with its figures and all limits it breaks at once. Estimates err upwards:
a footer may claim far fewer bytes than its rows take in memory, so memory is the greater of what the footer says and rows times the width of the schema.

Grouping slices into tasks is scheduling, decided anew at each run from estimates, and never shows in a result (promise 8).

::

    Plan -> cost -> refuse_over -> group -> tasks
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import pyarrow as pa

from hindscan.errors import PlanRefused
from hindscan.history.snapshot import DrawPin, DrawSlice, KafkaPin, ParquetPin, Slice
from hindscan.plans.cut import cut_whole
from hindscan.plans.plan import Plan, Stage

__all__ = ["Cost", "Limits", "cost_of", "group", "refuse_over"]

#: Tasks for each worker: enough that an unlucky one does not leave the others idle for long, few enough that small runs stay small.
TASKS_PER_WORKER: Final = 4
#: A task takes no more than this many bytes (some 5 s of work), however few workers there are: what a dying worker loses stays small.
TASK_BYTES_MOST: Final = 512 * 2**20
#: Less than this is not worth a task of its own (some 20 ms of work).
TASK_BYTES_LEAST: Final = 4 * 2**20
#: Slices in one task at most: one receipt, one retry.
TASK_SLICES_MOST: Final = 256
#: What a draw weighs against bytes read: about ten nanoseconds each.
_DRAW_BYTES: Final = 16
#: A step's working copy, its partial and what the engine needs, in units of the slice itself.
_WORKING_COPIES: Final = 3
#: Guess for a value whose width the schema does not tell (text, lists).
_UNKNOWN_WIDTH: Final = 32


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan may cost. None: no limit. The job's own `max_bytes` and `max_slices` come first."""

    #: Uncompressed bytes still to be read.
    max_bytes: int | None = None
    #: Slices, reused ones included.
    max_slices: int | None = 100_000
    #: Bytes of all broadcast tables together: each worker holds them.
    max_table_bytes: int | None = 2 * 2**30
    #: Memory of one worker.
    worker_bytes: int | None = None


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan takes. Bytes are uncompressed; for a topic rows and bytes are estimates from above."""

    slices: int
    tasks: int
    rows: int
    bytes: int
    #: Slices whose partials exist.
    reused: int
    #: Rows and bytes of the slices that are not reused.
    rows_to_read: int
    bytes_to_read: int
    #: Bytes of the broadcast tables, which are read once by each worker.
    table_bytes: int
    #: What one worker needs at most.
    worker_bytes: int


def cost_of(plan: Plan, *, workers: int, slices_per_task: int | None = None) -> Cost:
    """Reckon a plan.

    Parameters
    ----------
    plan : Plan
        Whole.
    workers : int
        For the number of tasks.
    slices_per_task : int, optional
        Fixed grouping, as `group` takes it.
    """
    to_do = [(stage, [s for s in stage.slices if s.position not in stage.reused]) for stage in plan.stages]
    table_bytes = sum(_bytes_in_memory(plan, name, cut_whole(plan.snapshot.pins[name])) for name in plan.job.tables)
    largest = max((_slice_memory(plan, stage, s) for stage, slices in to_do for s in slices), default=0)
    return Cost(
        slices=plan.slice_count,
        tasks=sum(len(group(slices, workers=workers, slices_per_task=slices_per_task)) for _, slices in to_do),
        rows=plan.rows,
        bytes=plan.bytes,
        reused=plan.reused_count,
        rows_to_read=sum(s.rows for _, slices in to_do for s in slices),
        bytes_to_read=sum(s.bytes for _, slices in to_do for s in slices),
        table_bytes=table_bytes,
        worker_bytes=largest * _WORKING_COPIES + table_bytes,
    )


def refuse_over(plan: Plan, cost: Cost, limits: Limits) -> None:
    """Refuse a plan that costs more than is allowed.

    Raises
    ------
    hindscan.errors.PlanRefused
        With every limit that is broken, its figure, and what would help.
    """
    max_bytes = plan.job.max_bytes if plan.job.max_bytes is not None else limits.max_bytes
    max_slices = plan.job.max_slices if plan.job.max_slices is not None else limits.max_slices
    # For each limit: its name, what is found, what is allowed, and the way out.
    rules = [
        ("max_bytes", cost.bytes_to_read, max_bytes, "read less (since, until, as_of)"),
        ("max_slices", cost.slices, max_slices, "raise slice_rows of the history"),
        ("max_table_bytes", cost.table_bytes, limits.max_table_bytes, "broadcast a smaller table"),
        ("memory of a worker", cost.worker_bytes, limits.worker_bytes, "lower slice_rows of the history"),
    ]
    broken = [(name, found, most, way) for name, found, most, way in rules if most is not None and found > most]
    if not broken:
        return
    faults = "; ".join(
        f"{name} is {most:,}, and the plan needs {found:,} ({way}, or raise the limit)"
        for name, found, most, way in broken
    )
    raise PlanRefused(
        f"Planning job {plan.job.name}: a plan over a limit is not started. Over: {faults}. The plan has {cost.slices:,} slices "
        f"({cost.reused:,} reused), {cost.rows_to_read:,} rows and {cost.bytes_to_read:,} bytes still to read.",
        job=plan.job.name,
        cost=msgspec.to_builtins(cost),
        over=[name for name, *_ in broken],
    )


def group(slices: Sequence[Slice], *, workers: int, slices_per_task: int | None = None) -> list[tuple[Slice, ...]]:
    """Group neighbouring slices into tasks.

    Parameters
    ----------
    slices : sequence of Slice
        What is still to be computed, in order.
    workers : int
        About `TASKS_PER_WORKER` tasks are made for each, of about equal weight; a task weighs between `TASK_BYTES_LEAST` and `TASK_BYTES_MOST` unless a
        single slice is heavier or every worker would not get one.
    slices_per_task : int, optional
        Exactly so many instead, for tests.
    """
    if slices_per_task is not None:
        return [tuple(slices[i : i + slices_per_task]) for i in range(0, len(slices), slices_per_task)]
    weights = [_weight(s) for s in slices]
    total = sum(weights)
    least = min(TASK_BYTES_LEAST, total // max(1, workers))
    aim = min(TASK_BYTES_MOST, max(least, total // max(1, workers * TASKS_PER_WORKER)))
    tasks: list[tuple[Slice, ...]] = []
    open_task: list[Slice] = []
    weight = 0
    for s, w in zip(slices, weights, strict=True):
        # A slice joins only while the task stays nearer to the aim with it than without.
        if open_task and (weight + w / 2 > aim or len(open_task) >= TASK_SLICES_MOST):
            tasks.append(tuple(open_task))
            open_task, weight = [], 0
        open_task.append(s)
        weight += w
    if open_task:
        tasks.append(tuple(open_task))
    return tasks


def _weight(s: Slice) -> int:
    return max(1, s.rows * _DRAW_BYTES if isinstance(s, DrawSlice) else s.bytes)


def _slice_memory(plan: Plan, stage: Stage, s: Slice) -> int:
    if stage.table is None:
        return plan.job.block_size * 8
    return _bytes_in_memory(plan, stage.table, (s,))


def _bytes_in_memory(plan: Plan, table: str, slices: Iterable[Slice]) -> int:
    pin = plan.snapshot.pins[table]
    width = 0 if isinstance(pin, DrawPin) else _row_width(pin)
    return sum(max(s.bytes, s.rows * width) for s in slices)


def _row_width(pin: ParquetPin | KafkaPin) -> int:
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(pin.schema)))
    return sum(_value_width(field.type) for field in schema)


def _value_width(kind: pa.DataType) -> int:
    try:
        return max(1, kind.bit_width // 8)
    except ValueError:  # no fixed width
        return _UNKNOWN_WIDTH
