"""Where a function that travels by value came from: its syntax tree, and the names its instructions use.

Keeps promise 7 for notebook cells, scripts and closures. A source is believed only if it compiles to the function's very
instructions again: a file may have been edited since, a cell's number used twice.

::

    function -> source_node -> syntax tree -> jobs.digest;  code -> global_names, imports_of_code
"""

from __future__ import annotations

import ast
import dis
import functools
import linecache
import sys
import types
from collections.abc import Iterator

from hindscan.jobs.outline import without_steps

__all__ = ["global_names", "imports_of_code", "is_one_statement", "names_of", "source_node"]


def codes_of(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_of(constant)


def names_of(code: types.CodeType) -> Iterator[str]:
    """List all names and attributes that instructions use, those of inner functions included."""
    for one in codes_of(code):
        yield from one.co_names


def global_names(code: types.CodeType) -> set[str]:
    """Collect the names that instructions look up in the module, those of inner functions included."""
    wanted = ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL")
    return {i.argval for one in codes_of(code) for i in dis.get_instructions(one) if i.opname in wanted}


def imports_of_code(code: types.CodeType) -> Iterator[tuple[str, tuple[str, ...]]]:
    """List what a function imports while it runs: the module and the names taken from it."""
    for one in codes_of(code):
        constants: list[object] = []
        for instruction in dis.get_instructions(one):
            if instruction.opname == "IMPORT_NAME":
                taken = constants[-1] if constants else None
                yield str(instruction.argval), taken if isinstance(taken, tuple) else ()
            constants = [*constants[-1:], instruction.argval] if instruction.opname == "LOAD_CONST" else []


def source_node(function: types.FunctionType) -> ast.AST | None:
    """Find the syntax tree a function was compiled from; None unless it compiles to the same instructions again."""
    code = function.__code__
    source = "".join(linecache.getlines(code.co_filename, function.__globals__)) or _command_line_source(code)
    tree, compiled = _compiled(source, code.co_filename)
    if tree is None or compiled is None:
        return None
    same = [
        one
        for one in codes_of(compiled)
        if (one.co_name, one.co_firstlineno) == (code.co_name, code.co_firstlineno)
        and (one.co_code, list(one.co_positions())) == (code.co_code, list(code.co_positions()))
        and _plain_constants(one) == _plain_constants(code)
    ]
    nodes = [node for node in ast.walk(tree) if _may_be(node, code)]
    if len(same) != 1 or len(nodes) != 1:
        return None
    node = nodes[0]
    if isinstance(node, ast.FunctionDef):
        # The function is what its decorators were given; what they made of it is a value.
        node = without_steps(node)
        assert isinstance(node, ast.FunctionDef)
        node = ast.FunctionDef(**{**dict(ast.iter_fields(node)), "decorator_list": []})
    return node


def is_one_statement(function: object) -> bool:
    """Tell whether all that a function does is to return what one statement of SQL gives, asked of its first argument."""
    node = source_node(function) if isinstance(function, types.FunctionType) else None
    if not isinstance(node, ast.FunctionDef) or not node.args.args:
        return False
    match node.body[-1:], node.body[:-1]:
        case [ast.Return(ast.Call(ast.Attribute(ast.Name(asked), "sql")))], [] | [ast.Expr(ast.Constant(str()))]:
            return asked == node.args.args[0].arg
    return False


def _may_be(node: ast.AST, code: types.CodeType) -> bool:
    if isinstance(node, ast.Lambda) and code.co_name == "<lambda>":
        body = node.body
        start, end = (body.lineno, body.col_offset), (body.end_lineno or 0, body.end_col_offset or 0)
        # The first instruction belongs to no expression and stands at column 0.
        spots = [
            (line, column) for line, _, column, last in code.co_positions() if line and column is not None and last
        ]
        return bool(spots) and all(start <= spot <= end for spot in spots)
    if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
        first = node.decorator_list[0] if node.decorator_list else node
        return first.lineno == code.co_firstlineno
    return False


def _plain_constants(code: types.CodeType) -> list[object]:
    return [constant for constant in code.co_consts if not isinstance(constant, types.CodeType)]


@functools.lru_cache(maxsize=64)
def _compiled(source: str, filename: str) -> tuple[ast.Module | None, types.CodeType | None]:
    try:
        return ast.parse(source), compile(source, filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None, None


def _command_line_source(code: types.CodeType) -> str:
    """Give the program after ``python -c``, whose lines Python keeps only since 3.13."""
    if code.co_filename != "<string>" or "-c" not in sys.orig_argv:
        return ""
    return sys.orig_argv[sys.orig_argv.index("-c") + 1]
