"""What can be wrong with the options of a declaration, kind by kind.

Keeps the declaring half of promise 12. Each function looks at one kind of option (tables, joins, limits, the split by key, order, a whole history, statistics), in
itself and together with the others, and gives what is wrong in words that follow "Declaring the job"; nothing is raised here, so that all faults are told at once.

::

    Job (options, steps, calibration) -> option_faults -> faults -> jobs.declare
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from hindscan.jobs.estimators import faults_of as statistics_faults
from hindscan.jobs.job import PARTS, Step, is_allowance
from hindscan.jobs.sampling import sampling_faults
from hindscan.retries import retries_from

if TYPE_CHECKING:
    from hindscan.jobs.declare import Job

__all__ = ["MOST_PARTS", "NAME", "join_faults", "keys_of", "option_faults", "table_faults"]

#: Parts of a split: each is a batch in every partial, and a table to finish.
MOST_PARTS: Final = 4096

#: What jobs may be called.
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")


def option_faults(
    declared: Job, history: object, leading: Mapping[str, tuple[str, ...]], table: str | None
) -> Iterator[str]:
    """Tell what is wrong with the options of a job.

    Parameters
    ----------
    declared : Job
        With its options and the steps it has so far.
    history : object
        What is cut into slices, the calibration's where the job names none.
    leading : mapping
        By step, the names of what it works on.
    table : str, optional
        The name that the sliced history has in its step.
    """
    yield from _faulty_options(declared, history, table)
    yield from _faulty_keys(declared)
    yield from _faulty_order(declared, leading.get("slice", ()))
    yield from _faulty_whole(declared)
    yield from _faulty_statistics(declared)


def table_faults(tables: Mapping[str, str], table: str | None, steps: Mapping[str, Step] | None) -> Iterator[str]:
    """Tell what is wrong with the broadcast tables; without `steps` some may still come."""
    taken = set(tables) if steps is None else {name for step in steps.values() for name in step.tables}
    for name, history in tables.items():
        if name == table:
            yield f"`{name}` in tables= is the first parameter, which gets the sliced history"
        elif name not in taken:
            yield f"`{name}` in tables= is no parameter of any step"
        if not isinstance(history, str) or not history:
            yield f"`{name}` in tables= must name a history, and is {history!r}"


def _faulty_options(declared: Job, history: object, table: str | None) -> Iterator[str]:
    options = declared.options
    if not isinstance(declared.name, str) or not NAME.fullmatch(declared.name):
        yield f"its name must be letters, digits, _ and -, and is {declared.name!r}; give name="
    if (history is not None or declared.kind == "scan") and (not isinstance(history, str) or not history):
        yield f"history= must name a history, and is {history!r}"
    if declared.kind == "simulation" and (history is None) != (table is None):
        yield "history= and calibrate= belong together: the history is what the model is calibrated on"
    if options["combine"] not in (None, "concat"):
        yield f"combine= must be 'concat' or left out, and is {options['combine']!r}; an own one is declared with @{declared.name}.combine"
    elif options["combine"] and "combine" in declared.steps:
        yield "it has both combine='concat' and a combine of its own; leave one out"
    if options["retries"] is not None:
        try:
            retries_from(options["retries"])
        except ValueError as fault:
            yield f"retries= cannot be: {fault}"
    for option in ("max_bytes", "max_slices", "block_size", "draws", "concurrency"):
        value = options.get(option)
        if value is not None and (type(value) is not int or value < 1):
            yield f"{option}= must be a positive whole number, and is {value!r}"
    for option in ("max_seconds", "time_limit"):
        limit = options[option]
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0):
            yield f"{option}= must be a positive number of seconds, and is {limit!r}"
    depends = options.get("depends", ())
    if isinstance(depends, str) or not all(isinstance(one, str) and one for one in depends):
        yield f"depends= must be a list of modules and files, and is {depends!r}"
    allowed = options.get("allow_failed")
    if allowed is not None and not is_allowance(allowed):
        yield f"allow_failed= must be a share below 1 (0.01) or a whole number of slices, and is {allowed!r}"
    elif allowed and options.get("order"):
        yield "allow_failed= is for slices that know nothing of each other, and order= makes each need the one before it; leave one out"


def join_faults(declared: Job, table: str | None, steps: Mapping[str, Step] | None) -> Iterator[str]:
    """Tell what is wrong with the joined jobs; without `steps` some may still come."""
    options, by = declared.options, keys_of(declared.options)
    if not isinstance(options.get("join"), Mapping | None):
        yield f"join= must name jobs by parameters of finish, and is {options['join']!r}; write join={{'NAME': job}}"
    if declared.joins and not by:
        yield "join= is for jobs that are split by key: say by= in both"
    if declared.joins and options.get("whole"):
        yield "it has both whole=True and join=; a whole history has no parts that could be joined"
    for name, other in declared.joins.items():
        if not hasattr(other, "joins"):
            yield f"`{name}` in join= must be a job, and is {other!r}"
            continue
        what = f"`{name}` in join= is the job {other.name!r}, which"
        if other.kind != "scan" or other.options.get("whole") or other.joins:
            yield f"{what} must be computed slice by slice over one history, and is a simulation, gets its history as a whole or joins others itself"
        keys = keys_of(other.options)
        if len(keys) != len(by):
            yield f"{what} must be split by as many columns as this one ({', '.join(by) or 'none'}), and is by {', '.join(keys) or 'none'}"
        elif by and other.options["parts"] != options["parts"]:
            yield f"{what} must be split into as many parts as this one ({options['parts']}), and is into {other.options['parts']}"
        if name == table or name in declared.tables:
            yield f"`{name}` in join= is the name of another table of the job; take another name"
        elif steps is not None and name not in (steps["finish"].joins if "finish" in steps else ()):
            yield f"`{name}` in join= is no parameter of finish, which says how it is joined; declare @{declared.name}.finish with it"


def keys_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the key columns that a job is split by; none if it is not, or by nothing that could be."""
    by = options.get("by")
    return (by,) if isinstance(by, str) else tuple(by) if isinstance(by, Sequence) else ()


def _faulty_keys(declared: Job) -> Iterator[str]:
    options, calibration = declared.options, declared.calibration
    by, parts = options.get("by"), options.get("parts", PARTS)
    if by is not None:
        keys = [by] if isinstance(by, str) else list(by) if isinstance(by, Sequence) else []
        if not keys or len(set(map(str, keys))) < len(keys) or not all(isinstance(key, str) and key for key in keys):
            yield f"by= must name one column or a list of different ones, and is {by!r}"
    if type(parts) is not int or not 1 <= parts <= MOST_PARTS:
        yield f"parts= must be a whole number from 1 to {MOST_PARTS}, and is {parts!r}"
    if calibration is not None and calibration.options.get("by") is not None:
        yield f"its calibration {calibration.name!r} is split by key, and a model is one table; leave out by="


def _faulty_order(declared: Job, leading: tuple[str, ...]) -> Iterator[str]:
    options, calibration = declared.options, declared.calibration
    order, state = options.get("order"), options.get("state")
    if order not in (None, "partition"):
        yield f"order= must be 'partition' or left out, and is {order!r}"
    if (order is None) != (state is None):
        yield "order= and state= belong together: the state is what one slice of a partition leaves to the next"
    if order is None and "close" in declared.steps:
        yield f"@{declared.name}.close is for ordered jobs: it gets the state a partition ends with; say order='partition' and state="
    if len(leading) == 2 and leading[1] in declared.tables:
        yield f"`{leading[1]}` in tables= is the second parameter, which gets the state"
    if calibration is not None and calibration.options.get("order") is not None:
        yield f"its calibration {calibration.name!r} is an ordered job, and slices of a calibration know nothing of each other"


def _faulty_whole(declared: Job) -> Iterator[str]:
    options, calibration = declared.options, declared.calibration
    if calibration is not None and calibration.options.get("whole"):
        yield f"its calibration {calibration.name!r} gets the history as a whole, and a calibration is computed slice by slice"
    if not options.get("whole"):
        return
    if options["order"] is not None:
        yield "it has both whole=True and order=; a whole history has no slices that follow on one another"
    if options["combine"] or {"combine", "finish"} & set(declared.steps):
        yield "with whole=True what the function returns is the result, so it has neither combine nor finish"
    if options.get("by") is not None or options.get("allow_failed"):
        yield "with whole=True there are no partials that could be split or left out, so it takes neither by= nor allow_failed="


def _faulty_statistics(declared: Job) -> Iterator[str]:
    options, size = declared.options, declared.options.get("block_size")
    if declared.kind != "simulation" or type(size) is not int or size < 1:
        return
    yield from sampling_faults(options["generator"], options["sampling"], size)
    yield from statistics_faults(options["statistics"], size, declared.quantities)
    if options["statistics"] and (options["combine"] or "combine" in declared.steps):
        yield "it has both statistics= and a combine; leave one out"
    if options["sampling"] is not None and not options["statistics"]:
        yield "with sampling= draws depend on each other, and the built-in summary takes them for independent; declare statistics="
