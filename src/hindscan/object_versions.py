"""Objects of a bucket as they were: one version of each, read by its id.

Keeps promise 1 where a bucket has versioning on: an object that was overwritten or deleted after it was pinned is still there, under the version that the pin names.
Arrow's client tells versions and cannot ask for one, so it is botocore that reads them, and only them: what is still as it was pinned is read by Arrow, at Arrow's
pace. Needs the extra `versions`; without it such a file fails by its name, as in a bucket that keeps no versions.

Foundation: the only user of botocore and fsspec.

::

    Place of an object, version id -> version_of -> Place of the version (its own file system, that reads and does nothing else)
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import pyarrow.fs as pafs

from hindscan.files import ANSWER_SECONDS, CONNECT_SECONDS, Place

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["version_of"]

#: Between key and version id in a path of this file system.
_MARK: Final = "?versionId="
#: Our settings of a store by what botocore calls them.
_KEYS: Final = {
    "access_key": "aws_access_key_id",
    "secret_key": "aws_secret_access_key",
    "session_token": "aws_session_token",
}


def version_of(at: Place, version: str) -> Place | None:
    """Give the place of one version of an object; None: the extra `versions` is not installed.

    Parameters
    ----------
    at : Place
        The object.
    version : str
        The version's id.
    """
    try:
        filesystem = _filesystem(os.getpid(), None if at.store is None else tuple(sorted(at.store.items())))
    except ImportError:
        return None
    return Place(filesystem=filesystem, path=f"{at.path}{_MARK}{version}")


@functools.lru_cache(maxsize=16)
def _filesystem(process: int, settings: tuple[tuple[str, object], ...] | None) -> pafs.FileSystem:  # noqa: ARG001
    """Make the file system of a store, once in a process: a client takes long to make, and a fork must not share it."""
    # The stubs take what a handler inherits for abstract.
    handler: Any = pafs.FSSpecHandler
    return pafs.PyFileSystem(handler(_versions_class()(None if settings is None else dict(settings))))


def _versions_class() -> type[AbstractFileSystem]:
    """Make the class of the file system; its base is only there where the extra is."""
    import botocore.exceptions
    from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

    class Versions(AbstractFileSystem):  # type: ignore[misc]
        """Versions of objects, as ``bucket/key?versionId=ID``."""

        protocol = "s3-versions"
        cachable = False

        def __init__(self, store: Mapping[str, object] | None) -> None:
            super().__init__()
            self.client = _client(store)

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            try:
                head = self.client.head_object(**_named(path))
            except botocore.exceptions.ClientError as fault:
                if fault.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    raise FileNotFoundError(path) from fault
                raise OSError(str(fault)) from fault
            except botocore.exceptions.BotoCoreError as fault:
                raise OSError(str(fault)) from fault
            return {"name": path, "size": head["ContentLength"], "type": "file"}

        def _open(self, path: str, mode: str = "rb", **_: Any) -> AbstractBufferedFile:
            return Version(self, path, mode, cache_type="none", size=self.info(path)["size"])

    class Version(AbstractBufferedFile):  # type: ignore[misc]
        """One of them, open."""

        def _fetch_range(self, start: int, end: int) -> bytes:
            try:
                # Ranges of HTTP have their ends inside.
                found = self.fs.client.get_object(**_named(self.path), Range=f"bytes={start}-{end - 1}")
                return bytes(found["Body"].read())
            except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as fault:
                raise OSError(str(fault)) from fault

    return Versions


def _named(path: str) -> dict[str, str]:
    at, _, version = path.rpartition(_MARK)
    bucket, _, key = at.partition("/")
    return {"Bucket": bucket, "Key": key, "VersionId": version}


def _client(store: Mapping[str, object] | None) -> Any:
    """Make a client that reaches a bucket as Arrow's does."""
    import botocore
    import botocore.session
    from botocore.config import Config

    settings = dict(store or {})
    endpoint = settings.get("endpoint")
    if endpoint is not None and "://" not in str(endpoint):
        endpoint = f"https://{endpoint}"
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
        signature_version=botocore.UNSIGNED if settings.get("anonymous") else None,
    )
    return botocore.session.get_session().create_client(
        "s3",
        region_name=settings.get("region") or ("us-east-1" if store is not None else None),
        endpoint_url=endpoint,
        config=config,
        **{theirs: settings[ours] for ours, theirs in _KEYS.items() if ours in settings},
    )
