"""The command `leaktest`: asks, prints what was poisoned and what leaks, and says so by its exit code.

::

    typed -> ask -> leaks.find_leaks -> table, leaks, notes; 0 clean, 1 a leak
"""

from __future__ import annotations

from hindscan.cli.options import DEFAULTS, Options, Parameters, Whole, pairs
from hindscan.cli.output import print_document, print_table
from hindscan.cli.work import Histories

__all__ = ["leaktest"]


def leaktest(
    job: str,
    /,
    *,
    as_of: str,
    parameters: Parameters = None,
    seed: Whole | None = None,
    draws: Whole | None = None,
    history: Histories = None,
    options: Options = DEFAULTS,
) -> int:
    """Run a job as of a time, then over histories that are poisoned from that time on: no bit of the result may change.

    Parameters
    ----------
    job : str
        Its name.
    as_of : str
        T: every row at or after it is poisoned.
    parameters : list of str
        NAME=VALUE, any number of times.
    seed : int
        Seed of a simulation.
    draws : int
        Draws of a simulation.
    history : list of str
        NAME=OTHER reads another history in the place of one.
    """
    from hindscan import times
    from hindscan.explore import window_values
    from hindscan.leaks import find_leaks
    from hindscan.planning import ask
    from hindscan.workshop import open_workshop

    project = options.load()
    with open_workshop(project) as workshop:
        spec, code = workshop.job(job)
    request = ask(
        project, spec, pairs(parameters, "-p"), from_text=True, seed=seed, draws=draws, histories=pairs(history, "--history"),
        **window_values(as_of=as_of, since=None, until=None, last=None),
    )  # fmt: skip
    found = find_leaks(project, spec, code, request)
    if options.json:
        print_document(
            {
                "job": job, "as_of": times.to_text(found.as_of), "clean": found.clean, "rows": found.rows, "seed": found.seed,
                "poisoned": {
                    name: None if rows is None else {"changed": rows[0], "added": rows[1]}
                    for name, rows in found.poisoned.items()
                },
                "leaks": found.leaks, "unproven": found.unproven,
            }
        )  # fmt: skip
        return 0 if found.clean else 1
    print_table(
        ("history", "rows changed", "rows added"),
        [(name, *(rows or ("as they are read", "as they are read"))) for name, rows in found.poisoned.items()],
    )
    for leak in found.leaks:
        print(f"LEAK: {leak}")
    for said in found.unproven:
        print(f"note: {said}")
    print("nothing from that time on is seen" if found.clean else "the job sees what came later")
    return 0 if found.clean else 1
