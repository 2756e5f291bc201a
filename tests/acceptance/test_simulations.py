"""A simulation as a user types it: stopped by precision or by time, extended, run again; and one that draws from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from acceptance.command import hindscan

OPTION = '''"""An option."""
import math

import numpy as np

import hindscan as hs


@hs.simulation(statistics={"price": hs.Mean("payoff"), "deep": hs.Probability("payoff", above=60.0)}, block_size=4096, draws=100_000)
def option(block: hs.Block, strike: float = 100.0):
    """What the right to buy in a year is worth."""
    spot = 100 * np.exp(0.03 - 0.02 + 0.2 * block.normals(1)[:, 0])
    return {"payoff": math.exp(-0.03) * np.maximum(spot - strike, 0)}
'''

BAD = '''"""A simulation that forgets its block."""
import numpy as np

import hindscan as hs


@hs.simulation
def lucky(block):
    return np.random.normal(size=block.size)
'''.replace("@hs.simulation\n", "@hs.simulation()\n")


SUMMED = '''"""A simulation without declared statistics."""
import hindscan as hs


@hs.simulation()
def summed(block: hs.Block):
    """Gain and loss."""
    return {"gain": block.rng.random(block.size), "loss": block.rng.random(block.size)}
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "hindscan.toml").write_text("[compute]\nworkers = 2\n")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "option.py").write_text(OPTION)
    (tmp_path / "jobs" / "lucky.py").write_text(BAD)
    return tmp_path


def run(project: Path, *arguments: str) -> tuple[Any, Any]:
    document = hindscan(*arguments, "--json", project=project).document
    return document, json.loads(Path(document["manifest"]).read_text())


def told(manifest: Any) -> Any:
    return json.loads(manifest["simulation"])


def test_a_run_stops_where_it_is_precise_enough_and_is_the_run_of_so_many_draws(project: Path) -> None:
    first, manifest = run(project, "run", "option", "--seed", "1", "--stop", "price=1%")
    stopped = told(manifest)["stopped"]
    assert stopped["why"] == "precision"
    assert stopped["draws"] == manifest["draws"] < 1_000_000
    assert told(manifest)["ten_times"]["draws"] == 100 * manifest["draws"]
    assert told(manifest)["ten_times"]["seconds"] > 0
    assert first["simulation"] == {"draws": manifest["draws"], **told(manifest)}
    again = hindscan("run", "option", "--seed", "1", "--stop", "price=1%", project=project)
    more = f"{manifest['draws']:,} draws, stopped by precision; ten times the precision would take {100 * manifest['draws']:,}"
    assert more in again.err
    assert first["slices"]["reused"] == 0
    assert first["slices"]["computed"] == first["slices"]["total"]
    at_once, _ = run(project, "run", "option", "--seed", "1", "--draws", str(manifest["draws"]), "--fresh")
    assert at_once["result"]["digest"] == first["result"]["digest"]
    # More draws: only the new ones, and what they would have been at once.
    more = manifest["draws"] + 50_000
    extended, _ = run(project, "extend", first["run"], "--draws", str(more))
    assert extended["slices"]["reused"] >= first["slices"]["total"]
    at_once, _ = run(project, "run", "option", "--seed", "1", "--draws", str(more), "--fresh")
    assert at_once["result"]["digest"] == extended["result"]["digest"]
    refused = hindscan("extend", first["run"], "--draws", "5", project=project, check=2)
    assert f"more draws than its {manifest['draws']:,}" in refused.err


def test_a_stop_by_seconds_is_kept_and_repeated(project: Path) -> None:
    first, manifest = run(project, "run", "option", "--seed", "1", "--stop", "price=0.000001", "--max-seconds", "0.001")
    stopped = told(manifest)["stopped"]
    assert (stopped["why"], stopped["looks"]) == ("max_seconds", 1)
    again, repeated = run(project, "rerun", first["run"], "--fresh")
    assert again["result"]["digest"] == first["result"]["digest"]
    assert repeated["draws"] == manifest["draws"]
    assert told(repeated)["stopped"] == stopped
    edited, other = run(project, "rerun", first["run"], "-p", "strike=90")
    assert edited["parameters"] == {"strike": 90.0}
    assert told(other)["stopped"]["why"] == "max_seconds"


def test_a_rule_that_names_no_statistic_is_refused_and_so_is_randomness_from_elsewhere(project: Path) -> None:
    refused = hindscan("run", "option", "--stop", "cost=1%", project=project, check=2)
    assert "'cost' is none of its statistics deep, price" in refused.err
    (project / "jobs" / "summed.py").write_text(SUMMED)
    refused = hindscan("run", "summed", "--stop", "cost=1%", project=project, check=2)
    assert "'cost' is none of its quantities gain, loss" in refused.err
    assert hindscan("runs", "--json", project=project).document == {"runs": []}
    failed = hindscan("run", "lucky", project=project, check=1)
    assert "take all of it from block.rng" in failed.err
