"""The combine tree: which partials are put together, fixed before anything is computed.

Keeps promise 8 (deterministic). The shape follows from the number of slices alone: neighbours in slice order, `FAN_IN` at a time, level upon level up to one
root. Neither workers nor the order of completion can change it, so floating-point sums come out the same bit for bit. When slices are
added at the end, all nodes but those on the right edge keep their keys: combining grows with the new data, too (promise 7).

A node with a single child is that child: it has the child's key, and nothing runs for it.

::

    keys of slices  ─16─> level 0  ─16─> level 1  ─> ... ─> root

Where a job is split by key (`runs.parts`), each part has a tree of its own over that part of every slice. The trees of all parts have one shape, which is the
one it would have unsplit, so the rows of a key are combined in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from hindscan.plans.keys import digest_of
from hindscan.plans.plan import Node, Part

__all__ = ["FAN_IN", "flat", "tree", "tree_by_part"]

#: Children of a node. Small enough that a node's input stays at 16 partials, large enough that 65,536 slices take four levels. Part of what results mean:
#: another number sums in another order.
FAN_IN: Final = 16


def tree(keys: Sequence[str], key_of: Callable[[Sequence[str]], str]) -> tuple[tuple[Node, ...], ...]:
    """Build the levels over the slices' keys, bottom up.

    Parameters
    ----------
    keys : sequence of str
        Keys of the slices, in slice order.
    key_of : callable
        Gives the key of a node from its children's keys.

    Returns
    -------
    tuple of tuple of Node
        The last level has one node, the root. Empty for fewer than two slices.
    """
    levels: list[tuple[Node, ...]] = []
    below = tuple(keys)
    while len(below) > 1:
        nodes = tuple(
            _node(len(levels), index, below[first : first + FAN_IN], key_of)
            for index, first in enumerate(range(0, len(below), FAN_IN))
        )
        levels.append(nodes)
        below = tuple(node.key for node in nodes)
    return tuple(levels)


def flat(keys: Sequence[str], key_of: Callable[[Sequence[str]], str]) -> tuple[tuple[Node, ...], ...]:
    """Build one node over all slices, for plain concatenation: a tree would only copy the rows once per level."""
    if len(keys) < 2:
        return ()
    return ((_node(0, 0, tuple(keys), key_of),),)


def tree_by_part(
    keys: Sequence[str],
    parts: int,
    key_of: Callable[[Sequence[str]], str],
    *,
    finish: Callable[[str, int], str],
    concat: bool,
) -> tuple[tuple[tuple[Node, ...], ...], tuple[Part, ...]]:
    """Build a tree for each part over the keys of split partials.

    Parameters
    ----------
    keys : sequence of str
        What is combined, in order; at least one.
    parts : int
        Parts of each.
    key_of : callable
        Gives the key of a node from its children's keys.
    finish : callable
        Gives the key of a part's finished table from that of its combined one and the part's number.
    concat : bool
        One node over all, as `flat`.

    Returns
    -------
    (levels, parts)
        The levels with the nodes of all parts, and each part's ends.
    """
    width = len(keys) if concat else FAN_IN
    groups = [tuple(keys[first : first + width]) for first in range(0, len(keys), width)]
    levels: dict[int, list[Node]] = {0: []}
    ends = []
    for part in range(parts):
        first = [_part_node(group, part, part * len(groups) + at, key_of) for at, group in enumerate(groups)]
        levels[0] += first
        above = tree([node.key for node in first], key_of)
        for level, nodes in enumerate(above, start=1):
            held = levels.setdefault(level, [])
            held += [msgspec.structs.replace(n, level=level, index=len(held) + n.index) for n in nodes]
        combined = above[-1][0].key if above else first[0].key
        ends.append(Part(combined=combined, finished=finish(combined, part)))
    return tuple(tuple(nodes) for nodes in levels.values()), tuple(ends)


def _part_node(children: tuple[str, ...], part: int, index: int, key_of: Callable[[Sequence[str]], str]) -> Node:
    whole = key_of(children) if len(children) > 1 else children[0]
    return Node(level=0, index=index, children=children, key=digest_of(["part", whole, part]), part=part)


def _node(level: int, index: int, children: tuple[str, ...], key_of: Callable[[Sequence[str]], str]) -> Node:
    key = key_of(children) if len(children) > 1 else children[0]
    return Node(level=level, index=index, children=children, key=key)
