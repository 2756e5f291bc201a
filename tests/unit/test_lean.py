"""A process that leaves pandas out has it nowhere until somebody asks for it, and Arrow then takes pandas' objects for what they are."""

from __future__ import annotations

import subprocess
import sys

import pytest

USE = """
import pyarrow as pa, pyarrow.dataset as ds, pyarrow.parquet
table = pa.table({"n": [1, None], "s": pa.array(["a", None])})
assert ds.dataset(table).to_table().to_pylist() == table.to_pylist()
"""
#: What Arrow makes of pandas' objects depends on whether it knows them: a missing number is null, and not NaN; categories are a dictionary.
OBJECTS = """
import numpy as np, pandas as pd
frame = pd.DataFrame({"x": [1.0, np.nan], "s": ["a", None], "c": pd.Categorical(["q", "w"]), "d": pd.to_datetime(["2018-01-01", None])})
for value in (
    pa.array(pd.Series([1.0, np.nan])),
    pa.array(pd.Categorical(["a", "b"])),
    pa.chunked_array([frame["x"]]),
    pa.Table.from_pandas(frame),
    pa.table(frame),
    table.to_pandas(),
    pa.lib._pandas_api.have_pandas,
):
    print(value)
"""


def told(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def lean(program: str) -> str:
    return told(f"import sys\nfrom hindscan.lean import leave_pandas_out\nleave_pandas_out()\n{program}")


def test_pandas_is_not_loaded_where_nobody_imports_it() -> None:
    told(
        f"import sys\n{USE}\nassert 'pandas' in sys.modules, 'Arrow no longer looks for it, and hindscan.lean has nothing to do'"
    )
    lean(f"{USE}\nassert 'pandas' not in sys.modules")


@pytest.mark.parametrize(
    "before", ["", USE, f"{USE}\ntable.to_pandas()\n"], ids=["at once", "later", "by Arrow itself"]
)
def test_arrow_knows_the_objects_of_pandas_once_it_is_imported(before: str) -> None:
    program = f"{before}\n{USE}\n{OBJECTS}"
    assert lean(program) == told(program)


def test_nothing_changes_where_pandas_is_there_already() -> None:
    assert lean(f"import pandas\n{USE}\n{OBJECTS}") == told(f"{USE}\n{OBJECTS}")
    assert told(
        f"import pandas\nfrom hindscan.lean import leave_pandas_out\nleave_pandas_out()\n{USE}\n{OBJECTS}"
    ) == told(f"{USE}\n{OBJECTS}")


def test_a_missing_pandas_is_missing_as_ever() -> None:
    hidden = "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
    program = f"{USE}\n{hidden}\ntry:\n    import pandas\nexcept ModuleNotFoundError as fault:\n    print(fault)"
    assert lean(program) == "No module named 'pandas'\n"
