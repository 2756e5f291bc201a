"""What the function of a step takes, read off its signature.

Keeps the declaring half of promise 12: what a step is given is decided by the names, annotations and defaults of its parameters alone. The first ones are what it works
on; each other is a joined or a broadcast table if `join=` or `tables=` has its name, else a parameter of the job, documented by its annotation or by the numpydoc
section of the function.

::

    function + names of tables -> Signature (leading, parameters, tables) -> jobs.declare;  faults are collected, not raised
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from hindscan.errors import ParameterError
from hindscan.jobs.job import Parameter
from hindscan.jobs.language import describe
from hindscan.jobs.parameters import NAMED_OPTIONS, evaluated, validate

__all__ = ["Signature", "summary"]


class Signature:
    """What one step's function takes."""

    def __init__(
        self,
        step: str,
        function: object,
        leading: tuple[str, ...],
        tables: Collection[str],
        joins: Collection[str],
        faults: list[str],
    ) -> None:
        self.leading: tuple[str, ...] = ()
        self.parameters: dict[str, Parameter] = {}
        self.tables: list[str] = []
        self.joins: list[str] = []
        if not callable(function):
            faults.append(f"{step} must be a function, and is {function!r}")
            return
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            faults.append(f"{step} must return a table, and is a coroutine or a generator")
        try:
            taken = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError) as error:
            faults.append(f"{step} has no signature that could be read ({error})")
            return
        faults += [
            f"`{one}` of {step} is {one.kind.description}; every parameter is given by its name"
            for one in taken
            if one.kind in (one.POSITIONAL_ONLY, one.VAR_POSITIONAL, one.VAR_KEYWORD)
        ]
        named = [one for one in taken if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        first = [one for one in named[: len(leading)] if one.kind is not one.KEYWORD_ONLY]
        self.leading = tuple(one.name for one in first)
        if len(first) < len(leading):
            faults.append(
                f"{step} must take {' and '.join(leading)} first, and takes ({', '.join(one.name for one in named)})"
            )
        namespace = getattr(inspect.unwrap(function), "__globals__", {})
        notes = _documented(function)
        for one in named[len(first) :]:
            if one.name in joins:
                self.joins.append(one.name)
                if step != "finish":
                    faults.append(f"`{one.name}` of {step} is joined, and only finish gets what is joined")
            elif one.name in tables:
                self.tables.append(one.name)
            elif one.name in NAMED_OPTIONS:
                faults.append(f"`{one.name}` of {step} is an option of every run; rename the parameter")
            else:
                try:
                    self.parameters[one.name] = _parameter(one, namespace, notes)
                except (ValueError, ParameterError) as error:
                    faults.append(f"`{one.name}` of {step} {error}")


def _parameter(one: inspect.Parameter, namespace: Mapping[str, Any], notes: Mapping[str, str]) -> Parameter:
    required = one.default is one.empty
    annotation = one.annotation
    if annotation is one.empty:
        if required or one.default is None:
            raise ValueError("has neither an annotation nor a default to tell its type; annotate it")
        annotation = type(one.default)
    annotation = evaluated(annotation, namespace)
    if getattr(annotation, "__module__", "") == "hindscan.data":
        raise ValueError("is a table, and tables= does not name its history; add it there")
    try:
        described = describe(annotation)
    except ValueError as error:
        raise ValueError(f"has an annotation that no parameter can have: {error}") from error
    doc = next(
        (
            m.description
            for m in getattr(annotation, "__metadata__", ())
            if isinstance(m, msgspec.Meta) and m.description
        ),
        notes.get(one.name, ""),
    )
    made = Parameter(name=one.name, type=str(described), required=required, doc=doc)
    if required:
        return made
    try:
        default = validate([made], {one.name: one.default})[one.name]
    except ParameterError as error:
        faults = typing.cast("list[dict[str, str]]", error.details["faults"])
        raise ValueError(f"has a default that {faults[0]['fault']}") from error
    return msgspec.structs.replace(made, default=default)


def summary(function: Callable[..., Any]) -> str:
    """First paragraph of the docstring, on one line."""
    return " ".join((inspect.getdoc(function) or "").split("\n\n", 1)[0].split())


def _documented(function: Callable[..., Any]) -> dict[str, str]:
    """Sentences of a numpydoc ``Parameters`` section, by parameter."""
    doc = inspect.getdoc(function) or ""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-{3,}$|\Z)", doc, re.MULTILINE | re.DOTALL)
    notes: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", section[1] if section else ""):
        head, _, body = entry.partition("\n")
        for name in head.split(":")[0].split(","):
            if name.strip():
                notes[name.strip()] = " ".join(body.split())
    return notes
