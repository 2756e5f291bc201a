"""What is left of a plan keeps its shape and never the keys of the whole (promises 2 and 7)."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from hindscan.history.snapshot import KafkaSlice
from hindscan.plans.combine import flat, tree, tree_by_part
from hindscan.plans.incomplete import allowed_failures, coverage_document, coverage_of, without
from hindscan.plans.keys import digest_of
from hindscan.plans.plan import Stage


def key_of(children) -> str:
    return digest_of(["node", list(children)])


def a_stage(count: int, shape=tree, *, finish: bool = True) -> Stage:
    slices = tuple(
        KafkaSlice(position=i, partition=i % 3, start=i * 10, end=i * 10 + 10, rows=10, bytes=100) for i in range(count)
    )
    keys = tuple(digest_of(["slice", i]) for i in range(count))
    levels = shape(keys, key_of)
    combined = levels[-1][0].key if levels else keys[0]
    finished = digest_of(["finish", combined]) if finish else combined
    return Stage(
        step="slice", table="t", slices=slices, keys=keys, reused=frozenset(), levels=levels, combined=combined, finished=finished
    )  # fmt: skip


def leaves(stage: Stage) -> list[str]:
    """What the combined table is made of, in order, by walking the tree."""
    nodes = {node.key: node.children for level in stage.levels for node in level if len(node.children) > 1}

    def below(key: str) -> list[str]:
        return [leaf for child in nodes[key] for leaf in below(child)] if key in nodes else [key]

    return below(stage.combined)


@given(st.integers(1, 80), st.data(), st.sampled_from([tree, flat]), st.booleans())
def test_what_is_left_is_combined_in_order_and_no_incomplete_node_has_a_whole_ones_key(count, data, shape, finish):
    stage = a_stage(count, shape, finish=finish)
    missing = data.draw(st.sets(st.integers(0, count - 1)))
    left = without(stage, missing, purpose="test")
    if len(missing) == count:
        assert left is None
        return
    assert left is not None
    assert leaves(left) == [key for i, key in enumerate(stage.keys) if i not in missing]
    if not missing:
        assert left == stage
        return
    whole = {node.key: node.children for level in stage.levels for node in level}
    for node in itertools.chain.from_iterable(left.levels):
        if len(node.children) > 1:
            assert whole.get(node.key, node.children) == node.children
    assert {left.combined, left.finished}.isdisjoint({stage.combined, stage.finished})
    # Nor is it what a plan over only these slices would look for.
    alone = shape([key for i, key in enumerate(stage.keys) if i not in missing], key_of)
    assert not alone or left.combined != alone[-1][0].key


def test_different_purposes_share_nothing_that_is_incomplete():
    stage = a_stage(40)
    one, other = (without(stage, {3}, purpose=purpose) for purpose in ("a", "b"))
    assert one is not None
    assert other is not None
    assert one.combined != other.combined
    assert one.levels[0][1] == other.levels[0][1] == stage.levels[0][1]


def test_coverage_is_told_by_partition():
    left = without(a_stage(7), {0, 3, 5}, purpose="test")
    assert left is not None
    document = coverage_document(coverage_of(left))
    assert {name: (p["slices_done"], p["slices"], p["rows_done"]) for name, p in document["parts"].items()} == {
        "partition 0": (1, 3, 10), "partition 1": (2, 2, 20), "partition 2": (1, 2, 10)
    }  # fmt: skip
    assert (document["slices_done"], document["slices"], document["rows_done"], document["rows"]) == (4, 7, 40, 70)
    assert coverage_document(coverage_of(a_stage(7))) == {}


def test_a_share_is_rounded_down_and_a_number_is_taken_as_it_is():
    assert [allowed_failures(allowed, 250) for allowed in (0, 3, 0.0, 0.01, 0.999)] == [0, 3, 0, 2, 249]


def test_no_node_is_its_own_child() -> None:
    """One slice of 18 is left: nodes above it have one child, which stands for them."""
    stage = a_stage(18)
    levels, parts = tree_by_part(stage.keys, 3, key_of, finish=lambda combined, _: digest_of([combined]), concat=False)
    left = without(replace(stage, levels=levels, parts=parts), set(range(18)) - {6}, purpose="test")
    assert left is not None
    nodes = [node for level in left.levels for node in level]
    assert [node.children for node in nodes] == [(stage.keys[6],)] * 3
    assert {part.combined for part in left.parts} == {node.key for node in nodes}


@given(st.integers(1, 60), st.data(), st.booleans())
def test_every_part_of_a_split_stage_lacks_the_same_slices_and_has_other_keys(count, data, concat):
    def finish(combined: str, _: int) -> str:
        return digest_of(["finish", combined])

    stage = a_stage(count)
    levels, parts = tree_by_part(stage.keys, 3, key_of, finish=finish, concat=concat)
    combined, finished = (digest_of([ends[at] for ends in map(astuple, parts)]) for at in (0, 1))
    stage = replace(stage, levels=levels, parts=parts, combined=combined, finished=finished)
    missing = data.draw(st.sets(st.integers(0, count - 1)))
    left = without(stage, missing, purpose="test")
    if len(missing) == count:
        assert left is None
        return
    assert left is not None
    # A node with a single child has its key: the lowest is the one that has something below it.
    nodes = {node.key: node for level in reversed(left.levels) for node in level}

    def below(key: str) -> list[str]:
        node = nodes.get(key)
        if node is None or key in stage.keys:
            return [key]
        return [leaf for child in node.children for leaf in ([child] if node.part is not None else below(child))]

    for part in left.parts:
        assert below(part.combined) == [key for i, key in enumerate(stage.keys) if i not in missing]
    assert len(left.parts) == 3
    if missing:
        assert {left.combined, left.finished, *left.roots, *left.results}.isdisjoint(
            {stage.combined, stage.finished, *stage.roots, *stage.results}
        )
