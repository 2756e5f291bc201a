"""A small history of numbered slices, and jobs over it run by any executor: what the suites of executors and of execution share."""

from __future__ import annotations

import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from hindscan import files
from hindscan.history.parquet import ParquetHistory
from hindscan.history.snapshot import Reader, Snapshot, Window
from hindscan.jobs.code import bundle
from hindscan.jobs.declare import Job
from hindscan.jobs.job import Code, JobSpec
from hindscan.jobs.registry import load_file
from hindscan.plans.make import make_plan
from hindscan.plans.plan import Plan
from hindscan.progress import Fact
from hindscan.runs.partials import Partials
from hindscan.tasks.execution import Executed, assignment_of, execute
from hindscan.tasks.executor import Executor, Finished, InlineExecutor, Lost, Outcome, Work
from hindscan.tasks.task import Receipt, Task, pack

ROWS = 10


def write_numbers(folder: Path, slices: int) -> None:
    """Write a history whose slice i has ten rows with ``n = i`` and values that add up differently in every order."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(slices * ROWS)
    table = pa.table(
        {
            "n": pa.array([i // ROWS for i in numbers], pa.int64()),
            "i": pa.array(numbers, pa.int64()),
            "x": pa.array([(-1) ** i * 10.0 ** (i % 17) / 3 for i in numbers]),
        }
    )
    pq.write_table(table, folder / "numbers.parquet", row_group_size=ROWS)


def make_site(root: Path, slices: int) -> Site:
    """Make a project with the history, the jobs, and a folder for marks."""
    write_numbers(root / "numbers", slices)
    (root / "marks").mkdir()
    (root / "jobs").mkdir()
    shutil.copy(Path(__file__).with_name("numbered_jobs.py"), root / "jobs")
    return Site(root=root)


@dataclass(frozen=True, kw_only=True)
class Site:
    """A project's folder with the history and the partials of its runs."""

    root: Path

    @property
    def partials(self) -> Partials:
        return Partials(self.root / ".hindscan")

    def history(self, name: str) -> ParquetHistory:
        """Give the history of all files in the folder of that name."""
        folder = self.root / name
        return ParquetHistory(name=name, location=str(folder), place=files.place(folder))

    def readers(self, plan: Plan) -> dict[str, Reader]:
        pins = plan.snapshot.pins
        return {table: self.history(name or "").reader(pins[table]) for table, name in plan.job.histories.items()}

    def packed(self, job: Job | str) -> tuple[JobSpec, Code]:
        """Give a job of the project's file, or one that a script has declared."""
        if isinstance(job, str):
            found = load_file(self.root, self.root / "jobs" / "numbered_jobs.py")
            job = next(declared for declared in found if declared.name == job)
        return bundle(job, self.root)

    def plan(
        self,
        job: Job | str,
        *,
        fresh: bool = False,
        seed: int | None = None,
        draws: int | None = None,
        slice_rows: int = ROWS,
        anew: Sequence[int] = (),
        **parameters: object,
    ) -> Plan:
        spec, _ = self.packed(job)
        defaults = {p.name: p.default for p in spec.parameters}
        histories = {table: self.history(name or "") for table, name in spec.histories.items()}
        pins = {table: history.pin(Window()) for table, history in histories.items()}
        return make_plan(
            spec,
            defaults | parameters,
            Snapshot(pins=pins, window=Window(), pinned_at=0),
            identities={table: histories[table].reader(pin).identity() for table, pin in pins.items()},
            slice_rows=dict.fromkeys(pins, slice_rows),
            existing=self.partials.has,
            fresh=fresh,
            seed=seed,
            draws=draws,
            anew=anew,
        )

    def run(
        self,
        executor: Executor,
        job: Job | str,
        *,
        facts: list[Fact] | None = None,
        stop: threading.Event | None = None,
        slices_per_task: int | None = None,
        plan: Plan | None = None,
        fresh: bool = False,
        allow_failed: float = 0,
        **parameters: object,
    ) -> Executed:
        plan = self.plan(job, fresh=fresh, **parameters) if plan is None else plan
        return execute(
            plan,
            run="run",
            code=self.packed(job)[1],
            readers=self.readers(plan),
            partials=self.partials,
            executor=executor,
            observe=(facts if facts is not None else []).append,
            stop=stop or threading.Event(),
            slices_per_task=slices_per_task,
            allow_failed=allow_failed,
        )

    def works(self, job: Job | str, **parameters: object) -> list[Work]:
        """Give one task for each slice, named after it."""
        plan = self.plan(job, **parameters)
        stage = plan.stages[0]
        assignment = pack(
            assignment_of(plan, stage, "run", self.packed(job)[1], self.readers(plan), {}, self.partials, None)
        )
        return [
            Work(
                id=str(s.position),
                payload=pickle.dumps(
                    Task(id=str(s.position), kind="slices", assignment=assignment, slices=(s,), keys=(key,))
                ),
            )
            for s, key in zip(stage.slices, stage.keys, strict=True)
        ]


def receipts(outcomes: Iterator[Outcome]) -> dict[str, Receipt | Lost]:
    """Give what came of each task, in the order it came in."""
    return {o.id: msgspec.msgpack.decode(o.receipt, type=Receipt) if isinstance(o, Finished) else o for o in outcomes}


def until(true: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Wait until something is true; tell whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def alive(pid: int) -> bool:
    """Tell whether a process runs (a zombie has ended)."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def pids(folder: Path) -> list[int]:
    """Give the processes that left a file ``PID`` there."""
    return [int(file.name) for file in folder.iterdir()]


class Unreliable:
    """An executor that loses and repeats as real ones may: for schedules no real one gives on demand."""

    workers = 3

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._inline = InlineExecutor()

    def __enter__(self):
        return self

    def __exit__(self, *fault: object) -> None:
        return None

    def run(self, tasks: Iterator[Work], stop: threading.Event, *, alone: bool = False) -> Iterator[Outcome]:
        live: list[Work] = []
        tasks = iter(tasks)
        while True:
            live += [task for _, task in zip(range(4 - len(live)), tasks, strict=False)]
            if not live:
                return
            task = live.pop(self._random.integers(len(live)))
            if not alone and self._random.random() < 0.3:
                if self._random.random() < 0.5:
                    list(self._inline.run(iter([task]), stop))  # it was done, and nobody heard of it
                yield Lost(id=task.id, reason="it was lost")
                continue
            (outcome,) = self._inline.run(iter([task]), stop)
            assert isinstance(outcome, Finished)
            yield outcome


class Shuffled:
    """The reference, with outcomes in an order that hypothesis chooses."""

    workers = 3

    def __init__(self, draw: st.DataObject) -> None:
        self._draw = draw
        self._inline = InlineExecutor()

    def __enter__(self):
        return self

    def __exit__(self, *fault: object) -> None:
        return None

    def run(self, tasks: Iterator[Work], stop: threading.Event, *, alone: bool = False) -> Iterator[Outcome]:
        live: list[Work] = []
        while True:
            live += [task for _, task in zip(range(4 - len(live)), tasks, strict=False)]
            if not live:
                return
            (outcome,) = self._inline.run(iter([live.pop(self._draw.draw(st.integers(0, len(live) - 1)))]), stop)
            assert isinstance(outcome, Finished)
            yield outcome
