"""Upper bounds that cut off nothing: left out of slices and keys, so that a run as of a later time finds what an earlier one stored.

Serves promise 7. A history as of T bounds each of its slices at T, and nearly all of them lie before it. Whether a bound cuts off a row is told by the proof of a partial
that was made without it, which is there once any run has read the slice whole. Of an ordered job the state counts as well: bounds are idle from the
front of a chain as far as none before them cuts off anything. Bounds of broadcast tables are idle or not for a plan as a whole, because all of its keys cover them.

::

    slices + keys with and without bounds + proofs -> without_idle_bounds | idle_in_chains -> which bounds go, and other names of what stays bounded
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from hindscan.data import Proof
from hindscan.history.snapshot import DrawPin, DrawSlice, KafkaSlice, Pin, Slice
from hindscan.plans.cut import cut_whole
from hindscan.plans.keys import chained_keys, state_key, without_before
from hindscan.plans.plan import Stage

__all__ = ["can_cut", "choose_alike", "idle_in_chains", "is_idle", "is_idle_whole", "without_idle_bounds"]


def can_cut(pin: Pin) -> bool:
    """Tell whether slices of a pin can have an upper bound."""
    return not isinstance(pin, DrawPin) and pin.before is not None


def is_idle(s: Slice, proof: Proof | None) -> bool:
    """Tell whether a reading of all rows of a slice shows that its upper bound cuts off none of them."""
    if proof is None or isinstance(s, DrawSlice) or s.before is None:
        return False
    if isinstance(s, KafkaSlice) and proof.disorder is None:
        return False  # a row without a time: with a bound that is an error
    return proof.records == 0 or (proof.greatest_time is not None and proof.greatest_time < s.before)


def is_idle_whole(pin: Pin, proof: Proof | None) -> bool:
    """Tell whether a reading of a whole table shows that none of its upper bounds cuts off a row."""
    bounded = [s for s in cut_whole(pin) if not isinstance(s, DrawSlice) and s.before is not None]
    return all(is_idle(s, proof) for s in bounded)


def without_idle_bounds(
    slices: tuple[Slice, ...],
    keys_of: Callable[[tuple[Slice, ...]], tuple[str, ...]],
    shown_idle: Callable[[Slice, str], bool],
) -> tuple[tuple[Slice, ...], tuple[str, ...], dict[str, str]]:
    """Leave out the upper bounds that stored partials show to cut off nothing, of slices that stand side by side.

    Parameters
    ----------
    slices : tuple of Slice
        By position.
    keys_of : callable
        Gives the keys of slices.
    shown_idle : callable
        Tells whether the partial under a key is there and shows that the slice's bound cuts off nothing.

    Returns
    -------
    (tuple of Slice, tuple of str, dict)
        The slices, their keys, and by the keys of those that stay bounded the ones they would have without.
    """
    bounded = [s for s in slices if not isinstance(s, DrawSlice) and s.before is not None]
    opened = tuple(map(without_before, bounded))
    found = dict(zip([s.position for s in bounded], zip(opened, keys_of(opened), strict=True), strict=True))
    chosen = tuple(
        found[s.position][0] if s.position in found and shown_idle(s, found[s.position][1]) else s for s in slices
    )
    keys = keys_of(chosen)
    kept = {s.position for s in chosen if s.position in found and s is not found[s.position][0]}
    return chosen, keys, {key: found[s.position][1] for s, key in zip(chosen, keys, strict=True) if s.position in kept}


def idle_in_chains(
    parts: Sequence[tuple[str, tuple[Slice, ...]]],
    keys: Sequence[str],
    opened: Sequence[str],
    *,
    start: str,
    shown_idle: Callable[[Slice, str], bool],
) -> tuple[frozenset[int], dict[str, str]]:
    """Find the upper bounds that stored partials show to cut off nothing, from the front of each chain as far as they go.

    Parameters
    ----------
    parts : sequence
        From `chains.in_order`.
    keys, opened : sequence of str
        By position: what each slice's key would be on its own, and without its upper bound.
    start : str
        `start_key` of the job.
    shown_idle : callable
        Tells whether the partial under a key is there and shows that the slice's bound cuts off nothing.

    Returns
    -------
    (frozenset of int, dict)
        The positions whose bound is left out. And by the keys of the partials from the first other one on those they would have if no bound cut off anything.
    """
    chosen: set[int] = set()
    others: dict[str, str] = {}
    for _, slices in parts:
        first, last = slices[0].position, slices[-1].position + 1
        free = chained_keys(opened[first:last], start)
        state, idle = start, 0
        for s, key, other in zip(slices, keys[first:last], opened[first:last], strict=True):
            if key != other and not shown_idle(s, free[idle]):
                break
            state, idle = state_key(free[idle]), idle + 1
        chosen.update(at for at in range(first, first + idle) if keys[at] != opened[at])
        bounded = chained_keys(keys[first + idle : last], state)
        others |= dict(zip(bounded, free[idle:], strict=True))
    return frozenset(chosen), others


def choose_alike(
    bounded: Sequence[Stage], opened: Sequence[Stage], exists: Callable[[str], bool], *, idle: bool
) -> list[Stage]:
    """Choose between the stages with their tables' bounds in the keys and those without.

    Without, if the bounds are known to cut off nothing, unless more is stored with them: a run that was cut short has its partials under the keys that it began with.
    """

    def stored(stages: Sequence[Stage]) -> tuple[int, int]:
        return sum(len(stage.reused) for stage in stages), sum(exists(stage.finished) for stage in stages)

    opened = [msgspec.structs.replace(stage, tables_idle=True) for stage in opened]
    chosen, others = (opened, bounded) if idle and stored(opened) >= stored(bounded) else (bounded, opened)
    return [msgspec.structs.replace(one, alike=other) for one, other in zip(chosen, others, strict=True)]
