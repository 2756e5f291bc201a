"""A module taken apart: its top-level statements, what each binds and looks at, and what it may change.

Keeps promise 7 together with `jobs.reach`, which follows the names. Here one module is read on its own: which names a statement binds, which it
looks at when the module is imported and which only when its functions are called, and whether it acts on anything else when imported.

::

    Module -> Outline(statements, links) -> jobs.reach
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import symtable
from collections.abc import Iterable, Iterator

from hindscan.jobs.modules import Module, Modules, imports_of

__all__ = ["HARMLESS", "Outline", "Statement", "chains_of", "normalised", "root_of", "run_at_import", "without_steps"]

#: Calls in a value that can change nothing but what they return.
HARMLESS = frozenset(
    {"abs", "bool", "bytes", "dict", "enumerate", "float", "frozenset", "int", "len", "list", "max", "min", "range"}
    | {"round", "set", "sorted", "str", "sum", "tuple", "zip"}
)

_COMPREHENSIONS = frozenset({"listcomp", "setcomp", "dictcomp", "genexpr"})


# Normalised source -----------------------------------------------------------------------------------------------


def normalised(nodes: Iterable[ast.AST]) -> list[str]:
    """Write syntax trees as text that does not depend on positions, formatting, comments or docstrings.

    Docstrings stay where anything among the nodes looks at ``__doc__``.
    """
    nodes = list(nodes)
    docs = any(_mentions(node, {"__doc__"}) for node in nodes)
    return [_written(node, docs) for node in nodes]


def _written(node: object, docs: bool) -> str:
    if isinstance(node, list):
        kept = [one for one in node if docs or not _is_idle(one)]
        return "[" + ",".join(_written(one, docs) for one in kept) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    # Fields are named and empty ones left out: what newer Pythons add is mostly empty.
    fields = [
        f"{name}={_written(value, docs)}"
        for name, value in ast.iter_fields(node)
        if not (value is None and not isinstance(node, ast.Constant))
        and value != []
        and name not in ("kind", "ctx", "type_comment")
    ]
    return f"{type(node).__name__}({','.join(fields)})"


def _is_idle(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _mentions(node: ast.AST, names: set[str] | frozenset[str]) -> bool:
    return any(
        (isinstance(one, ast.Name) and one.id in names) or (isinstance(one, ast.Attribute) and one.attr in names)
        for one in ast.walk(node)
    )


# A module taken apart --------------------------------------------------------------------------------------------


@dataclasses.dataclass(kw_only=True, slots=True, eq=False)
class Statement:
    """One top-level statement and the module-level names it has to do with."""

    node: ast.stmt
    #: Names it binds in the module.
    binds: frozenset[str]
    #: Names it looks at when the module is imported, and those that its functions look at when they are called.
    now: frozenset[str]
    later: frozenset[str]
    #: It acts when the module is imported.
    acts: bool
    #: Order matters: it is not merely a definition.
    ordered: bool


class Outline:
    """The statements of one module, by what they bind."""

    def __init__(self, module: Module, modules: Modules) -> None:
        self.module = module
        self.statements: list[Statement] = []
        self.by_name: dict[str, list[Statement]] = {}
        #: Where imported names come from: the module and the name taken out of it, or None, and the module that is run.
        self.links: dict[str, list[tuple[str, str | None, str]]] = {}
        self.stars: list[str] = []
        #: Modules imported at the top: they run when this one is imported.
        self.imported: list[str] = []
        body = [node for node in module.tree().body if not _is_idle(node) and not _is_guard(node)]
        for node in body:
            for one in _at_module_level(node):
                if isinstance(one, ast.Import | ast.ImportFrom):
                    self._link(one)
        own = {name for node in body for name in _bound(node)}
        own |= {alias for alias, links in self.links.items() if any(modules.owns(run) for *_, run in links)}
        for node in body:
            if not isinstance(node, ast.Import | ast.ImportFrom):
                self._take(without_steps(node), own)

    def _link(self, node: ast.Import | ast.ImportFrom) -> None:
        for written, one in zip(node.names, imports_of(node, self.module.package), strict=True):
            self.imported.append(one.module)
            if one.name == "*":
                self.stars.append(one.module)
                continue
            target = one.module
            if one.name is not None:
                self.imported.append(f"{one.module}.{one.name}")
            elif written.asname is None:  # ``import a.b`` binds a
                target = one.module.partition(".")[0]
            self.links.setdefault(one.alias, []).append((target, one.name, one.module))

    def _take(self, node: ast.stmt, own: set[str]) -> None:
        table = symtable.symtable(ast.unparse(node), "statement", "exec")
        now: set[str] = set()
        later: set[str] = set()
        binds: set[str] = set()
        _sort_names(table, binds, now, later, immediate=True)
        acts = _acts(node, own)
        statement = Statement(
            node=node,
            binds=frozenset(binds),
            now=frozenset(now),
            later=frozenset(later),
            acts=acts,
            ordered=acts or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef),
        )
        self.statements.append(statement)
        for name in binds:
            self.by_name.setdefault(name, []).append(statement)


def _bound(node: ast.stmt) -> Iterator[str]:
    for one in _at_module_level(node):
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield one.name
        elif isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
            yield one.id


def _at_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs in the module's own scope: not into functions and classes."""
    yield node
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from _at_module_level(child)


def _sort_names(
    table: symtable.SymbolTable, binds: set[str], now: set[str], later: set[str], *, immediate: bool
) -> None:
    kind = table.get_type()
    for symbol in table.get_symbols():
        name = symbol.get_name()
        if kind == "module":
            if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace():
                binds.add(name)
            if symbol.is_referenced():
                now.add(name)
        # A class body looks a name up in the module even where it then binds it itself.
        elif symbol.is_global() or (kind == "class" and symbol.is_referenced()):
            (now if immediate else later).add(name)
            if symbol.is_declared_global() and symbol.is_assigned():
                binds.add(name)
    for child in table.get_children():
        called = child.get_type() == "function" and child.get_name() not in _COMPREHENSIONS
        _sort_names(child, binds, now, later, immediate=immediate and not called)


def _is_guard(node: ast.stmt) -> bool:
    """Recognise what never runs where a job runs."""
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) in (
        "__name__ == '__main__'", "'__main__' == __name__", "TYPE_CHECKING", "typing.TYPE_CHECKING",
    )  # fmt: skip


def without_steps(node: ast.stmt) -> ast.stmt:
    """Take off the decorators that declare steps: what they say reaches a key by the plan, not by the code."""
    if not isinstance(node, ast.FunctionDef) or not node.decorator_list:
        return node
    made = copy.copy(node)
    made.decorator_list = [one for one in node.decorator_list if not _declares_step(one)]
    return made


def _declares_step(decorator: ast.expr) -> bool:
    if isinstance(decorator, ast.Call):
        name = ast.unparse(decorator.func).rpartition(".")[2]
        return name in ("job", "simulation")
    return isinstance(decorator, ast.Attribute) and decorator.attr in ("combine", "finish", "close")


def _acts(node: ast.stmt, own: set[str]) -> bool:
    """Say whether a statement may change something besides the names it binds when the module is imported."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        if any(root_of(one) in own for one in node.decorator_list):
            return True
        return isinstance(node, ast.ClassDef) and any(_acts(one, own) for one in node.body)
    if isinstance(node, ast.Expr):
        call = node.value
        return not _is_idle(node) and not (isinstance(call, ast.Call) and root_of(call) == "print")
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(isinstance(one, ast.Attribute | ast.Subscript) for target in targets for one in ast.walk(target))
    if isinstance(node, ast.If | ast.For | ast.While | ast.Try):
        blocks = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
        blocks += [child for handler in getattr(node, "handlers", []) for child in handler.body]
        return any(_acts(child, own) for child in blocks)
    return not isinstance(node, ast.Import | ast.ImportFrom | ast.Pass | ast.Global)


def run_at_import(node: ast.stmt) -> Iterator[ast.AST]:
    """Give the parts of a statement that run when the module is imported."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from node.decorator_list
        yield from (default for default in (*node.args.defaults, *node.args.kw_defaults) if default)
    elif isinstance(node, ast.ClassDef):
        yield from (*node.decorator_list, *node.bases, *node.keywords)
        for one in node.body:
            yield from run_at_import(one)
    else:
        yield node


def root_of(node: ast.expr) -> str | None:
    """Give the name that a chain of calls, attributes and items starts at."""
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def chains_of(node: ast.AST) -> dict[str, set[tuple[str, ...]]]:
    """For each name: the attribute chains that start at it, () where it is used as such."""
    chains: dict[str, set[tuple[str, ...]]] = {}
    inner: set[int] = set()
    for one in ast.walk(node):  # outermost attributes come first
        if isinstance(one, ast.Attribute) and id(one) not in inner:
            attributes: list[str] = []
            at: ast.expr = one
            while isinstance(at, ast.Attribute):
                inner.add(id(at))
                attributes.append(at.attr)
                at = at.value
            if isinstance(at, ast.Name):
                inner.add(id(at))
                chains.setdefault(at.id, set()).add(tuple(reversed(attributes)))
        elif isinstance(one, ast.Name) and id(one) not in inner:
            chains.setdefault(one.id, set()).add(())
    return chains
