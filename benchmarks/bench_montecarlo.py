"""Monte Carlo beside bare threads and dask.array: how many normal numbers, or paths of a European option, are drawn and averaged in a second.

Run it with `python benchmarks/bench_montecarlo.py [--draws 1000000000] [--repeat 3] [--blocks]`. The bare kernel is what a careful user writes without hindscan: two
threads, a generator each, blocks that fit the cache, numbers drawn into one buffer. hindscan runs the same kernel as a job, with mean and standard error, in the two
threads of its workers; what it takes to plan, store and publish is in its figure, the start of the process that works is not. The first line has CPU seconds of one
block: of the kernel, of its statistics, and of hindscan itself; they count on a machine that others use, too. `--blocks` gives these alone.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import dask.array as da
import numpy as np

BLOCK = 65_536
WORKERS = 2

JOBS = """import numpy as np
import hindscan as hs


@hs.simulation(statistics={"x": hs.Mean()}, generator="SFC64")
def normals(block):
    return block.rng.standard_normal(block.size)


@hs.simulation(statistics={"x": hs.Mean()}, generator="SFC64")
def option(block):
    paths = block.rng.standard_normal(block.size)
    np.multiply(paths, 0.2, out=paths)
    np.add(paths, 0.01, out=paths)
    np.exp(paths, out=paths)
    np.multiply(paths, 100.0, out=paths)
    np.subtract(paths, 100.0, out=paths)
    return np.maximum(paths, 0.0, out=paths)
"""


def _normals(rng: np.random.Generator, buffer: np.ndarray) -> None:
    rng.standard_normal(out=buffer)


def _option(rng: np.random.Generator, buffer: np.ndarray) -> None:
    rng.standard_normal(out=buffer)
    np.multiply(buffer, 0.2, out=buffer)
    np.add(buffer, 0.01, out=buffer)
    np.exp(buffer, out=buffer)
    np.multiply(buffer, 100.0, out=buffer)
    np.subtract(buffer, 100.0, out=buffer)
    np.maximum(buffer, 0.0, out=buffer)


def bare(kernel: Callable[[np.random.Generator, np.ndarray], None], draws: int) -> None:
    """Draw in two bare threads, and sum."""
    totals = [0.0] * WORKERS

    def work(number: int) -> None:
        rng, buffer = np.random.Generator(np.random.SFC64(number)), np.empty(BLOCK)
        for _ in range(draws // BLOCK // WORKERS):
            kernel(rng, buffer)
            totals[number] += float(buffer.sum())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def dask_array(job: str, draws: int, chunk: int | str) -> None:
    """Draw with dask.array, in its threads."""
    numbers = da.random.default_rng(1).standard_normal(draws, chunks=chunk)
    if job == "option":
        numbers = da.maximum(100.0 * da.exp(0.01 + 0.2 * numbers) - 100.0, 0.0)
    numbers.mean().compute(scheduler="threads", num_workers=WORKERS)


def seconds(work: Callable[[], object], repeat: int) -> float:
    """Give the median."""
    found = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def hindscan(folder: Path, draws: int, repeat: int) -> dict[str, float]:
    """Run both jobs, each time with another seed, in workers that are there."""
    from hindscan.config import load_project
    from hindscan.driver import drive
    from hindscan.planning import ask
    from hindscan.runs import codes, opening
    from hindscan.workshop import open_workshop

    (folder / "hindscan.toml").write_text(f"[compute]\nworkers = {WORKERS}\n")
    (folder / "jobs").mkdir()
    (folder / "jobs" / "drawing.py").write_text(JOBS)
    project = load_project(folder)
    found = {}
    with open_workshop(project) as workshop:
        for job in ("normals", "option"):
            spec, code = workshop.job(job)
            digest = codes.save_code(workshop.store, spec, code)

            def work(seed: int, draws: int, spec: object = spec, digest: str = digest) -> None:
                request = ask(project, spec, {}, seed=seed, draws=draws)  # type: ignore[arg-type]
                run = opening.open_run(workshop.store, request, code=digest, requested_by="bench")
                done = drive(workshop, run.id)
                assert done.state == "succeeded", done.message

            work(0, draws=10_000_000)
            seeds = iter(range(1, 1000))
            found[job] = seconds(lambda work=work, seeds=seeds: work(next(seeds), draws), repeat)  # type: ignore[misc]
    return found


def overhead() -> None:
    """Print what a block takes: the kernel, its statistics, and hindscan's own."""
    from hindscan.history.snapshot import DrawPin, DrawSlice
    from hindscan.jobs import estimates
    from hindscan.jobs.estimators import Mean
    from hindscan.jobs.simulation import simulate

    drawn = np.random.Generator(np.random.SFC64(1)).standard_normal(BLOCK)
    blocks, wanted = 64, {"x": Mean()}
    pin = DrawPin(draws=2 * blocks * BLOCK, seed=1, block_size=BLOCK, generator="SFC64")
    piece = DrawSlice(position=1, start=blocks * BLOCK, end=2 * blocks * BLOCK)

    def given(block: object) -> np.ndarray:
        block.rng  # type: ignore[attr-defined]  # noqa: B018 -- to have the stream made
        return drawn

    one = {"x": drawn}
    rng, buffer = np.random.Generator(np.random.SFC64(1)), np.empty(BLOCK)
    whole = cpu(lambda: simulate(given, piece, pin, built_in=True, name="x", wanted=wanted)) / blocks
    summed = cpu(lambda: [estimates.block_sums(wanted, one, index=0, unit=1, name="x") for _ in range(blocks)]) / blocks
    kernel = cpu(lambda: [rng.standard_normal(out=buffer) for _ in range(blocks)]) / blocks
    own = max(0.0, whole - summed)
    print(
        f"CPU microseconds of a block of {BLOCK:,}: the kernel {kernel * 1e6:.0f}, mean and standard error {summed * 1e6:.0f} "
        f"({100 * summed / kernel:.0f} %), hindscan's own {own * 1e6:.0f} ({100 * own / kernel:.1f} %)"
    )


def cpu(work: Callable[[], object]) -> float:
    """Give the least CPU seconds of this thread, of thirty times."""
    found = []
    for _ in range(30):
        began = time.thread_time()
        work()
        found.append(time.thread_time() - began)
    return min(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1_000_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--blocks", action="store_true")
    arguments = parser.parse_args()
    overhead()
    if arguments.blocks:
        return
    draws = math.ceil(arguments.draws / BLOCK / WORKERS) * BLOCK * WORKERS
    with tempfile.TemporaryDirectory() as folder:
        ours = hindscan(Path(folder), draws, arguments.repeat)
    few = min(draws, 200_000_000)
    print("| job | way | million/s | of bare threads |\n|---|---|---|---|")
    for job, kernel in (("normals", _normals), ("option", _option)):
        found = {
            "two bare threads": seconds(lambda kernel=kernel: bare(kernel, draws), arguments.repeat),
            "hindscan": ours[job],
        }  # type: ignore[misc]
        chunks = {
            chunk: seconds(lambda job=job, chunk=chunk: dask_array(job, few, chunk), 1)
            for chunk in (2**16, 2**18, 2**20, 2**22)
        }  # type: ignore[misc]
        best = min(chunks, key=lambda chunk: chunks[chunk])
        found[f"dask.array, chunks of 2^{best.bit_length() - 1}"] = chunks[best] * draws / few
        found["dask.array, as a newcomer"] = seconds(lambda job=job: dask_array(job, few, "auto"), 1) * draws / few  # type: ignore[misc]
        for way, took in found.items():
            print(f"| {job} | {way} | {draws / took / 1e6:.0f} | {found['two bare threads'] / took:.2f} |", flush=True)


if __name__ == "__main__":
    main()
