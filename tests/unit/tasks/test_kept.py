"""What is kept of slices that are done is what they said, by position, in less memory."""

from __future__ import annotations

import tracemalloc

import msgspec

from hindscan.data import Proof
from hindscan.tasks.kept import KeptSlices
from hindscan.tasks.task import Done, Receipt


def done(position: int, *, digest: str = "xxh3:0") -> Done:
    proof = Proof(
        slice=position, records=1000 + position, bytes=9000 + position, digest=f"{position:032x}", unverified="mock"
    )
    return Done(
        position=position, key=f"{position:040x}", rows=position, bytes=1200 + position, digest=digest, seconds=0.1 + position, cpu_seconds=0.05, proof=proof
    )  # fmt: skip


def test_slices_come_back_by_position_in_whatever_order_they_were_done():
    kept = KeptSlices([done(5), done(2)])
    kept.keep(done(9))
    assert list(kept) == [done(2), done(5), done(9)]
    assert (len(kept), 5 in kept, 3 in kept) == (3, True, False)
    assert kept.get(9) == done(9)
    assert kept.get(3) is None
    kept.keep(done(5, digest="xxh3:1"))
    assert len(kept) == 3
    assert kept.get(5) == done(5, digest="xxh3:1")


def test_what_is_kept_takes_half_of_what_receipts_take():
    receipt = msgspec.msgpack.encode(Receipt(task="t", kind="slices", done=tuple(done(at) for at in range(2_000))))
    tracemalloc.start()
    try:
        unpacked = msgspec.msgpack.decode(receipt, type=Receipt).done
        plain, _ = tracemalloc.get_traced_memory()
        kept = KeptSlices(unpacked)
        del unpacked
        packed, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) == 2_000
    assert packed < plain * 0.6
