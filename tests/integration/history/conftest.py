"""The readers of exact ranges that must all pass the same tests: one judge, two clients."""

from __future__ import annotations

from typing import Any

import pytest

from hindscan.kafka.log import RangeReader


class PlainReader(RangeReader):
    """Reads with confluent_kafka's consumer."""

    def __init__(self, config: Any, *given: Any, **options: Any) -> None:
        super().__init__({**config, "hindscan.reader": "plain"}, *given, **options)


class FastReader(RangeReader):
    """Reads with the compiled loop."""

    def __init__(self, config: Any, *given: Any, **options: Any) -> None:
        super().__init__({**config, "hindscan.reader": "fast"}, *given, **options)


@pytest.fixture(params=[PlainReader, FastReader], ids=lambda reader: reader.__name__)
def range_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[RangeReader]:
    """Return the class of a reader, with batches so small that ranges have many of them."""
    monkeypatch.setattr("hindscan.kafka.fast._BATCH_RECORDS", 100)
    reader: type[RangeReader] = request.param
    return reader
