"""The names of what a simulation's function returns, where its source says them.

Serves promise 12: a statistic, or a rule to stop, that names none of them is refused when it is declared or asked for, and no run is opened that must fail. What is
read are functions each of whose returns is a dict written out with its names, and those that are annotated to return an array; of others nothing is known before they
are called.

::

    function -> its source -> return {"payoff": ..., "loss": ...} -> quantity_names -> JobSpec.quantities
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from hindscan.jobs.parameters import evaluated

__all__ = ["quantity_names"]

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def quantity_names(function: Callable[..., Any], job: str) -> tuple[str, ...]:
    """Name what a function returns; empty where that is not known.

    Parameters
    ----------
    function : callable
        Of a block. One that is wrapped may return something else than it says.
    job : str
        Name of the job, which is that of a single array.
    """
    if not inspect.isfunction(function) or hasattr(function, "__wrapped__"):
        return ()
    if _is_array(function.__annotations__.get("return"), function.__globals__):
        return (job,)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ()
    made = tree.body[0]
    # More decorators than the one that declares the job may change what is returned; and of a lambda the source is that of its line.
    if not isinstance(made, ast.FunctionDef) or made.name != function.__name__ or len(made.decorator_list) > 1:
        return ()
    found = [_names(one.value) for one in _returns(made.body)]
    first = found[0] if found else None
    return first if first is not None and all(sorted(one or ()) == sorted(first) for one in found) else ()


def _is_array(annotation: object, namespace: Mapping[str, Any]) -> bool:
    try:
        found = evaluated(annotation, namespace)
    except ValueError:
        return False
    return found is np.ndarray or typing.get_origin(found) is np.ndarray


def _returns(nodes: list[ast.stmt]) -> Iterator[ast.Return]:
    """Give the returns of a function, not those of functions in it."""
    for node in nodes:
        if isinstance(node, ast.Return):
            yield node
        elif not isinstance(node, _SCOPES):
            for inner in ast.iter_child_nodes(node):
                yield from _returns([inner])  # type: ignore[list-item]


def _names(value: ast.expr | None) -> tuple[str, ...] | None:
    if not isinstance(value, ast.Dict) or not value.keys:
        return None
    names = [key.value for key in value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    return tuple(names) if len(set(names)) == len(value.keys) else None
