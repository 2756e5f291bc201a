"""What `hindscan doctor` looks at: each part of a project tried for real, with what to do where it fails.

A finding is a value; nothing is repaired. Services are asked with short time-outs, so that a dead broker costs seconds, not a minute.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from hindscan.errors import HindscanError, ServiceUnavailable

if TYPE_CHECKING:
    from hindscan.config import ClusterSettings, Project
    from hindscan.events.trigger import Trigger

__all__ = ["Finding", "diagnose"]

BROKER_SECONDS: Final = 5.0
#: Below this much free disk runs are likely to fail half-way.
DISK_BYTES: Final = 1 << 30
_LIBRARIES: Final = ("hindscan", "confluent-kafka", "dask", "distributed", "duckdb", "pyarrow", "sqlalchemy")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str
    todo: str = ""
    #: It is a service that does not answer.
    unreachable: bool = False


def diagnose(project: Project) -> Iterator[Finding]:
    """Look at everything a run of the project needs."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES)
    yield Finding(what="versions", ok=True, found=f"Python {platform.python_version()}, {versions}")
    yield Finding(what="project", ok=True, found=f"{project.file}")
    yield _tried("store", lambda: _store(project), "Check [store].url and the rights on its folder.")
    yield _tried("artefacts", lambda: _artefacts(project), "Free some disk, or point [store].artefacts elsewhere.")
    yield from _jobs(project)
    for name in project.history_tables:
        todo = f"Check [history.{name}] and that its data is there."
        yield _tried(f"history {name}", partial(_history, project, name), todo)
    for name, settings in project.clusters.items():
        todo = f'Start the broker, or correct "bootstrap.servers" in [kafka.{name}].'
        yield _tried(f"cluster {name}", partial(_cluster, settings), todo)
    for name, settings in project.registries.items():
        todo = f'Start the registry, or correct "url" in [registry.{name}].'
        yield _tried(f"registry {name}", partial(_registry, name, settings), todo)
    for name, trigger in project.triggers.items():
        if any(source.kind in ("cron", "files") for source in trigger.sources):
            todo = f"Check `on` of [triggers.{name}]."
            yield _tried(f"trigger {name}", partial(_sources, project, trigger), todo)
    yield _tried("compiled loops", _loops, "Set NUMBA_CACHE_DIR to a folder that this user may write to.")
    yield _tried("workers", lambda: _workers(project), "Run again; if it stays, reinstall the environment.")


def _tried(what: str, look: Callable[[], str], todo: str) -> Finding:
    try:
        return Finding(what=what, ok=True, found=look())
    except HindscanError as error:
        return Finding(
            what=what, ok=False, found=str(error), todo=todo, unreachable=isinstance(error, ServiceUnavailable)
        )
    except OSError as error:
        return Finding(what=what, ok=False, found=f"{error.strerror}: {error.filename}", todo=todo)


def _store(project: Project) -> str:
    from hindscan.runs.register import list_runs
    from hindscan.runs.store import open_store

    with open_store(project.store_url, project.root) as store:
        list_runs(store, limit=1)
        return store.url


def _artefacts(project: Project) -> str:
    from hindscan.history.materialised import size_of

    folder = project.artefacts
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{os.getpid()}"
    probe.write_bytes(b"hindscan")
    probe.unlink()
    free = shutil.disk_usage(folder).free
    if free < DISK_BYTES:
        raise OSError(28, f"only {free / 2**20:.0f} MB free", str(folder))
    kept = size_of(project.materialised)
    records = f", {kept.bytes / 2**20:.0f} MB of kept records in {kept.files} files" if kept.files else ""
    return f"{folder}, {free / 2**30:.0f} GB free{records}"


def _jobs(project: Project) -> Iterator[Finding]:
    from hindscan.jobs.registry import load_folder_in_child

    try:
        registered = load_folder_in_child(project.root, project.root / project.jobs.folder)
    except HindscanError as error:
        yield Finding(what="jobs", ok=False, found=str(error), todo="Check [jobs].folder.")
        return
    yield Finding(what="jobs", ok=True, found=", ".join(sorted(registered.jobs)) or "none")
    for fault in registered.faults:
        yield Finding(
            what=f"job file {fault.file}", ok=False, found=fault.message, todo="Correct the file; the other jobs work."
        )
    for job in project.copies:
        if job not in registered.jobs:
            yield Finding(what=f"copies {job}", ok=False, found="is no job", todo="Correct the name in [copies].")
    for name, trigger in project.triggers.items():
        if trigger.job not in registered.jobs:
            yield Finding(
                what=f"trigger {name}",
                ok=False,
                found=f"runs {trigger.job!r}, which is no job",
                todo="Correct the trigger.",
            )


def _history(project: Project, name: str) -> str:
    from hindscan.history.snapshot import KafkaPin, ParquetPin, Window

    pin = project.history(name).pin(Window())
    if isinstance(pin, ParquetPin):
        rows = sum(group.kept_rows for file in pin.files for group in file.row_groups)
        return f"{len(pin.files)} files, {rows:,} rows"
    if isinstance(pin, KafkaPin):
        offsets = sum(partition.end - partition.start for partition in pin.partitions)
        return f"{len(pin.partitions)} partitions, {offsets:,} offsets" + "".join(
            f"; {caveat}" for caveat in pin.caveats
        )
    return "draws"


def _sources(project: Project, trigger: Trigger) -> str:
    """Look at what no listener of a cluster sees: when a schedule is next due, what is in a folder."""
    from hindscan import times
    from hindscan.events.files import versions
    from hindscan.events.schedule import next_tick
    from hindscan.files import place

    found = []
    for source in trigger.sources:
        if source.kind == "cron":
            instant = next_tick(source.text, trigger.time_zone, times.now() // 1_000_000 + 1)
            at = "never again" if instant is None else f"next at {times.to_text(instant * 1_000_000)}"
            found.append(f"{source} in {trigger.time_zone}, {at}")
        elif source.kind == "files":
            count = len(versions(place(source.text, project.root, project.object_stores)))
            found.append(f"{source}, {count} files")
    return "; ".join(found)


def _cluster(settings: ClusterSettings) -> str:
    from hindscan.kafka.cluster import ping

    ping(settings, timeout_seconds=BROKER_SECONDS)
    return str(settings["bootstrap.servers"])


def _registry(name: str, settings: ClusterSettings) -> str:
    from hindscan.kafka.registry import SchemaRegistry

    registry = SchemaRegistry(settings, name)
    # Any answer will do, also that there is no such subject.
    registry.latest("hindscan-doctor", "AVRO")
    return registry.place


def _loops() -> str:
    """Compile what reads topics and draws numbers fast, so that no run does."""
    from hindscan.kafka.fast import unavailable
    from hindscan.loops import compile_loops

    reason = unavailable({})
    return f"none, topics are read plainly: {reason}" if reason else f"compiled or loaded in {compile_loops():.1f} s"


def _workers(project: Project) -> str:
    """Start one worker child and let it do nothing."""
    import threading

    from hindscan.tasks.threads import ThreadsExecutor

    with ThreadsExecutor(1) as executor:
        for _ in executor.run(iter(()), threading.Event()):
            pass
    return f"{project.compute.workers} on {project.compute.dask}"
