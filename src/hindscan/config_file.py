"""Reading `hindscan.toml`: from the file and the environment to a `Project`, or every fault of it at once.

Each fault has its file, line and field (`errors.ConfigError`). What is written, and what the environment makes of it, is `config_text`; here is what a section must be.
Nothing is opened: histories and triggers are built once as values, to hear what is wrong with them.

::

    find_root -> hindscan.toml + environment -> load_project -> Project
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hindscan.config import (
    ComputeSettings,
    CopyPlace,
    JobsSettings,
    Project,
    ServeSettings,
    StoreSettings,
)
from hindscan.config_properties import read_properties
from hindscan.config_text import Written, url_password
from hindscan.errors import ConfigError, HindscanError, UsageError
from hindscan.jobs.job import is_allowance
from hindscan.logs import LEVELS

__all__ = ["find_root", "load_project"]

FILE_NAME = "hindscan.toml"


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


def load_project(
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    begun: Callable[[Project], None] | None = None,
) -> Project:
    """Read and check the project file.

    Parameters
    ----------
    folder : Path, optional
        Folder of the file. Default: the nearest upwards from here.
    environment : mapping, optional
        Where overrides and secrets come from. Default: the process's.
    begun : callable, optional
        Hears of the project when its settings are read without a fault, before all that it declares is checked: for what takes as long to start.

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
    except UnicodeDecodeError as error:
        raise ConfigError(f"Reading {file}: it must be UTF-8; {error.reason} at byte {error.start}.") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Reading {file}: it must be TOML 1.0. {error}.") from error
    return _Reading(root, Written(file, text, env)).project(document, begun)


_T = TypeVar("_T", bound=msgspec.Struct)
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
    """One reading of one file, section by section."""

    def __init__(self, root: Path, written: Written) -> None:
        self.root, self.written = root, written

    def project(self, document: dict[str, Any], begun: Callable[[Project], None] | None) -> Project:
        self.written.override(document, _SECTIONS)
        for section, body in document.items():
            if section not in _SECTIONS:
                self.written.fault((section,), f"no such section; there are {', '.join(_SECTIONS)}")
            elif not isinstance(body, dict):
                self.written.fault((section,), "must be a table")
        tables: dict[str, dict[str, Any]] = {
            name: body if isinstance(body := document.get(name), dict) else {} for name in _SECTIONS
        }
        project = Project(
            root=self.root,
            file=self.written.file,
            store=self._settings(StoreSettings, "store", tables["store"]),
            compute=self._settings(ComputeSettings, "compute", tables["compute"]),
            serve=self._settings(ServeSettings, "serve", tables["serve"]),
            jobs=self._settings(JobsSettings, "jobs", tables["jobs"]),
            clusters=read_properties(self.written, "kafka", tables["kafka"], "bootstrap.servers"),
            registries=read_properties(self.written, "registry", tables["registry"], "url"),
            object_stores=read_properties(self.written, "s3", tables["s3"]),
            iceberg_catalogs=read_properties(self.written, "iceberg", tables["iceberg"]),
            copies=self._copies(tables["copies"], tables["s3"], tables["iceberg"]),
            history_tables=self._named("history", tables["history"]),
            trigger_tables=self._named("triggers", tables["triggers"]),
            publish_tables=self._outlets(tables["publish"]),
        )
        self._check_values(project, tables)
        if begun is not None and not self.written.faults:
            begun(project)
        self._check(("history",), project.history_tables, lambda: project.histories)
        self._check(("triggers",), project.trigger_tables, lambda: project.triggers)
        self._check(("publish",), project.publish_tables, lambda: project.outlets)
        if self.written.faults:
            listed = "\n".join(f"  {fault}" for fault in self.written.faults)
            raise ConfigError(
                f"Reading {self.written.file}: {len(self.written.faults)} setting(s) are not valid:\n{listed}",
                faults=list(self.written.faults),
            )
        return project

    def _settings(self, kind: type[_T], section: str, table: dict[str, Any] | None) -> _T:
        good: dict[str, Any] = {}
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        for key, value in (table or {}).items():
            if key not in fields:
                self.written.fault((section, key), f"no such setting; [{section}] has {', '.join(fields)}")
                continue
            try:
                good[key] = msgspec.convert(self.written.filled((section, key), value), fields[key].type, strict=True)
            except msgspec.ValidationError as error:
                found = "" if "secret" in key else f", found {value!r}"
                self.written.fault((section, key), f"{str(error).lower()}{found}")
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
                self.written.fault((section, field), f"must be at least 1, found {value}")
        if not is_allowance(project.compute.allow_failed):
            found = project.compute.allow_failed
            self.written.fault(
                ("compute", "allow_failed"), f"must be a share below 1 or a whole number of slices, found {found}"
            )
        if not 0 <= project.serve.port <= 65_535:
            self.written.fault(("serve", "port"), f"must be 0 to 65535, found {project.serve.port}")
        if project.serve.log not in ("text", "json"):
            self.written.fault(("serve", "log"), f'must be "text" or "json", found {project.serve.log!r}')
        if project.serve.log_level not in LEVELS:
            self.written.fault(
                ("serve", "log_level"), f"must be one of {', '.join(LEVELS)}, found {project.serve.log_level!r}"
            )
        self._check_webhooks(project.serve, tables["serve"].get("webhook_secrets"))
        for name in ("event_retention", "record_retention", "outbox_retention"):
            try:
                getattr(project, name)
            except ValueError as error:
                self.written.fault(("store", name), str(error))
        password = url_password(str(tables["store"].get("url", "")))
        if password:
            self.written.demand_reference(("store", "url"), password, "its password ")
        dask = project.compute.dask
        if dask != "local" and not dask.startswith(("tcp://", "tls://")):
            self.written.fault(
                ("compute", "dask"), f'must be "local" or tcp://HOST:PORT or tls://HOST:PORT, found {dask!r}'
            )

    def _check_webhooks(self, serve: ServeSettings, written: object) -> None:
        """Check the secrets as written, then as they are; neither is repeated."""
        from hindscan.events.signature import read_secret

        field = ("serve", "webhook_secrets")
        before = len(self.written.faults)
        for reference in written if isinstance(written, list) else ():
            self.written.demand_reference(field, str(reference))
        if len(self.written.faults) > before:
            return
        for number, secret in enumerate(serve.webhook_secrets, 1):
            try:
                read_secret(secret)
            except ValueError as fault:
                self.written.fault(field, f"secret {number} {fault}")

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
            self.written.fault(("copies", job), f"{wanted}, found {said!r}")
            return None
        if kinds and (mode not in ("append", "replace") or said.keys() - {kinds[0], "mode"}):
            self.written.fault(
                ("copies", job), f'must have beside {kinds[0]} only mode, "append" or "replace", found {said!r}'
            )
            return None
        kind: Any = kinds[0] if kinds else "files"
        made = CopyPlace(kind=kind, location=location, mode=mode)
        if made.kind == "iceberg":
            catalog = location.partition(".")[0]
            if location.count(".") < 2 or catalog not in catalogs:
                known = ", ".join(sorted(catalogs)) or "none"
                self.written.fault(
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
                self.written.fault(("copies", job), str(error))
                return None
        return made

    def _named(self, section: str, table: dict[str, Any]) -> dict[str, dict[str, Any]]:
        named: dict[str, dict[str, Any]] = {}
        for name, body in table.items():
            if isinstance(body, dict):
                named[name] = body
            else:
                self.written.fault((section, name), f"must be a table [{section}.NAME]")
        return named

    def _outlets(self, table: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Read where events of runs go, with their secrets filled in."""
        named = self._named("publish", table)
        for name, body in named.items():
            secrets, field = body.get("secrets"), ("publish", name, "secrets")
            if isinstance(secrets, list):
                for reference in secrets:
                    self.written.demand_reference(field, str(reference))
                named[name] = body | {"secrets": self.written.filled(field, secrets)}
        return named

    def _check(self, section: tuple[str, ...], tables: dict[str, dict[str, Any]], build: Callable[[], object]) -> None:
        """Build every history, trigger or outlet once, to hear all that is wrong with them."""
        try:
            build()
        except HindscanError as error:
            # One is wrong: ask each alone, so that every fault is told.
            known = len(self.written.faults)
            for name, table in tables.items():
                self._check_one(section[0], name, table)
            if len(self.written.faults) == known:
                # Each is right alone; they do not go together.
                faults = error.details.get("faults")
                for place, message in faults if isinstance(faults, list) else ():
                    self.written.fault((*section, str(place)), str(message))

    def _check_one(self, section: str, name: str, table: dict[str, Any]) -> None:
        alone = Project(
            root=self.root,
            file=self.written.file,
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
                    self.written.fault((section, name, str(fault[0])), str(fault[1]))
                else:
                    self.written.fault((section, name), str(fault))

    def _declared(self, section: str) -> list[str]:
        table = tomllib.loads(self.written.text).get(section)
        return list(table) if isinstance(table, dict) else []
