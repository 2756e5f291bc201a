"""Schema registries: what a schema id stands for, and a subject's latest schema.

Keeps promise 2 where records name their schema by a number: an id that the registry does not know is told apart from a registry that does not answer
(`RegistryUnavailable`, worth a retry) and from one that refuses. Schemas never change under their id, so each is fetched once in a process.
Settings are those of confluent's SchemaRegistryClient, with secrets filled in: no message shows more of them than the URL without user and password.

The only user of confluent_kafka.schema_registry, which the extra ``registry`` completes. ``mock://`` is a registry inside this process, empty at its
start: for tests.

::

    [registry.NAME] -> SchemaRegistry -> RegisteredSchema
"""

from __future__ import annotations

import atexit
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from hindscan.errors import HindscanError, RegistryUnavailable, UsageError

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import RegisteredSchema as RegisteredVersion
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

__all__ = ["RegisteredSchema", "SchemaRegistry"]

Settings = Mapping[str, str | int | float | bool]

#: The client's own defaults wait for ever for an answer, and a second and more between its attempts.
_DEFAULTS: Final[Settings] = {"timeout": 10, "max.retries": 2, "retries.wait.ms": 100, "retries.max.wait.ms": 1000}
#: Codes of an answer that there is no such subject, version or schema; any other 404 comes from something that is no registry.
_NOT_FOUND: Final = (40400, 40401, 40402, 40403)
#: Statuses that may pass.
_PASSING: Final = (408, 429)
_SERVER_FAULT: Final = 500
#: Schemas of Protobuf come as descriptors, not as the text of a .proto file.
_SERIALIZED: Final = {"PROTOBUF": "serialized"}


class RegisteredSchema(msgspec.Struct, frozen=True, kw_only=True):
    """One schema with all that it refers to."""

    #: AVRO, PROTOBUF or JSON.
    kind: str
    #: Name and text of each schema it refers to, directly or not, each after those it needs itself; at last the schema.
    files: tuple[tuple[str, str], ...]


class SchemaRegistry:
    """Asks one registry.

    Parameters
    ----------
    settings : mapping
        ``url``, and whatever else confluent's SchemaRegistryClient takes.
    name : str
        Its name in the project file, for messages.
    """

    def __init__(self, settings: Settings, name: str = "default") -> None:
        self._settings = dict(settings)
        self._name = name

    def schema(self, schema_id: int, kind: str) -> RegisteredSchema | None:
        """Give the schema of an id; None if there is none.

        Parameters
        ----------
        schema_id : int
            Its number.
        kind : str
            What it is expected to be: decides in which form it is asked for. What it is, is in the answer.

        Raises
        ------
        RegistryUnavailable
            Nobody answered.
        """
        doing = f"While asking registry {self._name} for schema id {schema_id}"
        found = self._asked(doing, lambda client: client.get_schema(schema_id, fmt=_SERIALIZED.get(kind)))
        return None if found is None else self._complete(doing, str(schema_id), found, kind)

    def latest(self, subject: str, kind: str) -> tuple[int, RegisteredSchema] | None:
        """Give id and schema of a subject's latest version; None if there is no such subject.

        Raises
        ------
        RegistryUnavailable
            Nobody answered.
        """
        doing = f"While asking registry {self._name} for subject {subject!r}"

        def ask(client: SchemaRegistryClient) -> RegisteredVersion:
            # The client would give what it got the first time, for as long as this process lives.
            client.clear_latest_caches()  # type: ignore[no-untyped-call]
            return client.get_latest_version(subject, fmt=_SERIALIZED.get(kind))

        found = self._asked(doing, ask)
        if found is None:
            return None
        return found.schema_id, self._complete(doing, subject, found.schema, kind)

    def register(self, subject: str, schema: RegisteredSchema) -> int:
        """Register a schema that refers to no other, and give its id.

        Raises
        ------
        RegistryUnavailable
            Nobody answered.
        HindscanError
            The registry refused it, for example because it is not compatible with those before it.
        """
        from confluent_kafka.schema_registry import Schema

        made = Schema(schema.files[-1][1], schema.kind)
        doing = f"While registering a schema under {subject!r} in registry {self._name}"
        return int(self._asked(doing, lambda client: client.register_schema(subject, made)))

    def _complete(self, doing: str, name: str, schema: Schema, kind: str) -> RegisteredSchema:
        files: dict[str, str] = {}

        def gather(own: str, each: Schema) -> None:
            for reference in each.references or []:
                if reference.name in files:
                    continue
                place = (str(reference.subject), int(reference.version or 0))
                found = self._asked(doing, lambda client: client.get_version(*place, fmt=_SERIALIZED.get(kind)))  # noqa: B023 - called before the loop goes on
                if found is None:
                    raise HindscanError(
                        f"{doing}: every schema it refers to must be there; {reference.subject} version {reference.version} is not. "
                        "Register it again, or correct the reference.",
                        subject=reference.subject,
                    )
                gather(str(reference.name), found.schema)
            files[own] = str(each.schema_str)

        gather(name, schema)
        return RegisteredSchema(kind=str(schema.schema_type or "AVRO"), files=tuple(files.items()))

    def _asked(self, doing: str, ask: Any) -> Any:
        client = self._client(doing)
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        try:
            return ask(client)
        except SchemaRegistryError as fault:
            status = fault.http_status_code
            if fault.error_code in _NOT_FOUND:
                return None
            if status in _PASSING or status >= _SERVER_FAULT:
                raise self._unavailable(doing, fault) from None
            raise HindscanError(
                f"{doing}: the registry at {self.place} must accept the request; it refused with status {status}: {self._said(fault)}. "
                f"Check `url`, user, password and rights in [registry.{self._name}].",
                registry=self._name,
                status=status,
            ) from None
        except _transport_errors() as fault:
            raise self._unavailable(doing, fault) from None

    def _unavailable(self, doing: str, fault: Exception) -> RegistryUnavailable:
        return RegistryUnavailable(
            f"{doing}: the registry at {self.place} must answer; it did not: {self._said(fault) or type(fault).__name__}. "
            f"Check that it runs and that `url` in [registry.{self._name}] names it.",
            registry=self._name,
        )

    @property
    def place(self) -> str:
        """The URL as it may be shown: without user and password."""
        urls = [urlsplit(url.strip()) for url in str(self._settings.get("url", "")).split(",")]
        return ",".join(url._replace(netloc=url.netloc.rpartition("@")[2]).geturl() for url in urls)

    def _said(self, fault: Exception) -> str:
        text = str(fault).replace(str(self._settings.get("url")), self.place)
        for name, value in self._settings.items():
            if name != "url" and isinstance(value, str) and len(value) > 1:
                text = text.replace(value, "***")
        return text

    def _client(self, doing: str) -> SchemaRegistryClient:
        try:
            return _client(tuple(sorted({**_DEFAULTS, **self._settings}.items())))
        except ImportError as fault:
            raise UsageError(
                f"{doing}: the client of registries needs the library {fault.name}; it is not installed. Run: pip install 'hindscan[registry]'",
                library=fault.name,
            ) from fault
        except (ValueError, TypeError, OSError) as fault:
            raise UsageError(
                f"{doing}: the settings in [registry.{self._name}] must be those of confluent's SchemaRegistryClient; {self._said(fault)}. Correct them.",
                registry=self._name,
            ) from None


# One client for each registry in a process, because it holds the schemas that were fetched, and because `mock://` is nowhere else.
@functools.cache
def _client(settings: tuple[tuple[str, Any], ...]) -> SchemaRegistryClient:
    from confluent_kafka.schema_registry import SchemaRegistryClient

    client = SchemaRegistryClient.new_client(dict(settings))
    atexit.register(client.close)
    return client


def _transport_errors() -> tuple[type[Exception], ...]:
    # What the client lets through of the HTTP library below it; both are there where a client could be made.
    import httpx2

    return (OSError, httpx2.HTTPError, httpx2.InvalidURL)
