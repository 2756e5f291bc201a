"""Commands about the past of a trigger: `replay`, `audit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hindscan.cli.options import DEFAULTS, Options
from hindscan.cli.output import human_bytes, human_count, print_document, print_table
from hindscan.errors import UsageError

if TYPE_CHECKING:
    from hindscan.replaying import Replayed

__all__ = ["audit", "replay"]

Flag = Annotated[bool, Parameter(negative="")]


def replay(
    trigger: str,
    /,
    *,
    since: str,
    until: str | None = None,
    name: str | None = None,
    repin: Flag = False,
    from_topic: Flag = False,
    dry_run: Flag = False,
    activate: Flag = False,
    options: Options = DEFAULTS,
) -> None:
    """Put past events through a trigger again, as runs of their own that wait for the dispatcher.

    Parameters
    ----------
    trigger : str
        Its name.
    since : str
        Events that came in from this time on: the time of their record, the instant, the file's last change, else of their receipt.
    until : str
        And before this time. Default: now.
    name : str
        Name of the replay: of one name each event is replayed once. Default: made of --since.
    repin : bool
        Pin anew as of each event instead of reading what the original run has read.
    from_topic : bool
        Read the trigger's topics, schedules and folders again rather than what was received of them; a trigger that never listened does so anyway.
    dry_run : bool
        Only decide and count: how many would match with the filter as it is now, and what the first of them would take.
    activate : bool
        Afterwards have a new trigger begin exactly where this look at the past ended.
    """
    from hindscan.replaying import Replay
    from hindscan.workshop import open_workshop

    with open_workshop(options.load()) as workshop:
        begun = Replay(
            workshop,
            trigger,
            since=_time("--since", since),
            until=_time("--until", until),
            name=name,
            repin=repin,
            from_topic=from_topic,
        )
        done = begun.run(dry_run=dry_run, activate=activate)
    if options.json:
        print_document(done)
    else:
        _print_replayed(done)


def _print_replayed(done: Replayed) -> None:
    print(
        f"{done.events} events: {done.matched} matched, {done.unmatched} did not, {done.quarantined} cannot be decided"
    )
    if done.unreadable:
        print(f"{done.unreadable} records are no events")
    if done.gone:
        print(f"{done.gone} recorded events cannot be replayed: their bodies were deleted")
    if done.matched or done.no_longer:
        print(
            f"of the matches {done.linked} have an original run and {done.newly} did not match when they came; {done.no_longer} matched then and do not now"
        )
    if done.dry_run:
        for plan in done.plans:
            cost = plan.get("error") or (
                f"{plan['slices']} slices, {plan['reused']} reused, {human_count(plan['rows_to_read'])} rows ({human_bytes(plan['bytes_to_read'])}) to read"
            )
            print(f"  {plan['id']} of {plan['source']}: {cost}")
        print(
            f"a replay named {done.replay!r} would open {done.matched - done.existing} runs; {done.existing} are there"
        )
    else:
        print(
            f"replay {done.replay!r}: {done.opened} runs opened, {done.existing} were there; a dispatcher carries them out (hindscan serve)"
        )
    for one in done.refused:
        if one["outcome"] == "quarantined":
            print(f"  not decided: {one['id']} of {one['source']}: {one['reason']}")
    if done.activated:
        print(f"{done.trigger} begins at {', '.join(f'{place}@{offset}' for place, offset in done.activated.items())}")


def audit(
    trigger: str, /, *, since: str, until: str | None = None, repair: Flag = False, options: Options = DEFAULTS
) -> int:
    """Compare topics, schedules and folders with what was recorded; exit code 1 if something is found and not repaired.

    Parameters
    ----------
    trigger : str
        Its name.
    since : str
        Events that came in from this time on: the time of their record, the instant, the file's last change, else of their receipt.
    until : str
        And before this time. Default: now.
    repair : bool
        Submit what is missing, as if on time.
    """
    from hindscan.auditing import Audit
    from hindscan.workshop import open_workshop

    with open_workshop(options.load()) as workshop:
        done = Audit(
            workshop, trigger, since=_time("--since", since), until=_time("--until", until), repair=repair
        ).run()
    if options.json:
        print_document(done)
        return int(not done.sound)
    if done.findings:
        rows = [
            (f.kind, f.source, f.id, f.position, ", ".join(f.runs), "repaired" if f.repaired else "")
            for f in done.findings
        ]
        print_table(("found", "source", "id", "at", "runs", ""), rows)
    print(
        f"{done.records} records, instants and files, and {done.events} events of the ledger: {len(done.findings)} found, "
        f"{sum(f.repaired for f in done.findings)} repaired; {done.waiting} not reached yet, {done.skipped} left out by the schedule, {done.gone} gone from the log"
    )
    return int(not done.sound)


def _time(option: str, typed: str | None) -> int | None:
    from hindscan import times

    try:
        return None if typed is None else times.from_text(typed)
    except ValueError as error:
        raise UsageError(f"Reading {option}: it {error}.") from None
