"""A project as one frozen value: what `hindscan.toml` says, with its histories, triggers and places by name.

`config_file` reads and checks it. Nothing is opened here: histories, triggers, outlets and places of copies are made of their tables when they are asked for.

::

    hindscan.toml -> config_file.load_project -> Project -> histories, triggers, clusters by name
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import msgspec

from hindscan import times
from hindscan.errors import NotFound

if TYPE_CHECKING:
    from hindscan.events.outlet import Outlet
    from hindscan.events.trigger import Trigger
    from hindscan.files import Place
    from hindscan.history.lake_target import TableTarget
    from hindscan.history.snapshot import History
    from hindscan.web.webhook import Webhooks

__all__ = [
    "ClusterSettings",
    "ComputeSettings",
    "CopyPlace",
    "JobsSettings",
    "Project",
    "ServeSettings",
    "StoreSettings",
]

#: librdkafka properties of one cluster.
ClusterSettings = dict[str, str | int | float | bool]


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where runs and results are kept: the `[store]` table."""

    #: Database of runs, events and decisions; relative SQLite paths start at the root.
    url: str = "sqlite:///.hindscan/hindscan.db"
    #: Folder of partials and results.
    artefacts: str = ".hindscan"
    #: How long bodies of events are kept, such as "90d"; their identities stay. Default: for ever.
    event_retention: str | None = None
    #: How long what was sent of the events of runs is kept in the outbox.
    outbox_retention: str = "7d"
    #: How long records that a history keeps (``materialise``) stay after they were last read, such as "90d". Default: for ever.
    record_retention: str | None = None


class ComputeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the work is done and how much of it is allowed: the `[compute]` table."""

    #: "local", or the address of a Dask scheduler (``tcp://127.0.0.1:8786``, ``tls://...``).
    dask: str = "local"
    #: Worker processes of a local cluster, or threads of a small run.
    workers: int = 2
    #: Runs that `serve` works on at the same time, each with workers of its own.
    runs: int = 1
    #: Uncompressed bytes one plan may read.
    max_bytes: int = 1 << 40
    #: Slices one plan may have.
    max_slices: int = 100_000
    #: Seconds of one worker that a plan may take, as earlier runs of the job tell. Default: no limit.
    max_seconds: float | None = None
    #: Uncompressed bytes of one broadcast table.
    max_table_bytes: int = 2 << 30
    #: Slices each task works through. Default: decided from the plan; it never shows in a result.
    slices_per_task: int | None = None
    #: Slices of a scan that may fail for good: a share of all (a float below 1) or a number.
    allow_failed: int | float = 0
    #: Bytes one worker may take of the machine's memory. Default: nine tenths of it, divided among the workers.
    memory: int | None = None


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How `hindscan serve` listens: the `[serve]` table."""

    #: Loopback only in this version.
    host: str = "127.0.0.1"
    port: int = 8484
    #: Kafka consumer group of the triggers.
    group: str = "hindscan"
    #: Static member of that group: a restarted dispatcher takes over at once instead of after the session time-out.
    instance: str = "dispatcher"
    #: Runs that one chain of events may have, each started by an event of the one before.
    chain_depth: int = 8
    #: Take up changes of the project file and of jobs while serving.
    reload: bool = True
    #: Whoever sends events by HTTP must prove that they know one of these (Standard Webhooks). Default: nobody must.
    webhook_secrets: tuple[str, ...] = ()
    #: Senders that the webhook handshake lets in; ``*``: all.
    webhook_origins: tuple[str, ...] = ("*",)
    #: How `serve` writes its log: "text", or "json": one object a line.
    log: str = "text"
    #: From which level on: "debug", "info", "warning" or "error"; "debug" has a line for each slice.
    log_level: str = "info"

    def __repr__(self) -> str:
        # The generated one would show the secrets.
        return f"ServeSettings(host={self.host!r}, port={self.port})"

    @property
    def webhooks(self) -> Webhooks:
        """Who may send events by HTTP, and what must prove it."""
        from hindscan.events.signature import read_secret
        from hindscan.web.webhook import Webhooks

        return Webhooks(secrets=tuple(map(read_secret, self.webhook_secrets)), origins=self.webhook_origins)


class JobsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where jobs are: the `[jobs]` table."""

    folder: str = "jobs"


class CopyPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a copy of each result of a job goes: a folder, or a table."""

    kind: Literal["files", "iceberg", "delta"]
    location: str
    #: Of a table: rows of every run are added, or those of the newest take the place of all others.
    mode: Literal["append", "replace"] = "append"


class Project(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One project: its root and what its file says."""

    root: Path
    file: Path
    store: StoreSettings = StoreSettings()
    compute: ComputeSettings = ComputeSettings()
    serve: ServeSettings = ServeSettings()
    jobs: JobsSettings = JobsSettings()
    #: librdkafka properties by name of the cluster; secrets are filled in, so this value is never shown or stored.
    clusters: dict[str, ClusterSettings] = {}
    #: Settings of confluent's SchemaRegistryClient by name of the registry; with secrets, as above.
    registries: dict[str, ClusterSettings] = {}
    #: How buckets of object stores are reached, by name of the bucket; with secrets, as above.
    object_stores: dict[str, ClusterSettings] = {}
    #: Properties of Iceberg catalogs, by name of the catalog; with secrets, as above.
    iceberg_catalogs: dict[str, ClusterSettings] = {}
    #: Where copies of results go, by name of the job: the `[copies]` table.
    copies: dict[str, tuple[CopyPlace, ...]] = {}
    #: The `[history.NAME]` and `[triggers.NAME]` tables as written.
    history_tables: dict[str, dict[str, Any]] = {}
    trigger_tables: dict[str, dict[str, Any]] = {}
    #: The `[publish.NAME]` tables as written, with secrets filled in: never shown.
    publish_tables: dict[str, dict[str, Any]] = {}

    def __repr__(self) -> str:
        # The generated one would show the clusters' secrets, and a value that is logged or stands in a traceback is shown so.
        return f"Project({str(self.root)!r})"

    @property
    def artefacts(self) -> Path:
        """Folder of partials and results, absolute."""
        return self.root / self.store.artefacts

    @property
    def materialised(self) -> Path:
        """Folder of the records that histories keep as they were first read."""
        return self.artefacts / "materialised"

    @property
    def store_url(self) -> str:
        """Database URL with a relative SQLite path resolved against the root."""
        prefix = "sqlite:///"
        if self.store.url.startswith(prefix) and not self.store.url.startswith(prefix + "/"):
            return prefix + str(self.root / self.store.url.removeprefix(prefix))
        return self.store.url

    @property
    def event_retention(self) -> int | None:
        """How long bodies of events are kept, in microseconds; None: for ever."""
        text = self.store.event_retention
        return None if text is None else times.duration(text)

    @property
    def record_retention(self) -> int | None:
        """How long kept records stay after they were last read, in microseconds; None: for ever."""
        text = self.store.record_retention
        return None if text is None else times.duration(text)

    @property
    def outbox_retention(self) -> int:
        """How long sent events of runs are kept in the outbox, in microseconds."""
        return times.duration(self.store.outbox_retention)

    @cached_property
    def histories(self) -> dict[str, History]:
        """Declared histories by name."""
        from hindscan.history.declared import history_from_toml

        return {
            name: history_from_toml(
                name,
                table,
                clusters=self.clusters,
                registries=self.registries,
                object_stores=self.object_stores,
                catalogs=self.iceberg_catalogs,
                root=self.root,
                artefacts=self.artefacts,
            )
            for name, table in self.history_tables.items()
        }

    @cached_property
    def triggers(self) -> dict[str, Trigger]:
        """Declared triggers by name."""
        from hindscan.events.declared import check_together, trigger_from_toml

        triggers = {name: trigger_from_toml(name, table) for name, table in self.trigger_tables.items()}
        check_together(triggers)
        return triggers

    @cached_property
    def outlets(self) -> dict[str, Outlet]:
        """Where events of runs go, by name."""
        from hindscan.events.outlet import outlet_from_toml

        source = f"/hindscan/{quote(self.root.name)}"
        return {name: outlet_from_toml(name, table, source=source) for name, table in self.publish_tables.items()}

    def copied_to(self, job: str) -> list[Place | TableTarget]:
        """Give the places and tables that a job's results are copied to; none: they stay among the artefacts."""
        from hindscan import files
        from hindscan.history.delta_target import DeltaTarget
        from hindscan.history.iceberg_target import IcebergTarget

        stores = self.object_stores
        found: list[Place | TableTarget] = []
        for one in self.copies.get(job, ()):
            if one.kind == "iceberg":
                catalog = self.iceberg_catalogs[one.location.partition(".")[0]]
                found.append(IcebergTarget(declared=one.location, catalog=catalog, mode=one.mode, stores=stores))
                continue
            place = files.place(one.location, self.root, stores)
            is_table = one.kind == "delta"
            found.append(
                DeltaTarget(declared=one.location, place=place, mode=one.mode, stores=stores) if is_table else place
            )
        return found

    def slice_rows(self, history: str) -> int:
        """Give the rows per slice that the history asks for; the default is in `plans.make`."""
        from hindscan.plans.make import SLICE_ROWS

        return int(self.history_tables[history].get("slice_rows", SLICE_ROWS))

    def history(self, name: str) -> History:
        """Look up a history.

        Raises
        ------
        hindscan.errors.NotFound
            No such history; the message lists those there are.
        """
        try:
            return self.histories[name]
        except KeyError:
            known = ", ".join(sorted(self.histories)) or "none"
            raise NotFound(
                f"Looking up history {name!r} in {self.file.name}: it must be declared as [history.{name}]. Declared: {known}.",
                history=name,
            ) from None
