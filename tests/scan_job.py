"""A job that is declared and never run: what the intake needs of one, and what a project file has beside the triggers that start it."""

from __future__ import annotations

from hindscan.jobs.job import JobSpec, Parameter, Step

CATEGORY = Parameter(name="category", type="str", required=True)
#: A history that nobody reads, and a broker that nobody asks.
DECLARED = """
[kafka.default]
"bootstrap.servers" = "127.0.0.1:1"
[history.bids]
parquet = "data/bids"
time = "date_time"
"""


def scan_spec(*parameters: Parameter) -> JobSpec:
    """Build the job `scan` with these parameters."""
    return JobSpec(
        name="scan", kind="scan", table="bids", history="bids", combine="concat", code="c0de", parameters=parameters,
        steps={"slice": Step(digest="d", parameters=tuple(one.name for one in parameters))},
    )  # fmt: skip
