"""Monte Carlo beside bare threads and dask.array: how many normal numbers, or paths of a European option, are drawn and averaged in a second.

Run it with `python benchmarks/bench_montecarlo.py [--draws 1000000000] [--repeat 3] [--blocks]`. The bare kernel is what a careful user writes without
hindscan: two threads, a generator each, blocks that fit the cache, numbers drawn into one buffer. hindscan runs the same kernel as a job in the two threads of
its workers; what it takes to plan, store and publish is in its figure, the start of the process that works is not. It always gives mean and standard error, so
bare threads and dask are measured giving both, by `numpy.mean` and `numpy.std` of each block, and giving the mean alone. "hindscan, block.normals" is the same
job written with hindscan's own normal numbers, and what the aims about dask.array are held against. The ways take turns, so that a machine that others use is
as slow for all, and the least of the times counts; processor time is that of the process and of all it has started.

The first lines have CPU seconds of one block: of the kernel, of its statistics, and of hindscan itself. `--blocks` gives these alone.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dask.array as da
import numpy as np
import psutil

BLOCK = 65_536
WORKERS = 2

JOBS = """import numpy as np
import hindscan as hs


@hs.simulation(statistics={"x": hs.Mean()}, generator="SFC64")
def normals(block):
    return block.rng.standard_normal(block.size)


@hs.simulation(statistics={"x": hs.Mean()}, generator="SFC64")
def own_normals(block):
    return block.normals(1)[:, 0]


def paid(paths):
    np.multiply(paths, 0.2, out=paths)
    np.add(paths, 0.01, out=paths)
    np.exp(paths, out=paths)
    np.multiply(paths, 100.0, out=paths)
    np.subtract(paths, 100.0, out=paths)
    return np.maximum(paths, 0.0, out=paths)


@hs.simulation(statistics={"x": hs.Mean()}, generator="SFC64")
def option(block):
    return paid(block.rng.standard_normal(block.size))


@hs.simulation(statistics={"x": hs.Mean()}, generator="SFC64")
def own_option(block):
    return paid(block.normals(1)[:, 0])
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


def bare(kernel: Callable[[np.random.Generator, np.ndarray], None], draws: int, *, both: bool) -> None:
    """Draw in two bare threads; give the mean, or mean and standard deviation."""
    totals = [0.0] * WORKERS

    def work(number: int) -> None:
        rng, buffer = np.random.Generator(np.random.SFC64(number)), np.empty(BLOCK)
        for _ in range(draws // BLOCK // WORKERS):
            kernel(rng, buffer)
            totals[number] += float(buffer.mean()) + float(buffer.std()) if both else float(buffer.sum())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def dask_array(job: str, draws: int, chunk: int | str, *, both: bool) -> None:
    """Draw with dask.array, in its threads."""
    numbers = da.random.default_rng(1).standard_normal(draws, chunks=chunk)
    if job == "option":
        numbers = da.maximum(100.0 * da.exp(0.01 + 0.2 * numbers) - 100.0, 0.0)
    wanted = (numbers.mean(), numbers.std()) if both else (numbers.mean(),)
    da.compute(*wanted, scheduler="threads", num_workers=WORKERS)


def seconds(work: Callable[[], object]) -> float:
    """Take the time."""
    return taken(work)[0]


def taken(work: Callable[[], object]) -> tuple[float, float]:
    """Take the time, and the processor time of this process and of all that it has started."""
    cpu, began = processor(), time.perf_counter()
    work()
    return time.perf_counter() - began, processor() - cpu


def processor() -> float:
    """Give the processor seconds of this process, of its children and of those that have ended, so far."""
    me = psutil.Process()
    return sum(sum(one.cpu_times()[:4]) for one in (me, *me.children(recursive=True)))


@contextmanager
def hindscan(folder: Path) -> Iterator[Callable[[str, int], None]]:
    """Give what runs a job, each time with another seed, in workers that are there."""
    from hindscan.config_file import load_project
    from hindscan.driver import drive
    from hindscan.planning import ask
    from hindscan.runs import codes, opening
    from hindscan.workshop import open_workshop

    (folder / "hindscan.toml").write_text(f"[compute]\nworkers = {WORKERS}\n")
    (folder / "jobs").mkdir()
    (folder / "jobs" / "drawing.py").write_text(JOBS)
    project, seeds = load_project(folder), itertools.count()
    with open_workshop(project) as workshop:

        def work(job: str, draws: int) -> None:
            spec, code = workshop.job(job)
            digest = codes.save_code(workshop.store, spec, code)
            run = opening.open_run(
                workshop.store, ask(project, spec, {}, seed=next(seeds), draws=draws), code=digest, requested_by="bench"
            )
            done = drive(workshop, run.id)
            assert done.state == "succeeded", done.message

        yield work


def overhead() -> None:
    """Print what a block takes: the kernel, its statistics, and hindscan's own."""
    from hindscan.history.snapshot import DrawPin, DrawSlice
    from hindscan.jobs import totals
    from hindscan.jobs.compiler import compiler
    from hindscan.jobs.estimators import Mean
    from hindscan.jobs.normal import NormalStream
    from hindscan.jobs.simulation import simulate

    drawn = np.random.Generator(np.random.SFC64(1)).standard_normal(BLOCK)
    blocks, wanted = 64, {"x": Mean()}
    pin = DrawPin(draws=2 * blocks * BLOCK, seed=1, block_size=BLOCK, generator="SFC64")
    piece = DrawSlice(position=1, start=blocks * BLOCK, end=2 * blocks * BLOCK)

    def given(block: object) -> np.ndarray:
        block.rng  # type: ignore[attr-defined]  # noqa: B018 -- to have the stream made
        return drawn

    one = {"x": drawn}
    compiler.load()  # of the numba there is; as after some seconds of a run
    rng, buffer = np.random.Generator(np.random.SFC64(1)), np.empty(BLOCK)
    whole = cpu(lambda: simulate(given, piece, pin, built_in=True, name="x", wanted=wanted)) / blocks
    summed = cpu(lambda: [totals.block_sums(wanted, one, index=0, unit=1, name="x") for _ in range(blocks)]) / blocks
    kernel = cpu(lambda: [rng.standard_normal(out=buffer) for _ in range(blocks)]) / blocks
    faster = cpu(lambda: NormalStream(rng).draw(BLOCK))
    own = max(0.0, whole - summed)
    print(
        f"CPU microseconds of a block of {BLOCK:,}: the kernel {kernel * 1e6:.0f}, mean and standard error {summed * 1e6:.0f} "
        f"({100 * summed / kernel:.0f} %), hindscan's own {own * 1e6:.0f} ({100 * own / kernel:.1f} %)\n"
        f"The same of block.normals {faster * 1e6:.0f}: {kernel / faster:.1f} times as fast; {100 * own / faster:.1f} % of it are hindscan's own"
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
    few = min(draws, 200_000_000)
    print("| job | gives | way | million/s | of bare threads | CPU ns a draw |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, hindscan(Path(folder)) as run:
        for job in ("normals", "option"):
            run(job, 10_000_000)
            # As many as a process draws before it loads the compiler, in each worker.
            run(f"own_{job}", 200_000_000)
            chunk, ways = _ways(job, run, draws, few)
            rounds = [{way: taken(work) for way, work in ways.items()} for _ in range(arguments.repeat)]
            counts = {way: few if "dask" in way[1] else draws for way in ways}
            rates = {way: count / min(found[way][0] for found in rounds) for way, count in counts.items()}
            cost = {way: min(found[way][1] for found in rounds) / count * 1e9 for way, count in counts.items()}
            for (gives, way), rate in rates.items():
                share = rate / rates[gives, BARE]
                print(
                    f"| {job} | {gives} | {way.format(chunk=chunk)} | {rate / 1e6:.0f} | {share:.2f} | {cost[gives, way]:.1f} |"
                )
            share = rates[BOTH, HINDSCAN] / rates[MEAN, BARE]
            print(f"| {job} | {BOTH}, beside bare threads that give the mean alone | {HINDSCAN} | | {share:.2f} | |")
            for gives, way in ways:
                if "dask" in way:
                    faster, less = rates[BOTH, OWN] / rates[gives, way], cost[gives, way] / cost[BOTH, OWN]
                    print(
                        f"{job}: {OWN} is {faster:.1f} x {way.format(chunk=chunk)} ({gives}), by processor time {less:.1f} x",
                        flush=True,
                    )


BARE, HINDSCAN, OWN, MEAN, BOTH = "two bare threads", "hindscan", "hindscan, block.normals", "mean", "mean and error"


def _ways(
    job: str, run: Callable[[str, int], None], draws: int, few: int
) -> tuple[str, dict[tuple[str, str], Callable[[], None]]]:
    """Give the ways to draw, by what they give and what they are called, and the best size of dask's chunks."""
    kernel = _normals if job == "normals" else _option
    chunk = min(
        (2**16, 2**18, 2**20, 2**22), key=lambda chunk: seconds(lambda: dask_array(job, few, chunk, both=False))
    )
    ways: dict[tuple[str, str], Callable[[], None]] = {}
    for gives, both in ((MEAN, False), (BOTH, True)):
        ways[gives, BARE] = functools.partial(bare, kernel, draws, both=both)
        if both:
            ways[gives, HINDSCAN] = functools.partial(run, job, draws)
            ways[gives, OWN] = functools.partial(run, f"own_{job}", draws)
        ways[gives, "dask.array, chunks of {chunk}"] = functools.partial(dask_array, job, few, chunk, both=both)
        ways[gives, "dask.array, as a newcomer"] = functools.partial(dask_array, job, few, "auto", both=both)
    return f"2^{chunk.bit_length() - 1}", ways


if __name__ == "__main__":
    main()
