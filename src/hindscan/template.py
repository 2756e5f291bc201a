"""A new project: what `hindscan init` and the demo start from.

The example jobs are the ones in the checkout's `jobs/`, which a wheel carries under `hindscan/template`: there is one copy of each.
"""

from __future__ import annotations

from pathlib import Path

from hindscan.errors import UsageError

__all__ = ["example_jobs", "write_project"]

_PROJECT_FILE = """\
# A hindscan project. Every setting: `docs/reference/settings.md`.

[store]
url = "sqlite:///.hindscan/hindscan.db"

[compute]
workers = 2

[kafka.default]
"bootstrap.servers" = "{bootstrap}"
{kafka_extra}
[history.bids]
parquet = "data/bids"
time = "date_time"

[history.auctions]
parquet = "data/auctions"
time = "date_time"

[history.persons]
parquet = "data/persons"
time = "date_time"

[history.bids_log]
topic = "bids"
format = "json"
time = "date_time"
columns = {{ auction = "int64", bidder = "int64", price = "int64", channel = "string", category = "string", date_time = "timestamp[us, UTC]" }}

[triggers.scan_on_close]
on = [{sources}]
start = "now"
filter = {{ exact = {{ type = "auction.closed" }} }}
job = "bidder_scan"
parameters = {{ category = "data.category", year = {{ path = "data.year", default = 2018 }} }}
as_of = "event"
"""


def example_jobs() -> Path:
    """Find the folder of the example jobs, installed or in a checkout."""
    here = Path(__file__).parent
    packaged = here / "template" / "jobs"
    return packaged if packaged.is_dir() else here.parents[1] / "jobs"


def write_project(
    folder: Path,
    *,
    bids: int = 50_000,
    bootstrap: str = "127.0.0.1:9092",
    kafka_extra: str = "",
    sources: tuple[str, ...] = ("http",),
) -> list[str]:
    """Write a project that runs.

    Parameters
    ----------
    folder : Path
        Created if it does not exist.
    bids : int
        Rows of sample history; 0 writes none.
    bootstrap : str
        Address of the Kafka broker.
    kafka_extra : str
        Further lines of the cluster's table.
    sources : tuple of str
        What the example trigger listens to. Default: HTTP only, so that `serve` needs no broker.

    Returns
    -------
    list of str
        The files written, relative.

    Raises
    ------
    hindscan.errors.UsageError
        The folder holds a project already.
    """
    if (folder / "hindscan.toml").exists():
        raise UsageError(
            f"Making a project in {folder}: it must not hold one. It has a hindscan.toml; take another folder."
        )
    (folder / "jobs").mkdir(parents=True, exist_ok=True)
    text = _PROJECT_FILE.format(
        bootstrap=bootstrap, kafka_extra=kafka_extra, sources=", ".join(f'"{source}"' for source in sources)
    )
    (folder / "hindscan.toml").write_text(text, encoding="utf-8")
    (folder / ".gitignore").write_text(".hindscan/\n", encoding="utf-8")
    for job in sorted(path for path in example_jobs().iterdir() if path.suffix in (".py", ".sql")):
        (folder / "jobs" / job.name).write_bytes(job.read_bytes())
    if bids:
        from hindscan.generate import generate_auctions

        generate_auctions(str(folder / "data"), bids=bids, seed=1)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
