"""Alembic revisions of the store; run by `runs.migration`, without an ini file."""
