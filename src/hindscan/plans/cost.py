"""What a plan costs, whether that is allowed, and how its slices are handed out.

Keeps promise 10 (bounded). A plan over a declared limit is refused before it starts, with its figures and all limits it breaks at once. Estimates err upwards:
a footer may claim far fewer bytes than its rows take in memory, so memory is the greater of what the footer says and rows times the width of the schema.

Grouping slices into tasks is scheduling, decided while a run goes on, from what slices of the job took before (`plans.pace`) or else from their
bytes, and never shows in a result (promise 8).

::

    Plan + paces -> cost -> refuse_over -> group, group_in_order -> tasks
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import pyarrow as pa

from hindscan.errors import PlanRefused
from hindscan.history.snapshot import DrawPin, KafkaPin, ParquetPin, Slice
from hindscan.plans.chains import runs_of
from hindscan.plans.cut import cut_whole
from hindscan.plans.pace import Pace, weight_of
from hindscan.plans.plan import Plan, Stage

__all__ = ["Cost", "Limits", "cost_of", "group", "group_in_order", "refuse_over"]

#: Tasks for each worker: enough that an unlucky one does not leave the others idle for long, few enough that small runs stay small.
TASKS_PER_WORKER: Final = 4
#: A task takes no more than this many bytes (some 5 s of work), however few workers there are: what a dying worker loses stays small.
TASK_BYTES_MOST: Final = 512 * 2**20
#: Less than this is not worth a task of its own (some 20 ms of work).
TASK_BYTES_LEAST: Final = 4 * 2**20
#: Slices in one task at most: one receipt, one retry.
TASK_SLICES_MOST: Final = 256
#: Where the pace is known: what a task takes, more than handing it out costs, and less than one would want to lose.
TASK_SECONDS_LEAST: Final = 0.5
TASK_SECONDS_MOST: Final = 5.0
#: The last tasks are smaller: half of what each worker has left, down to an eighth of the least, so that all are done at about the same time.
SHARE_OF_LEFT: Final = 2
LAST_TASKS: Final = 8
#: Slices in one task at most where the pace is known: half a second of the fastest.
TASK_SLICES_PACED: Final = 2048
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
    #: Seconds of one worker still to be worked, as earlier runs of the job tell; a job that has none is not held to it.
    max_seconds: float | None = None
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
    #: What one worker needs at most; the state of an ordered job is not known and not in it.
    worker_bytes: int
    #: Of an ordered job: partitions with something to compute, and the most slices and bytes that must be computed one after another. More
    #: workers than chains do not help, and no number of workers is done before the longest chain is.
    chains: int = 0
    longest_slices: int = 0
    longest_bytes: int = 0
    #: Seconds of one worker that the slices still to be computed take, by the pace of earlier runs; None where a step has none.
    seconds: float | None = None


def cost_of(
    plan: Plan, *, workers: int, slices_per_task: int | None = None, paces: Mapping[str, Pace] | None = None
) -> Cost:
    """Reckon a plan.

    Parameters
    ----------
    plan : Plan
        Whole.
    workers : int
        For the number of tasks.
    slices_per_task : int, optional
        Fixed grouping, as `group` takes it.
    paces : mapping, optional
        What slices of each step took in earlier runs. Default: nothing is known.
    """
    paces = paces or {}
    to_do = [(stage, [s for s in stage.slices if s.position not in stage.reused]) for stage in plan.stages]
    table_bytes = sum(_bytes_in_memory(plan, name, cut_whole(plan.snapshot.pins[name])) for name in plan.job.broadcast)
    chains = [
        [s for s in stage.slices[chain.first : chain.last] if s.position not in stage.reused]
        for stage in plan.stages
        for chain in stage.chains
    ]
    largest = max((_slice_memory(plan, stage, s) for stage, slices in to_do for s in slices), default=0)
    return Cost(
        slices=plan.slice_count,
        tasks=sum(
            _task_count(stage, slices, workers, slices_per_task, plan, paces.get(stage.step)) for stage, slices in to_do
        ),
        rows=plan.rows,
        bytes=plan.bytes,
        reused=plan.reused_count,
        rows_to_read=sum(s.rows for _, slices in to_do for s in slices),
        bytes_to_read=sum(s.bytes for _, slices in to_do for s in slices),
        table_bytes=table_bytes,
        worker_bytes=largest * _WORKING_COPIES + table_bytes,
        chains=sum(bool(chain) for chain in chains),
        longest_slices=max(map(len, chains), default=0),
        longest_bytes=max((sum(s.bytes for s in chain) for chain in chains), default=0),
        seconds=_seconds([(paces.get(stage.step), slices) for stage, slices in to_do if slices]),
    )


def _seconds(to_do: Sequence[tuple[Pace | None, Sequence[Slice]]]) -> float | None:
    if any(pace is None for pace, _ in to_do):
        return None
    return sum(pace.seconds(sum(map(weight_of, slices))) for pace, slices in to_do if pace is not None)


def _task_count(
    stage: Stage,
    slices: Sequence[Slice],
    workers: int,
    slices_per_task: int | None,
    plan: Plan,
    pace: Pace | None,
) -> int:
    if plan.job.whole:
        return min(1, len(slices))
    if not stage.chains:
        return sum(1 for _ in group(slices, workers=workers, slices_per_task=slices_per_task, pace=pace))
    return sum(map(len, group_in_order(stage, [s.position for s in slices], slices_per_task, fresh=plan.fresh)))


def refuse_over(plan: Plan, cost: Cost, limits: Limits) -> None:
    """Refuse a plan that costs more than is allowed.

    Raises
    ------
    hindscan.errors.PlanRefused
        With every limit that is broken, its figure, and what would help.
    """
    max_bytes = plan.job.max_bytes if plan.job.max_bytes is not None else limits.max_bytes
    max_slices = plan.job.max_slices if plan.job.max_slices is not None else limits.max_slices
    max_seconds = plan.job.max_seconds if plan.job.max_seconds is not None else limits.max_seconds
    # For each limit: its name, what is found, what is allowed, and the way out.
    rules: list[tuple[str, float, float | None, str]] = [
        ("max_bytes", cost.bytes_to_read, max_bytes, "read less (since, until, as_of)"),
        ("max_slices", cost.slices, max_slices, "raise slice_rows of the history"),
        ("max_seconds", math.ceil(cost.seconds or 0), max_seconds, "read less: since, until, as_of"),
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


def group(
    slices: Sequence[Slice], *, workers: int, slices_per_task: int | None = None, pace: Pace | None = None
) -> Iterator[tuple[Slice, ...]]:
    """Group neighbouring slices into tasks, one task at a time: each by the pace as it is known when it is asked for.

    Parameters
    ----------
    slices : sequence of Slice
        What is still to be computed, in order.
    workers : int
        About `TASKS_PER_WORKER` tasks are made for each, of about equal weight; a task takes between `TASK_SECONDS_LEAST` and `TASK_SECONDS_MOST`, or where
        the pace is not known weighs between `TASK_BYTES_LEAST` and `TASK_BYTES_MOST`, unless a single slice is heavier or every worker would not get one. The
        last ones are smaller.
    slices_per_task : int, optional
        Exactly so many instead, for tests.
    pace : Pace, optional
        What slices take; may learn while tasks are done.
    """
    if slices_per_task is not None:
        yield from (tuple(slices[i : i + slices_per_task]) for i in range(0, len(slices), slices_per_task))
        return
    total = left = sum(map(weight_of, slices))
    first = 0
    while first < len(slices):
        last = _end_of_task(slices, first, *_aim(total, left, workers, pace))
        yield tuple(slices[first:last])
        left -= sum(map(weight_of, slices[first:last]))
        first = last


def _aim(total: int, left: int, workers: int, pace: Pace | None) -> tuple[int, int]:
    """Give what the next task weighs, and the most slices it has."""
    least, most, count = TASK_BYTES_LEAST, TASK_BYTES_MOST, TASK_SLICES_MOST
    if pace is not None and pace.known:
        least, most, count = pace.weight(TASK_SECONDS_LEAST), pace.weight(TASK_SECONDS_MOST), TASK_SLICES_PACED
    workers = max(1, workers)
    even = min(most, max(min(least, total // workers), total // (workers * TASKS_PER_WORKER)))
    if workers > 1:
        even = min(even, max(least // LAST_TASKS, left // (workers * SHARE_OF_LEFT)))
    return max(1, even), count


def group_in_order(
    stage: Stage, positions: Sequence[int], slices_per_task: int | None = None, *, fresh: bool = False
) -> list[list[tuple[Slice, ...]]]:
    """Group the slices of an ordered job into lines of tasks: those of a line are done one after another, lines beside each other.

    Parameters
    ----------
    stage : Stage
        With chains.
    positions : sequence of int
        What is to be computed, ascending.
    slices_per_task : int, optional
        Exactly so many, for tests.
    fresh : bool
        Nothing that exists may be used, so what a lost task had stored cannot be told from what was there before: a task is one slice, and
        no more than that is lost with it.

    Returns
    -------
    list of list of tuple of Slice
        Tasks stay small: nothing is gained by larger ones, because only one of a line is at work at a time. `TASK_BYTES_LEAST` make one.
    """
    wanted = set(positions)
    lines: list[list[tuple[Slice, ...]]] = []
    for chain in stage.chains:
        for run in runs_of([position for position in range(chain.first, chain.last) if position in wanted]):
            slices = stage.slices[run[0] : run[-1] + 1]
            size = slices_per_task or (1 if fresh else None)
            lines.append(
                _grouped(slices, TASK_BYTES_LEAST)
                if size is None
                else list(group(slices, workers=1, slices_per_task=size))
            )
    return lines


def _grouped(slices: Sequence[Slice], aim: int) -> list[tuple[Slice, ...]]:
    """Put neighbours together until they weigh about the aim."""
    tasks: list[tuple[Slice, ...]] = []
    first = 0
    while first < len(slices):
        last = _end_of_task(slices, first, aim, TASK_SLICES_MOST)
        tasks.append(tuple(slices[first:last]))
        first = last
    return tasks


def _end_of_task(slices: Sequence[Slice], first: int, aim: int, most: int) -> int:
    """Give where a task that begins at a slice ends: a further one joins only while the task stays nearer to the aim with it than without."""
    weight = weight_of(slices[first])
    for last in range(first + 1, min(len(slices), first + most)):
        more = weight_of(slices[last])
        if weight + more / 2 > aim:
            return last
        weight += more
    return min(len(slices), first + most)


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
