"""0006: what was sent from the outbox is found by when, to be purged. Why the index is there stands in `runs.schema`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the index."""
    settled = sa.text("state IN ('sent', 'unmatched')")
    op.create_index("outbox_settled", "outbox", ["sent_at"], sqlite_where=settled, postgresql_where=settled)


def downgrade() -> None:
    """Refuse: a store is never led back, because a newer one may hold what an older one cannot.

    Raises
    ------
    RuntimeError
        Always.
    """
    raise RuntimeError("a store is never led back; restore the copy made before the upgrade")
