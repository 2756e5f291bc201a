"""The project file `hindscan.toml`, read into one frozen value.

The nearest file upwards is the root of all relative paths. Everything that is wrong with it is collected and reported at once, each with
file, line and field (`errors.ConfigError`); secrets are written as ``${NAME}`` only, and a missing one is an error. Every setting can
be overridden by ``HINDSCAN_SECTION__KEY``. Loading opens nothing: histories and triggers are checked as values, not as services.

::

    hindscan.toml + environment -> Project -> histories, triggers, clusters by name
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote

import msgspec

from hindscan import times
from hindscan.errors import ConfigError, HindscanError, NotFound, UsageError
from hindscan.jobs.job import is_allowance
from hindscan.logs import LEVELS

if TYPE_CHECKING:
    from hindscan.events.outlet import Outlet
    from hindscan.events.trigger import Trigger
    from hindscan.files import Place
    from hindscan.history.lake_target import TableTarget
    from hindscan.history.snapshot import History
    from hindscan.web.webhook import Webhooks

__all__ = ["ComputeSettings", "JobsSettings", "Project", "ServeSettings", "StoreSettings", "find_root", "load_project"]

FILE_NAME = "hindscan.toml"

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


def find_root(start: Path | None = None) -> Path:
    """Find the folder of the nearest project file upwards.

    Raises
    ------
    hindscan.errors.ConfigError
        There is none.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / FILE_NAME).is_file():
            return folder
    raise ConfigError(
        f"Looking for the project: {FILE_NAME} must be in {here} or a folder above it. There is none. "
        "Make one with `hindscan init DIR`, or point to it with `--project DIR`."
    )


def load_project(folder: Path | None = None, environment: Mapping[str, str] | None = None) -> Project:
    """Read and check the project file.

    Parameters
    ----------
    folder : Path, optional
        Folder of the file. Default: the nearest upwards from here.
    environment : mapping, optional
        Where overrides and secrets come from. Default: the process's.

    Raises
    ------
    hindscan.errors.ConfigError
        With every fault of the file, one a line: file, line, field, what was required, what was found.
    """
    env = os.environ if environment is None else environment
    root = folder.resolve() if folder is not None else find_root()
    file = root / FILE_NAME
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Reading {file}: {error.strerror}. Make a project with `hindscan init DIR`.") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Reading {file}: it must be TOML 1.0. {error}.") from error
    return _Reading(root=root, file=file, text=text, env=env).project(document)


_T = TypeVar("_T", bound=msgspec.Struct)
_SECRET = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
#: Properties of a cluster that are hindscan's own, and what they may be.
_OWN_PROPERTIES: dict[str, tuple[object, ...]] = {
    "hindscan.reader": ("auto", "fast", "plain"),
    "hindscan.mock": (True, False),
}
#: Properties of an object store, and the type of each.
_STORE_PROPERTIES: dict[str, type] = {
    "endpoint": str,
    "region": str,
    "access_key": str,
    "secret_key": str,
    "session_token": str,
    "anonymous": bool,
}
#: librdkafka's properties whose values are secrets: passwords, the secret of an OAuth client, keys written out.
_SECRET_PROPERTY = re.compile(
    r"(password|passphrase|secret|\.key\.pem|auth\.user\.info|auth\.token|secret_key|session_token"
    r"|^token|^credential|secret-access-key|session-token)$"
)
#: The password of a database URL.
_URL_PASSWORD = re.compile(r"://[^/@:]*:([^/@]+)@")
_SECTIONS = (
    "store",
    "compute",
    "serve",
    "jobs",
    "kafka",
    "registry",
    "s3",
    "iceberg",
    "history",
    "triggers",
    "publish",
    "copies",
)


class _Reading:
    """One reading of one file: collects faults until all are known."""

    def __init__(self, *, root: Path, file: Path, text: str, env: Mapping[str, str]) -> None:
        self.root, self.file, self.text, self.env = root, file, text, env
        self.faults: list[str] = []
        #: Fields that an environment variable has set: a secret may stand there, for that is where secrets come from.
        self.overridden: set[tuple[str, ...]] = set()

    def fault(self, field: tuple[str, ...], message: str) -> None:
        line = _line_of(self.text, field)
        place = f"{self.file.name}:{line}" if line else self.file.name
        self.faults.append(f"{place}: {'.'.join(field)}: {message}")

    def project(self, document: dict[str, Any]) -> Project:
        self._override(document)
        for section, body in document.items():
            if section not in _SECTIONS:
                self.fault((section,), f"no such section; there are {', '.join(_SECTIONS)}")
            elif not isinstance(body, dict):
                self.fault((section,), "must be a table")
        tables: dict[str, dict[str, Any]] = {
            name: body if isinstance(body := document.get(name), dict) else {} for name in _SECTIONS
        }
        project = Project(
            root=self.root,
            file=self.file,
            store=self._settings(StoreSettings, "store", tables["store"]),
            compute=self._settings(ComputeSettings, "compute", tables["compute"]),
            serve=self._settings(ServeSettings, "serve", tables["serve"]),
            jobs=self._settings(JobsSettings, "jobs", tables["jobs"]),
            clusters=self._properties("kafka", "bootstrap.servers", tables["kafka"]),
            registries=self._properties("registry", "url", tables["registry"]),
            object_stores=self._properties("s3", None, tables["s3"]),
            iceberg_catalogs=self._properties("iceberg", None, tables["iceberg"]),
            copies=self._copies(tables["copies"], tables["s3"], tables["iceberg"]),
            history_tables=self._named("history", tables["history"]),
            trigger_tables=self._named("triggers", tables["triggers"]),
            publish_tables=self._outlets(tables["publish"]),
        )
        self._check(("history",), project.history_tables, lambda: project.histories)
        self._check(("triggers",), project.trigger_tables, lambda: project.triggers)
        self._check(("publish",), project.publish_tables, lambda: project.outlets)
        self._check_values(project, tables)
        if self.faults:
            listed = "\n".join(f"  {fault}" for fault in self.faults)
            raise ConfigError(
                f"Reading {self.file}: {len(self.faults)} setting(s) are not valid:\n{listed}", faults=list(self.faults)
            )
        return project

    def _override(self, document: dict[str, Any]) -> None:
        """Lay ``HINDSCAN_SECTION__KEY`` over the file."""
        for variable, raw in sorted(self.env.items()):
            parts = variable.removeprefix("HINDSCAN_").lower().split("__")
            if not variable.startswith("HINDSCAN_") or len(parts) < 2 or parts[0] not in _SECTIONS:
                continue
            if parts[0] in ("kafka", "registry"):
                parts[-1] = parts[-1].replace("_", ".")
            table = document
            for part in parts[:-1]:
                table = table.setdefault(part, {})
                if not isinstance(table, dict):
                    self.fault(tuple(parts), f"{variable} reaches into what is no table")
                    break
            else:
                table[parts[-1]] = raw if _SECRET_PROPERTY.search(parts[-1]) else _value_of(raw)
                self.overridden.add(tuple(parts))

    def _settings(self, kind: type[_T], section: str, table: dict[str, Any] | None) -> _T:
        good: dict[str, Any] = {}
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        for key, value in (table or {}).items():
            if key not in fields:
                self.fault((section, key), f"no such setting; [{section}] has {', '.join(fields)}")
                continue
            try:
                good[key] = msgspec.convert(self._filled((section, key), value), fields[key].type, strict=True)
            except msgspec.ValidationError as error:
                found = "" if "secret" in key else f", found {value!r}"
                self.fault((section, key), f"{str(error).lower()}{found}")
        return kind(**good)

    def _check_values(self, project: Project, tables: dict[str, dict[str, Any]]) -> None:
        for section, field in (
            ("compute", "workers"),
            ("compute", "runs"),
            ("compute", "max_bytes"),
            ("compute", "memory"),
            ("serve", "chain_depth"),
        ):
            value = getattr(getattr(project, section), field)
            if value is not None and value < 1:
                self.fault((section, field), f"must be at least 1, found {value}")
        if not is_allowance(project.compute.allow_failed):
            found = project.compute.allow_failed
            self.fault(
                ("compute", "allow_failed"), f"must be a share below 1 or a whole number of slices, found {found}"
            )
        if not 0 <= project.serve.port <= 65_535:
            self.fault(("serve", "port"), f"must be 0 to 65535, found {project.serve.port}")
        if project.serve.log not in ("text", "json"):
            self.fault(("serve", "log"), f'must be "text" or "json", found {project.serve.log!r}')
        if project.serve.log_level not in LEVELS:
            self.fault(("serve", "log_level"), f"must be one of {', '.join(LEVELS)}, found {project.serve.log_level!r}")
        self._check_webhooks(project.serve, tables["serve"].get("webhook_secrets"))
        for name in ("event_retention", "record_retention", "outbox_retention"):
            try:
                getattr(project, name)
            except ValueError as error:
                self.fault(("store", name), str(error))
        password = _URL_PASSWORD.search(str(tables["store"].get("url", "")))
        if password:
            self._demand_reference(("store", "url"), password[1], "its password ")
        dask = project.compute.dask
        if dask != "local" and not dask.startswith(("tcp://", "tls://")):
            self.fault(("compute", "dask"), f'must be "local" or tcp://HOST:PORT or tls://HOST:PORT, found {dask!r}')

    def _check_webhooks(self, serve: ServeSettings, written: object) -> None:
        """Check the secrets as written, then as they are; neither is repeated."""
        from hindscan.events.signature import read_secret

        field = ("serve", "webhook_secrets")
        before = len(self.faults)
        for reference in written if isinstance(written, list) else ():
            self._demand_reference(field, str(reference))
        if len(self.faults) > before:
            return
        for number, secret in enumerate(serve.webhook_secrets, 1):
            try:
                read_secret(secret)
            except ValueError as fault:
                self.fault(field, f"secret {number} {fault}")

    def _properties(self, section: str, required: str | None, table: dict[str, Any]) -> dict[str, ClusterSettings]:
        """Read tables of a library's own properties by name."""
        found: dict[str, ClusterSettings] = {}
        for name, settings in table.items():
            if not isinstance(settings, dict):
                self.fault((section, name), f"must be a table [{section}.NAME] of properties")
                continue
            # TOML reads an unquoted `bootstrap.servers = ...` as nested tables; both spellings mean the property.
            flat = _flattened(settings)
            found[name] = {key: self._filled((section, name, key), value) for key, value in flat.items()}
            for key, value in flat.items():
                if _SECRET_PROPERTY.search(key):
                    # Of `USER:PASSWORD` the user may be written out.
                    self._demand_reference((section, name, key), str(value).rpartition(":")[2])
                elif section == "iceberg" and (password := _URL_PASSWORD.search(str(value))):
                    self._demand_reference((section, name, key), password[1], "its password ")
            if required is not None and required not in flat:
                self.fault((section, name), f'needs "{required}"')
            if section == "kafka":
                self._check_own(name, flat)
            if section == "s3":
                self._check_store(name, flat)
        return found

    def _check_own(self, cluster: str, properties: ClusterSettings) -> None:
        """Check the properties that are hindscan's, not librdkafka's."""
        for key, value in properties.items():
            if not key.startswith("hindscan."):
                continue
            allowed = _OWN_PROPERTIES.get(key)
            if allowed is None:
                self.fault(("kafka", cluster, key), f"no such property; there are {', '.join(_OWN_PROPERTIES)}")
            elif value not in allowed:
                self.fault(("kafka", cluster, key), f"must be one of {', '.join(map(repr, allowed))}, found {value!r}")

    def _check_store(self, bucket: str, properties: ClusterSettings) -> None:
        for key, value in properties.items():
            kind = _STORE_PROPERTIES.get(key)
            if kind is None:
                self.fault(("s3", bucket, key), f"no such property; there are {', '.join(_STORE_PROPERTIES)}")
            elif type(value) is not kind:
                self.fault(
                    ("s3", bucket, key), f"must be {'true or false' if kind is bool else 'a text'}, found {value!r}"
                )

    def _copies(
        self, table: dict[str, Any], stores: dict[str, Any], catalogs: dict[str, Any]
    ) -> dict[str, tuple[CopyPlace, ...]]:
        """Read where copies of results go."""
        good: dict[str, tuple[CopyPlace, ...]] = {}
        for job, said in table.items():
            read = [self._copy(job, one, stores, catalogs) for one in (said if isinstance(said, list) else [said])]
            good[job] = tuple(one for one in read if one is not None)
        return good

    def _copy(self, job: str, said: Any, stores: dict[str, Any], catalogs: dict[str, Any]) -> CopyPlace | None:
        """Read one place: a URL must be of a known kind, and a bucket that is declared is not asked for."""
        from hindscan import files

        kinds = [kind for kind in ("iceberg", "delta") if isinstance(said, dict) and kind in said]
        location = said[kinds[0]] if kinds else said
        mode: Any = said.get("mode", "append") if isinstance(said, dict) else "append"
        if not isinstance(location, str) or not location or len(kinds) > 1:
            wanted = (
                'must be a folder or URL, or a table: { iceberg = "CATALOG.NAMESPACE.TABLE" } or { delta = "FOLDER" }'
            )
            self.fault(("copies", job), f"{wanted}, found {said!r}")
            return None
        if kinds and (mode not in ("append", "replace") or said.keys() - {kinds[0], "mode"}):
            self.fault(("copies", job), f'must have beside {kinds[0]} only mode, "append" or "replace", found {said!r}')
            return None
        kind: Any = kinds[0] if kinds else "files"
        made = CopyPlace(kind=kind, location=location, mode=mode)
        if made.kind == "iceberg":
            catalog = location.partition(".")[0]
            if location.count(".") < 2 or catalog not in catalogs:
                known = ", ".join(sorted(catalogs)) or "none"
                self.fault(
                    ("copies", job),
                    f"must be CATALOG.NAMESPACE.TABLE with a catalog declared as [iceberg.CATALOG] (declared: {known}), found {location!r}",
                )
                return None
            return made
        bucket = location.removeprefix("s3://").split("/", 1)[0]
        if not (location.startswith("s3://") and (bucket in stores or "default" in stores)):
            try:
                files.place(location, self.root)
            except UsageError as error:
                self.fault(("copies", job), str(error))
                return None
        return made

    def _named(self, section: str, table: dict[str, Any]) -> dict[str, dict[str, Any]]:
        named: dict[str, dict[str, Any]] = {}
        for name, body in table.items():
            if isinstance(body, dict):
                named[name] = body
            else:
                self.fault((section, name), f"must be a table [{section}.NAME]")
        return named

    def _outlets(self, table: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Read where events of runs go, with their secrets filled in."""
        named = self._named("publish", table)
        for name, body in named.items():
            secrets, field = body.get("secrets"), ("publish", name, "secrets")
            if isinstance(secrets, list):
                for reference in secrets:
                    self._demand_reference(field, str(reference))
                named[name] = body | {"secrets": self._filled(field, secrets)}
        return named

    def _check(self, section: tuple[str, ...], tables: dict[str, dict[str, Any]], build: Callable[[], object]) -> None:
        """Build every history, trigger or outlet once, to hear all that is wrong with them."""
        try:
            build()
        except HindscanError as error:
            # One is wrong: ask each alone, so that every fault is told.
            known = len(self.faults)
            for name, table in tables.items():
                self._check_one(section[0], name, table)
            if len(self.faults) == known:
                # Each is right alone; they do not go together.
                faults = error.details.get("faults")
                for place, message in faults if isinstance(faults, list) else ():
                    self.fault((*section, str(place)), str(message))

    def _check_one(self, section: str, name: str, table: dict[str, Any]) -> None:
        alone = Project(
            root=self.root,
            file=self.file,
            clusters={name: {"bootstrap.servers": "unknown"} for name in self._declared("kafka")},
            registries={name: {"url": "mock://"} for name in self._declared("registry")},
            iceberg_catalogs={name: {} for name in self._declared("iceberg")},
            history_tables={name: table} if section == "history" else {},
            trigger_tables={name: table} if section == "triggers" else {},
            publish_tables={name: table} if section == "publish" else {},
        )
        try:
            _ = alone.histories, alone.triggers, alone.outlets
        except HindscanError as error:
            faults = error.details.get("faults")
            for fault in faults if isinstance(faults, (list, tuple)) and faults else [str(error)]:
                if isinstance(fault, (list, tuple)) and len(fault) == 2:
                    self.fault((section, name, str(fault[0])), str(fault[1]))
                else:
                    self.fault((section, name), str(fault))

    def _declared(self, section: str) -> list[str]:
        table = tomllib.loads(self.text).get(section)
        return list(table) if isinstance(table, dict) else []

    def _demand_reference(self, field: tuple[str, ...], value: str, what: str = "") -> None:
        """A secret in the file would be in its history, in backups and on screens; what stands there is not repeated."""
        if field not in self.overridden and not _SECRET.fullmatch(value):
            self.fault(field, f"{what}is a secret and must be written ${{NAME}}, to be taken from the environment")

    def _filled(self, field: tuple[str, ...], value: Any) -> Any:
        """Put secrets in the place of ``${NAME}``."""
        if isinstance(value, list):
            return [self._filled(field, part) for part in value]
        if not isinstance(value, str):
            return value

        def secret(match: re.Match[str]) -> str:
            if match[1] not in self.env:
                self.fault(field, f"the environment variable {match[1]} must be set; it is not")
                return ""
            return self.env[match[1]]

        return _SECRET.sub(secret, value)


def _flattened(table: Mapping[str, Any], prefix: str = "") -> ClusterSettings:
    flat: ClusterSettings = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update(_flattened(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _value_of(raw: str) -> Any:
    """Read an override as TOML has it, else as text: ``8`` is a number, ``data/bids`` is a path."""
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _line_of(text: str, field: tuple[str, ...]) -> int | None:
    """Find the line of a field: the longest prefix of it that is a table header or key. None for an override."""
    best: tuple[int, int] | None = None
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            table = _names(stripped.strip("[]").split("]")[0])
            here = table
        elif "=" in stripped and not stripped.startswith("#"):
            here = table + _names(stripped.split("=", 1)[0])
        else:
            continue
        depth = len(here) if here == field[: len(here)] else 0
        if depth and (best is None or depth > best[0]):
            best = (depth, number)
    return best[1] if best else None


def _names(dotted: str) -> tuple[str, ...]:
    """Split a TOML key: ``kafka.default`` and ``"bootstrap.servers"``."""
    return tuple(match[0] or match[1] for match in re.findall(r'"([^"]*)"|([A-Za-z0-9_-]+)', dotted))
