"""What a task prints is its own, whatever other threads print."""

from __future__ import annotations

import io
import sys
import threading
from contextlib import redirect_stdout

from hindscan.tasks.output import MOST_BYTES, printed


def test_each_thread_keeps_what_it_prints_and_others_go_on_as_before():
    around = io.StringIO()
    together = threading.Barrier(3)
    kept = {}

    def task(name: str) -> None:
        with printed() as output:
            together.wait()
            for i in range(100):
                print(name, i)
            print("error", name, file=sys.stderr)
            together.wait()
        kept[name] = output.text()

    with redirect_stdout(around):
        threads = [threading.Thread(target=task, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        together.wait()
        print("from outside")
        together.wait()
        for thread in threads:
            thread.join()
        assert sys.stdout is around
    assert around.getvalue() == "from outside\n"
    for name in "ab":
        assert kept[name] == "".join(f"{name} {i}\n" for i in range(100)) + f"error {name}\n"


def test_only_the_end_of_much_is_kept():
    with printed() as output:
        for i in range(20_000):
            print(f"line {i}")
    text = output.text()
    assert text.startswith("...")
    assert text.endswith("line 19999\n")
    assert MOST_BYTES - 20 < len(text.encode()) <= MOST_BYTES + 3


def test_halves_of_characters_are_no_fault():
    with printed() as output:
        print("\ud800")
        print("é" * MOST_BYTES)
    assert output.text().endswith("é\n")
