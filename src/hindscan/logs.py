"""The log of `hindscan serve`: text for people, or one JSON object a line for programs, with the ids of what it is about.

Whoever logs says what it is about by `extra`: an event's source and id, a run, its job and trigger, a slice. In JSON each is a member of its own, so that all lines of
one event, run or slice can be found without reading texts. What happens to a run is logged by `observer`, from the same facts that the store keeps. No data
of an event and no parameter is ever logged (promise 12).
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any, Final

from hindscan import times
from hindscan.progress import Fact, Observer, RunFinished, RunPlanned, SliceFailed, SliceFinished, TaskLost

if TYPE_CHECKING:
    from hindscan.runs.run import Run

__all__ = ["LEVELS", "JsonLines", "about_run", "observer", "start_logging"]

LEVELS: Final = ("debug", "info", "warning", "error")

#: Members that `extra` may bring.
_IDS: Final = ("event", "run", "job", "trigger", "state", "stage", "slice", "slices", "way", "seconds")
_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_logger = logging.getLogger("hindscan.runs")


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Write `at`, `level`, `logger` and `message`, the ids that there are, and the traceback of an error."""
        line: dict[str, Any] = {
            "at": times.to_text(round(record.created * 1_000_000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name in _IDS if (value := record.__dict__.get(name)) is not None}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=repr)


def start_logging(form: str, level: str) -> None:
    """Log to standard error from now on, libraries from INFO on.

    Parameters
    ----------
    form : str
        "text" or "json".
    level : str
        One of `LEVELS`, for hindscan's own lines.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("hindscan").setLevel(level.upper())


def about_run(run: Run) -> dict[str, Any]:
    """Give the ids of a run, for `extra`."""
    event = None if run.event_id is None else {"source": run.event_source, "id": run.event_id}
    return {"run": run.id, "job": run.job, "trigger": run.trigger, "event": event}


def observer(run: Run) -> Observer:
    """Make a function that logs what happens to a run: its plan and end, lost and failed slices, and, for `debug`, each slice."""
    ids = about_run(run)

    def say(level: int, message: str, *values: object, **more: Any) -> None:
        _logger.log(level, message, *values, extra=ids | more)

    def observe(fact: Fact) -> None:
        match fact:
            case RunPlanned():
                say(
                    logging.INFO,
                    "run %s: %d slices, %d of them reused, in %d tasks",
                    run.id,
                    fact.slices,
                    fact.reused,
                    fact.tasks,
                )
            case SliceFinished(stage=stage, slice=position, seconds=seconds):
                say(logging.DEBUG, "run %s: slice %d of %s is done", run.id, position, stage, stage=stage, slice=position, seconds=seconds)  # fmt: skip
            case SliceFailed(stage=stage, slice=position):
                say(logging.WARNING, "run %s: slice %d of %s failed: %s", run.id, position, stage, fact.error, stage=stage, slice=position)  # fmt: skip
            case TaskLost(stage=stage, slices=slices):
                say(logging.WARNING, "run %s: a worker died over slices %s of %s: %s", run.id, slices, stage, fact.reason, stage=stage, slices=slices)  # fmt: skip
            case RunFinished(state=state, seconds=seconds):
                say(logging.INFO, "run %s is %s", run.id, state, state=state, seconds=seconds)
            case _:
                # How far it is, and its stages, are in the store.
                return

    return observe
