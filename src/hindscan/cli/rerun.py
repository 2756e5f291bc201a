"""Commands that go on from a run: `rerun` does its work again, `extend` gives it more draws."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from hindscan.cli.options import DEFAULTS, Options, Parameters, Whole, pairs

__all__ = ["extend", "rerun"]

Flag = Annotated[bool, Parameter(negative="")]
Slices = Annotated[list[int] | None, Parameter(name=["--slice"], negative="")]


def extend(run: str, /, *, draws: Whole, options: Options = DEFAULTS) -> int:
    """Give a simulation more draws as a new run, with the seed, snapshot and code of the first, and wait.

    Parameters
    ----------
    run : str
        Id of the first, which has succeeded.
    draws : int
        In all. What the first has drawn is not drawn again.
    """
    from hindscan import rerunning
    from hindscan.cli.work import finish
    from hindscan.errors import Conflict
    from hindscan.runs.register import get_run
    from hindscan.runs.results import read_manifest
    from hindscan.words import asker
    from hindscan.workshop import open_workshop

    project = options.load()
    with open_workshop(project) as workshop:
        first = get_run(workshop.store, run)
        if first.result is None:
            raise Conflict(
                f"Extending run {run}: it must have a result, and it is {first.state}. Wait for it, or retry it."
            )
        manifest = read_manifest(project.root / first.result)
        opened = rerunning.extend(
            project, workshop.store, run, draws=draws, seed=manifest.seed, drawn=manifest.draws, requested_by=asker("cli"),
        )  # fmt: skip
        return finish(workshop, opened.id, options)


def rerun(
    run: str,
    /,
    *,
    parameters: Parameters = None,
    latest: Flag = False,
    slices: Slices = None,
    workers: Whole | None = None,
    fresh: Flag = False,
    options: Options = DEFAULTS,
) -> int:
    """Run a run again as a new run, over the snapshot and with the code of the first, and wait.

    Parameters
    ----------
    run : str
        Id of the first.
    parameters : list of str
        NAME=VALUE of the parameters that are to be different, any number of times.
    latest : bool
        Pin the histories anew instead of reading what the first has read.
    slices : list of int
        Position of a slice that is computed although its partial exists, any number of times.
    workers : int
        How many. Never shows in the result.
    fresh : bool
        Compute everything, reuse nothing.
    """
    from hindscan import rerunning
    from hindscan.cli.work import finish
    from hindscan.words import asker
    from hindscan.workshop import open_workshop

    project = options.load()
    with open_workshop(project) as workshop:
        opened = rerunning.rerun(
            project,
            workshop.store,
            run,
            parameters=pairs(parameters, "-p"),
            from_text=True,
            latest=latest,
            slices=slices or (),
            requested_by=asker("cli"),
            workers=workers,
            fresh=fresh or None,
        )
        return finish(workshop, opened.id, options)
