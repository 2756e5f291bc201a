"""Commands about what is declared: `init`, `jobs`, `triggers`, `histories`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hindscan.cli.options import DEFAULTS, Options
from hindscan.cli.output import print_document, print_table, writing_to

if TYPE_CHECKING:
    from hindscan.jobs.job import JobSpec

__all__ = ["histories", "init", "jobs", "triggers"]


def init(folder: Path, /, *, options: Options = DEFAULTS) -> None:
    """Make a new project that runs: project file, example jobs, sample history.

    Parameters
    ----------
    folder : Path
        Where; created if it does not exist, refused if it holds a project.
    """
    from hindscan.template import write_project

    with writing_to(folder):
        written = write_project(folder)
    if options.json:
        print_document({"project": str(folder), "files": written})
        return
    print(f"Made a project in {folder} ({len(written)} files). Try:\n")
    print(f"  cd {folder}\n  hindscan run bidder_scan -p category=cars -p year=2018")


def jobs(name: str | None = None, /, *, options: Options = DEFAULTS) -> None:
    """Show the declared jobs, or one job's parameters as JSON Schema.

    Parameters
    ----------
    name : str
        The job to show.
    """
    from hindscan.words import job_document
    from hindscan.workshop import open_workshop

    with open_workshop(options.load()) as workshop:
        if name is not None:
            _show_job(workshop.job(name)[0], options)
            return
        registered = workshop.registered
    specs = [spec for _, (spec, _) in sorted(registered.jobs.items())]
    if options.json:
        faults = [{"file": fault.file, "message": fault.message} for fault in registered.faults]
        print_document({"jobs": [job_document(spec) for spec in specs], "faults": faults})
        return
    print_table(
        ("job", "kind", "history", "parameters", "what"),
        [
            (s.name, s.kind, s.history or "", ", ".join(p.name for p in s.parameters), s.doc.split("\n", 1)[0])
            for s in specs
        ],
    )
    for fault in registered.faults:
        print(f"\n{fault.traceback}{fault.message}")


def _show_job(spec: JobSpec, options: Options) -> None:
    from hindscan.words import job_document

    if options.json:
        print_document(job_document(spec))
        return
    print(f"{spec.name} ({spec.kind} over {spec.history or 'nothing'}) in {spec.file}\n\n{spec.doc}\n")
    print_table(
        ("parameter", "type", "default"),
        [(p.name, p.type, "required" if p.required else repr(p.default)) for p in spec.parameters],
    )


def triggers(*, options: Options = DEFAULTS) -> None:
    """Show the declared triggers."""
    project = options.load()
    tables = project.trigger_tables
    _ = project.triggers
    if options.json:
        print_document({"triggers": [{"trigger": name, **table} for name, table in tables.items()]})
        return
    print_table(
        ("trigger", "on", "job", "filter"),
        [(name, _written(table["on"]), table.get("job"), table.get("filter", "")) for name, table in tables.items()],
    )


def _written(ways: str | list[str]) -> str:
    """Write the ways in of a trigger, one or several."""
    return ways if isinstance(ways, str) else ", ".join(ways)


def histories(*, options: Options = DEFAULTS) -> None:
    """Show the declared histories. Opens none of them."""
    from hindscan.history.declared import KINDS

    project = options.load()
    tables = project.history_tables
    if options.json:
        print_document({"histories": [{"history": name, **table} for name, table in tables.items()]})
        return
    print_table(
        ("history", "kind", "where", "time"),
        [
            (
                name,
                "stitched" if "archive" in table else kind,
                table[kind],
                table.get("time", ""),
            )
            for name, table in tables.items()
            for kind in KINDS
            if kind in table
        ],
    )
