"""Where a simulation with a stopping rule has stopped, remembered before its result is published.

Keeps promises 4 and 8: a stop by seconds depends on the machine, so it is decided once; it is stored under the claim's token, and whoever takes the run
up again, after whatever death, and whoever runs it again, draws the same prefix.

::

    rounds -> settle (under the token) -> RunRequest.settled -> planning
"""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from hindscan.errors import Fenced
from hindscan.runs import schema
from hindscan.runs.register import get_run
from hindscan.runs.run import Settled
from hindscan.runs.store import Store

__all__ = ["settle"]


def settle(store: Store, run: str, token: int, settled: Settled) -> None:
    """Keep where a run stopped with its request.

    Raises
    ------
    hindscan.errors.Fenced
        The run runs under another claim.
    """
    request = msgspec.structs.replace(get_run(store, run).request, settled=settled)
    table = schema.runs
    with store.write() as connection:
        changed = connection.execute(
            sa.update(table)
            .where(table.c.id == run, table.c.state == "running", table.c.token == token)
            .values(request=msgspec.json.encode(request).decode())
        )
    if changed.rowcount != 1:
        raise Fenced(
            f"Keeping where run {run} stopped: its claim must be held; claim {token} is not, so another owner has it. Stop this work.",
            run=run,
            token=token,
        )
