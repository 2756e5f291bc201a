"""Forgetting a subject: `hindscan forget`.

The bodies of its events, and the partials, results and copies of results of their runs, are deleted; so is what these runs have said of themselves. What stays says
only that something was: the identities as digests, so that an event that comes again opens no run (promise 4), and the manifests, redacted and marked `forgotten`.
Retry, rerun, redrive and replay of them are refused by name (`Gone`). Histories are never touched: they are listed, with the places of the events in their topics,
for whoever owns them.

A partial belongs to whoever has its key. Those of the runs are deleted even where others have them too; these compute them again when they need them, with the
same content. Files are deleted first and the store forgets last, so that repeating it completes what was interrupted; the keys are noted down before
the first file goes, because a plan cannot be made again of what is half there.

::

    concerned -> keys of all that the runs made -> seal -> partials, results -> redact -> Forgotten

Points of failure: `forgetting.sealed`, `forgetting.partials_removed`, `forgetting.results_removed`, `forgetting.redacted`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from hindscan import faults, files, writing
from hindscan.errors import HindscanError, NotFound
from hindscan.planning import make
from hindscan.plans.incomplete import without_slices
from hindscan.runs import codes, forgotten, snapshots
from hindscan.runs.copies import forget_copy, has_copy
from hindscan.runs.partials import Partials, local_folder
from hindscan.runs.results import forget_result, result_folder
from hindscan.runs.slices import slice_keys_of

if TYPE_CHECKING:
    from pathlib import Path

    from hindscan.config import Project
    from hindscan.plans.plan import Plan
    from hindscan.runs.forgotten import Concerned
    from hindscan.runs.run import Run
    from hindscan.runs.store import Store

__all__ = ["Forgotten", "forget"]


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """What was deleted, or would be."""

    subject: str
    dry_run: bool
    events: int
    #: Records in quarantine.
    quarantined: int
    runs: tuple[str, ...]
    partials: int
    results: int
    #: Copies of results, where [copies] says that they lie now.
    copies: int = 0
    #: Histories that the runs read, which may hold data of the subject: not touched.
    histories: tuple[str, ...]
    #: Where its events stand in their topics: not touched.
    positions: tuple[str, ...]
    #: Tables that rows of the runs' results were written into: not touched.
    tables: tuple[str, ...] = ()
    #: Runs some of whose partials could not be named, and why: those of slices are deleted, those of combinations not.
    left: tuple[str, ...] = ()


def forget(project: Project, store: Store, subject: str, *, dry_run: bool = False) -> Forgotten:
    """Delete what there is of a subject but its histories; repeating it completes it.

    Parameters
    ----------
    subject : str
        `subject` of the events, exactly.
    dry_run : bool
        Only tell.

    Raises
    ------
    hindscan.errors.ServiceUnavailable
        A copy cannot be deleted where it lies; repeat it then.
    hindscan.errors.NotFound
        Nothing that was received has this subject, or all is forgotten.
    hindscan.errors.Conflict
        One of the runs is running; nothing was deleted.
    """
    found = forgotten.concerned(store, subject)
    if not found.events and not found.quarantined:
        raise NotFound(
            f"Forgetting {subject!r}: an event or a record in quarantine must have this subject; none has. It may be forgotten already.",
            subject=subject,
        )
    partials = Partials(project.artefacts)
    keys, histories, left = _made_by(project, store, partials, found)
    folders = [folder for run in found.runs if (folder := result_folder(project.artefacts, run.job, run.id)).is_dir()]
    copied = [(run.id, to) for run in found.runs for to in project.copied_to(run.job)]
    places = [(run, to) for run, to in copied if isinstance(to, files.Place)]
    told = Forgotten(
        subject=subject,
        dry_run=dry_run,
        events=len(found.events),
        quarantined=len(found.quarantined),
        runs=tuple(run.id for run in found.runs),
        partials=len(partials.exists(keys)),
        results=sum((folder / "result.parquet").exists() for folder in folders),
        copies=sum(has_copy(to, run) for run, to in places),
        histories=tuple(sorted(histories)),
        positions=found.positions,
        tables=tuple(sorted({str(to) for _, to in copied if not isinstance(to, files.Place)})),
        left=tuple(left),
    )
    if dry_run:
        return told
    forgotten.seal(store, found)
    note = _note(project, subject)
    keys |= _noted(note)
    if keys:
        note.parent.mkdir(parents=True, exist_ok=True)
        writing.write_atomic(note, msgspec.json.encode(sorted(keys)))
    faults.point("forgetting.sealed")
    for key in keys:
        partials.remove(key)
    faults.point("forgetting.partials_removed")
    for folder in folders:
        forget_result(folder)
    for name, to in places:
        forget_copy(to, name)
    for run in found.runs:
        # Whatever a run's own process printed.
        (project.artefacts / "drivers" / f"{run.id}.log").unlink(missing_ok=True)
    faults.point("forgetting.results_removed")
    forgotten.redact(store, found)
    faults.point("forgetting.redacted")
    note.unlink(missing_ok=True)
    return told


def _note(project: Project, subject: str) -> Path:
    digest = hashlib.sha256(subject.encode()).hexdigest()
    return local_folder(project.artefacts) / "forgetting" / f"{digest}.json"


def _noted(note: Path) -> set[str]:
    """Give the keys that an interrupted forgetting had named."""
    return set(msgspec.json.decode(note.read_bytes(), type=list[str])) if note.exists() else set()


def _made_by(
    project: Project, store: Store, partials: Partials, found: Concerned
) -> tuple[set[str], set[str], list[str]]:
    """Give the keys of all that runs have made, the histories they read, and what could not be told."""
    keys: set[str] = set()
    histories: set[str] = set()
    left: list[str] = []
    for run in found.runs:
        folder = result_folder(project.artefacts, run.job, run.id)
        of_slices, failed = slice_keys_of(folder)
        keys |= of_slices
        try:
            spec, _ = codes.load_code(store, run.code, run.job)
            histories |= {name for name in spec.histories.values() if name is not None}
            histories |= set(run.request.histories.values())
            keys |= _keys_of_plans(project, store, partials, run, failed)
        except HindscanError as error:
            left.append(f"{run.id}: {error}")
    return keys, histories, left


def _keys_of_plans(
    project: Project, store: Store, partials: Partials, run: Run, failed: dict[str, set[int]]
) -> set[str]:
    """Give the keys of a run's plan: as it was made with partials there, as it is without, and with what failed left out."""
    snapshot = snapshots.load_snapshot(store, run.id)
    if snapshot is None:
        return set()
    spec, _ = codes.load_code(store, run.code, run.job)
    as_it_was, _ = make(project, spec, run.request, snapshot, partials.has, proofs=partials.find_proof)
    bare, _ = make(project, spec, run.request, snapshot, ())
    keys: set[str] = set()
    for plan in (as_it_was, bare, *_incomplete(as_it_was, failed), *_incomplete(bare, failed)):
        keys.update(plan.table_proofs.values())
        for stage in plan.stages:
            keys |= stage.made
    return keys


def _incomplete(plan: Plan, failed: dict[str, set[int]]) -> list[Plan]:
    """Make the plan of a result that left failed slices out, if one did."""
    missing = [failed.get(stage.step, set()) for stage in plan.stages]
    stages = without_slices(plan.stages, missing, purpose="tolerated") if any(missing) else None
    return [] if stages is None else [msgspec.structs.replace(plan, stages=stages)]
