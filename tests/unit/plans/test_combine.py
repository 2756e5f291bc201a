"""Promise 8: the tree is fixed over slice positions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hindscan.plans.combine import FAN_IN, flat, tree, tree_by_part


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


def split_of(count: int, *, parts: int = 3, concat: bool = False):
    return tree_by_part(
        [str(i) for i in range(count)], parts, bracket, finish=lambda key, _: f"done {key}", concat=concat
    )


@given(st.integers(1, 700), st.integers(1, 4))
def test_each_part_has_the_tree_that_there_is_unsplit(count, parts):
    levels, ends = split_of(count, parts=parts)
    whole = tree([str(i) for i in range(count)], bracket) or ((),)
    assert len(levels) == len(whole)
    assert [[(n.level, n.index) for n in level] for level in levels] == [
        [(depth, i) for i in range(len(level))] for depth, level in enumerate(levels)
    ]
    for part, end in enumerate(ends):
        own = [level[part * len(level) // parts : (part + 1) * len(level) // parts] for level in levels]
        assert own[-1][0].key == end.combined
        assert {node.part for node in own[0]} == {part}
        assert [leaf for node in own[0] for leaf in node.children] == [str(i) for i in range(count)]
        if count > 1:
            assert [[len(n.children) for n in level] for level in own] == [
                [len(n.children) for n in level] for level in whole
            ]
    assert len({key for end in ends for key in (end.combined, end.finished)}) == 2 * parts


def test_growth_keeps_the_full_nodes_of_every_part():
    old, new = ({node.key for node in split_of(count)[0][0] if len(node.children) == FAN_IN} for count in (40, 41))
    assert old == new
    assert len(old) == 2 * 3


def test_a_part_of_one_partial_is_a_node_of_its_own_and_concatenation_is_one_node_per_part():
    levels, _ = split_of(1)
    assert [(node.children, node.part) for node in levels[0]] == [(("0",), 0), (("0",), 1), (("0",), 2)]
    levels, _ = split_of(100, concat=True)
    assert [len(node.children) for node in levels[0]] == [100] * 3
    assert len(levels) == 1
