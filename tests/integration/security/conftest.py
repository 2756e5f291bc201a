"""One secured broker for all tests of security, and a project on it for the user of each way in."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import absent
from hindscan.config import Project
from hindscan.config_file import load_project
from hindscan.rights import needed_rights
from hindscan.testing import kafka_available
from integration.security.broker import PASSWORDS, USERS, SecuredKafka, Settings, secured_kafka

_serial = itertools.count()


@dataclass(frozen=True)
class Site:
    """A project whose cluster `prod` is entered in one way, with topics of its own."""

    folder: Path
    way: str
    user: str
    bids: str
    closed: str
    group: str
    settings: Settings

    def load(self) -> Project:
        return load_project(self.folder, {"SECRET": PASSWORDS[self.user]})

    def rights(self, *, optional: bool = True) -> list[tuple[str, str, str]]:
        """Everything that the project says it needs."""
        found = needed_rights(self.load())
        return [(right.kind.upper(), right.name, right.operation) for right in found if right.needed or optional]

    def without(self, *taken: tuple[str, str, str]) -> list[tuple[str, str, str]]:
        """Everything but this."""
        assert set(taken) <= set(self.rights())
        return [right for right in self.rights() if right not in taken]


def write_settings(settings: Settings) -> str:
    return "".join(f"{json.dumps(name)} = {json.dumps(value)}\n" for name, value in settings.items())


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    reason = kafka_available()
    if reason:
        absent("Kafka", reason)
    with secured_kafka(tmp_path_factory.mktemp("secured")) as running:
        yield running


@pytest.fixture
def site(secured: SecuredKafka, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Make a site: its topic of events exists, its topic of bids does not; its user has no rights."""
    users = set()

    def make(way: str) -> Site:
        number = next(_serial)
        bids, closed, group = f"bids-{number}", f"closed-{number}", f"site-{number}"
        settings = secured.settings(way)
        # Secrets come from the environment; here they stand in the file under names that a test's environment fills in.
        secrets = {name: value for name, value in settings.items() if name.endswith(("password", "secret"))}
        plain = {name: value for name, value in settings.items() if name not in secrets}
        (tmp_path / "hindscan.toml").write_text(
            f"""
[serve]
group = "{group}"
[kafka.prod]
{write_settings(plain)}{"".join(f'"{name}" = "${{SECRET}}"' for name in secrets)}
[history.bids]
topic = "prod:{bids}"
time = "date_time"
[triggers.scan]
on = "kafka:prod:{closed}"
job = "count_bids"
start = "earliest"
"""
        )
        secured.create(closed)
        users.add(USERS[way])
        return Site(tmp_path, way, USERS[way], bids, closed, group, settings)

    yield make
    for user in users:
        secured.revoke(user)
