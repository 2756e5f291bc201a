"""A sweep: the plans of one job at several points of its parameters, one after another, as one plan.

Keeps promises 7 and 8. Each point's stages are those it would have alone, with the same keys: what one point, or an earlier run, has computed is not computed again. All
points draw from one seed, so that what differs between them is not chance (common random numbers). A calibration that several points share stands in the plan once.

::

    points -> make_plan for each -> stages of point 0, of point 1, ... -> Plan;  finished tables -> swept_table -> result
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from hindscan.errors import BadPartial
from hindscan.plans.plan import Plan, Stage

__all__ = ["finals", "grid", "make_sweep", "swept_table"]

Point = dict[str, object]


def grid(axes: Mapping[str, Sequence[object]]) -> list[Point]:
    """Give every combination of values, the last parameter's changing fastest.

    Examples
    --------
    >>> grid({"a": [1, 2], "b": ["x", "y"]})
    [{'a': 1, 'b': 'x'}, {'a': 1, 'b': 'y'}, {'a': 2, 'b': 'x'}, {'a': 2, 'b': 'y'}]
    """
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def make_sweep(
    parameters: Mapping[str, object],
    points: Sequence[Point],
    draws: Sequence[int | None],
    plan_of: Callable[[Mapping[str, object], int | None], Plan],
) -> Plan:
    """Make one plan of the plans of all points.

    Parameters
    ----------
    parameters : mapping
        Those that are not swept.
    points : sequence of dict
        At least one; all of the same names.
    draws : sequence
        Of each point; None: the job's.
    plan_of : callable
        Makes the plan of all parameters and so many draws; always with the same seed.
    """
    stages: list[Stage] = []
    models: set[str] = set()
    most = 0
    for index, (point, drawn) in enumerate(zip(points, draws, strict=True)):
        plan = plan_of({**parameters, **point}, drawn)
        most = max(most, plan.draws or 0)
        *calibrations, last = plan.stages
        for stage in calibrations:
            if stage.finished not in models:
                stages.append(msgspec.structs.replace(stage, point=index))
                models.add(stage.finished)
        model = calibrations[-1].finished if calibrations else None
        stages.append(msgspec.structs.replace(last, point=index, model=model))
    return msgspec.structs.replace(
        plan,
        parameters=dict(parameters),
        stages=tuple(stages),
        points=tuple(dict(point) for point in points),
        draws=most or None,
    )


def finals(plan: Plan) -> list[int]:
    """Give the positions of the stages that end in a point's result, in the order of the points."""
    return [position for position, stage in enumerate(plan.stages) if stage.step == "slice"]


def swept_table(
    points: Sequence[Point], tables: Sequence[pa.Table], stopped: Mapping[str, Sequence[Any]] | None = None
) -> pa.Table:
    """Put the results of all points one after another, the swept parameters as leading columns.

    Parameters
    ----------
    points : sequence of dict
        Values of the swept parameters.
    tables : sequence of pa.Table
        The result of each point.
    stopped : mapping, optional
        Columns about where each point has stopped, with a value for each; last of all, but for those that the results have themselves.

    Raises
    ------
    hindscan.errors.BadPartial
        Results differ in their columns, or have one of the name of a swept parameter.
    """
    first = tables[0]
    taken = sorted(set(points[0]) & set(first.column_names))
    if taken:
        raise BadPartial(
            f"Putting a sweep together: a result must not have a column of the name of a swept parameter, and it has {', '.join(taken)}. Rename it in the job.",
            faults=taken,
        )
    other = next((i for i, table in enumerate(tables) if table.schema.names != first.schema.names), None)
    if other is not None:
        raise BadPartial(
            f"Putting a sweep together: all points must give the same columns; {points[0]} gives {first.schema.names}, {points[other]} gives "
            f"{tables[other].schema.names}. Let the job return the same columns whatever its parameters are."
        )
    counts = [table.num_rows for table in tables]
    owner = pa.array([i for i, count in enumerate(counts) for _ in range(count)], pa.int64())
    columns: dict[str, Any] = {}
    for name in points[0]:
        values: list[Any] = [point[name] for point in points]
        columns[name] = pa.array(values).take(owner)
    # A column that is all null at one point takes the type it has at the others.
    rows = pa.concat_tables([table.replace_schema_metadata(None) for table in tables], promote_options="permissive")
    found = {name: rows[name] for name in rows.column_names}
    ends = {name: pa.array(values).take(owner) for name, values in (stopped or {}).items() if name not in found}
    return pa.table(columns | found | ends)
