"""Compiling the loops that read topics and draw numbers fast, before somebody waits for it.

Serves promise 2 at wire speed, and promise 8. numba compiles a loop when it is called for the first time on a machine, some seconds for all of them, and keeps it: beside
the installed package or, where that may not be written, in the user's cache (`NUMBA_CACHE_DIR` says where else). `hindscan doctor` and the demo compile
them beforehand, and ``python -m hindscan.loops`` does while an image is built.

::

    doctor, demo, the build of an image -> compile_loops -> numba's cache -> the first scan of a topic, the first large simulation
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pyarrow as pa

from hindscan.errors import UsageError
from hindscan.history.formats.avro_fast import Scan
from hindscan.history.formats.avro_schema import AvroField, AvroType
from hindscan.history.json_fast import FastJson
from hindscan.jobs.compiler import compiler
from hindscan.jobs.normal import compiled_fill
from hindscan.jobs.sums import compiled_rows
from hindscan.kafka.fast import compile_loop

if TYPE_CHECKING:
    from hindscan.history.formats.decoder import BadValue

__all__ = ["compile_loops"]


def compile_loops() -> float:
    """Compile what is not compiled yet, load what is; give the seconds it took.

    Raises
    ------
    UsageError
        The fast client cannot be had here; loops of simulations are compiled even so, where numba is there.
    """
    began = time.perf_counter()
    if compiler.load():
        compiled_fill()
        compiled_rows()
    compile_loop()
    columns: dict[str, pa.DataType] = {"number": pa.int64(), "text": pa.string()}
    FastJson(pa.schema(columns), _refuse).decode(pa.array([b'{"number": 1, "text": "a"}'], pa.large_binary()))
    text = AvroField(name="text", type=AvroType(kind="string"))
    Scan(AvroType(kind="record", fields=(text,)), [text], 0).read(pa.array([b"\x02a"], pa.large_binary()))
    return time.perf_counter() - began


def _refuse(values: pa.LargeBinaryArray) -> tuple[pa.Table, list[BadValue]]:
    raise UsageError(f"While compiling the loops that decode JSON: a plain record must be taken; {values[0]} was not.")


if __name__ == "__main__":
    sys.stdout.write(f"compiled or loaded in {compile_loops():.1f} s\n")
