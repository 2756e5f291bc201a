"""Content keys: what a partial is stored under says all that went into it.

Keeps promise 7. A key covers everything the step can see and nothing else: the digest of its code, the parameters it names, the slice and the bounds that
cut it, how it is decoded, the broadcast tables it takes, the model, seed and blocks, and `READER_VERSION`. It never covers where the data lies, where the
slice stands in its plan, what else is in the plan, or when it was made: so equal work has equal keys across runs, and new data invalidates nothing old.

Keys are BLAKE2b over canonical JSON. Canonical: keys sorted, no spaces, every value written so that two different values never read the same (``1`` is not
``1.0`` or ``true``; times and non-finite numbers are tagged).

::

    Step + parameters + Slice + reader's identity + tables + model -> key -> partials/KK/KEY.arrow
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from hindscan.errors import ParameterError
from hindscan.history.snapshot import DrawPin, DrawSlice, KafkaPin, KafkaSlice, ParquetSlice, Pin, Slice
from hindscan.jobs.job import Step
from hindscan.plans.cut import Known, cut_whole

__all__ = [
    "DRAWS_VERSION",
    "READER_VERSION",
    "SPLIT_VERSION",
    "chained_keys",
    "close_key",
    "digest_of",
    "empty_key",
    "finish_key",
    "node_key",
    "part_key",
    "slice_keys",
    "split_key",
    "start_key",
    "state_key",
    "table_digest",
    "table_proof_key",
    "whole_key",
    "without_before",
]

#: Meaning of what hindscan hands to a step. Raised only when the same slice would give other rows, never for speed or looks: it recomputes everything.
READER_VERSION: Final = 3

#: Meaning of a split by key: the hash of `runs.parts`, and the order of a finished part. Raised only when the same rows would lie elsewhere.
SPLIT_VERSION: Final = 1

#: Meaning of draws and of their built-in sums. Raised only when the same block would give other bits.
DRAWS_VERSION: Final = 4

#: Bytes of a digest; 40 hexadecimal digits.
_SIZE: Final = 20

#: Made once: `json.dumps` would make one for each slice.
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def digest_of(value: object) -> str:
    """Digest a value made of JSON values, times and dates.

    Returns
    -------
    str
        40 hexadecimal digits.

    Raises
    ------
    TypeError
        The value has a part that has no canonical form.
    """
    return hashlib.blake2b(_encode(_canonical(value)).encode(), digest_size=_SIZE).hexdigest()


def _canonical(value: object) -> object:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"$float": repr(value)}
        case dt.datetime():
            return {"$datetime": value.isoformat()}
        case dt.date():
            return {"$date": value.isoformat()}
        case Mapping():
            wrong = [name for name in value if not isinstance(name, str)]
            if wrong:
                raise TypeError(f"Digesting a mapping: its keys must be texts, not {wrong[0]!r}.")
            # Tags begin with one "$": a name that does gets a second, so that no mapping reads as a tag.
            return {f"${name}" if name.startswith("$") else name: _canonical(part) for name, part in value.items()}
        case list() | tuple():
            return [_canonical(part) for part in value]
    raise TypeError(f"Digesting a value: {type(value).__name__} has no canonical form ({value!r}).")


def slice_keys(
    slices: Sequence[Slice],
    *,
    pin: Pin,
    step: Step,
    parameters: Mapping[str, object],
    reader: Mapping[str, object],
    tables: Mapping[str, str],
    model: str | None = None,
) -> tuple[str, ...]:
    """Give the key of each slice's partial.

    Parameters
    ----------
    slices : sequence of Slice
        Slices of `pin`.
    pin : Pin
        Gives what a slice does not carry: topic id, seed, block size.
    step : Step
        The function that is called for each slice.
    parameters : mapping
        All parameters of the run; only those the step names are covered.
    reader : mapping
        `Reader.identity()`; empty for draws.
    tables : mapping
        `table_digest` of the broadcast tables by name; only those the step takes are covered.
    model : str, optional
        Key of the model's table.
    """
    common = digest_of(
        {
            "kind": "slice",
            "reader_version": READER_VERSION,
            "source": _source(pin),
            "reader": reader,
            "model": model,
            **_seen(step, parameters, tables),
        }
    )
    return tuple(digest_of([common, _piece(s)]) for s in slices)


def empty_key(
    *,
    pin: Pin,
    step: Step,
    parameters: Mapping[str, object],
    reader: Mapping[str, object],
    tables: Mapping[str, str],
) -> str:
    """Give the key of what the step returns for no rows at all: the combined table of a plan without slices."""
    return digest_of(
        {
            "kind": "empty",
            "reader_version": READER_VERSION,
            "source": type(pin).__name__,
            "reader": reader,
            **_seen(step, parameters, tables),
        }
    )


def node_key(
    children: Sequence[str], *, step: Step, parameters: Mapping[str, object], tables: Mapping[str, str]
) -> str:
    """Give the key of an inner node of the tree: the combining step over its children, in their order."""
    return digest_of({"kind": "node", "children": list(children), **_seen(step, parameters, tables)})


def finish_key(
    combined: str,
    *,
    step: Step,
    parameters: Mapping[str, object],
    tables: Mapping[str, str],
    joined: Mapping[str, str] | None = None,
) -> str:
    """Give the key of a finished table: the finishing step over one combined table, and over what is joined with it."""
    others = {"joined": joined} if joined else {}
    return digest_of({"kind": "finish", "combined": combined, **others, **_seen(step, parameters, tables)})


def split_key(key: str, *, by: Sequence[str], parts: int) -> str:
    """Give the key of a partial that is stored split by key; `key` is the one it would have whole."""
    return digest_of({"kind": "split", "whole": key, "by": list(by), "parts": parts, "version": SPLIT_VERSION})


def part_key(finished: str, *, by: Sequence[str]) -> str:
    """Give the key of a part's finished table, which is sorted by key; `finished` is the one it would have unsorted."""
    return digest_of({"kind": "sorted", "finished": finished, "by": list(by), "version": SPLIT_VERSION})


def whole_key(slices: Sequence[str]) -> str:
    """Give the key of what a job makes of its history as a whole; the keys of its slices cover the step."""
    return digest_of({"kind": "whole", "slices": list(slices)})


def start_key(*, step: Step, parameters: Mapping[str, object], tables: Mapping[str, str]) -> str:
    """Give the key that stands for the state a partition of an ordered job begins with; nothing is stored under it."""
    return digest_of({"kind": "start", **_seen(step, parameters, tables)})


def chained_keys(alone: Sequence[str], state: str) -> list[str]:
    """Give the keys of the partials of an ordered job's slices: what each covers on its own, and the state before it.

    Parameters
    ----------
    alone : sequence of str
        What the keys of adjoining slices would be on their own.
    state : str
        Key of the state before the first of them.
    """
    linked = []
    for one in alone:
        linked.append(digest_of({"kind": "chained", "slice": one, "state": state}))
        state = state_key(linked[-1])
    return linked


def state_key(partial: str) -> str:
    """Give the key of the checkpoint that is stored with a slice's partial."""
    return digest_of({"kind": "state", "after": partial})


def close_key(state: str, *, step: Step, parameters: Mapping[str, object], tables: Mapping[str, str]) -> str:
    """Give the key of what the closing step makes of the state that a partition ends with."""
    return digest_of({"kind": "close", "state": state, **_seen(step, parameters, tables)})


def table_digest(pin: Pin, reader: Mapping[str, object], *, known: Known | None = None, is_idle: bool = False) -> str:
    """Digest what a broadcast table holds: its files or offsets, the bounds that cut them, and how they are decoded.

    Parameters
    ----------
    is_idle : bool
        Leave the upper bounds out: they are known to cut off nothing.
    """
    slices = cut_whole(pin, known=known)
    pieces = [_piece(without_before(s) if is_idle else s) for s in slices]
    return digest_of({"reader_version": READER_VERSION, "source": _source(pin), "reader": reader, "pieces": pieces})


def table_proof_key(table: str) -> str:
    """Give the key of the proof of a broadcast table that was read whole; `table` is its digest without upper bounds."""
    return digest_of({"kind": "table proof", "table": table})


def without_before(s: Slice) -> Slice:
    """Give a slice without its upper bound."""
    return s if isinstance(s, DrawSlice) else msgspec.structs.replace(s, before=None)


def _seen(step: Step, parameters: Mapping[str, object], tables: Mapping[str, str]) -> dict[str, object]:
    """Everything but the rows that a step can see."""
    missing = [name for name in step.parameters if name not in parameters]
    missing += [name for name in step.tables if name not in tables]
    if missing:
        raise ParameterError(
            f"Making the keys of a plan: the step takes {', '.join(missing)}, which the plan has no value for; "
            f"it has {', '.join([*parameters, *tables]) or 'none'}. Give a value, or a default in the job.",
            missing=missing,
        )
    return {
        "code": step.digest,
        "parameters": {name: parameters[name] for name in step.parameters},
        "tables": {name: tables[name] for name in step.tables},
    }


def _source(pin: Pin) -> list[object]:
    match pin:
        case KafkaPin():
            return ["kafka", pin.cluster_id, pin.topic, pin.topic_id]
        case DrawPin():
            return ["draws", DRAWS_VERSION, pin.seed, pin.block_size, pin.generator, pin.sampling]
        case _:
            return ["parquet"]  # each file carries its own identity, relative to a root that may move


def _piece(s: Slice) -> list[object]:
    match s:
        case ParquetSlice():
            place = [s.path, s.size, s.identity, s.first, s.last, s.since, s.before, s.partition_values]
            if s.equality_deletes:
                return [*place, list(s.deleted), s.equality_deletes]
            return [*place, list(s.deleted)] if s.deleted else place
        case KafkaSlice():
            return [s.partition, s.start, s.end, s.since, s.before]
        case DrawSlice():
            return [s.start, s.end]
