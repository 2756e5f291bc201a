"""The command about events of runs that are to be sent: `outbox`."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from hindscan.cli.options import DEFAULTS, Count, Options
from hindscan.cli.output import print_document, print_table
from hindscan.errors import NotFound, UsageError

__all__ = ["outbox"]

Flag = Annotated[bool, Parameter(negative="")]


def outbox(
    *,
    outlet: str | None = None,
    state: Literal["waiting", "refused", "sent", "unmatched"] | None = None,
    limit: Count = 100,
    send: Count | None = None,
    send_all: Flag = False,
    options: Options = DEFAULTS,
) -> None:
    """Show which events of runs are not sent yet, or were refused, and why; or have them sent again by the dispatcher.

    Parameters
    ----------
    outlet : str
        Only of this [publish.NAME].
    state : str
        Only what is in this state. Default: what waits, and what was refused.
    limit : int
        How many, the oldest first.
    send : int
        Have this entry sent now, whatever became of it.
    send_all : bool
        Have all sent now that wait for their next try or were refused.
    """
    from hindscan.runs import outbox as box
    from hindscan.runs.store import open_store

    if send is not None and send_all:
        raise UsageError("Sending again: give either --send ENTRY or --send-all.")
    project = options.load()
    with open_store(project.store_url, project.root) as store:
        if send is not None or send_all:
            again = box.send_again(store, entry=send, outlet=outlet)
            if send is not None and not again:
                raise NotFound(f"Sending entry {send} again: it must be in the outbox; it is not. `hindscan outbox` lists what is.")  # fmt: skip
            if options.json:
                print_document({"again": again})
            else:
                print(f"{again} to be sent by the dispatcher (hindscan serve)")
            return
        found = box.entries(store, outlet=outlet, state=state, limit=limit)
    if options.json:
        print_document({"outbox": found})
        return
    columns = ("entry", "outlet", "run", "type", "state", "written_at", "tries", "next_at", "reason")
    print_table(columns, [[one[name] for name in columns] for one in found])
