"""Commands that make something to look at: `generate`, `demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from hindscan.cli.options import DEFAULTS, Options, Whole
from hindscan.cli.output import human_count, print_document, writing_to

__all__ = ["demo", "generate"]


def generate(
    what: Literal["auctions"],
    target: str,
    /,
    *,
    bids: Whole | None = None,
    seed: Whole = 0,
    source: Path | None = None,
    partitions: Whole = 8,
    aborted: Whole = 0,
    format: Literal["json", "avro"] = "json",
    registry: str = "default",
    options: Options = DEFAULTS,
) -> None:
    """Write sample history of any size, seeded: the same seed gives the same bytes.

    Parameters
    ----------
    what : str
        The sample site.
    target : str
        A folder, kafka:TOPIC or kafka:CLUSTER:TOPIC.
    bids : int
        How many bids.
    seed : int
        Decides every row.
    source : Path
        A folder made by this command: its bids go to the topic, and nothing is drawn.
    partitions : int
        Partitions of a new topic.
    aborted : int
        Aborted transactions between the committed ones, for tests of readers.
    format : str
        How bids are written to a topic: json, or avro, whose schema is registered as TOPIC-value.
    registry : str
        Name of the schema registry in the project file, for avro.
    """
    from hindscan.generate import generate_auctions

    del what
    cluster, schemas = None, None
    if target.startswith("kafka:"):
        from hindscan.sending import topic_of

        project = options.load()
        _, topic, cluster = topic_of(target, project)
        schemas = project.registries.get(registry)
        target = f"kafka:{topic}"
    written = 0

    def progress(more: int) -> None:
        nonlocal written
        written += more
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{human_count(written)} bids ")

    with writing_to(target):
        sample = generate_auctions(
            target,
            bids=bids,
            seed=seed,
            source=None if source is None else str(source),
            kafka=cluster,
            partitions=partitions,
            aborted=aborted,
            form=format,
            registry=schemas,
            on_progress=progress,
        )
    if sys.stderr.isatty():
        sys.stderr.write("\r" + " " * 30 + "\r")
    ring = {"seller": sample.shill_ring.seller, "bidders": list(sample.shill_ring.bidders)}
    if options.json:
        counts = {"bids": sample.bids, "auctions": sample.auctions, "persons": sample.persons}
        print_document({"target": sample.target, **counts, "shill_ring": ring})
        return
    print(
        f"{human_count(sample.bids)} bids on {human_count(sample.auctions)} auctions by {human_count(sample.persons)} persons in {sample.target}; "
        f"the planted shill ring: seller {ring['seller']}, bidders {ring['bidders']}"
    )


def demo(*, bids: Whole = 2_000_000, folder: Path | None = None, options: Options = DEFAULTS) -> None:
    """Show the main job end to end on a throw-away project: broker, trigger, event, fan-out, result.

    Parameters
    ----------
    bids : int
        Size of the history.
    folder : Path
        Where the project goes. Default: a temporary folder, which is kept.
    """
    from hindscan.demo import run_demo

    summary = run_demo(bids=bids, folder=folder, to=sys.stderr if options.json else sys.stdout)
    if options.json:
        print_document(summary)
