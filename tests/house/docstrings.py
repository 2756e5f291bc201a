"""Check the docstrings of all public names with numpydoc: `python tests/house/docstrings.py`, part of `make lint`.

Public are the names in `__all__` of each module, and the public methods of the classes among them. Ruff checks the form of docstrings
from the text; this reads the objects, so it also sees parameters that are described and do not exist.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpydoc.validate import validate

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[2] / "src" / "hindscan"

#: What is demanded, of the checks that numpydoc knows; the others would ask for text that says nothing new:
#: a period after every type, a section for each return value or yield that the summary has named, See Also, Extended Summary, an example
#: everywhere, a capital letter where a sentence begins with the name hindscan.
DEMANDED = {
    "GL05",  # tabs
    "GL06",  # an unknown section
    "GL07",  # sections in the wrong order
    "GL08",  # no docstring
    "GL10",  # a malformed directive
    "SS01",  # no summary
    "SS03",  # summary ends without a period
    "SS04",  # leading spaces
    "SS05",  # not imperative: third person
    "PR02",  # a parameter is described that does not exist
    "PR03",  # in another order than the signature
    "PR04",  # without a type
    "PR10",  # no space before the colon
}


def modules() -> Iterator[tuple[str, Path]]:
    """Give every module of the package by name."""
    for file in sorted(SOURCE.rglob("*.py")):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        if "migrations" not in parts and parts[-1] not in {"__init__", "__main__"}:
            yield ".".join(["hindscan", *parts]), file


def public(name: str, file: Path) -> Iterator[tuple[str, Any]]:
    """Give the public functions, classes and methods that a module defines, by dotted name."""
    if "__all__" not in {n.id for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Name)}:
        return
    module = importlib.import_module(name)
    for exported in module.__all__:
        thing = getattr(module, exported, None)  # that it is there is a test of the house
        if not (inspect.isclass(thing) or inspect.isfunction(thing)) or thing.__module__ != name:
            continue
        yield f"{name}.{exported}", thing
        if inspect.isclass(thing):
            for method, value in vars(thing).items():
                if inspect.isfunction(value) and not method.startswith("_"):
                    yield f"{name}.{exported}.{method}", value


def inherits_docstring(dotted: str) -> bool:
    """Whether a method without a docstring says what the class above it says."""
    owner, _, method = dotted.rpartition(".")
    module, _, kind = owner.rpartition(".")
    found = getattr(sys.modules.get(module), kind, None)
    return inspect.isclass(found) and any(
        getattr(vars(above).get(method), "__doc__", None) for above in found.__mro__[1:]
    )


def main() -> int:
    """Print every fault as file:line and say how many names were read."""
    faults, names = [], 0
    for module, file in modules():
        try:
            found = list(public(module, file))
        except (ImportError, SyntaxError) as fault:
            faults.append(f"{file.relative_to(SOURCE.parents[1])}:1: cannot be imported: {fault}")
            continue
        for dotted, thing in found:
            names += 1
            if thing.__doc__ is None and inherits_docstring(dotted):
                continue
            line = inspect.getsourcelines(thing)[1]
            for code, text in validate(dotted)["errors"]:
                if code in DEMANDED:
                    faults.append(f"{file.relative_to(SOURCE.parents[1])}:{line}: {code} {dotted}: {text}")
    print("\n".join([*faults, f"{len(faults)} faults in the docstrings of {names} public names"]))
    return 1 if faults or not names else 0


if __name__ == "__main__":
    sys.exit(main())
