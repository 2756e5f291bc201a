"""A sweep is the single runs at its points, to the bit, in one table; nothing that points share is computed twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hindscan as hs
from hindscan import driver, rounds
from hindscan.cli.app import run_app
from hindscan.config import Project
from hindscan.config_file import load_project
from hindscan.desk import StoreDesk
from hindscan.errors import ParameterError, UsageError
from hindscan.handle import Result
from hindscan.runs import codes
from hindscan.sweeping import given_points, typed_points
from hindscan.tasks import stage
from hindscan.tasks.attempts import make_pieces
from hindscan.workshop import open_workshop

JOBS = '''
import hindscan as hs


@hs.job(history="bids", combine="concat")
def prices(bids: hs.Data, category: str = "a"):
    """Prices of a category."""
    return bids.sql("SELECT price FROM bids WHERE category = $category", category=category)


@hs.simulation(calibrate=prices, draws=3000, block_size=500)
def revenue(block: hs.Block, model, reserve: float = 0.0, twice: bool = False):
    """Second price with a reserve, of two bidders."""
    values = model["price"].to_numpy()
    bids = values[block.rng.integers(values.size, size=(block.size, 2))]
    high, low = bids.max(axis=1), bids.min(axis=1)
    return {"revenue": (high >= reserve) * low.clip(min=reserve) * (2 if twice else 1), "sold": (high >= reserve) * 1.0}


@hs.simulation(statistics={"noise": hs.Mean()}, block_size=500)
def noisy(block: hs.Block, spread: float = 1.0):
    """Noise of some spread."""
    return spread * block.rng.standard_normal(block.size)


@hs.job(history="bids", combine="concat")
def above(bids: hs.Data):
    """Prices, all of them; how many are counted at the end."""
    return bids.sql("SELECT price FROM bids")


@above.finish
def counted(combined: hs.Data, least: int):
    return combined.sql("SELECT count(*) AS n FROM combined WHERE price >= $least", least=least)


@hs.job(history="bids", combine="concat", by="category")
def split(bids: hs.Data, least: int = 0):
    """Split by key."""
    return bids.sql("SELECT category, price FROM bids WHERE price >= $least", least=least)


@hs.job(history="bids", combine="concat")
def clash(bids: hs.Data, least: int = 0):
    """Has a column of the name of its parameter."""
    return bids.sql("SELECT $least AS least, count(*) AS n FROM bids", least=least)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "hindscan.toml").write_text(
        '[compute]\nworkers = 2\n[history.bids]\nparquet = "data"\nslice_rows = 100\n'
    )
    (folder / "jobs").mkdir()
    (folder / "jobs" / "swept.py").write_text(JOBS)
    (folder / "data").mkdir()
    rng = np.random.default_rng(1)
    table = pa.table({"price": rng.uniform(0, 1, 400), "category": rng.choice(["a", "b"], 400)})
    pq.write_table(table, folder / "data" / "bids.parquet", row_group_size=100)
    return folder


@pytest.fixture(autouse=True)
def driven_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are handed over to a workshop of this process: a process for each would take most of the time."""

    def drive_it(project: Project, run: str) -> None:
        with open_workshop(project) as workshop:
            driver.drive(workshop, run)

    monkeypatch.setattr(driver, "hand_over", drive_it)


def done(folder: Path, job: str, parameters: dict[str, Any] | None = None, **options: Any) -> Result:
    return hs.run(job, parameters or {}, project=folder, **options).wait(100, progress=False).result


def test_points_of_a_sweep_are_single_runs_with_its_seed_to_the_bit(folder: Path) -> None:
    sweep = {"category": ["a", "b"], "reserve": [0.0, 0.25, 0.5]}
    result = done(folder, "revenue", sweep=sweep)
    table, manifest = result.to_arrow(), result.manifest
    assert table.column_names[:3] == ["category", "reserve", "name"]
    assert table.num_rows == 2 * 3 * 2
    assert (manifest.swept, manifest.points, manifest.parameters) == (("category", "reserve"), 6, {"twice": False})
    seed = int(manifest.seed)
    for category, reserve in (("a", 0.25), ("b", 0.5)):
        alone = done(folder, "revenue", {"category": category, "reserve": reserve}, seed=seed)
        assert alone.manifest.slices.computed == 0  # each point of a sweep can be used by any other run
        of_point = table.filter((pa.compute.field("category") == category) & (pa.compute.field("reserve") == reserve))
        assert of_point.drop_columns(["category", "reserve"]).equals(alone.to_arrow())
    # Each category is calibrated once, over its four slices; each point draws in two.
    assert manifest.slices.total == 2 * 4 + 6 * 2
    assert manifest.slices.computed == 2 * 4 + 6 * 2


def test_each_point_of_a_sweep_stops_by_its_own_rule_where_it_would_alone(folder: Path) -> None:
    rule = {"noise": {"half_width": 0.05}, "max_draws": 40_000}
    result = done(folder, "noisy", sweep={"spread": [1.0, 4.0, 9.0]}, stop=rule, seed=3)
    rows = result.to_arrow().to_pylist()
    assert [row["spread"] for row in rows] == [1.0, 4.0, 9.0]
    assert [row["stopped"] for row in rows] == ["precision", "precision", "max_draws"]
    assert rows[0]["draws"] < rows[1]["draws"] < rows[2]["draws"] == 40_000
    for row in rows:
        alone = done(folder, "noisy", {"spread": row["spread"]}, stop=rule, seed=3)
        assert alone.manifest.slices.computed == 0
        assert alone.to_arrow().to_pylist() == [{n: v for n, v in row.items() if n not in ("spread", "stopped")}]
        assert alone.manifest.simulation["stopped"]["why"] == row["stopped"]
    assert result.manifest.draws == 40_000
    assert result.manifest.simulation["stopped"]["why"] == "max_draws, precision"
    more = result.manifest.simulation["ten_times"]
    assert [point["draws"] for point in more["points"]] == [100 * row["draws"] for row in rows]
    assert more["draws"] == sum(100 * row["draws"] for row in rows)
    assert all(point["seconds"] > 0 for point in more["points"])
    assert more["seconds"] == pytest.approx(sum(point["seconds"] for point in more["points"]), abs=1e-3)
    # A second one, and a rerun, which is told where it stopped, draw nothing.
    again = hs.run("noisy", sweep={"spread": [1.0, 4.0, 9.0]}, stop=rule, seed=3, project=folder).wait(
        100, progress=False
    )
    assert again.result.manifest.slices.computed == 0
    # Nothing was drawn, so nothing is known of the time it takes.
    assert {point["seconds"] for point in again.result.manifest.simulation["ten_times"]["points"]} == {None}
    assert again.rerun().wait(100, progress=False).result.to_arrow().equals(result.to_arrow())


def test_of_many_points_a_manifest_says_together_what_more_precision_would_take(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "POINTS_TOLD", 2)
    for spreads, told in (([1.0, 2.0], {"draws", "seconds", "points"}), ([3.0, 4.0, 5.0], {"draws", "seconds"})):
        more = done(folder, "noisy", sweep={"spread": spreads}, draws=1000).manifest.simulation["ten_times"]
        assert (set(more), more["draws"]) == (told, 100 * 1000 * len(spreads))


def test_all_points_draw_the_same_numbers_and_the_seed_leaves_the_swept_ones_out(folder: Path) -> None:
    first = done(folder, "revenue", sweep={"reserve": [0.0, 0.3]})
    other = done(folder, "revenue", sweep={"reserve": [0.3, 0.6, 0.9]})
    assert first.manifest.seed == other.manifest.seed
    assert other.manifest.slices.reused == 4 + 2  # the model, and the two slices of the point they share
    sold = [row for row in other.to_arrow().to_pylist() if row["name"] == "sold"]
    # With common numbers a higher reserve can only sell less, in every draw: no noise between the points.
    assert [row["mean"] for row in sold] == sorted((row["mean"] for row in sold), reverse=True)
    assert done(folder, "revenue", {"twice": True}, sweep={"reserve": [0.3]}).manifest.seed != first.manifest.seed


def test_what_does_not_depend_on_the_swept_parameter_is_computed_once(folder: Path) -> None:
    result = done(folder, "above", sweep=[{"least": n} for n in (0, 1, 0)])
    assert result.to_arrow().to_pydict() == {"least": [0, 1, 0], "n": [400, 0, 400]}
    # Only `finish` takes it: the slices of the first point are those of all.
    slices = result.manifest.slices
    assert (slices.total, slices.computed, slices.reused) == (12, 4, 8)


def test_the_command_takes_ranges_and_lists(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["revenue", "-p", "reserve=0..0.5..0.25", "-p", "category=a,b", "-p", "twice=true", "--sweep", "--project", str(folder), "--json"]  # fmt: skip
    assert run_app(["plan", *typed]) == 0
    assert json.loads(capsys.readouterr().out)["slices"] == 2 * 4 + 6 * 2
    assert run_app(["run", *typed]) == 0
    answer = json.loads(capsys.readouterr().out)
    table = pq.read_table(answer["result"]["path"])
    points = [(row["reserve"], row["category"]) for row in table.select(["reserve", "category"]).to_pylist()][::2]
    assert points == [(r, c) for r in (0.0, 0.25, 0.5) for c in ("a", "b")]
    assert run_app(["show", answer["run"], "--project", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sweep"][0] == {"reserve": 0.0, "category": "a"}


def test_slices_of_all_points_are_made_beside_each_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[list[str]] = []

    def spied(lines: Any, *given: Any, **named: Any) -> Any:
        taken = [list(line) for line in lines]
        handed.append([piece.name for line in taken for pieces in line for piece in pieces])
        return make_pieces(taken, *given, **named)

    monkeypatch.setattr(stage, "make_pieces", spied)
    done(folder, "revenue", {"category": "b"}, sweep={"reserve": [0.11, 0.12, 0.13]})
    drawn = ["slice 0", "slice 1"] * 3
    # No worker waits for the last slice of a point, or for what is combined and finished of it.
    assert drawn in handed
    assert [names for names in handed[handed.index(drawn) + 1 :] if "slice 0" in names] == []


@pytest.mark.parametrize(
    "sweep", [{"reserve": [0.0, 0.25]}, [{"reserve": 0.0}, {"reserve": 0.25}]], ids=["a grid", "points"]
)
def test_a_sweep_that_is_posted_is_the_one_that_is_called(folder: Path, sweep: Any) -> None:
    called = done(folder, "revenue", {"category": "b"}, sweep=sweep).to_arrow()
    project = load_project(folder)
    with open_workshop(project) as workshop:
        spec, code = workshop.job("revenue")
        codes.save_code(workshop.store, spec, code)
        nobody: Any = None  # takes events, and there are none
        desk = StoreDesk(
            project,
            workshop.store,
            {"revenue": spec},
            nobody,
            workshop=workshop,
            notify=lambda: None,
            faults={},
            notes={},
        )
        body = {"parameters": {"category": "b"}, "sweep": sweep}
        run, _ = desk.submit("revenue", body, f"key of {sweep}", "http:test")
        assert desk.submit("revenue", body, f"key of {sweep}", "http:test")[0]["id"] == run["id"]
        driver.drive(workshop, run["id"])
        assert pq.read_table(desk.result(run["id"])).equals(called)
        with pytest.raises(UsageError, match="sweep must be like"):
            desk.submit("revenue", {"sweep": {"reserve": 1}}, None, "http:test")
        with pytest.raises(UsageError, match="at most 100,000 points are taken; these values have 1,000,000"):
            desk.submit("revenue", {"sweep": {"reserve": [0.5] * 1000, "twice": [True] * 1000}}, None, "http:test")


def test_a_rerun_sweeps_again_and_reuses_all(folder: Path) -> None:
    first = hs.run("revenue", sweep={"reserve": [0.1, 0.2]}, project=folder).wait(100, progress=False)
    again = first.rerun().wait(100, progress=False)
    assert again.result.to_arrow().equals(first.result.to_arrow())
    assert again.result.manifest.slices.computed == 0
    more = first.extend(draws=5_000).wait(100, progress=False)
    assert set(more.result.to_arrow()["draws"].to_pylist()) == {5_000}


def test_what_cannot_be_swept_is_refused_before_anything_runs(folder: Path) -> None:
    with pytest.raises(ParameterError, match="price must be parameters"):
        hs.run("revenue", sweep={"price": [1]}, project=folder)
    with pytest.raises(ParameterError, match="reserve"):
        hs.run("revenue", sweep={"reserve": [0.1, "much"]}, project=folder)
    with pytest.raises(ParameterError, match="reserve"):
        hs.run("revenue", {"reserve": 1.0}, sweep={"reserve": [0.1]}, project=folder)
    with pytest.raises(UsageError, match="split by key"):
        hs.run("split", sweep={"least": [1]}, project=folder)
    with pytest.raises(UsageError, match="at least one point"):
        given_points({"reserve": []})
    with pytest.raises(UsageError, match="the same parameters"):
        given_points([{"a": 1}, {"b": 1}])
    with pytest.raises(UsageError, match="between 1 and 100,000"):
        typed_points({"reserve": "5..1"})
    with pytest.raises(UsageError, match="must be a range"):
        typed_points({"reserve": "5"})


def test_a_result_with_a_column_of_the_swept_name_fails_the_run_by_name(folder: Path) -> None:
    with pytest.raises(Exception, match="it has least"):
        hs.run("clash", sweep={"least": [1, 2]}, project=folder).wait(100, progress=False)


def test_numbers_of_numpy_and_decimals_stay_exact() -> None:
    assert given_points({"n": np.arange(2), "x": np.array([0.5])}) == ({"n": 0, "x": 0.5}, {"n": 1, "x": 0.5})
    assert typed_points({"x": "0..0.3..0.1"})[1] == tuple({"x": text} for text in ("0.0", "0.1", "0.2", "0.3"))
