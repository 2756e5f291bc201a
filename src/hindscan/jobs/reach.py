"""What a function reaches in the project's own modules, found by reading them.

Keeps promise 7 for code that travels as source: a step's digest covers its function and everything that function can come to use,
and nothing else, so that editing `finish` recomputes no slice. A module's top-level statements are taken apart; from a name one gets to
the statements that bind it, from those to the names they mention, across modules. Statements that act when the module is imported
(calls, changes of attributes or items, registering decorators) belong to everything in their module, because they may change anything.
In doubt more is taken: a digest too wide costs a recomputation, one too narrow a wrong result.

What cannot be followed is told with its line: modules that are imported by a call. `jobs.digest` refuses it, or knows from ``depends=`` what it may be.

::

    modules.Modules + name -> Reach.add -> Reach.tokens -> jobs.digest
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable

from hindscan.jobs.modules import IMPORTERS, CalledImport, Modules, dynamic_imports, imports_of, mentions
from hindscan.jobs.outline import HARMLESS, Outline, Statement, chains_of, normalised, root_of, run_at_import

__all__ = ["RESOURCE", "Call", "Reach"]

#: Whoever opens files of the project says this name.
RESOURCE = "resource"

#: Whoever mentions one of these may reach any name of its module.
_ANYTHING = frozenset({"globals", "locals", "vars", "eval", "exec", "compile", "__builtins__"})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A module imported by a call, as a message says where."""

    where: str
    made: CalledImport


class Reach:
    """Everything reached so far in one place of own modules; grows by `add`.

    Parameters
    ----------
    modules : Modules
        The place.
    like : Reach, optional
        Another one for the same place, whose reading of the modules is used again.
    """

    def __init__(self, modules: Modules, like: Reach | None = None) -> None:
        self._modules = modules
        #: Modules taken apart already, by name.
        self.outlines: dict[str, Outline] = {} if like is None else like.outlines
        self._names: set[tuple[str, str]] = set()
        self._statements: dict[Statement, Outline] = {}
        self._running: set[str] = set()
        self._links: set[tuple[str, str, str]] = set()
        #: Installed modules that are used, by full name.
        self.libraries: set[str] = set()
        #: Imports by a call, of own modules or of such as are computed.
        self.calls: list[Call] = []
        #: Whether files of the project may be opened.
        self.opens_files = False

    def add(self, module: str, name: str | None) -> None:
        """Reach a name of a module and all that follows; None: all of the module."""
        self._reach(module, name)
        self._settle()

    def tokens(self) -> list[object]:
        """Give what was reached as values that depend on meaning alone, in a fixed order."""
        tokens: list[object] = [sorted(self._links)]
        for name in sorted({outline.module.name for outline in self._statements.values()}):
            taken = [s for s in self.outlines[name].statements if s in self._statements]
            texts = list(zip(normalised(s.node for s in taken), taken, strict=True))
            again = {name for name, bound in self.outlines[name].by_name.items() if len(bound) > 1}
            defined = sorted(text for text, s in texts if not s.ordered and not s.binds & again)
            ordered = [text for text, s in texts if s.ordered or s.binds & again]
            tokens.append([name, defined, ordered])
        return tokens

    def _outline(self, name: str) -> Outline | None:
        if name not in self.outlines:
            module = self._modules.find(name)
            if module is None:
                return None
            self.outlines[name] = Outline(module, self._modules)
        return self.outlines[name]

    def _run(self, name: str) -> None:
        """Take what acts when a module is imported, and the modules it imports in turn."""
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            module = ".".join(parts[:end])
            if module in self._running or not self._modules.owns(module):
                continue
            self._running.add(module)
            outline = self._outline(module)
            if outline is not None:
                for statement in outline.statements:
                    if statement.acts:
                        self._take(outline, statement)
                for imported in outline.imported:
                    self._run(imported)

    def _reach(self, module: str, name: str | None) -> None:
        if not self._modules.owns(module):
            if module.partition(".")[0] != "__future__":
                self.libraries.add(module)
            return
        self._run(module)
        outline = self._outline(module)
        if (module, name or "*") in self._names:
            return
        self._names.add((module, name or "*"))
        if name is None:
            self._reach_all(outline)
            return
        known = outline is not None and self._reach_in(outline, name)
        if not known and self._modules.owns(f"{module}.{name}"):
            self._reach(f"{module}.{name}", None)
        elif not known and outline is not None:
            # A module's own __getattr__, or a name made in a way that is not seen here.
            self._reach(module, None)

    def _reach_all(self, outline: Outline | None) -> None:
        """Reach every name of a module, and every module it knows."""
        if outline is None:
            return
        for bound in [*outline.by_name, *outline.links]:
            self._reach(outline.module.name, bound)
        for target, attribute, _ in [link for links in outline.links.values() for link in links]:
            if self._is_module(target, attribute):
                self._reach(target if attribute is None else f"{target}.{attribute}", None)
        for star in outline.stars:
            self._reach(star, None)

    def _reach_in(self, outline: Outline, name: str) -> bool:
        """Reach a name within a module; say whether it is bound there."""
        for statement in outline.by_name.get(name, ()):
            self._take(outline, statement)
        for target, attribute, imported in outline.links.get(name, ()):
            self._links.add((outline.module.name, name, f"{target}:{attribute or ''}"))
            self.opens_files |= attribute == RESOURCE
            if self._is_module(target, attribute):
                self._run(imported if attribute is None else f"{target}.{attribute}")
            else:
                self._reach(target, attribute)
        known = name in outline.by_name or name in outline.links
        for star in () if known else outline.stars:
            if not self._modules.owns(star):
                self.libraries.add(star)
            else:
                found = self._outline(star)
                bound = found is not None and (name in found.by_name or name in found.links or found.stars)
                if bound or self._modules.owns(f"{star}.{name}"):
                    self._reach(star, name)
                    known = True
        return known

    def _is_module(self, target: str, attribute: str | None) -> bool:
        """Say whether an import gives an own module: which names of it are used is then seen where it is used."""
        if attribute is None:
            return self._modules.owns(target)
        outline = self._outline(target) if self._modules.owns(target) else None
        if outline is not None and (attribute in outline.by_name or attribute in outline.links):
            return False
        return self._modules.owns(f"{target}.{attribute}")

    def _take(self, outline: Outline, statement: Statement) -> None:
        if statement in self._statements:
            return
        self._statements[statement] = outline
        self.opens_files |= mentions(statement.node, RESOURCE)
        self._follow(outline, statement.node, statement.now | statement.later)

    def _follow(self, outline: Outline, node: ast.AST, names: Iterable[str]) -> None:
        module = outline.module.name
        names = set(names)
        if names & _ANYTHING:
            self._reach(module, None)
        chains = chains_of(node)
        for name in sorted(names):
            if name in outline.by_name or name in outline.links:
                self._reach(module, name)
                for target, attribute, _ in outline.links.get(name, ()):
                    self._follow_chains(target, attribute, chains.get(name, {()}))
            elif outline.stars:
                self._reach_in(outline, name)
        if not isinstance(node, ast.Import | ast.ImportFrom):
            for one in imports_of(node, outline.module.package):
                self._reach(one.module, None if one.name == "*" else one.name)
        renamed = {
            name: taken == "import_module"
            for name in names
            for _, taken, _ in outline.links.get(name, ())
            if taken in IMPORTERS and taken != name
        }
        self._note_calls(outline, node, renamed)

    def _follow_chains(self, module: str, attribute: str | None, chains: set[tuple[str, ...]]) -> None:
        """Reach what is used of an imported module: ``module.sub.name``."""
        if not self._is_module(module, attribute):
            return
        if attribute is not None:
            module = f"{module}.{attribute}"
        for chain in chains:
            at, rest = module, chain
            while rest and self._modules.owns(f"{at}.{rest[0]}"):
                at, rest = f"{at}.{rest[0]}", rest[1:]
            self._reach(at, rest[0] if rest else None)

    def _note_calls(self, outline: Outline, node: ast.AST, renamed: dict[str, bool]) -> None:
        path = outline.module.key.replace(".", "/") + ".py"
        for one in sorted(renamed):
            made = CalledImport(line=0, name=None, is_answered=renamed[one])
            self.calls.append(Call(where=f"{path} imports modules by a call of {one}", made=made))
        for made in dynamic_imports(node):
            where = f"{path} line {made.line} imports {made.name or 'a module whose name is computed'}"
            if made.name is None or self._modules.owns(made.name):
                self.calls.append(Call(where=where + " by a call" * (made.name is not None), made=made))
            else:
                self.libraries.add(made.name)

    def _settle(self) -> None:
        """Take also what binds other names but may have changed a value that is reached, until nothing is added."""
        size = -1
        while size != len(self._statements):
            size = len(self._statements)
            for outline in [self.outlines[name] for name in sorted(self._running & self.outlines.keys())]:
                for statement in outline.statements:
                    if statement not in self._statements and self._may_touch(outline, statement):
                        self._take(outline, statement)

    def _may_touch(self, outline: Outline, statement: Statement) -> bool:
        if isinstance(statement.node, ast.ClassDef):
            # A base class may keep a list of its subclasses.
            names = {root for base in statement.node.bases if (root := root_of(base))}
            if any(self._is_taken_class(outline, name) for name in names):
                return True
        harmless = HARMLESS - outline.by_name.keys()
        calls = (one for part in run_at_import(statement.node) for one in ast.walk(part) if isinstance(one, ast.Call))
        if all(root_of(one.func) in harmless for one in calls):
            return False
        return any(pair in self._names and self._is_changeable(*pair) for pair in self._mentioned(outline, statement))

    def _is_taken_class(self, outline: Outline, name: str) -> bool:
        if (outline.module.name, name) in self._names:
            return True
        return any((target, attribute) in self._names for target, attribute, _ in outline.links.get(name, ()))

    def _mentioned(self, outline: Outline, statement: Statement) -> set[tuple[str, str]]:
        """Names that running a statement may come to look at, calls of own functions included."""
        probe = Reach(self._modules, self)
        probe._running = set(self._running)
        probe._follow(outline, statement.node, statement.now)
        return probe._names

    def _is_changeable(self, module: str, name: str) -> bool:
        outline = self._outline(module)
        return any(
            not isinstance(statement.node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not (
                isinstance(statement.node, ast.Assign | ast.AnnAssign)
                and isinstance(statement.node.value, ast.Constant | ast.JoinedStr | ast.UnaryOp)
            )
            for statement in (outline.by_name.get(name, ()) if outline else ())
        )
