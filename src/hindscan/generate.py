"""Write the sample site's history to a folder of Parquet, or its bids to a Kafka topic.

It promises that the same number of bids and the same seed give the same bytes in Parquet and the same records in
Kafka, at any size in bounded memory; that a folder is filled whole or not at all; and that a topic gets every bid or
the call fails. `hindscan.sample` draws the rows. On top of the package. ::

    hindscan generate auctions TARGET --bids N --seed S

    TARGET/persons/part-0.parquet
    TARGET/auctions/part-0.parquet
    TARGET/bids/year=2018/month=3/part-0.parquet      rows in the order of time
    TARGET/shill_ring.json                            the planted truth: {"seller": ID, "bidders": [ID, ...]}

A topic holds one JSON or Avro record for each bid, keyed by the auction in decimal, its record time the bid's own. Committed
transactions with aborted ones in between, on demand, make a log with holes: what an aborted one wrote repeats bids
that are there already, so that a reader who takes them counts too many.
"""

from __future__ import annotations

import json
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hindscan.catalogue import AUCTIONS, BIDS, PERSONS
from hindscan.errors import Conflict, CorruptData, SourceMissing, UsageError
from hindscan.sample import ShillRing, Site, found_site, parts
from hindscan.sample_values import SAMPLE_FORMATS, cells, encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from hindscan.sample_values import Encoder

__all__ = ["Sample", "generate_auctions"]

_Item = TypeVar("_Item")

#: Rows of a row group: small enough to prune by time, large enough to decode at full speed.
ROW_GROUP_ROWS = 131_072
#: Bids that are encoded and sent together, in one transaction if any: about 16 MB of JSON.
BATCH_ROWS = 100_000
#: Bids that an aborted transaction writes in vain, at most: it repeats the first of those just committed.
ABORTED_ROWS = 1_000
#: A broker that has not answered by then is not there.
BROKER_SECONDS = 10.0
#: By default the broker deletes records by their age, and these are years old.
TOPIC_SETTINGS = {"retention.ms": "-1", "retention.bytes": "-1"}
#: It begins a new file for every week of record time; with three years in a minute, that is all it would do.
TOPIC_TUNING = {"segment.ms": str(10 * 365 * 24 * 3600 * 1000)}

#: What makes up a sample folder, in the order in which it appears.
_PIECES = ("persons", "auctions", "shill_ring.json", "bids")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:(//)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A sample history, and the truth that is planted in it."""

    #: The folder, or `kafka:TOPIC`.
    target: str
    #: Rows of the history. A topic gets the bids alone.
    bids: int
    auctions: int
    persons: int
    shill_ring: ShillRing


def generate_auctions(
    target: str,
    *,
    bids: int | None = None,
    seed: int = 0,
    source: str | None = None,
    kafka: Mapping[str, str | int | float | bool] | None = None,
    partitions: int = 8,
    aborted: int = 0,
    form: str = "json",
    registry: Mapping[str, str | int | float | bool] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Sample:
    """Write a sample history of the auction site.

    Parameters
    ----------
    target : str
        A local folder, which may hold other things but no sample, or ``kafka:TOPIC``.
    bids : int, optional
        How many bids the three years have; at least 1. Needed, unless `source` is given.
    seed : int
        Decides every row.
    source : str, optional
        A folder that this function has filled: its bids go to the topic, and nothing is drawn.
    kafka : Mapping, optional
        librdkafka properties of the topic's cluster.
    partitions : int
        Partitions of a new topic. One that exists is taken as it is, if it is empty and keeps old records.
    aborted : int
        If above 0, the bids go to the topic in committed transactions with so many aborted ones in between, the last
        of them at the end.
    form : str
        How bids are written to a topic: ``json``, or ``avro``, whose schema is registered as ``TOPIC-value``.
    registry : Mapping, optional
        Settings of the schema registry, which Avro needs.
    on_progress : callable, optional
        Called with the number of bids written since the last call.

    Returns
    -------
    Sample
        Counts and ground truth.

    Raises
    ------
    UsageError
        If the arguments do not fit together.
    Conflict
        If the folder or the topic already holds a history.
    SourceMissing
        If `source` is not a sample.
    CorruptData
        If a file of `source` is damaged.
    BrokerUnavailable
        If bids could not be delivered.
    """
    topic = target.removeprefix("kafka:") if target.startswith("kafka:") else None
    faults = [*_faults(target, topic, bids, source, kafka, partitions, aborted), *_form_faults(topic, form, registry)]
    if faults:
        raise UsageError(f"While generating a sample history in {target!r}: " + "; ".join(faults) + ".")
    report = on_progress or (lambda _: None)
    if source is not None:
        sample, tables = _open_folder(Path(source), target), _stored_bids(Path(source))
    else:
        site = found_site(bids=bids or 0, seed=seed)
        sample, tables = _describe(site, target), (part.bids for part in parts(site))
        if topic is None:
            _write_folder(Path(target), site, report)
    if topic is not None:
        _write_topic(topic, sample.bids, tables, kafka or {}, partitions, aborted, form, registry, report)
    return sample


def _faults(
    target: str,
    topic: str | None,
    bids: int | None,
    source: str | None,
    kafka: Mapping[str, Any] | None,
    partitions: int,
    aborted: int,
) -> Iterator[str]:
    if (bids is None) == (source is None):
        yield "it needs either a number of bids or a source folder, not both"
    if topic is None:
        if _URL.match(target) and not Path(target).drive:
            yield "the target must be a local folder or kafka:TOPIC; copy the folder to a store afterwards"
        if source is not None:
            yield "a source folder goes to a topic only; copy the folder instead"
        if aborted:
            yield f"only a topic has transactions, but aborted is {aborted}"
        return
    if not topic:
        yield "the topic's name is missing after kafka:"
    if not (kafka or {}).get("bootstrap.servers"):
        yield "a topic needs a cluster with bootstrap.servers; name one under [kafka.default] in the project file"
    if partitions < 1:
        yield f"partitions must be 1 or more, got {partitions}"
    if aborted < 0:
        yield f"aborted must be 0 or more, got {aborted}"


def _form_faults(topic: str | None, form: str, registry: Mapping[str, Any] | None) -> Iterator[str]:
    if form not in SAMPLE_FORMATS:
        yield f"the format must be one of {', '.join(SAMPLE_FORMATS)}, found {form!r}"
    elif form != "json" and topic is None:
        yield f"a folder is Parquet; only a topic is written as {form}"
    elif form != "json" and not (registry or {}).get("url"):
        yield f"{form} needs a schema registry; name one under [registry.default] in the project file"


def _describe(site: Site, target: str) -> Sample:
    return Sample(
        target=target, bids=site.bids, auctions=site.auctions, persons=site.persons.num_rows, shill_ring=site.ring
    )


# --- A folder ---------------------------------------------------------------------------------------------------------


def _write_folder(folder: Path, site: Site, report: Callable[[int], None]) -> None:
    """Write the sample in a hidden folder beside its place, and move it there piece by piece, the bids last."""
    taken = [name for name in _PIECES if (folder / name).exists()]
    if taken:
        raise Conflict(
            f"While generating a sample history in {folder}: the folder must not hold one already; it has "
            f"{', '.join(taken)}. Choose another folder, or delete these first.",
            folder=str(folder),
            found=taken,
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".generating-", dir=folder) as scratch:
        half = Path(scratch)
        with _parquet(half / "persons", PERSONS) as persons:
            persons.write_table(site.persons, ROW_GROUP_ROWS)
        _write_parts(half, site, report)
        ring = {"seller": site.ring.seller, "bidders": list(site.ring.bidders)}
        (half / "shill_ring.json").write_text(json.dumps(ring) + "\n")
        for name in _PIECES:
            (half / name).rename(folder / name)


def _write_parts(half: Path, site: Site, report: Callable[[int], None]) -> None:
    waiting: list[pa.Table] = []
    # While one part is written, the next is drawn.
    with _parquet(half / "auctions", AUCTIONS) as auctions, ThreadPoolExecutor(1) as drawer:
        for (year, month), stretch in groupby(_ahead(parts(site), drawer), key=lambda part: (part.year, part.month)):
            with _parquet(half / "bids" / f"year={year}" / f"month={month}", BIDS) as bids:
                for part in stretch:
                    bids.write_table(part.bids, ROW_GROUP_ROWS)
                    report(part.bids.num_rows)
                    # A small site opens too few auctions in a month to fill a row group.
                    waiting.append(part.auctions.cast(AUCTIONS))
                    rows = sum(table.num_rows for table in waiting)
                    if rows >= ROW_GROUP_ROWS:
                        opened, whole = pa.concat_tables(waiting), rows // ROW_GROUP_ROWS * ROW_GROUP_ROWS
                        auctions.write_table(opened.slice(0, whole), ROW_GROUP_ROWS)
                        waiting = [opened.slice(whole)]
        if (rest := pa.concat_tables(waiting)).num_rows:
            auctions.write_table(rest, ROW_GROUP_ROWS)


def _parquet(folder: Path, schema: pa.Schema) -> pq.ParquetWriter:
    folder.mkdir(parents=True)
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    return pq.ParquetWriter(
        folder / "part-0.parquet",
        # What is written is dictionary-encoded, what is read need not know.
        _encoded(schema) if schema is BIDS else schema,
        store_schema=False,
        compression="zstd",
        use_dictionary=texts,  # type: ignore[arg-type]  # the stubs know no list
        # Against plain numbers: two thirds of the bytes, a third of the time to read them.
        column_encoding={name: "DELTA_BINARY_PACKED" for name in schema.names if name not in texts},
        write_page_checksum=True,
    )


def _encoded(schema: pa.Schema) -> pa.Schema:
    text = pa.dictionary(pa.int8(), pa.string())
    return pa.schema([field.with_type(text) if pa.types.is_string(field.type) else field for field in schema])


def _ahead(items: Iterator[_Item], worker: ThreadPoolExecutor) -> Iterator[_Item]:
    """Have the next item made while the caller works on this one."""
    coming = worker.submit(next, items, None)
    while (item := coming.result()) is not None:
        coming = worker.submit(next, items, None)
        yield item


def _open_folder(folder: Path, target: str) -> Sample:
    missing = [name for name in _PIECES if not (folder / name).exists()]
    if missing:
        raise SourceMissing(
            f"While reading the sample history in {folder}: it must hold {', '.join(_PIECES)}; {', '.join(missing)} "
            f"missing. Make one with: hindscan generate auctions {folder} --bids N --seed S",
            folder=str(folder),
            missing=missing,
        )
    ring = json.loads((folder / "shill_ring.json").read_text())
    rows = {name: sum(_rows(file) for file in _files(folder / name)) for name in ("bids", "auctions", "persons")}
    return Sample(target=target, shill_ring=ShillRing(seller=ring["seller"], bidders=tuple(ring["bidders"])), **rows)


def _files(folder: Path) -> list[Path]:
    """List Parquet files in the order of the numbers in their paths: month 10 comes after month 9."""
    return sorted(folder.rglob("*.parquet"), key=lambda file: [int(number) for number in re.findall(r"\d+", str(file))])


def _rows(file: Path) -> int:
    try:
        return pq.read_metadata(file).num_rows
    except (pa.ArrowInvalid, OSError) as fault:
        raise _damaged(file, fault) from fault


def _stored_bids(folder: Path) -> Iterator[pa.Table]:
    latest = np.iinfo(np.int64).min
    for file in _files(folder / "bids"):
        try:
            with pq.ParquetFile(file, page_checksum_verification=True) as stored:
                for batch in stored.iter_batches(BATCH_ROWS, columns=BIDS.names, use_threads=False):
                    table = pa.Table.from_batches([batch])
                    times = _microseconds(table)
                    if times[0] < latest or (np.diff(times) < 0).any():
                        raise _damaged(file, "its bids are not in the order of time")
                    latest = times[-1]
                    yield table
        except (pa.ArrowInvalid, OSError) as fault:
            raise _damaged(file, fault) from fault


def _damaged(file: Path, fault: object) -> CorruptData:
    return CorruptData(
        f"While reading the sample history in {file}: it must be a Parquet file as generated; {fault}. "
        "Delete the sample and generate it again.",
        file=str(file),
    )


# --- A topic ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    """Records ready to send, and how many transactions are to be aborted after them."""

    keys: list[bytes]
    values: list[bytes]
    milliseconds: list[int]
    aborted: int

    def records(self, most: int | None = None) -> Iterator[tuple[bytes, bytes, int]]:
        # One tuple after the other: a hundred thousand at once would keep the garbage collector busy.
        return islice(zip(self.keys, self.values, self.milliseconds, strict=True), most)


def _write_topic(
    topic: str,
    bids: int,
    tables: Iterator[pa.Table],
    config: Mapping[str, str | int | float | bool],
    partitions: int,
    aborted: int,
    form: str,
    registry: Mapping[str, str | int | float | bool] | None,
    report: Callable[[int], None],
) -> None:
    from hindscan.kafka.cluster import ping
    from hindscan.kafka.writer import TopicWriter, create_topic

    ping(config, BROKER_SECONDS)
    values = encoder(form, registry, f"{topic}-value")
    create_topic(config, topic, partitions=partitions, settings=TOPIC_SETTINGS, tuning=TOPIC_TUNING)
    name = f"hindscan-generate-{topic}" if aborted else None
    # While one batch is sent, the next is encoded.
    with TopicWriter(config, topic, name) as writer, ThreadPoolExecutor(1) as drawer:
        for batch in _ahead(_batches(tables, bids, aborted, values), drawer):
            if aborted:
                writer.begin()
            writer.write(batch.records())
            if aborted:
                writer.commit()
            for _ in range(batch.aborted):
                writer.begin()
                writer.write(batch.records(ABORTED_ROWS))
                writer.abort()
            report(len(batch.keys))


def _batches(tables: Iterable[pa.Table], bids: int, aborted: int, values: Encoder) -> Iterator[_Batch]:
    """Cut the bids into batches that end where transactions are to be aborted, at equal distances and at the end."""
    ends = [bids * (number + 1) // aborted for number in range(aborted)]
    row = 0
    for table in tables:
        inside = [end - row for end in ends if row < end < row + table.num_rows]
        cuts = sorted({0, table.num_rows, *inside, *range(0, table.num_rows, BATCH_ROWS)})
        for first, last in pairwise(cuts):
            yield _encode(table.slice(first, last - first), ends.count(row + last), values)
        row += table.num_rows


def _encode(bids: pa.Table, aborted: int, values: Encoder) -> _Batch:
    return _Batch(
        keys=cells(bids["auction"].cast(pa.string())),
        values=values(bids),
        milliseconds=(_microseconds(bids) // 1000).tolist(),
        aborted=aborted,
    )


def _microseconds(bids: pa.Table) -> np.ndarray[Any, np.dtype[np.int64]]:
    return bids["date_time"].cast(pa.int64()).to_numpy()
