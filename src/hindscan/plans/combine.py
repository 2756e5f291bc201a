"""The combine tree: which partials are put together, fixed before anything is computed.

Keeps promise 8 (deterministic). The shape follows from the number of slices alone: neighbours in slice order, `FAN_IN` at a time, level upon level up to one
root. Neither workers nor the order of completion can change it, so floating-point sums come out the same bit for bit. When slices are
added at the end, all nodes but those on the right edge keep their keys: combining grows with the new data, too (promise 7).

A node with a single child is that child: it has the child's key, and nothing runs for it.

::

    keys of slices  ─16─> level 0  ─16─> level 1  ─> ... ─> root
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hindscan.plans.plan import Node

__all__ = ["FAN_IN", "flat", "tree"]

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


def _node(level: int, index: int, children: tuple[str, ...], key_of: Callable[[Sequence[str]], str]) -> Node:
    key = key_of(children) if len(children) > 1 else children[0]
    return Node(level=level, index=index, children=children, key=key)
