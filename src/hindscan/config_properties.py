"""Tables of a library's own properties: Kafka clusters, registries, object stores, catalogs of Iceberg.

Serves promise 12. What the properties mean is the library's matter; here those that are secrets must be references, and those that are hindscan's own, or few and
known, are checked.

::

    [kafka.NAME], [registry.NAME], [s3.BUCKET], [iceberg.CATALOG] -> read_properties -> Project
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hindscan.config import ClusterSettings
from hindscan.config_text import Written, is_secret, url_password

__all__ = ["read_properties"]

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


def read_properties(
    written: Written, section: str, table: Mapping[str, Any], required: str | None = None
) -> dict[str, ClusterSettings]:
    """Read tables of a library's own properties by name.

    Parameters
    ----------
    written : Written
        The file; hears of faults.
    section : str
        "kafka", "registry", "s3" or "iceberg".
    table : mapping
        What stands in it.
    required : str, optional
        A property that each table must have.
    """
    found: dict[str, ClusterSettings] = {}
    for name, settings in table.items():
        if not isinstance(settings, dict):
            written.fault((section, name), f"must be a table [{section}.NAME] of properties")
            continue
        # TOML reads an unquoted `bootstrap.servers = ...` as nested tables; both spellings mean the property.
        flat = _flattened(settings)
        found[name] = {key: written.filled((section, name, key), value) for key, value in flat.items()}
        for key, value in flat.items():
            if is_secret(key):
                # Of `USER:PASSWORD` the user may be written out.
                written.demand_reference((section, name, key), str(value).rpartition(":")[2])
            elif section == "iceberg" and (password := url_password(str(value))):
                written.demand_reference((section, name, key), password, "its password ")
        if required is not None and required not in flat:
            written.fault((section, name), f'needs "{required}"')
        if section == "kafka":
            _check_own(written, name, flat)
        if section == "s3":
            _check_store(written, name, flat)
    return found


def _check_own(written: Written, cluster: str, properties: ClusterSettings) -> None:
    """Check the properties that are hindscan's, not librdkafka's."""
    for key, value in properties.items():
        if not key.startswith("hindscan."):
            continue
        allowed = _OWN_PROPERTIES.get(key)
        if allowed is None:
            written.fault(("kafka", cluster, key), f"no such property; there are {', '.join(_OWN_PROPERTIES)}")
        elif value not in allowed:
            written.fault(("kafka", cluster, key), f"must be one of {', '.join(map(repr, allowed))}, found {value!r}")


def _check_store(written: Written, bucket: str, properties: ClusterSettings) -> None:
    for key, value in properties.items():
        kind = _STORE_PROPERTIES.get(key)
        if kind is None:
            written.fault(("s3", bucket, key), f"no such property; there are {', '.join(_STORE_PROPERTIES)}")
        elif type(value) is not kind:
            written.fault(
                ("s3", bucket, key), f"must be {'true or false' if kind is bool else 'a text'}, found {value!r}"
            )


def _flattened(table: Mapping[str, Any], prefix: str = "") -> ClusterSettings:
    flat: ClusterSettings = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update(_flattened(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
