"""`hs.backtest`: what a job would have said at past events, beside what came.

Keeps promises 1 and 3: for each event the job runs as of the event's time (and position, where it came from a topic), as a run like any other, with its snapshot,
manifest and result. Partials are shared between the runs: an event's run computes only the slices that its time cuts and those no earlier one has seen. Outcomes are
looked up by the caller's function, outside of any run: nothing a job sees depends on them.

::

    events -> for each: run as of it -> result -> Forecast;  outcome(event) -> table, scores, calibration
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from hindscan import times
from hindscan.errors import UsageError
from hindscan.scoring import Forecast, calibration, scores

if TYPE_CHECKING:
    import os

    from hindscan.config import Project
    from hindscan.explore import Time
    from hindscan.jobs.declare import Job
    from hindscan.runs.run import Run, RunRequest
    from hindscan.workshop import Workshop

__all__ = ["Backtest", "PastEvent", "backtest", "events", "forecast_of"]

#: Columns of the statistics of a simulation that are quantiles: p05 is at 0.05, p999 at 0.999.
_QUANTILE: Final = re.compile(r"p(\d\d+)")

_FIELDS: Final[list[pa.Field[Any]]] = [
    pa.field("event", pa.string()),
    pa.field("time", pa.timestamp("us", "UTC")),
    pa.field("forecast", pa.float64()),
    pa.field("low", pa.float64()),
    pa.field("median", pa.float64()),
    pa.field("high", pa.float64()),
    pa.field("outcome", pa.float64()),
    pa.field("inside", pa.bool_()),
    pa.field("pit", pa.float64()),
    pa.field("crps", pa.float64()),
    pa.field("run", pa.string()),
    pa.field("snapshot", pa.string()),
    pa.field("computed", pa.int64()),
    pa.field("reused", pa.int64()),
    pa.field("error", pa.string()),
]
_TABLE: Final = pa.schema(_FIELDS)


class PastEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened: a run as of it sees nothing of its time or later."""

    id: str
    #: Microseconds since the epoch.
    at: int
    #: What it carried.
    data: dict[str, Any] = {}
    source: str = ""
    #: Where it stood in its topic, if it came from one.
    position: dict[str, Any] | None = None

    @property
    def time(self) -> datetime:
        """When it was."""
        return times.to_datetime(self.at)

    def __getitem__(self, name: str) -> Any:
        """Give a field of its data."""
        return self.data[name]


def events(
    type: str | None = None,
    since: Time | None = None,
    until: Time | None = None,
    *,
    history: str | None = None,
    table: Any = None,
    time: str | None = None,
    id: str = "id",
    project: str | os.PathLike[str] | None = None,
) -> list[PastEvent]:
    """Give past events, oldest first: those that were received, or rows of a history or table.

    Parameters
    ----------
    type : str, optional
        Of received events. Default: all.
    since, until : str, date or datetime, optional
        Bounds on their times, half-open.
    history : str, optional
        Each row of this history is an event. Default: events that were received.
    table : Arrow, pandas or Polars table, optional
        Each row of this table is an event.
    time : str, optional
        With `history` or `table`: the column that says when it was.
    id : str
        With `history` or `table`: the column that names it.
    project : path, optional
        Folder of the project file. Default: the nearest upwards.

    Raises
    ------
    hindscan.errors.UsageError
        More than one of type, history and table; no time column; `since` is not before `until`.
    """
    from hindscan.explore import window_values
    from hindscan.history.window import make_window

    bounds = window_values(as_of=None, since=since, until=until, last=None)
    make_window(**bounds, doing="Looking for events")
    rows = history is not None or table is not None
    if (type is not None) + (history is not None) + (table is not None) > 1:
        raise UsageError("Looking for events: one of type, history and table must say which; more are given.")
    if rows and time is None:
        raise UsageError("Looking for events in rows: time= must name the column that says when each was; it is left out.")  # fmt: skip
    if not rows:
        return _received(_load(project), type, bounds)
    if history is not None:
        from hindscan.engine import quoted
        from hindscan.explore import PinnedHistory
        from hindscan.history.snapshot import Window
        from hindscan.pinned import pin_history

        loaded = _load(project)
        pinned = PinnedHistory(loaded, pin_history(loaded, history, Window()))
        table = pinned.sql(f"SELECT * FROM {quoted(history)}")
    return _of_rows(table, str(time), id, bounds)


def _received(project: Project, type: str | None, bounds: Mapping[str, int]) -> list[PastEvent]:
    from hindscan.runs.recall import past_events
    from hindscan.runs.store import open_store

    with open_store(project.store_url, project.root) as store:
        found = past_events(store, type, **bounds)
    made = []
    for row in found:
        try:
            data = msgspec.json.decode(row["data"]) if row["data"] else {}
        except msgspec.DecodeError:
            data = {"data": row["data"]}
        carried = data if isinstance(data, dict) else {"data": data}
        made.append(
            PastEvent(id=row["id"], at=row["time"], data=carried, source=row["source"], position=row["position"])
        )
    return made


def _of_rows(given: Any, time: str, id: str, bounds: Mapping[str, int]) -> list[PastEvent]:
    from hindscan.jobs.returned import to_table

    table = to_table(given, "events")
    absent = [name for name in (time, id) if name not in table.column_names]
    if absent:
        raise UsageError(
            f"Looking for events in rows: {', '.join(absent)} must be columns; there are {', '.join(table.column_names)}."
        )
    made = [
        PastEvent(id=str(row[id]), at=times.from_datetime(row[time]), data=row)
        for row in table.to_pylist()
        if row[time] is not None
    ]
    since, until = bounds.get("since"), bounds.get("until")
    kept = [e for e in made if (since is None or e.at >= since) and (until is None or e.at < until)]
    return sorted(kept, key=lambda event: (event.at, event.id))


class Backtest:
    """What was forecast, and what came. Made by `backtest`."""

    def __init__(
        self, job: str, table: pa.Table, forecasts: Sequence[Forecast | None], outcomes: Sequence[float | None], level: float
    ) -> None:  # fmt: skip
        self.job = job
        #: One row per event: event, time, forecast, low, median, high, outcome, inside, pit, crps, run, snapshot, computed, reused, error.
        self.table = table
        known = [(f, y) for f, y in zip(forecasts, outcomes, strict=True) if f is not None and y is not None]
        said, came = [f for f, _ in known], [y for _, y in known]
        #: See `scoring.scores`; over the events that have a forecast and an outcome.
        self.scores = scores(said, came)
        #: See `scoring.calibration`; over the same.
        self.calibration = calibration(said, came, level=level)

    def __repr__(self) -> str:
        failed = sum(text is not None for text in self.table["error"].to_pylist())
        inside = self.calibration.get("inside")
        shown = {name: value for name, value in self.scores.items() if isinstance(value, float)}
        told = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
        sure = "" if inside is None else f"; {inside:.1%} of outcomes in {self.calibration['level']:.0%} intervals"
        wrong = f"; {failed} failed" if failed else ""
        return f"<backtest of {self.job}: {self.table.num_rows} events, {self.scores['events']} scored{wrong}{told and f'; {told}'}{sure}>"

    def to_pandas(self) -> Any:
        """Give the table as a pandas data frame."""
        return self.table.to_pandas()


def backtest(
    job: str | Job,
    events: Iterable[PastEvent],
    outcome: str | Callable[[PastEvent], float | bool | None],
    *,
    parameters: Mapping[str, Any] | Callable[[PastEvent], Mapping[str, Any]] | None = None,
    forecast: str | Callable[[pa.Table], Any] | None = None,
    level: float = 0.9,
    seed: int | None = None,
    draws: int | None = None,
    workers: int | None = None,
    histories: Mapping[str, str] | None = None,
    project: str | os.PathLike[str] | None = None,
) -> Backtest:
    """Run a job as of each of some past events and compare what it says with what came. Waits until all is done.

    Parameters
    ----------
    job : str or Job
        A name in the project's `jobs/`, or a job defined here.
    events : iterable of PastEvent
        See `events`.
    outcome : str or callable
        What came: a field of the event's data, or a function of the event; None (or nan) where it is not known.
    parameters : mapping or callable, optional
        Of the job, by name; or a function of the event that gives them.
    forecast : str or callable, optional
        What of the result is the forecast: the quantity or the statistic of a simulation (of moments the mean), the column of draws or of the one number, or a function
        of the result's table that gives a number, an array of draws, or a dict with ``mean`` and ``quantiles`` (by levels from 0 to 1) or ``draws``. Default: what
        there is, if it is one thing.
    level : float
        Of the intervals.
    seed, draws, workers : int, optional
        As for `run`; one seed for all events.
    histories : mapping, optional
        Other histories for the job's tables, by name.
    project : path, optional
        Folder of the project file. Default: the nearest upwards.

    Returns
    -------
    Backtest
        A table, scores and calibration. An event whose run fails, or whose forecast is no number, has its error in the table, and no score.

    Raises
    ------
    hindscan.errors.UsageError
        The job, a parameter or an outcome is wrong, or a result has no forecast in it.
    """
    from hindscan.runs import codes
    from hindscan.workshop import open_workshop

    if not 0 < level < 1:
        raise UsageError(f"Backtesting: level= must be between 0 and 1; it is {level}.")
    loaded = _load(project)
    with open_workshop(loaded) as workshop:
        if isinstance(job, str):
            spec, code = workshop.job(job)
        else:
            from hindscan.jobs.code import bundle

            spec, code = bundle(job, loaded.root)
        digest = codes.save_code(workshop.store, spec, code)
        rows, forecasts, outcomes = [], [], []
        for event in events:
            came = _came(event, outcome)
            given = parameters(event) if callable(parameters) else parameters or {}
            request = _request(
                loaded, spec, event, given, seed=seed, draws=draws, workers=workers, histories=dict(histories or {})
            )
            row, said = _at(workshop, event, request, digest, forecast, level)
            rows.append({**row, **_compared(said, came, level)})
            forecasts.append(said)
            outcomes.append(came)
    return Backtest(spec.name, pa.Table.from_pylist(rows, schema=_TABLE), forecasts, outcomes, level)


def _came(event: PastEvent, outcome: str | Callable[[PastEvent], float | bool | None]) -> float | None:
    """Look up what came, before anything is computed; None where it is not known."""
    if not isinstance(event, PastEvent):
        raise UsageError(f"Backtesting: events must be such as hs.events gives, and one is {event!r}.")
    if isinstance(outcome, str) and outcome not in event.data:
        raise UsageError(
            f"Backtesting: outcome= must name a field of each event, and {outcome!r} is none of {event.id}; there are {', '.join(event.data) or 'none'}."
        )
    found: Any = event.data[outcome] if isinstance(outcome, str) else outcome(event)
    try:
        came = math.nan if found is None else float(found)
    except (TypeError, ValueError):
        raise UsageError(
            f"Backtesting: an outcome must be a number, or whether something happened, and that of {event.id} is {found!r}."
        ) from None
    return None if math.isnan(came) else came


def _request(project: Project, spec: Any, event: PastEvent, given: Mapping[str, Any], **options: Any) -> RunRequest:
    from hindscan.planning import ask

    return ask(project, spec, given, as_of=event.at, position=event.position, **options)


def _at(
    workshop: Workshop,
    event: PastEvent,
    request: RunRequest,
    code: str,
    forecast: str | Callable[[pa.Table], Any] | None,
    level: float,
) -> tuple[dict[str, Any], Forecast | None]:
    """Run as of one event; give what is known before the outcome is."""
    from hindscan.driver import drive
    from hindscan.runs import opening

    opened = opening.open_run(workshop.store, request, code=code, requested_by="backtest")
    done = drive(workshop, opened.id)
    row: dict[str, Any] = {"event": event.id, "time": event.time, "run": done.id}
    if done.result is None:
        last = (done.message or done.state).strip().splitlines()[-1]
        return {**row, "error": f"{done.error or done.state}: {last}"}, None
    table, manifest = _published(workshop.project, done)
    row |= {
        "snapshot": manifest.snapshot_digest,
        "computed": manifest.slices.computed,
        "reused": manifest.slices.reused,
    }
    said = forecast(table) if callable(forecast) else forecast_of(table, forecast)
    found = said if isinstance(said, Forecast) else _made(said)
    if not math.isfinite(found.mean):
        return {**row, "error": f"no forecast: it must be a number, and is {found.mean}"}, None
    row["forecast"] = found.mean
    if found.spread:
        row |= {
            "low": found.quantile((1 - level) / 2),
            "median": found.quantile(0.5),
            "high": found.quantile((1 + level) / 2),
        }
    return row, found


def _published(project: Project, done: Run) -> tuple[pa.Table, Any]:
    import pyarrow.parquet as pq

    from hindscan.runs.results import read_manifest

    folder = project.root / str(done.result)
    return pq.read_table(folder / "result.parquet"), read_manifest(folder)


def _compared(said: Forecast | None, came: float | None, level: float) -> dict[str, Any]:
    if said is None or came is None:
        return {"outcome": came}
    found: dict[str, Any] = {"outcome": came, "crps": said.crps(came)}
    if said.spread:
        found |= {"inside": said.inside(came, level), "pit": said.pit(came)}
    return found


def forecast_of(table: pa.Table, name: str | None = None) -> Forecast:
    """Take the forecast out of a result.

    Parameters
    ----------
    table : pa.Table
        Statistics of simulated quantities (one row each, `mean` and quantiles such as `p05`), declared statistics, or rows: one number, or one draw each.
    name : str, optional
        The quantity, the statistic, or the column. Default: the only one.

    Raises
    ------
    hindscan.errors.UsageError
        There is none, or more than one and no name.
    """
    levels = {c: int(m[1]) / 10 ** len(m[1]) for c in table.column_names if (m := _QUANTILE.fullmatch(c))}
    if {"name", "mean"} <= set(table.column_names) and levels:
        rows = [row for row in table.to_pylist() if name in (None, row["name"])]
        if len(rows) != 1:
            _refuse(name, [str(found) for found in table["name"].to_pylist()], "quantities")
        quantiles = {level: rows[0][column] for column, level in levels.items()}
        ends = {level: rows[0].get(column) for column, level in (("min", 0.0), ("max", 1.0))}
        known = {level: value for level, value in {**quantiles, **ends}.items() if value is not None}
        return Forecast(mean=_number(rows[0]["mean"]), quantiles=known)
    if {"name", "statistic", "value"} <= set(table.column_names):
        return _estimated(table, name)
    numbers = [f.name for f in table.schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
    chosen = [column for column in numbers if name in (None, column)]
    if len(chosen) != 1 or not table.num_rows:
        _refuse(name, numbers if table.num_rows else [], "columns of numbers")
    return _made(table[chosen[0]].to_numpy())


def _estimated(table: pa.Table, name: str | None) -> Forecast:
    """Take a declared statistic: its value, as a mere number, as its interval bounds the estimate and not what comes."""
    rows = [row for row in table.to_pylist() if name in (None, row["name"])]
    several = len(rows) > 1
    found = [row for row in rows if not several or row["statistic"] == "mean"]
    if len({row["name"] for row in rows}) != 1 or len(found) != 1:
        _refuse(name, list(dict.fromkeys(str(one) for one in table["name"].to_pylist())), "statistics of one number")
    return Forecast(mean=_number(found[0]["value"]))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _made(said: Any) -> Forecast:
    """Take what a function of the result gave."""
    try:
        of = said if isinstance(said, Mapping) else {"draws": said}
        draws = np.atleast_1d(np.asarray(of["draws"], np.float64)) if "draws" in of else None
        quantiles = {float(level): float(value) for level, value in of.get("quantiles", {}).items()}
        mean = float(of["mean"]) if draws is None or "mean" in of else float(draws.mean())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"Taking the forecast out of a result: it must be a number, draws, or a dict with mean and quantiles or draws, and is {said!r} ({error!r})."
        ) from error
    if any(not 0 <= level <= 1 for level in quantiles):
        raise UsageError(
            f"Taking the forecast out of a result: levels of quantiles must lie between 0 and 1, and are {', '.join(map(str, quantiles))}."
        )
    return Forecast(mean=mean, quantiles=quantiles, draws=draws if draws is not None and draws.size > 1 else None)


def _refuse(name: str | None, there: Sequence[str], what: str) -> None:
    raise UsageError(
        f"Taking the forecast out of a result: forecast= must name one of its {what}, and is {name!r}; there are {', '.join(there) or 'none'}."
    )


def _load(project: str | os.PathLike[str] | None) -> Project:
    from hindscan.config_file import find_root, load_project

    return load_project(find_root() if project is None else Path(project))
