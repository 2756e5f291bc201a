"""The digest of a step changes with its meaning, and with nothing else."""

from __future__ import annotations

import ast
import dataclasses
import datetime as dt
import enum
import functools
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import duckdb
import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindscan.errors import JobDefinitionError
from hindscan.jobs.code import bundle
from hindscan.jobs.declare import Job, job
from hindscan.jobs.digest import Digester, digest_of
from hindscan.jobs.registry import load_file
from hindscan.jobs.world import World

PROJECT = {
    "jobs/scan.py": '''
        """A job."""
        from __future__ import annotations
        import math
        import numpy as np
        import hindscan as hs
        from _shared import twice, REGISTRY
        import lib.rates
        from lib import other as renamed

        LIMIT = 10           # a number
        NAMES = ["a", "b"]
        NAMES.append("c")
        UNUSED = 99
        np.seterr(all="ignore")

        class Base:
            """Says nothing."""
            step = 1
            def go(self, x):
                return x + self.step

        class Derived(Base):
            def go(self, x):
                return super().go(x) * 2

        def helper(x, by=LIMIT):
            """Does a thing."""
            # in a way
            return Derived().go(x) + by

        def not_reached():
            return UNUSED

        @hs.job(history="bids", max_slices=5)
        def scan(rows, factor: int = 2):
            """Scans."""
            from lib.late import late
            total = [helper(twice(r)) * factor + lib.rates.RATE + late() + renamed.thing() for r in rows]
            return {"total": total, "names": NAMES, "n": len(REGISTRY), "up": math.ceil(0.5)}

        @scan.combine
        def merge(partials):
            return partials.arrow()

        @scan.finish
        def done(combined):
            return not_reached()
    ''',
    "jobs/_shared.py": """
        REGISTRY = {}
        def register(name):
            def keep(f):
                REGISTRY[name] = f
                return f
            return keep
        @register("one")
        def one(): return 1
        def twice(x): return 2 * x
        def thrice(x): return 3 * x
    """,
    "lib/__init__.py": "",
    "lib/rates.py": "RATE = 10\nUNUSED_RATE = 11\n",
    "lib/late.py": "from lib.rates import RATE\ndef late():\n    return RATE\n",
    "lib/other.py": "def thing():\n    return 5\ndef nothing():\n    return 6\n",
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def digests(root: Path, changes: tuple[tuple[str, str, str], ...] = ()) -> dict[str, str]:
    """Digests of the steps after some replacements of text."""
    files = {name: textwrap.dedent(text) for name, text in PROJECT.items()}
    for name, old, new in changes:
        assert old in files[name], (name, old)
        files[name] = files[name].replace(old, new)
    write(root, files)
    (found,) = load_file(root, root / "jobs/scan.py")
    return {step: one.digest for step, one in bundle(found, root)[0].steps.items()}


SLICE, COMBINE, FINISH = {"slice"}, {"combine"}, {"finish"}
ALL = SLICE | COMBINE | FINISH
S, SH = "jobs/scan.py", "jobs/_shared.py"


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        # what says nothing
        (S, "# a number", "# another remark", set()),
        (S, '"""Scans."""', '"""Scans it all, in other words."""', set()),
        (S, '"""Scans."""', "", set()),
        (S, '"""Says nothing."""', "", set()),
        (S, "            # in a way\n".replace("    ", "", 2), "", set()),
        (S, "LIMIT = 10", "LIMIT   =   (10)", set()),
        (S, "helper(twice(r)) * factor", "(helper(\n    twice(r)\n) * factor)", set()),
        (S, '"total"', "'total'", set()),
        (S, "UNUSED = 99\n", "UNUSED = 99\nANOTHER = 98\n", set()),
        (S, "max_slices=5", "max_slices=6", set()),
        (SH, "return 3 * x", "return 4 * x", set()),
        ("lib/rates.py", "UNUSED_RATE = 11", "UNUSED_RATE = 12", set()),
        ("lib/other.py", "return 6", "return 7", set()),
        (S, "\nclass Base", "\nif __name__ == '__main__':\n    print(scan)\n\nclass Base", set()),
        (S, "\nclass Base", "\nprint('loaded')\n\nclass Base", set()),
        # what only one step means
        (S, "* factor", "/ factor", SLICE),
        (S, "UNUSED = 99", "UNUSED = 98", FINISH),
        (S, "partials.arrow()", "partials.arrow(None)", COMBINE),
        (S, "return not_reached()", "return not_reached() or 1", FINISH),
        (S, "factor: int = 2", "factor: int = 3", SLICE),
        (S, "LIMIT = 10", "LIMIT = 11", SLICE),
        (S, "LIMIT = 10", "LIMIT = 10.0", SLICE),
        (S, "LIMIT = 10", "LIMIT = '10'", SLICE),
        (S, "by=LIMIT", "by=LIMIT + 1", SLICE),
        (S, "return x + self.step", "return x - self.step", SLICE),
        (S, "step = 1", "step = 2", SLICE),
        (S, "super().go(x) * 2", "super().go(x) * 3", SLICE),
        (S, '"names": NAMES', '"names": NAMES[1:]', SLICE),
        (S, "math.ceil", "math.floor", SLICE),
        (S, "import math", "import cmath as math", SLICE),
        (SH, "return 2 * x", "return 2 * x + 0", SLICE),
        ("lib/rates.py", "RATE = 10", "RATE = 12", SLICE),
        ("lib/late.py", "return RATE", "return -RATE", SLICE),
        ("lib/late.py", "import RATE", "import UNUSED_RATE as RATE", SLICE),
        ("lib/other.py", "return 5", "return 6", SLICE),
        # what acts when a module is imported may change anything in it
        (S, 'NAMES.append("c")', 'NAMES.append("d")', ALL),
        (S, 'NAMES = ["a", "b"]', 'NAMES = ["b", "a"]', ALL),
        (S, 'np.seterr(all="ignore")', 'np.seterr(all="raise")', ALL),
        (SH, "def one(): return 1", "def one(): return 2", ALL),
        (SH, '@register("one")', '@register("two")', ALL),
        ("lib/__init__.py", "", "import os; os.environ['X'] = '1'\n", ALL),
    ],
)  # fmt: skip
def test_a_digest_changes_with_what_its_step_reaches(
    file: str, old: str, new: str, changed: set[str], tmp_path: Path
) -> None:
    before = digests(tmp_path / "before")
    after = digests(tmp_path / "after", ((file, old, new),)) if old else _with_text(tmp_path / "after", file, new)
    assert {step for step in before if before[step] != after[step]} == changed


def _with_text(root: Path, file: str, text: str) -> dict[str, str]:
    write(root, {**PROJECT, file: text})
    (found,) = load_file(root, root / "jobs/scan.py")
    return {step: one.digest for step, one in bundle(found, root)[0].steps.items()}


SCRIPT = """
import sys, json
sys.path.insert(0, sys.argv[1])
import test_digest
print(json.dumps(test_digest.digests(test_digest.Path(sys.argv[2]))))
"""


def test_a_digest_is_the_same_in_every_process_and_folder(tmp_path: Path) -> None:
    seen = []
    for seed in ("0", "1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path / f"{seed}/x")],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        seen.append(json.loads(run.stdout))
    assert seen[0] == seen[1] == seen[2] == digests(tmp_path / "here")


def test_a_digest_is_the_same_after_the_formatter(tmp_path: Path) -> None:
    before = digests(tmp_path / "a")
    write(
        tmp_path / "b", {name: ast.unparse(ast.parse(textwrap.dedent(text))) + "\n" for name, text in PROJECT.items()}
    )
    (found,) = load_file(tmp_path / "b", tmp_path / "b/jobs/scan.py")
    assert {step: one.digest for step, one in bundle(found, tmp_path / "b")[0].steps.items()} == before


def test_the_order_of_definitions_means_nothing_but_the_order_of_acts_does(tmp_path: Path) -> None:
    def all_of(text: str, folder: str) -> dict[str, str]:
        write(tmp_path / folder, {"jobs/scan.py": text})
        (found,) = load_file(tmp_path / folder, tmp_path / folder / "jobs/scan.py")
        return {step: one.digest for step, one in bundle(found, tmp_path / folder)[0].steps.items()}

    head, tail = "import hindscan as hs\n", "@hs.job(history='h')\ndef scan(rows): return a() + b() + X[0]\n"
    one, two = "def a(): return 1\n", "def b(): return 2\n"
    first, second = "X = []\nX.append(1)\n", "X.append(2)\n"
    assert all_of(head + one + two + first + second + tail, "1") == all_of(
        head + two + first + second + one + tail, "2"
    )
    swapped = "X = []\nX.append(2)\nX.append(1)\n"
    assert all_of(head + one + two + first + second + tail, "3") != all_of(head + one + two + swapped + tail, "4")
    twice, again = "def a(): return 1\ndef a(): return 3\n", "def a(): return 3\ndef a(): return 1\n"
    assert all_of(head + twice + two + first + tail, "5") != all_of(head + again + two + first + tail, "6")


@pytest.mark.parametrize(
    ("text", "old", "new", "counts"),
    [
        ("from _star import *\n{}one()", "return 1", "return 2", True),
        ("from _star import *\n{}one()", "return 3", "return 4", False),
        ("from _pack import *\n{}sub.NAME", "NAME = 1", "NAME = 2", True),
        ("import _star as s\n{}[f() for f in s.KEPT]", "return 3", "return 4", True),
        ("import _star as s\n{}getattr(s, 'one')()", "return 3", "return 4", True),
        ("import _star as s\n{}s.made", "SEEN = [1]", "SEEN = [2]", True),
        ("import _star as s\n{}s.SEEN", "kept_in_default(5)", "kept_in_default(6)", True),
        ("import _star as s\n{}s.SEEN", "kept_in_class(7)", "kept_in_class(8)", True),
        ("import _star as s\n{}s.Base.all()", "size = 9", "size = 10", True),
        ("import _star as s\n{}s.one()", "size = 9", "size = 10", False),
        ("import _star as s\n{}eval('s.one()')", "return 3", "return 4", True),
        ("import _star as s\nif True:\n    from _star import one as chosen\nelse:\n    chosen = 1\n{}chosen()", "return 1", "return 2", True),
        ("try:\n    import not_there\nexcept ImportError:\n    not_there = None\n{}not_there", "return 1", "return 2", False),
    ],
)  # fmt: skip
def test_names_are_followed_however_they_came(text: str, old: str, new: str, counts: bool, tmp_path: Path) -> None:
    shared = """
        SEEN = [1]
        def one(): return 1
        def two(): return 3
        KEPT = [one, two]
        def kept_in_default(x):
            SEEN.append(x)
            return x
        def later(y=kept_in_default(5)): return y
        def kept_in_class(x):
            SEEN.append(x)
        class Holder:
            inside = kept_in_class(7)
        class Base:
            known = []
            def __init_subclass__(cls): Base.known.append(cls)
            @classmethod
            def all(cls): return [k.size for k in cls.known]
        class Child(Base):
            size = 9
        made = len(SEEN)
    """
    seen = []
    for folder, change in (("a", lambda t: t), ("b", lambda t: t.replace(old, new))):
        root = tmp_path / folder
        files = {
            "jobs/_star.py": shared,
            "jobs/_pack/__init__.py": "__all__ = ['sub']",
            "jobs/_pack/sub.py": "NAME = 1",
        }
        write(root, {name: change(body) for name, body in files.items()})
        declared = text.format("@hs.job(history='h')\ndef scan(rows):\n    return ")
        write(root, {"jobs/scan.py": f"import hindscan as hs\n{declared}\n"})
        seen.append(bundle(load_file(root, root / "jobs/scan.py")[0], root)[0].steps["slice"].digest)
    assert (seen[0] != seen[1]) is counts


def test_a_docstring_counts_where_it_is_looked_at(tmp_path: Path) -> None:
    text = "import hindscan as hs\ndef a():\n    'x'\n@hs.job(history='h')\ndef scan(rows): return a.__doc__\n"
    seen = set()
    for folder, said in (("1", "x"), ("2", "y")):
        write(tmp_path / folder, {"jobs/scan.py": text.replace("'x'", f"'{said}'")})
        seen.add(
            bundle(load_file(tmp_path / folder, tmp_path / folder / "jobs/scan.py")[0], tmp_path)[0]
            .steps["slice"]
            .digest
        )
    assert len(seen) == 2


def test_the_version_of_a_library_counts_where_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hindscan.jobs.digest as module

    before = digests(tmp_path)
    real = module.version_of
    monkeypatch.setattr(module, "version_of", lambda name: "numpy 99" if name == "numpy" else real(name))
    after = digests(tmp_path)
    # np.seterr acts on everything in its module.
    assert {step for step in before if before[step] != after[step]} == ALL


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("import importlib\n{}importlib.import_module(rows)", "jobs/scan.py line 5 imports a module whose name is computed"),
        ("{}__import__('js' + 'on')", "line 4 imports a module whose name is computed"),
        ("from importlib import import_module as load\n{}load", "jobs/scan.py imports modules by a call of load"),
        ("{}__import__('_shared')", "imports _shared by a call; write an import statement"),
        ("import runpy\n{}runpy.run_path('x.py')", "line 5 imports a module whose name is computed"),
        ("import importlib\ndef far(): return importlib.import_module(str(1))\n{}far()", "line 3 imports a module"),
    ],
)  # fmt: skip
def test_an_import_that_cannot_be_followed_is_refused_with_its_line(text: str, fault: str, tmp_path: Path) -> None:
    declared = text.format("@hs.job(history='h')\ndef scan(rows):\n    return ")
    write(tmp_path, {"jobs/_shared.py": "", "jobs/scan.py": f"import hindscan as hs\n{declared}\n"})
    (found,) = load_file(tmp_path, tmp_path / "jobs/scan.py")
    with pytest.raises(JobDefinitionError, match=re.escape(fault)):
        bundle(found, tmp_path)


def test_an_import_that_is_not_reached_or_is_written_out_is_let_be(tmp_path: Path) -> None:
    text = "import importlib\nimport hindscan as hs\ndef far(x): return importlib.import_module(x)\n"
    text += "@hs.job(history='h')\ndef scan(rows):\n    return importlib.import_module('json').dumps(1)\n"
    write(tmp_path, {"jobs/scan.py": text})
    assert bundle(load_file(tmp_path, tmp_path / "jobs/scan.py")[0], tmp_path)


# Captured values -------------------------------------------------------------------------------------------------


def capturing(value: Any) -> Job:
    def scan(rows: Any) -> Any:
        return value

    return job(history="h")(scan)


#: One for all, so that this module is taken apart once.
DIGESTER = Digester(World(Path.cwd()))


def digest(value: Any) -> str:
    token = DIGESTER.step(capturing(value).steps["slice"])
    assert not DIGESTER.faults
    return digest_of(token)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Plain:
    a: int
    b: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    a: int


class Record(msgspec.Struct):
    a: int


class Holder:
    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)


Loose = namedtuple("Loose", "p q")


def scaled(x: int, by: int = 2) -> int:
    return x * by


# Pairs of different values; each has one digest, and another than its neighbour.
DIFFERENT = [
    (1, 2), (1, 1.0), (1, True), (0, False), (0.0, -0.0), (float("nan"), 1.0), ("a", b"a"), ("1", 1), (None, "None"), (1j, 2j),
    ((1, 2), [1, 2]), ((1, 2), (2, 1)), ({"a": 1}, {"a": 2}), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ({1, 2}, {1, 3}),
    ({1, 2}, frozenset({1, 2})), ([[1], 2], [1, [2]]), (dt.date(2018, 1, 1), dt.date(2018, 1, 2)),
    (dt.datetime(2018, 1, 1), dt.datetime(2018, 1, 1, tzinfo=dt.UTC)), (ZoneInfo("UTC"), ZoneInfo("Asia/Tokyo")),
    (Decimal("1.0"), Decimal("1.00")), (Fraction(1, 2), Fraction(1, 3)), (Path("a"), Path("b")), (range(3), range(4)),
    (re.compile("a"), re.compile("a", re.IGNORECASE)), (Colour.RED, Colour.BLUE), (Point(1, 2), Point(2, 1)), (Loose(1, 2), Point(1, 2)),
    (Plain(1), Plain(2)), (Plain(1, [1]), Plain(1, [2])), (Slotted(1), Slotted(2)), (Record(1), Record(2)),
    (Holder(a=1), Holder(a=2)), (Holder(a=1), Holder(b=1)), (Plain, Slotted), (Holder, Record), (scaled, lambda x: x),
    (functools.partial(scaled, by=3), functools.partial(scaled, by=4)), (len, max), (np.add, np.subtract), (str.upper, str.lower),
    (lambda x: x + 1, lambda x: x + 2), (OrderedDict(a=1), {"a": 1}), (Counter("aab"), Counter("abb")), (deque([1], 2), deque([1], 3)),
    (defaultdict(list, a=[1]), defaultdict(set, a=[1])), (slice(1, 2), slice(1, 3)), (ValueError("a"), ValueError("b")),
    (np.array([1, 2]), np.array([1, 3])), (np.array([1, 2]), np.array([1, 2], "int32")), (np.zeros((2, 3)), np.zeros((3, 2))),
    (np.array(["a", None], object), np.array(["b", None], object)), (np.float64(1), np.float32(1)), (np.dtype("i4"), np.dtype("i8")),
    (np.random.default_rng(1), np.random.default_rng(2)), (pa.table({"a": [1]}), pa.table({"a": [2]})), (pa.int32(), pa.int64()),
    (pa.array([1, None]), pa.array([None, 1])), (pa.scalar(1), pa.scalar(2)), (pa.schema({"a": pa.int32()}), pa.schema({"b": pa.int32()})),
    (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 3]})), (pd.DataFrame({"a": [1]}, index=[5]), pd.DataFrame({"a": [1]}, index=[6])),
    (pd.Series([1.0], name="a"), pd.Series([1.0], name="b")), (pd.Series(["x", 1]), pd.Series(["x", 2])), (pd.Timestamp("2018"), pd.Timestamp("2019")),
    (pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [2]})), (pl.Series("a", [1]), pl.Series("b", [1])), (pc.add, pc.subtract), (json.dumps, json.loads),
    (json, re), (Holder(f=scaled).f, Holder(f=len).f), ([scaled], [len]), (Plain(1).__eq__, Plain(2).__eq__),
]  # fmt: skip


@pytest.mark.parametrize("pair", DIFFERENT, ids=[f"pair{at}" for at in range(len(DIFFERENT))])
def test_a_captured_value_is_part_of_the_digest(pair: tuple[Any, Any]) -> None:
    import copy

    one, other = pair
    assert digest(one) == digest(one)
    assert digest(one) != digest(other)
    if not callable(one) and one is not json:
        assert digest(copy.deepcopy(one)) == digest(one)


def test_two_equal_values_from_different_histories_have_one_digest() -> None:
    whole = pa.table({"a": [1, 2, 3]})
    assert digest(whole) == digest(pa.table({"a": [0, 1, 2, 3]}).slice(1))
    assert digest(whole) == digest(pa.concat_tables([pa.table({"a": [1]}), pa.table({"a": [2, 3]})]))
    assert digest(np.arange(6)[::2]) == digest(np.array([0, 2, 4]))
    assert digest(set("abcdef")) == digest(set("fedcba"))
    assert digest(Holder(a=1, b=2)) == digest(Holder(b=2, a=1))


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
    lambda inner: st.one_of(st.lists(inner), st.tuples(inner, inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)


@given(plain, plain)
@settings(max_examples=50)
def test_plain_values_have_equal_digests_just_if_they_are_written_alike(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) == (repr(one) == repr(other))


def test_what_refers_to_itself_has_a_digest() -> None:
    looped: list[Any] = [1]
    looped.append(looped)
    longer: list[Any] = [2]
    longer.append(longer)

    def again(n: int) -> int:
        return again(n - 1) if n else 0

    assert digest(looped) != digest(longer)
    assert digest(again) == digest(again)


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (threading.Lock, "_thread.lock"),
        (lambda: (n for n in ()), "builtins.generator"),
        (duckdb.connect, "DuckDBPyConnection"),
        (lambda: sys.__stderr__, "TextIOWrapper"),
        (lambda: iter([1]), "list_iterator"),
        (threading.local, "_thread._local"),
        (lambda: memoryview(b"a"), "memoryview"),
    ],
)  # fmt: skip
def test_a_value_without_a_stable_digest_is_refused_by_name(made: Callable[[], Any], kind: str) -> None:
    value = {"inner": made()}
    with pytest.raises(
        JobDefinitionError, match=rf"`inner` of `value` of `scan` is a \S*{kind}\S*, which cannot be digested"
    ):
        bundle(capturing(value), Path.cwd())
    if isinstance(value["inner"], duckdb.DuckDBPyConnection):
        value["inner"].close()


def test_a_function_made_twice_differs_by_what_it_closes_over() -> None:
    def made(n: int, m: int = 0) -> Any:
        def inner(x: int) -> int:
            return x + n

        inner.extra = m  # type: ignore[attr-defined]
        return inner

    assert digest(made(1)) == digest(made(1))
    assert digest(made(1)) != digest(made(2))
    assert digest(made(1)) != digest(made(1, 1))
    assert digest(functools.lru_cache(made(1))) != digest(functools.lru_cache(made(2)))
