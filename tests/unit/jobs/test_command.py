"""Commands are fed, read, limited and ended, whatever they do with their pipes; what they write is checked; what they are is in the digest."""

from __future__ import annotations

import datetime as dt
import os
import stat
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hindscan.data import Data, TableSource
from hindscan.errors import BadPartial, JobDefinitionError, JobFailed
from hindscan.jobs.code import load
from hindscan.jobs.command import command_job
from hindscan.jobs.registry import load_folder, load_folder_in_child

#: Far above what any of these commands needs, far below the time limit of a test.
LONG = 60.0
BIDS = pa.table({"bidder": [3, 1, None], "price": [2**63 - 1, -(2**63), 0]})
OUTPUT = {"bidder": "int64", "price": "int64"}

Make = Callable[..., Any]


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{k}" = {toml(v)}' for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'  # fmt: skip


def declare(root: Path, *, name: str = "job", **declared: Any) -> Path:
    (root / "jobs").mkdir(exist_ok=True)
    file = root / "jobs" / f"{name}.toml"
    file.write_text("\n".join(f"{key} = {toml(value)}" for key, value in declared.items()))
    return file


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Give the steps of a job whose slice is a Python script."""

    def made(script: str, *, step: dict[str, Any] | None = None, **declared: Any) -> Any:
        (tmp_path / "script.py").write_text(textwrap.dedent(script))
        slice_ = {"command": [sys.executable, "-S", "script.py"], "output": OUTPUT, "time_limit": LONG, **(step or {})}
        declared = {"history": "bids", "format": "ndjson", "slice": slice_, **declared}
        return load(command_job(tmp_path, declare(tmp_path, **declared), "jobs/job.toml")[1])

    return made


def data(table: pa.Table = BIDS, **tables: pa.Table) -> Data:
    return Data("rows", {"rows": TableSource(table), **{name: TableSource(t) for name, t in tables.items()}})


ECHO = "import sys, shutil\nshutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"


# Rows there and back ---------------------------------------------------------------------------------------------

TYPES: dict[str, tuple[str, pa.DataType, st.SearchStrategy[Any]]] = {
    "a": ("int64", pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "b": ("uint64", pa.uint64(), st.integers(0, 2**64 - 1)),
    "c": ("float64", pa.float64(), st.floats()),
    "d": ("timestamp[us, UTC]", pa.timestamp("us", "UTC"), st.datetimes(timezones=st.just(dt.UTC))),
    "e": ("string", pa.string(), st.text(st.characters(exclude_categories=["Cs"]))),
    "f": ("bool", pa.bool_(), st.booleans()),
    "g": ("binary", pa.binary(), st.binary(max_size=20)),
    "h": ("date", pa.date32(), st.dates()),
    "i": ("list<int64>", pa.list_(pa.int64()), st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=3)),
    "j": ("decimal(30, 5)", pa.decimal128(30, 5), st.decimals(-(10**20), 10**20, places=5)),
    "k": ("time64[us]", pa.time64("us"), st.times()),
    "l": ("int8", pa.int8(), st.integers(-128, 127)),
    "m": ("struct<x: float64, y: timestamp[us, UTC]>", pa.struct([("x", pa.float64()), ("y", pa.timestamp("us", "UTC"))]),
          st.fixed_dictionaries({"x": st.none() | st.floats(), "y": st.none() | st.datetimes(timezones=st.just(dt.UTC))})),
}  # fmt: skip


@pytest.fixture(scope="module")
def echoes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("echoes")
    (root / "script.py").write_text(ECHO)
    made = {}
    for name, told in {
        "arrow": {"input": "arrow", "output": "arrow"},
        "number": {"input": "ndjson", "output": "ndjson"},
        "text": {"input": "ndjson", "output": "ndjson", "integers": "text"},
    }.items():
        step = {"command": [sys.executable, "-S", "script.py"], "output": {n: t for n, (t, _, _) in TYPES.items()}}
        file = declare(root, name=name, history="bids", format=told, slice=step)
        made[name] = load(command_job(root, file, name)[1])["slice"]
    return made


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries({n: st.none() | s for n, (_, _, s) in TYPES.items()}), max_size=6))
@pytest.mark.parametrize("told", ["arrow", "number", "text"])
def test_every_value_of_every_type_comes_back_as_it_was_told(
    echoes: dict[str, Any], told: str, rows: list[Any]
) -> None:
    schema = pa.schema([(name, kind) for name, (_, kind, _) in TYPES.items()])
    table = pa.Table.from_pylist(rows, schema)
    back = echoes[told](data(table))
    assert back.schema == schema
    assert repr(back.to_pylist()) == repr(table.to_pylist())  # by text: NaN is itself, and 0.0 is not -0.0


def test_times_are_told_in_texts_of_one_length_so_that_they_can_be_compared(make: Make) -> None:
    table = pa.table({"t": pa.array([0, 1], pa.timestamp("us")), "n": pa.array([10**9, 0], pa.timestamp("ns"))})
    steps = make(
        "import sys, json\nfor line in sys.stdin: print(json.dumps({'said': line}))",
        step={"output": {"said": "string"}},
    )
    assert steps["slice"](data(table))["said"].to_pylist() == [
        '{"t":"1970-01-01T00:00:00.000000Z","n":"1970-01-01T00:00:01.000000Z"}\n',
        '{"t":"1970-01-01T00:00:00.000001Z","n":"1970-01-01T00:00:00.000000Z"}\n',
    ]


# Pipes -----------------------------------------------------------------------------------------------------------

#: More than any pipe holds, on both sides.
MANY = pa.table({"bidder": list(range(60_000)), "price": [7] * 60_000})
WROTE = '{"bidder": 1, "price": 2}'

MANNERS = {
    "writes all before it reads": f"import sys\nprint('\\n'.join(['{WROTE}'] * 60_000), flush=True)\nsys.stdin.read()",
    "never reads": f"print('\\n'.join(['{WROTE}'] * 60_000))",
    "closes its input early": f"import os, sys\nsys.stdin.readline()\nos.close(0)\nprint('\\n'.join(['{WROTE}'] * 60_000))",
    "talks all the while": f"import sys\nfor _ in sys.stdin:\n print('{WROTE}')\n print('working ' * 20, file=sys.stderr)",
}


@pytest.mark.parametrize("manners", MANNERS)
def test_no_full_pipe_holds_up_anybody_when_a_command(make: Make, manners: str) -> None:
    made = make(MANNERS[manners])["slice"](data(MANY))
    assert made.num_rows == 60_000
    assert made.slice(59_999).to_pylist() == [{"bidder": 1, "price": 2}]


def test_a_command_that_hears_no_more_is_told_no_more_in_arrow_either(make: Make) -> None:
    told = {"input": "arrow", "output": "ndjson"}
    assert make(MANNERS["never reads"], format=told)["slice"](data(MANY)).num_rows == 60_000
    assert make(f"print('{WROTE}')", format=told)["slice"](data(pa.concat_tables([MANY] * 20))).num_rows == 1


def test_a_command_that_writes_nothing_and_reads_nothing_gives_no_rows(make: Make) -> None:
    made = make("pass")["slice"](data(MANY))
    assert (made.num_rows, made.schema) == (0, pa.schema({"bidder": pa.int64(), "price": pa.int64()}))


def test_what_the_history_raises_while_it_is_read_ends_the_command_and_is_raised(make: Make) -> None:
    class Broken(TableSource):
        def dataset(self, *_: object, **__: object) -> Any:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        make("import time, sys\nsys.stdin.read()\ntime.sleep(1000)")["slice"](Data("rows", {"rows": Broken(BIDS)}))


# Ends ------------------------------------------------------------------------------------------------------------


def fails(steps: Any, kind: type[Exception], table: pa.Table = MANY) -> str:
    with pytest.raises(kind) as caught:
        steps["slice"](data(table))
    return str(caught.value)


def test_an_exit_code_fails_the_slice_with_the_end_of_what_was_said(make: Make) -> None:
    told = fails(
        make("import sys\nprint('x' * 9000, 'the bid is upside down', file=sys.stderr)\nsys.exit(3)"), JobFailed
    )
    assert "ended with exit code 3" in told
    assert "the bid is upside down" in told
    assert len(told) < 5_000


def test_half_a_row_of_a_command_that_fails_is_no_news_beside_its_failure(make: Make) -> None:
    told = fails(make("import os, sys\nprint('{\"bidder\": 1', flush=True)\nos.abort()"), JobFailed)
    assert "was killed by SIGABRT" in told


def test_a_command_that_takes_too_long_is_ended_with_all_it_started(make: Make, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"""
        import os, subprocess, sys, time
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)   # as far away as a process can go
        open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
        print("waiting for ever", file=sys.stderr, flush=True)
        time.sleep(1000)
    """
    told = fails(make(script, step={"time_limit": 5.0}), JobFailed)
    assert "must be done after 5 s, and was not" in told
    assert "waiting for ever" in told
    assert [pid for pid in pids.read_text().split() if Path(f"/proc/{pid}").exists() and not gone(pid)] == []


def gone(pid: str) -> bool:
    """Say whether a process has ended, though nobody has asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_what_a_command_leaves_behind_does_not_hold_its_pipes_open_nor_outlive_it(make: Make, tmp_path: Path) -> None:
    script = f"""
        import subprocess
        child = subprocess.Popen(["sleep", "1000"])
        open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
        print('{WROTE}')
    """
    assert make(script)["slice"](data(MANY)).num_rows == 1
    assert gone((tmp_path / "pid").read_text())


def test_its_folder_is_its_own_and_is_gone_afterwards(make: Make, tmp_path: Path) -> None:
    script = f"""
        import os, pathlib
        pathlib.Path("left").write_text("here")
        open({str(tmp_path / "where")!r}, "a").write(os.getcwd() + "\\n")
    """
    steps = make(script)
    steps["slice"](data())
    steps["slice"](data())
    first, second = (tmp_path / "where").read_text().split()
    assert first != second
    assert not Path(first).exists()


def test_a_program_that_is_not_there_is_named(make: Make) -> None:
    told = fails(make("", step={"command": ["no-such-program-anywhere"]}), JobFailed)
    assert "no-such-program-anywhere must be a program that runs here" in told


def test_standard_error_goes_where_the_task_prints(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("import sys\nprint('all is well', file=sys.stderr)")["slice"](data())
    assert capsys.readouterr().err == "all is well\n"


# What it writes --------------------------------------------------------------------------------------------------

WRONG = {
    "no JSON": ("hello", "line 3"),
    "another type": ('{"bidder": "one", "price": 2}', r"Expected `int \| null`, got `str` - at `\$.bidder`"),
    "a float": ('{"bidder": 1.5, "price": 2}', "got `float`"),
    "a missing key": ('{"bidder": 1}', "missing required field `price`"),
    "a key too many": ('{"bidder": 1, "price": 2, "x": 3}', "unknown field `x`"),
    "too many bits": ('{"bidder": 1, "price": 9223372036854775808}', "9223372036854775807"),
    "half a row": ('{"bidder": 1, "pri', "line 3"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_line_is_a_bad_partial_with_its_number(make: Make, wrong: str) -> None:
    line, told = WRONG[wrong]
    steps = make(f"print({WROTE!r})\nprint()\nprint({WROTE!r})\nprint({line!r})")
    with pytest.raises(BadPartial, match=told) as caught:
        steps["slice"](data())
    assert "line 3 must be one JSON object" in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "told"), [("time32[s]", '"12:00:00.5"'), ("time32[ms]", '"12:00:00.0005"'), ("list<time32[s]>", '["12:00:00.5"]'), ("time64[us]", '"12:00:00+02:00"')],
)  # fmt: skip
def test_a_time_of_day_that_the_column_would_change_is_a_bad_partial(make: Make, declared: str, told: str) -> None:
    line = f'{{"at": {told}}}'
    steps = make(f"print({line!r})", step={"output": {"at": declared}})
    with pytest.raises(BadPartial, match="12:00:00"):
        steps["slice"](data())


@pytest.mark.parametrize(
    ("told", "fits"), [("3.4028235e38", True), ("3.4028236e38", False), ("-1e300", False), ('"Infinity"', True)]
)
def test_a_number_that_a_narrow_float_would_make_infinite_is_a_bad_partial(make: Make, told: str, fits: bool) -> None:
    line = f'{{"x": {told}}}'
    steps = make(f"print({line!r})", step={"output": {"x": "float"}})
    if fits:
        assert (
            steps["slice"](data())["x"].to_pylist() == pa.array([float(told.strip(chr(34)))], pa.float32()).to_pylist()
        )
    else:
        with pytest.raises(BadPartial, match="out of its range"):
            steps["slice"](data())


def test_garbage_without_end_is_ended(make: Make) -> None:
    told = fails(make("import sys\nwhile True: sys.stdout.buffer.write(b'\\xff\\x00garbage\\n' * 9999)"), BadPartial)
    assert "line 1 must be one JSON object" in told


ARROW = """
    import sys
    sys.path[:0] = {path!r}
    import pyarrow as pa
    table = pa.table({columns})
    with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as out: out.write_table(table)
    sys.stdout.buffer.write({after!r})
"""

WRONG_ARROW = {
    "another type": ("{'bidder': [1.5], 'price': [1]}", b"", "column 'bidder' is double, and int64 is declared"),
    "another order": ("{'price': [1], 'bidder': [1]}", b"", r"columns are \['price', 'bidder'\]"),
    "a null": ("{'bidder': pa.array([1, None]), 'price': [1, 2]}", b"", "row 1 has none"),
    "something after it": ("{'bidder': [1], 'price': [1]}", b"more", "must end where its stream ends"),
}


@pytest.mark.parametrize("wrong", WRONG_ARROW)
def test_another_stream_of_arrow_than_declared_is_a_bad_partial(make: Make, wrong: str) -> None:
    columns, after, told = WRONG_ARROW[wrong]
    script = ARROW.format(path=sys.path, columns=columns, after=after)
    steps = make(script, format="arrow", step={"output": {"bidder": "int64 not null", "price": "int64"}})
    with pytest.raises(BadPartial, match=told):
        steps["slice"](data())


def test_text_where_arrow_is_declared_is_a_bad_partial(make: Make) -> None:
    assert "one stream of Arrow IPC" in fails(make("print('hello world, no arrow here')", format="arrow"), BadPartial)


# What it sees ----------------------------------------------------------------------------------------------------

SEES = """
import json, os, sys
seen = dict(os.environ)
seen["argv"] = sys.argv[1:]
seen["file"] = json.load(open(os.environ["HINDSCAN_PARAMS_FILE"]))
if "HINDSCAN_TABLE_AUCTIONS" in os.environ: seen["auctions"] = open(os.environ["HINDSCAN_TABLE_AUCTIONS"]).read()
seen["stdin"] = sys.stdin.read()
print(json.dumps({"seen": json.dumps(seen)}))
"""


def sees(make: Make, named: dict[str, Any], **declared: Any) -> Any:
    import json

    steps = make(SEES, step={"output": {"seen": "string"}, **declared.pop("step", {})}, **declared)
    tables = {name: pa.table({"id": [5]}) for name in declared.get("tables", {})}
    given = {name: Data(name, {name: TableSource(t)}) for name, t in tables.items()}
    (row,) = steps["slice"](data(), **named, **given).to_pylist()
    return json.loads(row["seen"])


def test_it_sees_its_parameters_one_by_one_and_together(make: Make) -> None:
    parameters = {
        "category": {"type": "str"}, "year": {"type": "int"}, "day": {"type": "date"}, "since_when": {"type": "datetime"},
        "tags": {"type": "list[str]"}, "gone": {"type": "int | None"},
    }  # fmt: skip
    when = dt.datetime(2018, 1, 1, 12, tzinfo=dt.UTC)
    named = {
        "category": "cars",
        "year": 2018,
        "day": dt.date(2018, 1, 1),
        "since_when": when,
        "tags": ["a"],
        "gone": None,
    }
    seen = sees(make, named, parameters=parameters)
    whole = {**named, "day": "2018-01-01", "since_when": "2018-01-01T12:00:00Z"}
    assert seen["file"] == whole
    one_by_one = {name: seen.get(f"HINDSCAN_PARAM_{name.upper()}") for name in named}
    assert one_by_one == {**whole, "year": "2018", "tags": '["a"]'}


def test_a_parameter_too_long_for_a_variable_is_in_the_file(make: Make) -> None:
    seen = sees(make, {"text": "x" * 300_000}, parameters={"text": {"type": "str"}})
    assert seen["file"] == {"text": "x" * 300_000}
    assert "HINDSCAN_PARAM_TEXT" not in seen


def test_it_sees_no_variable_that_is_not_declared(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "secret")
    monkeypatch.setenv("WANTED", "this")
    seen = sees(make, {}, env=["WANTED", "ABSENT"])
    mine = {"argv", "file", "stdin"}
    given = {name for name in seen if not name.startswith("HINDSCAN_") and not name.endswith("_THREADS")} - mine
    assert given - {"LC_CTYPE"} == {"PATH", "HOME", "TMPDIR", "LANG", "TZ", "WANTED"}
    assert seen["HOME"] == seen["TMPDIR"] == seen["HINDSCAN_SCRATCH"]
    assert "secret" not in repr(seen)


def test_it_reads_only_the_columns_it_declares_and_its_tables(make: Make) -> None:
    seen = sees(make, {}, columns=["price"], tables={"auctions": "auctions"})
    assert seen["stdin"] == '{"price":9223372036854775807}\n{"price":-9223372036854775808}\n{"price":0}\n'
    assert seen["auctions"] == '{"id":5}\n'


@pytest.mark.parametrize("told", ["arrow", "ndjson"])
def test_a_declared_column_that_the_history_has_not_is_named(make: Make, told: str) -> None:
    steps = make(ECHO, columns=["price", "colour"], format=told)
    with pytest.raises(JobDefinitionError, match=r"\['colour'\] are none of \['bidder', 'price'\]"):
        steps["slice"](data())


def test_arguments_that_are_files_of_the_project_are_given_as_they_lie_there(make: Make, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "words.txt").write_text("words")
    command = [sys.executable, "-S", "script.py", "lib/words.txt", "--flag", "lib", "../script.py", "absent.txt"]
    seen = sees(make, {}, step={"command": command})
    path, *others = seen["argv"]
    assert others == ["--flag", "lib", "../script.py", "absent.txt"]
    assert Path(path).read_text() == "words"
    assert path == f"{seen['HINDSCAN_FILES']}/lib/words.txt"
    assert not path.startswith(str(tmp_path))


def test_files_keep_their_right_to_be_run_and_do_not_change_under_a_run(make: Make, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{WROTE}'\n")
    program.chmod(0o755)
    steps = make("", step={"command": ["./program"]})
    program.write_text("#!/bin/sh\nexit 1\n")
    assert steps["slice"](data(MANY)).num_rows == 1


def test_many_calls_at_a_time_share_the_files(make: Make) -> None:
    steps = make(ECHO)
    made: list[int] = []
    threads = [threading.Thread(target=lambda: made.append(steps["slice"](data(MANY)).num_rows)) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert made == [60_000] * 4


# The declaration -------------------------------------------------------------------------------------------------


def digests(root: Path, **changed: Any) -> dict[str, str]:
    command = [sys.executable, "-S", "script.py"]
    declared: dict[str, Any] = {
        "history": "bids", "slice": {"command": command, "output": OUTPUT}, "combine": {"sql": "FROM partials"},
        "finish": {"command": [sys.executable, "finish.py"], "output": OUTPUT}, "depends": ["lib/**/*.txt"],
        "parameters": {"n": {"type": "int", "default": 1}},
    }  # fmt: skip
    spec, code = command_job(root, declare(root, **{**declared, **changed}), "jobs/job.toml")
    return {"code": code.digest, **{name: step.digest for name, step in spec.steps.items()}}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "script.py").write_text(ECHO)
    (tmp_path / "finish.py").write_text(ECHO)
    (tmp_path / "lib" / "deep").mkdir(parents=True)
    (tmp_path / "lib" / "deep" / "words.txt").write_text("words")
    return tmp_path


def changed_steps(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_a_digest_covers_the_command_its_files_and_what_they_depend_on(project: Path) -> None:
    first = digests(project)
    assert digests(project) == first
    assert (
        changed_steps(first, digests(project, doc="Other words.", parameters={"n": {"type": "int", "default": 2}}))
        == set()
    )
    (project / "finish.py").write_text("# built anew")
    assert changed_steps(first, second := digests(project)) == {"finish", "code"}
    (project / "script.py").chmod(stat.S_IRWXU)
    assert changed_steps(second, third := digests(project)) == {"slice", "code"}
    (project / "lib" / "deep" / "words.txt").write_text("other words")
    assert changed_steps(third, fourth := digests(project)) == {"slice", "finish", "code"}
    sliced = {"command": [sys.executable, "-S", "script.py", "--more"], "output": OUTPUT}
    assert changed_steps(fourth, digests(project, slice=sliced)) == {"slice", "code"}
    assert changed_steps(fourth, digests(project, columns=["price"])) == {"slice", "code"}
    assert changed_steps(fourth, digests(project, env=["LC_ALL"])) >= {"slice", "finish"}
    assert changed_steps(fourth, digests(project, combine={"sql": "FROM partials ORDER BY ALL"})) == {"combine", "code"}
    reversed_output = {"price": "int64", "bidder": "int64"}
    sliced = {"command": [sys.executable, "-S", "script.py"], "output": reversed_output}
    assert changed_steps(fourth, digests(project, slice=sliced)) == {"slice", "code"}


def test_statements_see_the_parameters_they_name(project: Path) -> None:
    sql = "SELECT * FROM rows WHERE price >= $least"
    file = declare(project, history="bids", slice={"sql": sql}, combine="concat", parameters={"least": {"type": "int"}, "other": {"type": "int"}})  # fmt: skip
    spec, code = command_job(project, file, "jobs/job.toml")
    assert spec.combine == "concat"
    assert spec.steps["slice"].parameters == ("least",)
    assert load(code)["slice"](data(), least=1).to_pylist() == [{"bidder": 3, "price": 2**63 - 1}]


FAULTY: dict[str, tuple[dict[str, Any], str]] = {
    "no history": ({"slice": {"sql": "FROM rows"}}, "missing required field `history`"),
    "a key that is none": ({"histroy": "x"}, "unknown field `histroy`"),
    "neither": ({"slice": {}}, "slice must have either a command"),
    "both": ({"slice": {"command": ["x"], "sql": "FROM rows"}}, "slice must have either a command"),
    "no output": ({"slice": {"command": ["x"]}}, "output must declare the columns it writes"),
    "a type that is none": ({"slice": {"command": ["x"], "output": {"a": "integer"}}}, "output of slice: a must be a column type"),
    "a file that is not built": ({"slice": {"command": ["bin/x"], "output": OUTPUT}}, "'bin/x', which must be a file of the project"),
    "a way out": ({"depends": ["../*"]}, "must match files of the project, and matches none"),
    "an option's name": ({"parameters": {"seed": {"type": "int"}}}, "'seed' is an option of every run"),
    "a bad default": ({"parameters": {"n": {"type": "int", "default": "x"}}}, "'n' has a default that must be an integer"),
    "a bad type": ({"parameters": {"n": {"type": "integer"}}}, "'n' has a type that is none"),
    "an unknown parameter": ({"slice": {"command": ["x"], "output": OUTPUT, "parameters": ["m"]}}, "names 'm', which is not declared"),
    "no time": ({"slice": {"command": ["x"], "output": OUTPUT, "time_limit": 0}}, "time_limit of slice must be a positive"),
    "a variable of ours": ({"env": ["PATH"]}, "env names PATH, which is given by hindscan"),
}  # fmt: skip


@pytest.mark.parametrize("faulty", FAULTY)
def test_a_faulty_declaration_is_refused_by_name(project: Path, faulty: str) -> None:
    changed, told = FAULTY[faulty]
    declared = {} if "histor" in str(changed) + faulty else {"history": "bids"}
    step = {"slice": {"command": ["x"], "output": OUTPUT}}
    with pytest.raises(JobDefinitionError) as caught:
        command_job(project, declare(project, **{**declared, **step, **changed}), "jobs/job.toml")
    assert told in str(caught.value)


def test_all_faults_of_a_declaration_are_told_at_once(project: Path) -> None:
    declared = {"slice": {"command": ["x"]}, "env": ["HOME"], "parameters": {"seed": {"type": "int"}}}
    with pytest.raises(JobDefinitionError) as caught:
        command_job(project, declare(project, history="bids", **declared), "jobs/job.toml")
    assert all(told in str(caught.value) for told in ("output must declare", "env names HOME", "option of every run"))


def test_links_that_lead_out_of_the_project_do_not_travel(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret"
    outside.write_text("secret")
    (project / "lib" / "link.txt").symlink_to(outside)
    step = {"command": ["cat", "lib/link.txt"], "output": OUTPUT}
    _, code = command_job(project, declare(project, history="bids", depends=["lib/**/*.txt"], slice=step), "")
    with pytest.raises(JobFailed):
        load(code)["slice"](data())


@pytest.mark.parametrize("load_all", [load_folder, load_folder_in_child])
def test_declarations_lie_beside_python_files_and_hide_none(project: Path, load_all: Callable[..., Any]) -> None:
    declare(project, name="good", history="bids", slice={"sql": "FROM rows"}, combine="concat")
    declare(project, name="broken", history="bids")
    (project / "jobs" / "python.py").write_text("import hindscan as hs\n@hs.job(history='bids')\ndef python(bids): ...")
    found = load_all(project, project / "jobs")
    assert {name: spec.file for name, (spec, _) in found.jobs.items()} == {
        "good": "jobs/good.toml",
        "python": "jobs/python.py",
    }
    (fault,) = found.faults
    assert fault.file == "jobs/broken.toml"
    assert "missing required field `slice`" in fault.message
    assert fault.traceback == ""


# Folders of those that are gone ----------------------------------------------------------------------------------


def test_folders_of_processes_that_were_killed_are_removed_by_the_next_one(tmp_path: Path) -> None:
    import signal
    import subprocess

    script = "import os, sys, signal\nfrom hindscan.jobs.scratch import home\nprint(home(), flush=True)\nsys.stdin.readline()"

    def start() -> tuple[Any, Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )  # fmt: skip
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    killed, left = start()
    living, kept = start()
    assert left.is_dir()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    last, own = start()
    assert not left.exists()
    assert kept.is_dir()
    for process in (living, last):
        process.communicate("\n")
    assert not kept.exists()
    assert not own.exists()
