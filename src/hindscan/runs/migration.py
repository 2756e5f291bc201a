"""Bringing a store up to date, or saying why it cannot be used.

A store knows its revision. If it is the newest, nothing more happens and Alembic is not even imported; an empty database gets all tables of
`schema` at once; an older one is led here by the revisions in `migrations/versions`, in one transaction under a lock, so that two
processes that open it together do it once and a crash leaves the old store. A revision that this hindscan does not know was made by a newer
one: it is refused before anything is read, because guessing at unknown columns could lose events.

Part of `store.open_store`.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hindscan.errors import StoreTooNew
from hindscan.faults import point
from hindscan.runs import schema

if TYPE_CHECKING:
    from hindscan.runs.store import Store

__all__ = ["bring_up_to_date"]

#: Revisions, oldest first. Alembic's own table holds one of them.
REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")


def bring_up_to_date(store: Store) -> None:
    """Make or migrate the tables.

    Raises
    ------
    hindscan.errors.StoreTooNew
        A newer hindscan made them.
    """
    with store.read() as connection:
        if _revision(connection, store.url) == schema.REVISION:
            return
    with store.write(turn="migration") as connection:
        # Asked again: another process may have done it while this one waited.
        found = _revision(connection, store.url)
        if found == schema.REVISION:
            return
        if found is None:
            _create(connection)
        else:
            _migrate(connection)
        _sign(connection)
    point("store.created")


def _revision(connection: sa.Connection, url: str) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    if found is None:
        return None
    if found not in REVISIONS:
        by = connection.execute(sa.select(schema.store.c.value).where(schema.store.c.name == "hindscan")).scalar()
        raise StoreTooNew(
            f"While opening the store {url}: hindscan {version('hindscan')} knows its revisions up to {schema.REVISION}; found "
            f"{found}, written by hindscan {by}. Upgrade hindscan to {by} or later, or name another store in [store].url.",
            store=url,
            revision=found,
            written_by=by,
            known=schema.REVISION,
            version=version("hindscan"),
        )
    return str(found)


def _create(connection: sa.Connection) -> None:
    schema.metadata.create_all(connection)
    # As Alembic makes it, so that it finds it when the time comes.
    connection.execute(
        sa.text(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
            "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
        )
    )
    connection.execute(sa.text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": schema.REVISION})


def _migrate(connection: sa.Connection, to: str = "head") -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)

    def steps(found: Any, _context: object) -> Any:
        return script._upgrade_revs(to, found)

    with EnvironmentContext(config, script, fn=steps) as environment:
        # The connection is in a transaction already: Alembic works inside it, and it is whole or not at all.
        environment.configure(connection=connection, target_metadata=schema.metadata, render_as_batch=True)
        with environment.begin_transaction():
            environment.run_migrations()


def _sign(connection: sa.Connection) -> None:
    connection.execute(sa.delete(schema.store).where(schema.store.c.name == "hindscan"))
    connection.execute(sa.insert(schema.store).values(name="hindscan", value=version("hindscan")))
