"""How a command's process ends: with its code, all that was printed, and all that wanted to hear of the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hindscan.template import write_project

PROGRAM = """
import atexit, os, sys, threading, time
import hindscan.cli.app as app
from hindscan.__main__ import main

def run_app():
    atexit.register(lambda: print("asked to hear"))
    threading.Thread(target=lambda: (time.sleep(0.2), print("a thread ends"))).start()
    sys.stdout.write("x" * 200_000 + "\\n")
    print("told", file=sys.stderr)
    {then}

app.run_app = run_app
main()
"""


def ended(then: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(then=then)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=60)


def test_nothing_that_was_printed_is_lost_and_threads_and_hooks_come_first() -> None:
    done = ended("return 3")
    assert done.returncode == 3
    assert done.stdout.splitlines()[-2:] == ["a thread ends", "asked to hear"]
    assert done.stdout.startswith("x" * 200_000)
    assert done.stderr == "told\n"


@pytest.mark.parametrize("typed", [["table"], ["many"]])
def test_a_reader_that_has_gone_is_no_failure_and_nothing_is_said_of_it(typed: list[str]) -> None:
    program = """
import sys
import hindscan.cli.app as app
from hindscan.__main__ import main
from hindscan.cli.output import print_table

if sys.argv[1] in ("table", "many"):
    rows = [(n,) for n in range(1 if sys.argv[1] == "table" else 100_000)]
    app.build_app = lambda: lambda *_, **__: print_table(("n",), rows)
main()
"""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, *typed],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_raised_is_told_as_ever() -> None:
    done = ended("raise LookupError('nobody caught it')")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "LookupError: nobody caught it"
    assert "asked to hear" in done.stdout


@pytest.mark.parametrize("typed", ["histories", "histories --json"])
def test_output_that_finds_no_room_is_one_line_and_exit_code_3(typed: str, tmp_path: Path) -> None:
    write_project(tmp_path, bids=0)
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "hindscan", *typed.split(), "--project", str(tmp_path)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 3
    assert (
        done.stderr
        == "ServiceUnavailable: Writing what is printed: No space left on device. Make room, and do it again.\n"
    )
