"""Draws are the same bits whoever draws them, in whatever pieces, after whatever death; and numbers of unknown origin are refused (promises 6, 7, 8)."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hindscan as hs
from contract.running import Site, Unreliable, make_site
from hindscan.errors import HindscanError, NotReproducible, UsageError
from hindscan.plans.plan import Plan
from hindscan.progress import TaskLost
from hindscan.tasks.dask import DaskExecutor
from hindscan.tasks.executor import Executor, InlineExecutor
from hindscan.tasks.threads import ThreadsExecutor

SEED = 7


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"), 1)


@pytest.fixture(scope="module")
def wanted(site: Site) -> str:
    """Digest of the result, drawn in this process."""
    return digest(site, InlineExecutor(), site.plan("estimated", seed=SEED, fresh=True))


def digest(site: Site, executor: Executor, plan: Plan, tasks: int | None = None) -> str:
    slices = len(plan.stages[-1].slices)
    done = site.run(executor, "estimated", plan=plan, slices_per_task=None if tasks is None else -(-slices // tasks))
    return site.partials.read_meta(done.finished).digest


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_and_tasks_change_no_bit(site: Site, wanted: str, workers: int) -> None:
    with ThreadsExecutor(workers) as executor:
        for tasks in (1, 7, 64):
            plan = site.plan("estimated", seed=SEED, fresh=True)
            assert len(plan.stages[-1].slices) >= 64
            assert digest(site, executor, plan, tasks) == wanted


def test_a_cluster_draws_the_same_bits(site: Site, wanted: str) -> None:
    with DaskExecutor(2) as executor:
        assert digest(site, executor, site.plan("estimated", seed=SEED, fresh=True), 7) == wanted


@pytest.mark.parametrize("seed", range(3))
def test_retries_in_any_order_change_no_bit(site: Site, wanted: str, seed: int) -> None:
    plan = site.plan("estimated", seed=SEED, fresh=True)
    assert digest(site, Unreliable(seed), plan, 20) == wanted


@pytest.mark.parametrize("make", [ThreadsExecutor, DaskExecutor])
def test_a_worker_killed_midway_changes_no_bit(site: Site, wanted: str, tmp_path: Path, make: type) -> None:
    facts: list[object] = []
    with make(2) as executor:
        plan = site.plan("estimated", seed=SEED, folder=str(tmp_path))
        done = site.run(executor, "estimated", plan=plan, slices_per_task=3, facts=facts)
    assert (tmp_path / "killed").exists()
    assert any(isinstance(fact, TaskLost) for fact in facts)
    assert site.partials.read_meta(done.finished).digest == wanted


@given(cuts=st.lists(st.integers(1, 19_999), min_size=1, max_size=2))
@settings(max_examples=5)
def test_draws_that_are_extended_are_those_drawn_at_once_and_only_new_ones_are_computed(
    tmp_path_factory: pytest.TempPathFactory, site: Site, cuts: list[int]
) -> None:
    wanted = digest(site, InlineExecutor(), site.plan("estimated", seed=SEED, draws=20_000))
    site = make_site(tmp_path_factory.mktemp("extended"), 1)
    drawn = 0
    for draws in [*sorted({-(-cut // 50) * 50 for cut in cuts}), 20_000]:
        plan = site.plan("estimated", seed=SEED, draws=draws)
        stage = plan.stages[-1]
        # All but the last slice of what was there, which had not its full length.
        assert stage.reused >= {s.position for s in stage.slices if s.end <= drawn}
        found = digest(site, InlineExecutor(), plan)
        drawn = draws
    assert found == wanted


@pytest.mark.parametrize(
    ("job", "words"), [("of_the_world", "a second time"), ("of_its_own", "seeds a generator of its own")]
)
def test_randomness_from_elsewhere_fails_the_run_and_says_so(site: Site, job: str, words: str) -> None:
    with pytest.raises(NotReproducible, match=f"(?s){words}.*block.rng"):
        site.run(InlineExecutor(), job, seed=1)


@pytest.mark.parametrize("stop", [None, {"x": {"relative": 0.2}}])
def test_a_simulation_in_this_process_gives_what_a_run_gives(site: Site, stop: dict[str, object] | None) -> None:
    def logs(block: hs.Block, scale: float = 2.0):  # type: ignore[no-untyped-def]
        return {"x": block.rng.exponential(scale, block.size)}

    job = hs.simulation(block_size=1000, draws=30_000, statistics={"x": hs.Mean("x")})(logs)
    drawn = hs.draw(job, {"scale": 3.0}, seed=3, stop=stop)
    plan = site.plan(job, seed=3, draws=drawn.draws, scale=3.0)
    done = site.run(InlineExecutor(), job, plan=plan)
    assert site.partials.read(done.finished).equals(drawn.table)


def test_a_rule_in_this_process_has_as_many_draws_at_most_as_in_a_run() -> None:
    def numbers(block: hs.Block):  # type: ignore[no-untyped-def]
        return {"x": block.rng.random(block.size), "y": block.rng.random(block.size)}

    job = hs.simulation(block_size=1000, draws=200, statistics={"x": hs.Mean("x"), "a": hs.Mean("y")})(numbers)
    drawn = hs.draw(job, seed=3, stop={"x": {"relative": 1e-6}})
    assert (drawn.draws, drawn.why) == (20_000, "max_draws")
    assert [row["name"] for row in drawn.table.to_pylist()] == ["a", "x"]
    with pytest.raises(UsageError, match="must be one of a, x, and is 'z'"):
        drawn["z"]


def modelled(block: hs.Block, model):  # type: ignore[no-untyped-def]
    return {"x": model["values"].mean() + block.rng.random(block.size)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": -1}, "seed= must be a whole number from 0"),
        ({"seed": 1, "draws": 1e5}, "draws= must be a whole number from 1"),
        ({"seed": 1, "model": None}, "model= must be given"),
        ({"seed": 1, "model": object()}, "object"),
    ],
)
def test_what_cannot_be_drawn_in_this_process_is_said(options: dict[str, object], words: str) -> None:
    job = hs.simulation(history="bids", calibrate=lambda bids: bids, block_size=10, draws=100)(modelled)
    with pytest.raises(HindscanError, match=words):
        hs.draw(job, **{"model": {"values": [1.0, 2.0]}} | options)  # type: ignore[arg-type]


def test_a_model_in_this_process_comes_as_in_a_run() -> None:
    job = hs.simulation(history="bids", calibrate=lambda bids: bids, block_size=10, draws=100)(modelled)
    assert 1.5 < hs.draw(job, seed=np.int64(1), draws=np.int64(20), model={"values": [1.0, 2.0]})["x"]["mean"] < 2.5  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"a job that @hs\.simulation made is required"):
        hs.draw(modelled, seed=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("generator", ["PCG64DXSM", "Philox", "SFC64"])
def test_neighbouring_seeds_and_blocks_share_nothing(generator: str) -> None:
    streams = {
        (seed, index): hs.Block(index=index, size=4096, start=0, seed=seed, generator=generator).rng.standard_normal(4096)
        for seed, index in itertools.product((0, 1, 2, 2**40), (0, 1, 2, 1000))
    }  # fmt: skip
    for (a, x), (b, y) in itertools.combinations(streams.items(), 2):
        assert not set(x.tolist()) & set(y.tolist()), (a, b)
        assert abs(x @ y) / 4096 < 5 / 64, (a, b)
