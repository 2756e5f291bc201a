"""What the commands print: tables and documents on standard output, progress and errors on standard error.

On a terminal progress is a live bar (slices done, rows per second, remaining time); elsewhere it is a plain line now and then, so
that logs stay readable. Progress is one observer of the facts in `progress`; it decides nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import msgspec

from hindscan.errors import HindscanError, JobFailed, UsageError
from hindscan.progress import Fact, RunFinished, RunPlanned, SliceFailed, SliceFinished, StageFinished, TaskLost

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

__all__ = [
    "Progress",
    "human_bytes",
    "human_count",
    "print_arrow",
    "print_document",
    "print_error",
    "print_table",
    "writing_to",
]

#: Seconds between plain progress lines.
LINE_SECONDS = 2.0
#: Failed slices that are told of one by one: a fault of the job is mostly that of every slice.
SHOWN_FAILURES = 3


def print_document(document: object) -> None:
    """Print one JSON document."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def print_error(error: HindscanError, *, as_json: bool) -> None:
    """Print what went wrong; a failure in the user's code begins with the user's traceback."""
    if as_json:
        print_document({"error": type(error).__name__, "message": str(error), **_plain(error.details)})
        return
    traceback = error.details.get("traceback")
    if isinstance(error, JobFailed) and isinstance(traceback, str) and traceback and traceback not in str(error):
        sys.stderr.write(traceback.rstrip() + "\n\n")
    sys.stderr.write(f"{type(error).__name__}: {error}\n")


def _plain(details: Mapping[str, object]) -> dict[str, Any]:
    known: dict[str, Any] = msgspec.to_builtins(dict(details), enc_hook=str)
    return known


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, to: IO[str] | None = None) -> None:
    """Print rows under headings: numbers to the right, times as they are read, nothing wrapped where it is not a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    held = [tuple(row) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        numeric = bool(held) and all(isinstance(row[index], int | float) for row in held)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in held:
        table.add_row(*(Text(_cell(value)) for value in row))  # a text is shown as it is: values may look like markup
    # A terminal folds; a pipe gets each row on one line, however long.
    out = to or sys.stdout
    console = Console(file=out, highlight=False, width=None if out.isatty() else 10_000)
    # Written by us: where nobody reads any more rich would end the process.
    with console.capture() as drawn:
        console.print(table, crop=False)
    text = drawn.get()
    out.write(text if out.isatty() else "".join(f"{line.rstrip()}\n" for line in text.splitlines()))


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        case float():
            return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.2f}"
        case dict() | list() | tuple():
            return msgspec.json.encode(value, enc_hook=str).decode()
        case _:
            return str(value)


def print_arrow(table: pa.Table, limit: int = 20, *, to: IO[str] | None = None) -> None:
    """Print the first rows of a result."""
    head = table.slice(0, limit)
    print_table(table.column_names, [tuple(row.values()) for row in head.to_pylist()], to=to)
    if table.num_rows > limit:
        print(f"... {human_count(table.num_rows)} rows in all", file=to)


@contextmanager
def writing_to(place: object) -> Iterator[None]:
    """Say of a place that was typed, where it cannot be written to, what is wrong with it."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"Writing {place}: it must be a place that can be written to; {error.strerror or error}. Name another."
        ) from error


def human_count(number: float) -> str:
    """Write a count with separators.

    Examples
    --------
    >>> human_count(1234567)
    '1,234,567'
    """
    return f"{number:,.0f}"


def human_bytes(number: float) -> str:
    """Write a size.

    Examples
    --------
    >>> human_bytes(1536), human_bytes(5)
    ('1.5 kB', '5 B')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1024:
            return f"{number:.1f} {unit}" if unit != "B" else f"{number:.0f} B"
        number /= 1024
    return f"{number:.1f} TB"


class Progress(AbstractContextManager["Progress"]):
    """Shows the facts of one run on standard error; call it with each fact.

    Parameters
    ----------
    quiet : bool
        Show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._total = self._done = self._rows = self._failed = 0
        self._began = time.monotonic()
        self._said = 0.0

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop()

    def __call__(self, fact: Fact) -> None:
        """Take one fact."""
        if self._quiet:
            return
        match fact:
            case RunPlanned():
                self._plan(fact)
            case SliceFinished():
                self._done += 1
                self._rows += fact.rows
                self._step()
            case SliceFailed():
                from hindscan.words import headline

                self._failed += 1
                if self._failed <= SHOWN_FAILURES:
                    self._line(f"slice {fact.slice} failed: {fact.error}: {headline(fact.message)}")
            case TaskLost():
                self._line(f"a worker was lost over slices {list(fact.slices)[:5]}: {fact.reason}")
            case StageFinished():
                self._step(force=True)
            case RunFinished():
                self._stop()
            case _:
                pass

    def _plan(self, fact: RunPlanned) -> None:
        self._total = fact.slices - fact.reused
        self._began = time.monotonic()
        reused = f", {fact.reused} reused" if fact.reused else ""
        self._line(
            f"{fact.slices} slices{reused}, {human_count(fact.rows)} rows, {human_bytes(fact.bytes)}, {fact.tasks} tasks"
        )
        if self._total and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("slices"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("slices", total=self._total, rate="")
            self._bar.start()

    def _step(self, *, force: bool = False) -> None:
        seconds = max(time.monotonic() - self._began, 1e-6)
        rate = f"{human_count(self._rows / seconds)} rows/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=rate)
        elif time.monotonic() - self._said > LINE_SECONDS and not force:
            left = (self._total - self._done) * seconds / max(self._done, 1)
            self._line(f"{self._done}/{self._total} slices, {rate}, {left:.0f} s left")

    def _line(self, text: str) -> None:
        self._said = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            sys.stderr.write(text + "\n")

    def _stop(self) -> None:
        if self._failed > SHOWN_FAILURES:
            self._line(f"{self._failed - SHOWN_FAILURES} more slices failed")
        self._failed = 0
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
