"""The digest of a step: equal where the step means the same, in whichever process it is taken.

Keeps the code half of promise 7. What travels as source is digested as normalised source (`jobs.reach`), what travels by value
as value: closures, defaults and the globals of functions from notebooks and scripts. Of libraries the digest has name and version. Pickle bytes,
addresses, file names and the order of sets never enter it. What a job declares by ``depends=`` counts where a step reaches a call that imports, or says `resource`.

A value whose digest could differ between two processes though nothing changed is refused, with the name it is captured under.

::

    step function -> Digester.function -> tokens -> digest_of -> Step.digest -> keys of partials
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import hashlib
import logging
import pathlib
import re
import sys
import types
import typing
import uuid
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from hindscan.jobs.arrays import Token, array_token, hashed
from hindscan.jobs.carried import token_of
from hindscan.jobs.declare import Job
from hindscan.jobs.depends import Depends
from hindscan.jobs.modules import CalledImport, Modules, dynamic_imports
from hindscan.jobs.outline import normalised
from hindscan.jobs.program import Importlib, imports_by_call
from hindscan.jobs.reach import RESOURCE, Call, Reach
from hindscan.jobs.resource import resource
from hindscan.jobs.source import global_names, imports_of_code, names_of, source_node
from hindscan.jobs.world import CACHED, Address, World, version_of

__all__ = ["Digester", "digest_of"]

#: Parts of a class that say nothing of what it does, or are made from its other parts.
_CLASS_NOISE = frozenset(
    {"__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__dataclass_fields__", "__dataclass_params__"}
    | {"__match_args__", "__abstractmethods__", "__firstlineno__", "__static_attributes__", "__parameters__"}
    | {"__orig_bases__", "__slotnames__", "_abc_impl", "_member_names_", "_member_map_", "_value2member_map_"}
    | {"_unhashable_values_", "_hashable_values_", "_use_args_", "_member_type_", "_value_repr_", "_new_member_"}
    | {"_generate_next_value_", "__new_member__", "__annotations_cache__", "__annotate__"}
)


def digest_of(token: Token) -> str:
    """Hash tokens."""
    return hashlib.sha256(msgspec.json.encode(token)).hexdigest()


class Digester:
    """Takes digests in one world of own code, and collects what is wrong.

    Parameters
    ----------
    world : World
        Tells the project's code from libraries.
    depends : Depends, optional
        What the job declares beside what its code shows.
    """

    def __init__(self, world: World, depends: Depends | None = None) -> None:
        self._world = world
        self._depends = depends or Depends()
        self._calls: list[Call] = []
        self._opens_files = False
        self._reaches: dict[int, Reach] = {}
        self._earlier: dict[int, Reach] = {}
        self._libraries: set[str] = set()
        self._known: dict[int, tuple[object, Token]] = {}
        self._open: list[int] = []
        self._path: list[str] = []
        #: What has no stable digest, or cannot be followed.
        self.faults: list[str] = []
        #: Own modules that code by value imports while it runs.
        self.imported: set[str] = set()
        #: Installed modules that code by value imports by a call.
        self.called: set[str] = set()

    def step(self, function: Callable[..., Any]) -> list[Token]:
        """Give all tokens of one step; what was reached for earlier steps is reached anew."""
        self._earlier, self._reaches, self._known = self._earlier | self._reaches, {}, {}
        self._libraries, self._calls, self._opens_files = set(), [], False
        token = self._value(function, f"`{getattr(function, '__name__', function)}`")
        self._follow_calls()
        reaches = self._reaches.values()
        libraries = {name for reach in reaches for name in reach.libraries} | self._libraries
        versions = sorted({version_of(name) for name in libraries if name})
        tokens = [token, sorted((reach.tokens() for reach in reaches), key=digest_of), versions]
        if self._depends.files and (self._opens_files or any(reach.opens_files for reach in reaches)):
            tokens.append(["files", token_of(self._depends.files)])
        return tokens

    def _follow_calls(self) -> None:
        """Take all that is declared where a module is imported by a call; it may import by calls in turn."""
        known = -1
        while known != (known := sum(len(reach.calls) for reach in self._reaches.values())):
            if any(self._is_answered(one.made) for one in self._all_calls()):
                for name, modules in self._depends.modules.items():
                    self._reach(modules).add(name, None)
                self._libraries |= set(self._depends.libraries)
        for one in self._all_calls():
            if not self._is_answered(one.made):
                self.faults.append(f"{one.where}; write an import statement{self._advice(one.made)}")

    def _all_calls(self) -> list[Call]:
        return [*self._calls, *(one for reach in self._reaches.values() for one in reach.calls)]

    def _is_answered(self, made: CalledImport) -> bool:
        if not made.is_answered:
            return False
        return self._depends.answers_calls if made.name is None else made.name in self._depends.modules

    @staticmethod
    def _advice(made: CalledImport) -> str:
        if made.is_answered:
            return f', or name what it may import: depends=["{made.name or "PACKAGE.MODULE"}"]'
        return ", or import by `importlib.import_module` and name what it may import in depends="

    def _reach(self, modules: Modules) -> Reach:
        return self._reaches.setdefault(id(modules), Reach(modules, self._earlier.get(id(modules))))

    def _refuse(self, value: object, why: str) -> Token:
        self.faults.append(
            f"{' of '.join(reversed(self._path))} is a {type(value).__module__}.{type(value).__qualname__}, {why}"
        )
        return "refused"

    # Values ------------------------------------------------------------------------------------------------------

    def _value(self, value: object, name: str) -> Token:
        if value is None or isinstance(value, bool) or type(value) in (str, int):
            return [type(value).__name__, str(value)]
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        if id(value) in self._open:
            return ["cycle", len(self._open) - self._open.index(id(value))]
        self._open.append(id(value))
        self._path.append(name)
        try:
            token = self._token(value)
        finally:
            self._open.pop()
            self._path.pop()
        self._known[id(value)] = (value, token)  # the value is kept, or its id could be another's
        return token

    def _token(self, value: Any) -> Token:
        for kinds, made in _PLAIN:
            if type(value) in kinds:
                return [type(value).__name__, made(value)]
        if isinstance(value, Job):
            return ["job", [[step, self._value(f, f"`{f.__name__}`")] for step, f in sorted(value.steps.items())]]
        if isinstance(value, types.ModuleType):
            return self._module(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        for step in (self._container, self._callable, self._array, self._instance):
            token = step(value)
            if token is not None:
                return token
        return self._refuse(
            value, "which cannot be digested in a stable way; make it inside the function, or pass what it is made from"
        )

    def _items(self, values: Mapping[Any, Any], *, in_order: bool = True) -> Token:
        pairs = [[self._value(key, "a key"), self._value(item, f"`{key}`")] for key, item in values.items()]
        return pairs if in_order else sorted(pairs, key=digest_of)

    def _list(self, values: Any) -> Token:
        return [self._value(item, f"item {index}") for index, item in enumerate(values)]

    def _container(self, value: Any) -> Token | None:
        kind = type(value)
        if kind in (list, tuple):
            return [kind.__name__, self._list(value)]
        if kind in (dict, types.MappingProxyType, collections.OrderedDict, collections.Counter):
            return [kind.__name__, self._items(value)]
        if kind in (set, frozenset):
            return [kind.__name__, sorted(self._list(value), key=digest_of)]
        if kind is collections.deque:
            return ["deque", value.maxlen, self._list(value)]
        if kind is collections.defaultdict:
            return ["defaultdict", self._value(value.default_factory, "the default factory"), self._items(value)]
        if isinstance(value, enum.Enum):
            return ["member", self._class(kind), value.name]
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return ["named", self._class(kind), self._list(value)]
        if kind is slice:
            return ["slice", self._list((value.start, value.stop, value.step))]
        return None

    def _callable(self, value: Any) -> Token | None:
        if imports_by_call(value):
            return ["builtin", "importlib", "import_module"]
        if isinstance(value, functools.partial):
            return [
                "partial",
                self._value(value.func, "its function"),
                self._list(value.args),
                self._items(value.keywords),
            ]
        if isinstance(value, types.MethodType):
            return ["method", self._value(value.__func__, "its function"), self._value(value.__self__, "its object")]
        if isinstance(
            value, types.BuiltinFunctionType | types.MethodDescriptorType | types.WrapperDescriptorType | np.ufunc
        ):
            owner = getattr(value, "__self__", None)
            if owner is not None and not isinstance(owner, types.ModuleType | type):
                return ["method", value.__name__, self._value(owner, "its object")]
            module = str(getattr(value, "__module__", None) or getattr(value, "__objclass__", type(value)).__module__)
            self._libraries.add(module)
            return ["builtin", module, getattr(value, "__qualname__", value.__name__)]
        if isinstance(value, staticmethod | classmethod):
            return [type(value).__name__, self._value(value.__func__, "its function")]
        if isinstance(value, property):
            return ["property", self._list((value.fget, value.fset, value.fdel))]
        if isinstance(value, functools.cached_property):
            return ["cached_property", self._value(value.func, "its function")]
        if isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
            return ["slot", value.__name__]
        if isinstance(value, CACHED):
            address = self._world.address(value)
            if address is not None:
                return self._own(*address)
            return ["lru_cache", self._value(value.__wrapped__, "its function"), self._items(value.cache_parameters())]
        if isinstance(value, types.GenericAlias | types.UnionType) or type(value).__module__ == "typing":
            return [
                "annotation",
                type(value).__name__,
                repr(typing.get_origin(value)),
                self._list(typing.get_args(value)) or repr(value),
            ]
        return None

    def _array(self, value: Any) -> Token | None:
        return array_token(value, self._value)

    def _instance(self, value: Any) -> Token | None:
        kind = type(value)
        if isinstance(value, BaseException):
            return ["exception", self._class(kind), self._list(value.args), self._items(vars(value), in_order=False)]
        if isinstance(value, msgspec.Struct):
            return ["struct", self._class(kind), self._items(msgspec.structs.asdict(value))]
        for plain in _BUILT_IN:
            if isinstance(value, plain):
                own = self._items(getattr(value, "__dict__", {}), in_order=False)
                return ["derived", self._class(kind), self._token(plain(value)), own]
        if not all(_is_written_in_python(getattr(kind, name)) for name in ("__reduce__", "__reduce_ex__", "__getstate__") if hasattr(kind, name)):  # fmt: skip
            return None  # what C code gives for a pickle may hold anything
        try:
            reduced = value.__reduce_ex__(2)
        except TypeError:
            return None
        if isinstance(reduced, str):
            return None
        made, arguments, state, *rest = [*reduced, None, None][:5]
        if any(one is not None for one in rest):
            return None
        is_plain = isinstance(state, dict)
        state_token = self._items(state, in_order=False) if is_plain else self._value(state, "its state")
        return ["object", self._value(made, "its maker"), self._list(arguments), state_token]

    def _own(self, modules: Modules, address: Address) -> Token:
        module, name, _ = address
        self._reach(modules).add(module, name.partition(".")[0])
        return ["own", module, name]

    # Code --------------------------------------------------------------------------------------------------------

    def _module(self, module: types.ModuleType) -> Token:
        if isinstance(module, Importlib):
            return ["library", "importlib"]
        home = self._world.module_home(module)
        if home is not None:
            self._reach(home[0]).add(home[1], None)
            return ["module", home[1]]
        if not self._world.is_library(module):
            return self._refuse(module, f"{module.__name__!r}, made while running, which nobody else can import")
        self._libraries.add(module.__name__)
        return ["library", module.__name__]

    def _class(self, kind: type) -> Token:
        address = self._world.address(kind)
        if address is not None:
            return self._own(*address)
        if self._world.is_library(kind):
            self._libraries.add(kind.__module__)
            return ["library", kind.__module__, kind.__qualname__]
        parts = {name: part for name, part in vars(kind).items() if name not in _CLASS_NOISE}
        if issubclass(kind, enum.Enum):
            members = {member.name: member.value for member in kind}
            parts = {name: part for name, part in parts.items() if name not in members and _is_code(part)}
            return [
                "enum",
                kind.__name__,
                self._list(kind.__bases__),
                self._items(members),
                self._items(parts, in_order=False),
            ]
        return ["class", kind.__name__, self._list(kind.__bases__), self._value(type(kind), "its metaclass"), self._items(parts, in_order=False)]  # fmt: skip

    def _function(self, function: types.FunctionType) -> Token:
        address = self._world.address(function)
        if address is not None:
            return self._own(*address)
        self._opens_files |= function is resource or RESOURCE in names_of(function.__code__)
        library = self._world.is_library(function)
        if library:
            self._libraries.add(function.__module__)
            if "<" not in function.__qualname__:
                return ["library", function.__module__, function.__qualname__]
        captured = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        closure = {name: cell.cell_contents for name, cell in captured.items() if _is_filled(cell)}
        return [
            "function",
            self._source(function),
            self._list(function.__defaults__ or ()),
            self._items(function.__kwdefaults__ or {}, in_order=False),
            self._items(closure, in_order=False),
            [] if library else self._globals(function),
            self._items({k: v for k, v in vars(function).items() if k != "__wrapped__"}, in_order=False),
        ]

    def _globals(self, function: types.FunctionType) -> Token:
        namespace = function.__globals__
        home = self._world.home(namespace)
        tokens: list[Token] = []
        for name in sorted(global_names(function.__code__)):
            if home is not None:
                if name in namespace:
                    self._reach(home[0]).add(home[1], name)
                    tokens.append([name, "own", home[1]])
            elif name in namespace:
                tokens.append([name, self._value(namespace[name], f"global `{name}`")])
        for module, taken in imports_of_code(function.__code__):
            modules: Modules = self._world.folders if home is None else home[0]
            if home is None and modules.owns(module):
                self.imported |= {module, *(f"{module}.{name}" for name in taken)}
            for one in taken or ("*",):
                self._reach(modules).add(module, None if one == "*" else one)
        return tokens

    def _source(self, function: types.FunctionType) -> Token:
        node = source_node(function)
        if node is None:
            for one in {"import_module", "__import__"} & set(names_of(function.__code__)):
                made = CalledImport(line=0, name=None, is_answered=one == "import_module")
                self._calls.append(Call(where=f"`{function.__name__}` imports modules by a call of {one}", made=made))
            return self._code(function.__code__, function.__doc__)
        for made in dynamic_imports(node):
            if made.name is None or self._world.folders.owns(made.name):
                where = (
                    f"`{function.__name__}` imports {made.name or 'a computed module'} by a call in line {made.line}"
                )
                self._calls.append(Call(where=where, made=made))
            else:
                self._libraries.add(made.name)
                self.called.add(made.name)
        return normalised([node])

    def _code(self, code: types.CodeType, doc: str | None) -> Token:
        """Digest a function whose source is nowhere: what its instructions do, under this version of Python."""
        constants = list(code.co_consts)
        if constants and doc is not None and constants[0] == doc:
            constants[0] = None
        parts = [
            self._code(c, None) if isinstance(c, types.CodeType) else self._value(c, "a constant") for c in constants
        ]
        signature = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, code.co_name]
        names = [list(n) for n in (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)]
        return [
            "code",
            list(sys.version_info[:2]),
            code.co_code.hex(),
            code.co_exceptiontable.hex(),
            parts,
            signature,
            names,
        ]


# Plain values ----------------------------------------------------------------------------------------------------


_PLAIN: list[tuple[tuple[Any, ...], Callable[[Any], Token]]] = [
    ((float,), float.hex),
    ((complex,), lambda v: [v.real.hex(), v.imag.hex()]),
    ((bytes, bytearray), hashed),
    ((type(...), type(NotImplemented)), repr),
    ((range, dt.date, dt.datetime, dt.time, dt.timedelta, dt.timezone, decimal.Decimal, fractions.Fraction), repr),
    ((uuid.UUID, zoneinfo.ZoneInfo), str),
    ((pathlib.PurePosixPath, pathlib.PosixPath, pathlib.WindowsPath, pathlib.PureWindowsPath), str),
    ((re.Pattern,), lambda v: [str(v.pattern), v.flags]),
    ((logging.Logger, logging.RootLogger), lambda v: v.name),
    ((object, type(dataclasses.MISSING), type(dataclasses.KW_ONLY)), lambda v: type(v).__name__),
]


_BUILT_IN: tuple[Any, ...] = (dict, list, set, frozenset, tuple, str, bytes, int, float)


def _is_written_in_python(method: object) -> bool:
    return isinstance(method, types.FunctionType) or method in (
        object.__reduce__,
        object.__reduce_ex__,
        object.__getstate__,
    )


def _is_code(part: object) -> bool:
    return isinstance(part, types.FunctionType | property | staticmethod | classmethod | functools.cached_property)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
