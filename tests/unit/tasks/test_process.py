"""A worker process: the surroundings it starts in."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
from queue import SimpleQueue

import pytest

from hindscan.tasks.process import start

#: What a worker runs here: it starts as many threads as a topic's clients have, each of which allocates, and says how many arenas there are then.
PROGRAM = """
import ctypes, os, threading

def told(frames):
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    together = threading.Barrier(12)

    def allocate():
        together.wait()
        kept = [libc.malloc(4000) for _ in range(100)]
        together.wait()
        for piece in kept:
            libc.free(piece)

    threads = [threading.Thread(target=allocate) for _ in range(11)]
    for thread in threads:
        thread.start()
    together.wait()
    read, write = os.pipe()
    kept, _ = os.dup(2), os.dup2(write, 2)
    libc.malloc_stats()
    os.dup2(kept, 2)
    os.close(write)
    together.wait()
    frames.send(("arenas", os.read(read, 65_536).decode().count("Arena ")))
"""


@pytest.mark.skipif(not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="for glibc")
@pytest.mark.parametrize(("threads", "arenas"), [(1, 1), (2, 4)])
def test_the_threads_of_a_worker_share_one_arena_of_memory_and_where_several_work_two_each(
    tmp_path, monkeypatch, threads, arenas
):
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    (tmp_path / "allocating.py").write_text(textwrap.dedent(PROGRAM))
    inbox: SimpleQueue = SimpleQueue()
    process = start(inbox, "allocating:told", python=sys.executable, paths=[str(tmp_path)], threads=threads)
    with contextlib.closing(process):
        _, said = inbox.get(timeout=60)
    assert list(said) == ["arenas", arenas]
