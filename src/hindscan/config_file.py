"""Reading `hindscan.toml`: from the file and the environment to a `Project`, or every fault of it at once.

Each fault has its file, line and field (`errors.ConfigError`); secrets are written as ``${NAME}`` only, and a missing one is an error. Every setting can be
overridden by ``HINDSCAN_SECTION__KEY``. Nothing is opened: histories and triggers are built once as values, to hear what is wrong with them.

::

    find_root -> hindscan.toml + environment -> load_project -> Project
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hindscan.config import (
    ClusterSettings,
    ComputeSettings,
    CopyPlace,
    JobsSettings,
    Project,
    ServeSettings,
    StoreSettings,
)
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
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Reading {file}: it must be TOML 1.0. {error}.") from error
    return _Reading(root=root, file=file, text=text, env=env).project(document, begun)


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

    def project(self, document: dict[str, Any], begun: Callable[[Project], None] | None) -> Project:
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
        self._check_values(project, tables)
        if begun is not None and not self.faults:
            begun(project)
        self._check(("history",), project.history_tables, lambda: project.histories)
        self._check(("triggers",), project.trigger_tables, lambda: project.triggers)
        self._check(("publish",), project.publish_tables, lambda: project.outlets)
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
