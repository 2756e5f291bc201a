"""Charts that a job makes of its result: Vega-Lite documents that travel with the table and are published beside it.

A chart is metadata of the table that `finish` returns, so that it is made where the rows are, kept with the partial, published with the result, and changes none of the
result's bits.

::

    finish: table -> chart(table, {...}) -> the same table, saying more -> partial -> publication -> NAME.vl.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from hindscan.errors import UsageError

__all__ = ["chart", "charts_of"]

#: End of a chart's file, and of its name in the metadata of a table.
_END: Final = b".vl.json"
_SCHEMA: Final = "https://vega.github.io/schema/vega-lite/v5.json"
#: Rows that a chart carries of its table: a picture of more shows no more, and a browser draws it no faster.
ROWS_MOST: Final = 5_000


def chart(table: pa.Table, document: Mapping[str, Any], *, name: str = "chart") -> pa.Table:
    """Give a table a chart, which is published beside the result as ``NAME.vl.json``.

    Parameters
    ----------
    table : pa.Table
        What `finish` returns; its rows are the chart's data unless the document brings its own.
    document : mapping
        Vega-Lite: ``{"mark": "bar", "encoding": {...}}``.
    name : str
        Of the file, without its end; letters, digits, _ and -.

    Returns
    -------
    pa.Table
        The same rows.

    Raises
    ------
    hindscan.errors.UsageError
        The name is none, the document is not JSON, or there are too many rows to draw.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UsageError(f"Making a chart: its name must be letters, digits, _ and -, and is {name!r}.")
    if "data" not in document and table.num_rows > ROWS_MOST:
        raise UsageError(
            f"Making the chart {name}: at most {ROWS_MOST:,} rows can be drawn; the table has {table.num_rows:,}. Give the document data of its own."
        )
    whole = {"$schema": _SCHEMA, **document}
    if "data" not in document:
        whole["data"] = {"values": table.to_pylist()}
    try:
        text = json.dumps(whole, default=str, allow_nan=False)
    except (TypeError, ValueError) as fault:
        raise UsageError(
            f"Making the chart {name}: the document must be JSON without nan and infinity; {fault}."
        ) from fault
    return table.replace_schema_metadata({**(table.schema.metadata or {}), name.encode() + _END: text.encode()})


def charts_of(metadata: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """Give the charts among what a table says of itself, by the names of their files."""
    return {key.decode(): text for key, text in metadata.items() if key.endswith(_END)}
