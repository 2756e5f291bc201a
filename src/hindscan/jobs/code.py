"""Code that travels: a job's functions as bytes, and functions again where the work is done.

Keeps promise 7 (each step has a digest of all that it means) and the loading half of promise 12. No function is ever pickled by
reference to a module that only this process can import: own modules go along as sources and are run as a `Program` under a name made
of their digest; functions of notebooks, scripts and closures go by value, and their imports find the carried modules too. Only hindscan
and installed libraries are named. Loading happens inside one fixed function on the worker, and whatever goes wrong is a `CodeLoadError`.

::

    Job -> bundle -> JobSpec (digests) + Code -> Task -> worker: load -> {step: function}
"""

from __future__ import annotations

import functools
import importlib
import io
import linecache
import os
import pickle
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import cloudpickle  # type: ignore[import-untyped]
import msgspec

from hindscan.errors import CodeLoadError, JobDefinitionError
from hindscan.jobs import command, isolated
from hindscan.jobs.arrays import Token
from hindscan.jobs.declare import Job
from hindscan.jobs.depends import Depends, read_depends
from hindscan.jobs.digest import Digester, digest_of
from hindscan.jobs.estimators import summed
from hindscan.jobs.job import Code, JobSpec, StepName
from hindscan.jobs.modules import Module, Modules, closure
from hindscan.jobs.program import Importlib, Program, imports_by_call
from hindscan.jobs.sampling import Halton, Sobol, Stratified, unit_of
from hindscan.jobs.source import is_one_statement
from hindscan.jobs.statement import FORM, unpack
from hindscan.jobs.world import CACHED, World, own_folders, resolve, version_of

__all__ = ["MEANING", "bundle", "load"]

#: What hindscan itself does around a step (normalising what it returns, the streams of a block, built-in statistics). Raised when that
#: changes meaning, which makes every stored partial another one's.
MEANING = 1

#: First line of a payload: bytecode travels in it, so it is for one version of Python; the number before it is that of the payload's form.
#: Part of the code's digest, by which stored code is found again.
_FORM = f"2 Python {sys.version_info.major}.{sys.version_info.minor}"

#: Code that is no pickled functions, by the first word of its payload, and what makes the steps out of it.
_FORMS: Mapping[bytes, Callable[[Code], Mapping[StepName, Callable[..., Any]]]] = {
    command.FORM: command.command_steps,
    isolated.FORM: lambda code: load(isolated.unwrapped(code)),
}


# Leaving ---------------------------------------------------------------------------------------------------------


def bundle(job: Job, root: Path, *, file: str = "") -> tuple[JobSpec, Code]:
    """Pack a job for workers and for everybody who must know it without its code.

    Parameters
    ----------
    job : Job
        The declared job.
    root : Path
        The project's folder: modules in it are its own and go along.
    file : str
        Where the job was loaded from, relative to the root; empty for a notebook cell.

    Returns
    -------
    tuple of JobSpec, Code
        The declaration with the digests of its steps, and the code.

    Raises
    ------
    hindscan.errors.JobDefinitionError
        A captured value or an import that cannot travel or has no stable digest; all of them, by name.
    """
    spec = job.spec
    joined = {name: bundle(other, root, file=file) for name, other in job.joins.items()}
    world = World(root)
    depends = _depends(job, root, world, file)
    digester = Digester(world, depends)
    digests = {step: digest_of([_meaning(spec, step), digester.step(made)]) for step, made in job.steps.items()}
    faults = list(dict.fromkeys([*depends.faults, *digester.faults]))
    if faults:
        raise JobDefinitionError(
            f"Taking the digest of the job {job.name!r}: {'; '.join(faults)}.", job=job.name, faults=faults
        )
    payload, used = _packed(job, world)
    used += [(cast("Modules", world.folders), name) for name in sorted(digester.imported)]
    used += [(place, name) for name, place in depends.modules.items()]
    modules = _carried(job, used)
    sources = {key: module.source for key, module in modules.items()}
    libraries = tuple(sorted({*depends.libraries, *digester.called}))
    of_joins = {name: code.digest for name, (_, code) in joined.items()}
    program = Program(sources, depends.files, libraries)
    digest = digest_of([digests, program.digest, _FORM, *([sorted(of_joins.items())] if of_joins else [])])
    steps = {
        name: msgspec.structs.replace(
            step, digest=digests[cast("StepName", name)], is_sql=is_one_statement(job.steps[cast("StepName", name)])
        )
        for name, step in spec.steps.items()
    }
    code = Code(
        digest=digest,
        modules=sources,
        files=dict(depends.files),
        libraries=libraries,
        payload=payload,
        joins={name: code for name, (_, code) in joined.items()},
    )
    joins = {name: spec for name, (spec, _) in joined.items()}
    return msgspec.structs.replace(spec, steps=steps, joins=joins, code=digest, file=file), code


def _depends(job: Job, root: Path, world: World, file: str) -> Depends:
    """Find what a job declares: in the program that it was loaded as, else where its file would find it."""
    homes = [world.home(getattr(made, "__globals__", {})) for made in job.steps.values()]
    folder = (root / file).parent if file else None
    return read_depends(job.depends, [*(home[0] for home in homes if home), own_folders(root, folder)], root)


def _meaning(spec: JobSpec, step: str) -> Token:
    """Say what of hindscan and its engines a step's result depends on, whatever its code imports."""
    if spec.kind == "simulation" and step == "slice":
        of_points = [version_of("scipy")] if isinstance(spec.sampling, Halton | Sobol | Stratified) else []
        return [
            MEANING,
            spec.combine,
            summed(spec.statistics, unit_of(spec.sampling, spec.block_size)),
            version_of("numpy"),
            *of_points,
        ]
    if spec.whole:
        return [MEANING, *(version_of(name) for name in ("duckdb", "pyarrow", "dask", "pandas"))]
    # `hs.Data` answers SQL by DuckDB over Arrow: another version may round, sort or sum in another way.
    return [MEANING, version_of("duckdb"), version_of("pyarrow")]


def _packed(job: Job, world: World) -> tuple[bytes, list[tuple[Modules, str]]]:
    stream = io.BytesIO()
    pickler = _Pickler(stream, world)
    try:
        pickler.dump(job.steps)
    except Exception as error:
        raise JobDefinitionError(
            f"Packing the job {job.name!r}: everything its functions capture must be picklable, and something is not: {error}. "
            "Make it inside the function, or pass what it is made from.",
            job=job.name,
        ) from error
    finally:
        pickler.release()
    stream.write(msgspec.msgpack.encode(pickler.sources))
    return _FORM.encode() + b"\n" + stream.getvalue(), pickler.used


def _carried(job: Job, used: list[tuple[Modules, str]]) -> dict[str, Module]:
    carried: dict[str, Module] = {}
    for modules, name in used:
        try:
            found = closure([name], modules)
        except SyntaxError as error:
            raise JobDefinitionError(
                f"Collecting the modules of the job {job.name!r}: {error.filename} line {error.lineno} is no Python: {error.msg}.",
                job=job.name,
            ) from error
        for key, module in found.items():
            if carried.setdefault(key, module).source != module.source:
                raise JobDefinitionError(
                    f"Collecting the modules of the job {job.name!r}: it uses two versions of {module.name}. Load its parts again.",
                    job=job.name,
                )
    return carried


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles functions so that own modules are names, libraries are names, and everything else is a value.

    Parameters
    ----------
    stream : io.BytesIO
        Where to.
    world : World
        Tells own code from libraries.
    """

    def __init__(self, stream: io.BytesIO, world: World) -> None:
        super().__init__(stream, protocol=5)
        self._world = world
        self._by_value: list[types.ModuleType] = []
        #: Own modules that are named in the bytes.
        self.used: list[tuple[Modules, str]] = []
        #: Text that functions by value came from, by file name, where there is no such file: the cells of a notebook.
        self.sources: dict[str, str] = {}

    def release(self) -> None:
        """Forget which modules were pickled by value: cloudpickle keeps that for the whole process."""
        for module in self._by_value:
            cloudpickle.unregister_pickle_by_value(module)

    def persistent_id(self, value: Any) -> tuple[object, ...] | None:
        """Name what is found again by name in own modules."""
        if value is importlib or isinstance(value, Importlib):
            return ("importlib",)
        if value is importlib.import_module or imports_by_call(value):
            return ("import_module",)
        if isinstance(value, types.ModuleType):
            home = self._world.module_home(value)
            if home is not None:
                self.used.append(home)
                return ("module", home[1])
        elif isinstance(value, type | types.FunctionType | CACHED):
            address = self._world.address(value)
            if address is not None:
                self.used.append((address[0], address[1][0]))
                return ("name", *address[1])
        elif value is _BUILTINS:
            return ("builtins",)
        elif isinstance(value, _Namespace):
            return ("namespace", value.module)
        return None

    def reducer_override(self, value: Any) -> Any:
        """Let functions that go by value import carried modules, and share the names of the module they come from."""
        if isinstance(value, CACHED) and not self._world.is_library(value):
            return _cached, (value.__wrapped__, value.cache_parameters())
        if isinstance(value, type | types.FunctionType) and not self._world.is_library(value):
            module = sys.modules.get(value.__module__ or "")
            if module is not None and value.__module__ not in (
                "__main__",
                *cloudpickle.list_registry_pickle_by_value(),
            ):
                cloudpickle.register_pickle_by_value(module)
                self._by_value.append(module)
        reduced = super().reducer_override(value)
        if not isinstance(value, types.FunctionType) or not isinstance(reduced, tuple):
            return reduced
        _, (code, names, _, _, closure_cells), (attributes, state), *_ = reduced
        if not os.path.exists(code.co_filename):  # noqa: PTH110 (no path, but what the compiler was told)
            self.sources[code.co_filename] = "".join(linecache.getlines(code.co_filename, value.__globals__))
        home = self._world.home(value.__globals__)
        if home is not None:
            self.used.append(home)
            names = _Namespace(home[1])
            state = {**state, "__globals__": {}}
        return _made_function, (_BUILTINS, code, names, closure_cells), (attributes, state), None, None, _fill_function


class _Builtins:
    """Stands for the builtins of the program that a function arrives in."""


class _Namespace:
    """Stands for the globals of a carried module.

    Parameters
    ----------
    module : str
        Its name.
    """

    def __init__(self, module: str) -> None:
        self.module = module


_BUILTINS = _Builtins()


# Arriving --------------------------------------------------------------------------------------------------------


def load(code: Code) -> dict[StepName, Callable[..., Any]]:
    """Make the functions of a job; the same code is loaded once in a process.

    Parameters
    ----------
    code : Code
        What `bundle` made.

    Returns
    -------
    dict
        The functions by step name.

    Raises
    ------
    hindscan.errors.CodeLoadError
        The code does not load here; the traceback of the project's code comes first.
    """
    return dict(_loaded(_ByDigest(code)))


class _ByDigest:
    """A code that is equal to another one if the digest, and what is in it, is."""

    def __init__(self, code: Code) -> None:
        self.code = code
        # Equal digests mean equal code, but may have been packed by different processes: either will do.
        self.digest = code.digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByDigest) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@functools.lru_cache(maxsize=64)
def _loaded(wanted: _ByDigest) -> dict[StepName, Callable[..., Any]]:
    code = wanted.code
    loads = _FORMS.get(code.payload.partition(b" ")[0])
    if loads is not None:
        return dict(loads(code))
    form, _, pickled = code.payload.partition(b"\n")
    if form == FORM:
        return unpack(pickled)
    if form.decode(errors="replace") != _FORM:
        raise CodeLoadError(
            f"Loading the job's code {code.digest[:12]}: it was packed in form {form[:16]!r}, and this worker reads form {_FORM!r}. "
            "Run workers with the versions of hindscan and Python that the project has.",
            code=code.digest,
        )
    try:
        stream = io.BytesIO(pickled)
        steps: dict[StepName, Callable[..., Any]] = _Unpickler(
            stream, Program.of(code.modules, code.files, code.libraries)
        ).load()
        for name, text in msgspec.msgpack.decode(stream.read(), type=dict[str, str]).items():
            # For tracebacks only.
            linecache.cache.setdefault(name, (len(text), None, text.splitlines(keepends=True), name))
    except Exception as error:
        own = "".join(traceback.format_exception(error))
        raise CodeLoadError(
            f"{own}\nLoading the job's code {code.digest[:12]}: its modules ({', '.join(code.modules) or 'none'}) must run where the work "
            f"is done, and failed with {type(error).__name__}: {error}. {_advice(error)}",
            code=code.digest,
            traceback=own,
        ) from error
    return steps


def _advice(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"Install {error.name} where the workers run, or bring it into the project's folder."
    if isinstance(error, NameError) and "__file__" in str(error):
        return "Job code has no __file__: it runs where the project's files are not. Give data as a history or a parameter."
    return "Let the module do at import only what works on any machine."


class _Unpickler(pickle.Unpickler):
    """Reads a payload in the program of the modules that came with it.

    Parameters
    ----------
    stream : io.BytesIO
        The payload.
    program : Program
        The carried modules.
    """

    def __init__(self, stream: io.BytesIO, program: Program) -> None:
        super().__init__(stream)
        self._program = program

    def persistent_load(self, pid: Any) -> Any:
        """Find what was named in own modules."""
        match pid:
            case ("builtins",):
                return self._program.builtins
            case ("importlib",):
                return self._program.importlib
            case ("import_module",):
                return self._program.import_module
            case ("module", name):
                return self._program.load(name)
            case ("namespace", name):
                return self._program.load(name).__dict__
            case ("name", name, qualified_name, step):
                return resolve(self._program.load(name), qualified_name, step)
        raise pickle.UnpicklingError(f"unknown reference {pid!r}")


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Callable[..., Any]:
    made: Callable[..., Any] = functools.lru_cache(**parameters)(function)
    return made


def _made_function(
    builtins: dict[str, Any], code: types.CodeType, names: dict[str, Any], cells: tuple[Any, ...] | None
) -> types.FunctionType:
    # Before the function is made: it keeps the builtins that its globals have at that moment.
    names.setdefault("__builtins__", builtins)
    return types.FunctionType(code, names, None, None, cells)


def _fill_function(function: types.FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    attributes, slots = state
    function.__dict__.update(attributes)
    function.__globals__.update(slots["__globals__"])
    for cell, filled in zip(function.__closure__ or (), slots["__closure__"] or (), strict=True):
        try:
            cell.cell_contents = filled.cell_contents
        except ValueError:
            continue  # it was empty when it was packed
    for name in (
        "__name__",
        "__qualname__",
        "__annotations__",
        "__kwdefaults__",
        "__defaults__",
        "__module__",
        "__doc__",
    ):
        setattr(function, name, slots[name])
