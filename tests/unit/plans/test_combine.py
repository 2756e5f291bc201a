"""Promise 8: the tree is fixed over slice positions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hindscan.plans.combine import FAN_IN, flat, tree


def bracket(children):
    return "(" + " ".join(children) + ")"


def leaves(key: str) -> list[str]:
    return key.replace("(", " ").replace(")", " ").split()


@given(st.integers(0, 700))
def test_a_tree_reads_every_slice_once_in_order_and_ends_in_one_root(count):
    keys = [str(i) for i in range(count)]
    levels = tree(keys, bracket)
    if count < 2:
        assert levels == ()
        return
    assert len(levels[-1]) == 1
    assert leaves(levels[-1][0].key) == keys
    below = tuple(keys)
    for depth, level in enumerate(levels):
        assert tuple(child for node in level for child in node.children) == below
        assert [(node.level, node.index) for node in level] == [(depth, i) for i in range(len(level))]
        assert all(1 <= len(node.children) <= FAN_IN for node in level)
        below = tuple(node.key for node in level)


@given(st.integers(2, 700), st.integers(0, 300))
def test_growth_changes_only_the_nodes_of_the_right_edge(count, growth):
    old = tree([str(i) for i in range(count)], bracket)
    new = tree([str(i) for i in range(count + growth)], bracket)
    for before, after in zip(old, new, strict=False):
        assert before[:-1] == after[: len(before) - 1]


def test_a_node_with_one_child_is_that_child():
    levels = tree([str(i) for i in range(FAN_IN + 1)], bracket)
    assert levels[0][1].children == (str(FAN_IN),)
    assert levels[0][1].key == str(FAN_IN)


def test_concatenation_is_one_node():
    (level,) = flat([str(i) for i in range(100)], bracket)
    assert [node.children for node in level] == [tuple(str(i) for i in range(100))]
    assert flat(["0"], bracket) == ()
