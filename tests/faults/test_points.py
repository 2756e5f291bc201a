"""A named point ends the process as a power cut would, at the named moment and at no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import atexit, sys
from hindscan.faults import point
atexit.register(lambda: print("tidied"))
try:
    for turn in range(3):
        print("before", turn, flush=True)
        point("store.recorded")
        point("broker.committed")
        print("after", turn, flush=True)
finally:
    print("unwound", flush=True)
"""


def run(fault: str | None) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "HINDSCAN_FAULT"}
    env |= {"HINDSCAN_FAULT": fault} if fault is not None else {}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("fault", [None, "", "some.other", "store", "store.recorded.later"])
def test_a_point_that_was_not_asked_for_does_nothing(fault) -> None:
    done = run(fault)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-3:] == ["after 2", "unwound", "tidied"]


@pytest.mark.parametrize(
    ("fault", "last"),
    [
        ("store.recorded", "before 0"),
        ("store.recorded:1", "before 0"),
        ("store.recorded:3", "before 2"),
        ("broker.committed:2", "before 1"),
    ],
)
def test_the_process_dies_the_named_time_it_gets_there_and_tidies_nothing(fault, last) -> None:
    done = run(fault)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.splitlines()[-1] == last
    assert done.stderr == ""


def test_a_count_that_is_never_reached_changes_nothing() -> None:
    assert run("store.recorded:4").returncode == 0


def test_points_reached_by_many_threads_are_counted_each_once() -> None:
    program = (
        "import threading\nfrom hindscan.faults import point\n"
        "def work():\n    for _ in range(1000):\n        point('p')\n"
        "threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()\n"
        "print('alive', flush=True)\npoint('p')\nprint('past', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HINDSCAN_FAULT": "p:8001"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "alive\n")


def test_every_point_in_the_package_has_a_name_of_place_and_moment(package_points) -> None:
    names = {name for name, _ in package_points}
    assert all(len(name.split(".")) == 2 and all(part.isidentifier() for part in name.split(".")) for name in names)
    # Two branches of one module may reach the same moment; two modules may not.
    assert len(names) == len(set(package_points))


def test_every_point_in_the_package_is_one_that_a_test_kills_at(package_points) -> None:
    # Those of `runs` and of forgetting are found in the source and swept, each by a test of its own; of the others some test names each.
    swept = {name for name, file in package_points if file.parent.name == "runs" or file.name == "forgetting.py"}
    texts = "".join(file.read_text() for file in Path(__file__).parents[1].rglob("test_*.py") if file != Path(__file__))
    assert {name for name, _ in package_points} - swept - {
        name for name, _ in package_points if f'"{name}' in texts
    } == set()


@pytest.fixture
def package_points() -> list[tuple[str, Path]]:
    import ast

    found = []
    for file in sorted((Path(__file__).parents[2] / "src" / "hindscan").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called == "point" and node.args and isinstance(node.args[0], ast.Constant):
                    found.append((str(node.args[0].value), file))
    return found
