"""The readers of exact ranges that must all pass the same tests."""

from __future__ import annotations

import pytest

from hindscan.kafka_log import RangeReader

#: Another reader with the interface of `RangeReader` is put through everything by being named here.
READERS: tuple[type[RangeReader], ...] = (RangeReader,)


@pytest.fixture(params=READERS, ids=lambda reader: reader.__name__, scope="session")
def range_reader(request: pytest.FixtureRequest) -> type[RangeReader]:
    """Return the class of a reader."""
    reader: type[RangeReader] = request.param
    return reader
