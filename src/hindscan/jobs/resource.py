"""Files of the project as job code opens them: `hs.resource`.

Keeps promise 7 for what a function reads beside its histories: in a job only files that its ``depends=`` names are there, as they were when its digest was taken,
on every machine. Outside of a job (a test or a notebook that calls the function itself) the project's own file is meant.

::

    hs.resource("tables/rates.csv") -> the program whose code asks -> its folder on this machine -> Path
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Final

from hindscan.errors import JobDefinitionError
from hindscan.jobs.modules import is_installed
from hindscan.jobs.program import program_in

__all__ = ["resource"]

_PROJECT_FILE: Final = "hindscan.toml"


def resource(name: str) -> Path:
    """Give the path of a file of the project, wherever the job runs.

    Parameters
    ----------
    name : str
        Path relative to the project file: one that ``depends=`` of the job names, or a folder of such files.

    Returns
    -------
    Path
        A copy, to be read only.

    Raises
    ------
    hindscan.errors.JobDefinitionError
        ``depends=`` does not name it.
    """
    here = inspect.currentframe()
    frame = None if here is None else here.f_back
    assert frame is not None, "CPython has frames"
    program = program_in(frame.f_builtins)
    if program is not None:
        return program.resource(name)
    if is_installed(frame.f_code.co_filename):
        # A pool of threads, or a library that was given this function: whose files it asks for cannot be told.
        raise JobDefinitionError(
            f"Opening {name!r}: `hs.resource` must be called by the job's own code, and was called by {frame.f_code.co_filename}. "
            "Call it first, and pass on the path."
        )
    folder = Path.cwd()
    root = next((one for one in (folder, *folder.parents) if (one / _PROJECT_FILE).is_file()), folder)
    path = root / name
    if not path.exists():
        raise JobDefinitionError(
            f"Opening {name!r}: a file of the project must be there; {path} is not. Give the path relative to {_PROJECT_FILE}.",
            path=str(path),
        )
    return path
