"""Promises 6 and 7 where runs share partials: two processes at once, a damaged file, named slices, any change of code, parameters or data."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.running import Site, make_site
from hindscan.plans.make import make_plan
from hindscan.progress import SliceFinished
from hindscan.tasks.executor import InlineExecutor

SLICES = 40

#: What the second process does: the same plan over the same partials.
OTHER = """
import sys
from pathlib import Path
from contract.running import Site
from hindscan.tasks.executor import InlineExecutor

site = Site(root=Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
with InlineExecutor() as executor:
    for _ in range(int(sys.argv[2])):
        done = site.run(executor, "sums", fresh=True)
print(site.partials.read_meta(done.finished).digest)
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path, SLICES)


def computed(site: Site, plan: Any) -> list[int]:
    facts: list[Any] = []
    with InlineExecutor() as executor:
        site.run(executor, "sums", plan=plan, facts=facts)
    return sorted(fact.slice for fact in facts if isinstance(fact, SliceFinished))


def test_two_processes_that_write_the_same_partials_at_once_get_the_same_result(site: Site) -> None:
    rounds = 2
    command = [sys.executable, "-c", OTHER, str(site.root), str(rounds)]
    others = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
        )
        for _ in range(2)
    ]
    # A third reads all the while: what it finds under a key is whole, whoever is writing it.
    ended, seen, wrong = threading.Event(), [], []
    plan = site.plan("sums")

    def look() -> None:
        while not ended.is_set():
            for key in plan.stages[0].keys:
                if site.partials.has(key):
                    try:
                        seen.append(site.partials.read(key).num_rows)
                    except Exception as fault:
                        wrong.append(fault)

    reader = threading.Thread(target=look)
    try:
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
        reader.start()
        for other in others:
            assert other.stdin is not None
            other.stdin.write("go\n")
            other.stdin.flush()
        digests = {other.communicate(timeout=100)[0].strip() for other in others}
    finally:
        ended.set()
        for other in others:
            other.kill()
    reader.join()
    assert (len(digests), wrong) == (1, [])
    assert seen
    alone = make_site(site.root / "alone", SLICES)
    with InlineExecutor() as executor:
        assert {alone.partials.read_meta(alone.run(executor, "sums").finished).digest} == digests


def test_slices_asked_for_anew_are_computed_with_all_above_them_and_nothing_else(site: Site) -> None:
    first = site.plan("sums")
    assert computed(site, first) == list(range(SLICES))
    before = {path: path.stat().st_mtime_ns for path in site.partials.folder.rglob("*.arrow")}
    again = anew(site, 3, 20)
    assert computed(site, again) == [3, 20]
    written = {path.stem for path, when in before.items() if path.stat().st_mtime_ns != when}
    stage = first.stages[0]
    above = {
        node.key
        for level in stage.levels
        for node in level
        if not {0, 1}.isdisjoint({node.index}) or level is stage.levels[-1]
    }
    assert written == {stage.keys[3], stage.keys[20], *above, stage.finished}
    assert computed(site, site.plan("sums")) == []


def anew(site: Site, *positions: int) -> Any:
    plan = site.plan("sums")
    pins = plan.snapshot.pins
    return make_plan(
        plan.job,
        plan.parameters,
        plan.snapshot,
        identities={table: site.history("numbers").reader(pin).identity() for table, pin in pins.items()},
        slice_rows=dict.fromkeys(pins, 10),
        existing=site.partials.has,
        anew=positions,
    )


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, SLICES - 1), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_bit_that_tips_anywhere_in_a_partial_never_changes_a_result(
    site: Site, position: int, place: float, flip: int
) -> None:
    plan = site.plan("sums")
    computed(site, plan)
    good = site.partials.read(plan.stages[0].finished)
    stage = plan.stages[0]
    path = site.partials.path(stage.keys[position])
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= flip
    path.write_bytes(content)
    # What is above it is gone, so it must be read.
    for key in {*(node.key for level in stage.levels for node in level), stage.finished}:
        site.partials.remove(key)
    computed(site, site.plan("sums"))
    assert site.partials.read(stage.finished).equals(good)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_key_changes_just_when_what_its_slice_reads_or_sees_changes(site: Site, data: st.DataObject) -> None:
    base = site.plan("sums")
    chosen = data.draw(
        st.sampled_from(
            [
                "parameter",
                "parameter of the finish",
                "digest of the step",
                "digest of the finish",
                "size of the file",
                "another file",
            ]
        )
    )
    pins = dict(base.snapshot.pins)
    job, parameters = base.job, dict(base.parameters)
    own = pins[job.table or ""]
    if chosen == "parameter":
        parameters["modulus"] = data.draw(st.integers(1, 10**9).filter(lambda n: n != parameters["modulus"]))
    elif chosen == "parameter of the finish":
        parameters["least"] = data.draw(st.integers(1, 10**9))
    elif chosen.startswith("digest"):
        step = "slice" if chosen.endswith("step") else "finish"
        changed = msgspec.structs.replace(job.steps["slice"], digest=data.draw(st.text(min_size=1)) + "!")
        job = msgspec.structs.replace(job, steps={**job.steps, step: changed})
    elif chosen == "size of the file":
        file = msgspec.structs.replace(own.files[0], size=own.files[0].size + data.draw(st.integers(1, 99)))
        pins[job.table or ""] = msgspec.structs.replace(own, files=(file, *own.files[1:]))
    else:
        more = msgspec.structs.replace(own.files[0], path=data.draw(st.sampled_from(["a.parquet", "z.parquet"])))
        pins[job.table or ""] = msgspec.structs.replace(
            own, files=tuple(sorted((*own.files, more), key=lambda f: f.path))
        )
    plan = make_plan(
        job,
        parameters,
        msgspec.structs.replace(base.snapshot, pins=pins),
        identities={table: site.history("numbers").reader(pin).identity() for table, pin in base.snapshot.pins.items()},
        slice_rows=dict.fromkeys(pins, 10),
    )
    before, after = set(base.stages[0].keys), set(plan.stages[0].keys)
    assert len(after) == len(plan.stages[0].keys)
    if chosen in ("parameter of the finish", "digest of the finish", "another file"):
        assert before <= after
    else:
        assert not before & after
