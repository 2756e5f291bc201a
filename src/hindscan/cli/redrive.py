"""The command that decides about quarantined events once more: `redrive`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from hindscan.cli.options import DEFAULTS, Options
from hindscan.cli.output import print_document, print_table
from hindscan.errors import UsageError

__all__ = ["redrive"]

Flag = Annotated[bool, Parameter(negative="")]


def redrive(
    event: str | None = None,
    /,
    *,
    source: str | None = None,
    all: Flag = False,
    trigger: str | None = None,
    options: Options = DEFAULTS,
) -> int:
    """Decide about quarantined events once more, by the triggers and jobs as they are now; exit code 1 if one is still in quarantine.

    Parameters
    ----------
    event : str
        Its handle as `hindscan events` shows it (event:12, record:5), the event's id, or TOPIC[PARTITION]@OFFSET.
    source : str
        Source of the event, where several have the id.
    all : bool
        All that is in quarantine.
    trigger : str
        With --all: only what this trigger could not decide.
    """
    from hindscan import redriving
    from hindscan.intake import Intake
    from hindscan.runs import codes
    from hindscan.workshop import open_workshop

    if (event is None) != all or (trigger is not None and not all) or (source is not None and all):
        raise UsageError(
            "Redriving: either name one event (and its --source, where several have the id), or --all (and a --trigger)."
        )
    project = options.load()
    with open_workshop(project, jobs_in_child=True) as workshop:
        jobs = workshop.registered.jobs
        wanted = {one.job for one in project.triggers.values()}
        for spec, code in (found for name, found in jobs.items() if name in wanted):
            codes.save_code(workshop.store, spec, code)
        intake = Intake(project, workshop.store, {name: spec for name, (spec, _) in jobs.items()})
        redriven = redriving.redrive(project, workshop.store, intake, event, source=source, trigger=trigger)
    if options.json:
        print_document({"redriven": redriven})
    else:
        rows = [(one.event, one.source, one.id, one.trigger, one.outcome, one.run or one.reason) for one in redriven]
        print_table(("event", "source", "id", "trigger", "outcome", "run or reason"), rows)
    return int(any(one.outcome == "quarantined" for one in redriven))
