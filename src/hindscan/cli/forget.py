"""The command that deletes what there is of a subject: `forget`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from hindscan.cli.options import DEFAULTS, Options
from hindscan.cli.output import human_count, print_document

__all__ = ["forget"]


def forget(
    *, subject: str, dry_run: Annotated[bool, Parameter(negative="")] = False, options: Options = DEFAULTS
) -> int:
    """Delete a subject's event bodies, and partials, results and copies of their runs; list histories. Exit code 1 if partials could not be named.

    Parameters
    ----------
    subject : str
        Subject of the events, exactly.
    dry_run : bool
        Delete nothing, only tell what would be.
    """
    from hindscan import forgetting
    from hindscan.runs.store import open_store

    project = options.load()
    with open_store(project.store_url, project.root) as store:
        done = forgetting.forget(project, store, subject, dry_run=dry_run)
    if options.json:
        print_document(done)
        return int(bool(done.left))
    print(f"{'would be deleted' if dry_run else 'deleted'} of {subject!r}:")
    for count, what in (
        (done.events, "bodies of events"),
        (done.quarantined, "records in quarantine"),
        (len(done.runs), "runs, redacted"),
        (done.partials, "partials"),
        (done.results, "results"),
        (done.copies, "copies of results"),
    ):
        print(f"  {human_count(count):>8} {what}")
    for line in done.left:
        print(f"  not all partials could be named of run {line}")
    if done.histories or done.positions or done.tables:
        print("not touched, for whoever owns them:")
    for name in done.histories:
        print(f"  history {name}")
    for place in done.positions:
        print(f"  record {place}")
    for table in done.tables:
        print(f"  rows of these runs in {table}")
    return int(bool(done.left))
