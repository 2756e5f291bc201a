"""Code as it was when a run was opened: what the job is, as data, and the bundle that travels to workers.

Part of promises 1 and 6: a run that waits over a restart or an edit of the project, and every later retry of it, executes the code it was opened with. The store only
keeps the bundle; it is opened by workers (promise 12).

::

    jobs.code -> JobSpec + Code -> save_code -> Run.code -> load_code -> plans, tasks
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import sqlalchemy as sa

from hindscan.errors import NotFound
from hindscan.jobs.job import Code, JobSpec
from hindscan.runs import schema
from hindscan.runs.statement import Statement, insert_new

if TYPE_CHECKING:
    from hindscan.runs.store import Store

__all__ = ["load_code", "save_code"]

_spec = msgspec.json.Decoder(JobSpec)
_code = msgspec.msgpack.Decoder(Code)
_STORED: Final = Statement(
    lambda _: sa.select(schema.codes.c.spec, schema.codes.c.code).where(
        schema.codes.c.digest == sa.bindparam("of"), schema.codes.c.job == sa.bindparam("named")
    )
)


def save_code(store: Store, spec: JobSpec, code: Code) -> str:
    """Store a job and its bundle unless they are there; give the digest to open runs with."""
    table = schema.codes
    with store.read() as connection:
        found = sa.select(table.c.spec).where(table.c.digest == code.digest, table.c.job == spec.name)
        text = msgspec.json.encode(spec, order="deterministic").decode()
        if connection.execute(found).scalar_one_or_none() == text:
            return code.digest
    row = {
        "digest": code.digest,
        "job": spec.name,
        "spec": text,
        "code": msgspec.msgpack.encode(code),
        "saved_at": store.now(),
    }
    with store.write() as connection:
        if insert_new(connection, table, row, [table.c.digest]) is None:
            # The same functions under another declaration (a limit, a default history): the newest counts.
            same = (table.c.digest == code.digest, table.c.job == spec.name)
            connection.execute(sa.update(table).where(*same).values(spec=text))
    return code.digest


def load_code(store: Store, digest: str, job: str) -> tuple[JobSpec, Code]:
    """Give a job and its bundle as they were stored.

    Raises
    ------
    hindscan.errors.NotFound
        There is no such bundle.
    """
    with store.read() as connection:
        row = _STORED.first(connection, of=digest, named=job)
    if row is None:
        raise NotFound(
            f"While loading the code of job {job!r}: a bundle with digest {digest} must be in the store; there is none. "
            "Open the run again from the project.",
            job=job,
            digest=digest,
        )
    return _spec.decode(row[0]), _code.decode(row[1])
