"""Slices that need their predecessors: the chains of an ordered job.

Keeps promises 6, 7 and 8 for jobs with ``order="partition"``. What such a job computes for a slice depends on all that came before it in the same partition,
and on nothing else; so the slices of a partition are a chain, and a run works through each chain from its front, through different chains in parallel.

**What a partition is.** Of a topic: a partition, in the order of offsets. Of Parquet: the whole history, because files know of no partitions, so there is one
chain. With a `time` column its files are put in the order of their times, as their statistics have them, whatever they are called; files that overlap in time have
no order and are refused. Without a `time` column the order is that of the paths, numbers in them taken as numbers. Within a file the order is that of its rows.

**What is stored.** After each slice its partial, as for any job, and its checkpoint: the state it leaves, in the same store and as atomically. The checkpoint is written
first, so a partial that is there has its checkpoint, unless somebody removed it.

**Keys.** The key of a slice covers what it covers in any job and the key of the state before it, which covers its predecessor's in turn::

    start ─> slice 0 ─> state 0 ─> slice 1 ─> state 1 ─> ...          key(slice n) = digest(slice n on its own, key(state n-1))
                │                     │                               key(state n) = digest("state", key(slice n))
             partial 0             partial 1          state n ─close─> one more partial

So when a partition grows its chain only gets longer: nothing that is there changes, and the work begins at the last checkpoint. A slice that is cut elsewhere, or
whose data changed, changes the keys of all later ones in its partition, and of no other. `close` hangs beside the chain: it is made anew for another last state,
and no slice depends on it.

**What must be computed.** Slices whose partials are missing, and of those before them as many as it takes to reach a checkpoint that is there (`needed`). Partials
further back are not looked for.

::

    Pin + slices -> in_order -> [(name, slices), ...] -> link -> keys, Chain, Chain, ...;   Chain + keys that exist -> needed -> positions
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import msgspec

from hindscan.errors import JobDefinitionError
from hindscan.history.snapshot import FilePin, KafkaPin, KafkaSlice, ParquetPin, ParquetSlice, Pin, Slice
from hindscan.plans.keys import chained_keys, state_key
from hindscan.plans.plan import Chain

__all__ = ["in_order", "leaves_of", "link", "needed", "runs_of"]


def in_order(pin: Pin, slices: Sequence[Slice], *, job: str) -> list[tuple[str, tuple[Slice, ...]]]:
    """Sort slices into their partitions, each in its order; positions are given anew, so that a partition has neighbouring ones.

    Raises
    ------
    hindscan.errors.JobDefinitionError
        The history has no order that is sure: its files overlap in time, or do not say what times they hold.
    """
    match pin:
        case KafkaPin():
            offsets = sorted((s for s in slices if isinstance(s, KafkaSlice)), key=lambda s: (s.partition, s.start))
            parts: list[tuple[str, list[Slice]]] = [
                (f"partition {number}", list(of_partition))
                for number, of_partition in itertools.groupby(offsets, key=lambda s: s.partition)
            ]
        case ParquetPin():
            files = [s for s in slices if isinstance(s, ParquetSlice)]
            rank = {file.path: at for at, file in enumerate(_files_in_order(pin, files, job))}
            files.sort(key=lambda s: (rank[s.path], s.first))
            parts = [("all files", [*files])] if files else []
        case _:
            raise JobDefinitionError(
                f"Planning job {job}: its slices are computed in order, so its history must have one, and {type(pin).__name__} has none. "
                "Take a topic or a Parquet history.",
                job=job,
            )
    position = itertools.count()
    return [
        (name, tuple(msgspec.structs.replace(s, position=next(position)) for s in of_part)) for name, of_part in parts
    ]


def _files_in_order(pin: ParquetPin, slices: Sequence[ParquetSlice], job: str) -> list[FilePin]:
    read = {s.path for s in slices}
    files = [file for file in pin.files if file.path in read]
    if pin.time is None:
        return files
    spans: list[tuple[int, int, FilePin]] = []
    silent: list[str] = []
    for file in files:
        groups = [group for group in file.row_groups if group.rows]
        least = [group.least_time for group in groups if group.least_time is not None]
        greatest = [group.greatest_time for group in groups if group.greatest_time is not None]
        if len(least) < len(groups) or len(greatest) < len(groups):
            silent.append(file.path)
        else:
            spans.append((min(least), max(greatest), file))
    if silent:
        raise _no_order(
            job, f"{', '.join(silent[:3])} say nothing of their times", silent, "Write them with statistics"
        )
    spans.sort(key=lambda span: (*span[:2], span[2].path))
    for (_, end, one), (begin, _, other) in itertools.pairwise(spans):
        if begin < end:
            found = f"{other.path} begins before {one.path} ends"
            raise _no_order(job, found, [one.path, other.path], "Write files that follow on one another")
    return [file for *_, file in spans]


def _no_order(job: str, found: str, files: list[str], advice: str) -> JobDefinitionError:
    return JobDefinitionError(
        f"Planning job {job}: its slices are computed in order, so the files of its history must have one by their times, and {found}. "
        f"{advice}, or leave out the history's `time`: then files are taken in the order of their paths.",
        job=job,
        files=files,
    )


def link(
    parts: Sequence[tuple[str, tuple[Slice, ...]]],
    keys: Sequence[str],
    *,
    start: str,
    close: Callable[[str], str] | None,
) -> tuple[tuple[str, ...], tuple[Chain, ...]]:
    """Make chains.

    Parameters
    ----------
    parts : sequence
        From `in_order`.
    keys : sequence of str
        By position: what each slice's key would be on its own.
    start : str
        `start_key` of the job.
    close : callable, optional
        Gives the key of the closing partial from that of the last state.

    Returns
    -------
    (tuple of str, tuple of Chain)
        The key of each slice's partial, by position, and the chains.
    """
    linked: list[str] = []
    chains: list[Chain] = []
    for name, slices in parts:
        first = len(linked)
        linked += chained_keys(keys[first : first + len(slices)], start)
        states = [state_key(key) for key in linked[first:]]
        closed = close(states[-1] if states else start) if close is not None else None
        chains.append(Chain(name=name, first=first, last=len(linked), states=tuple(states), close=closed))
    return tuple(linked), tuple(chains)


def leaves_of(keys: Sequence[str], chains: Sequence[Chain]) -> tuple[str, ...]:
    """Give the keys of all that is combined: of each chain its slices' partials, then its closing one."""
    return tuple(
        key
        for chain in chains
        for key in (*keys[chain.first : chain.last], *([chain.close] if chain.close is not None else []))
    )


def needed(chain: Chain, keys: Sequence[str], exists: Callable[[str], bool]) -> tuple[int, ...]:
    """Give the positions that must be computed: slices without a partial, and those before them back to a checkpoint that exists.

    Parameters
    ----------
    keys : sequence of str
        Of all slices of the stage, by position.
    exists : callable
        Tells whether something is stored under a key.
    """
    positions: list[int] = []
    wants_state = chain.close is not None and not exists(chain.close)
    for position in range(chain.last - 1, chain.first - 1, -1):
        wants_state = not exists(keys[position]) or (wants_state and not exists(chain.after(position)))
        if wants_state:
            positions.append(position)
    return tuple(reversed(positions))


def runs_of(positions: Sequence[int]) -> list[tuple[int, ...]]:
    """Split ascending positions where one is left out: what lies behind a gap begins at a checkpoint of its own."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and runs[-1][-1] == position - 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return [tuple(run) for run in runs]
