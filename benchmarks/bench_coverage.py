"""How often 95 % intervals cover the truth when a rule decides where to stop: six problems with known answers, over many seeds.

Run it with `python benchmarks/bench_coverage.py [--seeds 2000] [--only NAME]`. Each line has the share of intervals that cover, the standard error of that share, the
median of the draws, and how the rule ended.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import math
import statistics
import time
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

import hindscan as hs

Draws = NDArray[np.float64]
PHI = NormalDist().cdf


@hs.simulation(statistics={"x": hs.Mean()}, block_size=1024)
def uniform(block: hs.Block) -> Draws:
    """The mean of a uniform number."""
    return block.rng.random(block.size)


@hs.simulation(statistics={"x": hs.Mean()}, block_size=4096)
def call(block: hs.Block) -> Draws:
    """A call far out of the money, by Black and Scholes: a skewed payoff."""
    spot = 100 * np.exp(0.01 - 0.02 + 0.2 * block.rng.standard_normal(block.size))
    return np.maximum(spot - 125, 0)


@hs.simulation(statistics={"x": hs.Probability(above=3.0)}, block_size=4096)
def rare(block: hs.Block) -> Draws:
    """A normal number beyond three standard deviations: a rare event."""
    return block.rng.standard_normal(block.size)


@hs.simulation(statistics={"x": hs.Mean(batch=4096)}, block_size=4096)
def queue(block: hs.Block) -> Draws:
    """Times waited in a queue, one customer after the other: M/M/1, load 0.5, begun as it is in the long run."""
    arrivals = block.rng.exponential(2.0, block.size)
    served = block.rng.exponential(1.0, block.size)
    steps = np.concatenate([[0.0], np.cumsum(served[:-1] - arrivals[1:])])
    first = block.rng.exponential(2.0) if block.rng.random() < 0.5 else 0.0
    # Lindley: what one waits is how far the walk stands above its lowest point so far.
    waits: Draws = steps - np.minimum(np.minimum.accumulate(steps), -first)
    return waits


@hs.simulation(statistics={"x": hs.Ratio("cost", "length")}, block_size=1024)
def ratio(block: hs.Block) -> dict[str, Draws]:
    """A ratio of means: cost over length of cycles."""
    length = block.rng.exponential(1.0, block.size)
    return {"length": length, "cost": length * length}


@hs.simulation(statistics={"x": hs.Mean("pay", controls={"spot": 100 * math.exp(0.05)})}, block_size=1024)
def controlled(block: hs.Block) -> dict[str, Draws]:
    """A call at the money, with the price of the asset as its control."""
    spot = 100 * np.exp(0.05 - 0.02 + 0.2 * block.rng.standard_normal(block.size))
    return {"pay": np.maximum(spot - 100, 0), "spot": spot}


def _black_scholes(strike: float, drift: float) -> float:
    d1 = (math.log(100 / strike) + drift + 0.02) / 0.2
    return 100 * math.exp(drift) * PHI(d1) - strike * PHI(d1 - 0.2)


#: Job, truth, rule.
PROBLEMS = {
    "uniform": (uniform, 0.5, {"half_width": 0.004}),
    "call": (call, _black_scholes(125, 0.01), {"relative": 0.03}),
    "rare": (rare, 1 - PHI(3.0), {"relative": 0.1}),
    "queue": (queue, 1.0, {"relative": 0.02}),
    "ratio": (ratio, 2.0, {"half_width": 0.03}),
    "controlled": (controlled, _black_scholes(100, 0.05), {"half_width": 0.08}),
}


def one(task: tuple[str, int]) -> tuple[bool, int, str]:
    """Draw a problem once: whether its interval covers, the draws, and why it stopped."""
    name, seed = task
    job, truth, rule = PROBLEMS[name]
    drawn = hs.draw(job, seed=seed, draws=2**24, stop=rule)
    row = drawn["x"]
    return bool(row["low"] <= truth <= row["high"]), drawn.draws, drawn.why


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--only", nargs="*", default=list(PROBLEMS))
    arguments = parser.parse_args()
    print(
        "| problem | rule | coverage | standard error | median draws | ended by | CPU s |\n|---|---|---|---|---|---|---|"
    )
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        for name in arguments.only:
            began = time.perf_counter()
            found = list(pool.map(one, [(name, seed) for seed in range(arguments.seeds)], chunksize=20))
            share = sum(covers for covers, _, _ in found) / len(found)
            error = math.sqrt(share * (1 - share) / len(found))
            rule = ", ".join(f"{key} {value:g}" for key, value in PROBLEMS[name][2].items())
            ends = ", ".join(sorted({why for _, _, why in found}))
            median = int(statistics.median(draws for _, draws, _ in found))
            print(
                f"| {name} | {rule} | {share:.4f} | {error:.4f} | {median:,} | {ends} | {2 * (time.perf_counter() - began):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
