"""Jobs over the numbered history of `running`: copied into each test's project, they travel to workers as a user's do."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

import hindscan as hs


def number(numbers):
    return numbers.arrow()["n"][0].as_py()


def mark(folder):
    Path(folder, str(os.getpid())).touch()


@hs.job(history="numbers", combine="concat")
def echo(numbers):
    return {"n": number(numbers), "pid": os.getpid()}


@hs.job(history="numbers", combine="concat")
def rows(numbers):
    return numbers.arrow(["i", "n"])


@hs.job(history="numbers", tables={"all_numbers": "numbers"})
def sums(numbers, all_numbers, modulus: int = 7):
    """Sums of floats that come out differently in every order."""
    return numbers.sql(
        "SELECT i % $modulus AS class, sum(x) AS total, count(*) AS rows, (SELECT max(i) FROM all_numbers) AS last "
        "FROM numbers GROUP BY ALL ORDER BY class",
        modulus=modulus,
    )


@sums.combine
def merge(partials):
    return partials.sql(
        "SELECT class, sum(total) AS total, sum(rows)::BIGINT AS rows, max(last) AS last FROM partials GROUP BY ALL ORDER BY class"
    )


@sums.finish
def top(combined, least: int = 0):
    return combined.sql("SELECT * FROM combined WHERE rows >= $least ORDER BY total DESC", least=least)


@hs.job(history="numbers", combine="concat")
def raising(numbers, bad: int = 3):
    n = number(numbers)
    if n == bad:
        raise LookupError(f"slice {n} is bad")
    return {"n": n}


@hs.job(history="numbers", combine="concat")
def always(numbers):
    raise LookupError("always")


@hs.job(history="numbers", combine="concat")
def leaving(numbers, bad: int = 3, how: str = "exit"):
    n = number(numbers)
    if n == bad:
        raise {"exit": SystemExit(7), "interrupt": KeyboardInterrupt()}[how]
    return {"n": n}


@hs.job(history="numbers", combine="concat")
def deadly(numbers, how: str = "exit", bad: int = 3, folder: str = ""):
    n = number(numbers)
    if n == bad:
        if folder:
            with Path(folder, "deaths").open("a") as deaths:
                deaths.write("x")
        if how == "exit":
            os._exit(9)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        ctypes.string_at(0)
    return {"n": n}


@hs.job(history="numbers", combine="concat")
def dying_once(numbers, folder: str):
    n = number(numbers)
    once = Path(folder, f"once-{n}")
    if n % 10 == 3 and not once.exists():
        once.touch()
        os._exit(9)
    return {"n": n}


@hs.job(history="numbers", combine="concat")
def sleeping(numbers, folder: str, seconds: float = 60.0):
    mark(folder)
    time.sleep(seconds)
    return {"n": number(numbers)}


@hs.job(history="numbers", combine="concat")
def deaf(numbers, folder: str):
    """Hold the interpreter lock for ever, with a child of its own."""
    subprocess.Popen(["sleep", "60"])
    mark(folder)
    re.match(r"(a*)*b", "a" * 60)
    return {"n": 0}


@hs.job(history="numbers", combine="concat")
def printing(numbers):
    n = number(numbers)
    print(f"this is {n}")
    print(f"error of {n}", file=sys.stderr)
    print("x" * 100_000 if n == 1 else "", end="")
    return {"n": n}


@hs.job(history="numbers", combine="concat")
def uneven(numbers, slow: int = 0):
    n = number(numbers)
    time.sleep(1.0 if n == slow else 0.0)
    return {"n": n}


@hs.job(history="numbers")
def widening(numbers):
    return {"total": int(numbers.arrow()["i"].to_numpy().sum())}


@widening.combine
def widened(partials):
    return partials.sql("SELECT sum(total) AS total FROM partials")


@hs.job(history="numbers", combine="concat")
def unlike(numbers):
    n = number(numbers)
    return {"n": float(n) if n == 5 else n}


@hs.job(history="numbers", combine="concat")
def sometimes_null(numbers):
    n = number(numbers)
    return {"n": n if n % 3 == 0 else None}


def fit(numbers):
    return {"mean": numbers.arrow()["i"].to_numpy().mean(), "grid": np.arange(6).reshape(2, 3)}


@hs.simulation(history="numbers", calibrate=fit, block_size=1000, draws=600_000)
def draw(block, model, scale: float = 2.0):
    return block.rng.normal(model["mean"], scale * (model["grid"].sum() / 15), block.size)


@hs.simulation(
    history="numbers",
    calibrate=fit,
    block_size=100,
    draws=60_000,
    generator="SFC64",
    statistics={
        "mean": hs.Mean("x", controls={"z": 0.0}),
        "far": hs.Probability("z", above=3.0),
        "quantile": hs.Quantile("x", 0.99),
        "batches": hs.Mean("x", batch=50),
    },
)
def estimated(block, model, folder: str = ""):
    """Kills its worker in the middle, once, if it has a folder to remember that in."""
    if folder and block.index == 77 and not Path(folder, "killed").exists():
        Path(folder, "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    z = block.rng.standard_normal(block.size)
    return {"x": np.exp(z) * model["mean"] / 3, "z": z}


@hs.simulation(block_size=100, draws=2_000, statistics={"x": hs.Mean()})
def of_the_world(block):
    return np.random.default_rng().normal(size=block.size)


@hs.simulation(block_size=100, draws=2_000, statistics={"x": hs.Mean()})
def of_its_own(block):
    return np.random.default_rng(7).normal(size=block.size)


def nothing_yet():
    return pa.table(
        {"last": pa.array([], pa.int64()), "total": pa.array([], pa.float64()), "rows": pa.array([], pa.int64())}
    )


@hs.job(history="numbers", order="partition", state=nothing_yet, combine="concat")
def running(numbers, state, bad: int = -1, folder: str = ""):
    """Running sums, which come out differently in every order, and the row before each slice."""
    n = number(numbers)
    if folder:
        with Path(folder, "computed").open("a") as computed:
            computed.write(f"{n} ")
    if n == bad:
        raise LookupError(f"slice {n} is bad")
    rows = numbers.arrow()
    before = state.arrow().to_pylist() or [{"last": -1, "total": 0.0, "rows": 0}]
    total = before[0]["total"]
    for x in rows["x"].to_pylist():
        total = total * 0.75 + x
    last = rows["i"][-1].as_py()
    after = pa.table({"last": [last], "total": [total], "rows": [before[0]["rows"] + rows.num_rows]})
    # By SQL too: the state is a table like any other.
    seen = numbers.sql("SELECT count(*) AS rows, (SELECT max(last) FROM state) AS before FROM numbers").to_pylist()[0]
    return {"n": n, "before": before[0]["last"], "by_sql": seen["before"], "total": total}, after


@running.close
def ended(state):
    return state.sql("SELECT -1::BIGINT AS n, last AS before, last AS by_sql, total FROM state")


@hs.job(
    history="numbers", order="partition", state=lambda: {"seen": [], "sum": np.zeros(2), "at": None}, combine="concat"
)
def counting(numbers, state, how: str = "", bad: int = 3, folder: str = ""):
    """State in a dict, and every way to go wrong."""
    n = number(numbers)
    once = Path(folder, f"once-{n}")
    if how == "die" and n == bad:
        os._exit(9)
    if how == "die once" and n % 5 == 3 and not once.exists():
        once.touch()
        os._exit(9)
    if how == "sleep":
        mark(folder)
        time.sleep(60.0 if n == bad else 0.0)
    if how == "no pair":
        return {"n": n}
    if how == "other form":
        return {"n": n}, {"seen": []}
    state["sum"][n % 2] += n
    seen = [*state["seen"], n]
    return {"n": n, "before": len(state["seen"]), "even": state["sum"][0]}, {
        "seen": seen,
        "sum": state["sum"],
        "at": {"n": n},
    }


@hs.job(history="numbers", order="partition", state=lambda: {"partition": -1, "sum": 0}, combine="concat")
def offsets(numbers, state, bad: int = -1):
    """Sums of the offsets of a partition, over a topic."""
    rows = numbers.arrow()
    partition, offset = rows["partition"][0].as_py(), rows["offset"].to_pylist()
    if bad in offset and partition == 0:
        raise LookupError(f"offset {bad} of partition {partition} is bad")
    after = {"partition": partition, "sum": state["sum"] + sum(offset)}
    return {"partition": partition, "from": offset[0], "sum": after["sum"], "closed": False}, after


@offsets.close
def summed(state, open_ended: int = -1):
    if state["partition"] == open_ended:
        raise LookupError("no end")
    return {"partition": state["partition"], "from": -1, "sum": state["sum"], "closed": True}


@hs.job(history="numbers", order="partition", state=nothing_yet, combine="concat")
def passing(numbers, state):
    """Hand the state on as it came."""
    return {"n": number(numbers), "columns": len(state.schema)}, state


def keyed(numbers):
    """Sums for many keys, of which the slices share most; keys that are null, and texts."""
    return numbers.sql(
        "SELECT CASE WHEN i % 11 < 10 THEN i % 11 END AS class, 'k' || (i % 3) AS kind, sum(x) AS total, count(*) AS rows FROM numbers GROUP BY ALL ORDER BY ALL"
    )


def add_keyed(partials):
    return partials.sql(
        "SELECT class, kind, sum(total) AS total, sum(rows)::BIGINT AS rows FROM partials GROUP BY ALL ORDER BY ALL"
    )


def sorted_keyed(combined):
    return combined.sql("SELECT *, total / rows AS mean FROM combined ORDER BY class, kind")


split_sums = hs.job(history="numbers", by=["class", "kind"], parts=5, name="split_sums")(keyed)
split_sums.combine(add_keyed)
split_sums.finish(sorted_keyed)

unsplit_sums = hs.job(history="numbers", name="unsplit_sums")(keyed)
unsplit_sums.combine(add_keyed)
unsplit_sums.finish(sorted_keyed)


@hs.job(history="numbers", by="i", combine="concat", parts=3)
def split_raising(numbers, bad: int = 3):
    table = numbers.arrow(["i", "n"])
    if bad in table["n"].to_pylist():
        raise ValueError(f"this is slice {bad}")
    return table


@hs.job(history="numbers", by="i", combine="concat", parts=3)
def split_rows(numbers):
    return numbers.sql("SELECT i, n FROM numbers ORDER BY i DESC")


@hs.job(history="numbers", by="absent", combine="concat")
def split_by_nothing(numbers):
    return numbers.arrow(["i", "n"])


def few(partials, most: int = 2000):
    """Refuse more rows than a worker of this job is thought to hold."""
    table = partials.arrow()
    if table.num_rows > most:
        raise MemoryError(f"{table.num_rows} rows")
    return table


def distinct(numbers):
    return numbers.arrow(["i"])


split_few = hs.job(history="numbers", by="i", parts=4, name="split_few")(distinct)
unsplit_few = hs.job(history="numbers", name="unsplit_few")(distinct)
for each in (split_few, unsplit_few):
    each.combine(few)
    each.finish(few)


@hs.job(history="numbers", combine="concat")
def hungry(numbers, folder: str, bad: int = 3, megabytes: int = 700, appetite: str = "always"):
    """Take memory, and hold it until somebody does something about it."""
    n = number(numbers)
    eaten = Path(folder, f"eaten-{n}")
    if n == bad and (appetite == "always" or not eaten.exists()):
        with eaten.open("a") as times:
            times.write("x")
        taken = np.ones(megabytes * 2**17)
        time.sleep(60)
        return {"n": int(taken[0])}
    return {"n": n}


@hs.job(history="numbers", by="i", parts=4, combine="concat")
def hungry_part(numbers):
    return numbers.arrow(["i"])


@hungry_part.finish
def eat(combined, row: int = 25):
    """Take memory in the part that a row is in."""
    table = combined.arrow()
    if row in table["i"].to_pylist():
        _taken = np.ones(700 * 2**17)
        time.sleep(60)
    return table


@hs.job(history="numbers")
def groups(numbers):
    """Counts and sums by group: of nulls, NaN, and no rows at all."""
    return numbers.sql(
        "SELECT g, count(*) AS rows, count(v) AS valued, count(*) FILTER (isnan(v)) AS nans, "
        "coalesce(sum(v) FILTER (NOT isnan(v)), 0.0) AS total, max(w) AS most FROM numbers GROUP BY g ORDER BY g NULLS FIRST"
    )


@groups.combine
def regrouped(partials):
    return partials.sql(
        "SELECT g, sum(rows)::BIGINT AS rows, sum(valued)::BIGINT AS valued, sum(nans)::BIGINT AS nans, sum(total) AS total, max(most) AS most "
        "FROM partials GROUP BY g ORDER BY g NULLS FIRST"
    )


def others_of(others, bad_other: int = -1):
    """Give the history that is joined as it is; one of its slices may fail."""
    rows = others.arrow(["k", "o"])
    if bad_other in rows["o"].to_pylist():
        raise LookupError(f"other {bad_other} is bad")
    return rows


@hs.job(history="others", by="k", parts=3, combine="concat", name="other_rows")
def other_rows(others, bad_other: int = -1):
    return others_of(others, bad_other)


def keys_of(numbers, bad: int = -1, every: int = 1):
    """Some sums for each key, of which some are null, and some no other has."""
    if bad in numbers.arrow(["n"])["n"].to_pylist():
        raise LookupError(f"slice {bad} is bad")
    return numbers.sql(
        "SELECT CASE WHEN i % 37 < 36 THEN i % 37 END AS key, sum(x) AS total, count(*) AS rows FROM numbers WHERE i % $every = 0 GROUP BY ALL ORDER BY ALL",
        every=every,
    )


def add_keys(partials):
    return partials.sql(
        "SELECT key, sum(total) AS total, sum(rows)::BIGINT AS rows FROM partials GROUP BY ALL ORDER BY ALL"
    )


@hs.job(history="numbers", by="key", parts=3, join={"others": other_rows})
def joined(numbers, bad: int = -1, every: int = 1):
    return keys_of(numbers, bad, every)


joined.combine(add_keys)


@joined.finish
def both(combined, others, times: int = 1):
    return combined.sql(
        "SELECT coalesce(key, k) AS key, total, rows, sum(o)::BIGINT * $times AS o, count(o) AS others "
        "FROM combined FULL JOIN others ON k = key GROUP BY ALL ORDER BY ALL",
        times=times,
    )


@hs.job(history="others", by="k", parts=3, combine="concat")
def texts(others):
    return others.sql("SELECT k::VARCHAR AS k, o FROM others")


@hs.job(history="numbers", by="key", parts=3, join={"others": texts}, combine="concat")
def unjoinable(numbers):
    return keys_of(numbers)


unjoinable.finish(both)
