"""One stage of a plan: its slices given keys, what is there looked up, the tree built over them.

Keeps promise 7. Slices stand side by side, or in chains where the job is ordered (`plans.chains`); upper bounds that stored partials show to cut off nothing are left
out of them, and so of their keys (`plans.idle`).

::

    slices + Inputs + Steps -> make_stage -> Stage
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

import msgspec

from hindscan.data import Proof
from hindscan.errors import JobDefinitionError
from hindscan.history.snapshot import Pin, Slice
from hindscan.jobs.job import JobSpec
from hindscan.plans.chains import in_order, leaves_of, link, needed
from hindscan.plans.combine import flat, tree, tree_by_part
from hindscan.plans.idle import idle_in_chains, is_idle, without_idle_bounds
from hindscan.plans.keys import (
    close_key,
    digest_of,
    empty_key,
    finish_key,
    node_key,
    part_key,
    slice_keys,
    split_key,
    start_key,
    whole_key,
    without_before,
)
from hindscan.plans.plan import Chain, Node, Part, Stage
from hindscan.plans.steps import CONCAT, Steps

__all__ = ["Inputs", "make_stage"]


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage is planned with, beside its slices and steps."""

    job: JobSpec
    #: What is cut, the name that it is pinned under (None for draws), and what its reader says of itself.
    pin: Pin
    table: str | None
    reader: Mapping[str, object]
    #: Of draws: the key of the finished model, if there is one.
    model: str | None = None
    #: Name of the join, if it is one that another job is joined with.
    join: str | None = None
    #: What it is joined with: by name, the key of each part's table.
    joined: Mapping[str, tuple[str, ...]] = {}
    parameters: Mapping[str, object]
    #: Digests of the broadcast tables by name.
    tables: Mapping[str, str]
    exists: Callable[[str], bool]
    #: Proof of the partial of a key; None where there is none.
    proof: Callable[[str], Proof | None]

    def shown_idle(self, s: Slice, key: str) -> bool:
        """Tell whether the partial under a key is there and shows that the slice's upper bound cuts off nothing."""
        return self.exists(key) and is_idle(s, self.proof(key))


class _Laid(msgspec.Struct, frozen=True, kw_only=True):
    """The slices of a stage with their keys; the fields are those of `Stage`, and what is combined."""

    slices: tuple[Slice, ...]
    keys: tuple[str, ...]
    reused: frozenset[int]
    unbounded: dict[str, str]
    alone: tuple[str, ...] = ()
    chains: tuple[Chain, ...] = ()
    leaves: tuple[str, ...]
    #: Key of what the step gives for no rows.
    empty: str


def make_stage(slices: tuple[Slice, ...], inputs: Inputs, steps: Steps) -> Stage:
    """Plan a stage.

    Raises
    ------
    hindscan.errors.JobDefinitionError
        Several partials and no way to combine them; a history that has no order, where the job needs one.
    hindscan.errors.ParameterError
        A step takes a parameter that has no value.
    """
    if inputs.job.whole:
        return _whole_stage(slices, inputs, steps)
    laid = _side_by_side(slices, inputs, steps) if steps.start is None else _in_chains(slices, inputs, steps)
    ends: tuple[Part, ...] = ()
    if inputs.job.by:
        levels, ends = _levels_by_part(laid.leaves or (laid.empty,), inputs, steps)
        combined = digest_of([part.combined for part in ends])
        finished = digest_of([part.finished for part in ends])
    else:
        levels = _levels(laid.leaves, inputs, steps)
        combined = levels[-1][0].key if levels else laid.leaves[0] if laid.leaves else laid.empty
        finished = _finishing(inputs, steps)(combined, {})
    return Stage(
        step=steps.name if inputs.join is None else f"{inputs.join}.{steps.name}",
        join=inputs.join,
        joined=dict(inputs.joined),
        table=inputs.table,
        slices=laid.slices,
        keys=laid.keys,
        reused=laid.reused,
        levels=levels,
        combined=combined,
        finished=finished,
        unbounded=laid.unbounded,
        alone=laid.alone,
        chains=laid.chains,
        parts=ends,
    )


def _whole_stage(slices: tuple[Slice, ...], inputs: Inputs, steps: Steps) -> Stage:
    """Give the stage of a job that makes its result in one go: all slices stand for the same partial, and are reused or computed together."""
    key = whole_key([_empty_key(inputs, steps), *_keys(slices, inputs, steps)])
    return Stage(
        step=steps.name,
        table=inputs.table,
        slices=slices,
        keys=(key,) * len(slices),
        reused=frozenset(range(len(slices))) if inputs.exists(key) else frozenset(),
        levels=(),
        combined=key,
        finished=key,
    )


# Slices and their keys --------------------------------------------------------------------------------------------------


def _side_by_side(slices: tuple[Slice, ...], inputs: Inputs, steps: Steps) -> _Laid:
    slices, keys, unbounded = without_idle_bounds(slices, lambda some: _keys(some, inputs, steps), inputs.shown_idle)
    return _Laid(
        slices=slices,
        keys=keys,
        reused=frozenset(position for position, key in enumerate(keys) if inputs.exists(key)),
        unbounded=unbounded,
        leaves=keys,
        empty=_empty_key(inputs, steps),
    )


def _in_chains(slices: tuple[Slice, ...], inputs: Inputs, steps: Steps) -> _Laid:
    assert steps.start is not None
    parts = in_order(inputs.pin, slices, job=inputs.job.name)
    slices = tuple(s for _, of_part in parts for s in of_part)
    start = start_key(step=steps.start, parameters=inputs.parameters, tables=inputs.tables)
    opened = tuple(map(without_before, slices))
    bounded_keys, opened_keys = _keys(slices, inputs, steps), _keys(opened, inputs, steps)
    idle, unbounded = idle_in_chains(parts, bounded_keys, opened_keys, start=start, shown_idle=inputs.shown_idle)
    slices = tuple(opened[s.position] if s.position in idle else s for s in slices)
    alone = tuple(opened_keys[at] if at in idle else key for at, key in enumerate(bounded_keys))
    parts = [(name, tuple(slices[s.position] for s in of_part)) for name, of_part in parts]
    keys, chains = link(parts, alone, start=start, close=_closing(inputs, steps))
    to_do = {position for chain in chains for position in needed(chain, keys, inputs.exists)}
    return _Laid(
        slices=slices,
        keys=keys,
        reused=frozenset(range(len(keys))) - to_do,
        unbounded=unbounded,
        alone=alone if unbounded else (),
        chains=chains,
        leaves=leaves_of(keys, chains),
        empty=digest_of([_empty_key(inputs, steps), start]),
    )


def _keys(slices: tuple[Slice, ...], inputs: Inputs, steps: Steps) -> tuple[str, ...]:
    """Give the key that the partial of each slice has on its own."""
    keys = slice_keys(
        slices,
        pin=inputs.pin,
        step=steps.each,
        reader=inputs.reader,
        model=inputs.model,
        parameters=inputs.parameters,
        tables=inputs.tables,
    )
    return tuple(_split(key, inputs.job) for key in keys)


def _empty_key(inputs: Inputs, steps: Steps) -> str:
    key = empty_key(
        pin=inputs.pin, step=steps.each, reader=inputs.reader, parameters=inputs.parameters, tables=inputs.tables
    )
    return _split(key, inputs.job)


def _closing(inputs: Inputs, steps: Steps) -> Callable[[str], str] | None:
    step = steps.close
    if step is None:
        return None
    return lambda state: _split(
        close_key(state, step=step, parameters=inputs.parameters, tables=inputs.tables), inputs.job
    )


def _split(key: str, job: JobSpec) -> str:
    return split_key(key, by=job.by, parts=job.parts) if job.by else key


# The tree ---------------------------------------------------------------------------------------------------------------


def _levels(keys: tuple[str, ...], inputs: Inputs, steps: Steps) -> tuple[tuple[Node, ...], ...]:
    """Build the tree over what is combined: the keys of partials, in order."""
    if len(keys) < 2:
        return ()
    if steps.combine is None:
        raise _no_combine(inputs.job, steps, len(keys))
    shape = flat if steps.concatenates else tree
    return shape(keys, _combining(inputs, steps))


def _no_combine(job: JobSpec, steps: Steps, partials: int) -> JobDefinitionError:
    # As the file of the job has it: in SQL, in TOML, else in Python.
    own = {".sql": "`-- name: combine`", ".toml": "[combine]"}
    step = own.get(PurePosixPath(job.file).suffix, f"@{job.name}.combine")
    if steps.name == "calibrate":
        step = "the calibration's combine"
    found = (
        f"is cut into {partials} slices" if steps.start is None else f"gives {partials} partials, closing ones included"
    )
    return JobDefinitionError(
        f"Planning job {job.name}: its history {found}, and a job over several slices must say how their partials "
        f'become one; it has no combine. Write {step}, say combine="concat" where rows only stand one after another, or raise slice_rows '
        "of the history until there is one slice.",
        job=job.name,
        slices=partials,
    )


def _levels_by_part(
    keys: tuple[str, ...], inputs: Inputs, steps: Steps
) -> tuple[tuple[tuple[Node, ...], ...], tuple[Part, ...]]:
    """Build the trees of a job that is split by key."""
    finish = _finishing(inputs, steps)

    def finished(combined: str, part: int) -> str:
        if inputs.join is not None and steps.finish is None:
            return combined  # what is joined need not be sorted before
        joined = {name: of_parts[part] for name, of_parts in inputs.joined.items()}
        return part_key(finish(combined, joined), by=inputs.job.by)

    combining = _combining(inputs, steps)
    return tree_by_part(keys, inputs.job.parts, combining, finish=finished, concat=steps.concatenates)


def _combining(inputs: Inputs, steps: Steps) -> Callable[[Sequence[str]], str]:
    """Give what makes the key of a node out of those of its children."""
    step = steps.combine or CONCAT
    return lambda children: node_key(children, step=step, parameters=inputs.parameters, tables=inputs.tables)


def _finishing(inputs: Inputs, steps: Steps) -> Callable[[str, Mapping[str, str]], str]:
    """Give what makes the key of a finished table out of that of the combined one and those of what is joined with it."""
    step = steps.finish
    if step is None:
        return lambda combined, _: combined
    return lambda combined, joined: finish_key(
        combined, step=step, parameters=inputs.parameters, tables=inputs.tables, joined=joined
    )
