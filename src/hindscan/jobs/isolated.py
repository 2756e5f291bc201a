"""Jobs with requirements of their own: inline metadata of a script, an environment made of it, and code that only runs there.

Keeps promises 7, 8 and 12 for files with inline script metadata. What a file requires is resolved once and kept beside it (``NAME.py.lock``), so that every
later run, on every machine, has the same versions; the lock is part of the digest. The environment is made by uv under a name that is the digest of the lock,
and is shared by all that have the same. Its packages stand before those of the project on the path: hindscan and what it needs come in the project's versions,
and a file that asks for others of these is refused when it is resolved. Nothing of such a file is ever imported where hindscan was started.

::

    jobs/NAME.py with `# /// script` -> environment_of (NAME.py.lock) -> ensured: the interpreter -> loaded there -> wrapped: JobSpec + Code
    Code -> environment_in -> tasks.isolated: perform, there -> unwrapped -> jobs.code.load
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec

from hindscan.errors import CodeLoadError, JobDefinitionError
from hindscan.jobs.digest import digest_of
from hindscan.jobs.job import Code, JobSpec

__all__ = [
    "FORM",
    "Environment",
    "ensured",
    "environment_in",
    "environment_of",
    "inside",
    "is_isolated",
    "project_paths",
    "unwrapped",
    "wrapped",
]

#: First word of the payload of such code.
FORM: Final = b"isolated"
#: Raised when the way an environment is made, or used, changes meaning.
_MEANING: Final = 1
#: A block of inline script metadata, as its specification (PEP 723) has it.
_BLOCK: Final = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
#: File of an environment that is whole; it holds the lock.
_WHOLE: Final = "hindscan-requirements.txt"
_PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What an interpreter has beside hindscan."""

    #: Exact versions with hashes, as pip reads them.
    requirements: str
    python: str

    @property
    def digest(self) -> str:
        """Equal where the same files are installed."""
        return digest_of([_MEANING, self.requirements, self.python])


class _Metadata(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    requires_python: str = ""
    dependencies: list[str] = []


# What a file requires --------------------------------------------------------------------------------------------


def is_isolated(source: str) -> bool:
    """Say whether a file has inline metadata of its own."""
    return any(found["type"] == "script" for found in _BLOCK.finditer(source))


def inside() -> bool:
    """Say whether this interpreter is that of such an environment."""
    return (Path(sys.prefix) / _WHOLE).exists()


def environment_of(file: Path) -> Environment:
    """Give the environment of a job file: as locked beside it, or resolved and locked now.

    Raises
    ------
    hindscan.errors.JobDefinitionError
        The metadata is none, asks for another Python, or cannot be resolved.
    """
    source = file.read_text(encoding="utf-8")
    metadata = _metadata(source)
    _check_python(metadata.requires_python)
    constraints = _constraints()
    asked = hashlib.sha256(msgspec.json.encode([metadata, _PYTHON, constraints])).hexdigest()
    head = f"# Resolved by hindscan for Python {_PYTHON}; keep it beside the job. Asked: {asked}\n"
    lock = file.with_name(f"{file.name}.lock")
    with contextlib.suppress(FileNotFoundError):
        known = lock.read_text(encoding="utf-8")
        if known.startswith(head):
            return Environment(requirements=known.removeprefix(head), python=_PYTHON)
    with tempfile.TemporaryDirectory(prefix="hindscan-resolve-") as folder:
        wanted, pinned, made = (Path(folder) / name for name in ("requirements.in", "constraints.txt", "made.txt"))
        wanted.write_text("\n".join(metadata.dependencies) + "\n", encoding="utf-8")
        pinned.write_text("\n".join(constraints) + "\n", encoding="utf-8")
        if lock.exists():
            shutil.copy(lock, made)  # what still fits stays
        command = ["pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]
        command += ["--no-emit-index-url", "--python", sys.executable, "--python-version", _PYTHON]
        command += ["--constraints", str(pinned), "--output-file", str(made), str(wanted)]
        done = _uv(command, doing="Resolving what the job requires")
        if done.returncode:
            raise JobDefinitionError(
                f"Resolving what the job requires: {', '.join(metadata.dependencies)} must be there together, with the versions that hindscan has in this "
                f"project, and cannot be:\n{done.stderr.strip()}\nChange dependencies in the file's `# /// script` block."
            )
        requirements = made.read_text(encoding="utf-8")
    try:
        fresh = lock.with_name(f".{lock.name}-{os.getpid()}")
        fresh.write_text(head + requirements, encoding="utf-8")
        fresh.replace(lock)
    except OSError as error:
        raise JobDefinitionError(
            f"Keeping what was resolved for the job: {lock.name} must be written beside it, and cannot be: {error}. "
            "Run `hindscan jobs` once where the project can be written, and bring the file along."
        ) from error
    return Environment(requirements=requirements, python=_PYTHON)


def _metadata(source: str) -> _Metadata:
    blocks = [found for found in _BLOCK.finditer(source) if found["type"] == "script"]
    if len(blocks) > 1:
        raise JobDefinitionError(
            "Reading the file's inline metadata: there must be one `# /// script` block, and there are several. Join them."
        )
    lines = blocks[0]["content"].splitlines()
    text = "\n".join(line[2:] if line.startswith("# ") else line[1:] for line in lines)
    try:
        return msgspec.convert(tomllib.loads(text), _Metadata)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise JobDefinitionError(
            f"Reading the file's inline metadata: its `# /// script` block must be TOML with requires-python and dependencies, and is not: {error}. "
            "Correct the block."
        ) from error


def _check_python(required: str) -> None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    version = ".".join(map(str, sys.version_info[:3]))
    try:
        fits = SpecifierSet(required).contains(version, prereleases=True)
    except InvalidSpecifier as error:
        raise JobDefinitionError(
            f"Reading the file's inline metadata: requires-python must be a version specifier, and is {required!r} ({error}). Correct it."
        ) from error
    if not fits:
        raise JobDefinitionError(
            f"Making the job's environment: it has the Python of the project, because hindscan runs in it, too; the file requires {required}, and this is "
            f"{version}. Run the project with another Python, or change requires-python."
        )


@functools.cache
def _constraints() -> tuple[str, ...]:
    """Pin what hindscan itself imports: in a job's process there can be one version of it."""
    wanted = [text for text in importlib.metadata.requires("hindscan") or () if "extra ==" not in text]
    names = sorted({match[0] for text in wanted if (match := re.match(r"[A-Za-z0-9._-]+", text))})
    return tuple(f"{name}=={importlib.metadata.version(name)}" for name in names)


# The environment -------------------------------------------------------------------------------------------------


def ensured(environment: Environment) -> Path:
    """Give the interpreter of an environment, which is made if it is not there.

    Raises
    ------
    hindscan.errors.CodeLoadError
        It cannot be made here.
    """
    above = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hindscan" / "environments"
    folder = above / environment.digest[:40]
    python = folder / "bin" / "python"
    if (folder / _WHOLE).exists():
        return python
    if environment.python != _PYTHON:
        raise CodeLoadError(
            f"Making the job's environment: it was resolved for Python {environment.python}, and this is {_PYTHON}. Run workers with the project's Python."
        )
    try:
        above.mkdir(parents=True, exist_ok=True)
        with (above / f"{folder.name}.making").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if not (folder / _WHOLE).exists():
                _make(environment, folder, python)
    except OSError as error:
        raise CodeLoadError(
            f"Making the job's environment: {above} must be writable, and is not: {error}. Set XDG_CACHE_HOME to a folder that is."
        ) from error
    return python


def _make(environment: Environment, folder: Path, python: Path) -> None:
    requirements = folder.with_suffix(".txt")
    requirements.write_text(environment.requirements, encoding="utf-8")
    commands = [["venv", "--quiet", "--clear", "--no-project", "--python", sys.executable, str(folder)]]
    if environment.requirements.strip():
        commands.append(
            [
                "pip",
                "install",
                "--quiet",
                "--python",
                str(python),
                "--no-deps",
                "--require-hashes",
                "-r",
                str(requirements),
            ]
        )
    for command in commands:
        done = _uv(command, doing="Making the job's environment")
        if done.returncode:
            raise CodeLoadError(
                f"Making the job's environment: what its lock names must be installable here, and is not:\n{done.stderr.strip()}\n"
                "Give this machine a way to the packages, or delete the job's .lock file to have it resolved again."
            )
    requirements.replace(folder / _WHOLE)


def _uv(arguments: list[str], *, doing: str) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise CodeLoadError(
            f"{doing}: a file with a `# /// script` block needs uv, and neither this Python's folder nor PATH has it. Run: pip install 'hindscan[isolated]'."
        )
    # Settings of a project that happens to lie around are not the job's; those in the environment are the machine's.
    return subprocess.run(
        [uv, "--no-config", *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def project_paths() -> list[str]:
    """Give the folders of the project's packages, which stand behind those of an environment."""
    return [path for path in sys.path if {"site-packages", "dist-packages"} & set(Path(path).parts)]


# Code that runs there --------------------------------------------------------------------------------------------


class _Wrapped(msgspec.Struct, frozen=True, kw_only=True):
    environment: Environment
    inner: Code


def wrapped(environment: Environment, spec: JobSpec, code: Code) -> tuple[JobSpec, Code]:
    """Turn a job as it was loaded in its environment into one that everybody can hold, and only the environment can run."""
    digest = digest_of([_MEANING, code.digest, environment.digest])
    steps: dict[str, Any] = {
        name: msgspec.structs.replace(step, digest=digest_of([_MEANING, step.digest, environment.digest]))
        for name, step in spec.steps.items()
    }
    joined = {name: wrapped(environment, spec.joins[name], inner) for name, inner in code.joins.items()}
    content = msgspec.msgpack.encode(_Wrapped(environment=environment, inner=code))
    payload = FORM + f" {_MEANING}\n".encode() + content
    joins = {name: code for name, (_, code) in joined.items()}
    made = Code(digest=digest, modules={}, payload=payload, joins=joins)
    return msgspec.structs.replace(
        spec, steps=steps, joins={name: spec for name, (spec, _) in joined.items()}, code=digest
    ), made


def _opened(code: Code) -> _Wrapped | None:
    form, _, content = code.payload.partition(b"\n")
    if form != FORM + f" {_MEANING}".encode():
        return None
    return msgspec.msgpack.decode(content, type=_Wrapped)


def environment_in(code: Code) -> Environment | None:
    """Give the environment that code needs and this interpreter is not; None where it runs here."""
    opened = None if inside() else _opened(code)
    return None if opened is None else opened.environment


def unwrapped(code: Code) -> Code:
    """Give the code as it was loaded in its environment.

    Raises
    ------
    hindscan.errors.CodeLoadError
        This interpreter is of no such environment.
    """
    opened = _opened(code)
    if opened is None or not inside():
        raise CodeLoadError(
            f"Loading the job's code {code.digest[:12]}: it runs only in the environment that its file requires, and this is {sys.prefix}. "
            "Run it with `hindscan run` or `hs.run`, and workers with the version of hindscan that the project has."
        )
    return opened.inner
