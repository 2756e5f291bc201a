"""What slices of a job took, as the results of its last runs say: nothing more need be remembered.

Serves promise 10. Every result has in its snapshot.parquet what each slice read and took; those that were computed, not reused, give the pace of each step.

::

    store: last runs of a job -> results/JOB/RUN/snapshot.parquet -> learnt_paces -> {"slice": Pace} -> plans.cost, tasks.execution
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hindscan.plans.pace import Pace, weight
from hindscan.runs import schema
from hindscan.runs.statement import Statement

if TYPE_CHECKING:
    from hindscan.runs.store import Store

__all__ = ["learnt_paces"]

#: Runs that are looked through, newest first, for one that computed something.
RUNS_MOST: Final = 5
_COLUMNS: Final = ("stage", "kind", "rows", "bytes", "reused", "seconds")


def learnt_paces(store: Store, root: Path, job: str) -> dict[str, Pace]:
    """Give the pace of each step of a job, from the last run that computed slices of it.

    Parameters
    ----------
    root : Path
        What the folders of results are relative to: the project's.

    Returns
    -------
    dict
        By step; empty where no run computed anything lately.
    """
    with store.read() as connection:
        results = _LAST_RESULTS.rows(connection, of=job)
    for (result,) in results:
        found = _paces_of(root / result / "snapshot.parquet") if result else {}
        if found:
            return found
    return {}


_LAST_RESULTS: Final = Statement(
    lambda _: (
        sa.select(schema.runs.c.result)
        .where(schema.runs.c.job == sa.bindparam("of"), schema.runs.c.state == "succeeded")
        .order_by(schema.runs.c.seq.desc())
        .limit(RUNS_MOST)
    )
)


def _paces_of(file: Path) -> dict[str, Pace]:
    import pyarrow.parquet as pq

    try:
        # Not by `read_table`, which loads pyarrow.dataset and with it pandas: a good part of a small run's time.
        with pq.ParquetFile(file) as opened:
            table = opened.read(columns=list(_COLUMNS))
    except OSError:
        return {}  # the result was removed: nothing is learnt from it
    sums: dict[str, tuple[float, int]] = {}
    for stage, kind, rows, size, reused, seconds in zip(*(table[name].to_pylist() for name in _COLUMNS), strict=True):
        if reused:
            continue
        before = sums.get(stage, (0.0, 0))
        sums[stage] = (before[0] + seconds, before[1] + weight(rows=rows, size=size, drawn=kind == "draws"))
    return {stage: Pace(*measured) for stage, measured in sums.items() if measured[0] > 0}
